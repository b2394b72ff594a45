"""The line search of iterative LQR: rollouts of several step sizes, and the longest one that is good enough.

A step of size a promises the change a s + a^2 b / 2 of the cost (s the slope, b the bend of the backward pass). It is
accepted where it brings the share c of a promised decrease; where an increase is expected, since gaps are closed, where
it stays below twice what is expected.

Source: Tassa, Erez and Todorov (2012), equation 13; Mastalli et al. (2020), equation 18, for steps that close gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.shooting.backward_pass import BackwardPass
from cai.ops.shooting.problem import ShootingProblem
from cai.ops.shooting.rollouts import Rollouts, closed_loop
from cai.ops.shooting.schedules import LineSearch

#: How many trajectories at a time cost next to nothing more than one: all step sizes are tried at once up to here.
#: Above, the full step is tried first, and the others for the elements that refuse it.
_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class Steps:
    """The step taken by each element of a batch.

    Attributes:
        states: `[T + 1, B, n]`.
        actions: `[T, B, m]`.
        costs: `[B]`, float64.
        sizes: `[B]`, float64; zero where no step was good enough: there the rest means nothing.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor
    sizes: Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A trajectory of each element of a batch.

    Attributes:
        states: `[T + 1, B, n]`.
        actions: `[T, B, m]`.
        costs: `[B]`, float64.
        gaps: f(x_t, u_t) - x_{t+1}, `[T, B, n]`, or None where there are none.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor
    gaps: Tensor | None = None

    def select(self, index: Tensor) -> Trajectory:
        """Gives the trajectories of some batch elements; `index` is `[k]`."""
        gaps = None if self.gaps is None else self.gaps[:, index]
        return Trajectory(self.states[:, index], self.actions[:, index], self.costs[index], gaps)


def search(problem: ShootingProblem, old: Trajectory, backward: BackwardPass, options: LineSearch) -> Steps:
    """Finds the longest good step of each element.

    Args:
        problem: The problem.
        old: The trajectory to go on from.
        backward: The gains, and what they promise.
        options: Which steps to try.
    """
    sizes = torch.tensor(options.step_sizes, dtype=old.states.dtype, device=old.states.device)
    batch = old.states.shape[1]
    if len(sizes) == 1 or batch * len(sizes) <= _TOGETHER:
        return _tried(problem, old, backward, sizes, options.acceptance)
    steps = _tried(problem, old, backward, sizes[:1], options.acceptance)
    left = (steps.sizes == 0) & backward.definite
    if not left.any():
        return steps
    if not problem.divisible:
        return _merged(steps, _tried(problem, old, backward, sizes[1:], options.acceptance), left)
    index = left.nonzero()[:, 0]
    part = (problem.select(index), old.select(index), backward.select(index))
    further = _tried(*part, sizes[1:], options.acceptance)
    return Steps(
        steps.states.index_copy(1, index, further.states),
        steps.actions.index_copy(1, index, further.actions),
        steps.costs.index_copy(0, index, further.costs),
        steps.sizes.index_copy(0, index, further.sizes),
    )


def _tried(
    problem: ShootingProblem, old: Trajectory, backward: BackwardPass, sizes: Tensor, acceptance: float
) -> Steps:
    rollouts = closed_loop(problem, old.states, old.actions, backward.gains, sizes, old.gaps)
    wide = sizes.double()
    expected = backward.predicted(wide[:, None])
    bar = old.costs + torch.where(expected <= 0, acceptance, 2.0) * expected
    good = (rollouts.costs <= bar) & backward.definite  # never so where the costs are NaN
    chosen = good.to(torch.uint8).argmax(0)
    taken = torch.where(good.any(0), wide[chosen], 0.0)
    return _picked(rollouts, chosen, taken)


def _picked(rollouts: Rollouts, chosen: Tensor, taken: Tensor) -> Steps:
    if len(rollouts.costs) == 1:
        return Steps(rollouts.states[:, 0], rollouts.actions[:, 0], rollouts.costs[0], taken)
    elements = torch.arange(len(chosen), device=chosen.device)
    parts = (rollouts.states[:, chosen, elements], rollouts.actions[:, chosen, elements])
    return Steps(*parts, rollouts.costs[chosen, elements], taken)


def _merged(steps: Steps, further: Steps, left: Tensor) -> Steps:
    wide = left[:, None]
    return Steps(
        torch.where(wide, further.states, steps.states),
        torch.where(wide, further.actions, steps.actions),
        torch.where(left, further.costs, steps.costs),
        torch.where(left, further.sizes, steps.sizes),
    )
