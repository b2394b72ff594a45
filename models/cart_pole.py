r"""A pole on a cart, after gymnasium's CartPole-v1, with a continuous force: swing up, or balance.

The state is (x, x_dot, theta, theta_dot) in metres, radians and seconds, theta = 0 upright; the action is the force F
on the cart, in newtons, at most `max_force` = 10, which is the force of CartPole-v1. Cart M = 1 kg, pole m = 0.1 kg
of half length l = 0.5 m, g = 9.8, Euler steps of dt = 0.02 s:

    f        = (F + m l theta_dot^2 sin(theta)) / (M + m)
    theta_dd = (g sin(theta) - cos(theta) f) / (l (4/3 - m cos(theta)^2 / (M + m)))
    x_dd     = f - m l theta_dd cos(theta) / (M + m)
    (x, x_dot, theta, theta_dot)' = (x + dt x_dot, x_dot + dt x_dd, theta + dt theta_dot, theta_dot + dt theta_dd)

    r = -dt (x^2 + 2 theta^2 + 0.1 x_dot^2 + 0.1 theta_dot^2 + 0.01 F^2)

With F = -10 or 10 a step is that of the environment, to rounding. The reward is none of gymnasium's, which is 1 a
step until the pole has fallen; neither does the episode end there: derivatives see nothing of a threshold. `start=(0,
0, 0.05, 0)` is the task of balancing, for which CartPole-v1 counts a pole beyond 12 degrees and a cart beyond 2.4 m
as lost. The angle counts as it is, not modulo a full turn, so that hanging, pi, is a place to get away from and not a
stationary point as it is of a cosine. The terminal reward is `end` seconds of the reward without force.

Known answers. Upright and hanging at rest are equilibria without force, worth 0 and -2 pi^2 dt a step. In continuous
time and without force the energy (M + m) x_dot^2 / 2 + m l x_dot theta_dot cos(theta) + (2/3) m l^2 theta_dot^2 +
m g l cos(theta) stays as it is; the explicit Euler steps of the environment gain energy of the order of dt. The linear
model at the upright has one eigenvalue above 1: 1 + dt sqrt(g / (l (4/3 - m / (M + m)))) = 1.0794.

Source: Barto, Sutton and Anderson (1983); Towers et al. (2024), the environment CartPole-v1.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import cai

STEP, GRAVITY = 0.02, 9.8
MASS_OF_CART, MASS_OF_POLE, HALF_LENGTH = 1.0, 0.1, 0.5
HANGING = (0.0, 0.0, math.pi, 0.0)


def build(
    *,
    start: Any = HANGING,
    max_force: float = 10.0,
    end: float = 2.0,
    noise: float = 0.0,
    horizon: int | None = 100,
    discount: float = 1.0,
    temperature: float = 0.1,
) -> cai.TrajectoryGraph:
    """Builds the cart and its pole: states `[4]`, actions `[1]`.

    Args:
        start: (x, x_dot, theta, theta_dot) at the start, `[4]`, or `[N, 4]` of N carts; hanging at rest by default.
        max_force: The greatest force, newtons; what lies beyond is clipped.
        end: The terminal reward is that of so many seconds in the last state; 0 for none.
        noise: Standard deviation of a random push to either speed in each step, metres and radians per second.
        horizon: Number of steps of 0.02 s.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A start that is not `[4]` or `[N, 4]`; a force that is not positive; a negative noise or end.
    """
    start = torch.as_tensor(np.asarray(start, dtype=float))
    if start.shape[-1:] != (4,):
        raise ValueError(
            f"cart_pole: start must be (x, x_dot, theta, theta_dot), [4] or [N, 4], got {list(start.shape)}"
        )
    if not 0.0 < max_force < math.inf:
        raise ValueError(f"cart_pole: max_force must be a positive number of newtons, got {max_force}")
    if not 0.0 <= noise < math.inf:
        raise ValueError(f"cart_pole: noise is a standard deviation of at least 0, got {noise}")
    if not 0.0 <= end < math.inf:
        raise ValueError(f"cart_pole: end is a number of seconds of at least 0, got {end}")

    def following(state: Tensor, action: Tensor) -> Tensor:
        """Gives the next state, `[..., 4]`."""
        force = action[..., 0].clamp(-max_force, max_force)
        return state + STEP * _rate(state, force)

    def reward(state: Tensor, action: Tensor) -> Tensor:
        """Gives the reward of a step, `[...]`."""
        return -STEP * (_distance(state) + 0.01 * action[..., 0].clamp(-max_force, max_force).square())

    pushes = noise**2 * torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64))
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(start),
        dynamics=cai.factors.DifferentiableDynamics(following, pushes if noise else None, state_size=4, action_size=1),
        reward=cai.factors.FunctionReward(reward),
        terminal_reward=cai.factors.FunctionReward(lambda state: -end * _distance(state)) if end else None,
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        action_space=gymnasium.spaces.Box(-max_force, max_force, (1,), np.float64),
    )


def _rate(state: Tensor, force: Tensor) -> Tensor:
    """Gives the rate of change of the state, `[..., 4]`."""
    _, x_dot, theta, theta_dot = state.unbind(-1)
    total, moment = MASS_OF_CART + MASS_OF_POLE, MASS_OF_POLE * HALF_LENGTH
    pushed = (force + moment * theta_dot.square() * theta.sin()) / total
    lever = HALF_LENGTH * (4.0 / 3.0 - MASS_OF_POLE * theta.cos().square() / total)
    turning = (GRAVITY * theta.sin() - theta.cos() * pushed) / lever
    moving = pushed - moment * turning * theta.cos() / total
    return torch.stack(torch.broadcast_tensors(x_dot, moving, theta_dot, turning), -1)


def _distance(state: Tensor) -> Tensor:
    """How far from rest in the middle with the pole upright, `[...]`: a cost per second."""
    x, x_dot, theta, theta_dot = state.unbind(-1)
    return x.square() + 2.0 * theta.square() + 0.1 * (x_dot.square() + theta_dot.square())
