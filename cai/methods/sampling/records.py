"""Recorded data as learners take it: the transitions of a graph whose dynamics is `RecordedDynamics`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.errors import IncompatibleMethod
from cai.factors.calling import reward_of_transition
from cai.factors.protocols import Stepped
from cai.factors.recorded import RecordedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.worlds import Step


@dataclass(frozen=True, eq=False)
class Records:
    """N recorded episodes of at most T steps, as tensors; what is not `valid` is padding.

    Attributes:
        states: `[N, T, ...]`.
        actions: `[N, T, ...]`.
        rewards: `[N, T]`, float64, reward units.
        next_states: `[N, T, ...]`.
        terminated: `[N, T]`, bool.
        valid: `[N, T]`, bool.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor
    valid: Tensor

    def steps(self) -> Iterator[Step]:
        """Gives one step of all episodes after another, as a world would."""
        columns: list[NDArray] = [
            values.cpu().numpy()
            for values in (self.states, self.actions, self.rewards, self.next_states, self.terminated, self.valid)
        ]
        states, actions, rewards, next_states, terminated, valid = columns
        last = np.zeros_like(valid)
        last[:, :-1] = ~valid[:, 1:]
        last[:, -1] = True
        for t in range(valid.shape[1]):
            truncated = last[:, t] & ~terminated[:, t]
            yield Step(
                states[:, t], actions[:, t], rewards[:, t], next_states[:, t], terminated[:, t], truncated, valid[:, t]
            )


def records_of(graph: TrajectoryGraph) -> Records:
    """Reads the records that stand in a graph as its dynamics.

    The rewards are those recorded where the records, or an environment, stand in the graph's reward slot too; else the
    graph's reward is called.

    Raises:
        IncompatibleMethod: There are no rewards, or the records do not fit the graph's spaces.
    """
    assert isinstance(graph.dynamics, RecordedDynamics)
    run = graph.dynamics.trajectories
    places = torch.arange(run.actions.shape[1], device=run.lengths.device)
    terminated = run.terminated[:, None] & (places == run.lengths[:, None] - 1)
    states, next_states = run.states[:, :-1], run.states[:, 1:]
    _check_spaces(graph, run.states[run.state_mask], run.actions[run.mask])
    rewards = _rewards(graph, states, run.actions, next_states, run.mask)
    return Records(states, run.actions, rewards, next_states, terminated, run.mask)


def _rewards(graph: TrajectoryGraph, states: Tensor, actions: Tensor, next_states: Tensor, valid: Tensor) -> Tensor:
    if isinstance(graph.reward, RecordedDynamics | Stepped):
        assert isinstance(graph.dynamics, RecordedDynamics)
        rewards = graph.dynamics.trajectories.rewards
        if rewards is None:
            raise IncompatibleMethod("RecordedDynamics: no rewards were recorded; give the graph a reward factor")
        return rewards.to(torch.float64)
    with torch.no_grad():
        given = reward_of_transition(graph.reward)(0, states[valid], actions[valid], next_states[valid])
    rewards = torch.zeros(valid.shape, dtype=torch.float64, device=valid.device)
    return rewards.index_put((valid,), given.to(rewards).expand(int(valid.sum())))


def _check_spaces(graph: TrajectoryGraph, states: Tensor, actions: Tensor) -> None:
    try:
        StateEncoding(graph.state_space).features(states[:0])
        if states.dtype == torch.int64:
            StateEncoding(graph.state_space).features(states)
        encoding = ActionEncoding(graph.action_space)
        encoding.inside(actions.cpu().numpy().astype(encoding.row_dtype, copy=False))
    except ValueError as error:
        raise IncompatibleMethod(f"RecordedDynamics: what was recorded does not fit the graph: {error}") from None
