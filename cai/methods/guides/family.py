"""What a guide is to `SVI`: a variational family, with what it can answer, its loss, and the posterior it makes.

A family is a Pyro program with a Pyro guide, and a way to compute the loss -ELBO: exactly where the family is small
enough for it, by draws elsewhere. `FixedDynamicsGuide`, `MeanFieldGuide` and Pyro's own guides each stand in a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cai.inference.guided import Store
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats


@dataclass(frozen=True)
class Effort:
    """How much work `SVI` does; see its attributes of the same names."""

    num_particles: int
    num_evaluations: int


class AbstractFamily(ABC):
    """A variational family on one graph, with its parameters.

    Attributes:
        store: The parameters.
        is_exact: Whether the loss is computed, not estimated.
        learning_rate: One that suits it.
        num_entries: How many entries the largest table has that an evaluation goes over.
    """

    store: Store
    is_exact: bool
    learning_rate: float
    num_entries: int

    @property
    @abstractmethod
    def model(self) -> Callable[[], Any]:
        """The graph as a Pyro program."""

    @property
    @abstractmethod
    def guide(self) -> Callable[[], Any]:
        """The family as a Pyro guide of that program."""

    @abstractmethod
    def loss(self) -> Tensor:
        """Computes -ELBO, or an estimate whose gradient is unbiased: 0-dim, nats; the store is open."""

    @abstractmethod
    def answer(self, graph: Any, method: Any, stats: Stats, seed: int) -> Posterior:
        """Wraps the parameters as the posterior."""


class AbstractGuide(ABC):
    """A kind of variational family, before it meets a graph."""

    @abstractmethod
    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` if the family does not fit the graph, saying what would."""

    @abstractmethod
    def family(self, graph: Any, effort: Effort, seed: int) -> AbstractFamily:
        """Sets the family up on a graph."""
