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


@dataclass(frozen=True, eq=False)
class Answer:
    """A posterior in plain numbers.

    Attributes:
        posterior: What they were read from.
        values: `[S]`, v at the first time, reward units.
        policy: `[S, A]`, pi at the first time.
        marginals: `[T + 1, S]`, or the occupancy as `[1, S]`; a probability each.
        visits: `[S]`, the expected number of visits, discounted.
        terminal: `[S]`, bool.
        grid: The layout of the states, None where they are no grid.
        log_evidence: Nats.
        gain: Reward units a step, where nothing ends or is discounted; then `values` are relative.
        is_bound: Whether the evidence (or the gain) is a lower bound.
        expected_return: Reward units.
        entropy: Nats.
        path: The states of the most probable trajectory, for the methods that find it.
    """

    posterior: Posterior
    values: Array | Missing
    policy: Array
    marginals: Array | Missing
    visits: Array | Missing
    terminal: NDArray[np.bool_]
    grid: GridSpace | None
    log_evidence: float | Missing
    gain: float | Missing
    is_bound: bool
    expected_return: float | Missing
    entropy: float | Missing
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
    log_evidence = _number_or_missing(lambda: posterior.log_evidence)
    gain = _number_or_missing(lambda: posterior.gain)
    return Answer(
        posterior=posterior,
        values=_array_or_missing(lambda: posterior.v(states)),
        policy=_to_array(posterior.policy(states).probs),  # type: ignore[attr-defined]
        marginals=marginals if isinstance(marginals, Missing) else np.atleast_2d(marginals),
        visits=_array_or_missing(lambda: _over_actions_and_time(posterior.occupancy, graph.horizon)),
        terminal=graph.dynamics.terminal_mask.cpu().numpy().astype(bool),
        grid=graph.state_space if isinstance(graph.state_space, GridSpace) else None,
        log_evidence=log_evidence,
        gain=gain,
        is_bound=not (isinstance(log_evidence, Missing) and isinstance(gain, Missing)) and posterior.is_bound,
        expected_return=_number_or_missing(lambda: posterior.expected_return),
        entropy=_number_or_missing(lambda: posterior.entropy),
        path=_or_missing(lambda: _path(posterior.most_probable_trajectory)),
    )


def _path(trajectory: Trajectories) -> tuple[int, ...]:
    length = int(trajectory.lengths[0])
    return tuple(int(state) for state in trajectory.states[0, : length + 1])


def _over_actions_and_time(occupancy: Tensor, horizon: int | None) -> Tensor:
    return occupancy.sum(-1) if horizon is None else occupancy.sum((0, -1))


def _to_array(values: Tensor) -> Array:
    return values.detach().cpu().numpy().astype(float)


def _array_or_missing(read: Callable[[], Tensor]) -> Array | Missing:
    return _or_missing(lambda: _to_array(read()))


def _number_or_missing(read: Callable[[], Tensor]) -> float | Missing:
    return _or_missing(lambda: float(read()))


def _or_missing(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Unavailable as error:
        return Missing(str(error))
