"""Policies as the variational family: the dynamics stays what it is, as in `SoftValueIteration`.

    q(tau) = p(s_0) prod_t pi_t(a_t|s_t) p(s_{t+1}|s_t,a_t),     pi_t(a|s) ~ mu(a|s) exp(theta_t(s, a))
    ELBO = E_q sum_t [r / alpha - log(pi_t / mu)] = E V^pi_0 / alpha

The bound is a policy evaluation: one backward pass, differentiated. Its maximum is the soft-optimal policy.

Source: Levine (2018), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from pyro.poutine.runtime import InferDict
from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.policy import TabularPolicy
from cai.factors.protocols import TabulatedDynamics
from cai.factors.reward import TabularReward
from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.graph.unrolling import finite_tables, padded_initial, step_log_tables
from cai.inference.engine import infer
from cai.inference.guided import Store
from cai.inference.stats import Stats
from cai.inference.tabular import TabularPosterior
from cai.methods.guides.family import AbstractFamily, AbstractGuide, Effort
from cai.methods.policy_evaluation import PolicyEvaluation
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.logspace import safe_log
from cai.ops.messages import backward_messages
from cai.ops.readings import FixedDynamics

_ENUMERATED: InferDict = {"enumerate": "parallel"}


@serializable
@dataclass(frozen=True)
class FixedDynamicsGuide(AbstractGuide):
    """Free policies pi_t(a|s) in the graph's own dynamics; needs tables, a horizon, and no evidence.

    The bound is exact. Its optimum is what `SoftValueIteration` computes in one backward pass: this is the way there
    by gradient, to compare with, or to start other families from.
    """

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph is a trajectory on tables without evidence."""
        if not isinstance(graph, TrajectoryGraph) or not isinstance(graph.dynamics, TabulatedDynamics):
            found = type(graph.dynamics).__name__ if isinstance(graph, TrajectoryGraph) else type(graph).__name__
            raise IncompatibleMethod(
                f"FixedDynamicsGuide needs tables of the dynamics (cai.factors.TabularDynamics), got {found}; factor "
                "graphs take MeanFieldGuide(), callable factors a Pyro guide"
            )
        if graph.evidence:
            raise IncompatibleMethod(
                "FixedDynamicsGuide: with evidence the dynamics would have to change; SumProduct conditions on it, "
                "SoftValueIteration takes evidence on actions"
            )

    def family(self, graph: TrajectoryGraph, effort: Effort, seed: int) -> FixedDynamicsFamily:
        """Starts from the action prior."""
        return FixedDynamicsFamily(graph)


class FixedDynamicsFamily(AbstractFamily):
    """The policies of one graph.

    Args:
        graph: A trajectory graph on tables with a horizon.
    """

    is_exact = True
    learning_rate = 0.2

    def __init__(self, graph: TrajectoryGraph) -> None:
        with torch.no_grad():
            self._tables = tabulate(graph)
            self._log_prior = safe_log(self._tables.priors)
        self._graph = graph
        self.store, self.num_entries = Store(), self._tables.num_entries
        with self.store.opened():
            self.log_policy()

    def log_policy(self) -> Tensor:
        """Computes log pi_t(a|s), `[T, S, A]`, of the parameters in the open store; the prior at terminal states."""
        tables = self._tables
        assert tables.horizon is not None
        shape = (tables.horizon, tables.num_states, tables.num_actions)
        logits = pyro.param("policy_logits", lambda: self._log_prior.new_zeros(shape))
        chosen = torch.log_softmax(self._log_prior + logits, -1)
        return torch.where(tables.terminal[:, None], safe_log(tables.default_policies), chosen)

    def loss(self) -> Tensor:
        """Computes -ELBO exactly: 0-dim, nats."""
        tables, log_policy = self._tables, self.log_policy()
        policy, possible = log_policy.exp(), log_policy > -torch.inf
        ratio = torch.where(possible, log_policy, 0.0) - torch.where(possible, self._log_prior, 0.0)
        costs = tables.temperature * (policy * ratio).sum(-1)
        problem = Stationary(tables, FixedDynamics(), policy, costs)
        messages = backward_messages(tables, problem.passing)
        return -problem.reading.value_of_start(tables, messages.v[0]) / tables.temperature

    def answer(self, graph: TrajectoryGraph, method: Any, stats: Stats, seed: int) -> TabularPosterior:
        """Evaluates the policy, exactly."""
        policy = self.log_policy().detach().exp()
        evaluated = infer(graph, PolicyEvaluation(TabularPolicy.per_step(policy, dtype=policy.dtype)))
        assert isinstance(evaluated, TabularPosterior)
        return replace(evaluated, method=method, stats=replace(stats, certified_error=evaluated.stats.certified_error))

    @cached_property
    def model(self) -> Callable[[], Any]:
        """The graph with E[r(s, a, s')] for its reward: under a fixed dynamics the bound is the same."""
        expected = self._tables.expected_rewards
        reward = TabularReward(expected[0]) if len(expected) == 1 else TabularReward.per_step(expected)
        return self._graph.replace(reward=reward).to_pyro()

    @cached_property
    def guide(self) -> Callable[[], Any]:
        """The policy in the graph's dynamics, its sites marked for enumeration."""
        tables = finite_tables(self._graph, "FixedDynamicsGuide")
        steps, initial = step_log_tables(self._graph, tables), padded_initial(tables)

        def program() -> None:
            log_policy = self.log_policy()
            state = torch.tensor(0)
            for t in pyro.markov(range(len(steps))):
                if t == 0:
                    state = pyro.sample("s0", dist.Categorical(logits=initial), infer=_ENUMERATED)
                log_prior, log_dynamics, _ = steps[t]
                choice = torch.cat([log_policy[t], log_prior[tables.num_states :]])  # of the absorbing state too
                action = pyro.sample(f"a{t}", dist.Categorical(logits=choice[state]), infer=_ENUMERATED)
                following = dist.Categorical(logits=Vindex(log_dynamics)[state, action])
                state = pyro.sample(f"s{t + 1}", following, infer=_ENUMERATED)

        return program
