"""What an error costs, as option objects: functions of errors in reward units, row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.data.serialization import serializable


class AbstractLoss(ABC):
    """A function of errors."""

    @abstractmethod
    def __call__(self, errors: Tensor) -> Tensor:
        """Computes the loss of each error, of the shape of the errors."""


@serializable
@dataclass(frozen=True)
class SquaredLoss(AbstractLoss):
    """Half the squared error: its gradient is the error, its minimum the mean."""

    def __call__(self, errors: Tensor) -> Tensor:
        """Computes e^2 / 2."""
        return errors.square() * 0.5


@serializable
@dataclass(frozen=True)
class HuberLoss(AbstractLoss):
    """Half the squared error up to a threshold, and linear beyond: no transition pulls harder than the threshold.

    Its minimum is not the mean: where returns are noisy beyond the threshold, values are biased towards the median.

    Attributes:
        threshold: Reward units.

    Source: Huber (1964); Mnih et al. (2015).
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not self.threshold > 0.0:
            raise ValueError(f"HuberLoss: threshold must be positive, got {self.threshold!r}")

    def __call__(self, errors: Tensor) -> Tensor:
        """Computes e^2 / 2, or threshold (|e| - threshold / 2) beyond the threshold."""
        zeros = torch.zeros((), dtype=errors.dtype, device=errors.device).expand_as(errors)
        return torch.nn.functional.huber_loss(errors, zeros, reduction="none", delta=self.threshold)
