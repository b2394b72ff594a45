"""What linear-Gaussian factors share: an affine mean of one or several vectors, and a covariance around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cai.factors.covariance import Covariance, point_mass
from cai.factors.gaussian_checks import (
    aligned,
    as_vector,
    batches_of,
    common_batch,
    common_steps,
    read_covariance,
    read_part,
)
from cai.factors.linear_parts import part_at, times
from cai.factors.part import Part, keeps_answers


class AffineGaussian:
    """y = M_1 x_1 + M_2 x_2 + ... + d + v, v ~ N(0, S), its parts read and checked against each other.

    Args:
        name: What to call the factor in an error.
        matrices: M_i by name, `[*batch, k, n_i]`; with a time axis of T or 1 before the batch where it varies.
        axes: The names of k and n_i for each matrix, such as `("n", "m")`.
        offset: d, `[*batch, k]`, or None for zero.
        covariance: S, `[*batch, k, k]`, symmetric and positive semi-definite, or None for zero.
        dtype: float64 by default.
        time_varying: Whether the parts have a time axis.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or a covariance that is not symmetric positive
            semi-definite: where, and its least eigenvalue.
    """

    def __init__(
        self,
        name: str,
        matrices: Mapping[str, Any],
        axes: Mapping[str, tuple[str, str]],
        offset: Any,
        covariance: Any,
        *,
        dtype: torch.dtype | None,
        time_varying: bool,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "time_varying": time_varying}
        self.name, self.time_varying = name, time_varying
        self.matrices: dict[str, Part] = {
            key: read_part(value, f"{name} {key}", axes[key], **options) for key, value in matrices.items()
        }
        first, leader = next(iter(self.matrices.items()))
        self.size, like = leader.shape[-2], f"{first} {list(leader.shape[-2:])}"
        for key, matrix in self.matrices.items():
            if matrix.shape[-2] != self.size:
                needed = f"[{self.size}, {axes[key][1]}]"
                raise ValueError(f"{name} {key} is {list(matrix.shape[-2:])}, {like} needs {needed}")
        parts, dims = dict(self.matrices), dict.fromkeys(self.matrices, 2) | {"offset": 1, "covariance": 2}
        self.noise: Covariance | None = None
        self._offset: Part | None = None
        if covariance is not None:
            self.noise = read_covariance(covariance, f"{name} covariance", self.size, like, **options)
            parts["covariance"] = self.noise.part
        if offset is not None:
            self._offset = parts["offset"] = read_part(offset, f"{name} offset", axes[first][:1], **options)
            if self._offset.shape[-1] != self.size:
                raise ValueError(f"{name} offset has {self._offset.shape[-1]} coordinates, {like} needs {self.size}")
        self.num_steps = common_steps(name, parts)  # None where they serve all
        self.batch_shape = common_batch(name, batches_of(parts, dims))
        self._parts = list(parts.values())

    @property
    def keeps_answers(self) -> bool:
        """Whether what is made of the parts may be kept; see `cai.factors.part`."""
        return keeps_answers(self._parts)

    def matrix(self, key: str) -> Tensor:
        """Gives a matrix as it was given, `[*batch, k, n_i]`, with its time axis where it varies."""
        return self.matrices[key].shown

    @property
    def offset(self) -> Tensor | None:
        """The offset d as it was given, or None."""
        return None if self._offset is None else self._offset.shown

    @property
    def covariance(self) -> Tensor | None:
        """S, symmetric, with its time axis where it varies, or None."""
        if self.noise is None:
            return None
        return self.noise.value if self.time_varying else self.noise.value[0]

    def mean(self, vectors: Mapping[str, tuple[str, Any]], t: int | Tensor) -> Tensor:
        """Computes sum_i M_i x_i + d: `[..., k]`.

        Args:
            vectors: For each matrix what its vector is called, and the vector `[..., n_i]`.
            t: Time; a tensor broadcasts with the batch.
        """
        mean: Tensor | None = None
        for key, (called, vector) in vectors.items():
            matrix = self.matrices[key].value
            vector = as_vector(vector, matrix.shape[-1], matrix, f"{self.name}: {called}")
            moved = times(part_at(matrix, t, 2, self.name), vector)
            mean = moved if mean is None else mean + moved
        assert mean is not None
        return mean if self._offset is None else mean + part_at(self._offset.value, t, 1, self.name)

    def around(self, mean: Tensor, t: int | Tensor) -> torch.distributions.Distribution:
        """Gives N(mean, S).

        A multivariate normal where S is positive definite, a point mass (Pyro's Delta) where it is zero, else a
        `DegenerateNormal`.
        """
        return point_mass(mean) if self.noise is None else self.noise.around(mean, t, self.name)

    def aligned_matrix(self, key: str) -> Tensor:
        """A matrix with as many batch dimensions as the factor has: `[T or 1, *batch, k, n_i]`."""
        return aligned(self.matrices[key].value, self.batch_shape, 2)

    def aligned_offset(self) -> Tensor:
        """d, or zeros: `[T or 1, *batch, k]`."""
        if self._offset is not None:
            return aligned(self._offset.value, self.batch_shape, 1)
        like = next(iter(self.matrices.values())).value
        return aligned(like.new_zeros(1, self.size), self.batch_shape, 1)

    def aligned_covariance(self) -> Tensor | None:
        """S: `[T or 1, *batch, k, k]`, or None."""
        return None if self.noise is None else aligned(self.noise.value, self.batch_shape, 2)
