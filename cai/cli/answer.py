"""What the command line tells of a posterior, read once, as plain numbers and arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.spaces import GridSpace
from cai.errors import Unavailable

if TYPE_CHECKING:
    from cai.data import Trajectories
    from cai.inference import Posterior

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Missing:
    """Stands where a posterior does not have a number; says why."""

    reason: str


@dataclass(frozen=True)
class Numbers:
    """What one number says of a posterior on any graph.

    Attributes:
        log_evidence: Nats.
        gain: Reward units a step, where nothing ends or is discounted.
        is_bound: Whether the evidence (or the gain) is a lower bound.
        expected_return: Reward units.
        entropy: Nats.
    """

    log_evidence: float | Missing
    gain: float | Missing
    is_bound: bool
    expected_return: float | Missing
    entropy: float | Missing


@dataclass(frozen=True, eq=False)
class Answer:
    """A posterior of a finite world in plain numbers.

    Attributes:
        posterior: What they were read from.
        numbers: Evidence, return, entropy, gain; where there is a gain, `values` are relative.
        values: `[S]`, v at the first time, reward units.
        policy: `[S, A]`, pi at the first time.
        marginals: `[T + 1, S]`, or the occupancy as `[1, S]`; a probability each.
        visits: `[S]`, the expected number of visits, discounted.
        terminal: `[S]`, bool.
        grid: The layout of the states, None where they are no grid.
        path: The states of the most probable trajectory, for the methods that find it.
    """

    posterior: Posterior
    numbers: Numbers
    values: Array | Missing
    policy: Array
    marginals: Array | Missing
    visits: Array | Missing
    terminal: NDArray[np.bool_]
    grid: GridSpace | None
    path: tuple[int, ...] | Missing

    @property
    def horizon(self) -> int | None:
        """The number of actions, None for an infinite horizon."""
        return self.posterior.graph.horizon

    @property
    def num_states(self) -> int:
        """S."""
        return self.policy.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.policy.shape[1]


def read_answer(posterior: Posterior) -> Answer:
    """Reads a posterior of a finite world; what it does not have becomes `Missing`."""
    graph = posterior.graph
    states = torch.arange(graph.dynamics.num_states)
    marginals = _array_or_missing(lambda: posterior.state_marginals)
    return Answer(
        posterior=posterior,
        numbers=read_numbers(posterior),
        values=_array_or_missing(lambda: posterior.v(states)),
        policy=to_array(posterior.policy(states).probs),  # type: ignore[attr-defined]
        marginals=marginals if isinstance(marginals, Missing) else np.atleast_2d(marginals),
        visits=_array_or_missing(lambda: _over_actions_and_time(posterior.occupancy, graph.horizon)),
        terminal=graph.dynamics.terminal_mask.cpu().numpy().astype(bool),
        grid=graph.state_space if isinstance(graph.state_space, GridSpace) else None,
        path=or_missing(lambda: _path(posterior.most_probable_trajectory)),
    )


def read_numbers(posterior: Posterior) -> Numbers:
    """Reads what any posterior may have; what it does not have becomes `Missing`."""
    log_evidence = number_or_missing(lambda: posterior.log_evidence)
    gain = number_or_missing(lambda: posterior.gain)
    return Numbers(
        log_evidence=log_evidence,
        gain=gain,
        is_bound=not (isinstance(log_evidence, Missing) and isinstance(gain, Missing)) and posterior.is_bound,
        expected_return=number_or_missing(lambda: posterior.expected_return),
        entropy=number_or_missing(lambda: posterior.entropy),
    )


def _path(trajectory: Trajectories) -> tuple[int, ...]:
    length = int(trajectory.lengths[0])
    return tuple(int(state) for state in trajectory.states[0, : length + 1])


def _over_actions_and_time(occupancy: Tensor, horizon: int | None) -> Tensor:
    return occupancy.sum(-1) if horizon is None else occupancy.sum((0, -1))


def to_array(values: Tensor) -> Array:
    """Leaves torch: detached, on the CPU, in double precision."""
    return values.detach().cpu().numpy().astype(float)


def number_or_missing(read: Callable[[], Tensor]) -> float | Missing:
    """Reads a number, or why there is none."""
    return or_missing(lambda: float(read()))


def or_missing(read: Callable[[], Any]) -> Any:
    """Reads anything, or why it is not there."""
    try:
        return read()
    except Unavailable as error:
        return Missing(str(error))


def _array_or_missing(read: Callable[[], Tensor]) -> Array | Missing:
    return or_missing(lambda: to_array(read()))
