"""What policy evaluation from samples learns: the values of a policy that does not change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from cai.factors.policy import TabularPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.evaluation.estimators import AbstractEstimator
from cai.methods.evaluation.experience import Experience
from cai.methods.evaluation.policies import choice_of
from cai.methods.evaluation.values import AbstractValues
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.on_policy import AbstractOnPolicyLearner, Rollout
from cai.methods.sampling.terminal import with_terminal_reward
from cai.ops.logspace import safe_log
from cai.ops.sampling import sample_index
from cai.simulate.episodes import drawn
from cai.simulate.seeding import global_generator


class EvaluationLearner(AbstractOnPolicyLearner):
    """V of a given policy.

    Args:
        graph: The graph.
        policy: The policy, as `readable_policy` gives it.
        estimator: How values follow from what it does.
        values: What holds them.
        num_envs: Copies of the world.
    """

    def __init__(
        self, graph: TrajectoryGraph, policy: Any, estimator: AbstractEstimator, values: AbstractValues, num_envs: int
    ) -> None:
        super().__init__(graph)
        self._graph, self._policy = graph, policy
        self._start = int(getattr(graph.state_space, "start", 0)) if self.states.num_states is not None else 0
        self._values = values.build(self.states, estimator, num_envs)
        self.modules["v"] = self._values.module
        self.optimisers |= self._values.optimisers

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the policy."""
        tensor = torch.as_tensor(states)
        if isinstance(self._policy, TabularPolicy):
            return self._look_up(self.states.index(tensor), self._policy)
        made = choice_of(self._policy, tensor)
        own = drawn(made, global_generator("cpu"))
        log_ratios = torch.zeros(len(states))
        if self.temperature > 0.0:
            log_probs = made.log_prob(own)
            self.metrics.add("entropy", -log_probs.mean())
            log_ratios = log_probs - self.prior.log_prob(tensor, self.actions.from_env(own))
        return Choice(own.numpy(), log_ratios.to(torch.float32).numpy())

    def _look_up(self, index: Tensor, policy: TabularPolicy) -> Choice:
        """Draws from a table: what building and checking distributions would cost is saved."""
        actions = sample_index(policy.probs[index])
        if self.temperature == 0.0:
            return Choice(self.actions.to_env(actions), np.zeros(len(index), dtype=np.float32))
        log_probs = safe_log(policy.probs[index, actions])
        self.metrics.add("entropy", -log_probs.mean())
        own = self.actions.to_env(actions)
        log_prior = self.prior.log_prob(index + self._start, actions)
        return Choice(own, (log_probs - log_prior).to(torch.float32).numpy())

    def with_log_ratios(self, rollout: Rollout) -> Rollout:
        """Computes the log-ratios of actions that were recorded."""
        if self.temperature == 0.0:
            return rollout
        with torch.no_grad():
            log_ratios = self.log_ratio(rollout.states, rollout.actions)
        return replace(rollout, log_ratios=torch.where(rollout.valid, log_ratios, 0.0).to(torch.float32))

    def learn_from(self, rollout: Rollout) -> int:
        """Learns from what the policy has just done."""
        rewards = with_terminal_reward(self._graph, rollout.rewards, rollout.next_states, rollout.terminated)
        payoffs = rewards - self.temperature * rollout.log_ratios if self.temperature > 0.0 else rewards
        experience = Experience(
            rollout.states,
            rollout.next_states,
            payoffs,
            rollout.terminated,
            rollout.ended,
            rollout.valid,
            self.discount,
        )
        count = self._values.learn(experience, self)
        with torch.no_grad():
            values, following = self._values(rollout.states), self._values(rollout.next_states)
        errors = payoffs + self.discount * torch.where(rollout.terminated, 0.0, following) - values
        self.metrics.add("bellman_residual", errors[rollout.valid].abs().mean())
        return count

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s)."""
        return choice_of(self._policy, torch.as_tensor(state))

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units."""
        return self._values(torch.as_tensor(state, device=self.device))
