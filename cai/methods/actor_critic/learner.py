"""What all actor-critic learners share: targets, critics, their optimisers, and the temperature.

    y = sum_{k<n} gamma^k r_k - alpha sum_{1<=k<n} gamma^k log(pi/mu)_k + gamma^n V(s_n)
    critics:  minimise w (Q_i(s, a) - y)^2 / 2, summed over i

V is that of what was entered where the world ended there: the terminal reward, else zero. A truncated episode goes on.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from cai.data.transitions import Transitions
from cai.factors.neural_policies import NeuralPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.actor_critic.critics import Critics
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.learner import UpdateCount
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner
from cai.ops.optimisation import flushed_denormals, fused_adam


class AbstractActorCritic(AbstractOffPolicyLearner):
    """An actor, critics, and the temperature.

    Args:
        graph: The graph.
        method: The hyper-parameters, a `SoftActorCritic`.
    """

    def __init__(self, graph: TrajectoryGraph, method: Any) -> None:
        super().__init__(graph, method.device)
        self._method = method
        self._terminal_reward = graph.terminal_reward
        self._rates: dict[str, float | Annealed] = {}
        self.modules["count"] = self._count = UpdateCount()
        tuning = method.temperature
        self._tuned: nn.Parameter | None = None
        if tuning is not None:
            initial = self.initial_temperature if tuning.initial is None else tuning.initial
            self._tuned = nn.Parameter(torch.tensor(math.log(initial)))
            self._budget = tuning.budget(self.actions, self.prior)
            self.modules["temperature"] = nn.ParameterList([self._tuned])

    def _learn_with(self, actor: NeuralPolicy, critics: Critics) -> None:
        """Takes the networks, and makes the optimisers."""
        method = self._method
        self.modules["actor"], self.modules["critics"] = actor, critics
        self._actor, self._critics = actor, critics
        rate = method.learning_rate
        self._add_optimiser("critic", list(critics.online.parameters()), rate)
        actor_rate = rate if method.actor_learning_rate is None else method.actor_learning_rate
        self._add_optimiser("actor", list(actor.parameters()), actor_rate)
        if self._tuned is not None:
            own = method.temperature.learning_rate
            self._add_optimiser("temperature", [self._tuned], rate if own is None else own)

    def _add_optimiser(self, name: str, parameters: list[nn.Parameter], rate: float | Annealed) -> None:
        self._rates[name] = rate
        self.optimisers[name] = fused_adam(parameters, at_share(rate, 0.0))

    @property
    def temperature(self) -> float:
        """Alpha in use, reward units."""
        return self.initial_temperature if self._tuned is None else float(self._tuned.detach().exp())

    @property
    def _alpha(self) -> Tensor | float:
        return self.initial_temperature if self._tuned is None else self._tuned.detach().exp()

    # A step.

    def learn(self, batch: Transitions) -> Tensor:
        """Takes one step on a batch: critics, then the actor and the temperature, then the targets.

        Returns:
            Mean |Q_i - y| over the critics, `[B]`, reward units.
        """
        with flushed_denormals():
            self._set_learning_rates()
            features = self._features(batch.states)
            targets = self._targets(batch)
            q = self._q_of(features, self.actions.from_env(batch.actions))
            errors = q - targets
            loss = 0.5 * (batch.weights * errors.square()).mean(-1).sum()
            self.descend(loss, "critic", max_norm=self._method.max_gradient_norm)
            self._count.num_updates += 1
            self._improve(features, batch, int(self._count.num_updates))
        size = errors.detach().abs().mean(0)
        self.metrics.add("bellman_residual", size.mean())
        self.metrics.add("q", targets.mean())
        return size

    def _targets(self, batch: Transitions) -> Tensor:
        """Computes y, `[B]`."""
        with torch.no_grad():
            following = self._following_values(self._features(batch.next_states), batch.next_states)
            following = torch.where(batch.terminated, self._terminal_values(batch.next_states, following), following)
            targets = torch.addcmul(batch.rewards, batch.discounts, following)
            return targets if self._method.n_step == 1 else targets - self._alpha * batch.log_ratios

    def _terminal_values(self, states: Tensor, like: Tensor) -> Tensor:
        if self._terminal_reward is None:
            return torch.zeros_like(like)
        return torch.as_tensor(self._terminal_reward(states)).to(like).expand_as(like)

    @abstractmethod
    def _following_values(self, features: Tensor, states: Tensor) -> Tensor:
        """Estimates V with the targets of the critics, `[B]`, reward units."""

    @abstractmethod
    def _q_of(self, features: Tensor, actions: Tensor) -> Tensor:
        """Gives every critic's Q(s, a), `[num, *batch]`, of the learner's own actions."""

    @abstractmethod
    def _improve(self, features: Tensor, batch: Transitions, num_updates: int) -> None:
        """Moves the actor, the temperature and the targets, in the update of this number, from 1."""

    def _tune(self, log_ratio: Tensor) -> None:
        """Moves the temperature, given the mean of log(pi/mu), which is known to be finite."""
        if self._tuned is not None:
            self._tuned.grad = self._budget - log_ratio
            self.optimisers["temperature"].step()

    def _set_learning_rates(self) -> None:
        for name, rate in self._rates.items():
            if isinstance(rate, Annealed):
                for group in self.optimisers[name].param_groups:
                    group["lr"] = at_share(rate, self.share)

    # What is read.

    def _features(self, states: Any) -> Tensor:
        return self.states.features(states).to(self.device)

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives the least Q(s, a) of the critics, reward units."""
        features, actions = self._features(state), self.actions.from_env(action).to(self.device)
        depth = 0 if not self._has_vectors else 1
        batch = torch.broadcast_shapes(features.shape[:-1], actions.shape[: actions.dim() - depth])
        features = features.expand((*batch, -1))
        return self._q_of(features, actions.expand((*batch, *actions.shape[actions.dim() - depth :]))).amin(0)

    @property
    def _has_vectors(self) -> bool:
        """Whether an action is a vector, not a number."""
        return self.actions.size > 0 or len(self.actions.row_shape) > 0
