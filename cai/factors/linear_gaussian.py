"""Linear dynamics with Gaussian noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.affine_gaussian import AffineGaussian
from cai.factors.linear_parts import LinearParts

_NAME = "LinearGaussianDynamics"


@serializable
class LinearGaussianDynamics:
    """x' = A x + B u + c + w, w ~ N(0, W).

    Args:
        A: `[*batch, n, n]`.
        B: `[*batch, n, m]`.
        covariance: W, `[*batch, n, n]`, symmetric and positive semi-definite (it may be singular); None for no noise.
        offset: c, `[*batch, n]`; zero by default.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or a covariance that is not symmetric positive
            semi-definite: where, and its least eigenvalue.
    """

    def __init__(
        self, A: Any, B: Any, covariance: Any = None, offset: Any = None, *, dtype: torch.dtype | None = None
    ) -> None:
        self._set(A, B, covariance, offset, dtype=dtype, time_varying=False)

    @classmethod
    def per_step(
        cls, A: Any, B: Any, covariance: Any = None, offset: Any = None, *, dtype: torch.dtype | None = None
    ) -> LinearGaussianDynamics:
        """Makes dynamics that change with time.

        Args:
            A: `[T, *batch, n, n]`; a time axis of 1, here and below, serves all steps.
            B: `[T, *batch, n, m]`.
            covariance: `[T, *batch, n, n]`.
            offset: `[T, *batch, n]`.
            dtype: float64 by default.
        """
        dynamics = cls.__new__(cls)
        dynamics._set(A, B, covariance, offset, dtype=dtype, time_varying=True)
        return dynamics

    def _set(self, a: Any, b: Any, covariance: Any, offset: Any, *, dtype: Any, time_varying: bool) -> None:
        axes = {"A": ("n", "n"), "B": ("n", "m")}
        self._affine = AffineGaussian(
            _NAME, {"A": a, "B": b}, axes, offset, covariance, dtype=dtype, time_varying=time_varying
        )
        shape = list(self._affine.matrices["A"].shape[-2:])
        if shape[0] != shape[1]:
            raise ValueError(f"{_NAME}: A must be square, got {shape}")
        self._linear_parts: LinearParts | None = None

    @property
    def time_varying(self) -> bool:
        """Whether the parts have a time axis."""
        return self._affine.time_varying

    @property
    def a(self) -> Tensor:
        """A, `[*batch, n, n]`, or `[T or 1, *batch, n, n]` where the dynamics changes with time."""
        return self._affine.matrix("A")

    @property
    def b(self) -> Tensor:
        """B, `[*batch, n, m]`, or `[T or 1, *batch, n, m]` where the dynamics changes with time."""
        return self._affine.matrix("B")

    @property
    def covariance(self) -> Tensor | None:
        """W, `[*batch, n, n]`, with a time axis before it where the dynamics changes with time; None for no noise."""
        return self._affine.covariance

    @property
    def offset(self) -> Tensor | None:
        """c, `[*batch, n]`, with a time axis before it where the dynamics changes with time; None for zero."""
        return self._affine.offset

    @property
    def state_size(self) -> int:
        """Number of state coordinates n."""
        return self._affine.size

    @property
    def action_size(self) -> int:
        """Number of action coordinates m."""
        return self._affine.matrices["B"].shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._affine.batch_shape

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the dynamics is for, or None where it serves all."""
        return self._affine.num_steps

    def mean(self, state: Any, action: Any, t: int | Tensor = 0) -> Tensor:
        """Computes A x + B u + c: `[..., n]`.

        Args:
            state: `[..., n]`.
            action: `[..., m]`.
            t: Time; a tensor broadcasts with the batch.
        """
        return self._affine.mean({"A": ("state", state), "B": ("action", action)}, t)

    def __call__(self, state: Any, action: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives p(x' | x, u) for states `[..., n]` and actions `[..., m]` at time t.

        A multivariate normal where the noise is positive definite, a point mass (Pyro's Delta) without noise, else a
        `DegenerateNormal`.
        """
        return self._affine.around(self.mean(state, action, t), t)

    def noise(self, state_size: int) -> Tensor | None:
        """Gives W, `[T or 1, *batch, n, n]`, or None; see `DifferentiableFactor`."""
        if self.state_size != state_size:
            raise ValueError(f"{_NAME}: has {self.state_size} state coordinates, asked for {state_size}")
        return self._affine.aligned_covariance()

    def linear_parts(self) -> LinearParts:
        """Gives A, B, c and W; see `LinearDynamics`."""
        if self._linear_parts is not None:
            return self._linear_parts
        affine = self._affine
        matrices = (affine.aligned_matrix("A"), affine.aligned_matrix("B"))
        parts = LinearParts(*matrices, affine.aligned_offset(), affine.aligned_covariance())
        if affine.keeps_answers:
            self._linear_parts = parts  # with the matrix that they make
        return parts

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {name: getattr(self, name) for name in ("a", "b", "covariance", "offset", "time_varying")}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LinearGaussianDynamics:
        """Makes the factor of what a file gave."""
        dynamics = cls.__new__(cls)
        dynamics._set(**parts, dtype=parts["a"].dtype)
        return dynamics
