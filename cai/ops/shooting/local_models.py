"""Problems expanded around trajectories, all time steps and batch elements at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.shooting.backward_pass import LocalModel
from cai.ops.shooting.convexity import semidefinite
from cai.ops.shooting.layouts import layout_of
from cai.ops.shooting.problem import ShootingProblem, Trajectory, need_finite, step_numbers

#: Entries of a block of derivatives taken at once: bounds the memory of long horizons and large batches.
_BLOCK = 2**24


@dataclass(frozen=True)
class GaussNewton:
    """Iterative LQR: second derivatives of the dynamics are left out, those of the reward kept."""


@dataclass(frozen=True)
class SecondOrder:
    """Differential dynamic programming: second derivatives of the dynamics too.

    Convergence is quadratic near the optimum, for n times the derivatives; far from it H_uu is less often positive
    definite, and what makes up for it slows things down. With `below` the early iterations are those of `GaussNewton`.

    Attributes:
        below: Takes them for an element once a full step promises less than this, relative to max(1, |cost|).
    """

    below: float = math.inf

    def __post_init__(self) -> None:
        if not self.below > 0.0:
            raise ValueError(f"SecondOrder: below must be positive, got {self.below}")


def local_model(
    problem: ShootingProblem,
    trajectory: Trajectory,
    expansion: GaussNewton | SecondOrder,
    convex: Tensor | None = None,
    straight: Tensor | None = None,
) -> LocalModel:
    """Expands a problem around trajectories.

    Args:
        problem: The problem.
        trajectory: The trajectories.
        expansion: Which derivatives of the dynamics are used.
        convex: Elements, `[B]`, bool, for which the Hessian of each cost, jointly over (u, x), is to be made positive
            semi-definite.
        straight: Elements, `[B]`, bool, for which second derivatives of the dynamics are to be left out.

    Raises:
        NonFinite: A derivative is NaN or infinite: of what, at which time step of which batch element.
    """
    states, actions, limits = trajectory.states, trajectory.actions, problem.limits
    moves, slopes = _expanded(problem, states[:-1], actions)
    need_finite(moves, "the derivative of the dynamics")
    if trajectory.gaps is not None:
        moves[..., :-1, -1] = trajectory.gaps
    need_finite(slopes, "the derivative of the reward")
    last = problem.end.curvature(states[-1:], actions[-1:, ..., :0], step_numbers(states)[-1:])
    end = torch.cat([last.hessian.expand(1, *last.gradient.shape[1:], -1), last.gradient[..., None]], -1)
    need_finite(end, "the derivative of the terminal reward", first=problem.horizon)
    bends = None
    if isinstance(expansion, SecondOrder) and (straight is None or not straight.all()):
        bends = _Bends(problem, states, actions, straight).at
    if convex is not None and convex.any():
        for part in (slopes, end):
            part[:, convex, :, :-1] = semidefinite(part[:, convex, :, :-1])
    return LocalModel(
        layout=layout_of(states.shape[-1], actions.shape[-1]),
        moves=moves,
        slopes=slopes,
        end=end[0],
        discount=problem.discount,
        bends=bends,
        low=None if limits is None else limits.low - actions,
        high=None if limits is None else limits.high - actions,
    )


class _Bends:
    """Second derivatives of the dynamics, taken in blocks of time steps as the backward pass gets to them."""

    def __init__(self, problem: ShootingProblem, states: Tensor, actions: Tensor, straight: Tensor | None) -> None:
        self._problem, self._states, self._actions, self._straight = problem, states, actions, straight
        self._chosen: Tensor | None = None
        if straight is not None and straight.any() and problem.divisible:  # the others are not even asked for
            self._chosen = (~straight).nonzero()[:, 0]
            self._problem = problem.select(self._chosen)
            self._states, self._actions = states[:, self._chosen], actions[:, self._chosen]
        n, m = states.shape[-1], actions.shape[-1]
        self._length = max(1, _BLOCK // (self._states.shape[1] * n * (n + m) ** 2))
        self._steps = range(0)
        self._block: Tensor | None = None

    def at(self, t: int) -> Tensor | None:
        """Gives d2f/dw2 of step t, `[B, n, m + n, m + n]`, or None where they are zero."""
        if t not in self._steps:
            self._steps = range(max(0, t + 1 - self._length), t + 1)
            self._block = self._taken(slice(self._steps.start, self._steps.stop))
        if self._block is None:
            return None
        bend = self._block[t - self._steps.start]
        if self._straight is None:
            return bend
        whole = bend.new_zeros(len(self._straight), *bend.shape[1:])
        whole[~self._straight] = bend if self._chosen is not None else bend[~self._straight]
        return whole

    def _taken(self, part: slice) -> Tensor | None:
        times = torch.arange(part.start, part.stop, device=self._states.device)[:, None]
        block = self._problem.dynamics.second_derivatives(self._states[part], self._actions[part], times)
        if block is not None:
            need_finite(block, "the second derivative of the dynamics", first=part.start)
        return block


def _expanded(problem: ShootingProblem, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Takes first derivatives of the dynamics and both of the cost: the moves and slopes of a `LocalModel`."""
    n, m, (horizon, batch) = states.shape[-1], actions.shape[-1], states.shape[:2]
    layout = layout_of(n, m)
    moves = layout.empty(horizon, batch, n + 1, n + m + 1, like=states)
    slopes = layout.empty(horizon, batch, n + m, n + m + 1, like=states)
    moves[..., -1] = 0.0
    moves[..., n, :] = 0.0
    moves[..., n, -1] = 1.0
    length = max(1, _BLOCK // (batch * (n + m) ** 2))
    for first in range(0, horizon, length):  # for as many time steps at once as memory allows
        part = slice(first, first + length)
        block = (states[part], actions[part], step_numbers(states)[part])
        of_dynamics, of_cost = problem.dynamics.jacobians(*block), problem.cost.curvature(*block)
        moves[part, :, :n, :m], moves[part, :, :n, m:-1] = of_dynamics.of_actions, of_dynamics.of_states
        slopes[part, ..., :-1], slopes[part, ..., -1] = of_cost.hessian, of_cost.gradient
    return moves, slopes
