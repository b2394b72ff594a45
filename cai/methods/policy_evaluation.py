"""The value of a given policy: backward messages in which the policy is not optimised.

    V_t = sum_a pi_t(a|s) [Q_t - alpha log(pi_t / mu)],     Q_t = E[r] + gamma E V_{t+1}

Posterior: q(tau) = p(s_0) prod pi p. `log_evidence` = E V_0 / alpha is the evidence lower bound of this policy, so any
two policies of a graph can be compared, and `exact.gap(evaluated)` is what the policy loses. Exact on tables: one
backward pass, or one linear solve on an infinite horizon. With `temperature=0` V is the plain expected return.

Where the dynamics can only be stepped, or where an estimator is given, V is estimated from what the policy does there:
TD(lambda) or Monte Carlo, of the same quantity.

Source: Sutton and Barto (2018), sections 4.1 and 6.1; Haarnoja et al. (2018), lemma 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.checks import as_table, check_rows
from cai.factors.policy import TabularPolicy
from cai.factors.protocols import Stepped
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.method import AbstractMethod
from cai.methods.schedules import TimeSchedule
from cai.methods.solvers import AbstractSolver, Newton
from cai.methods.tabular_method import AbstractTabularMethod
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.infinite.occupancy import policy_costs
from cai.ops.infinite.recurrent import Recurrent
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class PolicyEvaluation(AbstractTabularMethod):
    """Values, advantages, occupancy and evidence bound of a given policy: exactly on tables, else from samples.

    An environment is sampled, in `num_steps` steps; so are tables and callable dynamics where an estimator is given:
    the answer is then a `LearnedPosterior` of a `SampledEvaluation`, with v and no q, for the stationary problem. The
    policy may be a posterior, a `TabularPolicy`, probabilities `[S, A]` or `[T, S,
    A]`, a callable `policy(state, t)` that returns a distribution, or a policy with `bind(graph)`; it may carry
    gradients. An action that the prior forbids must have probability zero.

    Attributes:
        policy: The policy.
        temperature: Temperature of the entropy term, reward units; None takes the graph's, 0 leaves it out.
        tolerance: Certified error of V to reach on an infinite horizon, relative to max(1, max|V|).
        schedule: How messages go through a finite horizon: `Sequential()` is the loop over time, `AssociativeScan()`
            takes all steps at once, `None` is the quicker of the two.
        estimator: How values follow from samples: `TemporalDifference`, `EveryVisitMonteCarlo`, `FirstVisitMonteCarlo`;
            None is exact where there are tables, and TD(0.9) where the dynamics can only be stepped.
        values: What holds values estimated from samples: `TableValues`, `NetworkValues`; None picks by the states.
        num_steps: Environment steps of an estimate, all copies together.
        num_envs: Copies of the world that are stepped at once.
        steps_per_rollout: Steps of each copy between two reports, and in a pass of a network.
    """

    policy: Any
    temperature: float | None = None
    tolerance: float = 1e-10
    schedule: TimeSchedule = None
    estimator: Any = None
    values: Any = None
    num_steps: int = 100_000
    num_envs: int = 8
    steps_per_rollout: int = 256

    def for_graph(self, graph: Any) -> AbstractMethod:
        """Gives what does the work: this, on tables, or its counterpart that samples."""
        samples = self.estimator is not None or isinstance(getattr(graph, "dynamics", None), Stepped)
        if not (samples and isinstance(graph, TrajectoryGraph)):
            return self
        # imported late, since what samples asks this class for what tables know of the policy
        from cai.methods.evaluation.sampled import SampledEvaluation

        names = ("policy", "temperature", "estimator", "values", "num_steps", "num_envs", "steps_per_rollout")
        options = {name: getattr(self, name) for name in names}
        if self.estimator is None:
            del options["estimator"]
        return SampledEvaluation(**options)

    @property
    def reading(self) -> Reading:
        """The dynamics is what it is."""
        return FixedDynamics()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """One linear solve; what follows cleans its rounding."""
        return Newton(max_steps=20)

    def answered(self, graph: TrajectoryGraph) -> TrajectoryGraph:
        """The graph with the temperature of the entropy term."""
        return graph if self.temperature is None else graph.replace(temperature=self.temperature)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph has tables, or can be sampled, and no evidence."""
        working = self.for_graph(graph)
        if working is not self:
            working.accepts(graph)
            return
        super().accepts(graph)
        if graph.evidence:
            raise IncompatibleMethod(
                "PolicyEvaluation: a policy is given, so evidence has nothing to act on; SumProduct has"
            )

    def problem(self, graph: TrajectoryGraph) -> Stationary:
        """Reads the graph and the policy as tables."""
        bare = super().problem(graph)
        policy = policy_table(self.policy, graph, bare.tables)
        return replace(bare, policy=policy, costs=policy_costs(bare.tables, policy))

    def kept(self, problem: Stationary | Recurrent) -> PolicyEvaluation:
        """Keeps the policy as a table, which can be saved."""
        assert problem.policy is not None
        table = problem.policy.detach()
        kept = (
            TabularPolicy(table[0], dtype=table.dtype)
            if len(table) == 1
            else TabularPolicy.per_step(table, dtype=table.dtype)
        )
        return replace(self, policy=kept)


