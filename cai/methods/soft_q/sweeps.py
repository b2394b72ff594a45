"""Fitted soft Q-iteration on recorded data, exactly: every update sweeps all that was recorded.

    Q(s, a) <- mean over recorded (s, a, r, s') of r + gamma V(s')
    V(s)     = alpha log sum_a mu(a|s) exp(Q(s, a) / alpha)

the sum over actions that were recorded in s: what was never done has no estimate, and the policy does not do it (its Q
is -inf). It is the best policy among those that only do what was recorded, for the empirical model, whose exact answer
it approaches as gamma^n. A state in which nothing was recorded ends the episode, as a terminal state would.

Source: Ernst, Geurts and Wehenkel (2005) for fitted Q-iteration; Fujimoto, Meger and Precup (2019) for the restriction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.transitions import Transitions
from cai.errors import NonFinite
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.exploration import AbstractExploration
from cai.methods.sampling.priors import AbstractActionPrior, prior_of
from cai.methods.sampling.records import Records, records_of
from cai.methods.soft_q.finite import AbstractFiniteLearner


class EverythingRecorded:
    """A memory that gives all it has, each different transition once, weighted by how often it was seen.

    Args:
        records: What was recorded.
        graph: The graph, with discrete spaces.
    """

    def __init__(self, records: Records, graph: TrajectoryGraph) -> None:
        states, actions = StateEncoding(graph.state_space), ActionEncoding(graph.action_space)
        valid = records.valid
        s, following = states.index(records.states[valid]), states.index(records.next_states[valid])
        key = (s * actions.num_actions + actions.from_env(records.actions[valid])) * states.size + following
        ended = records.terminated[valid]
        rows, where, count = torch.unique(key * 2 + ended, return_inverse=True, return_counts=True)
        first = torch.empty_like(rows).scatter_(0, where, torch.arange(len(where), device=where.device))
        rewards = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        rewards.index_add_(0, where, records.rewards[valid])
        ones = torch.ones_like(rewards)
        self._all = Transitions(
            states=records.states[valid][first],
            actions=records.actions[valid][first],
            rewards=rewards / count,
            next_states=records.next_states[valid][first],
            terminated=ended[first],
            discounts=ones * graph.discount,
            log_ratios=torch.zeros_like(ones),
            weights=count.to(torch.float64),
            indices=torch.arange(len(rows)),
        )

    def sample(self, batch_size: int) -> Transitions:
        """Gives all transitions, whatever the size asked for."""
        return self._all

    def __len__(self) -> int:
        return len(self._all)

    def memory(self) -> None:
        """Nothing: the graph has it."""
        return None

    def remember(self, memory: None) -> None:
        """Nothing was kept."""


class _Table(nn.Module):
    """Q, and which entries were recorded."""

    q: Tensor
    recorded: Tensor

    def __init__(self, num_states: int, num_actions: int) -> None:
        super().__init__()
        self.register_buffer("q", torch.zeros(num_states, num_actions, dtype=torch.float64))
        self.register_buffer("recorded", torch.zeros(num_states, num_actions, dtype=torch.bool))


class SweepLearner(AbstractFiniteLearner):
    """A table of Q that is swept as a whole.

    Args:
        graph: The graph, on recorded data.
        exploration: How it would act.
    """

    def __init__(self, graph: TrajectoryGraph, exploration: AbstractExploration) -> None:
        super().__init__(graph, exploration)
        self._table = _Table(self.states.size, self.actions.num_actions)
        self.modules["table"] = self._table
        records = records_of(graph)
        done = self.actions.from_env(records.actions[records.valid])
        self._table.recorded[self.states.index(records.states[records.valid]), done] = True
        given = prior_of(graph, self.states, self.actions, torch.float64)
        self.prior = self._restricted = RecordedPrior(given, self.states, self._table)

    @property
    def table(self) -> Tensor:
        """Q(s, a), `[S, A]`, reward units; `-inf` for what was never done."""
        return torch.where(self._table.recorded, self._table.q, -torch.inf)

    def values(self, states: Tensor) -> Tensor:
        """Looks Q(s, .) up; zeros where nothing was ever done."""
        return self._table.q[self.states.index(states).to(self.device)]

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives Q(s, a), reward units; `-inf` for what was never done in s."""
        s, a = torch.broadcast_tensors(self.states.index(state), self.actions.from_env(action))
        return self.table[s.to(self.device), a.to(self.device)]

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units; where nothing was recorded, the terminal reward, else 0."""
        states = torch.as_tensor(state)
        value = super().v(states)
        return torch.where(self._restricted.has_actions(states), value, self._ends(states, value))

    def learn(self, batch: Transitions) -> Tensor:
        """Sweeps all entries once.

        Raises:
            NonFinite: A value is NaN or infinite; the table is as before.
        """
        entries = self.states.index(batch.states) * self.actions.num_actions + self._taken(batch)
        targets = self.targets(batch, self.v(batch.next_states))
        q = self._table.q.view(-1)
        total = torch.zeros_like(q).index_add_(0, entries, batch.weights * targets)
        count = torch.zeros_like(q).index_add_(0, entries, batch.weights)
        updated = torch.where(count > 0, total / count, q)
        change = (updated - q).abs().max()
        if not torch.isfinite(change):
            raise NonFinite("a value of the table is NaN or infinite")
        errors = targets - q[entries]
        q.copy_(updated)
        self.metrics.add("bellman_residual", change)
        return errors


class RecordedPrior(AbstractActionPrior):
    """An action prior restricted to what was recorded; where that is nothing, or nothing allowed, it is as it was.

    Args:
        prior: The graph's.
        states: How states become indices.
        table: Bears `recorded`, `[S, A]`, bool.
    """

    def __init__(self, prior: AbstractActionPrior, states: StateEncoding, table: _Table) -> None:
        self._prior, self._states, self._table = prior, states, table

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives log mu(a | s) of the graph's prior."""
        return self._prior.log_prob(states, actions)

    def log_probs(self, states: Tensor) -> Tensor:
        """Gives log mu(. | s), `-inf` for what was not recorded."""
        given = self._prior.log_probs(states)
        allowed = self._recorded(states) & ~torch.isneginf(given)
        return torch.where(allowed | ~allowed.any(-1, keepdim=True), given, -torch.inf)

    def has_actions(self, states: Tensor) -> Tensor:
        """Says in which states something allowed was recorded, `[*batch]`, bool."""
        return (self._recorded(states) & ~torch.isneginf(self._prior.log_probs(states))).any(-1)

    def _recorded(self, states: Tensor) -> Tensor:
        return self._table.recorded[self._states.index(states).to(self._table.recorded.device)]
