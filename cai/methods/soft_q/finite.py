"""What learners of Q on finitely many actions share: acting, the policy, and values as they are asked for.

    V(s) = alpha log sum_a mu(a|s) exp(Q(s, a) / alpha),     pi(a|s) = mu(a|s) exp((Q(s, a) - V(s)) / alpha)

Several choices at once (MultiDiscrete) are one, of all their combinations; the policy need not factorise.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Distribution

from cai.data.transitions import Transitions
from cai.factors.joint_categorical import JointCategorical
from cai.factors.neural_policies import in_units_of
from cai.factors.protocols import TabulatedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.exploration import AbstractExploration, uniform_on_allowed
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner
from cai.methods.sampling.priors import ConstantPrior, entry
from cai.ops.soft_values import soft_log_policy, soft_value


class AbstractFiniteLearner(AbstractOffPolicyLearner):
    """A learner of Q on finitely many actions.

    Args:
        graph: The graph.
        exploration: How it acts.
    """

    def __init__(self, graph: TrajectoryGraph, exploration: AbstractExploration) -> None:
        super().__init__(graph)
        self._exploration = exploration
        self._terminal_reward = graph.terminal_reward
        tables = isinstance(graph.dynamics, TabulatedDynamics)
        self._terminal: Tensor | None = graph.dynamics.terminal_mask if tables else None
        self._constant: NDArray[Any] | None = None
        space = graph.action_space
        self._start = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else None

    @abstractmethod
    def values(self, states: Tensor) -> Tensor:
        """Gives Q(s, .) of states in the environment's form: `[*batch, A]`, reward units."""

    def log_prior(self, states: Tensor, like: Tensor) -> Tensor:
        """Gives log mu(. | s), `[*batch, A]` or `[A]`, nats, of the type and device of `like`."""
        return self.prior.log_probs(states).to(like)

    # Acting.

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the behaviour policy."""
        tensor = torch.as_tensor(states)
        log_prior = self._log_prior_of(tensor)
        q = self.values(tensor).cpu().numpy()
        return self._choice(self._exploration.probs(q, log_prior, self.temperature, self.share), log_prior)

    def explore(self, states: NDArray[Any]) -> Choice:
        """Draws uniformly from what the prior allows."""
        log_prior = self._log_prior_of(torch.as_tensor(states))
        uniform = np.broadcast_to(uniform_on_allowed(log_prior), (len(states), self.actions.num_actions))
        return self._choice(uniform, log_prior)

    def _choice(self, probs: NDArray[Any], log_prior: NDArray[Any]) -> Choice:
        """Draws by a race: of independent exponentials with these rates the first to arrive."""
        arrivals = torch.empty(probs.shape, dtype=torch.float64).exponential_().numpy()
        index = (probs / arrivals).argmax(-1)
        if self._start is None:
            actions = self.actions.to_env(self.actions.from_joint(torch.from_numpy(index)))
        else:
            actions = index + self._start
        rows = np.arange(len(index))
        log_mu = log_prior[index] if log_prior.ndim == 1 else log_prior[rows, index]
        return Choice(actions, (np.log(probs[rows, index]) - log_mu).astype(np.float32))

    def _log_prior_of(self, states: Tensor) -> NDArray[Any]:
        if not isinstance(self.prior, ConstantPrior):
            return self.prior.log_probs(states).cpu().numpy()
        if self._constant is None:
            self._constant = self.prior.log_probs(states).numpy()
        return self._constant

    # What is read.

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s) on the environment's own actions."""
        states = torch.as_tensor(state)
        q = self.values(states)
        log_probs = soft_log_policy(q, self.log_prior(states, q), self.temperature)
        if len(self.actions.row_shape) == 0:
            own: Distribution = Categorical(logits=log_probs, validate_args=False)
        else:
            own = JointCategorical(log_probs, self.actions.sizes)
        assert self.actions.space is not None
        return in_units_of(self.actions.space, own)

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives Q(s, a), reward units; states and actions broadcast."""
        q = self.values(torch.as_tensor(state))
        index = self.actions.to_joint(self.actions.from_env(action)).to(q.device)
        batch = torch.broadcast_shapes(q.shape[:-1], index.shape)
        return self._clamped(state, entry(q.expand(*batch, q.shape[-1]), index.expand(batch)))

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units."""
        states = torch.as_tensor(state)
        q = self.values(states)
        return self._clamped(states, soft_value(q, self.log_prior(states, q), self.temperature))

    def _clamped(self, states: Any, values: Tensor) -> Tensor:
        """Puts the value of having ended where the graph's tables say that a state is terminal."""
        if self._terminal is None:
            return values
        index = self.states.index(states)
        over = self._terminal.to(index.device)[index].to(values.device)
        return torch.where(over, self._ends(torch.as_tensor(states), values), values)

    # Targets.

    def targets(self, batch: Transitions, following: Tensor) -> Tensor:
        """Computes y = r - alpha log_ratios + discounts V(s'), V the terminal reward, else 0, where the world ended.

        Args:
            batch: The transitions.
            following: V(s'), `[B]`, reward units.

        Returns:
            `[B]`, reward units.
        """
        following = torch.where(batch.terminated, self._ends(batch.next_states, following), following)
        return batch.rewards + batch.discounts * following - self.temperature * batch.log_ratios

    def _ends(self, states: Tensor, like: Tensor) -> Tensor:
        """Gives what ending in a state is worth, `[B]` or 0-dim."""
        if self._terminal_reward is None:
            return torch.zeros((), dtype=like.dtype, device=like.device)
        return torch.as_tensor(self._terminal_reward(states)).detach().to(like)

    def _taken(self, batch: Transitions) -> Tensor:
        """Gives the indices of the actions that were taken, `[B]`."""
        return self.actions.to_joint(self.actions.from_env(batch.actions))

    def _mean_entropy(self, q: Tensor, states: Tensor) -> Tensor | float:
        """Computes the mean entropy of the policy in states with these Q(s, .), nats; zero at temperature zero."""
        return self._entropies(q, self.log_prior(states, q)).mean() if self.temperature > 0.0 else 0.0

    def _entropies(self, q: Tensor, log_prior: Tensor) -> Tensor:
        """Computes the entropy of the policy, `[*batch]`, nats."""
        return torch.special.entr(soft_log_policy(q, log_prior, self.temperature).exp()).sum(-1)