def policy_table(policy: Any, graph: TrajectoryGraph, tables: Tables) -> Tensor:
    """Reads any policy as probabilities.

    Args:
        policy: As `PolicyEvaluation` takes it.
        graph: The graph that it acts in.
        tables: Its tables.

    Returns:
        `[1, S, A]` for a stationary policy or an infinite horizon, else `[T, S, A]`; the normalised prior at terminal
        states.

    Raises:
        ValueError: A wrong shape, rows that do not sum to one, or an action that the prior forbids.
    """
    table = _raw_table(policy, graph, tables).to(tables.initial)
    shape = (tables.num_states, tables.num_actions)
    if table.dim() == 2:
        table = table[None]
    if table.shape[1:] != shape or len(table) not in (1, tables.horizon or 1):
        raise ValueError(
            f"PolicyEvaluation: expected probabilities [{shape[0]}, {shape[1]}] or [T, {shape[0]}, {shape[1]}] with "
            f"T = {tables.horizon}, got {list(table.shape)}"
        )
    table = torch.where(tables.terminal[:, None], tables.default_policies, table)
    check_rows(table, "policy", ["time", "state"])
    forbidden = (table > 0) & (tables.priors == 0)
    if forbidden.any():
        t, state, action = forbidden.nonzero()[0].tolist()
        raise ValueError(f"policy: state {state} takes action {action} at time {t}, which the action prior forbids")
    return table


def _raw_table(policy: Any, graph: TrajectoryGraph, tables: Tables) -> Tensor:
    if hasattr(policy, "bind"):
        policy = policy.bind(graph)
    if isinstance(policy, TabularPolicy):
        return policy.probs
    act = getattr(policy, "policy", policy)
    if not callable(act):
        table = as_table(policy, "PolicyEvaluation: the policy's probabilities", None)
        return TabularPolicy.per_step(table).probs if table.dim() == 3 else TabularPolicy(table).probs
    states = torch.arange(tables.num_states)
    return torch.stack([_probs(act(states, t), tables) for t in range(tables.horizon or 1)])


def _probs(choice: Any, tables: Tables) -> Tensor:
    probs, expected = getattr(choice, "probs", None), (tables.num_states, tables.num_actions)
    if not isinstance(probs, Tensor) or probs.shape != expected:
        shape = f" of {list(probs.shape)}" if isinstance(probs, Tensor) else ""
        raise ValueError(
            f"PolicyEvaluation: policy(state, t) must return a Categorical of {list(expected)}, for all states at "
            f"once, got {type(choice).__name__}{shape}"
        )
    return probs
