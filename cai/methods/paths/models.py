"""Models of soft values and policies for path consistency, as option objects.

    separate    V by one network, pi by another
    unified     Q by one network;  V = alpha log sum_a mu(a|s) exp(Q / alpha),  pi = mu exp((Q - V) / alpha)

Either way Q(s, a) = V(s) + alpha log(pi / mu)(a|s) is what they say of actions.

Source: Nachum, Norouzi, Xu and Schuurmans (2017), sections 4 and 5.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.heads import AbstractHead
from cai.factors.joint_categorical import JointCategorical
from cai.factors.networks import MLPBody
from cai.factors.neural_policies import Body, NeuralPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.annealing import Annealed
from cai.methods.sampling.priors import AbstractActionPrior, entry

#: A step size, or one that changes over the run.
Rate = float | Annealed


@serializable
@dataclass(frozen=True)
class TableBody:
    """A table in the place of a network: one row of numbers, zero at first, for each state of a Discrete space.

    On other states it is a linear map of the features.
    """

    def __call__(self, num_inputs: int, num_outputs: int) -> nn.Linear:
        """Makes the table, float64."""
        table = nn.Linear(num_inputs, num_outputs, bias=False, dtype=torch.float64)
        nn.init.zeros_(table.weight)
        return table


class AbstractPathModel(nn.Module):
    """V and pi. States are the environment's, actions the library's own, any batch."""

    @abstractmethod
    def policy(self, states: Tensor) -> Distribution:
        """Gives pi(a | s) on the library's own actions."""

    @abstractmethod
    def values(self, states: Tensor) -> Tensor:
        """Gives V(s), `[*batch]`, reward units."""

    @abstractmethod
    def log_ratios(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives log pi(a | s) - log mu(a | s), `[*batch]`, nats."""

    @abstractmethod
    def groups(self) -> list[tuple[list[nn.Parameter], Rate]]:
        """Gives the parameters with their step sizes."""


class AbstractModels(ABC):
    """Says what stands for V and pi."""

    def accepts(self, graph: TrajectoryGraph) -> None:  # noqa: B027  (most serve all spaces)
        """Raises `IncompatibleMethod` for spaces that these models cannot serve."""

    @abstractmethod
    def build(self, graph: TrajectoryGraph, prior: AbstractActionPrior) -> AbstractPathModel:
        """Makes the models, untrained."""


@serializable
@dataclass(frozen=True)
class SeparateModels(AbstractModels):
    """A network for the policy and one for V, for actions of any kind.

    Attributes:
        policy: The policy's body: `MLPBody`, `TableBody`, or a callable `(num_inputs, num_outputs) -> nn.Module`.
        value: The body of V.
        head: The policy's form; None is the usual one of the action space.
        policy_learning_rate: Adam's step size for the policy.
        value_learning_rate: Adam's step size for V.
    """

    policy: Body = MLPBody((64, 64), "tanh")
    value: Body = MLPBody((64, 64), "tanh")
    head: AbstractHead | None = None
    policy_learning_rate: Rate = 3e-3
    value_learning_rate: Rate = 1e-2

    def build(self, graph: TrajectoryGraph, prior: AbstractActionPrior) -> SeparateModel:
        """Makes both networks."""
        return SeparateModel(graph, prior, self)


@serializable
@dataclass(frozen=True)
class UnifiedModel(AbstractModels):
    """One network for Q over finitely many actions (joint ones, where they are MultiDiscrete), giving V and the policy.

    Attributes:
        body: `MLPBody`, `TableBody`, or a callable `(num_inputs, num_outputs) -> nn.Module`.
        learning_rate: Adam's step size.
    """

    body: Body = MLPBody((64, 64), "tanh")
    learning_rate: Rate = 1e-3

    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` unless there are finitely many actions."""
        if not ActionEncoding(graph.action_space).is_discrete:
            raise IncompatibleMethod(
                f"UnifiedModel sums over finitely many actions, the graph's are in {graph.action_space}; use "
                "cai.methods.SeparateModels()"
            )

    def build(self, graph: TrajectoryGraph, prior: AbstractActionPrior) -> UnifiedPathModel:
        """Makes the network."""
        return UnifiedPathModel(graph, prior, self)


class SeparateModel(AbstractPathModel):
    """V and pi by networks of their own.

    Over a Discrete space the network's outputs are log pi / mu up to a constant, so that an action that the prior
    forbids is never taken.

    Args:
        graph: The graph.
        prior: mu.
        options: The option object.
    """

    def __init__(self, graph: TrajectoryGraph, prior: AbstractActionPrior, options: SeparateModels) -> None:
        super().__init__()
        assert graph.state_space is not None and graph.action_space is not None
        self._prior, self._options = prior, options
        self.policy_network = NeuralPolicy(
            graph.state_space, graph.action_space, head=options.head, body=options.policy
        )
        self._states = self.policy_network.states
        self._tilts = isinstance(graph.action_space, gymnasium.spaces.Discrete)
        self.value_network = options.value(self._states.size, 1)

    def policy(self, states: Tensor) -> Distribution:
        """Gives pi(a | s)."""
        made = self.policy_network.on_features(_features(self._states, states, self.policy_network))
        if not (self._tilts and isinstance(made, Categorical)):
            return made
        return Categorical(logits=made.logits + self._prior.log_probs(states), validate_args=False)

    def values(self, states: Tensor) -> Tensor:
        """Gives V(s), `[*batch]`, reward units."""
        return self.value_network(_features(self._states, states, self.value_network)).squeeze(-1)

    def log_ratios(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives log pi(a | s) - log mu(a | s), `[*batch]`, nats."""
        return self.policy(states).log_prob(actions) - self._prior.log_prob(states, actions)

    def groups(self) -> list[tuple[list[nn.Parameter], Rate]]:
        """Gives the parameters with their step sizes."""
        return [
            (list(self.policy_network.parameters()), self._options.policy_learning_rate),
            (list(self.value_network.parameters()), self._options.value_learning_rate),
        ]


class UnifiedPathModel(AbstractPathModel):
    """V and pi as functions of one Q.

    Args:
        graph: The graph.
        prior: mu.
        options: The option object.
    """

    def __init__(self, graph: TrajectoryGraph, prior: AbstractActionPrior, options: UnifiedModel) -> None:
        super().__init__()
        self._prior, self._options = prior, options
        self._temperature = float(graph.temperature)
        self._states, self._actions = StateEncoding(graph.state_space), ActionEncoding(graph.action_space)
        self.network = options.body(self._states.size, self._actions.num_actions)

    def policy(self, states: Tensor) -> Distribution:
        """Gives pi(a | s)."""
        logits = self._ratios(states) + self._prior.log_probs(states)
        if self._actions.row_shape:
            return JointCategorical(logits, self._actions.sizes)
        return Categorical(logits=logits, validate_args=False)

    def values(self, states: Tensor) -> Tensor:
        """Gives V(s), `[*batch]`, reward units."""
        return self._temperature * self._log_partition(states, self._scaled(states))

    def log_ratios(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives log pi(a | s) - log mu(a | s), `[*batch]`, nats."""
        return entry(self._ratios(states), self._actions.to_joint(actions))

    def groups(self) -> list[tuple[list[nn.Parameter], Rate]]:
        """Gives the parameters with their step size."""
        return [(list(self.network.parameters()), self._options.learning_rate)]

    def _scaled(self, states: Tensor) -> Tensor:
        return self.network(_features(self._states, states, self.network)) / self._temperature

    def _log_partition(self, states: Tensor, scaled: Tensor) -> Tensor:
        return torch.logsumexp(scaled + self._prior.log_probs(states), -1)

    def _ratios(self, states: Tensor) -> Tensor:
        scaled = self._scaled(states)
        return scaled - self._log_partition(states, scaled)[..., None]


def _features(encoding: StateEncoding, states: Any, network: nn.Module) -> Tensor:
    features = encoding.features(states)
    return features.to(next(network.parameters(), features).dtype)
