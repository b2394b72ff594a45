"""A world of gymnasium environments."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from cai.factors.calling import reward_of_transition
from cai.factors.protocols import Stepped
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.callables import one_each
from cai.simulate.worlds.backends import AbstractBackend, AsOne, InTurn
from cai.simulate.worlds.copies import is_as_made, maker_of
from cai.simulate.worlds.processes import InProcesses
from cai.simulate.worlds.stationary import need_stationary
from cai.simulate.worlds.world import AbstractWorld, Outcome, whole_number

MODES = ("sync", "async", "vector_entry_point")


class EnvironmentWorld(AbstractWorld):
    """Copies of the environment that stands in a graph.

    The environment's own time limit stays, and truncates; the graph's horizon truncates besides. A reward of the graph
    that is not the environment's is called, r(s, a) or r(s, a, s'), on tensors of all copies, in the environment's
    form.

    Args:
        graph: A graph whose dynamics is an environment.
        num_envs: Number of copies E.
        vectorization_mode: "sync" runs copies one after another, "async" in processes, "vector_entry_point" by the
            environment's own vector form. None takes the last for several copies where there is one that does the
            same (no wrappers of the user's, a known time limit), else "sync".

    Raises:
        ValueError: A mode or number that is none, an environment that cannot be copied, or an initial state or reward
            that is not the environment's where it should be.
    """

    _copy_name = "environment"

    def __init__(self, graph: TrajectoryGraph, num_envs: int, *, vectorization_mode: str | None = None) -> None:
        need_stationary(graph)
        num_envs = whole_number(num_envs)
        if vectorization_mode is not None and vectorization_mode not in MODES:
            raise ValueError(f"vectorization_mode: expected one of {MODES} or None, got {vectorization_mode!r}")
        env = graph.dynamics.env
        if not isinstance(graph.initial, Stepped) or graph.initial.env is not env:
            raise ValueError(
                f"initial: an environment starts where it will, not from {type(graph.initial).__name__}; leave the "
                "initial factor that cai.from_gym made"
            )
        if isinstance(graph.reward, Stepped) and graph.reward.env is not env:
            raise ValueError("reward: it is another environment's than the dynamics, and cannot be called by itself")
        super().__init__(num_envs, env.observation_space, env.action_space, graph.horizon)
        self._reward_of = None if isinstance(graph.reward, Stepped) else reward_of_transition(graph.reward)
        self._backend = _backend(env, num_envs, vectorization_mode, graph.horizon)

    def memory(self) -> None:
        """None: what an environment holds cannot be written down."""
        return None

    def remember(self, memory: dict[str, Any]) -> None:
        """Raises ValueError: there is no memory of an environment."""
        raise ValueError("EnvironmentWorld: an environment cannot be put back to where it was; reset it")

    def close(self) -> None:
        """Closes the copies."""
        super().close()
        self._backend.close()

    def _valid(self) -> NDArray[np.bool_]:
        resting = self._backend.resting
        return self._all if resting is None else ~resting

    def _start(self, seed: int | None) -> NDArray:
        base = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        try:
            return self._backend.reset(base)
        except Exception as error:
            self._note_step(error)
            raise

    def _advance(self, states: NDArray, actions: NDArray) -> Outcome:
        valid = self._valid()
        try:
            outcome = self._backend.step(actions)
        except Exception as error:
            self._note_step(error)
            raise
        if self._reward_of is None:
            return outcome
        self._check_states(outcome.next_states, "a state")
        rewards = np.where(valid, self._rewards(states, actions, outcome.next_states), 0.0)
        return Outcome(outcome.next_states, rewards, outcome.terminated, outcome.truncated)

    def _rewards(self, *transition: NDArray) -> NDArray[np.float64]:
        assert self._reward_of is not None
        with torch.no_grad():
            given = self._reward_of(0, *(torch.from_numpy(part) for part in transition))
            values = one_each(given, self.num_envs, "reward", caller=type(self).__name__)
        return values.to(torch.float64).cpu().numpy()

    def _restart(self, done: NDArray[np.bool_], states: NDArray) -> NDArray:
        try:
            return self._backend.restart(done, states)
        except Exception as error:
            self._note_step(error)
            raise

    def _note_step(self, error: Exception) -> None:
        error.add_note(f"at step {self._num_steps} of {type(self).__name__}")


def _backend(env: gymnasium.Env, num_envs: int, mode: str | None, horizon: int | None) -> AbstractBackend:
    if mode == "vector_entry_point" or (mode is None and num_envs > 1 and _has_vector_form(env, horizon)):
        try:
            return _vector_form(env, num_envs, horizon)
        except Exception as error:
            if mode is not None:
                raise ValueError(
                    f"vectorization_mode: {env} cannot be run by its vector entry point "
                    f'({type(error).__name__}: {error}); take "sync" or "async"'
                ) from error
            logging.getLogger(__name__).info("the vector form of %s is not used: %s", env, error)
    if mode == "async":
        return InProcesses(
            maker_of(env, max(num_envs, 2)), num_envs
        )  # a process needs a copy, even if it is the only one
    make = maker_of(env, num_envs)
    copies = [make() for _ in range(num_envs)]
    return InTurn(copies, env.observation_space, owned=copies[0] is not env)


def _has_vector_form(env: gymnasium.Env, horizon: int | None) -> bool:
    """Whether the vector form does what the environment does: it knows its spec, and of wrappers the time limit."""
    spec = env.spec
    if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
        return False
    return spec.max_episode_steps is not None or horizon is not None


def _vector_form(env: gymnasium.Env, num_envs: int, horizon: int | None) -> AsOne:
    if env.spec is None or env.spec.vector_entry_point is None:
        raise ValueError("it has none")
    if not is_as_made(env):
        raise ValueError("the vector form lacks what was set on the environment after it was made")
    limits = [limit for limit in (env.spec.max_episode_steps, horizon) if limit is not None]
    backend = AsOne(env.spec, num_envs, min(limits, default=None))
    if backend.state_space != env.observation_space or backend.action_space != env.action_space:
        backend.close()
        raise ValueError("its spaces are others")
    return backend
