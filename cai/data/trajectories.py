"""Trajectories: a batch of episodes, padded to one length.

`states[n, t]` is the state at time t, `actions[n, t]` and `rewards[n, t]` belong to it; episode n took `lengths[n]`
actions and its last state is `states[n, lengths[n]]`. What stands beyond is padding and is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable


@serializable
@dataclass(frozen=True, eq=False)
class Trajectories:
    """A batch of N episodes of at most T actions.

    Attributes:
        states: `[N, T + 1, ...]`; int64 for discrete states, floating for vectors.
        actions: `[N, T, ...]`.
        rewards: `[N, T]`, reward units, or None.
        lengths: `[N]`, int64, the number of actions taken; T by default.
        terminated: `[N]`, bool, whether the episode ended in the world (value zero beyond); False by default.
        truncated: `[N]`, bool, whether it was cut off (value goes on beyond); by default, what is not terminated.
        observations: `[N, T + 1, ...]`, what was seen where states are hidden, or None; NaN where nothing was.

    Raises:
        ValueError: Shapes that do not fit, lengths outside [0, T], or NaN in what is not padding.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor | None = None
    lengths: Tensor = None  # type: ignore[assignment]
    terminated: Tensor = None  # type: ignore[assignment]
    truncated: Tensor = None  # type: ignore[assignment]
    observations: Tensor | None = None

    def __post_init__(self) -> None:
        states, actions = torch.as_tensor(self.states), torch.as_tensor(self.actions)
        if states.dim() < 2 or actions.dim() < 2:
            raise ValueError(
                f"Trajectories: states must be [N, T + 1, ...] and actions [N, T, ...], got {_shape(states)} and "
                f"{_shape(actions)}"
            )
        num, length = actions.shape[:2]
        if states.shape[:2] != (num, length + 1):
            raise ValueError(
                f"Trajectories: {num} episodes of {length} actions need states of shape [{num}, {length + 1}, ...], "
                f"got {_shape(states)}"
            )
        rewards = None if self.rewards is None else torch.as_tensor(self.rewards)
        lengths = _per_episode(self.lengths, length, actions, torch.int64)
        terminated = _per_episode(self.terminated, False, actions, torch.bool)
        truncated = ~terminated if self.truncated is None else _per_episode(self.truncated, False, actions, torch.bool)
        observations = None if self.observations is None else torch.as_tensor(self.observations)
        values = (states, actions, rewards, lengths, terminated, truncated, observations)
        for name, value in zip(_NAMES, values, strict=True):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        num, length = self.actions.shape[:2]
        if self.rewards is not None and self.rewards.shape != (num, length):
            raise ValueError(f"Trajectories: rewards must be [{num}, {length}], got {_shape(self.rewards)}")
        if self.observations is not None and self.observations.shape[:2] != (num, length + 1):
            raise ValueError(
                f"Trajectories: observations must be [{num}, {length + 1}, ...], got {_shape(self.observations)}"
            )
        outside = (self.lengths < 0) | (self.lengths > length)
        if outside.any():
            first = int(outside.nonzero()[0])
            raise ValueError(f"Trajectories: episode {first} has length {int(self.lengths[first])}, not in 0..{length}")
        for name, mask in (("states", self.state_mask), ("actions", self.mask), ("rewards", self.mask)):
            value = getattr(self, name)
            if value is None or not value.is_floating_point():
                continue
            bad = torch.isnan(value.flatten(2) if value.dim() > 2 else value[..., None]).any(-1) & mask
            if bad.any():
                episode, t = bad.nonzero()[0].tolist()
                raise ValueError(f"Trajectories: {name} of episode {episode} is NaN at time {t}")

    @property
    def mask(self) -> Tensor:
        """Which actions were taken: `[N, T]`, bool."""
        return torch.arange(self.actions.shape[1], device=self.lengths.device) < self.lengths[:, None]

    @property
    def state_mask(self) -> Tensor:
        """Which states were visited: `[N, T + 1]`, bool."""
        return torch.arange(self.states.shape[1], device=self.lengths.device) <= self.lengths[:, None]

    @property
    def num_steps(self) -> int:
        """The number of actions taken, all episodes together."""
        return int(self.lengths.sum())

    def returns(self, discount: float = 1.0) -> Tensor:
        """Computes sum_t discount^t r_t of each episode: `[N]`, reward units.

        Raises:
            ValueError: There are no rewards.
        """
        if self.rewards is None:
            raise ValueError("Trajectories: these have no rewards")
        dtype = self.rewards.dtype if self.rewards.is_floating_point() else torch.float64
        weights = discount ** torch.arange(self.rewards.shape[1], device=self.rewards.device, dtype=torch.float64)
        return (torch.where(self.mask, self.rewards.to(dtype), 0.0) * weights.to(dtype)).sum(1)

    def __len__(self) -> int:
        return self.actions.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Trajectories:
        """Picks episodes; an integer gives a batch of one."""
        if isinstance(index, tuple):
            index = list(index)
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"episode {index} of {len(self)}")
            index = [index]
        return self._map(lambda value: value[index])

    def __iter__(self) -> Iterator[Trajectories]:
        return (self[n] for n in range(len(self)))

    def to(self, device: torch.device | str) -> Trajectories:
        """Moves everything to a device."""
        return self._map(lambda value: value.to(device))

    def _map(self, change: Any) -> Trajectories:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in values.items()}
        return Trajectories(**changed)


_NAMES = ("states", "actions", "rewards", "lengths", "terminated", "truncated", "observations")


def _shape(value: Tensor) -> list[int]:
    return list(value.shape)


def _per_episode(value: Any, default: int | bool, like: Tensor, dtype: torch.dtype) -> Tensor:
    num = len(like)
    if value is None:
        return torch.full((num,), default, dtype=dtype, device=like.device)
    given = torch.as_tensor(value)
    value = given.to(dtype)
    if value.shape != (num,):
        raise ValueError(f"Trajectories: lengths, terminated and truncated must be [{num}], got {_shape(value)}")
    if (value != given).any():
        raise ValueError(f"Trajectories: lengths must be whole numbers and ends True or False, got {given.tolist()}")
    return value
