"""Step sizes of stochastic approximation, as option objects: how far the n-th update of an entry goes.

They must not be summable, or the start is never forgotten, and their squares must be, or noise never averages out
(Robbins and Monro, 1951).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from cai.data.serialization import serializable


class AbstractStepSize(ABC):
    """A rule for step sizes."""

    @abstractmethod
    def __call__(self, num_updates: Tensor) -> Tensor:
        """Computes eta in (0, 1] of the n-th updates, n float64 of at least 1."""


@serializable
@dataclass(frozen=True)
class HarmonicSteps(AbstractStepSize):
    """eta = scale / (scale + n - 1): the start is forgotten as n^(-scale (1 - contraction)), noise falls as scale / n.

    The contraction is the discount, or less where episodes end; `scale` near 1 / (1 - contraction) is the best there
    is.

    Attributes:
        scale: The number of updates until the step size is one half.

    Source: Wainwright (2019), the rescaled linear step size.
    """

    scale: float = 30.0

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"HarmonicSteps: scale must be positive, got {self.scale!r}")

    def __call__(self, num_updates: Tensor) -> Tensor:
        """Computes eta."""
        return self.scale / (self.scale - 1.0 + num_updates)


@serializable
@dataclass(frozen=True)
class PolynomialSteps(AbstractStepSize):
    """eta = n^-exponent. An exponent of 0 goes all the way each time, which is right where nothing is random.

    Attributes:
        exponent: In (0.5, 1] it converges in a random world.

    Source: Even-Dar and Mansour (2003).
    """

    exponent: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.exponent <= 1.0:
            raise ValueError(f"PolynomialSteps: exponent must be in [0, 1], got {self.exponent!r}")

    def __call__(self, num_updates: Tensor) -> Tensor:
        """Computes eta."""
        return num_updates**-self.exponent
