"""Checks that factors share.

Each error names the factor, what was expected, what came, and the first offending index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

#: How far a row of probabilities may be from one (what float32 tables of some hundred entries lose) to be normalised.
ROW_TOLERANCE = 1e-6


def as_table(value: Any, name: str, dtype: torch.dtype | None) -> Tensor:
    """Makes a dense floating tensor, float64 unless `dtype` says otherwise; a tensor keeps its gradient.

    Raises:
        ValueError: It cannot be read as numbers.
    """
    dtype = table_dtype(dtype, name)
    return as_numbers(value, name).to(dtype)


def as_numbers(value: Any, name: str) -> Tensor:
    """Makes a dense floating tensor of the type given, float64 of other numbers; a tensor keeps its gradient.

    Raises:
        ValueError: It cannot be read as numbers.
    """
    if scipy.sparse.issparse(value):
        raise ValueError(f"{name}: expected a dense array, got a sparse matrix of shape {list(value.shape)}")
    try:
        tensor = own_copy(value)
        if tensor.is_complex():
            raise TypeError("complex numbers")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be read as an array of numbers ({error})") from None
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def table_dtype(dtype: torch.dtype | None, name: str) -> torch.dtype:
    """Gives the type of a table's numbers: float64 by default; ValueError for one that is not floating."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"{name}: dtype must be a floating type, got {dtype}")
    return torch.float64 if dtype is None else dtype


def normalised(rows: Tensor) -> Tensor:
    """Divides rows `[..., n]` by their sums, where more than rounding keeps these from one.

    What is learned is left as it is: its gradient must be that of the numbers given.
    """
    if rows.requires_grad:
        return rows
    sums = rows.sum(-1, keepdim=True)
    return torch.where(needs_normalising(sums), rows / sums, rows)


def needs_normalising(sums: Tensor) -> Tensor:
    """Says which row sums, checked already, are off by more than rounding: bool, as `sums`."""
    return ((sums - 1.0).abs() > 64 * torch.finfo(sums.dtype).eps) & (sums > 0)


def index_of_first(bad: Tensor) -> list[int]:
    """Gives the index of the first True."""
    return bad.nonzero()[0].tolist()


def check_finite(value: Tensor, name: str, axes: Sequence[str]) -> None:
    """Raises ValueError at the first NaN or infinity, naming its place along the axes."""
    bad = ~torch.isfinite(value.detach())
    if bad.any():
        index = index_of_first(bad)
        found = value.detach()[tuple(index)].item()
        raise ValueError(f"{name}: ({place(axes, index)}) is {found}; every value must be finite")


def check_rows(rows: Tensor, name: str, axes: Sequence[str], skip: Tensor | None = None) -> None:
    """Raises ValueError at the first row (last dimension) that is not a distribution.

    Args:
        rows: `[..., n]`, or row sums `[...]` of entries checked already, if `axes` has as many names as dimensions.
        name: What to call the table.
        axes: Names of the dimensions before the last.
        skip: `[...]`, bool, rows that need not be distributions.
    """
    rows = rows.detach()
    skip = torch.zeros(rows.shape[:-1], dtype=torch.bool, device=rows.device) if skip is None else skip
    check_finite(rows, name, [*axes, "entry"])
    negative = (rows < 0).any(-1)
    if negative.any():
        index = index_of_first(negative)
        lowest = rows[tuple(index)].min().item()
        raise ValueError(f"{name} row ({place(axes, index)}) has a negative probability {lowest:.6g}")
    check_sums(rows.sum(-1), name, axes, skip)


def check_sums(sums: Tensor, name: str, axes: Sequence[str], skip: Tensor, *, first: int = 0) -> None:
    """Raises ValueError at the first row sum `[...]` that is not one, saying by how much.

    Args:
        sums: `[...]`.
        name: What to call the table.
        axes: Names of the dimensions.
        skip: `[...]`, bool, rows that need not be distributions.
        first: What index 0 of the first dimension is, in the whole table.
    """
    off = ((sums.detach() - 1.0).abs() > ROW_TOLERANCE) & ~skip
    if off.any():
        index = index_of_first(off)
        found = sums.detach()[tuple(index)].item()
        where = f" row ({place(axes, [first + index[0], *index[1:]])})" if axes else ""
        raise ValueError(f"{name}{where} sums to {found:.6g}, not 1 (off by {found - 1:+.3g})")


