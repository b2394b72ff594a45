"""Random segments of experience, and what stands at a row of one: loops over single steps, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHAPES = [(1,), (7,), (33, 1), (20, 3), (12, 2, 3)]


@dataclass(frozen=True, eq=False)
class Segment:
    """T steps of some copies, `[T, ...]` each; log-ratios serve as importance weights too."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    log_ratios: Tensor
    terminated: Tensor
    ended: Tensor


def random_segment(shape: tuple[int, ...], seed: int) -> Segment:
    """A segment with ends of both kinds, also at once; nobody may read V behind a termination, so it is NaN there."""
    rng = np.random.default_rng(seed)
    numbers = [torch.as_tensor(rng.normal(size=shape)) for _ in range(4)]
    terminated = torch.as_tensor(rng.random(shape) < 0.15)
    ended = terminated | torch.as_tensor(rng.random(shape) < 0.15)
    numbers[2][terminated] = torch.nan
    return Segment(*numbers, terminated, ended)


def steps_from(segment: Segment, row: tuple[int, ...], num_steps: int | None = None) -> Iterator[tuple[int, ...]]:
    """The rows from one on, itself first, up to the end of its episode, of the segment, or of so many steps."""
    t, *copy = row
    last = len(segment.rewards) - 1
    for k in range(t, last + 1 if num_steps is None else min(last + 1, t + num_steps)):
        yield (k, *copy)
        if segment.ended[(k, *copy)]:
            return


def beyond(segment: Segment, row: tuple[int, ...]) -> float:
    """V of the state after a row, zero where the world ended."""
    return 0.0 if segment.terminated[row] else float(segment.next_values[row])


def at_every_row(segment: Segment, value: Callable[[tuple[int, ...]], float]) -> Tensor:
    """A tensor `[T, ...]` of what a function gives for the index of each row."""
    found = np.empty(segment.rewards.shape)
    for row in np.ndindex(*found.shape):
        found[row] = value(row)
    return torch.as_tensor(found)
