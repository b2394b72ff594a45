"""What holds the values of a policy, as option objects: a table, or a network that is fitted to returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from cai.data.encodings import StateEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.networks import MLPBody
from cai.factors.neural_policies import Body
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.evaluation.estimators import AbstractEstimator, ValueTable
from cai.methods.evaluation.experience import Experience
from cai.methods.sampling.annealing import Annealed, at_share
from cai.ops.optimisation import fused_adam


class AbstractValues(ABC):
    """Says what holds V(s)."""

    @abstractmethod
    def accepts(self, graph: TrajectoryGraph, estimator: AbstractEstimator) -> None:
        """Raises `IncompatibleMethod` for states, or an estimator, that it cannot serve."""

    @abstractmethod
    def build(self, states: StateEncoding, estimator: AbstractEstimator, num_envs: int) -> AbstractValueModel:
        """Makes it, unlearned."""


class AbstractValueModel(ABC):
    """V(s), and how it learns.

    Attributes:
        module: All that learns.
        optimisers: By name.
    """

    module: nn.Module
    optimisers: dict[str, torch.optim.Optimizer]

    @abstractmethod
    def __call__(self, states: Any) -> Tensor:
        """Gives V(s), `[*batch]`, reward units, of states `[*batch, ...]` as the environment gives them."""

    @abstractmethod
    def learn(self, experience: Experience, learner: Any) -> int:
        """Learns from what happened; gives the number of updates."""


@serializable
@dataclass(frozen=True)
class TableValues(AbstractValues):
    """A number for each state of a Discrete space, float64, zero at first."""

    def accepts(self, graph: TrajectoryGraph, estimator: AbstractEstimator) -> None:
        """Raises `IncompatibleMethod` unless states are Discrete."""
        if not isinstance(graph.state_space, gymnasium.spaces.Discrete):
            raise IncompatibleMethod(
                f"TableValues: a table needs a Discrete state space, and it is {graph.state_space}; "
                "cai.methods.NetworkValues() takes others"
            )

    def build(self, states: StateEncoding, estimator: AbstractEstimator, num_envs: int) -> TableModel:
        """Makes the table."""
        return TableModel(states, estimator, num_envs)


class TableModel(AbstractValueModel):
    """A table, moved by its estimator.

    Args:
        states: How states become indices.
        estimator: How the table moves.
        num_envs: Copies of the world.
    """

    def __init__(self, states: StateEncoding, estimator: AbstractEstimator, num_envs: int) -> None:
        self._states, self._estimator = states, estimator
        self.module: ValueTable = ValueTable(states.size, num_envs if estimator.has_traces else 0)
        self.optimisers = {}

    def __call__(self, states: Any) -> Tensor:
        """Looks V(s) up."""
        return self.module.v[self._states.index(states)]

    def learn(self, experience: Experience, learner: Any) -> int:
        """Moves the table."""
        index, next_index = self._states.index(experience.states), self._states.index(experience.next_states)
        self._estimator.update(self.module, experience, index, next_index)
        return 1


@serializable
@dataclass(frozen=True)
class NetworkValues(AbstractValues):
    """A network fitted to lambda-returns, which are computed anew before each pass over a rollout.

    Attributes:
        body: `MLPBody`, or a callable `(num_inputs, num_outputs) -> nn.Module`.
        learning_rate: Adam's step size.
        num_epochs: Passes over each rollout.
        batch_size: Steps in an update.
        max_norm: Gradients are scaled down to this norm; None leaves them.
    """

    body: Body = MLPBody((64, 64), "tanh")
    learning_rate: float | Annealed = Annealed(3e-3, 1e-4)
    num_epochs: int = 10
    batch_size: int = 256
    max_norm: float | None = None

    def accepts(self, graph: TrajectoryGraph, estimator: AbstractEstimator) -> None:
        """Raises `IncompatibleMethod` for an estimator that counts visits."""
        if estimator.needs_index:
            raise IncompatibleMethod(
                f"{type(estimator).__name__} counts visits of states, which networks do not tell apart; use "
                "cai.methods.EveryVisitMonteCarlo()"
            )

    def build(self, states: StateEncoding, estimator: AbstractEstimator, num_envs: int) -> NetworkModel:
        """Makes the network."""
        return NetworkModel(states, estimator, self)


class NetworkModel(AbstractValueModel):
    """A network, fitted by regression.

    Args:
        states: How states become features.
        estimator: Whose returns are the targets.
        options: The options.
    """

    def __init__(self, states: StateEncoding, estimator: AbstractEstimator, options: NetworkValues) -> None:
        self._states, self._estimator, self._options = states, estimator, options
        self.module = options.body(states.size, 1)
        self.optimisers = {"value": fused_adam(self.module.parameters(), at_share(options.learning_rate, 0.0))}

    def __call__(self, states: Any) -> Tensor:
        """Computes V(s)."""
        return self._on(self._states.features(states))

    def learn(self, experience: Experience, learner: Any) -> int:
        """Fits the network to the returns."""
        options, count = self._options, 0
        for group in self.optimisers["value"].param_groups:
            group["lr"] = at_share(options.learning_rate, learner.share)
        features = self._states.features(experience.states)[experience.valid]
        next_features = self._states.features(experience.next_states)
        for _ in range(options.num_epochs):
            with torch.no_grad():
                returns = experience.returns(self._on(next_features), self._estimator.decay)[experience.valid]
            for rows in torch.randperm(len(features), device=features.device).split(options.batch_size):
                loss = 0.5 * (self._on(features[rows]) - returns[rows]).square().mean()
                learner.descend(loss, "value", max_norm=options.max_norm)
                count += 1
        return count

    def _on(self, features: Tensor) -> Tensor:
        return self.module(features).squeeze(-1)
