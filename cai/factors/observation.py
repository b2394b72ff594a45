"""Observations: what is seen of a state that is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.affine_gaussian import AffineGaussian
from cai.factors.linear_parts import ObservationParts

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
        axes = {"C": ("k", "n")}
        self._affine = AffineGaussian(_NAME, {"C": c}, axes, offset, covariance, dtype=dtype, time_varying=time_varying)
        if self._affine.noise is None:
            raise ValueError(f"{_NAME}: expected a covariance [*batch, k, k], got None")

    @property
    def time_varying(self) -> bool:
        """Whether the parts have a time axis."""
        return self._affine.time_varying

    @property
    def c(self) -> Tensor:
        """C, `[*batch, k, n]`, or `[T + 1 or 1, *batch, k, n]` where the observation changes with time."""
        return self._affine.matrix("C")

    @property
    def covariance(self) -> Tensor:
        """R, `[*batch, k, k]`, with a time axis before it where the observation changes with time."""
        covariance = self._affine.covariance
        assert covariance is not None
        return covariance

    @property
    def offset(self) -> Tensor | None:
        """d, `[*batch, k]`, with a time axis before it where the observation changes with time; None for zero."""
        return self._affine.offset

    @property
    def state_size(self) -> int:
        """Number of state coordinates n."""
        return self._affine.matrices["C"].shape[-1]

    @property
    def observation_size(self) -> int:
        """Number of observed coordinates k."""
        return self._affine.size

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._affine.batch_shape

    @property
    def num_times(self) -> int | None:
        """The number of times T + 1 that the observation is for, or None where it serves all."""
        return self._affine.num_steps

    def __call__(self, state: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives p(y | x) for states `[..., n]` at time t.

        A multivariate normal where the noise is positive definite, a point mass (Pyro's Delta) without noise, else a
        `DegenerateNormal`.
        """
        return self._affine.around(self._affine.mean({"C": ("state", state)}, t), t)

    def observation_parts(self) -> ObservationParts:
        """Gives C, d and R; see `LinearObservation`."""
        covariance = self._affine.aligned_covariance()
        assert covariance is not None
        return ObservationParts(self._affine.aligned_matrix("C"), self._affine.aligned_offset(), covariance)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {name: getattr(self, name) for name in ("c", "covariance", "offset", "time_varying")}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LinearGaussianObservation:
        """Makes the factor of what a file gave."""
        observation = cls.__new__(cls)
        observation._set(**parts, dtype=parts["c"].dtype)
        return observation
