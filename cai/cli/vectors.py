"""What the command line tells of a posterior whose states are vectors: its numbers, its gains and its marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import torch
from torch import Tensor

from cai.cli.answer import Array, Missing, Numbers, number_or_missing, or_missing, read_numbers, to_array
from cai.cli.errors import CommandError
from cai.factors.distributions import DegenerateNormal
from cai.factors.gaussian import LinearGaussianPolicy
from cai.inference.gaussian import GaussianPosterior

if TYPE_CHECKING:
    from cai.graph import TrajectoryGraph
    from cai.inference import Posterior


@dataclass(frozen=True, eq=False)
class Feedback:
    """The policy N(K x + k, S) of one time.

    Attributes:
        t: The time.
        gain: K, `[m, n]`.
        offset: k, `[m]`.
        deviation: The standard deviation of each action coordinate, `[m]`.
    """

    t: int
    gain: Array
    offset: Array
    deviation: Array


@dataclass(frozen=True, eq=False)
class Tube:
    """Means and standard deviations, of the coordinates of [x; u] over time, or in the long run.

    Attributes:
        means: `[T + 1, n]` of the state, then columns `[T + 1, m]` of the action, NaN at the last time.
        deviations: The same.
    """

    means: Array
    deviations: Array


@dataclass(frozen=True, eq=False)
class VectorAnswer:
    """A posterior on vectors, in plain numbers.

    Attributes:
        posterior: What they were read from.
        numbers: Evidence, return, entropy, gain.
        start: The mean of the first state, `[n]`.
        value: v at that state, reward units; relative where there is a gain.
        feedbacks: The policy at the first and the last time, where it is linear in the state.
        tube: The marginals, of one row in the long run.
    """

    posterior: Posterior
    numbers: Numbers
    start: Array | Missing
    value: float | Missing
    feedbacks: tuple[Feedback, ...]
    tube: Tube | Missing

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of coordinates n and m."""
        return vector_sizes(self.posterior.graph)


def has_vectors(graph: TrajectoryGraph) -> bool:
    """Says whether states and actions are vectors."""
    spaces = (graph.state_space, graph.action_space)
    return all(isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 for space in spaces)


def vector_sizes(graph: TrajectoryGraph) -> tuple[int, int]:
    """Gives the numbers of coordinates n and m of a graph that `has_vectors`."""
    return graph.state_space.shape[0], graph.action_space.shape[0]  # type: ignore[union-attr,index]


def read_vector_answer(posterior: Posterior) -> VectorAnswer:
    """Reads a posterior on vectors; what it does not have becomes `Missing`.

    Raises:
        CommandError: It answers a batch of graphs.
    """
    start = or_missing(lambda: _start(posterior.graph))
    if not isinstance(start, Missing) and start.dim() > 1:
        raise CommandError(f"the start is a batch {list(start.shape[:-1])} of states; give one, [{start.shape[-1]}]")
    return VectorAnswer(
        posterior=posterior,
        numbers=read_numbers(posterior),
        start=start if isinstance(start, Missing) else to_array(start),
        value=start if isinstance(start, Missing) else number_or_missing(lambda: posterior.v(start)),
        feedbacks=_feedbacks(posterior),
        tube=or_missing(lambda: _tube(posterior)),
    )


def _start(graph: TrajectoryGraph) -> Tensor:
    return graph.initial.initial_moments(vector_sizes(graph)[0]).mean


def _feedbacks(posterior: Posterior) -> tuple[Feedback, ...]:
    if not isinstance(posterior, GaussianPosterior):
        return ()
    law, horizon = posterior.feedback, posterior.graph.horizon
    return tuple(_feedback(law, t) for t in sorted({0, 0 if horizon is None else horizon - 1}))


def _feedback(law: LinearGaussianPolicy, t: int) -> Feedback:
    at = law(torch.zeros(law.state_size), t)
    gain = law.gain[t] if law.time_varying else law.gain
    return Feedback(t, to_array(gain), to_array(at.mean), to_array(at.stddev))


def _tube(posterior: Posterior) -> Tube | Missing:
    states = posterior.state_marginals
    if not isinstance(states, DegenerateNormal):
        return Missing("the marginals are not Gaussian")
    n, m = vector_sizes(posterior.graph)
    pairs = posterior.state_action_marginals

    def together(read: Callable[[DegenerateNormal], Tensor]) -> Array:
        ours, both = np.atleast_2d(to_array(read(states))), np.atleast_2d(to_array(read(pairs)))
        last = np.full((len(ours) - len(both), m), np.nan)
        return np.hstack([ours, np.vstack([both[:, n:], last])])

    return Tube(together(lambda x: x.mean), together(lambda x: x.stddev))
