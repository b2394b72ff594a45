"""The posterior of a tabular graph: messages, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import Unavailable
from cai.factors.checks import state_index
from cai.graph.tabulate import tabulate
from cai.inference.posterior import Gap, Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.divergence import kl_of_steps, kl_terms
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.infinite.occupancy import stationary_occupancy
from cai.ops.infinite.recurrent import Recurrent
from cai.ops.logspace import safe_log
from cai.ops.messages import Messages, forward_marginals, log_policy
from cai.ops.readings import FixedDynamics, Kernel, MostProbable, PosteriorDynamics, Reading, RiskSensitive
from cai.ops.sampling import sample_index
from cai.ops.scans.forward_scan import scanned_marginals
from cai.ops.scans.time_schedules import AssociativeScan, Sequential
from cai.ops.tables import Tables
from cai.ops.threads import threads_for
from cai.simulate.chains import ChainSampler
from cai.simulate.seeding import seeded

for _class in (FixedDynamics, PosteriorDynamics, RiskSensitive, MostProbable, Messages, Sequential, AssociativeScan):
    serializable(_class)


@serializable
@dataclass(frozen=True, eq=False)
class TabularPosterior(Posterior):
    """Backward messages on tables, with marginals, evidence and samples computed when they are asked for.

    Attributes:
        reading: What the messages mean: which trajectory distribution they describe.
        tables: The graph as tables.
        messages: Q and V, reward units.
        given: `[1 or T, S, A]`, the policy that was evaluated, or None where it follows from the messages.
        schedule: How marginals go through the time of a finite horizon.
    """

    reading: Reading
    tables: Tables
    messages: Messages
    given: Tensor | None = None
    schedule: Sequential | AssociativeScan = Sequential()

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; the tables are made again from the graph."""
        names = ("graph", "method", "stats", "reading", "messages", "given", "schedule")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> TabularPosterior:
        """Makes the posterior of what a file gave."""
        with torch.no_grad():
            posterior = cls(**parts, tables=tabulate(parts["graph"]))
        num_steps = posterior.tables.horizon or 1
        expected = (num_steps, posterior.tables.num_states, posterior.tables.num_actions)
        if posterior.messages.q.shape != expected:
            raise ValueError(f"messages of shape {list(posterior.messages.q.shape)} on a graph of {list(expected)}")
        return posterior

    # What is read at a state, an action and a time.

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Categorical:
        """Gives pi_t(a | s); see `Posterior.policy`."""
        state, t = self._at(state, t, self._last_step)
        return torch.distributions.Categorical(logits=self._log_policy[t, state], validate_args=False)

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(s, a), reward units; see `Posterior.q`."""
        state, t = self._at(state, t, self._last_step)
        return self.messages.q[t, state, self._action(action)]

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives V_t(s) for 0 <= t <= T, reward units; see `Posterior.v`."""
        state, t = self._at(state, t, self.tables.horizon or 0)
        return self.messages.v[t, state]

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(s, a) - V_t(s), reward units; zero where no action matters (terminal states, excluded ones)."""
        v = self.v(state, t)
        alive = ~torch.isneginf(v)
        return torch.where(alive, self.q(state, action, t) - torch.where(alive, v, 0.0), 0.0)

    @property
    def _last_step(self) -> int:
        return 0 if self.tables.horizon is None else self.tables.horizon - 1

    def _at(self, state: Any, t: Any, last: int) -> tuple[Tensor, Tensor]:
        state = state_index(state, self.tables.num_states).to(self.messages.v.device)
        if self.tables.horizon is None:
            return state, torch.zeros((), dtype=torch.int64, device=state.device)
        return state, state_index(t, last + 1, "t").to(state.device)

    def _action(self, action: Any) -> Tensor:
        return state_index(action, self.tables.num_actions, "action").to(self.messages.v.device)

    # Evidence.

    @property
    def log_evidence(self) -> Tensor:
        """The log evidence log p(O), or a lower bound of it: 0-dim, nats; see `Posterior.log_evidence`."""
        if self.tables.is_hard:
            raise Unavailable("log_evidence is undefined at temperature 0, where the optimality has no density")
        self._need_an_end("log_evidence")
        self._need_bound("log_evidence")
        return self.reading.value_of_start(self.tables, self.messages.v[0]) / self.tables.temperature

    @property
    def gain(self) -> Tensor:
        """What every further step is worth in the long run: 0-dim, reward units; see `Posterior.gain`."""
        return super().gain if self.messages.gain is None else self.messages.gain

    def _need_an_end(self, name: str) -> None:
        if self.messages.gain is not None:
            self._unavailable(
                name,
                ": on an infinite horizon without discount or terminal states it grows without bound; `gain` is what "
                "a step is worth, `state_action_marginals` are the long-run frequencies",
            )

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound of log p(O)."""
        self._need_bound("is_bound")
        return self.reading.is_bound

    def _need_bound(self, name: str) -> None:
        if reason := self.reading.why_no_evidence(self.tables.temperature):
            self._unavailable(name, reason)

    # The trajectory distribution that the messages describe.

    @grad_cached_property
    def _log_initial(self) -> Tensor:
        return self.reading.log_initial(self.tables, self.messages.v[0])

    @property
    def _initial(self) -> Tensor:
        return self._log_initial.exp()

    @grad_cached_property
    def _log_policy(self) -> Tensor:
        """Log pi_t(a|s), `[T, S, A]` or `[1, S, A]`."""
        if self.given is not None:
            return safe_log(self.given).expand(self.messages.q.shape)
        return self._policy_of_messages()

    def _policy_of_messages(self) -> Tensor:
        v = self.messages.v if self.tables.horizon is None else self.messages.v[:-1]
        return log_policy(self.tables, self.reading, self.messages.q, v)

    @grad_cached_property
    def _policy(self) -> Tensor:
        """pi_t(a|s), `[T, S, A]` or `[1, S, A]`."""
        if self.given is not None:
            return self.given.expand(self.messages.q.shape)
        log_probs = self._policy_of_messages()  # not kept: marginals need probabilities only
        return log_probs.exp() if log_probs.requires_grad else log_probs.exp_()

    def _kernel(self, t: int, *, absorbs: bool = True) -> Kernel:
        now, then = (0, 0) if self.tables.horizon is None else (t, t + 1)
        kernel = self.reading.kernel(self.tables.step(now), self.messages.q[now], self.messages.v[then])
        return kernel if absorbs else Kernel(kernel.arrival)

    def _forward(self, *, absorbs: bool) -> tuple[Tensor, Tensor]:
        if isinstance(self.schedule, AssociativeScan):
            return self._scanned(self.tables.discount if absorbs else 1.0)
        kernel: Callable[[int], Kernel] = partial(self._kernel, absorbs=absorbs)
        if not self.reading.tilts and len(self.tables.steps) == 1:
            always = kernel(0)
            kernel = lambda t: always  # noqa: E731
        with threads_for(self.tables.num_entries):
            return forward_marginals(self.tables, self._initial, self._policy, kernel)

    def _scanned(self, discount: float) -> tuple[Tensor, Tensor]:
        policy = self._policy if self.given is None else self.given
        parts = (self.tables, self.reading, self.messages, self._initial, policy)
        with threads_for(self.tables.num_entries):
            return scanned_marginals(*parts, discount=discount)

    @cached_property
    def _problem(self) -> Stationary:
        return Stationary(self.tables, self.reading, self.given, torch.zeros_like(self.messages.v))

    @grad_cached_property
    def _visits(self) -> tuple[Tensor, Tensor]:
        """Expected (discounted) visits of pairs, and the mass that ends in each state: [T | -, S, A] and [S]."""
        if self.tables.horizon is None:
            return stationary_occupancy(self._problem, self.messages, self._initial)
        states, pairs = self._forward(absorbs=True)
        return pairs, states[-1]

    @grad_cached_property
    def _marginals(self) -> tuple[Tensor, Tensor]:
        tables = self.tables
        if tables.horizon is not None:
            absorbing = self.reading.absorbs and tables.discount < 1.0
            return self._forward(absorbs=absorbing)
        if self.messages.gain is not None:
            states = Recurrent(self._problem).marginal(self.messages)
            return states, states[:, None] * self._policy[0]
        pairs, ended = self._visits
        if tables.discount == 1.0:  # nothing but the absorbed mass is stationary
            return ended, torch.zeros_like(pairs)
        states = pairs.sum(-1) + ended / (1.0 - tables.discount)
        total = states.sum()
        return states / total, pairs / total

    @property
    def state_marginals(self) -> Tensor:
        """Distribution of the state, `[T + 1, S]` or `[S]`; see `Posterior.state_marginals`."""
        return self._marginals[0]

    @property
    def state_action_marginals(self) -> Tensor:
        """Distribution of (state, action), `[T, S, A]` or `[S, A]`; see `Posterior.state_action_marginals`."""
        return self._marginals[1]

    @property
    def occupancy(self) -> Tensor:
        """Expected (discounted) visits, `[T, S, A]` or `[S, A]`; see `Posterior.occupancy`."""
        self._need_an_end("occupancy")
        return self._visits[0]

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards, terminal reward included: 0-dim, reward units."""
        self._need_an_end("expected_return")
        visits, ended = self._visits
        total = (ended * self.tables.terminal_values).sum()
        if self.tables.horizon is None:
            return total + (visits * self._rewards(0)).sum()
        if isinstance(self.reading, FixedDynamics) or all(step.entry_rewards is None for step in self.tables.steps):
            return total + (visits * self.tables.expected_rewards).sum()
        return total + sum((visits[t] * self._rewards(t)).sum() for t in range(self.tables.horizon))

    def _rewards(self, t: int) -> Tensor:
        """E[r(s, a, s')] under this posterior's own dynamics, `[S, A]`."""
        step = self.tables.step(t)
        if step.entry_rewards is None:
            return step.rewards
        arrival = self._kernel(t).arrival
        return step.rewards + arrival.over_next(arrival.values * step.entry_rewards)

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's entropies: 0-dim, nats."""
        self._need_an_end("entropy")
        entropies = -torch.where(self._policy > 0, self._policy * self._log_policy, 0.0).sum(-1)
        return (self._visits[0].sum(-1) * entropies).sum()

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The mode of p(tau | O), as a batch of one; of `MaxProduct` only."""
        if not isinstance(self.reading, MostProbable):
            self._unavailable("most_probable_trajectory", "; ask MaxProduct")
        return self.sample(1, seed=0)

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of this posterior, `[N]` of them; see `Posterior.sample`."""
        tables = self.tables
        length = tables.horizon if length is None else length
        if tables.horizon is not None and length is not None and not 0 < length <= tables.horizon:
            raise ValueError(f"sample: length must be within 1..{tables.horizon}, the horizon, got {length}")
        dies = self.reading.absorbs and tables.discount < 1.0
        if length is None and not (tables.terminal.any() or dies):
            raise ValueError("sample: the horizon is infinite and no state is terminal; give length=")
        policy = self._policy.detach()
        with seeded(seed, policy.device) as generator, torch.no_grad(), threads_for(tables.num_entries):
            sampler = ChainSampler(
                tables,
                self._initial,
                lambda state, t: sample_index(policy[t if len(policy) > 1 else 0, state], generator),
                lambda t: self._kernel(t, absorbs=self.reading.absorbs),
            )
            return sampler.sample(num, length, generator)

    def log_prob(self, trajectories: Trajectories) -> Tensor:
        """Gives log q(tau): start, actions and transitions, `[N]`, nats; see `Posterior.log_prob`.

        Where the discount is an absorbing state of this posterior, going on and ending early are counted too.

        Raises:
            ValueError: States or actions outside the graph's spaces, or more actions than the horizon.
        """
        trajectories = trajectories.to(self.messages.v.device)
        states, actions, mask = trajectories.states, trajectories.actions, trajectories.mask
        if states.dim() != 2 or actions.dim() != 2:
            raise ValueError("log_prob: expected discrete states [N, T + 1] and actions [N, T], got vectors")
        num_steps = int(trajectories.lengths.max()) if len(trajectories) else 0
        if self.tables.horizon is not None and num_steps > self.tables.horizon:
            raise ValueError(f"log_prob: a trajectory takes {num_steps} actions, the horizon is {self.tables.horizon}")
        states = state_index(torch.where(trajectories.state_mask, states, 0), self.tables.num_states)
        actions = state_index(torch.where(mask, actions, 0), self.tables.num_actions, "action")
        total = self._log_initial[states[:, 0]]
        died = trajectories.terminated & ~self.tables.terminal[states.gather(1, trajectories.lengths[:, None])[:, 0]]
        with threads_for(self.tables.num_entries):
            for t in range(num_steps):
                ends = died & (trajectories.lengths == t + 1)
                step = self._log_prob_step(t, states[:, t], actions[:, t], states[:, t + 1], ends)
                # Nothing is done in a terminal state any more.
                step = torch.where(self.tables.terminal[states[:, t]], -torch.inf, step)
                total = total + torch.where(mask[:, t], step, 0.0)
        return total

    def _log_prob_step(self, t: int, state: Tensor, action: Tensor, following: Tensor, ends: Tensor) -> Tensor:
        kernel = self._kernel(t, absorbs=self.reading.absorbs)
        probability = kernel.transitions.entry(kernel.transitions.values, state, action, following)
        log_arrival = kernel.transitions.entry(kernel.log_arrival, state, action, following)
        log_arrival = torch.where(probability > 0, log_arrival, -torch.inf)  # what is not stored reads as zero
        log_chosen = self._log_policy[t if self.tables.horizon is not None else 0, state, action]
        if kernel.survival is None:
            return torch.where(ends, -torch.inf, log_chosen + log_arrival)
        after = torch.where(ends, kernel.survival.log_ends[following], kernel.survival.log_goes_on[following])
        after = torch.where(self.tables.terminal[following], 0.0, after)  # either way it ended there
        return log_chosen + log_arrival + after

    # Side by side.

    def gap(self, other: Posterior) -> Gap:
        """Puts two posteriors on the same graph side by side, nats; see `Posterior.gap`."""
        if not isinstance(other, TabularPosterior):
            raise ValueError(f"gap: the other posterior is a {type(other).__name__}, which has no tables")
        self._need_same_world(other)
        self._need_an_end("gap")
        difference = self.log_evidence - other.log_evidence
        sign = -1.0 if self.is_bound and not other.is_bound else 1.0
        return Gap(sign * difference, self._kl_to(other), other._kl_to(self))

    def _kl_to(self, other: TabularPosterior) -> Tensor:
        total = kl_terms(self._log_initial, other._log_initial).sum()
        visits = self._visits[0] if self.tables.horizon is not None else self._visits[0][None]
        with threads_for(self.tables.num_entries):
            for t in range(len(visits)):
                log_policies = (self._log_policy[t], other._log_policy[t])
                total = total + kl_of_steps(visits[t], log_policies, (self._kernel(t), other._kernel(t)))
        return total

    def _need_same_world(self, other: TabularPosterior) -> None:
        mine, theirs = self.tables, other.tables
        for name in ("num_states", "num_actions", "horizon", "discount", "temperature"):
            if getattr(mine, name) != getattr(theirs, name):
                raise ValueError(
                    f"gap: the graphs differ: {name} {getattr(mine, name)} against {getattr(theirs, name)}"
                )
        pairs = {
            "initial distribution": (mine.initial, theirs.initial),
            "terminal states": (mine.terminal, theirs.terminal),
            "terminal reward": (mine.terminal_values, theirs.terminal_values),
        }
        for t in range(max(len(mine.steps), len(theirs.steps))):
            here, there = mine.step(t), theirs.step(t)
            if t and here is mine.step(t - 1) and there is theirs.step(t - 1):
                continue
            pairs[f"action prior at time {t}"] = (here.prior, there.prior)
            pairs[f"reward at time {t}"] = (here.expected_rewards, there.expected_rewards)
            pairs[f"dynamics at time {t}"] = (here.transitions.values, there.transitions.values)
        if type(mine.step(0).transitions) is not type(theirs.step(0).transitions):
            raise ValueError("gap: one graph holds its dynamics dense, the other sparse; hold both alike")
        for name, (first, second) in pairs.items():
            if first is not second and (first.shape != second.shape or not torch.equal(first, second)):
                raise ValueError(f"gap: the graphs differ in their {name}")
        if self.graph.evidence != other.graph.evidence:
            raise ValueError("gap: the graphs differ in their evidence")
