"""Evaluation of a policy without chance: gymnasium and numpy only, so that a peer's environment can import it."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np
from numpy.typing import NDArray

#: Episode i is reset with this seed plus i, whoever is evaluated.
FIRST_SEED = 10_000


def episode_returns(env_id: str, act: Callable[[NDArray], NDArray], num_episodes: int = 20) -> list[float]:
    """Runs episodes side by side and gives their undiscounted returns.

    Args:
        env_id: The environment's name.
        act: States `[N, ...]` to actions `[N, ...]`.
        num_episodes: N.
    """
    envs = [gymnasium.make(env_id) for _ in range(num_episodes)]
    states = np.stack([env.reset(seed=FIRST_SEED + i)[0] for i, env in enumerate(envs)])
    totals, running = np.zeros(num_episodes), np.ones(num_episodes, dtype=bool)
    while running.any():
        actions = act(states)
        for i in np.flatnonzero(running):
            states[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            totals[i] += float(reward)
            running[i] = not (terminated or truncated)
    for env in envs:
        env.close()
    return totals.tolist()
