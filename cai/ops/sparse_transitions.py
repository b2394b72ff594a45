"""Transitions of which only the possible entries are stored; see `cai.ops.transitions` for the operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import scipy.sparse
import torch
from torch import Tensor

from cai.ops.logspace import Reducer
from cai.ops.sampling import sample_index
from cai.ops.sparse import Pattern, csr_product, csr_tensor
from cai.ops.transitions import Transitions


@dataclass(frozen=True, eq=False)
class SparseTransitions(Transitions):
    """The possible entries only.

    Attributes:
        values: `[..., nnz]`.
        pattern: Where they stand, in a matrix of S * A rows and S columns.
        actions: Number of actions, where the rows are those of some states only; else None.
    """

    pattern: Pattern
    actions: int | None = None

    @cached_property
    def num_states(self) -> int:
        """Number of states S."""
        return self.pattern.num_columns

    @cached_property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.actions or self.pattern.num_rows // self.pattern.num_columns

    def expect(self, v: Tensor) -> Tensor:
        """Computes E[v(s') | s, a]; no stored probability is zero, so `-inf` takes care of itself."""
        return self._shaped(self._kept_matrix @ v) if self._is_plain(v) else super().expect(v)

    @property
    def _reducer(self) -> Reducer:
        return self.pattern

    def at_next(self, v: Tensor) -> Tensor:
        """Gives each entry the value of its next state: `[..., S] -> [..., nnz]`."""
        return v.index_select(-1, self.pattern.columns)

    def at_source(self, q: Tensor) -> Tensor:
        """Gives each entry the value of its pair: `[..., S, A] -> [..., nnz]`."""
        return self.pattern.spread(q.flatten(-2))

    def over_next(self, entries: Tensor) -> Tensor:
        """Sums entries over next states: `[..., nnz] -> [..., S, A]`."""
        return self._shaped(self.pattern.sum(entries))

    def over_source(self, entries: Tensor) -> Tensor:
        """Sums entries over pairs: `[..., nnz] -> [..., S]`."""
        zeros = entries.new_zeros(*entries.shape[:-1], self.num_states)
        return zeros.index_add(-1, self.pattern.columns, entries)

    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the indices of the entries, `[nnz]` each, int64: users compute with them."""
        rows, num_actions = self.pattern.rows, self.num_actions
        states, actions = (rows // num_actions).to(torch.int64), (rows % num_actions).to(torch.int64)
        return states, actions, self.pattern.columns.to(torch.int64)

    def dense(self, entries: Tensor) -> Tensor:
        """Lays entries `[nnz]` out as `[S, A, S]`, zero where none is stored."""
        zeros = entries.new_zeros(self.num_states, self.num_actions, self.num_states)
        return zeros.index_put(self.triples(), entries)

    def _product(self, v: Tensor) -> Tensor:
        if self._is_plain(v):
            return self._shaped(self._kept_matrix @ v)
        if self.values.dim() == 1:
            return self._shaped(csr_product(self.pattern, self.values, v))
        return self.over_next(self.values * self.at_next(v))

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:-1], -1, self.num_actions)

    def _is_plain(self, vector: Tensor) -> bool:
        """Whether nothing learns, so that the matrix may be kept; values that do may change in place."""
        return vector.dim() == self.values.dim() == 1 and not (vector.requires_grad or self.values.requires_grad)

    @cached_property
    def _kept_matrix(self) -> Tensor:
        return csr_tensor(self.pattern, self.values)

    @cached_property
    def _kept_transposed_matrix(self) -> Tensor:
        return csr_tensor(self.pattern.transposed, self._transposed_values)

    @property
    def _transposed_values(self) -> Tensor:
        return self.values.index_select(0, self.pattern.transposed_order)

    def push(self, mass: Tensor) -> Tensor:
        """Moves mass one step: `[..., S, A] -> [..., S]`."""
        if self._is_plain(flat := mass.flatten(-2)):
            return self._kept_transposed_matrix @ flat
        if self.values.dim() == 1:
            return csr_product(self.pattern.transposed, self._transposed_values, flat)
        return self.over_source(self.values * self.at_source(mass))

    def entry(self, entries: Tensor, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Reads entries `[nnz]` at triples of one shape; zero where none is stored."""
        if not self.pattern.num_entries:
            return entries.new_zeros(next_state.shape)
        position, stored = self.pattern.find(state * self.num_actions + action, next_state)
        return torch.where(stored, entries[position], 0.0)

    def values_on(self, pattern: Pattern) -> Tensor:
        """Gives the values at the entries of another pattern of these rows and columns; zero where none is stored."""
        own = self.pattern
        if torch.equal(own.row_starts, pattern.row_starts) and torch.equal(own.columns, pattern.columns):
            return self.values
        if not own.num_entries:
            return self.values.new_zeros(pattern.num_entries)
        position, stored = own.find(pattern.rows, pattern.columns)
        return torch.where(stored, self.values.index_select(0, position), 0.0)

    def _row_entries(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of each pair's entries, padded to the longest row, and which of them are real."""
        row = state * self.num_actions + action
        start, end = self.pattern.row_starts[row], self.pattern.row_starts[row + 1]
        position = start[..., None] + torch.arange(self.pattern.max_row_length, device=row.device)
        return position.clamp(max=max(self.pattern.num_entries - 1, 0)), position < end[..., None]

    def sample(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a next state for each pair `[N]`."""
        position, real = self._row_entries(state, action)
        chosen = sample_index(torch.where(real, self.values[position], 0.0), generator)
        return self.pattern.columns[position.gather(-1, chosen[..., None]).squeeze(-1)].to(torch.int64)

    def first_of_each(self, marked: Tensor) -> Tensor:
        """Keeps the first marked entry of each row of `[..., nnz]`."""
        running = torch.nn.functional.pad(marked.cumsum(-1), (1, 0))
        before_row = running.index_select(-1, self.pattern.row_starts[:-1])
        return marked * (running[..., 1:] - self.pattern.spread(before_row) == 1)

    def rows(self, state: Tensor, action: Tensor) -> Tensor:
        """Gives p(. | s, a), dense: `[..., S]`."""
        position, real = self._row_entries(state, action)
        zeros = self.values.new_zeros(*position.shape[:-1], self.num_states)
        columns = self.pattern.columns[position].to(torch.int64)
        return zeros.scatter_add(-1, columns, torch.where(real, self.values[position], 0.0))

    def block(self, first: int, last: int) -> SparseTransitions:
        """Gives the rows of states `first` to `last - 1`; next states are still any of all S, and nothing is copied."""
        starts = self.pattern.row_starts[first * self.num_actions : last * self.num_actions + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        pattern = Pattern(starts - starts[0], self.pattern.columns[entries], self.num_states)
        return SparseTransitions(self.values[entries], pattern, self.num_actions)

    def state_matrix(self, weights: Tensor) -> scipy.sparse.csr_matrix:
        """Computes G(s, s') = sum_a weights(s, a) p(s'|s,a), `[S, S]`, sparse."""
        values = (self.values * self.at_source(weights)).detach().cpu().numpy()
        # S * A rows of the table, taken A at a time, are the rows of G: only the row starts change.
        starts = self.pattern.row_starts[:: self.num_actions].cpu().numpy().copy()
        # A copy: states stand twice in a row of G, and scipy puts what is out of order in order in place.
        columns = self.pattern.columns.cpu().numpy().copy()
        return scipy.sparse.csr_matrix((values, columns, starts), shape=(self.num_states, self.num_states))
