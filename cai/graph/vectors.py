"""Graphs of vectors: the sizes of states and actions, and what must fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import torch

from cai.factors.policy import FlatPrior
from cai.factors.protocols import Batched, DifferentiableFactor, GaussianInitial, GaussianPrior, QuadraticFactor

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph


def vector_space(graph: TrajectoryGraph, slot: str) -> gymnasium.Space | None:
    """Gives the space of a graph with differentiable dynamics: the one it has, checked, or an unbounded box.

    Args:
        graph: A graph whose dynamics is a `DifferentiableFactor`.
        slot: `state_space` or `action_space`.

    Returns:
        The space, or None where no factor tells its size.

    Raises:
        ValueError: The space given is no box of vectors, or of another size than the dynamics.
    """
    space = getattr(graph, slot)
    size = graph.dynamics.state_size if slot == "state_space" else graph.dynamics.action_size
    if space is None:
        size = _told_by_others(graph, slot) if size is None else size
        return None if size is None else gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or size not in (None, space.shape[0]):
        wanted = "vectors" if size is None else f"vectors of {size} coordinates"
        raise ValueError(f"{slot}: the dynamics has {wanted}, the space given is {space}")
    return space


def check_vectors(graph: TrajectoryGraph) -> None:
    """Raises ValueError where a factor of a graph with differentiable dynamics does not fit the graph's spaces."""
    num_states, num_actions = _size_of(graph.state_space), _size_of(graph.action_space)
    if num_states is not None:
        if isinstance(graph.initial, GaussianInitial):
            graph.initial.initial_moments(num_states)
        for slot in ("reward", "terminal_reward"):
            _check_reward(graph, slot, num_states, num_actions)
        if num_actions is not None and isinstance(graph.action_prior, GaussianPrior):
            graph.action_prior.prior_parts(num_states, num_actions)
    if isinstance(graph.action_prior, FlatPrior) and graph.action_prior.available is not None:
        raise ValueError("action_prior: FlatPrior(available) is for finitely many actions; FlatPrior() is for vectors")
    _check_batches(graph)


def fits_vectors(dynamics: DifferentiableFactor, graph: TrajectoryGraph) -> bool:
    """Whether the spaces of a graph are those of other dynamics, as far as that tells."""
    sizes = ((dynamics.state_size, graph.state_space), (dynamics.action_size, graph.action_space))
    return all(
        isinstance(space, gymnasium.spaces.Box) and (size is None or space.shape == (size,)) for size, space in sizes
    )


def _told_by_others(graph: TrajectoryGraph, slot: str) -> int | None:
    """Gives the size that reward, initial distribution or action prior have."""
    if isinstance(graph.reward, QuadraticFactor):
        return graph.reward.state_size if slot == "state_space" else graph.reward.action_size
    initial, prior, num_states = graph.initial, graph.action_prior, _size_of(graph.state_space)
    event: tuple[int, ...] = ()
    if slot == "state_space" and isinstance(initial, GaussianInitial) and callable(initial):
        event = tuple(initial().event_shape)
    elif slot == "action_space" and num_states and isinstance(prior, GaussianPrior) and callable(prior):
        event = tuple(prior(torch.zeros(num_states)).event_shape)
    return event[0] if len(event) == 1 else None


def _size_of(space: gymnasium.Space | None) -> int | None:
    return None if space is None or not space.shape else space.shape[0]


def _check_reward(graph: TrajectoryGraph, slot: str, num_states: int, num_actions: int | None) -> None:
    reward = getattr(graph, slot)
    if not isinstance(reward, QuadraticFactor):
        return
    name = type(reward).__name__
    if slot == "terminal_reward" and (reward.action_size is not None or reward.num_steps is not None):
        raise ValueError(f"terminal_reward: expected a reward of the last state alone, {name}(Q), without R or time")
    if reward.state_size != num_states:
        raise ValueError(f"{slot}: {name} is for {reward.state_size} state coordinates, the dynamics has {num_states}")
    if reward.action_size is not None and num_actions is not None and reward.action_size != num_actions:
        raise ValueError(
            f"{slot}: {name} is for {reward.action_size} action coordinates, the dynamics has {num_actions}"
        )


def _check_batches(graph: TrajectoryGraph) -> None:
    batch, slots = torch.Size(), ""
    for slot in ("dynamics", "initial", "reward", "terminal_reward", "action_prior"):
        factor = getattr(graph, slot)
        if not isinstance(factor, Batched) or isinstance(factor, torch.distributions.Distribution):
            continue
        try:
            batch = torch.broadcast_shapes(batch, factor.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"{slot}: its batch {list(factor.batch_shape)} does not broadcast with {list(batch)} of {slots}"
            ) from None
        if factor.batch_shape:
            slots = f"{slots}, {slot}" if slots else slot
