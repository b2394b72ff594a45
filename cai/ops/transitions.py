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

from cai.ops.logspace import NEG_INF, AlongDim, Reducer, finite, lack_to_one, log_expectation, safe_log
from cai.ops.sampling import sample_index


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
    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gives state, action and next state of each entry, int64, in shapes that broadcast to the entries'."""

    @abstractmethod
    def dense(self, entries: Tensor) -> Tensor:
        """Lays a quantity on entries out as `[S, A, S]`, zero where no entry is stored."""

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
        """Reads a quantity on entries at given triples, `[N]` each; zero where no entry is stored."""

    @abstractmethod
    def sample(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a next state for each (state, action), both `[N]`."""

    @abstractmethod
    def first_of_each(self, marked: Tensor) -> Tensor:
        """Keeps the first marked entry of each (state, action): 0/1 entries `[..., S, A, S]` or `[..., nnz]`."""

    @abstractmethod
    def rows(self, state: Tensor, action: Tensor) -> Tensor:
        """Gives p(. | s, a) for each pair, dense: `[..., S]`."""

    @abstractmethod
    def state_matrix(self, weights: Tensor) -> np.ndarray | scipy.sparse.csr_matrix:
        """Computes G(s, s') = sum_a weights(s, a) p(s'|s,a), `[S, A]` to `[S, S]`, on the CPU, detached."""

    def reweighted(self, values: Tensor) -> Transitions:
        """Puts other values, `[..., S, A, S]` or `[..., nnz]`, on the same entries."""
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

    def _lack(self, like: Tensor) -> Tensor:
        """What the rows lack to one, `[S, A]`; rounding counts as nothing."""
        return lack_to_one(self._product(torch.ones_like(like)))

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
        """Says whether exp(x - max x) p is a normal number for any p, given x - max x `[..., S]`."""
        below = below.detach()
        least = float(below.amin())
        if math.isinf(least):
            least = float(torch.where(torch.isneginf(below), 0.0, below).amin())
        return least > math.log(torch.finfo(below.dtype).tiny) - math.log(self._range_of_values[1]) + 10.0

    def _log_product(self, below: Tensor) -> Tensor:
        """Computes log sum_s' p exp(x - max x) by one product with the table; `-inf` where nothing possible remains."""
        if below.detach().amin() > -1.0:  # next to one: see cai.ops.logspace
            return (self._product(below.expm1()) - self._lack(below)).log1p()
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
        """Computes, on entries `[..., S, A, S]` or `[..., nnz]`, what `best` maximises."""
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

    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the indices of the entries: `[S, 1, 1]`, `[A, 1]` and `[S]`."""
        states, actions = (torch.arange(n, device=self.values.device) for n in (self.num_states, self.num_actions))
        return states[:, None, None], actions[:, None], states

    def dense(self, entries: Tensor) -> Tensor:
        """Gives entries `[S, A, S]` as they are."""
        return entries if entries.shape == self.values.shape else entries.expand(self.values.shape)

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


def _range_of(values: Tensor) -> tuple[bool, float]:
    positive = values.detach()[values.detach() > 0]
    return positive.numel() == values.numel(), float(positive.min()) if positive.numel() else 1.0
