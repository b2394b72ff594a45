"""Where hidden states were, given what was observed and done: Kalman's filter and the fixed-interval smoother.

The posterior of p(x_0..x_T | y_0..y_T, u_0..u_{T-1}) on a graph with linear-Gaussian dynamics and observations:

    x_{t+1} = A x_t + B u_t + c + w_t,     y_t = C x_t + d + v_t

Forward messages are p(x_t | y_0..y_t), backward ones p(y_{t+1}..y_T | x_t); both are normal, so that moments are exact,
and log p(y | u) is the sum of the log-densities of the innovations. Process noise and first state may have singular
covariances; the observations' noise too, of the filter in a loop.
Cost: T (n^3 + n^2 k + k^3) one step after the other, or some 2 log2 T rounds by a scan over time.

Sources: Kalman (1960); Rauch, Tung and Striebel (1965); Fraser and Potter (1969); Särkkä and García-Fernández (2021).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.linear_parts import with_batch_dims
from cai.graph.state_spaces import in_time, linear_state_space, need_linear_state_space
from cai.inference.kalman import KalmanPosterior, passes_of
from cai.inference.method import AbstractMethod, Progress
from cai.inference.stats import Stats
from cai.methods.schedules import TimeSchedule, check_time_schedule
from cai.ops.gaussian.kalman import Filtered, kalman_filter, pays_to_scan
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.smoother import kalman_smoother
from cai.ops.gaussian.state_space import StateSpace
from cai.ops.scans.time_schedules import AssociativeScan, Sequential
from cai.ops.threads import threads_for


@dataclass(frozen=True, eq=False)
class KalmanState:
    """Where the routine stands: the messages are not there yet, or they are.

    Attributes:
        space: The graph as matrices.
        observations: `[T + 1, *batch, k]`.
        schedule: How time is gone through.
        filtered: The forward messages.
        smoothed: The moments given all observations.
    """

    space: StateSpace
    observations: Tensor
    schedule: Sequential | AssociativeScan
    filtered: Filtered | None = None
    smoothed: Moments | None = None


class AbstractKalmanMethod(AbstractMethod):
    """What filter and smoother share: they read a graph with a record of observations and actions."""

    schedule: TimeSchedule = None

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph is linear-Gaussian, observed so too, and has a record."""
        name = type(self).__name__
        need_linear_state_space(graph, name)
        check_time_schedule(self.schedule, graph, name)
        if graph.evidence.recording is None:
            raise IncompatibleMethod(
                f"{name} asks where the states of a record were: graph.condition(observations=y, actions=u) gives one; "
                "to act on observations, plan in the states and wrap the posterior in cai.plan.BeliefPolicy"
            )

    def init(self, graph: Any, seed: int | None) -> KalmanState:
        """Reads the matrices and the record."""
        space = linear_state_space(graph)
        seen = in_time(graph.evidence.recording.observations)
        observations = with_batch_dims(seen, space.transition.dim() - 3, 1).to(space.transition)
        schedule = self.schedule
        if schedule is None:
            schedule = AssociativeScan() if pays_to_scan(space, observations) else Sequential()
        return KalmanState(space, observations, schedule)

    def step(self, graph: Any, state: KalmanState) -> KalmanState:
        """Passes all messages."""
        with threads_for(state.observations[0].numel() * state.space.transition.shape[-1] ** 2):
            if self.schedule is None and isinstance(state.schedule, AssociativeScan):
                with suppress(IncompatibleMethod):  # the loop says what is wrong, if anything is
                    return self.passed(state)
                state = replace(state, schedule=Sequential())
            return self.passed(state)

    def passed(self, state: KalmanState) -> KalmanState:
        """Passes the forward messages."""
        filtered = kalman_filter(state.space, state.observations, passes_of(state.schedule))
        return replace(state, filtered=filtered)

    def is_done(self, state: KalmanState) -> bool:
        """Says whether the messages are there."""
        return state.filtered is not None

    def posterior(self, graph: Any, state: KalmanState, seconds: float) -> KalmanPosterior:
        """Wraps the messages."""
        assert state.filtered is not None
        stats = Stats(state.space.horizon, seconds=seconds)
        return KalmanPosterior(graph, self, stats, state.filtered, state.smoothed, state.schedule)

    def progress(self, state: KalmanState, seconds: float) -> Progress:
        """Says where the work stands."""
        steps = 0 if state.filtered is None else state.space.horizon
        return Progress(steps, math.nan, math.inf, seconds, None)

    def restore(self, state: KalmanState, checkpoint: Any) -> KalmanState:
        """Goes on from a checkpoint: the pass starts again."""
        return state


@serializable
@dataclass(frozen=True)
class KalmanFilter(AbstractKalmanMethod):
    """The states of a record given what was observed up to their time, p(x_t | y_0..y_t, u), and log p(y | u).

    Exact. Needs linear-Gaussian dynamics and observation, and a record: `graph.condition(observations=y, actions=u)`.
    `KalmanSmoother` takes later observations into account as well, and can be sampled.

    Attributes:
        schedule: `Sequential()` or `AssociativeScan()`; None is the quicker way.
    """

    schedule: TimeSchedule = None


@serializable
@dataclass(frozen=True)
class KalmanSmoother(AbstractKalmanMethod):
    """The states of a record given all that was observed, p(x_0..x_T | y_0..y_T, u), and log p(y | u).

    Exact, with samples of whole trajectories. Needs what `KalmanFilter` needs. The reward is no part of the question;
    to act on observations, plan by `SoftValueIteration` and wrap its posterior in `cai.plan.BeliefPolicy`.

    Attributes:
        schedule: `Sequential()` or `AssociativeScan()`; None is the quicker way.
    """

    schedule: TimeSchedule = None

    def passed(self, state: KalmanState) -> KalmanState:
        """Passes the messages forward and backward."""
        passes = passes_of(state.schedule)
        filtered = kalman_filter(state.space, state.observations, passes)
        return replace(state, filtered=filtered, smoothed=kalman_smoother(filtered, passes))
