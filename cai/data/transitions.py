"""Transitions: a batch of single steps, or of n steps in a row, as learners from samples take them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


class SteppedCopies(Protocol):
    """What one step of E copies of a world gives: numpy arrays with one row a copy."""

    @property
    def states(self) -> NDArray:
        """Where each copy was, `[E, ...]`."""

    @property
    def actions(self) -> NDArray:
        """What was done, `[E, ...]`."""

    @property
    def rewards(self) -> NDArray:
        """What it gave, `[E]`, reward units."""

    @property
    def next_states(self) -> NDArray:
        """Where it led: true successors, never the state after a reset, `[E, ...]`."""

    @property
    def terminated(self) -> NDArray:
        """Whether the world ended there, `[E]`, bool."""

    @property
    def truncated(self) -> NDArray:
        """Whether the episode was cut off there, `[E]`, bool."""

    @property
    def valid(self) -> NDArray:
        """Whether the row is a transition at all, not a reset, `[E]`, bool."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """A batch of B transitions of n steps each, fewer where an episode ends.

    They are what the soft n-step target needs: rewards - alpha log_ratios + discounts (1 - terminated) V(next_states).

    Attributes:
        states: `[B, ...]`.
        actions: `[B, ...]`, the first action of each.
        rewards: `[B]`, sum_{k<n} gamma^k r_k, reward units.
        next_states: `[B, ...]`, where the last step led; the true successor.
        terminated: `[B]`, bool, whether the world ended there, so that nothing beyond has a value.
        discounts: `[B]`, gamma^n of the steps that were taken.
        log_ratios: `[B]`, sum_{1<=k<n} gamma^k log(pi/mu) of the later actions when they were chosen, nats.
        weights: `[B]`, importance weights of the way they were drawn; ones where that was uniform.
        indices: `[B]`, int64, where they stand in the buffer.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor
    discounts: Tensor
    log_ratios: Tensor
    weights: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Transitions:
        """Moves everything to a device."""
        if self.rewards.device == torch.device(device):  # the rule, at every update
            return self
        return Transitions(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})
