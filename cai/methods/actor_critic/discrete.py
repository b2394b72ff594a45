"""Soft actor-critic on finitely many actions: expectations over them are sums.

    V(s) = sum_a pi(a|s) [min_i Q_i(s, a) - alpha log(pi/mu)(a|s)],   actor: minimise E KL(pi || mu exp(Q / alpha) / Z)
    pi(a|s) ~ mu(a|s) exp(f(s)_a),    f the actor's network

Several choices (MultiDiscrete) are one, of all their combinations. What mu excludes is never done.

Source: Christodoulou (2019).
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Distribution

from cai.data.transitions import Transitions
from cai.factors.joint_categorical import JointCategorical
from cai.factors.neural_policies import in_units_of
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.actor_critic.critics import Critics
from cai.methods.actor_critic.learner import AbstractActorCritic
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.priors import entry
from cai.ops.sampling import sample_index


class DiscreteActorCritic(AbstractActorCritic):
    """Soft actor-critic on finitely many actions.

    Args:
        graph: The graph.
        method: The hyper-parameters.
    """

    def __init__(self, graph: TrajectoryGraph, method: Any) -> None:
        super().__init__(graph, method)
        num_actions = self.actions.num_actions
        actor = method.body(self.states.size, num_actions)
        self._learn_with(actor, Critics(method.critics_of, method.num_critics, self.states.size, num_actions))

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the actor."""
        log_probs, log_prior = self._log_probs(self._features(states), torch.as_tensor(states))
        index = sample_index(log_probs.exp())
        log_ratios = entry(log_probs, index) - entry(log_prior, index)
        return Choice(self.actions.to_env(self.actions.from_joint(index)), log_ratios.cpu().numpy())

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s), a categorical, over combinations where there are several choices."""
        log_probs, _ = self._log_probs(self._features(state), torch.as_tensor(state))
        if len(self.actions.row_shape) == 0:
            own: Distribution = Categorical(logits=log_probs, validate_args=False)
        else:
            own = JointCategorical(log_probs, self.actions.sizes)
        return in_units_of(self.actions.space, own)

    def v(self, state: Any) -> Tensor:
        """Gives V(s) = E_pi [min Q - alpha log(pi/mu)], the expectation exactly, reward units."""
        features = self._features(state)
        return self._values(features, torch.as_tensor(state), self._critics.least(features))

    def _log_probs(self, features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Gives log pi and log mu of all actions, `[*batch, A]`."""
        log_prior = self.prior.log_probs(states).to(features)
        return (self._actor(features) + log_prior).log_softmax(-1), log_prior

    def _values(self, features: Tensor, states: Tensor, q: Tensor) -> Tensor:
        log_probs, log_prior = self._log_probs(features, states)
        return _expected(log_probs, q - self._alpha * _ratio(log_probs, log_prior))

    def _q_of(self, features: Tensor, actions: Tensor) -> Tensor:
        index = self.actions.to_joint(actions)
        return entry(self._critics(features), index.expand(self._method.num_critics, *index.shape))

    def _following_values(self, features: Tensor, states: Tensor) -> Tensor:
        return self._values(features, states, self._critics.least_target(features))

    def _improve(self, features: Tensor, batch: Transitions, num_updates: int) -> None:
        with torch.no_grad():
            least = self._critics.least(features)
        log_probs, log_prior = self._log_probs(features, batch.states)
        log_ratio = _expected(log_probs, _ratio(log_probs, log_prior)).mean()
        loss = self._alpha * log_ratio - _expected(log_probs, least).mean()
        self.descend(loss, "actor", max_norm=self._method.max_gradient_norm)
        self._tune(log_ratio.detach())
        self._critics.follow(self._method.target, num_updates)
        possible = torch.where(torch.isneginf(log_probs), 0.0, log_probs)
        self.metrics.add("entropy", -_expected(log_probs, possible).mean())


def _ratio(log_probs: Tensor, log_prior: Tensor) -> Tensor:
    """Computes log(pi/mu), zero where both are."""
    excluded = torch.isneginf(log_prior)
    return torch.where(excluded, 0.0, log_probs) - torch.where(excluded, 0.0, log_prior)


def _expected(log_probs: Tensor, values: Tensor) -> Tensor:
    """Computes sum_a pi(a) f(a), `[*batch, A]` to `[*batch]`."""
    return (log_probs.exp() * values).sum(-1)
