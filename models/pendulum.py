r"""Gymnasium's Pendulum-v1 as a differentiable model: swing up with too little torque, then balance.

The state is (theta, theta_dot), theta = 0 upright, in radians and radians per second; the action is a torque u of at
most 2 newton metres. A rod of 1 kg and 1 m, Euler steps of dt = 0.05 s, speeds clipped to 8:

    theta_dot' = clip(theta_dot + dt (3 g / (2 l) sin(theta) + 3 / (m l^2) clip(u, 2)), 8)
    theta'     = theta + dt theta_dot'
    r(theta, theta_dot, u) = -(wrapped(theta)^2 + 0.1 theta_dot^2 + 0.001 clip(u, 2)^2)

which is, to rounding, what a step of the environment does (the environment shows cos, sin and speed instead of the
angle: `observation = (cos(theta), sin(theta), theta_dot)`). The angle is not wrapped in the state, only in the reward.

Known answers. Hanging at rest, the least cost of 200 steps at temperature 0 is 295.3: a plan attains it, and dynamic
programming on grids of 200, 400 and 800 angles comes down to it (306, 301, 298). Upright at rest it is 0. A free
pendulum keeps its energy theta_dot^2 / 2 + 3 g / (2 l) cos(theta) up to the order of dt. The torque that holds an
angle is -(m g l / 2) sin(theta): 2 newton metres hold 23.6 degrees at most, so that the way up leads through several
swings.

What derivatives see. The clip of the torque has slope 1 up to and including the limit and 0 beyond: a method that
keeps to the bounded action space never meets the zero. The clip of the speed has slope 0 beyond 8, which a swing-up
from rest does not reach (a fall from upright ends at 7.75). The wrapped angle has slope 1 everywhere and a jump of its
square's slope when hanging: there the reward of Pendulum-v1 has a kink, and derivatives are those of one side.
`smooth=True` puts 2 (1 - cos(theta)) in the place of the squared angle: equal to fourth order when upright, smooth
everywhere, and flat when hanging, so that a method that follows derivatives needs a first guess other than zero torque.

Source: Towers et al. (2024), the environment Pendulum-v1.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import cai

STEP, LENGTH, MASS = 0.05, 1.0, 1.0
MAX_TORQUE, MAX_SPEED = 2.0, 8.0
HANGING = (math.pi, 0.0)


def build(
    *,
    start: Any = HANGING,
    gravity: float = 10.0,
    smooth: bool = False,
    noise: float = 0.0,
    horizon: int | None = 50,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the pendulum: states `[2]`, actions `[1]`.

    Args:
        start: (theta, theta_dot) at the start, `[2]`, or `[N, 2]` of N pendulums; hanging at rest by default.
        gravity: Acceleration g, metres per second squared; gymnasium's 10 by default.
        smooth: Reward the cosine of the angle instead of its wrapped square, which is gymnasium's.
        noise: Standard deviation of a random push to the speed in each step, radians per second; 0 as in gymnasium.
        horizon: Number of steps of 0.05 s; Pendulum-v1 ends after 200.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A start that is not `[2]` or `[N, 2]`, gravity or noise that is not finite, a negative noise.
    """
    start = torch.as_tensor(np.asarray(start, dtype=float))
    if start.shape[-1:] != (2,):
        raise ValueError(f"pendulum: start must be (theta, theta_dot), [2] or [N, 2], got {list(start.shape)}")
    if not math.isfinite(gravity):
        raise ValueError(f"pendulum: gravity must be finite, got {gravity}")
    if not 0.0 <= noise < math.inf:
        raise ValueError(f"pendulum: noise is a standard deviation of at least 0, got {noise}")

    def following(state: Tensor, action: Tensor) -> Tensor:
        """Gives the next state, `[..., 2]`."""
        torque = action[..., 0].clamp(-MAX_TORQUE, MAX_TORQUE)
        pull = 3.0 * gravity / (2.0 * LENGTH) * state[..., 0].sin() + 3.0 / (MASS * LENGTH**2) * torque
        speed = (state[..., 1] + STEP * pull).clamp(-MAX_SPEED, MAX_SPEED)
        return torch.stack([state[..., 0] + STEP * speed, speed], -1)

    push = noise * torch.tensor([STEP, 1.0], dtype=torch.float64)  # a push moves the angle within its step, too
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(start),
        dynamics=cai.factors.DifferentiableDynamics(
            following, torch.outer(push, push) if noise else None, state_size=2, action_size=1
        ),
        reward=cai.factors.FunctionReward(_smooth_reward if smooth else _reward),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        action_space=gymnasium.spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float64),
    )


def _reward(state: Tensor, action: Tensor) -> Tensor:
    """Gives the reward of Pendulum-v1, `[...]`."""
    wrapped = torch.remainder(state[..., 0] + math.pi, 2.0 * math.pi) - math.pi
    return -(wrapped.square() + _effort(state, action))


def _smooth_reward(state: Tensor, action: Tensor) -> Tensor:
    """Gives the reward with 2 (1 - cos) for the squared angle, `[...]`."""
    return -(2.0 - 2.0 * state[..., 0].cos() + _effort(state, action))


def _effort(state: Tensor, action: Tensor) -> Tensor:
    torque = action[..., 0].clamp(-MAX_TORQUE, MAX_TORQUE)
    return 0.1 * state[..., 1].square() + 0.001 * torque.square()
