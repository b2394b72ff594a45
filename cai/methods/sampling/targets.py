"""Target networks as option objects: how the slow copy that targets are made of follows what is learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cai.data.serialization import serializable
from cai.methods.sampling.method import need_whole_numbers
from cai.ops.optimisation import polyak


class AbstractTarget(ABC):
    """Says when and how far a copy of the parameters moves."""

    @abstractmethod
    def follow(self, target: Sequence[Tensor], online: Sequence[Tensor], num_updates: int) -> None:
        """Moves the copy, in place, after an update.

        Args:
            target: The copy's parameters, of any shape.
            online: The learned parameters, of the same shapes.
            num_updates: How many updates there have been, this one included.
        """


@serializable
@dataclass(frozen=True)
class PolyakTarget(AbstractTarget):
    """The copy moves a little at each update: target <- (1 - rate) target + rate online.

    Attributes:
        rate: The weight of the learned parameters, in (0, 1]; some of the literature calls 1 - rate tau.

    Source: Polyak and Juditsky (1992); Lillicrap et al. (2016).
    """

    rate: float = 0.005

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(
                f"PolyakTarget: rate is the weight of the learned parameters, in (0, 1], got {self.rate!r}"
            )

    def follow(self, target: Sequence[Tensor], online: Sequence[Tensor], num_updates: int) -> None:
        """Moves the copy."""
        polyak([*target], [*online], self.rate)


@serializable
@dataclass(frozen=True)
class PeriodicTarget(AbstractTarget):
    """The copy is made anew every so many updates.

    Attributes:
        interval: Updates between two copies.

    Source: Mnih et al. (2015).
    """

    interval: int = 1000

    def __post_init__(self) -> None:
        need_whole_numbers(self, "interval")

    def follow(self, target: Sequence[Tensor], online: Sequence[Tensor], num_updates: int) -> None:
        """Copies, if it is time."""
        if num_updates % self.interval == 0:
            polyak([*target], [*online], 1.0)


def need_target(owner: Any, target: Any) -> None:
    """Raises ValueError unless a target rule was given."""
    if not isinstance(target, AbstractTarget):
        raise ValueError(f"{type(owner).__name__}: target must be such as PolyakTarget(0.005), got {target!r}")
