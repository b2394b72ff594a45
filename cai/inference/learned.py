"""The posterior of a method that learns from samples: what was learned, and what can be found out by running it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import IncompatibleMethod, Unavailable
from cai.inference.history import History
from cai.inference.posterior import Gap, Posterior
from cai.inference.tabular import TabularPosterior

#: Episodes that estimate a bound where nothing better is known.
_NUM_EPISODES = 100
#: A discounted future of less weight than this is left out of an estimate.
_NEGLIGIBLE = 1e-3


class Learner(Protocol):
    """What a learned posterior asks of what was learned. States and actions are the environment's own."""

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s)."""

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives Q(s, a), reward units; raises Unavailable where nothing of the kind is learned."""

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units; raises Unavailable where nothing of the kind is learned."""

    def log_ratio(self, state: Any, action: Any) -> Tensor:
        """Gives log pi(a | s) - log mu(a | s), nats."""

    def memory(self) -> Any:
        """Gives all that was learned, as something that can be written."""

    def remember(self, memory: Any) -> None:
        """Puts back what `memory` gave."""


@dataclass(frozen=True)
class Estimate:
    """The mean of independent episodes.

    Attributes:
        mean: The mean.
        standard_error: Of the mean.
        num_episodes: How many episodes.
    """

    mean: float
    standard_error: float
    num_episodes: int


@serializable
@dataclass(frozen=True, eq=False)
class LearnedPosterior(Posterior):
    """A policy, and soft values where the method has them, learned from samples: estimates throughout.

    The time t is ignored: what is learned is the stationary answer. On graphs with tables `log_evidence`,
    `state_marginals`, `expected_return` and the like are those of the learned policy, exactly (by `PolicyEvaluation`);
    elsewhere `log_evidence`, `expected_return` and `entropy` are estimated by running it.

    Attributes:
        graph: See `Posterior`; its temperature is the one in use at the end.
        method: See `Posterior`.
        stats: See `Posterior`.
        learner: What was learned.
        history: What was logged on the way.
    """

    learner: Learner
    history: History = field(default_factory=History)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs: what was learned as tensors, which the method knows how to read."""
        parts = {name: getattr(self, name) for name in ("graph", "method", "stats", "history")}
        return parts | {"learned": self.learner.memory()}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LearnedPosterior:
        """Makes the posterior of what a file gave."""
        with torch.random.fork_rng(devices=[]):  # what is drawn for it is overwritten
            learner = parts["method"].learner(parts["graph"])
        learner.remember(parts["learned"])
        return cls(parts["graph"], parts["method"], parts["stats"], learner, parts["history"])

    # What was learned.

    def policy(self, state: Any, t: Any = 0) -> Distribution:
        """Gives pi(a | s); see `Posterior.policy`."""
        with torch.no_grad():
            return self.learner.policy(state)

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives the learned Q(s, a), reward units; see `Posterior.q`."""
        with torch.no_grad():
            return self.learner.q(state, action)

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives the learned V(s), reward units; see `Posterior.v`."""
        with torch.no_grad():
            return self.learner.v(state)

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q(s, a) - V(s), reward units."""
        v = self.v(state)  # before q, whose shape it need not have
        return self.q(state, action) - v

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Runs the policy in the graph's own dynamics; see `Posterior.sample`."""
        from cai.simulate import rollout

        return rollout(self.graph, self, num, seed=seed, length=length)

    # What running it tells, exactly where there are tables.

    @cached_property
    def _evaluated(self) -> TabularPosterior | None:
        try:
            return self.method.evaluation(self)
        except IncompatibleMethod as error:
            raise Unavailable(f"{type(self.method).__name__}: the learned policy has no such value: {error}") from error

    def _need_tables(self, name: str) -> TabularPosterior:
        if self._evaluated is None:
            self._unavailable(name, ": the graph has no tables, and samples of states have no density")
        return self._evaluated

    def log_prob(self, trajectories: Trajectories) -> Tensor:
        """Gives the log-density of trajectories, `[N]`, nats, of graphs with tables; see `Posterior.log_prob`."""
        return self._need_tables("log_prob").log_prob(trajectories)

    @property
    def is_bound(self) -> bool:
        """True: any policy's E sum gamma^t [r / alpha - log(pi / mu)] bounds the log evidence from below."""
        return True

    @property
    def log_evidence(self) -> Tensor:
        """The evidence lower bound of the learned policy: 0-dim, nats.

            E {sum_t gamma^t [r_t / alpha - log (pi / mu)(a_t | s_t)] + gamma^L g(s_L) / alpha}

        with g the terminal reward of the state that the episode ended in, in the world or at the graph's horizon. Exact
        where the graph has tables, elsewhere the mean of `bound()`.
        """
        if self._evaluated is not None:
            return self._evaluated.log_evidence
        return torch.tensor(self.bound().mean, dtype=torch.float64)

    def bound(self, num_episodes: int = _NUM_EPISODES, seed: int = 0) -> Estimate:
        """Estimates the evidence lower bound by running the policy, nats.

        An episode that is cut off counts up to the cut, or up to where gamma^t is below 0.001.

        Args:
            num_episodes: How many episodes.
            seed: Their seed.

        Raises:
            Unavailable: The temperature is zero.
        """
        temperature = float(self.graph.temperature)
        if temperature == 0.0:
            self._unavailable("log_evidence", ": at temperature 0 the optimality has no density")
        episodes = self._episodes(num_episodes, seed)
        values = episodes.rewards / temperature - episodes.log_ratios
        return _estimate((values * episodes.weights).sum(1) + episodes.endings / temperature)

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards of the learned policy: 0-dim, reward units; estimated without tables."""
        if self._evaluated is not None:
            return self._evaluated.expected_return
        episodes = self._episodes(_NUM_EPISODES, 0)
        return ((episodes.rewards * episodes.weights).sum(1) + episodes.endings).mean()

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's entropies: 0-dim, nats; of graphs with tables."""
        return self._need_tables("entropy").entropy

    @property
    def state_marginals(self) -> Tensor:
        """Where the learned policy leads, `[T + 1, S]` or `[S]`, of graphs with tables; see `Posterior`."""
        return self._need_tables("state_marginals").state_marginals

    @property
    def state_action_marginals(self) -> Tensor:
        """Where it leads and acts, `[T, S, A]` or `[S, A]`, of graphs with tables; see `Posterior`."""
        return self._need_tables("state_action_marginals").state_action_marginals

    @property
    def occupancy(self) -> Tensor:
        """Expected (discounted) visits of the learned policy, of graphs with tables; see `Posterior.occupancy`."""
        return self._need_tables("occupancy").occupancy

    def gap(self, other: Posterior) -> Gap:
        """Puts the learned policy and another posterior side by side, on graphs with tables; see `Posterior.gap`."""
        mine = self._need_tables("gap")
        theirs = other._need_tables("gap") if isinstance(other, LearnedPosterior) else other
        return mine.gap(theirs)

    def _episodes(self, num_episodes: int, seed: int) -> _Episodes:
        discount, length = self.graph.discount, self.graph.horizon
        if discount < 1.0:
            weighty = max(1, math.ceil(math.log(_NEGLIGIBLE) / math.log(discount))) if discount else 1
            length = weighty if length is None else min(length, weighty)
        try:
            run = self.sample(num_episodes, seed=seed, length=length)
        except ValueError as error:
            raise Unavailable(f"{type(self.method).__name__} cannot be run on this graph: {error}") from error
        with torch.no_grad():
            log_ratios = self.learner.log_ratio(run.states[:, :-1], run.actions).to(torch.float64)
        weights = discount ** torch.arange(run.actions.shape[1], dtype=torch.float64) * run.mask
        rewards = torch.where(run.mask, run.rewards.to(torch.float64), 0.0)  # type: ignore[union-attr]
        return _Episodes(rewards, torch.where(run.mask, log_ratios, 0.0), weights, self._endings(run))

    def _endings(self, run: Trajectories) -> Tensor:
        """Computes gamma^L g(s_L) of episodes that ended in the world or at the horizon, else zero: `[N]`."""
        if self.graph.terminal_reward is None:
            return torch.zeros(len(run), dtype=torch.float64)
        last = run.states[torch.arange(len(run)), run.lengths]
        worth = torch.as_tensor(self.graph.terminal_reward(last)).detach().to(torch.float64)
        ended = run.terminated if self.graph.horizon is None else run.terminated | (run.lengths == self.graph.horizon)
        return torch.where(ended, worth * self.graph.discount**run.lengths, 0.0)


@dataclass(frozen=True, eq=False)
class _Episodes:
    """Episodes as numbers `[N, T]`; the weight of a step is gamma^t, zero after the end; endings `[N]`."""

    rewards: Tensor
    log_ratios: Tensor
    weights: Tensor
    endings: Tensor


def _estimate(values: Tensor) -> Estimate:
    num = len(values)
    spread = float(values.std()) / math.sqrt(num) if num > 1 else math.inf
    return Estimate(float(values.mean()), spread, num)
