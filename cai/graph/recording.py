"""Partial observation: the factor p(y_t | s_t) of a graph, and a record of what was observed and done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import as_table
from cai.factors.protocols import Batched, DifferentiableFactor, LinearObservation, Stepped, TabulatedDynamics

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph


@serializable
@dataclass(frozen=True, eq=False)
class Recording:
    """What was observed of one trajectory or of N, and which actions were taken.

    Attributes:
        observations: y_0, ..., y_T, `[T + 1, k]` or `[N, T + 1, k]`; NaN where a coordinate was not observed.
        actions: u_0, ..., u_{T-1}, `[T, m]` or `[N, T, m]`.

    Raises:
        ValueError: Shapes that do not fit each other, or entries that are infinite (of actions: or NaN).
    """

    observations: Tensor
    actions: Tensor

    def __post_init__(self) -> None:
        for name in ("observations", "actions"):
            object.__setattr__(self, name, as_table(getattr(self, name), f"condition: {name}", None))
        y, u = self.observations, self.actions
        if y.dim() not in (2, 3) or u.dim() not in (2, 3) or u.shape[-2] < 1:
            raise ValueError(
                "condition: expected observations [T + 1, k] or [N, T + 1, k] and actions [T, m] or [N, T, m], got "
                f"{list(y.shape)} and {list(u.shape)}"
            )
        if y.shape[-2] != u.shape[-2] + 1:
            raise ValueError(
                f"condition: {u.shape[-2]} actions need {u.shape[-2] + 1} observations, at the times 0..{u.shape[-2]}, "
                f"got {y.shape[-2]}; NaN stands for what was not observed"
            )
        if y.dim() == u.dim() == 3 and y.shape[0] != u.shape[0]:
            raise ValueError(f"condition: {y.shape[0]} sequences of observations, {u.shape[0]} of actions")
        for name, bad in (("observations", torch.isinf(y)), ("actions", ~torch.isfinite(u))):
            if bad.any():
                *episode, t, _ = bad.nonzero()[0].tolist()
                where = f"time {t}" + (f" of sequence {episode[0]}" if episode else "")
                raise ValueError(f"condition: {name} are not finite at {where}")

    @property
    def horizon(self) -> int:
        """Number of actions T."""
        return self.actions.shape[-2]

    @property
    def num_sequences(self) -> int | None:
        """Number of sequences N, or None of a single one without a batch dimension."""
        batched = [x for x in (self.observations, self.actions) if x.dim() == 3]
        return len(batched[0]) if batched else None


def recorded(graph: TrajectoryGraph, observations: Any, actions: Any) -> Recording:
    """Reads what `TrajectoryGraph.condition` was given.

    Raises:
        ValueError: No observation factor, no actions, or sizes that are not those of the factors.
    """
    if observations is None:
        raise ValueError(
            "condition: actions of vectors are known along with observations=, the sequence that they led to"
        )
    if actions is None:
        raise ValueError("condition: observations need actions=, what was done meanwhile, [T, m] (zeros, for nothing)")
    _need_linear_observation(graph)
    return Recording(observations, actions)


def check_observation(graph: TrajectoryGraph) -> None:
    """Raises ValueError where the observation factor, or a record, does not fit the graph."""
    observation, recording = graph.observation, graph.evidence.recording
    if observation is not None and isinstance(graph.dynamics, TabulatedDynamics | Stepped):
        raise ValueError(
            "observation: only graphs of vectors or of callables take one; on tables, add a factor for each "
            "observation to graph.unroll(); an environment shows what it shows"
        )
    if observation is not None and not callable(observation):
        raise ValueError(
            "observation: expected a factor such as cai.factors.LinearGaussianObservation(C, covariance), got "
            f"{type(observation).__name__}"
        )
    if isinstance(observation, LinearObservation):
        _check_sizes(graph, observation)
    if recording is None:
        return
    _need_linear_observation(graph)
    for name, size in (("observations", observation.observation_size), ("actions", graph.dynamics.action_size)):
        found = getattr(recording, name).shape[-1]
        if size is not None and found != size:
            raise ValueError(f"condition: {name} have {found} coordinates, the graph's {size}")
    if recording.horizon != graph.horizon:
        raise ValueError(f"evidence: a record of {recording.horizon} actions, the horizon is {graph.horizon}")


def _check_sizes(graph: TrajectoryGraph, observation: LinearObservation) -> None:
    name, shape = type(observation).__name__, getattr(graph.state_space, "shape", None)
    if shape is not None and shape != (observation.state_size,):
        raise ValueError(f"observation: {name} is for states [{observation.state_size}], the graph's are {list(shape)}")
    if observation.num_times is not None and observation.num_times not in (1, (graph.horizon or 0) + 1):
        horizon = "infinite" if graph.horizon is None else f"{graph.horizon}, of {graph.horizon + 1} times"
        raise ValueError(f"observation: {name} is for {observation.num_times} times, the horizon is {horizon}")
    if isinstance(observation, Batched) and isinstance(graph.dynamics, Batched):
        try:
            torch.broadcast_shapes(observation.batch_shape, graph.dynamics.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"observation: its batch {list(observation.batch_shape)} does not broadcast with "
                f"{list(graph.dynamics.batch_shape)} of the dynamics"
            ) from None


def _need_linear_observation(graph: TrajectoryGraph) -> None:
    vectors, seen = isinstance(graph.dynamics, DifferentiableFactor), isinstance(graph.observation, LinearObservation)
    if not vectors or not seen:
        lacking = "states that are vectors" if not vectors else "observation=cai.factors.LinearGaussianObservation(...)"
        raise ValueError(f"condition: a record of observations needs a graph with {lacking}")
