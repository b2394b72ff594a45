"""The line search of iterative LQR: rollouts of several step sizes, and the best one that is good enough.

A step of size a promises the change a s + a^2 b / 2 of the cost (s the slope, b the bend of the backward pass; beyond
a full step no more than that promises). It is accepted where it brings the share c of a promised decrease; where an
increase is expected, since gaps are closed, where it stays below twice what is expected. Of those accepted the one of
least cost is taken; while there are gaps the longest, since costs along a trajectory with gaps are not to be trusted.

Source: Tassa, Erez and Todorov (2012), equation 13; Mastalli et al. (2020), equation 18, for steps that close gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.shooting.backward_pass import BackwardPass
from cai.ops.shooting.problem import ShootingProblem, Trajectory
from cai.ops.shooting.rollouts import closed_loop
from cai.ops.shooting.schedules import LineSearch


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


def search(problem: ShootingProblem, old: Trajectory, backward: BackwardPass, options: LineSearch) -> Steps:
    """Finds the best step of each element; none where the backward pass is not definite.

    Args:
        problem: The problem.
        old: The trajectory to go on from.
        backward: The gains, and what they promise.
        options: Which steps to try.
    """
    if not backward.definite.any():
        return Steps(old.states, old.actions, old.costs, torch.zeros_like(old.costs))
    allowed = [size for size in options.step_sizes if size <= 1.0 or old.gaps is None]  # no gap is to be overclosed
    sizes = torch.tensor(allowed, dtype=torch.float64, device=old.states.device)
    rollouts = closed_loop(problem, old.states, old.actions, backward.gains, sizes.to(old.states.dtype), old.gaps)
    expected = backward.predicted(sizes.clamp(max=1.0)[:, None])
    bar = old.costs + torch.where(expected <= 0, options.acceptance, 2.0) * expected
    good = (rollouts.costs <= bar) & backward.definite  # never so where the costs are NaN
    chosen = torch.where(good, rollouts.costs, torch.inf).argmin(0)
    if old.gaps is not None:
        longest = good.to(torch.uint8).argmax(0)
        chosen = torch.where((old.gaps != 0).any(-1).any(0), longest, chosen)
    elements = torch.arange(old.states.shape[1], device=old.states.device)
    return Steps(
        states=rollouts.states[:, chosen, elements],
        actions=rollouts.actions[:, chosen, elements],
        costs=rollouts.costs[chosen, elements],
        sizes=torch.where(good.any(0), sizes[chosen], 0.0),
    )
