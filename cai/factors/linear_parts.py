"""What exact linear-Gaussian methods read from factors: dense tensors of one dtype, step by step.

Every part is `[T, *batch, ...]`, or `[1, *batch, ...]` where all steps are alike. The batch dimensions of the parts of
one factor are equally many (ones where a part has none), so that they broadcast with the time axis before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.factors.checks import whole_numbers
from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.problem import homogeneous_dynamics


@dataclass(frozen=True, eq=False)
class LinearParts:
    """x' = A x + B u + c + w, w ~ N(0, W).

    Attributes:
        a: A, `[T or 1, *batch, n, n]`.
        b: B, `[T or 1, *batch, n, m]`.
        offset: c, `[T or 1, *batch, n]`.
        covariance: W, `[T or 1, *batch, n, n]`, or None where there is no noise.
    """

    a: Tensor
    b: Tensor
    offset: Tensor
    covariance: Tensor | None

    @grad_cached_property
    def homogeneous(self) -> Tensor:
        """D of y' = D [x; 1; u], y = [x; 1]: `[T or 1, *batch, n + 1, n + 1 + m]`."""
        return homogeneous_dynamics(self.a, self.b, self.offset)


@dataclass(frozen=True, eq=False)
class QuadraticParts:
    """r = -z' M z / 2, z = [x; 1; u].

    Attributes:
        form: M, symmetric, `[T or 1, *batch, n + 1 + m, n + 1 + m]`.
    """

    form: Tensor


@dataclass(frozen=True, eq=False)
class GaussianPriorParts:
    """mu(u|x) = N(K x + k, S).

    Attributes:
        gain: K, `[T or 1, *batch, m, n]`.
        offset: k, `[T or 1, *batch, m]`.
        covariance: S, positive definite, `[T or 1, *batch, m, m]`.
    """

    gain: Tensor
    offset: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class ObservationParts:
    """y = C x + d + v, v ~ N(0, R), at the times 0..T.

    Attributes:
        c: C, `[T + 1 or 1, *batch, k, n]`.
        offset: d, `[T + 1 or 1, *batch, k]`.
        covariance: R, `[T + 1 or 1, *batch, k, k]`.
    """

    c: Tensor
    offset: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class GaussianMoments:
    """The first state.

    Attributes:
        mean: `[*batch, n]`.
        covariance: `[*batch, n, n]`, positive semi-definite, or None where the state is known; without a batch where
            one serves all means.
    """

    mean: Tensor
    covariance: Tensor | None


def with_batch_dims(part: Tensor, num_dims: int, event_dims: int) -> Tensor:
    """Puts ones between the time axis and the batch, so that there are `num_dims` batch dimensions.

    Args:
        part: `[T or 1, *batch, *event]`.
        num_dims: How many batch dimensions there shall be.
        event_dims: How many dimensions an event has.
    """
    missing = num_dims - (part.dim() - 1 - event_dims)
    return part.reshape(part.shape[0], *[1] * missing, *part.shape[1:])


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Computes M v of `[*batch, m, n]` and `[*batch, n]`, whose batches broadcast: `[*batch, m]`."""
    if matrix.dim() == 2:  # one product for all vectors, many times quicker than one a vector
        return vector @ matrix.mT
    return (matrix @ vector[..., None]).squeeze(-1)


def part_at(part: Tensor, t: Any, event_dims: int, name: str) -> Tensor:
    """Picks the part of a step: `[*batch, *event]`.

    Args:
        part: `[T or 1, *batch, *event]`; one that serves all steps ignores t.
        t: Time, 0..T-1: a whole number of any type; an array or a tensor of times broadcasts with the batch.
        event_dims: How many dimensions an event has.
        name: What to call the factor in an error.

    Raises:
        ValueError: t is no whole number, is outside 0..T-1, or does not broadcast with the batch.
    """
    num_steps = len(part)
    if num_steps == 1:
        return part[0]
    step = t if isinstance(t, int) else whole_numbers(t, f"{name}: t")
    if not isinstance(step, Tensor) or (not isinstance(t, Tensor) and not step.dim()):
        if not 0 <= step < num_steps:
            raise ValueError(f"{name}: t {int(step)} is outside 0..{num_steps - 1}")
        return part[int(step)]
    batch = part.shape[1 : part.dim() - event_dims]
    try:
        torch.broadcast_shapes(step.shape, batch)
    except RuntimeError:
        raise ValueError(f"{name}: t, {list(step.shape)}, does not broadcast with the batch {list(batch)}") from None
    places = [torch.arange(n, device=part.device).reshape(-1, *[1] * (len(batch) - 1 - i)) for i, n in enumerate(batch)]
    step = torch.where(step < 0, num_steps, step).to(part.device)  # else it would count from the end
    try:
        return part[(step[None], *places)][0]  # with a dimension, since vmap cannot index by a single number
    except IndexError:
        raise ValueError(f"{name}: t is outside 0..{num_steps - 1}") from None
