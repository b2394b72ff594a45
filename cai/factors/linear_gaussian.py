"""Linear dynamics with Gaussian noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.covariance import point_mass
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
from cai.factors.linear_parts import LinearParts, times

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
        options: dict[str, Any] = {"dtype": dtype, "time_varying": time_varying}
        self._a = read_part(a, f"{_NAME} A", ("n", "n"), **options)
        self._b = read_part(b, f"{_NAME} B", ("n", "m"), **options)
        size, like = self._a.shape[-1], f"A {list(self._a.shape[-2:])}"
        if self._a.shape[-2] != size:
            raise ValueError(f"{_NAME}: A must be square, got {list(self._a.shape[-2:])}")
        if self._b.shape[-2] != size:
            raise ValueError(f"{_NAME}: B is {list(self._b.shape[-2:])}, {like} needs [{size}, m]")
        parts = {"A": self._a, "B": self._b}
        self._offset = self._covariance = None
        if covariance is not None:
            self._covariance = read_covariance(covariance, f"{_NAME}: covariance", size, like, **options)
            parts["covariance"] = self._covariance.value
        if offset is not None:
            self._offset = parts["offset"] = read_part(offset, f"{_NAME} offset", ("n",), **options)
            if self._offset.shape[-1] != size:
                raise ValueError(f"{_NAME}: offset has {self._offset.shape[-1]} coordinates, {like} needs {size}")
        self._linear_parts: LinearParts | None = None
        self.time_varying, self._steps = time_varying, common_steps(_NAME, parts)
        self._batch = common_batch(_NAME, batches_of(parts, {"A": 2, "B": 2, "covariance": 2, "offset": 1}))

    @property
    def a(self) -> Tensor:
        """A, `[*batch, n, n]`, or `[T or 1, *batch, n, n]` where the dynamics changes with time."""
        return self._a if self.time_varying else self._a[0]

    @property
    def b(self) -> Tensor:
        """B, `[*batch, n, m]`, or `[T or 1, *batch, n, m]` where the dynamics changes with time."""
        return self._b if self.time_varying else self._b[0]

    @property
    def covariance(self) -> Tensor | None:
        """W, `[*batch, n, n]`, with a time axis before it where the dynamics changes with time; None for no noise."""
        value = None if self._covariance is None else self._covariance.value
        return value if value is None or self.time_varying else value[0]

    @property
    def offset(self) -> Tensor | None:
        """c, `[*batch, n]`, with a time axis before it where the dynamics changes with time; None for zero."""
        return self._offset if self._offset is None or self.time_varying else self._offset[0]

    @property
    def state_size(self) -> int:
        """Number of state coordinates n."""
        return self._a.shape[-1]

    @property
    def action_size(self) -> int:
        """Number of action coordinates m."""
        return self._b.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._batch

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the dynamics is for, or None where it serves all."""
        return self._steps if self.time_varying else None

    def mean(self, state: Any, action: Any, t: int | Tensor = 0) -> Tensor:
        """Computes A x + B u + c: `[..., n]`.

        Args:
            state: `[..., n]`.
            action: `[..., m]`.
            t: Time; a tensor broadcasts with the batch.
        """
        state = as_vector(state, self.state_size, self._a, f"{_NAME}: state")
        action = as_vector(action, self.action_size, self._b, f"{_NAME}: action")
        a, b = step_of(self._a, t, 2, _NAME), step_of(self._b, t, 2, _NAME)
        mean = times(a, state) + times(b, action)
        return mean if self._offset is None else mean + step_of(self._offset, t, 1, _NAME)

    def __call__(self, state: Any, action: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives p(x' | x, u) for states `[..., n]` and actions `[..., m]` at time t.

        A multivariate normal where the noise is positive definite, a point mass (Pyro's Delta) without noise, else a
        `DegenerateNormal`.
        """
        mean = self.mean(state, action, t)
        return point_mass(mean) if self._covariance is None else self._covariance.around(mean, t, _NAME)

    def noise(self, state_size: int) -> Tensor | None:
        """Gives W, `[T or 1, *batch, n, n]`, or None; see `DifferentiableFactor`."""
        _check_size(self.state_size, state_size)
        return None if self._covariance is None else aligned(self._covariance.value, self._batch, 2)

    def linear_parts(self) -> LinearParts:
        """Gives A, B, c and W; see `LinearDynamics`."""
        if self._linear_parts is not None:
            return self._linear_parts
        offset = self._a.new_zeros(1, self.state_size) if self._offset is None else self._offset
        parts = LinearParts(
            aligned(self._a, self._batch, 2),
            aligned(self._b, self._batch, 2),
            aligned(offset, self._batch, 1),
            self.noise(self.state_size),
        )
        tensors = (parts.a, parts.b, parts.offset, parts.covariance)
        if not any(part is not None and part.requires_grad for part in tensors):
            self._linear_parts = parts  # kept with the matrix that they make
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


def _check_size(own: int, asked: int) -> None:
    if own != asked:
        raise ValueError(f"{_NAME}: has {own} state coordinates, asked for {asked}")
