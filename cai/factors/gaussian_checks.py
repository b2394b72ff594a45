"""Reading the parts of Gaussian factors: shapes, steps and batches that fit each other.

A part is given as `[*batch, *event]`, or with a time axis of T or 1 before the batch where the factor is made
`per_step`; it is kept as `[T or 1, *batch, *event]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cai.factors.checks import as_numbers, check_finite, table_dtype
from cai.factors.covariance import Covariance, check_covariance
from cai.factors.linear_parts import with_batch_dims
from cai.factors.part import Part


def read_part(value: Any, name: str, event: tuple[str, ...], *, dtype: torch.dtype | None, time_varying: bool) -> Part:
    """Reads a part: `[T or 1, *batch, *event]`, finite; a tensor that learns is kept as it is.

    Args:
        value: A tensor, an array or nested lists.
        name: What to call it.
        event: The names of its last dimensions, such as `("n", "m")`.
        dtype: float64 by default.
        time_varying: Whether it has a time axis.

    Raises:
        ValueError: Too few dimensions, an empty one, or an entry that is not finite.
    """
    dtype = table_dtype(dtype, name)
    given = as_numbers(value, name)
    given = given if given.requires_grad else given.to(dtype)
    written = ", ".join([*(["T"] if time_varying else []), "*batch", *event])
    if given.dim() < len(event) + time_varying or not given.numel():
        raise ValueError(f"{name}: expected [{written}], got {list(given.shape)}")
    axes = axes_of(given.dim() - len(event), time_varying=time_varying)
    check_finite(given, name, [*axes, *_event_axes(event)])
    return Part(given, dtype, time_varying=time_varying)


def read_covariance(
    value: Any, name: str, size: int | None, like: str, *, dtype: torch.dtype | None, time_varying: bool
) -> Covariance:
    """Reads a covariance of `size` coordinates, which is what `like` says; None takes any size.

    Raises:
        ValueError: A wrong size, or not symmetric positive semi-definite: where, and its least eigenvalue.
    """
    part = read_part(value, name, ("n", "n"), dtype=dtype, time_varying=time_varying)
    size = part.shape[-1] if size is None else size
    if part.shape[-2:] != (size, size):
        shape = list(part.shape if time_varying else part.shape[1:])
        raise ValueError(f"{name} is {shape}, {like} needs [{size}, {size}]")
    axes = axes_of(part.shown.dim() - 2, time_varying=time_varying)
    check_covariance(part.shown, name, axes)
    return Covariance(part, name, axes)


def axes_of(num_dims: int, *, time_varying: bool) -> list[str]:
    """Names the dimensions before the event."""
    num_batch = num_dims - time_varying
    batch = ["batch"] if num_batch == 1 else [f"batch dimension {i}" for i in range(num_batch)]
    return [*(["time"] if time_varying else []), *batch]


def common_steps(owner: str, parts: Mapping[str, Part]) -> int | None:
    """Gives the number of steps T of parts `[T or 1, ...]`, or None where each serves all steps.

    Raises:
        ValueError: Two parts are for different numbers of steps.
    """
    longest = max(parts, key=lambda name: parts[name].num_steps)
    num_steps = parts[longest].num_steps
    for name, part in parts.items():
        if part.num_steps not in (1, num_steps):
            raise ValueError(f"{owner}: {name} is for {part.num_steps} steps, {longest} for {num_steps}")
    return None if num_steps == 1 else num_steps


def common_batch(owner: str, shapes: Mapping[str, tuple[int, ...]]) -> torch.Size:
    """Gives the batch that all batch shapes broadcast to.

    Raises:
        ValueError: Two do not: which.
    """
    batch, first = torch.Size(), ""
    for name, shape in shapes.items():
        try:
            batch = torch.broadcast_shapes(batch, shape)
        except RuntimeError:
            raise ValueError(
                f"{owner}: the batch {list(shape)} of {name} does not broadcast with {list(batch)} of {first}"
            ) from None
        if shape:
            first = f"{first}, {name}" if first else name
    return batch


def batches_of(parts: Mapping[str, Part], event_dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Gives the batch shape of each part `[T or 1, *batch, *event]`."""
    return {name: tuple(part.batch_shape(event_dims[name])) for name, part in parts.items()}


def aligned(part: Tensor, batch: torch.Size, event_dims: int) -> Tensor:
    """Gives a part as many batch dimensions as the factor has."""
    return with_batch_dims(part, len(batch), event_dims)


def as_vector(value: Any, size: int | None, like: Tensor | None, name: str) -> Tensor:
    """Reads states or actions `[..., n]` as floating numbers, of the dtype and device of `like` where it is given.

    Raises:
        ValueError: Not numbers, no vector, or another size than the factor's.
    """
    vector = value if isinstance(value, Tensor) and value.is_floating_point() else as_numbers(value, name)
    if not vector.dim() or (size is not None and vector.shape[-1] != size):
        expected = "[..., n]" if size is None else f"[..., {size}]"
        raise ValueError(f"{name}: expected {expected}, got {list(vector.shape)}")
    return vector if like is None else vector.to(like)


def _event_axes(event: tuple[str, ...]) -> list[str]:
    return {0: [], 1: ["coordinate"], 2: ["row", "column"]}[len(event)]
