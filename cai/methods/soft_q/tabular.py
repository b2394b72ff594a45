"""Soft Q-learning on a table: stochastic approximation of the soft backup.

    Q(s, a) <- Q(s, a) + eta [mean of r + gamma V(s') over the batch - Q(s, a)],     eta by how often (s, a) was updated
    V(s) = alpha log sum_a mu(a|s) exp(Q(s, a) / alpha)

With step sizes that meet the conditions of Robbins and Monro, transitions drawn again and again from all that was seen,
and every pair seen for ever, Q converges to the soft-optimal one (Watkins and Dayan, 1992, for temperature 0: the soft
backup is a contraction too). An update costs a few passes over the batch and one over the states, whatever their number
of actions; memory is S A numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.data.transitions import Transitions
from cai.errors import IncompatibleMethod, NonFinite
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner
from cai.methods.sampling.priors import prior_of
from cai.methods.soft_q.finite import AbstractFiniteLearner
from cai.methods.soft_q.head import AbstractHead
from cai.methods.soft_q.step_sizes import AbstractStepSize, HarmonicSteps
from cai.methods.soft_q.sweeps import SweepLearner
from cai.ops.soft_values import soft_value


@serializable
@dataclass(frozen=True)
class Tabular(AbstractHead):
    """A table of Q(s, a), float64, for discrete states and actions.

    On recorded data it is exact: each update is a full sweep of the soft backup of the empirical model.

    Attributes:
        step_size: How far an update goes: `HarmonicSteps(scale)` or `PolynomialSteps(exponent)`.
        initial: Q before anything is known, reward units; a high one makes what was never done look good.
    """

    step_size: AbstractStepSize = HarmonicSteps()
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.step_size, AbstractStepSize):
            raise ValueError(f"Tabular: step_size must be such as HarmonicSteps(30.0), got {self.step_size!r}")

    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` unless states and actions are discrete."""
        for slot in ("state_space", "action_space"):
            if not isinstance(getattr(graph, slot), gymnasium.spaces.Discrete):
                raise IncompatibleMethod(
                    f"Tabular: a table needs Discrete spaces, and the {slot} is {getattr(graph, slot)}; "
                    "cai.methods.Network() takes others"
                )

    def learner(self, graph: TrajectoryGraph, method: Any) -> AbstractOffPolicyLearner:
        """Makes the table."""
        if isinstance(graph.dynamics, RecordedDynamics):
            return SweepLearner(graph, method.exploration_on(graph))
        return TabularLearner(graph, self, method)


class _Table(nn.Module):
    """Q, and how often each entry was updated."""

    q: Tensor
    num_updates: Tensor

    def __init__(self, num_states: int, num_actions: int, initial: float) -> None:
        super().__init__()
        self.register_buffer("q", torch.full((num_states, num_actions), float(initial), dtype=torch.float64))
        self.register_buffer("num_updates", torch.zeros((num_states, num_actions), dtype=torch.int64))


class TabularLearner(AbstractFiniteLearner):
    """A table of Q.

    Args:
        graph: The graph.
        head: The options of the table.
        method: The options of the method.
    """

    def __init__(self, graph: TrajectoryGraph, head: Tabular, method: Any) -> None:
        super().__init__(graph, method.exploration_on(graph))
        self.prior = prior_of(graph, self.states, self.actions, torch.float64)
        self._step_size = head.step_size
        self._table = _Table(self.states.size, self.actions.num_actions, head.initial)
        self.modules["table"] = self._table

    @property
    def table(self) -> Tensor:
        """Q(s, a), `[S, A]`, reward units."""
        return self._table.q

    @property
    def num_updates(self) -> Tensor:
        """How often each entry was updated, `[S, A]`, int64."""
        return self._table.num_updates

    def values(self, states: Tensor) -> Tensor:
        """Looks Q(s, .) up."""
        return self.table[self.states.index(states).to(self.device)]

    def learn(self, batch: Transitions) -> Tensor:
        """Moves the entries of a batch towards the means of their targets.

        Raises:
            NonFinite: A target is NaN or infinite; the table is as before.
        """
        states = self.states.index(batch.states)
        entries = states * self.actions.num_actions + self._taken(batch)
        following = self._on_states(self._soft_values, self.states.index(batch.next_states))
        targets = self.targets(batch, following)
        q, num_updates = self.table.view(-1), self.num_updates.view(-1)
        errors = targets - q[entries]
        count = torch.zeros_like(q).index_add_(0, entries, torch.ones_like(errors))
        total = torch.zeros_like(q).index_add_(0, entries, errors)
        if not torch.isfinite(total.sum()):
            raise NonFinite("a target of the table is NaN or infinite")
        touched = count > 0
        num_updates += touched
        q += torch.where(touched, self._step_size(num_updates.clamp(min=1).to(q.dtype)) * total / count, 0.0)
        self.metrics.add("bellman_residual", errors.abs().mean())
        self.metrics.add("entropy", self._on_states(self._entropies, states).mean())
        return errors

    def _soft_values(self, q: Tensor, log_prior: Tensor) -> Tensor:
        return soft_value(q, log_prior, self.temperature)

    def _on_states(self, function: Callable[[Tensor, Tensor], Tensor], index: Tensor) -> Tensor:
        """Computes a function of Q(s, .) and log mu(. | s), `[B]`; of all states first where they are fewer."""
        assert isinstance(self.states.space, gymnasium.spaces.Discrete)
        everywhere = self.states.size <= len(index)
        rows = torch.arange(self.states.size, device=self.device) if everywhere else index
        q = self.table if everywhere else self.table[index]
        values = function(q, self.log_prior(rows + int(self.states.space.start), q))
        return values[index] if everywhere else values
