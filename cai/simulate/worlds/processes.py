"""Copies of an environment in processes of their own."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from cai.simulate.worlds.backends import AbstractBackend, check_state, note_copy
from cai.simulate.worlds.world import Outcome

#: Where a copy in a process reports the error that it met.
_FAILURE = "failure"


class InProcesses(AbstractBackend):
    """Copies in processes of their own, by gymnasium's AsyncVectorEnv.

    Args:
        make: Makes a copy.
        num_envs: Number of copies.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], num_envs: int) -> None:
        factory = partial(_reporting, make, os.getpid())
        self._vector = AsyncVectorEnv([factory] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        self._num = num_envs

    def reset(self, seed: int) -> NDArray:
        """Resets all copies."""
        states, information = self._asked(lambda: self._vector.reset(seed=seed))
        self._raise_reported(information)
        return states

    def step(self, actions: NDArray) -> Outcome:
        """Takes an action in every copy, at once."""
        states, rewards, terminated, truncated, information = self._asked(lambda: self._vector.step(actions))
        self._raise_reported(information)
        return Outcome(states, rewards.astype(np.float64), terminated, truncated)

    def restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        """Resets the copies whose episodes are over, at once."""
        first, information = self._asked(lambda: self._vector.reset(options={"reset_mask": done.copy()}))
        self._raise_reported(information)
        states[done] = first[done]
        return states

    def close(self) -> None:
        """Ends the processes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a step under way, where the run was interrupted
            try:
                self._vector.close(timeout=1.0)  # without one it waits for ever for answers that have been taken
            except Exception:  # a process is dead, or an answer half read
                for process in self._vector.processes:
                    process.terminate()
                    process.join()
                self._vector.closed = True

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (EOFError, ConnectionError) as error:
            processes = self._vector.processes
            ready = wait([process.sentinel for process in processes], timeout=5.0)  # what one holds open goes first
            for process in processes:
                process.join(timeout=5.0 if process.sentinel in ready else 0.0)
            dead = [(i, process.exitcode) for i, process in enumerate(processes) if process.exitcode is not None]
            codes = ", ".join(f"environment {i} (exit code {code})" for i, code in dead) or "an environment"
            raise RuntimeError(f"the process of {codes} of {self._num} died") from error

    def _raise_reported(self, information: dict[str, Any]) -> None:
        failures = information.get(_FAILURE)
        if failures is None:
            return
        i = next(i for i, failure in enumerate(failures) if failure)
        error = pickle.loads(failures[i])  # written by a process of our own
        note_copy(error, i, self._num)
        raise error


class _Reporting(gymnasium.Wrapper):
    """Gives an error back as information: AsyncVectorEnv loses its notes, and waits for ever for one not picklable."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        try:
            state, _ = self.env.reset(seed=seed)
            check_state(state, self.observation_space, self.observation_space.shape or ())
        except Exception as error:
            return self.observation_space.sample(), {_FAILURE: _pickled(error)}
        return state, {}

    def step(self, action: Any) -> Any:
        try:
            discrete = isinstance(self.action_space, gymnasium.spaces.Discrete)
            state, reward, terminated, truncated, _ = self.env.step(int(action) if discrete else action)
            check_state(state, self.observation_space, self.observation_space.shape or ())
            return state, float(reward), bool(terminated), bool(truncated), {}
        except Exception as error:
            return self.observation_space.sample(), 0.0, False, False, {_FAILURE: _pickled(error)}


def _reporting(make: Callable[[], gymnasium.Env], parent: int) -> _Reporting:
    if os.getpid() != parent:  # what interrupts the run is for the parent, which then closes the copies
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _Reporting(make())


def _pickled(error: Exception) -> bytes:
    error.add_note(traceback.format_exc())
    try:
        written = pickle.dumps(error)
        pickle.loads(written)
    except Exception:  # an error that cannot be pickled, in whatever way
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return written
