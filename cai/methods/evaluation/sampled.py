"""What `PolicyEvaluation` becomes where values are estimated from samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np

from cai.data.serialization import serializable
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.learned import LearnedPosterior
from cai.methods.evaluation.estimators import AbstractEstimator, TemporalDifference
from cai.methods.evaluation.learner import EvaluationLearner
from cai.methods.evaluation.policies import readable_policy
from cai.methods.evaluation.values import AbstractValues, NetworkValues, TableValues
from cai.methods.sampling.on_policy import AbstractOnPolicyMethod, Rollout, rollout_of
from cai.methods.sampling.records import records_of
from cai.methods.sampling.run import Run
from cai.simulate.worlds import AbstractWorld


@serializable
@dataclass(frozen=True)
class SampledEvaluation(AbstractOnPolicyMethod):
    """Values of a given policy from what it does in the world; `PolicyEvaluation` makes one where it has to sample.

    An estimate. Gives the policy, v and the evidence bound; no q. Recorded data (`cai.factors.RecordedDynamics`) serves
    too, if it is what this policy did: `num_steps` then counts the steps read, over and over, and TD(0) goes to the
    value in the model that the frequencies of the data make (Sutton, 1988).

    Attributes:
        policy: The policy; see `PolicyEvaluation`.
        temperature: Temperature of the entropy term, reward units; None takes the graph's, 0 leaves it out.
        estimator: How values follow from what the policy does.
        values: What holds them; None is a table for Discrete states, a network for others.
    """

    num_envs: int = 8
    steps_per_rollout: int = 256
    policy: Any = None
    temperature: float | None = None
    estimator: AbstractEstimator = TemporalDifference(0.9)
    values: AbstractValues | None = None

    learns_from_records: ClassVar[bool] = True

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` for states that cannot be served."""
        super().check(graph)
        for name, kind, such in (
            ("estimator", AbstractEstimator, "cai.methods.TemporalDifference()"),
            ("values", AbstractValues | None, "cai.methods.TableValues()"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"PolicyEvaluation: {name} must be such as {such}, got {getattr(self, name)!r}")
        self._answered(graph)
        values = self._values_for(graph)
        values.accepts(graph, self.estimator)
        readable_policy(self.policy, graph)

    def learner(self, graph: TrajectoryGraph) -> EvaluationLearner:
        """Makes what learns."""
        policy, values = readable_policy(self.policy, graph), self._values_for(graph)
        recorded = isinstance(graph.dynamics, RecordedDynamics)
        num_envs = len(graph.dynamics.trajectories) if recorded else self.num_envs
        return EvaluationLearner(self._answered(graph), policy, self.estimator, values, num_envs)

    def world(self, graph: TrajectoryGraph) -> AbstractWorld | None:
        """Makes what is acted in; nothing, where the data is recorded."""
        return None if isinstance(graph.dynamics, RecordedDynamics) else super().world(graph)

    def memory(self, graph: TrajectoryGraph) -> RecordedRollout | None:
        """Makes the rollout of what was recorded, where something was."""
        return RecordedRollout(graph) if isinstance(graph.dynamics, RecordedDynamics) else None

    @property
    def keeps_replay(self) -> bool:
        """No: what was recorded stands in the graph."""
        return False

    def advance(self, run: Run) -> None:
        """Follows the policy for one rollout and learns from it, or goes once through what was recorded."""
        if run.world is None:
            assert isinstance(run.learner, EvaluationLearner)
            rollout = run.replay.rollout
            run.num_updates += run.learner.learn_from(run.learner.with_log_ratios(rollout))
            run.num_steps += int(rollout.valid.sum())
            return
        if self.estimator.restarts:
            run.world.reset((run.random.seed + run.num_steps) % 2**31)
        super().advance(run)

    def posterior(self, graph: TrajectoryGraph, state: Run, seconds: float) -> LearnedPosterior:
        """Wraps what was learned; a policy that can be a table is kept as one, which can be saved."""
        kept = replace(self, policy=readable_policy(self.policy, graph))
        return replace(super().posterior(graph, state, seconds), method=kept)

    @property
    def estimates(self) -> tuple[str, ...]:
        """What of the posterior is estimated."""
        return ("v", "log_evidence")

    def _answered(self, graph: TrajectoryGraph) -> TrajectoryGraph:
        return graph if self.temperature is None else graph.replace(temperature=self.temperature)

    def _values_for(self, graph: TrajectoryGraph) -> AbstractValues:
        if self.values is not None:
            return self.values
        return TableValues() if isinstance(graph.state_space, gymnasium.spaces.Discrete) else NetworkValues()


class RecordedRollout:
    """What was recorded, as one rollout of as many copies as there are episodes.

    Args:
        graph: A graph whose dynamics is recorded.
    """

    def __init__(self, graph: TrajectoryGraph) -> None:
        records = records_of(graph)
        num, length = records.valid.shape
        self.rollout: Rollout = rollout_of(list(records.steps()), [np.zeros(num, dtype=np.float32)] * length)

    def memory(self) -> None:
        """Nothing: the graph has it."""
        return None

    def remember(self, memory: None) -> None:
        """Nothing was kept."""
