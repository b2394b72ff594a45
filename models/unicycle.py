r"""A unicycle that drives to a goal around circular obstacles.

The state is (x, y, theta), metres and radians; the action is (v, omega), metres and radians per second. Euler steps of
dt = 0.1 s:

    (x, y, theta)' = (x + dt v cos(theta), y + dt v sin(theta), theta + dt omega)
    r = -(w_s |s - goal|^2 + w_a |a|^2) / 2 - sum over obstacles of penalty(1 - |p - centre|^2 / radius^2),
    penalty(d) = height softplus(d / softness) softness,    terminal reward -w_T |s - goal|^2 / 2

Speeds are clipped to their bounds. An obstacle is soft: its penalty rises smoothly from nothing outside to about
`height` in the middle. A heading counts as it is, not modulo a full turn. Without obstacles (`obstacles=()`) and
bounds (`max_speed=None`) this is the action model `ActionModelUnicycle` of crocoddyl, whose weights are
`state_weight=100`, `action_weight=1` as it comes.

Known answers. At the goal, far from obstacles, doing nothing is worth 0, the most there is. A full turn at constant
speeds closes: n steps of omega = 2 pi / (n dt) drive a regular polygon of n sides. A unicycle cannot move sideways:
at the goal its linear model is not controllable, and no smooth state feedback, constant in time, parks it there; a
plan does.

Source: Brockett (1983) (no smooth feedback parks it); Mastalli et al. (2020) (crocoddyl and its unicycle).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import cai

STEP = 0.1
#: (x, y, radius) of the obstacles that stand between the start and the goal.
OBSTACLES = ((-1.2, -1.0, 0.45), (-0.6, 0.1, 0.35), (0.2, -0.9, 0.3))


def build(
    *,
    start: Any = (-2.0, -1.2, 0.0),
    goal: tuple[float, float, float] = (0.0, 0.0, 0.0),
    obstacles: Sequence[tuple[float, float, float]] = OBSTACLES,
    height: float = 10.0,
    softness: float = 0.1,
    state_weight: float = 0.1,
    action_weight: float = 0.1,
    terminal_weight: float = 100.0,
    max_speed: float | None = 1.5,
    max_turn: float | None = 3.0,
    horizon: int | None = 40,
    discount: float = 1.0,
    temperature: float = 0.01,
) -> cai.TrajectoryGraph:
    """Builds the unicycle: states `[3]`, actions `[2]`.

    Args:
        start: (x, y, theta) at the start, `[3]`, or `[N, 3]` of N unicycles.
        goal: (x, y, theta) to be at.
        obstacles: (x, y, radius) of each, metres; empty for none.
        height: The penalty of a step in the middle of an obstacle, reward units.
        softness: How far the penalty reaches across the border, in squared radii; positive.
        state_weight: w_s, reward units per squared metre (and squared radian).
        action_weight: w_a, reward units per squared unit of action.
        terminal_weight: w_T, as w_s; 0 for no terminal reward.
        max_speed: Bound of |v|, metres per second; None for none.
        max_turn: Bound of |omega|, radians per second; None for none.
        horizon: Number of steps of 0.1 s.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A start that is not `[3]` or `[N, 3]`, a goal that is not three finite numbers, an obstacle that is
            not (x, y, radius) with a positive radius, a softness or bound that is not positive, a negative weight.
    """
    start = torch.as_tensor(np.asarray(start, dtype=float))
    if start.shape[-1:] != (3,):
        raise ValueError(f"unicycle: start must be (x, y, theta), [3] or [N, 3], got {list(start.shape)}")
    if len(goal) != 3 or not all(math.isfinite(part) for part in goal):
        raise ValueError(f"unicycle: goal must be three finite numbers, got {goal}")
    for index, circle in enumerate(obstacles):
        if len(circle) != 3 or not all(math.isfinite(part) for part in circle) or circle[2] <= 0.0:
            raise ValueError(f"unicycle: obstacle {index} must be (x, y, radius) with a radius above 0, got {circle}")
    _check_numbers(
        positive={"softness": softness, "max_speed": max_speed, "max_turn": max_turn},
        weights={"height": height, "state": state_weight, "action": action_weight, "terminal": terminal_weight},
    )
    bounds = np.array([np.inf if bound is None else bound for bound in (max_speed, max_turn)])
    limit, target = torch.as_tensor(bounds), torch.tensor(goal, dtype=torch.float64)
    circles = torch.tensor(obstacles, dtype=torch.float64).reshape(-1, 3)

    def following(state: Tensor, action: Tensor) -> Tensor:
        """Gives the next state, `[..., 3]`."""
        theta, (speed, turn) = state[..., 2], clipped(action).unbind(-1)
        rates = torch.broadcast_tensors(speed * theta.cos(), speed * theta.sin(), turn)
        return state + STEP * torch.stack(rates, -1)

    def reward(state: Tensor, action: Tensor) -> Tensor:
        """Gives the reward of a step, `[...]`."""
        effort = 0.5 * action_weight * clipped(action).square().sum(-1)
        return -(0.5 * state_weight * _squared(state, target) + effort + penalty(state))

    def clipped(action: Tensor) -> Tensor:
        return action.clamp(-limit.to(action), limit.to(action))

    def penalty(state: Tensor) -> Tensor:
        centre, radius = circles[:, :2].to(state), circles[:, 2].to(state)
        depth = 1.0 - (state[..., None, :2] - centre).square().sum(-1) / radius.square()
        return height * softness * torch.nn.functional.softplus(depth / softness).sum(-1)

    def terminal(state: Tensor) -> Tensor:
        """Gives the terminal reward, `[...]`."""
        return -0.5 * terminal_weight * _squared(state, target)

    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(start),
        dynamics=cai.factors.DifferentiableDynamics(following, state_size=3, action_size=2),
        reward=cai.factors.FunctionReward(reward),
        terminal_reward=cai.factors.FunctionReward(terminal) if terminal_weight else None,
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        action_space=gymnasium.spaces.Box(-bounds, bounds, dtype=np.float64),
    )


def _squared(state: Tensor, target: Tensor) -> Tensor:
    return (state - target.to(state)).square().sum(-1)


def _check_numbers(*, positive: dict[str, float | None], weights: dict[str, float]) -> None:
    for name, value in positive.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"unicycle: {name} must be a positive number, got {value}")
    for name, value in weights.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"unicycle: the {name} weight must be a number of at least 0, got {value}")
