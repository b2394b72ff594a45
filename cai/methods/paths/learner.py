"""What `PathConsistency` learns: the gradient of path residuals."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from cai.factors.neural_policies import in_units_of
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.paths.models import AbstractModels, AbstractPathModel
from cai.methods.paths.residuals import AbstractResidual
from cai.methods.sampling.annealing import at_share
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.on_policy import AbstractOnPolicyLearner, Rollout
from cai.methods.sampling.terminal import with_terminal_reward
from cai.ops.path_consistency import path_residuals


class PathConsistencyLearner(AbstractOnPolicyLearner):
    """V and pi, moved together so that every path of the world has residual zero.

    Args:
        graph: The graph.
        models: What stands for V and pi.
        residual: What is minimised.
        path_length: d.
        max_norm: The gradient is scaled down to this norm; None leaves it.
    """

    def __init__(
        self,
        graph: TrajectoryGraph,
        models: AbstractModels,
        residual: AbstractResidual,
        *,
        path_length: int,
        max_norm: float | None,
    ) -> None:
        super().__init__(graph)
        assert graph.action_space is not None
        self._action_space = graph.action_space
        self._graph, self._loss = graph, residual.loss_on(graph)
        self._path_length, self._max_norm = path_length, max_norm
        self.model: AbstractPathModel = models.build(graph, self.prior)
        self.modules["model"] = self.model
        self._rates = [rate for _, rate in self.model.groups()]
        self.optimisers["path"] = torch.optim.Adam([{"params": group} for group, _ in self.model.groups()], fused=True)

    # What it does.

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the policy."""
        tensor = torch.as_tensor(states, device=self.device)
        policy = self.model.policy(tensor)
        actions = policy.sample()
        log_ratios = policy.log_prob(actions) - self.prior.log_prob(tensor, actions)
        return Choice(self.actions.to_env(actions), log_ratios.to("cpu", torch.float32).numpy())

    def learn_from(self, rollout: Rollout) -> int:
        """Takes one step on what the policy has just done."""
        valid, actions = rollout.valid, self.actions.from_env(rollout.actions)
        log_probs = rollout.log_ratios + self.prior.log_prob(rollout.states, actions)
        self.metrics.add("entropy", -log_probs[valid].mean())
        self.learn(rollout)
        return 1

    def learn(self, rollout: Rollout) -> None:
        """Takes one step on rollouts, whoever made them."""
        for group, rate in zip(self.optimisers["path"].param_groups, self._rates, strict=True):
            group["lr"] = at_share(rate, self.share)
        loss = self._loss(self.residuals, rollout)
        self.descend(loss, "path", max_norm=self._max_norm)

    def residuals(self, rollout: Rollout) -> Tensor:
        """Computes the residual of the path that starts at every valid step, `[N]`, reward units."""
        values = self.model.values(torch.stack([rollout.states, rollout.next_states]))
        log_ratios = self.model.log_ratios(rollout.states, self.actions.from_env(rollout.actions)).to(values.dtype)
        rewards = with_terminal_reward(self._graph, rollout.rewards, rollout.next_states, rollout.terminated)
        residuals = path_residuals(
            rewards.to(values.dtype),
            log_ratios,
            values[0],
            values[1],
            rollout.terminated,
            rollout.ended,
            discount=self.discount,
            temperature=self.temperature,
            num_steps=self._path_length,
        )[rollout.valid]
        self.metrics.add("bellman_residual", residuals.abs().mean())
        return residuals

    # What it says. States and actions are the environment's own.

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s)."""
        return in_units_of(self._action_space, self.model.policy(torch.as_tensor(state, device=self.device)))

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units."""
        return self.model.values(torch.as_tensor(state, device=self.device))

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives V(s) + alpha log(pi / mu)(a | s), reward units."""
        states, actions = torch.as_tensor(state, device=self.device), self.actions.from_env(action)
        event = actions.shape[len(actions.shape) - min(1, len(self.actions.row_shape)) :]
        batch = torch.broadcast_shapes(self.states.batch_shape(states), actions.shape[: actions.dim() - len(event)])
        states, actions = states.expand(*batch, *self.states.row_shape), actions.expand(*batch, *event)
        return self.model.values(states) + self.temperature * self.model.log_ratios(states, actions)
