r"""A point in the plane with four goals: the task whose soft-optimal policy has several modes.

The state is a position in the square [-7, 7]^2, the action a velocity in [-1, 1]^2. Walls stop the point:

    s' = clip(s + clip(a, 1), 7)
    r(s, a) = -(effort |a|^2 + distance |s' - nearest goal|^2) + goal_reward [|s' - nearest goal| < 1]

The goals are (5, 0), (-5, 0), (0, 5), (0, -5). An episode starts near the origin, from N(0, spread^2), and ends at a
distance below 1 from a goal.

Known answers, with the uniform action prior. Everything is symmetric under the eight turns and reflections of the
square, Q(0, a) among it: from the origin the soft-optimal policy goes to all four goals equally often. At the default
temperature of 10 reward units and discount .99, soft value iteration on lattices of 1/4, 1/8 and 1/16 gives V(0) =
-229.0, -226.7 and -225.7. The density of the policy at the origin has its four modes at the full speeds (1, 0), (-1,
0), (0, 1), (0, -1), 31.5 times that of standing still and 5.6 times the highest on the diagonals between them (on the
lattice of 1/16). At temperature 0, V(0) = -111.9 and -110.2 on lattices of 1/4 and 1/8, and the best first velocities
are about (.9, 0) and its images.

A learner of unimodal policies finds one goal, or goes nowhere.

Source: Haarnoja, Tang, Abbeel and Levine (2017), section 5.1, with the constants of their published code; temperature
10 is their reward scale of 0.1.
"""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import Distribution

import cai

GOALS = ((5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0))
WALL, MAX_SPEED, REACHED = 7.0, 1.0, 1.0


def build(
    *,
    spread: float = 0.1,
    effort: float = 30.0,
    distance: float = 1.0,
    goal_reward: float = 10.0,
    horizon: int | None = 30,
    discount: float = 0.99,
    temperature: float = 10.0,
) -> cai.TrajectoryGraph:
    """Builds the point mass: states `[2]`, actions `[2]`, float32.

    Args:
        spread: Standard deviation of the start about the origin, in each coordinate; 0 starts there.
        effort: What a squared unit of velocity costs, reward units.
        distance: What a squared unit of distance to the nearest goal costs, reward units.
        goal_reward: What arriving is worth, reward units.
        horizon: Number of steps after which an episode is cut off; None for no end but a goal.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A spread or cost that is negative or infinite, or a goal reward that is not finite.
    """
    for name, value in (("spread", spread), ("effort", effort), ("distance", distance)):
        if not 0.0 <= value < math.inf:
            raise ValueError(f"multi_goal: {name} must be a finite number of at least 0, got {value}")
    if not math.isfinite(goal_reward):
        raise ValueError(f"multi_goal: goal_reward must be finite, got {goal_reward}")

    def reward(state: Tensor, action: Tensor) -> Tensor:
        """Gives r(s, a), `[...]`."""
        apart = _to_nearest_goal(_moved(state, action))
        costs = effort * _clipped(action).square().sum(-1) + distance * apart.square()
        return torch.where(apart < REACHED, goal_reward, 0.0).to(costs) - costs

    return cai.TrajectoryGraph(
        initial=cai.factors.Gaussian(np.zeros(2), spread**2 * np.eye(2), dtype=torch.float32),
        dynamics=MultiGoalDynamics(),
        reward=cai.factors.FunctionReward(reward),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        state_space=gymnasium.spaces.Box(-WALL, WALL, (2,), np.float32),
        action_space=gymnasium.spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32),
    )


class MultiGoalDynamics:
    """Moves the point, without noise."""

    def __call__(self, state: Tensor, action: Tensor) -> Distribution:
        """Gives p(s' | s, a), a point mass on `[..., 2]`."""
        return Delta(_moved(state, action), event_dim=1)

    def terminal(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Says whether a goal is reached: `[...]`, bool."""
        return _to_nearest_goal(next_state) < REACHED


def _clipped(action: Tensor) -> Tensor:
    return action.clamp(-MAX_SPEED, MAX_SPEED)


def _moved(state: Tensor, action: Tensor) -> Tensor:
    return (state + _clipped(action)).clamp(-WALL, WALL)


def _to_nearest_goal(state: Tensor) -> Tensor:
    """Distance of positions `[..., 2]` to the nearest goal, `[...]`."""
    return (state[..., None, :] - torch.tensor(GOALS).to(state)).norm(dim=-1).amin(-1)
