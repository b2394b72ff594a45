"""What policies are worth, by episodes of all of them at once.

J = sum_t gamma^t [r_t - alpha log(pi / mu)(a_t | s_t)],   averaged over the episodes of a policy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.errors import NonFinite
from cai.methods.policy_search.learner import PolicySearchLearner
from cai.methods.sampling.terminal import with_terminal_reward
from cai.simulate.worlds import AbstractWorld, Step


@dataclass(frozen=True, eq=False)
class Scores:
    """What policies were worth.

    Attributes:
        objectives: J of each, `[N]`, float64, reward units.
        num_steps: Environment steps that it took.
    """

    objectives: Tensor
    num_steps: int


class Tournament:
    """Episodes of N policies in the E copies of a world: as soon as a copy is free it takes on the next episode.

    Each policy has the same number of episodes, each run to its end, so that short ones are not favoured; copies idle
    when no episode is left, and their steps count all the same.

    Args:
        learner: What knows the policies.
        world: Where.
        vectors: Their parameters, `[N, P]`.
        num_episodes: Episodes of each.
    """

    def __init__(self, learner: PolicySearchLearner, world: AbstractWorld, vectors: Tensor, num_episodes: int) -> None:
        self._learner, self._world, self._vectors = learner, world, vectors
        self._num_episodes = num_episodes
        self._waiting = list(np.tile(np.arange(len(vectors)), num_episodes))[::-1]
        num_envs = world.num_envs
        self._player = np.full(num_envs, -1)
        self._total, self._weight = np.zeros(num_envs), np.ones(num_envs)
        self._sums = np.zeros(len(vectors))
        self._num_steps = 0

    def play(self, seed: int) -> Scores:
        """Plays it all; episodes begin anew, by the seed.

        Raises:
            NonFinite: A policy's objective is NaN or infinite.
        """
        self._world.reset(seed)
        self._admit(np.ones(self._world.num_envs, dtype=np.bool_))
        while (self._player >= 0).any():
            choice = self._learner.act_as(self._world.num_envs, self._world.states)
            self._count(self._world.step(choice.actions), choice.log_ratios)
        objectives = self._sums / self._num_episodes
        if not np.isfinite(objectives).all():
            member = int(np.flatnonzero(~np.isfinite(objectives))[0])
            raise NonFinite(f"the objective of policy {member} is {objectives[member]:g}")
        return Scores(torch.from_numpy(objectives), self._num_steps)

    def _count(self, step: Step, log_ratios: NDArray[Any]) -> None:
        learner = self._learner
        going = (self._player >= 0) & step.valid
        rewards = with_terminal_reward(
            learner.graph,
            torch.from_numpy(step.rewards),
            torch.from_numpy(step.next_states),
            torch.from_numpy(step.terminated & going),
        ).numpy()
        soft = rewards - learner.temperature * log_ratios if learner.temperature else rewards
        self._total += np.where(going, self._weight * soft, 0.0)
        self._weight[going] *= learner.discount
        self._num_steps += int(np.count_nonzero(step.valid))
        done = going & step.done
        if done.any():
            np.add.at(self._sums, self._player[done], self._total[done])
            self._admit(done)

    def _admit(self, free: NDArray[np.bool_]) -> None:
        """Gives free copies their next policies."""
        for copy in np.flatnonzero(free):
            self._player[copy] = self._waiting.pop() if self._waiting else -1
        self._total[free], self._weight[free] = 0.0, 1.0
        self._learner.policies.load(self._vectors[np.maximum(self._player, 0)])
