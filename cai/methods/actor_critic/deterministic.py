"""Temperature zero on boxes: a deterministic actor that climbs the critic, DDPG and TD3.

V(s) = min_i Q'_i(s, a'(s) + clipped noise),      actor: maximise E Q_1(s, a(s))
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from cai.data.transitions import Transitions
from cai.factors.heads import DeterministicHead
from cai.factors.neural_policies import NeuralPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.actor_critic.critics import Critics
from cai.methods.actor_critic.learner import AbstractActorCritic
from cai.methods.sampling.learner import Choice


class DeterministicActorCritic(AbstractActorCritic):
    """The deterministic limit of soft actor-critic on a box.

    Args:
        graph: The graph, of temperature zero.
        method: The hyper-parameters.
    """

    def __init__(self, graph: TrajectoryGraph, method: Any) -> None:
        super().__init__(graph, method)
        self._limit = method.limit
        actor = NeuralPolicy(graph.state_space, graph.action_space, head=DeterministicHead(), body=method.body)
        size = self.states.size + self.actions.size
        self._learn_with(actor, Critics(method.critics_of, method.num_critics, size, 1))
        self.modules["target_actor"] = self._target_actor = copy.deepcopy(actor).requires_grad_(False)

    def act(self, states: NDArray[Any]) -> Choice:
        """Takes the actor's action, with noise."""
        unit = self.actions.to_unit(self._actor.on_features(self._features(states)).mean)
        unit = unit + self._limit.exploration_noise * torch.randn_like(unit)
        zeros = np.zeros(len(unit), np.float32)
        return Choice(self.actions.to_env(self.actions.from_unit(self._inside(unit))), zeros)

    def policy(self, state: Any) -> Distribution:
        """Gives the point mass at the actor's action."""
        return self._actor(state)

    def v(self, state: Any) -> Tensor:
        """Gives V(s) = min Q(s, a(s)), reward units."""
        features = self._features(state)
        return self._q_of(features, self._actor.on_features(features).mean).amin(0)

    def log_ratio(self, state: Any, action: Any) -> Tensor:
        """Gives zeros: a point mass has no density, and at temperature zero nothing depends on it."""
        return self._features(state).new_zeros(self.states.batch_shape(state))

    def _inside(self, unit: Tensor) -> Tensor:
        return unit if self.actions.low is None else unit.clamp(-1.0, 1.0)

    def _q_of_unit(self, features: Tensor, unit: Tensor) -> Tensor:
        return self._critics(torch.cat([features, unit], -1)).squeeze(-1)

    def _q_of(self, features: Tensor, actions: Tensor) -> Tensor:
        return self._q_of_unit(features, self.actions.to_unit(actions))

    def _following_values(self, features: Tensor, states: Tensor) -> Tensor:
        unit = self.actions.to_unit(self._target_actor.on_features(features).mean)
        if self._limit.target_noise:
            clip = self._limit.noise_clip
            noise = (self._limit.target_noise * torch.randn_like(unit)).clamp(-clip, clip)
            unit = self._inside(unit + noise)
        return self._critics.least_target(torch.cat([features, unit], -1)).squeeze(-1)

    def _improve(self, features: Tensor, batch: Transitions, num_updates: int) -> None:
        if num_updates % self._limit.policy_delay:
            return
        loss = -self._q_of(features, self._actor.on_features(features).mean)[0].mean()
        self.descend(loss, "actor", max_norm=self._method.max_gradient_norm)
        rule, count = self._method.target, num_updates // self._limit.policy_delay
        self._critics.follow(rule, count)
        rule.follow([*self._target_actor.parameters()], [*self._actor.parameters()], count)
