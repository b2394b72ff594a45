"""One backup of a whole world, V to B V, together with how far it moved.

A sparse table is passed over in blocks of rows: product with the table, sum with the rewards, log-sum-exp over actions
and the comparison with the old value of one block all happen while it lies in the cache, and only V itself is written.
Blocks are independent of each other (this is a Jacobi sweep), so threads share them out; the arithmetic of a block is
the same whoever does it, and so is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.ops.messages import Backup, backup_of, bellman_step, check_messages
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.tables import StepTables, Tables
from cai.ops.threads import SMALL, side_by_side

#: Rows (state-action pairs) of a block: its numbers, and the entries of the table, then fit the cache of a core.
BLOCK_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class Swept:
    """B V, and what a stopping rule needs to know of it.

    Attributes:
        v: `[S]`, reward units.
        low: min of B V - V over states of finite value, reward units; zero at terminal states.
        high: max of it.
        largest: max |B V| over states of finite value.
    """

    v: Tensor
    low: float
    high: float
    largest: float

    @property
    def residual(self) -> float:
        """Max |B V - V|."""
        return max(-self.low, self.high)


#: Applies B once: V `[S]` to `Swept`.
Sweep = Callable[[Tensor], Swept]


def sweep_of(tables: Tables, reading: Reading, policy: Tensor | None, costs: Tensor | None) -> Sweep:
    """Makes the sweep of a stationary problem: in blocks where the table is sparse, large and learns nothing.

    Args:
        tables: The world.
        reading: How its dynamics is read.
        policy: `[1, S, A]`, the policy to evaluate, or None for the best.
        costs: `[1, S]`, what that policy pays for leaving the prior, reward units.
    """
    step = tables.step(0)
    blocked = (
        isinstance(reading, FixedDynamics)
        and isinstance(step.transitions, SparseTransitions)
        and step.transitions.values.dim() == 1
        and step.transitions.values.device.type == "cpu"
        and tables.num_entries >= SMALL // 4
        and not (tables.learns or (policy is not None and policy.requires_grad))
    )
    if blocked:
        return _BlockedSweep(tables, reading, policy, costs)
    return _WholeSweep(tables, backup_of(reading, policy, costs))


class _WholeSweep:
    """The sweep in one piece."""

    def __init__(self, tables: Tables, backup: Backup) -> None:
        self._tables, self._backup = tables, backup

    def __call__(self, v: Tensor) -> Swept:
        _, after = bellman_step(self._tables, self._backup, 0, v)
        check_messages(after[None])
        return Swept(after, *change(after, v))


class _BlockedSweep:
    """The sweep block by block, by as many threads as torch uses."""

    def __init__(self, tables: Tables, reading: Reading, policy: Tensor | None, costs: Tensor | None) -> None:
        size = max(1, BLOCK_ROWS // tables.num_actions)
        step = replace(tables.step(0), rewards=tables.expected_rewards[0], entry_rewards=None)
        self._blocks = []
        for first in range(0, tables.num_states, size):
            rows = slice(first, min(first + size, tables.num_states))
            given = (None if part is None else part[:, rows] for part in (policy, costs))
            self._blocks.append((rows, block_of(step, rows), backup_of(reading, *given)))

    def __call__(self, v: Tensor) -> Swept:
        after = torch.empty_like(v)

        def run(block: tuple[slice, StepTables, Backup]) -> tuple[float, float, float]:
            """Sweeps a block, `[n]` of the states."""
            rows, step, backup = block
            _, now = backup(step, 0, v)
            if step.ends:
                now = torch.where(step.terminal, v[rows], now)
            after[rows] = now
            return change(now, v[rows])

        lows, highs, sizes = zip(*side_by_side(run, self._blocks), strict=True)
        if math.isnan(largest := max(sizes, key=lambda size: math.inf if math.isnan(size) else size)):
            check_messages(after[None])
            raise NonFinite("a backward message is not finite")
        return Swept(after, min(lows), max(highs), largest)


def block_of(step: StepTables, rows: slice) -> StepTables:
    """The tables of some states' rows."""
    assert isinstance(step.transitions, SparseTransitions)
    return replace(
        step,
        transitions=step.transitions.block(rows.start, rows.stop),
        rewards=step.rewards[rows],
        prior=step.prior[rows],
        terminal=step.terminal[rows],
    )


def change(after: Tensor, before: Tensor) -> tuple[float, float, float]:
    """Compares two values `[S]`: the least and the greatest change, and the greatest size, where they are finite.

    All three are NaN where the value after is NaN or `+inf`.
    """
    low, high = (float(bound) for bound in (after - before).aminmax())
    least, most = (float(bound) for bound in after.aminmax())
    if math.isfinite(low - high) and math.isfinite(least - most):
        return low, high, max(-least, most)
    if math.isnan(least) or most == math.inf:
        return math.nan, math.nan, math.nan
    known = torch.isfinite(after) & torch.isfinite(before)
    if not known.any():
        return 0.0, 0.0, 0.0
    moved = (after - before)[known]
    return float(moved.min()), float(moved.max()), float(after[known].abs().max())
