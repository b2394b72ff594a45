"""The dynamics p(s' | s, a) of a finite world as one linear operator, dense or sparse, behind the same few operations.

An *entry* is a triple (s, a, s') of the table; the dense form stores all of them as `[S, A, S]`, the sparse form the
possible ones as `[nnz]` in compressed-row order (row s * A + a). Quantities that live on entries (transition rewards,
tilted probabilities) have the same layout as the values.

    expect(v)(s, a)        = sum_s' p(s'|s,a) v(s')                    backward message, fixed dynamics
    log_expect(x, w)(s, a) = log sum_s' p(s'|s,a) exp(x(s') + w_e)     backward message, posterior dynamics
    best(x, w)(s, a)       = max_s' log p(s'|s,a) + x(s') + w_e        backward message, most probable trajectory
    push(m)(s')            = sum_{s,a} m(s, a) p(s'|s,a)               forward message

Messages may carry leading batch dimensions: `v` is `[..., S]`, `m` is `[..., S, A]`. The values may be batched too, in
the dense form `[..., S, A, S]`, in the sparse form `[..., nnz]` (one pattern for the batch).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF, AlongDim, Reducer, finite, log_expectation, safe_log
from cai.ops.sampling import sample_index
from cai.ops.sparse import Pattern, csr_product, csr_tensor


@dataclass(frozen=True, eq=False)
class Transitions(ABC):
    """A table p(s' | s, a); see the module's doc string for the operations.

    Attributes:
        values: The probabilities of the entries, dense `[..., S, A, S]` or sparse `[..., nnz]`.
    """

    values: Tensor

    @property
    @abstractmethod
    def num_states(self) -> int:
        """Number of states S."""

    @property
    @abstractmethod
    def num_actions(self) -> int:
        """Number of actions A."""

    @property
    @abstractmethod
    def _reducer(self) -> Reducer:
        """Groups entries by (s, a)."""

    @abstractmethod
    def at_next(self, v: Tensor) -> Tensor:
        """Gives each entry the value of its next state: `[..., S]` to entries."""

    @abstractmethod
    def at_source(self, q: Tensor) -> Tensor:
        """Gives each entry the value of its (state, action): `[..., S, A]` to entries."""

    @abstractmethod
    def over_next(self, entries: Tensor) -> Tensor:
        """Sums entries over next states: entries to `[..., S, A]`."""

    @abstractmethod
    def over_source(self, entries: Tensor) -> Tensor:
        """Sums entries over (state, action): entries to `[..., S]`."""

    @abstractmethod
    def _product(self, v: Tensor) -> Tensor:
        """Computes sum_s' p v for finite v."""

    @abstractmethod
    def _shaped(self, rows: Tensor) -> Tensor:
        """Gives rows of (state, action) pairs the shape `[..., S, A]`."""

    @abstractmethod
    def push(self, mass: Tensor) -> Tensor:
        """Moves mass `[..., S, A]` one step: `[..., S]`."""

    @abstractmethod
    def entry(self, entries: Tensor, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Reads a quantity on entries at given triples; zero where no entry is stored."""

    @abstractmethod
    def sample(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a next state for each (state, action), both `[N]`."""

    @abstractmethod
    def first_of_each(self, marked: Tensor) -> Tensor:
        """Keeps the first marked entry of each (state, action): 0/1 entries to 0/1 entries."""

    @abstractmethod
    def rows(self, state: Tensor, action: Tensor) -> Tensor:
        """Gives p(. | s, a) for each pair, dense: `[..., S]`."""

    @abstractmethod
    def state_matrix(self, weights: Tensor) -> np.ndarray | scipy.sparse.csr_matrix:
        """Computes the matrix G(s, s') = sum_a weights(s, a) p(s'|s,a) on the CPU, detached."""

    def reweighted(self, values: Tensor) -> Transitions:
        """Puts other values on the same entries."""
        return replace(self, values=values)

    def expect(self, v: Tensor) -> Tensor:
        """Computes E[v(s') | s, a]; `-inf` in v counts only where it can be reached.

        Args:
            v: `[..., S]`, in any unit.

        Returns:
            `[..., S, A]`.
        """
        forbidden = torch.isneginf(v)
        if not forbidden.any():
            return self._product(v)
        reaches = self._product(forbidden.to(v.dtype)) > 0
        return torch.where(reaches, NEG_INF, self._product(torch.where(forbidden, 0.0, v)))

    def log_expect(self, x: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """Computes log E[exp(x(s') + log_weights) | s, a].

        Args:
            x: `[..., S]`, in nats.
            log_weights: On entries, in nats.

        Returns:
            `[..., S, A]`, in nats.
        """
        if log_weights is None:
            below, top = self.shifted(x)
            if self.spans_little(below):
                return top[..., None] + self._log_product(below)
            exponent = self.at_next(x)
        else:
            exponent = self.at_next(x) + log_weights
        return self._shaped(log_expectation(exponent, self.values, self._reducer, all_positive=self._all_positive))

    @property
    def _all_positive(self) -> bool:
        return self._range_of_values[0]

    @property
    def _range_of_values(self) -> tuple[bool, float]:
        """Whether no value is zero, and the least positive one; not kept where values are learned, perhaps in place."""
        return _range_of(self.values) if self.values.requires_grad else self._kept_range

    @cached_property
    def _kept_range(self) -> tuple[bool, float]:
        return _range_of(self.values)

    @staticmethod
    def shifted(x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes x - max x and max x, `[..., S]` and `[..., 1]`; the shift carries no gradient, since it cancels."""
        top = finite(x.detach().amax(-1, keepdim=True))
        return x - top, top

    def spans_little(self, below: Tensor) -> bool:
        """Says whether exp(x - max x) p stays a normal number for any p, so that one shift serves all rows."""
        below = below.detach()
        least = float(below.amin())
        if math.isinf(least):
            least = float(torch.where(torch.isneginf(below), 0.0, below).amin())
        return least > math.log(torch.finfo(below.dtype).tiny) - math.log(self._range_of_values[1]) + 10.0

    def _log_product(self, below: Tensor) -> Tensor:
        """Computes log sum_s' p exp(x - max x) by one product with the table; `-inf` where nothing possible remains."""
        if below.detach().amin() > -1.0:  # next to one: see cai.ops.logspace
            return self._product(below.expm1()).log1p()
        return safe_log(self._product(below.exp()))

    def best(self, x: Tensor, log_weights: Tensor | None = None, temperature: float | Tensor = 1.0) -> Tensor:
        """Computes max over s' of temperature * log p(s'|s,a) + x(s') + log_weights, over possible s' only.

        Args:
            x: `[..., S]`, in the units of the temperature.
            log_weights: On entries, in the same units.
            temperature: What a nat of log p is worth; at zero, possibility alone counts.

        Returns:
            `[..., S, A]`.
        """
        return self._shaped(self._reducer.max(self.scores(x, log_weights, temperature)))

    def scores(self, x: Tensor, log_weights: Tensor | None = None, temperature: float | Tensor = 1.0) -> Tensor:
        """Computes, on entries, what `best` maximises."""
        total = self.at_next(x) if log_weights is None else self.at_next(x) + log_weights
        possible = self.values > 0
        return torch.where(possible, total + temperature * torch.where(possible, self.values, 1.0).log(), NEG_INF)


@dataclass(frozen=True, eq=False)
class DenseTransitions(Transitions):
    """A dense table `[..., S, A, S]`."""

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.values.shape[-1]

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.values.shape[-2]

    @property
    def _reducer(self) -> Reducer:
        return AlongDim(-1)

    def at_next(self, v: Tensor) -> Tensor:
        """Gives each entry the value of its next state: `[..., S]` to `[..., 1, 1, S]`."""
        return v[..., None, None, :]

    def at_source(self, q: Tensor) -> Tensor:
        """Gives each entry the value of its pair: `[..., S, A]` to `[..., S, A, 1]`."""
        return q[..., None]

    def over_next(self, entries: Tensor) -> Tensor:
        """Sums entries over next states: `[..., S, A, S] -> [..., S, A]`."""
        return entries.sum(-1)

    def over_source(self, entries: Tensor) -> Tensor:
        """Sums entries over pairs: `[..., S, A, S] -> [..., S]`."""
        return entries.sum((-3, -2))

    def _product(self, v: Tensor) -> Tensor:
        if self.values.dim() == 3 and v.dim() == 1:
            return self.values @ v
        return torch.einsum("...ijk,...k->...ij", self.values, v)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows

    def push(self, mass: Tensor) -> Tensor:
        """Moves mass one step: `[..., S, A] -> [..., S]`."""
        if self.values.dim() == 3:
            return mass.flatten(-2) @ self.values.flatten(0, 1)
        return torch.einsum("...ij,...ijk->...k", mass, self.values)

    def entry(self, entries: Tensor, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Reads entries `[S, A, S]` at triples of one shape."""
        return entries[state, action, next_state]

    def sample(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a next state for each pair `[N]`."""
        return sample_index(self.values[state, action], generator)

    def first_of_each(self, marked: Tensor) -> Tensor:
        """Keeps the first marked entry of each row of `[..., S, A, S]`."""
        return marked * (marked.cumsum(-1) == 1)

    def rows(self, state: Tensor, action: Tensor) -> Tensor:
        """Gives p(. | s, a): `[..., S]`."""
        return self.values[state, action]

    def state_matrix(self, weights: Tensor) -> np.ndarray:
        """Computes G(s, s') = sum_a weights(s, a) p(s'|s,a), `[S, S]`."""
        return torch.einsum("ia,iaj->ij", weights.detach(), self.values.detach()).cpu().numpy()


@dataclass(frozen=True, eq=False)
class SparseTransitions(Transitions):
    """The possible entries only.

    Attributes:
        values: `[..., nnz]`.
        pattern: Where they stand, in a matrix of S * A rows and S columns.
    """

    pattern: Pattern

    @cached_property
    def num_states(self) -> int:  # type: ignore[override]
        """Number of states S."""
        return self.pattern.num_columns

    @cached_property
    def num_actions(self) -> int:  # type: ignore[override]
        """Number of actions A."""
        return self.pattern.num_rows // self.pattern.num_columns

    def expect(self, v: Tensor) -> Tensor:
        """Computes E[v(s') | s, a]; no stored probability is zero, so `-inf` takes care of itself."""
        return self._product(v) if self._is_plain(v) else super().expect(v)

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

    def _product(self, v: Tensor) -> Tensor:
        if self._is_plain(v):
            return self._shaped(self._kept_matrix @ v)
        if self.values.dim() == 1:
            return self._shaped(csr_product(self.pattern, self.values, v))
        return self.over_next(self.values * self.at_next(v))

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:-1], self.num_states, self.num_actions)

    def _is_plain(self, vector: Tensor) -> bool:
        """Whether nothing learns, so that the matrix may be kept; values that do may change in place."""
        return vector.dim() == self.values.dim() == 1 and not (vector.requires_grad or self.values.requires_grad)

    @cached_property
    def _kept_matrix(self) -> Tensor:
        return csr_tensor(self.pattern, self.values)

    @cached_property
    def _kept_transposed_matrix(self) -> Tensor:
        return csr_tensor(self.pattern.transposed, self.values[self.pattern.transposed_order])

    def push(self, mass: Tensor) -> Tensor:
        """Moves mass one step: `[..., S, A] -> [..., S]`."""
        if self._is_plain(flat := mass.flatten(-2)):
            return self._kept_transposed_matrix @ flat
        if self.values.dim() == 1:
            return csr_product(self.pattern.transposed, self.values[self.pattern.transposed_order], flat)
        return self.over_source(self.values * self.at_source(mass))

    def entry(self, entries: Tensor, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Reads entries `[nnz]` at triples of one shape; zero where none is stored."""
        position, stored = self.pattern.find(state * self.num_actions + action, next_state)
        return torch.where(stored, entries[position], 0.0)

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
        return self.pattern.columns[position.gather(-1, chosen[..., None]).squeeze(-1)]

    def first_of_each(self, marked: Tensor) -> Tensor:
        """Keeps the first marked entry of each row of `[..., nnz]`."""
        running = torch.nn.functional.pad(marked.cumsum(-1), (1, 0))
        before_row = running.index_select(-1, self.pattern.row_starts[:-1])
        return marked * (running[..., 1:] - self.pattern.spread(before_row) == 1)

    def rows(self, state: Tensor, action: Tensor) -> Tensor:
        """Gives p(. | s, a), dense: `[..., S]`."""
        position, real = self._row_entries(state, action)
        zeros = self.values.new_zeros(*position.shape[:-1], self.num_states)
        return zeros.scatter_add(-1, self.pattern.columns[position], torch.where(real, self.values[position], 0.0))

    def state_matrix(self, weights: Tensor) -> scipy.sparse.csr_matrix:
        """Computes G(s, s') = sum_a weights(s, a) p(s'|s,a), `[S, S]`, sparse."""
        values = (self.values * self.at_source(weights)).detach().cpu().numpy()
        # S * A rows of the table, taken A at a time, are the rows of G: only the row starts change.
        starts = self.pattern.row_starts[:: self.num_actions].cpu().numpy()
        shape = (self.num_states, self.num_states)
        return scipy.sparse.csr_matrix((values, self.pattern.columns.cpu().numpy(), starts), shape=shape)


def _range_of(values: Tensor) -> tuple[bool, float]:
    positive = values.detach()[values.detach() > 0]
    return positive.numel() == values.numel(), float(positive.min()) if positive.numel() else 1.0


def sparse_from_triplets(
    rows: Tensor, columns: Tensor, values: Tensor, *, num_states: int, num_actions: int
) -> SparseTransitions:
    """Builds sparse transitions from triplets in any order; duplicates are added up, differentiably.

    Args:
        rows: `[n]`, int64, s * A + a.
        columns: `[n]`, int64, next states.
        values: `[n]`, probabilities; entries of probability zero are dropped.
        num_states: Number of states S.
        num_actions: Number of actions A.
    """
    kept = values != 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    keys, where = torch.unique(rows * num_states + columns, return_inverse=True)
    summed = values.new_zeros(keys.numel()).index_add(0, where, values)
    starts = torch.zeros(num_states * num_actions + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(keys // num_states, minlength=num_states * num_actions).cumsum(0)
    return SparseTransitions(summed, Pattern(starts, keys % num_states, num_states))
