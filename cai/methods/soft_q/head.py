"""The form of a learned soft Q-function, as an option object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner


class AbstractHead(ABC):
    """Says what stands for Q(s, a), and how it is learned."""

    @abstractmethod
    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` for spaces that this form cannot serve."""

    @abstractmethod
    def learner(self, graph: TrajectoryGraph, method: Any) -> AbstractOffPolicyLearner:
        """Makes what learns, untrained, for a `SoftQLearning`."""
