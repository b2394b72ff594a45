"""Observations: what is seen of a state that is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.covariance import Covariance
from cai.factors.gaussian_checks import (
    aligned,
    as_vector,
    batches_of,
    common_batch,
    common_steps,
    read_covariance,
    read_part,
    step_of,
)
from cai.factors.linear_parts import ObservationParts, times

_NAME = "LinearGaussianObservation"


@serializable
class LinearGaussianObservation:
    """y = C x + d + v, v ~ N(0, R): an observation of k coordinates at each of the times 0..T.

    Args:
        C: `[*batch, k, n]`.
        covariance: R, `[*batch, k, k]`, symmetric and positive semi-definite.
        offset: d, `[*batch, k]`; zero by default.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or a covariance that is not symmetric positive
            semi-definite: where, and its least eigenvalue.
    """

    def __init__(self, C: Any, covariance: Any, offset: Any = None, *, dtype: torch.dtype | None = None) -> None:
        self._set(C, covariance, offset, dtype=dtype, time_varying=False)

    @classmethod
    def per_step(
        cls, C: Any, covariance: Any, offset: Any = None, *, dtype: torch.dtype | None = None
    ) -> LinearGaussianObservation:
        """Makes an observation that changes with time.

        Args:
            C: `[T + 1, *batch, k, n]`; a time axis of 1, here and below, serves all times.
            covariance: `[T + 1, *batch, k, k]`.
            offset: `[T + 1, *batch, k]`.
            dtype: float64 by default.
        """
        observation = cls.__new__(cls)
        observation._set(C, covariance, offset, dtype=dtype, time_varying=True)
        return observation

    def _set(self, c: Any, covariance: Any, offset: Any, *, dtype: Any, time_varying: bool) -> None:
        options: dict[str, Any] = {"dtype": dtype, "time_varying": time_varying}
        self._c = read_part(c, f"{_NAME} C", ("k", "n"), **options)
        size, like = self._c.shape[-2], f"C {list(self._c.shape[-2:])}"
        self._covariance: Covariance = read_covariance(covariance, f"{_NAME}: covariance", size, like, **options)
        parts = {"C": self._c, "covariance": self._covariance.value}
        self._offset = None
        if offset is not None:
            self._offset = parts["offset"] = read_part(offset, f"{_NAME} offset", ("k",), **options)
            if self._offset.shape[-1] != size:
                raise ValueError(f"{_NAME}: offset has {self._offset.shape[-1]} coordinates, {like} needs {size}")
        self.time_varying, self._times = time_varying, common_steps(_NAME, parts)
        self._batch = common_batch(_NAME, batches_of(parts, {"C": 2, "covariance": 2, "offset": 1}))

    @property
    def c(self) -> Tensor:
        """C, `[*batch, k, n]`, or `[T + 1 or 1, *batch, k, n]` where the observation changes with time."""
        return self._c if self.time_varying else self._c[0]

    @property
    def covariance(self) -> Tensor:
        """R, `[*batch, k, k]`, with a time axis before it where the observation changes with time."""
        value = self._covariance.value
        return value if self.time_varying else value[0]

    @property
    def offset(self) -> Tensor | None:
        """d, `[*batch, k]`, with a time axis before it where the observation changes with time; None for zero."""
        return self._offset if self._offset is None or self.time_varying else self._offset[0]

    @property
    def state_size(self) -> int:
        """Number of state coordinates n."""
        return self._c.shape[-1]

    @property
    def observation_size(self) -> int:
        """Number of observed coordinates k."""
        return self._c.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._batch

    @property
    def num_times(self) -> int | None:
        """The number of times T + 1 that the observation is for, or None where it serves all."""
        return self._times if self.time_varying else None

    def __call__(self, state: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives p(y | x) for states `[..., n]` at time t.

        A multivariate normal where the noise is positive definite, a point mass (Pyro's Delta) without noise, else a
        `DegenerateNormal`.
        """
        state = as_vector(state, self.state_size, self._c, f"{_NAME}: state")
        mean = times(step_of(self._c, t, 2, _NAME), state)
        if self._offset is not None:
            mean = mean + step_of(self._offset, t, 1, _NAME)
        return self._covariance.around(mean, t, _NAME)

    def observation_parts(self) -> ObservationParts:
        """Gives C, d and R; see `LinearObservation`."""
        offset = self._c.new_zeros(1, self.observation_size) if self._offset is None else self._offset
        parts = ((self._c, 2), (offset, 1), (self._covariance.value, 2))
        return ObservationParts(*(aligned(part, self._batch, dims) for part, dims in parts))

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {name: getattr(self, name) for name in ("c", "covariance", "offset", "time_varying")}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LinearGaussianObservation:
        """Makes the factor of what a file gave."""
        observation = cls.__new__(cls)
        observation._set(**parts, dtype=parts["c"].dtype)
        return observation
