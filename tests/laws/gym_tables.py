"""Published tables of gymnasium environments as a `Problem`, read here once more, independently of the library."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from tests.oracles import Problem


def problem_of_env(env_id: str, *, flat: bool = False, **settings: Any) -> Problem:
    """Rewards on transitions, terminal states from the done flags of reachable entries, start from the environment."""
    options = settings.pop("options", {})
    env = gym.make(env_id, **options).unwrapped
    num_states, num_actions = env.observation_space.n, env.action_space.n
    dynamics, rewards = np.zeros((2, num_states, num_actions, num_states))
    terminal = np.zeros(num_states, bool)
    for s, a in np.ndindex(num_states, num_actions):
        for probability, following, reward, done in env.P[s][a]:
            dynamics[s, a, following] += probability
            rewards[s, a, following] += probability * reward
            terminal[following] |= done
    rewards = np.divide(rewards, dynamics, out=np.zeros_like(rewards), where=dynamics > 0)
    initial = np.asarray(env.initial_state_distrib, float)
    weight = 1.0 if flat else 1 / num_actions
    env.close()
    return Problem(
        initial=initial / initial.sum(),
        dynamics=dynamics,
        reward=rewards,
        prior=np.full((num_states, num_actions), weight),
        terminal=terminal,
        flat=flat,
        **settings,
    )
