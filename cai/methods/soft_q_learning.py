"""Soft Q-learning: the backward messages of maximum-entropy control, estimated from transitions.

    Q(s, a) <- r + gamma V(s'),   V(s) = alpha log sum_a mu(a|s) exp(Q(s, a) / alpha),   pi = mu exp((Q - V) / alpha)

Posterior: that of `SoftValueIteration`, dynamics fixed; everything is an estimate. On tables it converges to the exact
messages; a network's error is a matter of samples and of what the network can express.

Sources: Haarnoja, Tang, Abbeel and Levine (2017); Watkins and Dayan (1992) and Mnih et al. (2015) for temperature 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.exploration import AbstractExploration, EpsilonGreedy, EpsilonSoft, SoftPolicy
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner, AbstractOffPolicyMethod
from cai.methods.sampling.priors import prior_of
from cai.methods.sampling.records import records_of
from cai.methods.sampling.replays import UniformReplay
from cai.methods.soft_q.head import AbstractHead
from cai.methods.soft_q.network import Network
from cai.methods.soft_q.sweeps import EverythingRecorded
from cai.methods.soft_q.tabular import Tabular
from cai.simulate.worlds import AbstractWorld


@serializable
@dataclass(frozen=True)
class SoftQLearning(AbstractOffPolicyMethod):
    """Soft values and the soft-optimal policy, from samples, whoever acted.

    The graph may be a live environment, tables or callable dynamics to be sampled, or recorded data: then `num_steps`
    counts updates, and with a table each is an exact sweep. Temperature 0 is (double) DQN.

    An update is a few passes of the network over a batch, or of the batch over the table. `SoftActorCritic` is the
    better choice for boxes, `PolicyGradient` where steps of the world are cheaper than updates; where tables are known,
    `SoftValueIteration` has the answer itself.

    Attributes:
        head: What stands for Q; None is `Tabular()` for discrete states and actions, `Network()` for other states.
        exploration: How it acts; None is `SoftPolicy()`, with a table `EpsilonSoft(0.2)`, at temperature 0
            `EpsilonGreedy()`.
    """

    batch_size: int = 64
    head: AbstractHead | None = None
    exploration: AbstractExploration | None = None

    learns_from_records: ClassVar[bool] = True

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` for spaces that the head cannot serve."""
        super().check(graph)
        for name, kind, such in (
            ("head", AbstractHead, "cai.methods.Tabular()"),
            ("exploration", AbstractExploration, "cai.methods.EpsilonGreedy()"),
        ):
            if not isinstance(getattr(self, name), kind | None):
                raise ValueError(f"SoftQLearning: {name} must be such as {such}, got {getattr(self, name)!r}")
        self.head_for(graph).accepts(graph)
        try:
            prior_of(graph, StateEncoding(graph.state_space), ActionEncoding(graph.action_space))
        except IncompatibleMethod:
            raise
        except ValueError as error:
            raise IncompatibleMethod(f"SoftQLearning: {error}") from None
        if isinstance(graph.dynamics, RecordedDynamics):
            self._check_records(graph)

    def _check_records(self, graph: TrajectoryGraph) -> None:
        if graph.discount == 1.0:
            raise IncompatibleMethod("SoftQLearning on recorded data needs a discount below 1, or values may not exist")
        if self.n_step > 1 and float(graph.temperature) > 0.0:
            raise IncompatibleMethod(
                "SoftQLearning: returns of several steps need log(pi/mu) of the actions, which was not recorded; "
                "take n_step=1"
            )
        if not isinstance(self.replay, UniformReplay) and isinstance(self.head_for(graph), Tabular):
            raise IncompatibleMethod("SoftQLearning: a table sweeps all that was recorded, by UniformReplay()")
        self.replay.holding(1)
        records_of(graph)

    def learner(self, graph: TrajectoryGraph) -> AbstractOffPolicyLearner:
        """Makes what learns, untrained."""
        return self.head_for(graph).learner(graph, self)

    def world(self, graph: TrajectoryGraph) -> AbstractWorld | None:
        """Makes what is acted in; nothing, where the data is recorded."""
        return None if isinstance(graph.dynamics, RecordedDynamics) else super().world(graph)

    def memory(self, graph: TrajectoryGraph) -> Any:
        """Makes the memory of transitions; recorded ones are in it."""
        if not isinstance(graph.dynamics, RecordedDynamics):
            return super().memory(graph)
        records = records_of(graph)
        if isinstance(self.head_for(graph), Tabular):
            return EverythingRecorded(records, graph)
        num = len(records.valid)
        holds = max(int(records.valid.sum()), num * self.n_step)
        buffer = self.replay.holding(holds).buffer(graph, num, self.n_step)
        for step in records.steps():
            buffer.add(step, step.rewards * 0.0)
        return buffer

    def head_for(self, graph: TrajectoryGraph) -> AbstractHead:
        """Gives the head, or the one that the spaces ask for.

        Raises:
            IncompatibleMethod: There is none for such actions.
        """
        if self.head is not None:
            return self.head
        spaces = gymnasium.spaces
        if isinstance(graph.action_space, spaces.Discrete) and isinstance(graph.state_space, spaces.Discrete):
            return Tabular()
        if isinstance(graph.action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            return Network()
        raise IncompatibleMethod(
            f"SoftQLearning: actions in {graph.action_space} need a head that is named, or SoftActorCritic"
        )

    def exploration_on(self, graph: TrajectoryGraph) -> AbstractExploration:
        """Gives the behaviour, or the one that the temperature asks for."""
        if self.exploration is not None:
            return self.exploration
        if float(graph.temperature) == 0.0:
            return EpsilonGreedy()
        return EpsilonSoft(0.2) if isinstance(self.head_for(graph), Tabular) else SoftPolicy()
