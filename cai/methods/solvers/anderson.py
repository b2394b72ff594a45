"""Sweeps, extrapolated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.methods.solvers.solver import AbstractSolver
from cai.ops.infinite.fixed_point import Iterate, Stationary


@serializable
@dataclass(frozen=True)
class Anderson(AbstractSolver):
    """Sweeps with Anderson acceleration: the combination of the last few that makes B V - V least squares.

    With f = B V - V, and dV and df the last `memory` changes of V and of f:

        V <- V + f - (dV + df) c,     c = argmin |f - df c|

    Where the size of f has grown, the extrapolation is taken back for the plain sweep, and the memory dropped. Without
    exits a constant added to V changes nothing but itself: there f is taken without its mean, and the span decides.
    It costs a sweep and 2 `memory` vectors; it pays where a few slow modes are left.

    Source: Walker and Ni (2011); Geist and Scherrer (2018) for value iteration.

    Attributes:
        max_steps: The most sweeps.
        memory: How many changes are remembered.
    """

    max_steps: int = 1_000_000
    memory: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_whole("memory", least=1)

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does some sweeps."""
        return self.repeated(lambda now: self._step(problem, now, tolerance), iterate)

    def _step(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        after, known = problem.sweep(iterate, tolerance=tolerance), iterate.memory
        if after.done:
            return replace(after, memory=None)
        change = torch.where(torch.isfinite(after.v), after.v - iterate.v, 0.0)
        if problem.contracts and not problem.tables.has_exits:
            change = change - change.mean()
        if known is not None and change.norm() > known[1, -1].norm():
            return replace(after, v=known[0, -1] + known[1, -1], memory=None)
        latest = torch.stack([iterate.v, change])[:, None]
        if known is None:
            return replace(after, v=iterate.v + change, memory=latest)
        known = torch.cat([known[:, -self.memory :], latest], 1)
        return replace(after, v=iterate.v + change - _correction(known), memory=known)


def _correction(known: Tensor) -> Tensor:
    """(dV + df) c for the last values and their changes, `[2, m, S]`: `[S]`."""
    values, changes = known
    d_values = torch.where(torch.isfinite(values[1:]), values[1:] - values[:-1], 0.0)
    d_changes = changes.diff(dim=0)
    # A rank-revealing solve, for changes that have become dependent; only the CPU has one.
    weights = torch.linalg.lstsq(d_changes.T.cpu(), changes[-1][:, None].cpu(), driver="gelsd").solution
    return ((d_values + d_changes).T @ weights.to(known)).squeeze(-1)
