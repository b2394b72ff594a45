"""Memories of whole rollouts: off-policy learning from paths needs what followed what.

    uniform        p_i = 1 / N
    by return      p_i = share / N + (1 - share) exp(R_i / scale) / sum_j exp(R_j / scale)

Source: Nachum, Norouzi, Xu and Schuurmans (2017), section 5.1 and appendix B.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.on_policy import Rollout, rollout_of
from cai.methods.sampling.records import records_of


class RolloutBuffer:
    """A ring of the rollouts of single copies, the newest in the place of the oldest.

    Args:
        capacity: The most rollouts held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._columns: dict[str, Tensor] = {}
        self._size = self._next = 0

    def __len__(self) -> int:
        return self._size

    @property
    def returns(self) -> Tensor:
        """Sum of the rewards of each rollout, `[N]`, reward units."""
        return torch.where(self._columns["valid"], self._columns["rewards"], 0.0)[: self._size].sum(1)

    def add(self, rollout: Rollout) -> None:
        """Adds the rollouts of all copies; all that are ever added have the same number of steps."""
        rows = {name: value.detach().cpu().movedim(1, 0) for name, value in vars(rollout).items()}
        num = len(rows["rewards"])
        if not self._columns:
            self._columns = {name: value.new_zeros((self.capacity, *value.shape[1:])) for name, value in rows.items()}
        where = (self._next + torch.arange(num)) % self.capacity
        for name, value in rows.items():
            self._columns[name][where[-self.capacity :]] = value[-self.capacity :]
        self._next = (self._next + num) % self.capacity
        self._size = min(self._size + num, self.capacity)

    def take(self, indices: Tensor) -> Rollout:
        """Gives some of them, side by side: those of `[B]` as `[L, B, ...]`."""
        return Rollout(**{name: column[indices].movedim(0, 1) for name, column in self._columns.items()})

    def memory(self) -> dict[str, Any]:
        """Copies what is needed to go on, filled rows only."""
        columns = {name: column[: self._size].clone() for name, column in self._columns.items()}
        return {"columns": columns, "next": self._next}

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave."""
        self._columns, self._size = {}, 0
        for name, rows in memory["columns"].items():
            self._columns[name] = rows.new_zeros((self.capacity, *rows.shape[1:]))
            self._columns[name][: len(rows)] = rows
            self._size = len(rows)
        self._next = int(memory["next"])


def recorded_rollouts(graph: TrajectoryGraph, num_steps: int) -> RolloutBuffer:
    """Cuts the recorded trajectories of a graph into rollouts of `num_steps` steps each, the last padded."""
    records = records_of(graph)
    num, length = records.valid.shape
    whole = rollout_of(list(records.steps()), [np.zeros(num, dtype=np.float32)] * length)
    pieces = [_padded(whole, start, num_steps) for start in range(0, length, num_steps)]
    buffer = RolloutBuffer(sum(len(piece.rewards[0]) for piece in pieces))
    for piece in pieces:
        buffer.add(piece)
    return buffer


def _padded(whole: Rollout, start: int, num_steps: int) -> Rollout:
    """The steps from `start` on, of the copies that have any; rows beyond the end are not valid."""
    places = (start + torch.arange(num_steps)).clamp(max=len(whole.rewards) - 1)
    beyond = start + torch.arange(num_steps) >= len(whole.rewards)
    columns = {name: value[places] for name, value in vars(whole).items()}
    columns["valid"] = columns["valid"] & ~beyond[:, None]
    kept = columns["valid"].any(0)
    return Rollout(**{name: value[:, kept] for name, value in columns.items()})


class AbstractRolloutReplay(ABC):
    """Says which rollouts are kept, and how they are drawn.

    Attributes:
        capacity: The most rollouts of single copies that are kept.
        kept: Whether checkpoints keep them.
    """

    capacity: int
    kept: bool

    def buffer(self) -> RolloutBuffer:
        """Makes the memory, empty."""
        return RolloutBuffer(self.capacity)

    @abstractmethod
    def sample(self, buffer: RolloutBuffer, num: int) -> Rollout:
        """Draws rollouts with replacement, side by side, `[L, num, ...]`; from torch's generator."""


@serializable
@dataclass(frozen=True)
class UniformRolloutReplay(AbstractRolloutReplay):
    """The last rollouts, equally often.

    Attributes:
        capacity: The most rollouts of single copies that are kept.
        kept: Whether checkpoints keep them.
    """

    capacity: int = 2_000
    kept: bool = True

    def sample(self, buffer: RolloutBuffer, num: int) -> Rollout:
        """Draws rollouts uniformly, `[L, num, ...]`."""
        return buffer.take(torch.randint(len(buffer), (num,)))


@serializable
@dataclass(frozen=True)
class ReturnRolloutReplay(AbstractRolloutReplay):
    """The last rollouts, those with more reward more often.

    What is learned stays right, since the residual is zero on every path; where the world is noisy it also prefers
    luck.

    Attributes:
        capacity: The most rollouts of single copies that are kept.
        scale: Reward units by which a rollout must be better to be drawn e times as often.
        share: The share of draws that are uniform, in [0, 1].
        kept: Whether checkpoints keep them.
    """

    capacity: int = 2_000
    scale: float = 1.0
    share: float = 0.1
    kept: bool = True

    def __post_init__(self) -> None:
        if not (self.scale > 0.0 and 0.0 <= self.share <= 1.0):
            raise ValueError(
                f"ReturnRolloutReplay: scale must be positive and share in [0, 1], got {self.scale} and {self.share}"
            )

    def sample(self, buffer: RolloutBuffer, num: int) -> Rollout:
        """Draws rollouts, `[L, num, ...]`."""
        preferred = torch.softmax(buffer.returns.to(torch.float64) / self.scale, 0)
        probs = self.share / len(buffer) + (1.0 - self.share) * preferred
        return buffer.take(torch.multinomial(probs, num, replacement=True))
