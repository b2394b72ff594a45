"""Asynchronous sweeps: blocks of states, each backed up with the newest values of the others, and only where it pays.

The states are put in order of their way to the exits (breadth first; as they come where nothing ends) and cut into
blocks. Each block b has a priority p_b, a bound on max |B V - V| over it. When its values move by at most d,

    p_c <- p_c + w_cb d   for every block c,     w_cb = gamma max_{s in c, a} p(block b | s, a),

and p_b itself starts again from w_bb d. A pass goes through the blocks in order, skips those of low priority, and stays
with a block while news still spreads inside it; so work goes where values move, and news of an exit travels to the far
end in one pass.

Sources: Moore and Atkeson (1993), prioritized sweeping; Wingate and Seppi (2005), blocks of states.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.ops.infinite.shortest_paths import ways_to
from cai.ops.infinite.sweeps import block_of
from cai.ops.messages import Backup, optimal_backup
from cai.ops.readings import Reading
from cai.ops.sparse import Pattern
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import Transitions

#: A pass leaves a block when its priority has fallen to this share of what it was, or after so many backups.
_SETTLED, _MOST_BACKUPS = 0.1, 8


class PriorityQueue:
    """The blocks of a world and how they depend on each other.

    Args:
        tables: The world, of infinite horizon; a dense table is read as a sparse one.
        reading: How its dynamics is read.
        block_size: States of a block.
    """

    def __init__(self, tables: Tables, reading: Reading, *, block_size: int) -> None:
        step, keys = tables.step(0), np.arange(tables.num_states)
        transitions = sparse_form(step.transitions)
        if tables.has_exits:
            keys = ways_to(transitions, tables.terminal, tables.default_policies[0]).rank
        self._order = torch.as_tensor(np.argsort(keys, kind="stable"), device=tables.terminal.device)
        step = _relabelled(step, transitions, self._order)
        starts = range(0, tables.num_states, block_size)
        self._blocks = [slice(first, min(first + block_size, tables.num_states)) for first in starts]
        self._steps = [block_of(step, rows) for rows in self._blocks]
        self._backup: Backup = optimal_backup(reading)
        self._influence = _influence(step, block_size, len(self._blocks))

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def first_priorities(self, v: Tensor) -> Tensor:
        """Computes max |B V - V| of each block, `[B]`, for a value `[S]`."""
        v = v[self._order]
        changes = [self._backed_up(v, block) - v[self._blocks[block]] for block in range(self.num_blocks)]
        return torch.stack([torch.where(torch.isfinite(change), change, 0.0).abs().max() for change in changes])

    def passed(self, v: Tensor, priorities: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """Goes through the blocks once.

        Args:
            v: `[S]`, reward units.
            priorities: `[B]`.
            least: A priority that is low enough.

        Returns:
            V and priorities after the pass.
        """
        v, waiting = v[self._order], priorities.cpu().numpy().copy()
        for block in range(self.num_blocks):
            enough = max(least, _SETTLED * waiting[block])
            for _ in range(_MOST_BACKUPS):
                if waiting[block] <= enough:
                    break
                self._back_up(v, waiting, block)
        placed = torch.empty_like(v)
        placed[self._order] = v
        return placed, torch.as_tensor(waiting, dtype=v.dtype, device=v.device)

    def _back_up(self, v: Tensor, waiting: np.ndarray, block: int) -> None:
        """Backs one block up in place, and tells the blocks that depend on it."""
        rows, now = self._blocks[block], self._backed_up(v, block)
        moved = float(torch.where(torch.isfinite(now), now - v[rows], 0.0).abs().max())
        v[rows] = now
        waiting[block] = 0.0
        first, last = self._influence.indptr[block : block + 2]
        waiting[self._influence.indices[first:last]] += self._influence.data[first:last] * moved

    def _backed_up(self, v: Tensor, block: int) -> Tensor:
        step = self._steps[block]
        return torch.where(step.terminal, v[self._blocks[block]], self._backup(step, 0, v)[1])


def sparse_form(transitions: Transitions) -> SparseTransitions:
    """Gives the entries above zero of a table `[S, A, S]`, detached; a sparse table is given as it is."""
    if isinstance(transitions, SparseTransitions):
        return transitions
    size, num_actions = transitions.num_states, transitions.num_actions
    values = transitions.values.detach()
    return _as_transitions(scipy.sparse.csr_matrix(values.cpu().numpy().reshape(-1, size)), num_actions, values.device)


def _matrix(transitions: SparseTransitions) -> scipy.sparse.csr_matrix:
    """The table `[S * A, S]`, whose arrays are those of the transitions."""
    pattern = transitions.pattern
    parts = (transitions.values.detach(), pattern.columns, pattern.row_starts)
    shape = (pattern.num_rows, pattern.num_columns)
    return scipy.sparse.csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=shape)


def _as_transitions(table: scipy.sparse.csr_matrix, num_actions: int, device: torch.device) -> SparseTransitions:
    parts = (table.indptr, table.indices, table.data)
    starts, columns, values = (torch.as_tensor(part, device=device) for part in parts)
    return SparseTransitions(values, Pattern(starts, columns, table.shape[1]), num_actions)


def _relabelled(step: StepTables, transitions: SparseTransitions, order: Tensor) -> StepTables:
    """The tables with state `order[i]` called i."""
    num_states, num_actions = transitions.num_states, transitions.num_actions
    place = torch.empty_like(order)
    place[order] = torch.arange(num_states, device=order.device)
    rows = (order[:, None] * num_actions + torch.arange(num_actions, device=order.device)).flatten()
    table = _matrix(transitions)[rows.cpu().numpy()]
    table.indices = place.cpu().numpy()[table.indices].astype(table.indices.dtype)
    table.sort_indices()
    return replace(
        step,
        transitions=_as_transitions(table, num_actions, order.device),
        rewards=step.expected_rewards[order],
        entry_rewards=None,
        prior=step.prior[order],
        terminal=step.terminal[order],
    )


def _influence(step: StepTables, block_size: int, num_blocks: int) -> scipy.sparse.csr_matrix:
    """w_cb as a sparse matrix `[B, B]` with row b holding what block b does to every c."""
    transitions = step.transitions
    assert isinstance(transitions, SparseTransitions)
    pattern = transitions.pattern
    table, shape = _matrix(transitions), (pattern.num_rows, num_blocks)
    onto = scipy.sparse.csr_matrix((table.data, table.indices // block_size, table.indptr), shape=shape, copy=True)
    onto.sum_duplicates()
    source = np.repeat(np.arange(pattern.num_rows) // (transitions.num_actions * block_size), np.diff(onto.indptr))
    order = np.lexsort((source, onto.indices))
    at, to, weights = onto.indices[order], source[order], onto.data[order]
    first = np.flatnonzero(np.r_[True, (at[1:] != at[:-1]) | (to[1:] != to[:-1])])
    greatest = step.discount * np.maximum.reduceat(weights, first)
    return scipy.sparse.csr_matrix((greatest, (at[first], to[first])), shape=(num_blocks, num_blocks))
