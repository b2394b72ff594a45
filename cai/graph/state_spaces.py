"""A trajectory graph with linear-Gaussian dynamics and observations, read as a state space for the Kalman filter."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.factors.linear_parts import GaussianMoments, with_batch_dims
from cai.factors.protocols import GaussianInitial, LinearDynamics, LinearObservation
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.state_space import StateSpace


def need_linear_state_space(graph: Any, name: str) -> None:
    """Raises `IncompatibleMethod` unless the first state, dynamics and observation are linear and Gaussian."""
    if not isinstance(graph, TrajectoryGraph):
        raise IncompatibleMethod(f"{name} answers trajectory graphs, not a {type(graph).__name__}")
    for slot, protocol, wanted in (
        ("initial", GaussianInitial, "Gaussian or Delta"),
        ("dynamics", LinearDynamics, "LinearGaussianDynamics"),
        ("observation", LinearObservation, "LinearGaussianObservation"),
    ):
        factor = getattr(graph, slot)
        if not isinstance(factor, protocol):
            found = "None" if factor is None else type(factor).__name__
            hint = "; on finite worlds SumProduct answers an unrolled graph with a factor for each observation"
            raise IncompatibleMethod(
                f"{name} needs {wanted} as the {slot}, got {found}{hint if slot == 'dynamics' else ''}"
            )


def linear_state_space(graph: TrajectoryGraph) -> StateSpace:
    """Reads a graph as matrices, everything in one floating type and with equally many batch dimensions.

    Actions of a record are pushes, c + B u; without a record there are none.

    Args:
        graph: A graph that `need_linear_state_space` has passed.
    """
    linear, seen = graph.dynamics.linear_parts(), graph.observation.observation_parts()
    start: GaussianMoments = graph.initial.initial_moments(graph.dynamics.state_size)
    n, recording = graph.dynamics.state_size, graph.evidence.recording
    actions = None if recording is None else in_time(recording.actions)
    offset = linear.offset if actions is None else _pushed(linear.b, linear.offset, actions)
    noise = linear.covariance if linear.covariance is not None else linear.a.new_zeros(1, n, n)
    spread = start.mean.new_zeros(n, n) if start.covariance is None else start.covariance
    matrices = [linear.a, noise, seen.c, seen.covariance, spread[None]]
    vectors = [offset, seen.offset, start.mean[None]]
    records = [] if recording is None else [in_time(recording.observations)]
    everything = [*matrices, *vectors, *records]
    dtype = reduce(torch.promote_types, (part.dtype for part in everything))
    dims = max(*(x.dim() - 3 for x in matrices), *(x.dim() - 2 for x in (*vectors, *records)))
    a, noise, c, covariance, spread = (with_batch_dims(x, dims, 2).to(dtype) for x in matrices)
    offset, seen_offset, mean = (with_batch_dims(x, dims, 1).to(dtype) for x in vectors)
    return StateSpace(
        transition=a,
        offset=offset,
        noise=noise,
        observation=c,
        observation_offset=seen_offset,
        observation_noise=covariance,
        initial=Moments(mean[0], spread[0]),
        horizon=graph.horizon or 0,
    )


def in_time(record: Tensor) -> Tensor:
    """Puts time first: `[N, T, k]` becomes `[T, N, k]`."""
    return record if record.dim() == 2 else record.movedim(0, 1)


def _pushed(b: Tensor, offset: Tensor, actions: Tensor) -> Tensor:
    """Computes c + B u: `[T, *batch, n]`."""
    dims = max(b.dim() - 3, offset.dim() - 2, actions.dim() - 2)
    b, offset, actions = (
        with_batch_dims(part, dims, event) for part, event in ((b, 2), (offset, 1), (actions.to(b), 1))
    )
    return (b @ actions[..., None]).squeeze(-1) + offset
