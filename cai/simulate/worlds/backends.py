"""How copies of an environment are run: one after another, in processes, or by the environment's own vector form.

gymnasium resets an environment that is over in one of three modes. NEXT_STEP spends a step of the copy on the reset,
and reports the false transition (last state, first state, reward 0); SAME_STEP hides the last state. What is run here
is reset by hand, so that each step gives the state that the action led to. Vector forms that environments bring along
know NEXT_STEP only: that false row is marked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from cai.simulate.worlds.copies import windowless
from cai.simulate.worlds.world import Outcome


class AbstractBackend(ABC):
    """Runs E copies of an environment. Errors are those of the environment, with a note that says which copy."""

    @abstractmethod
    def reset(self, seed: int) -> NDArray:
        """Resets all copies, copy i with seed + i; gives their states."""

    @abstractmethod
    def step(self, actions: NDArray) -> Outcome:
        """Takes an action in every copy."""

    @abstractmethod
    def restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        """Puts first states where episodes are over into `states`, and gives them."""

    @property
    def resting(self) -> NDArray[np.bool_] | None:
        """Which copies spend the coming step on their reset; None where none ever does."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Closes the copies."""


class InTurn(AbstractBackend):
    """Copies in this process, one after another.

    A plain loop: gymnasium's SyncVectorEnv copies states and gathers information that nobody reads, at two to three
    times the cost for environments as light as Pendulum, and does not say which copy raised an error.

    Args:
        envs: The copies.
        space: The space of their states.
        owned: Whether they are to be closed in the end.
    """

    def __init__(self, envs: list[gymnasium.Env], space: gymnasium.Space, *, owned: bool) -> None:
        self._envs, self._space, self._owned = envs, space, owned
        self._row_shape, self._shape = space.shape or (), (len(envs), *(space.shape or ()))
        self._by_number = isinstance(envs[0].action_space, gymnasium.spaces.Discrete)

    def reset(self, seed: int) -> NDArray:
        """Resets all copies."""
        states = np.empty(self._shape, self._space.dtype)
        for i, env in enumerate(self._envs):
            self._reset_one(env, i, states, seed + i)
        return states

    def step(self, actions: NDArray) -> Outcome:
        """Takes an action in every copy."""
        num = len(self._envs)
        states, rewards = np.empty(self._shape, self._space.dtype), np.empty(num)
        terminated, truncated = np.empty(num, dtype=np.bool_), np.empty(num, dtype=np.bool_)
        rows = actions.tolist() if self._by_number else actions.copy()  # a copy is the environment's to keep
        for i, env in enumerate(self._envs):
            try:
                state, rewards[i], terminated[i], truncated[i], _ = env.step(rows[i])
                check_state(state, self._space, self._row_shape)
            except Exception as error:
                note_copy(error, i, num)
                raise
            states[i] = state
        return Outcome(states, rewards, terminated, truncated)

    def restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        """Resets the copies whose episodes are over."""
        for i in np.flatnonzero(done):
            self._reset_one(self._envs[i], int(i), states, None)
        return states

    def _reset_one(self, env: gymnasium.Env, i: int, states: NDArray, seed: int | None) -> None:
        try:
            state, _ = env.reset(seed=seed)
            check_state(state, self._space, self._row_shape)
        except Exception as error:
            note_copy(error, i, len(self._envs))
            raise
        states[i] = state

    def close(self) -> None:
        """Closes the copies, if they are not the user's."""
        if self._owned:
            for env in self._envs:
                env.close()


class AsOne(AbstractBackend):
    """The vector form that an environment brings along, which resets a copy in the step after its end.

    Args:
        spec: The environment's spec; one with a vector entry point and without further wrappers.
        num_envs: Number of copies.
        limit: After how many actions an episode is truncated; None leaves that to the environment.

    Raises:
        ValueError: It resets in another mode.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, limit: int | None) -> None:
        options: dict[str, Any] = {} if limit is None else {"max_episode_steps": limit}
        self._vector = gymnasium.make_vec(
            windowless(spec), num_envs, vectorization_mode="vector_entry_point", **options
        )
        self.state_space, self.action_space = self._vector.single_observation_space, self._vector.single_action_space
        mode = self._vector.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            self._vector.close()
            raise ValueError(f"the vector form of {spec.id} resets by {mode}, not in the step after the end")
        self._over = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, seed: int) -> NDArray:
        """Resets all copies; the vector form draws them all from one seed."""
        self._over = np.zeros_like(self._over)
        states, _ = self._vector.reset(seed=seed)
        return self._read(states)

    def step(self, actions: NDArray) -> Outcome:
        """Takes an action in every copy that is not over, and resets the others."""
        states, rewards, terminated, truncated, _ = self._vector.step(actions)
        rewards = np.where(self._over, 0.0, rewards)
        self._over = np.array(terminated | truncated)
        return Outcome(self._read(states), rewards, np.array(terminated), np.array(truncated))

    def _read(self, states: Any) -> NDArray:
        expected = (len(self._over), *(self.state_space.shape or ()))
        if np.shape(states) != expected:
            raise ValueError(f"the vector form gave states of shape {list(np.shape(states))}, not {list(expected)}")
        return np.array(states, dtype=self.state_space.dtype)

    def restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        """Leaves the last states where they are until the coming step.

        Raises:
            ValueError: An episode is over that the environment would go on with.
        """
        if (done != self._over).any():
            raise ValueError(
                "the environment's vector form does not heed max_episode_steps, so no horizon can be kept; "
                'take vectorization_mode="sync"'
            )
        return states

    @property
    def resting(self) -> NDArray[np.bool_]:
        """The copies that are over."""
        return self._over

    def close(self) -> None:
        """Closes the vector form."""
        self._vector.close()


def check_state(state: Any, space: gymnasium.Space, row_shape: tuple[int, ...]) -> None:
    """Checks the shape of a state that an environment gave, and that a discrete one is of its space.

    Raises:
        ValueError: What was expected and what came.
    """
    if np.shape(state) != row_shape:
        raise ValueError(f"the environment gave a state of shape {list(np.shape(state))}, not {list(row_shape)}")
    if not isinstance(space, gymnasium.spaces.Box) and not space.contains(state):
        raise ValueError(f"the environment gave the state {state!r}, outside {space}")


def note_copy(error: Exception, i: int, num: int) -> None:
    """Notes on an error which copy raised it."""
    error.add_note(f"in environment {i} of {num}")
