"""Which messages of a sweep are passed on: schedules for `LoopyBeliefPropagation`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from cai.data.serialization import serializable
from cai.ops.loopy import Change, Messages


class Schedule(Protocol):
    """A choice among new messages."""

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Chooses the messages to go on with, some of the old, some of the new.

        Args:
            old: `[c, E]` a cardinality.
            new: The same of the next sweep.
            change: Computes the absolute change of each entry, nats, of the old and the new `[c, E]` of a cardinality.
        """


@serializable
@dataclass(frozen=True)
class Flooding:
    """All messages at once: the fewest sweeps where they settle; on frustrated loops they may swing for ever."""

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Gives the new messages, `[c, E]` a cardinality."""
        return new


@serializable
@dataclass(frozen=True)
class Residual:
    """Only the messages that would change most: more sweeps, and convergence on many graphs where flooding swings.

    All new messages are computed at once, and those of the greatest residual max_x |log m_new - log m_old| replace the
    old ones. One at a time is residual belief propagation; a share of them keeps the work in few large operations.

    Attributes:
        fraction: Share of all messages that a sweep replaces, in (0, 1].

    Source: Elidan, McGraw and Koller (2006); Van der Merwe, Joseph and Gopalakrishnan (2019) for many at a time.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"Residual: fraction must lie in (0, 1], got {self.fraction}")

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Gives the old messages, `[c, E]` a cardinality, with those of the greatest residual replaced."""
        if not old:
            return new
        residuals = torch.cat([change(*pair).amax(0) for pair in zip(old, new, strict=True)])
        chosen = torch.zeros_like(residuals, dtype=torch.bool)
        chosen[residuals.topk(math.ceil(self.fraction * residuals.numel())).indices] = True
        of_kind = chosen.split([message.shape[1] for message in old])
        return tuple(torch.where(mask, fresh, stale) for mask, fresh, stale in zip(of_kind, new, old, strict=True))
