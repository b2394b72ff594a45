"""Soft actor-critic on boxes: a reparameterised actor, squashed where the box is bounded.

V(s) = E_pi [min_i Q_i(s, a) - alpha log(pi/mu)(a|s)]
actor: minimise E [alpha log(pi/mu)(a|s) - min_i Q_i(s, a)],   a = a(s, noise)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from cai.data.transitions import Transitions
from cai.factors.neural_policies import NeuralPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.actor_critic.critics import Critics
from cai.methods.actor_critic.learner import AbstractActorCritic
from cai.methods.sampling.learner import Choice

#: Actions that a value is read with, the same at every reading.
_NUM_ACTIONS = 64


@dataclass(frozen=True, eq=False)
class Draw:
    """Actions of a policy, differentiable in its parameters.

    Attributes:
        actions: `[*batch, m]`, in the environment's units.
        log_probs: log pi, `[*batch]`, nats.
        log_ratios: log pi - log mu, `[*batch]`, nats.
    """

    actions: Tensor
    log_probs: Tensor
    log_ratios: Tensor


class BoxActorCritic(AbstractActorCritic):
    """Soft actor-critic on a box.

    Args:
        graph: The graph.
        method: The hyper-parameters.
    """

    def __init__(self, graph: TrajectoryGraph, method: Any) -> None:
        super().__init__(graph, method)
        actor = NeuralPolicy(graph.state_space, graph.action_space, body=method.body)
        size = self.states.size + self.actions.size
        self._learn_with(actor, Critics(method.critics_of, method.num_critics, size, 1))

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the actor."""
        draw = self._draw(self._features(states), torch.as_tensor(states))
        return Choice(self.actions.to_env(draw.actions), draw.log_ratios.cpu().numpy())

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s)."""
        return self._actor(state)

    def v(self, state: Any) -> Tensor:
        """Estimates V(s) by the mean of min Q - alpha log(pi/mu) over 64 actions, drawn alike at every reading."""
        features = self._features(state)
        policy = self._actor.on_features(features)
        with torch.random.fork_rng(devices=[] if features.device.type == "cpu" else [features.device]):
            torch.manual_seed(0)
            many = policy.expand(torch.Size([_NUM_ACTIONS, *policy.batch_shape]))
            draw = self._ratios(torch.as_tensor(state), *many.rsample_with_log_prob())
        q = self._q_of(features.expand(_NUM_ACTIONS, *features.shape), draw.actions).amin(0)
        return (q - self._alpha * draw.log_ratios).mean(0)

    def _draw(self, features: Tensor, states: Tensor) -> Draw:
        return self._ratios(states, *self._actor.on_features(features).rsample_with_log_prob())

    def _ratios(self, states: Tensor, actions: Tensor, log_probs: Tensor) -> Draw:
        log_prior = self.prior.log_prob(states, actions).to(log_probs)
        return Draw(actions, log_probs, log_probs - log_prior)

    def _inputs(self, features: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([features, self.actions.to_unit(actions)], -1)

    def _q_of(self, features: Tensor, actions: Tensor) -> Tensor:
        return self._critics(self._inputs(features, actions)).squeeze(-1)

    def _following_values(self, features: Tensor, states: Tensor) -> Tensor:
        draw = self._draw(features, states)
        q = self._critics.least_target(self._inputs(features, draw.actions)).squeeze(-1)
        return q - self._alpha * draw.log_ratios

    def _improve(self, features: Tensor, batch: Transitions, num_updates: int) -> None:
        draw = self._draw(features, batch.states)
        log_ratio, alpha = draw.log_ratios.mean(), self._alpha
        least = self._critics.least(self._inputs(features, draw.actions))
        self.descend(alpha * log_ratio - least.mean(), "actor", max_norm=self._method.max_gradient_norm)
        self._tune(log_ratio.detach())
        self._critics.follow(self._method.target, num_updates)
        self.metrics.add("entropy", -draw.log_probs.mean())
