"""The frame of every method that learns from samples: what it refuses, how it runs, and what it answers.

A piece of work is the same number of environment steps whatever the machine, so that a run is repeatable: callbacks
see it after each.
"""

from __future__ import annotations

import math
import numbers
import operator
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium

from cai.errors import IncompatibleMethod
from cai.factors.protocols import Stepped, TabulatedDynamics
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.engine import infer
from cai.inference.learned import LearnedPosterior
from cai.inference.method import AbstractMethod, Progress
from cai.inference.stats import Stats
from cai.inference.tabular import TabularPosterior
from cai.methods.policy_evaluation import PolicyEvaluation
from cai.methods.sampling.learner import AbstractLearner
from cai.methods.sampling.run import Run, RunMemory
from cai.ops.threads import one_thread
from cai.simulate.seeding import RandomState
from cai.simulate.worlds import AbstractWorld, world_of


@dataclass(frozen=True)
class AbstractSamplingMethod(AbstractMethod):
    """A method that acts in a world and learns from what happens.

    The world may be a live environment, tables, or callable dynamics: the last two are sampled. What is answered is
    the stationary discounted problem; a horizon only truncates episodes.

    Attributes:
        num_steps: Environment steps, all copies together.
        num_envs: Copies of the world that are stepped at once.
        vectorization_mode: How copies of an environment run: "sync" one after another, "async" in processes of their
            own, "vector_entry_point" by the environment's own vector form; None takes the last for several copies where
            there is one, else "sync".
        device: Where networks lie.
    """

    num_steps: int = 100_000
    num_envs: int = 1
    vectorization_mode: str | None = None
    device: str = "cpu"

    is_anytime: ClassVar[bool] = True
    #: Whether recorded data serves in the place of a world.
    learns_from_records: ClassVar[bool] = False

    # What a method is made of.

    @abstractmethod
    def learner(self, graph: TrajectoryGraph) -> AbstractLearner:
        """Makes what learns, untrained, for the spaces of a graph; draws from torch's generator."""

    @abstractmethod
    def advance(self, run: Run) -> None:
        """Does a piece of the work."""

    def memory(self, graph: TrajectoryGraph) -> Any:
        """Makes the memory of transitions, where the method keeps one."""
        return None

    def check(self, graph: TrajectoryGraph) -> None:
        """Raises ValueError for bad hyper-parameters, `IncompatibleMethod` for spaces that the method cannot serve."""

    # How it runs.

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph can be run and its stationary problem has an answer."""
        name = type(self).__name__
        if not isinstance(graph, TrajectoryGraph):
            raise IncompatibleMethod(f"{name} answers trajectory graphs, not a {type(graph).__name__}")
        need_whole_numbers(self, "num_steps", "num_envs")
        if isinstance(graph.dynamics, RecordedDynamics) and not self.learns_from_records:
            raise IncompatibleMethod(
                f"{name} acts in a world, and this graph has records of one only; SoftQLearning learns from them"
            )
        for slot in ("state_space", "action_space"):
            space = getattr(graph, slot)
            if not isinstance(space, gymnasium.Space):
                raise IncompatibleMethod(f"{name} needs the graph's {slot}; give it with graph.replace({slot}=...)")
        if graph.evidence:
            raise IncompatibleMethod(f"{name} samples forwards, and cannot heed evidence; SumProduct can, on tables")
        if graph.observation is not None:
            raise IncompatibleMethod(f"{name} learns from states, and this graph hides them behind observations")
        for slot in ("dynamics", "reward", "action_prior"):
            if getattr(getattr(graph, slot), "num_steps", None) is not None:
                raise IncompatibleMethod(
                    f"{name} is stationary, and the {slot} changes with time; put time into the state"
                )
        self._need_an_end(graph)
        self.check(graph)

    def _need_an_end(self, graph: TrajectoryGraph) -> None:
        if graph.discount < 1.0 or graph.horizon is not None or _declares_terminal(graph.dynamics):
            return
        raise IncompatibleMethod(
            f"{type(self).__name__} needs a discount below 1, a horizon or declared terminal states: without them "
            "returns may have no bound; try graph.replace(discount=0.99)"
        )

    def init(self, graph: TrajectoryGraph, seed: int | None) -> Run:
        """Makes the world, the learner and the memory."""
        random = RandomState(None if seed is None else operator.index(seed), self.device)
        world = self.world(graph)
        with random.active():
            learner = self.learner(graph).to(self.device)
        return Run(graph, learner, random, world, self.memory(graph))

    def world(self, graph: TrajectoryGraph) -> AbstractWorld | None:
        """Makes what is acted in."""
        return world_of(graph, self.num_envs, vectorization_mode=self.vectorization_mode)

    def step(self, graph: TrajectoryGraph, state: Run) -> Run:
        """Does a piece of the work."""
        with state.random.active(), one_thread():
            state.start()
            state.learner.share = min(1.0, state.num_steps / self.num_steps)
            self.advance(state)
        state.history.append(state.row())
        return state

    def is_done(self, state: Run) -> bool:
        """Says whether all steps are done."""
        return state.num_steps >= self.num_steps

    def close(self, state: Run) -> None:
        """Closes the world."""
        if state.world is not None:
            state.world.close()

    # What it answers.

    def posterior(self, graph: TrajectoryGraph, state: Run, seconds: float) -> LearnedPosterior:
        """Wraps what was learned."""
        residual = state.history.rows[-1].get("bellman_residual", math.nan) if len(state.history) else math.nan
        stats = Stats(state.num_steps, self.is_done(state), residual, math.inf, seconds, self.estimates)
        used = graph.replace(temperature=state.learner.temperature)
        return LearnedPosterior(used, self, stats, state.learner, state.history)

    @property
    def estimates(self) -> tuple[str, ...]:
        """What of the posterior is estimated."""
        return ("policy", "q", "v", "log_evidence")

    def progress(self, state: Run, seconds: float) -> Progress:
        """Says where the work stands."""
        row = state.history.rows[-1]
        return Progress(
            state.num_steps,
            row.get("bellman_residual", math.nan),
            math.inf,
            seconds,
            RunMemory(state, keeps_replay=self.keeps_replay),
            total_steps=self.num_steps,
            metrics=row,
            posterior=lambda: self.posterior(state.graph, state, seconds),
        )

    @property
    def keeps_replay(self) -> bool:
        """Whether checkpoints keep the transitions seen."""
        return True

    def restore(self, state: Run, checkpoint: RunMemory) -> Run:
        """Goes on from a checkpoint."""
        state.remember(checkpoint)
        return state

    @property
    def identity(self) -> AbstractSamplingMethod:
        """The method without its number of steps: a run may be continued beyond it."""
        return replace(self, num_steps=1)

    def evaluation(self, posterior: LearnedPosterior) -> TabularPosterior | None:
        """Evaluates the learned policy exactly where the graph has tables."""
        if not isinstance(posterior.graph.dynamics, TabulatedDynamics):
            return None
        return infer(posterior.graph, PolicyEvaluation(posterior.policy))  # type: ignore[return-value]


def need_whole_numbers(method: Any, *names: str, least: int = 1) -> None:
    """Raises ValueError unless these hyper-parameters are whole numbers of at least some size."""
    for name in names:
        number = getattr(method, name)
        if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < least:
            raise ValueError(
                f"{type(method).__name__}: {name} must be a whole number of at least {least}, got {number!r}"
            )


def _declares_terminal(dynamics: Any) -> bool:
    if isinstance(dynamics, TabulatedDynamics):
        return bool(dynamics.terminal_mask.any())
    return not isinstance(dynamics, Stepped) and callable(getattr(dynamics, "terminal", None))
