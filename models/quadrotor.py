r"""A planar quadrotor: hover, go to a place, or get back on its feet.

The state is (x, y, theta, x_dot, y_dot, theta_dot) in metres, radians and seconds, theta = 0 upright, y upwards; the
action is the thrust of the left and the right rotor, (u_1, u_2), newtons, each between 0 and `max_thrust`. With mass
m = 0.486 kg, moment of inertia I = 0.00383 kg m^2, arms of l = 0.25 m and g = 9.81,

    m x_dd = -(u_1 + u_2) sin(theta)      m y_dd = (u_1 + u_2) cos(theta) - m g      I theta_dd = l (u_2 - u_1)

stepped by one step of the classical Runge-Kutta rule, thrusts constant over dt = 0.025 s. The reward of a step is

    r = -dt (|p - goal|^2 + theta^2 + 0.1 |p_dot|^2 + 0.1 theta_dot^2 + 0.05 |u - m g / 2|^2)

and the terminal reward `end` seconds of the reward of hovering in the last state. The tilt counts as it is, not
modulo a full turn: with a cosine in its place, every number of turns on the way would be a local optimum of its own.

Known answers. u_1 = u_2 = m g / 2 = 2.3838 keeps any upright state at rest; hovering at the goal is worth exactly 0,
the most there is. Equal thrusts F / 2 move it along y with acceleration F / m - g, a parabola that the rule
integrates exactly. The linear model at hover is controllable, and its best gain solves a discrete algebraic Riccati
equation.

Source: Tedrake (2023), chapter 3 (the planar quadrotor and its numbers).
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import cai

STEP, GRAVITY = 0.025, 9.81
MASS, INERTIA, ARM = 0.486, 0.00383, 0.25
HOVER = MASS * GRAVITY / 2.0


def build(
    *,
    start: Any = (-1.0, -0.5, 0.0, 0.0, 0.0, 0.0),
    goal: tuple[float, float] = (0.0, 0.0),
    max_thrust: float = 2.0 * HOVER,
    end: float = 2.0,
    noise: float = 0.0,
    horizon: int | None = 60,
    discount: float = 1.0,
    temperature: float = 0.01,
) -> cai.TrajectoryGraph:
    """Builds the quadrotor: states `[6]`, actions `[2]`.

    Args:
        start: (x, y, theta, x_dot, y_dot, theta_dot) at the start, `[6]`, or `[N, 6]` of N quadrotors.
        goal: (x, y) of the place to hover at, metres.
        max_thrust: The greatest thrust of a rotor, newtons; what lies outside 0 .. max_thrust is clipped.
        end: The terminal reward is that of so many seconds in the last state; 0 for none.
        noise: Standard deviation of a gust to each speed in each step, metres and radians per second.
        horizon: Number of steps of 0.025 s.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A start that is not `[6]` or `[N, 6]`, a goal that is not two finite numbers, rotors too weak to
            hover, a negative noise or end.
    """
    start = torch.as_tensor(np.asarray(start, dtype=float))
    if start.shape[-1:] != (6,):
        raise ValueError(
            f"quadrotor: start must be (x, y, theta and their speeds), [6] or [N, 6], got {list(start.shape)}"
        )
    if len(goal) != 2 or not all(math.isfinite(part) for part in goal):
        raise ValueError(f"quadrotor: goal must be two finite numbers, got {goal}")
    if not HOVER < max_thrust < math.inf:
        raise ValueError(f"quadrotor: max_thrust must be above {HOVER:.4f} newtons, or it falls; got {max_thrust}")
    if not 0.0 <= noise < math.inf:
        raise ValueError(f"quadrotor: noise is a standard deviation of at least 0, got {noise}")
    if not 0.0 <= end < math.inf:
        raise ValueError(f"quadrotor: end is a number of seconds of at least 0, got {end}")

    def following(state: Tensor, action: Tensor) -> Tensor:
        """Gives the next state, `[..., 6]`, by a step of Runge and Kutta."""
        thrusts = action.clamp(0.0, max_thrust)
        k1 = _rate(state, thrusts)
        k2 = _rate(state + 0.5 * STEP * k1, thrusts)
        k3 = _rate(state + 0.5 * STEP * k2, thrusts)
        k4 = _rate(state + STEP * k3, thrusts)
        return state + STEP / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    def reward(state: Tensor, action: Tensor) -> Tensor:
        """Gives the reward of a step, `[...]`."""
        effort = (action.clamp(0.0, max_thrust) - HOVER).square().sum(-1)
        return -STEP * (_distance(state, goal) + 0.05 * effort)

    gusts = noise**2 * torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(start),
        dynamics=cai.factors.DifferentiableDynamics(following, gusts if noise else None, state_size=6, action_size=2),
        reward=cai.factors.FunctionReward(reward),
        terminal_reward=cai.factors.FunctionReward(lambda state: -end * _distance(state, goal)) if end else None,
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        action_space=gymnasium.spaces.Box(0.0, max_thrust, (2,), np.float64),
    )


def _rate(state: Tensor, thrusts: Tensor) -> Tensor:
    """Gives the rate of change of the state, `[..., 6]`."""
    theta, total = state[..., 2], thrusts.sum(-1)
    across, up = -total * theta.sin() / MASS, total * theta.cos() / MASS - GRAVITY
    turning = ARM / INERTIA * (thrusts[..., 1] - thrusts[..., 0])
    return torch.stack(torch.broadcast_tensors(*state[..., 3:].unbind(-1), across, up, turning), -1)


def _distance(state: Tensor, goal: tuple[float, float]) -> Tensor:
    """How far from hovering at the goal, `[...]`: a cost per second."""
    x, y, theta, x_dot, y_dot, theta_dot = state.unbind(-1)
    away = (x - goal[0]).square() + (y - goal[1]).square()
    return away + theta.square() + 0.1 * (x_dot.square() + y_dot.square() + theta_dot.square())
