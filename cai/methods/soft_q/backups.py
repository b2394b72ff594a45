"""Backups as option objects: what the next state is worth, of a slow copy of Q and the learned Q.

    SoftBackup     V = alpha log sum_a mu exp(Q_target / alpha)
    DoubleBackup   V = E_{a~pi} [Q_target - alpha log(pi / mu)],     pi = mu exp((Q - V) / alpha) of the learned Q
    TwinBackup     V = alpha log sum_a mu exp(min_i Q_target_i / alpha)

A maximum of noisy values is too high, and a soft maximum too, by less. The double backup does not choose by the noise
that it reads, and is never above the soft one; the twin backup takes the least of two networks, before the soft
maximum. All have the same fixed point. At temperature 0 the first is that of DQN, the second that of double DQN.

Sources: Mnih et al. (2015); van Hasselt, Guez and Silver (2016); Fujimoto et al. (2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.ops.soft_values import soft_log_policy, soft_value


class AbstractBackup(ABC):
    """Says what a state is worth.

    Attributes:
        num_critics: How many networks it wants.
    """

    num_critics: ClassVar[int] = 1

    @abstractmethod
    def value(self, target: Tensor, online: Callable[[], Tensor], log_prior: Tensor, temperature: float) -> Tensor:
        """Computes the value V(s) of each state.

        Args:
            target: Q(s, .) of the slow copies, `[C, B, A]`, reward units.
            online: Gives Q(s, .) of the learned networks, `[C, B, A]`; called only where it is needed.
            log_prior: log mu, `[B, A]` or `[A]`, nats.
            temperature: alpha, reward units.

        Returns:
            `[B]`, reward units.
        """


@serializable
@dataclass(frozen=True)
class SoftBackup(AbstractBackup):
    """The soft maximum of the slow copy."""

    def value(self, target: Tensor, online: Callable[[], Tensor], log_prior: Tensor, temperature: float) -> Tensor:
        """Computes the value V(s) of each state."""
        return soft_value(target[0], log_prior, temperature)


@serializable
@dataclass(frozen=True)
class DoubleBackup(AbstractBackup):
    """The learned Q's policy, at the slow copy's values."""

    def value(self, target: Tensor, online: Callable[[], Tensor], log_prior: Tensor, temperature: float) -> Tensor:
        """Computes the value V(s) of each state."""
        chooses = online()[0]
        if temperature == 0.0:
            allowed = torch.where(torch.isneginf(log_prior), -torch.inf, chooses)
            return target[0].gather(-1, allowed.argmax(-1, keepdim=True)).squeeze(-1)
        log_probs = soft_log_policy(chooses, log_prior, temperature)
        ratios = torch.where(torch.isneginf(log_probs), 0.0, log_probs - log_prior)
        return (log_probs.exp() * (target[0] - temperature * ratios)).sum(-1)


@serializable
@dataclass(frozen=True)
class TwinBackup(AbstractBackup):
    """The soft maximum of the least of two slow copies."""

    num_critics: ClassVar[int] = 2

    def value(self, target: Tensor, online: Callable[[], Tensor], log_prior: Tensor, temperature: float) -> Tensor:
        """Computes the value V(s) of each state."""
        return soft_value(target.amin(0), log_prior, temperature)
