"""A world of dynamics that is a callable giving a distribution: all copies at once, usually vectors.

    s_0 ~ initial(),   s' ~ dynamics(s, a),   r(s, a, s'),   the end where dynamics.terminal(s, a, s')

Draws come from torch's global generator.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.factors.calling import reward_of_transition
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.callables import first_state, next_states, one_each, start, with_state_space
from cai.simulate.episodes import drawn
from cai.simulate.seeding import global_generator
from cai.simulate.worlds.stationary import need_stationary
from cai.simulate.worlds.world import AbstractWorld, Outcome

_NAME = "CallableWorld"


class CallableWorld(AbstractWorld):
    """Copies of a world whose dynamics returns a distribution.

    Args:
        graph: A graph whose dynamics, and reward, are callables, the same at every step.
        num_envs: Number of copies E.

    Raises:
        ValueError: Factors that change with time, evidence, a graph with batch dimensions or without an action space.
    """

    def __init__(self, graph: TrajectoryGraph, num_envs: int) -> None:
        need_stationary(graph)
        self._graph = with_state_space(graph)
        if self._graph.state_space is None or graph.action_space is None:
            missing = "state_space" if self._graph.state_space is None else "action_space"
            raise ValueError(f"{missing}: the graph's factors do not tell it; give one: replace({missing}=...)")
        first = first_state(self._graph)
        self._device, self._dtype = first.device, first.dtype
        super().__init__(num_envs, self._graph.state_space, graph.action_space, graph.horizon)
        generator = global_generator(self._device)
        self._draw = lambda distribution: drawn(distribution, generator)
        self._reward_of = reward_of_transition(graph.reward)

    def _start(self, seed: int | None) -> NDArray:
        return self._first_states(self.num_envs)

    def _advance(self, states: NDArray, actions: NDArray) -> Outcome:
        with torch.no_grad():
            state = self._tensor(states)
            action = torch.from_numpy(actions).to(self._device)
            if action.is_floating_point() and state.is_floating_point():
                action = action.to(state)
            following = next_states(self._graph, state, action, 0, self._draw, caller=_NAME).to(self._dtype)
            reward = one_each(self._reward_of(0, state, action, following), self.num_envs, "reward", caller=_NAME)
            over = self._over(state, action, following)
        return Outcome(
            next_states=following.cpu().numpy(),
            rewards=reward.to(torch.float64).cpu().numpy(),
            terminated=over.cpu().numpy(),
            truncated=np.zeros(self.num_envs, dtype=np.bool_),
        )

    def _over(self, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
        ends = getattr(self._graph.dynamics, "terminal", None)
        if not callable(ends):
            return torch.zeros(self.num_envs, dtype=torch.bool)
        return one_each(ends(state, action, following), self.num_envs, "dynamics.terminal", caller=_NAME).bool()

    def _restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        states[done] = self._first_states(int(done.sum()))
        return states

    def _first_states(self, num: int) -> NDArray:
        with torch.no_grad():
            return start(self._graph, num, caller=_NAME).to(self._dtype).cpu().numpy()

    def _tensor(self, states: NDArray) -> Tensor:
        return torch.from_numpy(states).to(self._device)
