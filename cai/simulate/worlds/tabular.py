"""A world of tables: all copies at once.

    s_0 ~ p(s_0 | not terminal),   s' ~ p(s' | s, a),   r(s, a, s'),   the end where s' is terminal

Draws come from torch's global generator.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.chains import reward_of_step
from cai.simulate.seeding import global_generator
from cai.simulate.worlds.stationary import need_stationary
from cai.simulate.worlds.world import AbstractWorld, Outcome


class TabularWorld(AbstractWorld):
    """Copies of a finite world.

    An episode cannot start where it would be over: what the initial factor gives to terminal states is left out, and
    the rest taken for the whole.

    Args:
        graph: A graph with tabulated dynamics and rewards that are the same at every step.
        num_envs: Number of copies E.

    Raises:
        ValueError: Tables that change with time, evidence, or a start that is terminal in any case.
    """

    def __init__(self, graph: TrajectoryGraph, num_envs: int) -> None:
        need_stationary(graph)
        assert graph.state_space is not None and graph.action_space is not None
        super().__init__(num_envs, graph.state_space, graph.action_space, graph.horizon)
        self._tables = tabulate(graph.replace(action_prior=None)).detached()
        initial = torch.where(self._tables.terminal, 0.0, self._tables.initial)
        if not initial.any():
            raise ValueError(
                "TabularWorld: every state that the initial factor gives is terminal; no episode can start"
            )
        self._cumulative = initial.cumsum(0)
        self._greatest = torch.nextafter(self._cumulative[-1], torch.zeros_like(self._cumulative[-1]))
        self._device = initial.device
        self._generator = global_generator(self._device)

    def _start(self, seed: int | None) -> NDArray[np.int64]:
        return self._first_states(self.num_envs)

    def _advance(self, states: NDArray, actions: NDArray) -> Outcome:
        state, action = (torch.from_numpy(values).to(self._device) for values in (states, actions))
        following = self._tables.step(0).transitions.sample(state, action, self._generator)
        reward = reward_of_step(self._tables, 0, state, action, following)
        return Outcome(
            next_states=following.cpu().numpy(),
            rewards=reward.to(torch.float64).cpu().numpy(),
            terminated=self._tables.terminal[following].cpu().numpy(),
            truncated=np.zeros(self.num_envs, dtype=np.bool_),
        )

    def _restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        states[done] = self._first_states(int(done.sum()))
        return states

    def _first_states(self, num: int) -> NDArray[np.int64]:
        """Draws by inversion, as `sample_index` does, but of a sum that is taken once."""
        cumulative = self._cumulative
        uniform = torch.rand(num, generator=self._generator, dtype=cumulative.dtype, device=self._device)
        place = torch.minimum(uniform * cumulative[-1], self._greatest)
        return torch.searchsorted(cumulative, place, right=True).cpu().numpy()
