"""Segments of experience, time first: where they are cut, sums over windows, and recursions without a loop over time.

y_t = x_t + f_t y_{t+1}        w_t = first_t + sum_{1<=k<n_t} gamma^k later_{t+k}        gamma^n V(s_{t+n})
"""

from __future__ import annotations

import torch
from torch import Tensor


def reverse_recursion(inputs: Tensor, factors: Tensor) -> Tensor:
    """Solves y_t = x_t + f_t y_{t+1} with nothing after the last row, in log2 T passes.

    A pass doubles the number of later rows that every row has taken in: x_t + f_t x_{t+s} and f_t f_{t+s} stand for 2s
    rows where x and f stood for s. It is quicker than a loop from some thirty rows on, at 1,000 rows twenty times.

    Args:
        inputs: x, `[T, ...]`.
        factors: f, `[T, ...]`.

    Returns:
        y, `[T, ...]`.

    Source: Blelloch (1990).
    """
    step = 1
    while step < len(inputs):
        taken = torch.addcmul(inputs[:-step], factors[:-step], inputs[step:])
        inputs = torch.cat([taken, inputs[-step:]])
        factors = torch.cat([factors[:-step] * factors[step:], factors[-step:]])
        step *= 2
    return inputs


def cuts(terminated: Tensor, ended: Tensor) -> Tensor:
    """Says after which rows nothing of the segment follows: `[T, ...]`, bool; ends, and the last row."""
    cut = terminated | ended
    cut[-1] = True
    return cut


def window_lengths(cut: Tensor, num_steps: int) -> Tensor:
    """Counts the steps from every row up to the next cut, at most `num_steps`: `[T, ...]`, int64, at least 1."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    now = times(cut)
    next_cut = torch.where(cut, now, len(cut)).flip(0).cummin(0).values.flip(0)
    return (next_cut - now + 1).clamp(max=num_steps)


def window_sums(first: Tensor, later: Tensor, windows: Tensor, discount: float) -> Tensor:
    """Computes first_t + sum_{1<=k<n_t} discount^k later_{t+k}: `[T, ...]`; n are window lengths `[T, ...]`."""
    total = first.clone()
    for k in range(1, int(windows.max())):
        total[:-k] += torch.where(windows[:-k] > k, discount**k * later[k:], 0.0)
    return total


def values_ahead(next_values: Tensor, terminated: Tensor, windows: Tensor, discount: float) -> Tensor:
    """Computes discount^n V of the state that a window of n steps leads to: `[T, ...]`, zero where that is terminal."""
    last = times(windows) + windows - 1
    ahead = torch.where(terminated, 0.0, next_values).gather(0, last)
    return torch.pow(discount, windows.to(next_values.dtype)) * ahead


def need_same_shapes(**tensors: Tensor) -> None:
    """Raises ValueError, naming the argument, unless all are `[T, ...]` of one shape with at least one step."""
    names = list(tensors)
    shape = tensors[names[0]].shape
    for name in names[1:]:
        if tensors[name].shape != shape:
            raise ValueError(
                f"{name} must have the shape of {names[0]}, {list(shape)}, got {list(tensors[name].shape)}"
            )
    if not shape or not shape[0]:
        raise ValueError(f"{names[0]} must be [T, ...] with at least one step, got {list(shape)}")


def times(like: Tensor) -> Tensor:
    """Gives the number of every row, `[T, ...]`, int64."""
    return torch.arange(len(like), device=like.device).reshape(-1, *[1] * (like.dim() - 1)).expand(like.shape)
