"""Path consistency learning: values and a policy that agree along every path.

    C_t = -V(s_t) + gamma^d V(s_{t+d}) + sum_{k<d} gamma^k (r_{t+k} - alpha log(pi / mu)(a_{t+k}|s_{t+k}))

    minimise  (1/2) mean C^2  over V and pi together, by gradients through both

Posterior: that of `SoftValueIteration`, dynamics fixed; everything is an estimate. At the soft-optimal V and pi, C is
zero on every path of a deterministic world, whatever policy went along it, so that data of any policy serves, and no
importance weights, target networks or one-step backups are needed.

Where the world is noisy this is not so: only the mean of C over successors is zero, the square has their variance on
top, and its minimum is another answer (values of possible successors are pulled together, and so are the policies that
lead to them). With tables `DoubleSampledResidual()` takes the bias away; elsewhere use `SoftQLearning` or
`SoftActorCritic`, whose targets are means.

Source: Nachum, Norouzi, Xu and Schuurmans (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import gymnasium

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod, NonFinite
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.paths.learner import PathConsistencyLearner
from cai.methods.paths.models import AbstractModels, SeparateModels, TableBody
from cai.methods.paths.replays import AbstractRolloutReplay, RolloutBuffer, UniformRolloutReplay, recorded_rollouts
from cai.methods.paths.residuals import AbstractResidual, SquaredResidual
from cai.methods.sampling.method import need_whole_numbers
from cai.methods.sampling.on_policy import AbstractOnPolicyMethod
from cai.methods.sampling.run import Run
from cai.simulate.worlds import AbstractWorld

#: Updates between two reports, where nothing is acted.
_UPDATES_A_REPORT = 100


@serializable
@dataclass(frozen=True)
class PathConsistency(AbstractOnPolicyMethod):
    """Soft values and the soft-optimal policy, from paths of any policy; in deterministic worlds.

    Estimates throughout. In a noisy world the answer is biased, by an amount that more data does not lessen; see
    `residual`. The graph may be a live environment, tables or callable dynamics to be sampled, or recorded data of any
    policy: then `num_steps` counts updates. The temperature must be positive. An update is a pass of the models over
    the rollouts in it, whatever the length of a path.

    `SoftQLearning` and `SoftActorCritic` are unbiased in noisy worlds; `PolicyGradient` is, too, and on-policy only.

    Attributes:
        models: What stands for V and pi: `SeparateModels`, `UnifiedModel`; None is separate tables where states and
            actions are Discrete, separate networks elsewhere.
        path_length: d, steps of a path; it ends earlier where an episode or a rollout does.
        residual: What is minimised: `SquaredResidual()`, or `DoubleSampledResidual()` on noisy tables.
        replay: Which rollouts are kept to learn from off-policy: `UniformRolloutReplay`, `ReturnRolloutReplay`; None
            learns from the last one alone, on-policy.
        replay_updates: Off-policy updates after each rollout.
        replay_batch: Rollouts of single copies in an off-policy update.
        max_norm: Gradients are scaled down to this norm; None leaves them.
    """

    num_envs: int = 8
    steps_per_rollout: int = 20
    models: AbstractModels | None = None
    path_length: int = 20
    residual: AbstractResidual = SquaredResidual()
    replay: AbstractRolloutReplay | None = UniformRolloutReplay()
    replay_updates: int = 1
    replay_batch: int = 16
    max_norm: float | None = 10.0

    learns_from_records: ClassVar[bool] = True

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` for graphs that it cannot serve."""
        super().check(graph)
        need_whole_numbers(self, "path_length", "replay_batch")
        need_whole_numbers(self, "replay_updates", least=0)
        for name, kind, such in (
            ("models", AbstractModels | None, "SeparateModels()"),
            ("residual", AbstractResidual, "SquaredResidual()"),
            ("replay", AbstractRolloutReplay | None, "UniformRolloutReplay()"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"PathConsistency: {name} must be such as cai.methods.{such}, got {getattr(self, name)!r}"
                )
        if self.path_length > self.steps_per_rollout:
            raise ValueError(
                f"PathConsistency: path_length {self.path_length} is beyond the {self.steps_per_rollout} steps of a "
                "rollout; raise steps_per_rollout"
            )
        if self.max_norm is not None and not 0.0 < self.max_norm < math.inf:
            raise ValueError(f"PathConsistency: max_norm must be positive, or None, got {self.max_norm!r}")
        if float(graph.temperature) == 0.0:
            raise IncompatibleMethod(
                "PathConsistency needs a positive temperature: at 0 the policy has no density, and values obey no "
                "equation along paths; SoftQLearning and SoftActorCritic have that limit, or take a small temperature"
            )
        if self.replay is None and isinstance(graph.dynamics, RecordedDynamics):
            raise ValueError("PathConsistency: what was recorded is learned from by a replay, and replay is None")
        self._models_for(graph).accepts(graph)
        self.residual.accepts(graph, self.path_length)

    def learner(self, graph: TrajectoryGraph) -> PathConsistencyLearner:
        """Makes what learns, untrained."""
        return PathConsistencyLearner(
            graph, self._models_for(graph), self.residual, path_length=self.path_length, max_norm=self.max_norm
        )

    def world(self, graph: TrajectoryGraph) -> AbstractWorld | None:
        """Makes what is acted in; nothing, where the data is recorded."""
        return None if isinstance(graph.dynamics, RecordedDynamics) else super().world(graph)

    def memory(self, graph: TrajectoryGraph) -> RolloutBuffer | None:
        """Makes the memory of rollouts; recorded ones are in it."""
        if isinstance(graph.dynamics, RecordedDynamics):
            return recorded_rollouts(graph, self.steps_per_rollout)
        return None if self.replay is None else self.replay.buffer()

    @property
    def keeps_replay(self) -> bool:
        """Whether checkpoints keep the rollouts seen."""
        return self.replay is not None and self.replay.kept

    def advance(self, run: Run) -> None:
        """Acts for one rollout, learns from it and from earlier ones; where the data was recorded, only learns."""
        learner = run.learner
        assert isinstance(learner, PathConsistencyLearner)
        try:
            if run.world is None:
                num = min(_UPDATES_A_REPORT, self.num_steps - run.num_steps)
                self._learn_again(run, learner, num)
                run.num_steps += num
                return
            rollout = self._acted(run)
            run.num_updates += learner.learn_from(rollout.to(learner.device))
            if self.replay is not None:
                run.replay.add(rollout)
                self._learn_again(run, learner, self.replay_updates)
        except NonFinite as error:
            raise NonFinite(f"PathConsistency: after update {run.num_updates}, {error}") from None

    def _learn_again(self, run: Run, learner: PathConsistencyLearner, num_updates: int) -> None:
        assert self.replay is not None
        for _ in range(num_updates):
            learner.learn(self.replay.sample(run.replay, self.replay_batch).to(learner.device))
            run.num_updates += 1

    def _models_for(self, graph: TrajectoryGraph) -> AbstractModels:
        if self.models is not None:
            return self.models
        spaces = (graph.state_space, graph.action_space)
        if all(isinstance(space, gymnasium.spaces.Discrete) for space in spaces):
            return SeparateModels(TableBody(), TableBody(), policy_learning_rate=0.1, value_learning_rate=0.1)
        return SeparateModels()
