"""Distributions of the first state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import (
    as_table,
    check_finite,
    check_rows,
    normalised,
    own_copy,
    state_index,
    weights_to_categorical,
)
from cai.factors.linear_parts import GaussianMoments


@serializable
class Categorical:
    """A distribution on the states 0..S-1.

    Args:
        probs: `[S]`, probabilities; zeros stay zero.
        logits: `[S]`, log-probabilities up to a constant; `-inf` forbids. Exactly one of the two.
        dtype: float64 by default.

    Raises:
        ValueError: Both or none given, a wrong shape, a negative or NaN entry, or a sum that is not one.
    """

    def __init__(self, probs: Any = None, *, logits: Any = None, dtype: torch.dtype | None = None) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("Categorical: give either probs or logits")
        if logits is not None:
            table = as_table(logits, "Categorical logits", dtype)
            self._check_vector(table)
            if torch.isnan(table.detach()).any() or torch.isposinf(table.detach()).any():
                raise ValueError("Categorical logits: NaN or +inf among them")
            if torch.isneginf(table.detach()).all():
                raise ValueError("Categorical logits: all are -inf, so nothing is possible")
            self.probs = table.softmax(-1)
        else:
            self.probs = as_table(probs, "Categorical probs", dtype)
            self._check_vector(self.probs)
            check_finite(self.probs, "Categorical probs", ["state"])
            check_rows(self.probs, "Categorical probs", [])
            self.probs = normalised(self.probs)

    @staticmethod
    def _check_vector(table: Tensor) -> None:
        if table.dim() != 1 or not table.numel():
            raise ValueError(f"Categorical: expected a vector [S], got shape {list(table.shape)}")

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.probs.numel()

    def initial_table(self, num_states: int) -> Tensor:
        """Gives p(s_0), `[S]`."""
        if num_states != self.num_states:
            raise ValueError(f"initial: Categorical has {self.num_states} states, the dynamics {num_states}")
        return self.probs

    def __call__(self) -> torch.distributions.Categorical:
        """Gives the distribution of s_0."""
        return weights_to_categorical(self.probs)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"probs": self.probs}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> Categorical:
        """Makes the factor of what a file gave."""
        return cls(parts["probs"], dtype=parts["probs"].dtype)


@serializable
class Delta:
    """The first state is known.

    Args:
        value: A state: an integer where states are discrete, a vector `[*batch, n]` otherwise.
    """

    def __init__(self, value: Any) -> None:
        self.value = own_copy(value)
        if self.value.is_floating_point() and not torch.isfinite(self.value).all():
            raise ValueError("Delta: the value must be finite")

    def initial_table(self, num_states: int) -> Tensor:
        """Gives p(s_0), `[S]`: one at the value."""
        if self.value.dim():
            raise ValueError(
                f"initial: Delta of shape {list(self.value.shape)} is not one of {num_states} discrete states"
            )
        index = state_index(self.value, num_states, "initial: Delta state")
        return torch.nn.functional.one_hot(index, num_states).to(torch.float64)

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of a vector; of an integer none."""
        return self.value.shape[:-1]

    def initial_moments(self, state_size: int) -> GaussianMoments:
        """Gives the vector, in its own floating dtype or float64, without a covariance; see `GaussianInitial`."""
        if not self.value.dim() or self.value.shape[-1] != state_size:
            raise ValueError(
                f"initial: Delta of shape {list(self.value.shape)} is not a state of {state_size} coordinates, "
                f"[*batch, {state_size}]"
            )
        return GaussianMoments(self.value if self.value.is_floating_point() else self.value.to(torch.float64), None)

    def __call__(self) -> torch.distributions.Distribution:
        """Gives the distribution of s_0: a point mass."""
        from pyro.distributions import Delta as PointMass

        return PointMass(self.value, event_dim=min(self.value.dim(), 1))

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"value": self.value}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> Delta:
        """Makes the factor of what a file gave."""
        return cls(parts["value"])