def check_probabilities(entries: Tensor, name_of: Callable[[int], str]) -> None:
    """Raises ValueError at the first entry `[n]` that is not finite, or negative.

    Args:
        entries: Probabilities.
        name_of: Names the row of an entry, by its number.
    """
    if not entries.numel() or 0.0 <= entries.min() <= entries.max() < torch.inf:  # no mask is made of what is right
        return
    for bad, fault in ((~torch.isfinite(entries), "holds"), (entries < 0, "has a negative probability")):
        if bad.any():
            first = index_of_first(bad)[0]
            raise ValueError(f"{name_of(first)} {fault} {entries[first].item():.6g}")


def check_kept(entries: Tensor, dtype: torch.dtype, name_of: Callable[[int], str]) -> None:
    """Raises ValueError at the first possible entry whose probability a narrower type than float64 would lose.

    A number below the least normal one becomes zero, a possible transition impossible, or it loses its digits.

    Args:
        entries: Probabilities, `[...]`.
        dtype: The type to be cast to.
        name_of: Names the row of an entry, by its number in the flat table.
    """
    entries, least = entries.detach().flatten(), torch.finfo(dtype).tiny
    if torch.finfo(dtype).bits >= 64 or not entries.numel() or entries.min() >= least:
        return
    lost = (entries > 0) & (entries < least)
    if lost.any():
        first = index_of_first(lost)[0]
        raise ValueError(
            f"{name_of(first)} has a transition of probability {entries[first].item():.6g}, which {dtype} would lose: "
            f"its least number of full precision is {least:.3g}; take dtype=torch.float64, or a probability of zero"
        )


def check_range(values: Tensor, dtype: torch.dtype, name_of: Callable[[int], str]) -> None:
    """Raises ValueError at the first finite value that is beyond the range of a narrower type.

    Args:
        values: `[...]`.
        dtype: The type to be cast to.
        name_of: Names an entry, by its number in the flat table.
    """
    values, greatest = values.detach().flatten(), torch.finfo(dtype).max
    if greatest >= torch.finfo(values.dtype).max or not values.numel():
        return
    if -greatest <= values.min() <= values.max() <= greatest:
        return
    first = index_of_first(values.abs() > greatest)[0]
    raise ValueError(
        f"{name_of(first)} is {values[first].item():.6g}, beyond the range of {dtype}, {greatest:.3g}; "
        "take dtype=torch.float64, or other units"
    )


def place(axes: Sequence[str], index: Sequence[int]) -> str:
    """Writes an index with the names of its axes: "state 3, action 1"."""
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))


def place_of(entry: int, shape: Sequence[int], axes: Sequence[str]) -> str:
    """Writes the place of an entry of a flat table of this shape, along its first axes."""
    index = [int(i) for i in np.unravel_index(entry, tuple(shape))]
    return place(axes, index[: len(axes)])


def state_index(state: Any, num_states: int, name: str = "state") -> Tensor:
    """Reads one state or any batch of states as int64, from numbers, arrays or tensors of any type.

    Raises:
        ValueError: Not whole numbers, or outside [0, num_states).
    """
    index = whole_numbers(state, name)
    outside = (index < 0) | (index >= num_states)
    if outside.any():
        raise ValueError(f"{name} {index[outside].flatten()[0].item()} is outside 0..{num_states - 1}")
    return index


def whole_numbers(values: Any, name: str) -> Tensor:
    """Reads whole numbers of any type as int64; ValueError for others."""
    try:
        tensor = torch.as_tensor(np.asarray(values) if not isinstance(values, Tensor) else values)
        if tensor.is_complex():
            raise TypeError("complex numbers")
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be whole numbers, got {values!r}") from None
    whole = tensor.to(torch.int64)
    if tensor.is_floating_point() and (tensor != whole).any():
        raise ValueError(f"{name} must be whole numbers, got {tensor[tensor != whole].flatten()[0].item()}")
    return whole


def table_at(tables: Any, t: int, num_steps: int | None, name: str) -> Any:
    """Picks the table of step t: the only one, or one of T.

    Raises:
        ValueError: t is outside 0..T-1.
    """
    if num_steps is None:
        return tables[0]
    return tables[int(state_index(t, num_steps, f"{name}: t"))]


def own_copy(value: Any) -> Tensor:
    """Makes a tensor that no later change of the user's array reaches; one that learns is kept as it is."""
    if not isinstance(value, Tensor):
        return torch.as_tensor(np.array(value))
    return value if value.requires_grad else value.clone()


def weights_to_categorical(weights: Tensor) -> torch.distributions.Categorical:
    """Makes a distribution of weights `[..., n]`, with probability exactly zero where the weight is.

    `torch.distributions.Categorical(probs=...)` raises a zero to the machine's epsilon, which exact inference at a low
    temperature amplifies to certainty; hence logits.
    """
    positive = weights > 0
    logits = torch.where(positive, torch.where(positive, weights, 1.0).log(), -torch.inf)
    return torch.distributions.Categorical(logits=logits)
