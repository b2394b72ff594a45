"""Which solver suits, by size, sparsity and discount; the measurements are in `benchmarks/README.md`."""

from __future__ import annotations

from dataclasses import replace

from cai.methods.solvers.newton import Newton, NewtonKrylov
from cai.methods.solvers.solver import AbstractSolver
from cai.methods.solvers.value_iteration import ValueIteration
from cai.ops.infinite.linear import LARGE
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.tables import Tables

#: Above this discount a handful of linear solves is cheaper than some log(tolerance) / log(discount) sweeps.
_FAR_SIGHTED = 0.9


def default_solver(tables: Tables) -> AbstractSolver:
    """Picks sweeps for small discounts and Newton's method for others, inexact in large sparse worlds.

    At temperature 0 without discount Newton's method may pass through policies that never reach an exit; sweeps do not.
    """
    if tables.discount == 1.0 and tables.is_hard and tables.has_exits:
        return ValueIteration(max_steps=100_000)
    return newton_for(tables) if tables.discount > _FAR_SIGHTED else ValueIteration()


def newton_for(tables: Tables, max_steps: int | None = None) -> Newton | NewtonKrylov:
    """Picks Newton's method with exact or with inexact linear solves, of at most so many solves."""
    inexact = isinstance(tables.step(0).transitions, SparseTransitions) and tables.num_states >= LARGE
    gain = tables.discount == 1.0 and not tables.has_exits
    if not inexact or gain:
        return Newton() if max_steps is None else Newton(max_steps)
    krylov = NewtonKrylov()
    return krylov if max_steps is None else replace(krylov, max_steps=max_steps * (1 + krylov.num_sweeps))
