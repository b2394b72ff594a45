"""What the methods on tables share: checks, the backward pass or the fixed-point iteration, and the answer."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod, NotConverged, warn_user
from cai.factors.environment import Environment
from cai.factors.protocols import TabulatedDynamics
from cai.graph.factor_graph import FactorGraph
from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats
from cai.inference.tabular import TabularPosterior
from cai.methods.recurrence import need_recurrence
from cai.methods.schedules import TimeSchedule, check_time_schedule, time_schedule
from cai.methods.solvers import AbstractSolver
from cai.ops.infinite.fixed_point import Iterate, Stationary
from cai.ops.infinite.recurrent import Recurrent
from cai.ops.infinite.shortest_paths import search_from
from cai.ops.memory import need_memory_for_messages
from cai.ops.messages import BackwardSweep, Messages
from cai.ops.readings import Reading
from cai.ops.scans.time_scan import ScanSweep
from cai.ops.scans.time_schedules import AssociativeScan, Sequential
from cai.ops.tables import Tables
from cai.ops.threads import threads_for

serializable(Iterate)


@dataclass(frozen=True, eq=False)
class TabularState:
    """Where a tabular method stands.

    Attributes:
        problem: The world, the reading and the policy to evaluate, if one is.
        iterate: The fixed-point iteration; of a finite horizon, only its counters.
        sweep: The backward pass of a finite horizon, or None.
        schedule: How it goes through time.
    """

    problem: Stationary | Recurrent
    iterate: Iterate
    sweep: BackwardSweep | ScanSweep | None = None
    schedule: Sequential | AssociativeScan = Sequential()


class AbstractTabularMethod(AbstractMethod):
    """A method that reads the whole table.

    One backward pass where the horizon is finite, a fixed-point iteration where it is not.
    """

    #: GiB that the messages may take; None is all that is free.
    max_memory: float | None = None
    #: How messages go through the time of a finite horizon.
    schedule: TimeSchedule = Sequential()

    @property
    @abstractmethod
    def reading(self) -> Reading:
        """What the messages mean."""

    @abstractmethod
    def solver_for(self, tables: Tables) -> AbstractSolver:
        """The way to the fixed point of an infinite horizon."""

    @property
    def target(self) -> float:
        """The error of V to reach, relative to max(1, max|V|)."""
        return float(getattr(self, "tolerance", 0.0))

    def problem(self, graph: TrajectoryGraph) -> Stationary:
        """Reads the graph as tables."""
        return Stationary(tabulate(graph), self.reading)

    def answered(self, graph: TrajectoryGraph) -> TrajectoryGraph:
        """The graph with the temperature actually used."""
        return graph

    def check_options(self, graph: Any) -> None:
        """Raises ValueError for a tolerance or a schedule that is none, whatever the graph is made of."""
        name = type(self).__name__
        if not 0.0 <= self.target < math.inf:
            raise ValueError(f"{name}: tolerance must be a finite number of at least 0, got {self.target}")
        check_time_schedule(self.schedule, graph, name)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph is a trajectory graph on tables."""
        name = type(self).__name__
        self.check_options(graph)
        if isinstance(graph, FactorGraph):
            raise IncompatibleMethod(
                f"{name} keeps the dynamics as it is, and a factor graph no longer says which of its factors that is: "
                "ask the TrajectoryGraph it was unrolled from (with condition(...) for evidence); SumProduct, "
                "MaxProduct and LoopyBeliefPropagation answer factor graphs"
            )
        if not isinstance(graph, TrajectoryGraph):
            raise IncompatibleMethod(f"{name} answers trajectory graphs on tables, not a {type(graph).__name__}")
        need_tables(graph, name)
        if self.reading.is_bound and graph.discount < 1.0 and any(t > 0 for t in graph.evidence.states):
            raise IncompatibleMethod(
                f"{name}: under a discount the episode may end before the evidence on states, and no policy makes it "
                "certain; SumProduct conditions on it"
            )
        need_slots(graph, name, "initial", "reward")

    def init(self, graph: TrajectoryGraph, seed: int | None) -> TabularState:
        """Reads the tables, and refuses messages that do not fit, or an infinite horizon without an answer."""
        problem = self.problem(self.answered(graph))
        need_memory_for_messages(problem.tables, type(self).__name__, max_memory=self.max_memory)
        if problem.tables.horizon is not None:
            schedule = time_schedule(self.schedule, problem, type(self).__name__, self.max_memory)
            start = Iterate(problem.tables.terminal_values.detach(), residual=0.0)
            return TabularState(problem, start, schedule.sweep(problem), schedule)
        stationary = self._existing(problem)
        with torch.no_grad():
            return TabularState(stationary, Iterate(stationary.detached.start()))

    def _existing(self, problem: Stationary) -> Stationary | Recurrent:
        """The problem of an infinite horizon that these tables pose: values, or a gain where nothing ends."""
        if problem.tables.discount < 1.0:
            return problem
        if problem.tables.has_exits:
            need_exits(problem.tables, type(self).__name__)
            return problem
        recurrent, solver = Recurrent(problem), self.solver_for(problem.tables)
        need_recurrence(recurrent, type(self).__name__)
        if not solver.finds_gain:
            raise IncompatibleMethod(
                f"{type(solver).__name__} finds values; on an undiscounted infinite horizon without terminal states "
                "there is a gain a step to be found, which ValueIteration and Newton do"
            )
        return recurrent

    def step(self, graph: TrajectoryGraph, state: TabularState) -> TabularState:
        """Does a second's worth of the backward pass, or a piece of the iteration."""
        problem = state.problem
        with threads_for(problem.tables.num_entries):
            if state.sweep is not None:
                state.sweep.advance(seconds=1.0)
                return replace(state, iterate=replace(state.iterate, num_steps=state.sweep.num_steps))
            with torch.no_grad():
                solver = self.solver_for(problem.tables)
                return replace(state, iterate=solver.advance(problem.detached, state.iterate, self.target))

    def is_done(self, state: TabularState) -> bool:
        """Says whether the tolerance, the floor of rounding or the limit of steps is reached."""
        if state.sweep is not None:
            return state.sweep.is_done
        return state.iterate.done or state.iterate.num_steps >= self.solver_for(state.problem.tables).max_steps

    def posterior(self, graph: TrajectoryGraph, state: TabularState, seconds: float) -> Posterior:
        """Wraps the messages."""
        problem, iterate = state.problem, state.iterate
        if state.sweep is not None:
            messages = state.sweep.messages()
            assert isinstance(problem, Stationary)  # no other has a horizon
            error = state.schedule.certified_error(problem, messages)
            iterate = replace(iterate, certified_error=error, done=True)
        else:
            if not iterate.done:
                iterate = self._stopped_early(problem, iterate)
            messages = problem.attach(iterate.v)
        self._need_evidence(problem, messages)
        return TabularPosterior(
            graph=self.answered(graph),
            method=self.kept(problem),
            stats=Stats(iterate.num_steps, iterate.done, iterate.residual, iterate.certified_error, seconds),
            reading=problem.reading,
            tables=problem.tables,
            messages=messages,
            given=problem.policy,
            schedule=state.schedule,
        )

    def kept(self, problem: Stationary | Recurrent) -> AbstractMethod:
        """The method as the posterior keeps it."""
        return self

    def progress(self, state: TabularState, seconds: float) -> Progress:
        """Says where the iteration stands."""
        iterate = state.iterate
        return Progress(iterate.num_steps, iterate.residual, iterate.certified_error, seconds, iterate)

    def restore(self, state: TabularState, checkpoint: Iterate) -> TabularState:
        """Goes on from a checkpoint of an infinite horizon; a backward pass is short, and starts again."""
        if state.sweep is not None:
            return state
        device, memory = state.iterate.v.device, checkpoint.memory
        moved = replace(checkpoint, v=checkpoint.v.to(device), memory=None if memory is None else memory.to(device))
        return replace(state, iterate=moved)

    def _stopped_early(self, problem: Stationary | Recurrent, iterate: Iterate) -> Iterate:
        """Gives what there is, with one sweep that certifies it; warns, or refuses what was on its way to nowhere."""
        with torch.no_grad():
            swept = problem.detached.sweep(iterate, tolerance=self.target)
            iterate = replace(swept, num_steps=iterate.num_steps, done=False)
        if problem.seems_endless(iterate):
            raise IncompatibleMethod(problem.refusal())
        warn_user(
            f"{type(self).__name__} stopped after {iterate.num_steps} steps with residual {iterate.residual:.3g}; "
            f"the error of v is at most {iterate.certified_error:.3g}",
            NotConverged,
        )
        return iterate

    def _need_evidence(self, problem: Stationary | Recurrent, messages: Messages) -> None:
        start = problem.reading.value_of_start(problem.tables, messages.v[0])
        if not torch.isneginf(start):
            return
        if problem.reading.is_bound and problem.tables.state_masks:
            raise IncompatibleMethod(
                f"under a fixed dynamics no policy makes the evidence on states at times "
                f"{sorted(problem.tables.state_masks)} certain; SumProduct conditions on it"
            )
        raise IncompatibleMethod("the evidence has probability zero: no trajectory of this graph agrees with it")


