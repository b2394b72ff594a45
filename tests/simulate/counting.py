"""Environments that write into their states which copy, episode and time they are at, so that a false join shows."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SPACE = spaces.Box(-np.inf, np.inf, (4,), np.float64)
#: Lengths of the episodes, in turn, and how each ends.
LENGTHS = (3, 1, 4, 2)
ENDS = ("terminated", "truncated", "both", "truncated")


class Faulty(RuntimeError):
    """What a broken environment raises; it takes two arguments, which AsyncVectorEnv does not."""

    def __init__(self, where: str, t: int) -> None:
        super().__init__(f"broken {where} at {t}")
        self.where, self.t = where, t

    def __reduce__(self) -> Any:
        return Faulty, (self.where, self.t), self.__dict__


class NoPickle(RuntimeError):
    """An error that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def state_of(seed: int, episode: int, t: int, action: float) -> np.ndarray:
    return np.array([seed, episode, t, action], dtype=np.float64)


def reward_of(episode: int, t: int) -> float:
    return 100.0 * episode + t


class Counting(gymnasium.Env):
    """State: (the seed of the copy, episode, time, last action). Reward of the step to time t: 100 episode + t.

    Args:
        fault: What happens at `at`: "raise", "die", "nan state", "inf reward", "shape", "first nan".
        at: Seed, episode and time of the fault.
        num_actions: Number of actions, or None for a box of two coordinates.
    """

    observation_space = SPACE

    def __init__(
        self, fault: str | None = None, at: tuple[int, int, int] = (1, 1, 1), num_actions: int | None = 2
    ) -> None:
        self.fault, self.at = fault, at
        self.action_space = spaces.Discrete(num_actions) if num_actions else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.seed, self.episode, self.t = -1, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode, self.t = self.episode + 1, 0
        broken = self.fault == "first nan" and (self.seed, self.episode) == self.at[:2]
        return state_of(self.seed, self.episode, np.nan if broken else 0, 0.0), {"episode": self.episode}

    def step(self, action: Any) -> Any:
        if self.t >= LENGTHS[self.episode % len(LENGTHS)]:
            raise AssertionError("stepped beyond the end of an episode")
        self.t += 1
        state = state_of(self.seed, self.episode, self.t, float(np.ravel(action)[0]))
        reward = reward_of(self.episode, self.t)
        if (self.seed, self.episode, self.t) == self.at:
            state, reward = self._broken(state, reward)
        over = self.t == LENGTHS[self.episode % len(LENGTHS)]
        end = ENDS[self.episode % len(ENDS)]
        return state, reward, over and end != "truncated", over and end != "terminated", {"t": self.t}

    def _broken(self, state: np.ndarray, reward: float) -> tuple[np.ndarray, float]:
        if self.fault == "raise":
            raise Faulty("arm", self.t)
        if self.fault == "no pickle":
            raise NoPickle("a lock inside")
        if self.fault == "die":
            os._exit(3)
        if self.fault == "nan state":
            state[3] = np.nan
        if self.fault == "shape":
            return state[:1], reward  # which numpy would broadcast
        return state, np.inf if self.fault == "inf reward" else reward


class CountingVector(VectorEnv):
    """The same for several copies at once, which resets as gymnasium's own vector forms do."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 10**6, heeds: bool = True) -> None:
        self.num_envs, self.limit = num_envs, max_episode_steps if heeds else 10**6
        self.single_observation_space, self.single_action_space = SPACE, spaces.Discrete(2)
        self.observation_space = batch_space(SPACE, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.envs = [Counting() for _ in range(num_envs)]
        self.over = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.over[:] = False
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        return np.stack([env.reset(seed=s)[0] for env, s in zip(self.envs, seeds, strict=True)]), {}

    def step(self, actions: Any) -> Any:
        rows = [
            (env.reset()[0], 0.0, False, False) if over else env.step(action)[:4]
            for env, over, action in zip(self.envs, self.over, actions, strict=True)
        ]
        states, rewards, terminated, truncated = (np.array(part) for part in zip(*rows, strict=True))
        truncated = truncated | (states[:, 2] >= self.limit)
        self.over = terminated | truncated
        return states, rewards, terminated, truncated, {}


def spec(**options: Any) -> EnvSpec:
    """How to make the environment, with its vector form and a time limit that it never reaches."""
    return EnvSpec("Counting-v0", entry_point=Counting, max_episode_steps=50, **options)


def registered(**options: Any) -> gymnasium.Env:
    """Makes the environment as `gymnasium.make` does."""
    return gymnasium.make(spec(kwargs=options))


def with_vector_form() -> gymnasium.Env:
    """Makes the environment with a vector form of its own."""
    return gymnasium.make(spec(vector_entry_point=CountingVector))
