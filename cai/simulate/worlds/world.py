"""Worlds: several copies of one problem, stepped together, where learners collect transitions.

    (s, a, r, s', terminated, truncated)

A transition never crosses a reset: s' is the state that the action led to, also where the episode ended there. An
episode *terminates* in the world (its value beyond is the terminal reward, else zero) or is *truncated* from outside
(its value goes on); one that does both at once has terminated.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.errors import NonFinite


@dataclass(frozen=True, eq=False)
class Step:
    """One transition of each of E copies; arrays are not to be written to, the next step's share their memory.

    Attributes:
        states: `[E, ...]`, s.
        actions: `[E, ...]`, a, in the environment's form.
        rewards: `[E]`, float64, reward units.
        next_states: `[E, ...]`, s', never a state after a reset.
        terminated: `[E]`, bool.
        truncated: `[E]`, bool; False where terminated.
        valid: `[E]`, bool; False where the row is no transition, since the copy spent the step on its reset.
    """

    states: NDArray
    actions: NDArray
    rewards: NDArray[np.float64]
    next_states: NDArray
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]

    @property
    def done(self) -> NDArray[np.bool_]:
        """`[E]`, bool: where the episode is over, one way or the other."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Episode:
    """An episode that is over.

    Attributes:
        total_reward: Sum of its rewards, undiscounted, reward units.
        length: Number of actions taken.
    """

    total_reward: float
    length: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What copies answer to their actions.

    Attributes:
        next_states: `[E, ...]`, s'.
        rewards: `[E]`, float64.
        terminated: `[E]`, bool.
        truncated: `[E]`, bool, whether or not terminated.
    """

    next_states: NDArray
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class AbstractWorld(ABC):
    """E copies of one problem.

    Args:
        num_envs: Number of copies E.
        state_space: The space of one copy's states.
        action_space: The space of one copy's actions.
        horizon: After how many actions an episode is truncated, or None.

    Attributes:
        num_envs: Number of copies E.
        state_space: The space of one copy's states.
        action_space: The space of one copy's actions.
        horizon: After how many actions an episode is truncated, or None.

    Raises:
        ValueError: A number of copies that is none, or spaces that learners cannot read.
    """

    #: What a copy is called in error messages.
    _copy_name = "copy"

    def __init__(
        self, num_envs: int, state_space: gymnasium.Space, action_space: gymnasium.Space, horizon: int | None
    ) -> None:
        self.num_envs = whole_number(num_envs)
        self.state_space, self.action_space, self.horizon = state_space, action_space, horizon
        self._encoding, self._state_encoding = ActionEncoding(action_space), StateEncoding(state_space)
        self._action_shape = (self.num_envs, *self._encoding.row_shape)
        self._all = np.ones(self.num_envs, dtype=np.bool_)
        self._has_vectors = np.issubdtype(self._state_encoding.row_dtype, np.floating)
        self._states: NDArray | None = None
        self._num_steps = 0
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._totals = np.zeros(self.num_envs)
        self._finished: list[tuple[NDArray, NDArray]] = []  # total rewards and lengths

    @property
    def states(self) -> NDArray:
        """`[E, ...]`, the states to act in now.

        Raises:
            ValueError: The world has not been reset.
        """
        if self._states is None:
            raise ValueError(f"{type(self).__name__}: reset it before its first step")
        return self._states

    def reset(self, seed: int | None = None) -> None:
        """Starts every copy afresh; unfinished episodes are forgotten.

        Args:
            seed: Copy i of an environment is seeded with seed + i; None takes fresh entropy. What draws from torch's
                global generator (tables, callables) does so whatever is given here.

        Raises:
            NonFinite: A first state that is NaN or infinite.
        """
        self._num_steps = 0
        self._lengths[:] = 0
        self._totals[:] = 0.0
        self._finished = []
        states = self._start(seed)
        self._check_states(states, "a first state")
        self._states = states

    def step(self, actions: NDArray) -> Step:
        """Takes an action in every copy; copies whose episode is over are reset, and `states` is up to date after.

        Args:
            actions: `[E, ...]`, in the environment's form.

        Raises:
            ValueError: Actions of a wrong shape or outside the space; a state or reward of a wrong shape.
            NonFinite: A state or reward that is NaN or infinite: of which copy, at which step.
        """
        states, actions = self.states, np.asarray(actions, dtype=self._encoding.row_dtype)
        if actions.shape != self._action_shape:
            raise ValueError(f"actions: expected {list(self._action_shape)}, got {list(actions.shape)}")
        actions = self._encoding.inside(actions)
        valid = self._valid()
        outcome = self._advance(states, actions)
        self._check_states(outcome.next_states, "a state")
        self._check_finite(outcome.rewards, "a reward")
        self._lengths += valid
        self._totals += outcome.rewards
        truncated = outcome.truncated
        if self.horizon is not None:
            truncated = truncated | (self._lengths >= self.horizon)
        truncated = truncated > outcome.terminated  # and not terminated
        done = outcome.terminated | truncated
        following = outcome.next_states
        if _some(done):
            following = self._finish(done, following)
        self._states = following
        self._num_steps += 1
        return Step(states, actions, outcome.rewards, outcome.next_states, outcome.terminated, truncated, valid)

    def _finish(self, done: NDArray[np.bool_], next_states: NDArray) -> NDArray:
        """Counts the episodes that are over, and gives the states to act in next."""
        self._finished.append((self._totals[done], self._lengths[done]))
        self._lengths[done] = 0
        self._totals[done] = 0.0
        states = self._restart(done, next_states.copy())
        self._check_states(states, "a first state")
        return states

    def episodes(self) -> list[Episode]:
        """Gives the episodes that ended since last asked, in the order of their ends."""
        totals, lengths = self._ended()
        self._finished = []
        return [Episode(*episode) for episode in zip(totals.tolist(), lengths.tolist(), strict=True)]

    def memory(self) -> dict[str, Any] | None:
        """Gives what `remember` needs to go on bit for bit, or None where the world cannot be written down.

        The state of torch's global generator is not part of it.
        """
        ended_totals, ended_lengths = self._ended()
        arrays = {
            "states": self.states,
            "lengths": self._lengths,
            "totals": self._totals,
            "ended_lengths": ended_lengths,
            "ended_totals": ended_totals,
        }
        return {"num_steps": self._num_steps, **{name: torch.tensor(array) for name, array in arrays.items()}}

    def remember(self, memory: dict[str, Any]) -> None:
        """Goes on from what `memory` gave.

        Raises:
            ValueError: It is of another number of copies, or of other states.
        """
        states = memory["states"].numpy().copy()
        expected = (self.num_envs, *self._state_encoding.row_shape)
        if states.shape != expected:
            raise ValueError(f"{type(self).__name__}: the memory has states {list(states.shape)}, not {list(expected)}")
        self._states = states
        self._lengths, self._totals = memory["lengths"].numpy().copy(), memory["totals"].numpy().copy()
        self._num_steps = int(memory["num_steps"])
        self._finished = [(memory["ended_totals"].numpy().copy(), memory["ended_lengths"].numpy().copy())]

    def _ended(self) -> tuple[NDArray, NDArray]:
        """Total rewards and lengths of the episodes that ended since last asked."""
        totals, lengths = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        return (
            np.concatenate(totals + [part for part, _ in self._finished]),
            np.concatenate(lengths + [part for _, part in self._finished]),
        )

    def close(self) -> None:
        """Frees what the world holds; it is of no use until it is reset, and copies of environments for good."""
        self._states = None

    def _valid(self) -> NDArray[np.bool_]:
        """Which copies take their action in the coming step."""
        return self._all

    @abstractmethod
    def _start(self, seed: int | None) -> NDArray:
        """Gives first states of all copies."""

    @abstractmethod
    def _advance(self, states: NDArray, actions: NDArray) -> Outcome:
        """Takes the actions."""

    @abstractmethod
    def _restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        """Puts first states where episodes are over, into `states`, and gives them."""

    def _check_states(self, states: NDArray, what: str) -> None:
        if self._has_vectors:
            self._check_finite(states, what)

    def _check_finite(self, values: NDArray, what: str) -> None:
        broken = ~np.isfinite(values)
        if not _some(broken):
            return
        i = int(np.flatnonzero(broken.reshape(self.num_envs, -1).any(1))[0])
        raise NonFinite(
            f"{type(self).__name__}: {self._copy_name} {i} gave {what} that is not finite at step {self._num_steps}: "
            f"{values[i]}"
        )


def _some(mask: NDArray[np.bool_]) -> bool:
    """Whether any is True; on a few bytes this takes a tenth of the time of `mask.any()`."""
    return b"\x01" in mask.tobytes()


def whole_number(num_envs: Any) -> int:
    """Reads a number of copies.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, numbers.Integral) or num_envs < 1:
        raise ValueError(f"num_envs: expected a whole number of at least 1, got {num_envs!r}")
    return int(num_envs)