def need_tables(graph: TrajectoryGraph, name: str) -> None:
    """Raises `IncompatibleMethod` unless the dynamics is a table."""
    need_more_than_steps(graph, f"{name} needs tables of the dynamics")
    if not isinstance(graph.dynamics, TabulatedDynamics):
        found = "none" if graph.dynamics is None else type(graph.dynamics).__name__
        raise IncompatibleMethod(
            f"{name} needs tables of the dynamics (cai.factors.TabularDynamics), got {found}; "
            "linear-Gaussian graphs are answered by SoftValueIteration, SumProduct and RiskSensitiveControl, "
            "differentiable ones by ILQR and GradientPlanner"
        )


def need_more_than_steps(graph: TrajectoryGraph, needed: str) -> None:
    """Raises `IncompatibleMethod` where the dynamics can only be stepped; `needed` says who needs what of it."""
    if isinstance(graph.dynamics, Environment):
        raise IncompatibleMethod(
            f"{needed}, and the graph's can only be stepped: {graph.dynamics.why_not_tables}; such a graph can be "
            "rolled out, and learned from by sampling methods"
        )


def need_slots(graph: TrajectoryGraph, name: str, *slots: str) -> None:
    """Raises `IncompatibleMethod` where a factor of the graph is missing."""
    for slot in slots:
        if getattr(graph, slot) is None:
            raise IncompatibleMethod(f"{name} needs the graph's {slot}, which is None")


def need_exits(tables: Tables, name: str) -> None:
    """Refuses an undiscounted infinite horizon with states from which no terminal state can be reached.

    Raises:
        IncompatibleMethod: A state never gets to a terminal one; the message names it.
    """
    moves = tables.step(0).transitions.state_matrix((tables.priors[0] > 0).to(tables.initial.dtype))
    reaches = search_from(tables.terminal, scipy.sparse.csr_matrix(moves)).reached
    if not reaches.all():
        state = int(np.flatnonzero(~reaches)[0])
        raise IncompatibleMethod(
            f"{name}: on this undiscounted infinite horizon state {state} never reaches a terminal state; give a "
            "discount below 1 or a finite horizon"
        )
