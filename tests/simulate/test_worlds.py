"""Copies of environments: no transition crosses a reset in any mode, and what goes wrong is named."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import cai
from cai.simulate.worlds import AbstractWorld, Step, world_of
from cai.simulate.worlds.copies import maker_of
from tests.simulate import counting

#: Name -> number of copies, how they are run, and the environment.
MODES: dict[str, tuple[int, str | None, Callable[[], gymnasium.Env]]] = {
    "one": (1, None, counting.registered),
    "in turn": (3, "sync", counting.registered),
    "in processes": (3, "async", counting.registered),
    "one in a process": (1, "async", counting.registered),
    "as one": (3, None, counting.with_vector_form),
    "deep copies": (3, "sync", counting.Counting),
    "deep copies in processes": (2, "async", counting.Counting),
}


@contextmanager
def world(env: gymnasium.Env, num: int, mode: str | None = None, **options: Any) -> Iterator[AbstractWorld]:
    """A world of the environment that is closed in the end."""
    graph = cai.from_gym(env, discount=0.9)
    made = world_of(graph.replace(**options), num, vectorization_mode=mode)
    try:
        yield made
    finally:
        made.close()


def run(made: AbstractWorld, num_steps: int, seed: int = 5) -> list[Step]:
    made.reset(seed)
    rng = np.random.default_rng(0)
    if isinstance(made.action_space, spaces.Discrete):
        actions = rng.integers(0, made.action_space.n, (num_steps, made.num_envs))
    else:
        low, high = made.action_space.low, made.action_space.high
        actions = rng.uniform(low, high, (num_steps, made.num_envs, *low.shape)).astype(np.float32)
    return [made.step(action) for action in actions]


@pytest.mark.parametrize("horizon", [None, 3], ids=["no horizon", "horizon 3"])
@pytest.mark.parametrize("name", MODES)
def test_no_transition_crosses_a_reset(name: str, horizon: int | None) -> None:
    num, mode, make = MODES[name]
    with world(make(), num, mode, horizon=horizon) as made:
        steps = run(made, 25)
        last, episodes = made.states, made.episodes()
        assert made.episodes() == []
    seen = {i: [] for i in range(num)}
    for k, step in enumerate(steps):
        following = steps[k + 1].states if k + 1 < len(steps) else last
        assert step.rewards.dtype == np.float64
        assert not (step.terminated & step.truncated).any()
        for i in np.flatnonzero(step.valid):
            (seed, episode, t, _), after = step.states[i], step.next_states[i]
            assert seed == 5 + i
            np.testing.assert_array_equal(after, [seed, episode, t + 1, step.actions[i]])
            assert step.rewards[i] == counting.reward_of(int(episode), int(t) + 1)
            length = counting.LENGTHS[int(episode) % 4]
            end = counting.ENDS[int(episode) % 4] if t + 1 == length else None
            assert step.terminated[i] == (end in ("terminated", "both"))
            assert step.truncated[i] == (not step.terminated[i] and (end == "truncated" or t + 1 == horizon))
            seen[i].append((episode, t))
        resting = ~step.valid
        assert not step.done[resting].any()
        assert (step.rewards[resting] == 0).all()
        if name != "as one":
            assert step.valid.all()
            first = np.stack([counting.state_of(5 + i, e + 1, 0, 0) for i, e in enumerate(step.states[:, 1])])
            np.testing.assert_array_equal(following, np.where(step.done[:, None], first, step.next_states))
    for visits in seen.values():  # nothing is left out, and nothing comes twice
        lengths = [min(length, horizon or length) for length in counting.LENGTHS] * 7
        expected = [(episode, t) for episode, length in enumerate(lengths) for t in range(length)]
        assert visits == expected[: len(visits)]
        assert len(visits) == 25 or name == "as one"
    ends = {(e.length, e.total_reward) for e in episodes}
    assert len(episodes) == sum(int(step.done.sum()) for step in steps)
    sums = [100.0 * e * n + n * (n + 1) / 2 for e, n in enumerate(lengths)]
    assert ends <= set(zip(lengths, sums, strict=True))


def test_a_vector_form_spends_one_step_on_a_reset_and_says_so() -> None:
    with world(counting.with_vector_form(), 3) as made:
        steps = run(made, 12)
    for before, after in zip(steps, steps[1:], strict=False):
        np.testing.assert_array_equal(after.valid, ~before.done)
        np.testing.assert_array_equal(after.states, before.next_states)
    assert not all(step.valid.all() for step in steps)


@pytest.mark.parametrize("name", ["one", "in processes"])
def test_the_time_limit_of_the_environment_stays(name: str) -> None:
    num, mode, _ = MODES[name]
    with world(gymnasium.make(counting.spec(), max_episode_steps=2), num, mode) as made:
        steps = run(made, 9)
    for step in steps:
        assert (step.next_states[:, 2] <= 2).all()
        np.testing.assert_array_equal(step.done, (step.next_states[:, 2] == 2) | (step.next_states[:, 1] % 4 == 1))


def lean(states: np.ndarray) -> np.ndarray:
    """A policy that keeps the pole of CartPole up for a while."""
    return (states[:, 2] + states[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("limit", [None, 30], ids=["no limit reached", "limit 30"])
def test_cart_poles_of_the_vector_form_move_as_single_ones(limit: int | None) -> None:
    """Every transition of gymnasium's own vector form, taken again in a single environment put to its state."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=limit)
    with world(env, 4) as made:
        made.reset(0)
        single = gymnasium.make("CartPole-v1").unwrapped
        ages, num_ends = np.zeros(4, dtype=int), 0
        for k in range(90):
            actions = lean(made.states) if limit else np.full(4, k % 3 == 0, dtype=np.int64)
            step = made.step(actions)
            for i in np.flatnonzero(step.valid):
                single.reset()
                single.state = tuple(step.states[i].astype(np.float64))
                state, reward, terminated, _, _ = single.step(int(actions[i]))
                np.testing.assert_allclose(step.next_states[i], state, rtol=1e-5, atol=1e-6)
                assert (step.rewards[i], step.terminated[i]) == (reward, terminated)
            ages += step.valid
            np.testing.assert_array_equal(step.truncated, ~step.terminated & (ages == (limit or 500)))
            num_ends += int(step.done.sum())
            ages[step.done] = 0
        assert type(made._backend).__name__ == "AsOne"
        assert num_ends >= 8


def test_copies_are_seeded_one_by_one() -> None:
    for mode in ("sync", "async"):
        with world(gymnasium.make("Pendulum-v1"), 3, mode) as made:
            made.reset(11)
            expected = [gymnasium.make("Pendulum-v1").reset(seed=11 + i)[0] for i in range(3)]
            np.testing.assert_array_equal(made.states, expected)


def test_without_a_seed_copies_differ_from_each_other_and_from_last_time() -> None:
    for env in (gymnasium.make("Pendulum-v1"), gymnasium.make("Pendulum-v1").unwrapped):
        env.reset(seed=0)
        with world(env, 3, "sync") as made:
            made.reset()
            first = made.states
            made.reset()
            assert len(np.unique(np.concatenate([first, made.states]), axis=0)) == 6


def test_processes_do_what_one_process_does() -> None:
    taken = []
    for mode in ("sync", "async"):
        with world(gymnasium.make("Pendulum-v1", max_episode_steps=9), 3, mode) as made:
            taken.append((run(made, 30), made.episodes()))
    for one, other in zip(*(steps for steps, _ in taken), strict=True):
        for name in ("states", "actions", "rewards", "next_states", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert taken[0][1] == taken[1][1]
    assert [episode.length for episode in taken[0][1]] == [9] * 9


def test_the_same_seed_gives_the_same_steps() -> None:
    with world(gymnasium.make("CartPole-v1"), 4) as made:
        one, other = run(made, 40), run(made, 40)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.next_states, b.next_states)


@pytest.mark.parametrize("num", [1, 2])
def test_the_environment_of_the_user_is_left_alone(num: int) -> None:
    for env in (counting.registered(), counting.Counting()):
        env.reset(seed=77)
        env.step(0)
        with world(env, num, "sync") as made:
            run(made, 7)
        inner = env.unwrapped
        assert (inner.seed, inner.episode, inner.t) == (77, 0, 1)


class Unrecorded(gymnasium.Wrapper):
    """A wrapper that gymnasium cannot make again from a spec, with something that cannot be copied."""

    def __init__(self, env: gymnasium.Env, copies: bool = True) -> None:
        super().__init__(env)
        self.copies = copies

    def __deepcopy__(self, memory: Any) -> Any:
        if not self.copies:
            raise TypeError("cannot copy a handle")
        return Unrecorded(counting.registered())


def test_what_cannot_be_copied_is_used_itself_or_refused() -> None:
    env = Unrecorded(counting.registered(), copies=False)
    with world(env, 1) as made:
        run(made, 2)
        assert env.unwrapped.t == 2
    with pytest.raises(ValueError, match="cannot be copied"):
        world(env, 1, "async").__enter__()
    env.step(0)  # closed by nobody
    with pytest.raises(ValueError, match=r"num_envs: .*Unrecorded.* cannot be copied \(ValueError.*handle\)") as caught:
        world(env, 2).__enter__()
    assert "gymnasium.register" in str(caught.value)
    with world(Unrecorded(counting.registered()), 2) as made:
        run(made, 9)


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_what_was_set_on_an_environment_later_is_in_its_copies(used: bool, num: int) -> None:
    """A copy made from the spec alone would have the usual gravity, and the usual limit."""
    env = gymnasium.make("Pendulum-v1")
    env.unwrapped.g = 3.0
    slow = gymnasium.make("CartPole-v1")
    slow.unwrapped.force_mag = 0.5
    short = counting.with_vector_form()
    short._max_episode_steps = 2
    if used:
        for each in (env, slow, short):
            each.reset(seed=0)
            each.step(each.action_space.sample())
    with world(env, num) as made:
        made.reset(0)
        single = gymnasium.make("Pendulum-v1").unwrapped
        single.g = 3.0
        expected = [(single.reset(seed=i), single.step(np.zeros(1)))[1][0] for i in range(num)]
        np.testing.assert_allclose(made.step(np.zeros((num, 1))).next_states, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="lacks what was set on the environment after it was made"):
        world(slow, num, "vector_entry_point").__enter__()
    with world(slow, num) as made:
        made.reset(0)
        assert (np.abs(made.step(np.ones(num, np.int64)).next_states[:, 1]) < 0.1).all()
    with world(short, num, "sync") as made:
        assert max(step.next_states[:, 2].max() for step in run(made, 9)) == 2


def test_copies_of_a_used_environment_come_from_its_spec() -> None:
    """What changes as it runs was not set on it: no deep copies, which here there are none of."""
    for name in ("CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1"):
        env = gymnasium.make(name)
        env.reset(seed=1)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
        assert maker_of(env, 2).func is not copy.deepcopy


class Forgetful(gymnasium.utils.EzPickle, counting.Counting):
    """An environment that copies itself by what it was made with, as those of MuJoCo and Box2D do."""

    def __init__(self, gravity: float = 10.0) -> None:
        gymnasium.utils.EzPickle.__init__(self, gravity)
        counting.Counting.__init__(self)
        self.gravity = gravity


def test_a_change_that_no_copy_has_is_refused() -> None:
    env = gymnasium.make(EnvSpec("Forgetful-v0", entry_point=Forgetful), gravity=9.0)
    with world(env, 2) as made:
        assert [copied.unwrapped.gravity for copied in made._backend._envs] == [9.0, 9.0]
    env.unwrapped.gravity = 1.0
    with pytest.raises(ValueError, match=r"cannot be copied \(a new one lacks what was set later: gravity = 1.0; "):
        world(env, 2).__enter__()
    with world(env, 1) as made:
        assert made._backend._envs == [env]


def test_wrappers_come_along() -> None:
    env = gymnasium.wrappers.TransformReward(counting.with_vector_form(), lambda reward: -reward)
    with world(env, 3) as made:
        assert (run(made, 1)[0].rewards == -1).all()
        assert type(made._backend).__name__ == "InTurn"  # the vector form knows nothing of the wrapper


def test_the_vector_form_is_taken_where_it_is_the_same_and_refused_where_there_is_none() -> None:
    for env in (
        gymnasium.make("CartPole-v1", max_episode_steps=-1),  # its vector form would stop at 500
        gymnasium.make("Pendulum-v1"),
    ):
        with world(env, 2) as made:
            assert type(made._backend).__name__ == "InTurn"
    with pytest.raises(ValueError, match=r"vectorization_mode: .*Pendulum.* cannot be run by its vector entry point"):
        world(gymnasium.make("Pendulum-v1"), 2, "vector_entry_point").__enter__()
    with world(gymnasium.make("CartPole-v1"), 1, "vector_entry_point") as made:
        assert type(made._backend).__name__ == "AsOne"


def test_a_vector_form_that_does_not_heed_the_horizon_is_found_out() -> None:
    spec = counting.spec(vector_entry_point=lambda **options: counting.CountingVector(**options, heeds=False))
    with (
        world(gymnasium.make(spec), 2, "vector_entry_point", horizon=2) as made,
        pytest.raises(ValueError, match="does not heed max_episode_steps"),
    ):
        run(made, 5)


#: The copy with seed 6 is broken when its second episode starts: in step 3, counted from 0.
NOTES = "in environment 1 of 3"


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("raise", counting.Faulty, "broken arm at 1"),
        ("shape", ValueError, r"the environment gave a state of shape \[1\], not \[4\]"),
    ],
)
def test_an_error_of_an_environment_says_which_and_when(mode: str, fault: str, error: Any, message: str) -> None:
    env = counting.registered(fault=fault, at=(6, 1, 1))
    with world(env, 3, mode) as made:
        with pytest.raises(error, match=message) as caught:
            run(made, 9)
        assert {NOTES, "at step 3 of EnvironmentWorld"} <= set(caught.value.__notes__)
        if fault == "raise":
            assert (caught.value.where, caught.value.t) == ("arm", 1)


def test_errors_that_cannot_be_pickled_and_processes_that_die_are_reported() -> None:
    with world(counting.registered(fault="no pickle", at=(6, 1, 1)), 3, "async") as made:
        with pytest.raises(RuntimeError, match="NoPickle: a lock inside") as caught:
            run(made, 9)
        assert NOTES in caught.value.__notes__
    with (
        world(counting.registered(fault="die", at=(6, 1, 1)), 3, "async") as made,
        pytest.raises(RuntimeError, match=r"the process of environment 1 \(exit code 3\) of 3 died"),
    ):
        run(made, 9)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [("nan state", "a state"), ("inf reward", "a reward"), ("first nan", "a first state")],
)
def test_numbers_that_are_not_finite_are_refused_before_they_are_seen(mode: str, fault: str, message: str) -> None:
    with world(counting.registered(fault=fault, at=(6, 1, 1)), 3, mode) as made:
        made.reset(5)
        step = 2 if fault == "first nan" else 3
        for _ in range(step):
            made.step(np.zeros(3, np.int64))
        before = made.states
        with pytest.raises(
            cai.errors.NonFinite, match=f"environment 1 gave {message} that is not finite at step {step}"
        ):
            made.step(np.zeros(3, np.int64))
        assert made.states is before


def test_large_finite_numbers_pass() -> None:
    env = gymnasium.wrappers.TransformObservation(counting.registered(), lambda state: state + 1e200, counting.SPACE)
    with world(env, 2, "sync") as made:
        assert (run(made, 3)[0].states >= 1e200).all()


class Wandering(gymnasium.Env):
    """Discrete states that leave their space."""

    observation_space = spaces.Discrete(3, start=1)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.state = 1
        return self.state, {}

    def step(self, action: Any) -> Any:
        assert type(action) is int
        self.state += 1
        return self.state, 0.0, False, False, {}


def test_discrete_states_outside_the_space_are_refused() -> None:
    with world(Wandering(), 2, "sync") as made:
        made.reset(0)
        assert made.states.dtype == np.int64
        made.step(np.array([0, 1]))
        assert made.step(np.array([0, 1])).next_states.tolist() == [3, 3]
        with pytest.raises(ValueError, match=r"gave the state 4, outside Discrete\(3, start=1\)"):
            made.step(np.array([0, 1]))


class Joints(gymnasium.Env):
    """Several discrete actions at once, which the state repeats."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3], start=[0, 5])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        action += 0  # its own copy: the world's must not change
        state = action.astype(np.float32)
        action[:] = 99
        return state, 0.0, False, False, {}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_actions_of_several_components(mode: str) -> None:
    with world(Joints(), 2, mode) as made:
        made.reset(0)
        given = np.array([[1, 5], [0, 7]])
        step = made.step(given)
        np.testing.assert_array_equal(step.next_states, given)
        np.testing.assert_array_equal(step.actions, [[1, 5], [0, 7]])
        with pytest.raises(ValueError, match=r"row 1 is \[0, 8\], outside MultiDiscrete"):
            made.step(np.array([[1, 5], [0, 8]]))


def test_actions_of_boxes_are_checked() -> None:
    env = counting.registered(num_actions=None)
    with world(env, 2, "sync") as made:
        made.reset(0)
        step = made.step(np.array([[1.0 + 1e-7, 0.0], [-1.0, 1.0]]))
        assert step.actions.dtype == np.float32
        assert (np.abs(step.actions) <= 1).all()
        with pytest.raises(ValueError, match=r"row 1 is \[-1.5, 0.0\], outside"):
            made.step(np.array([[1.0, 0.0], [-1.5, 0.0]], np.float32))
        with pytest.raises(cai.errors.NonFinite, match="row 0 is NaN"):
            made.step(np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32))
        with pytest.raises(ValueError, match=r"actions: expected \[2, 2\], got \[2\]"):
            made.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("name", ["one", "in processes", "as one"])
def test_a_reward_of_the_graph_replaces_that_of_the_environment(name: str) -> None:
    num, mode, make = MODES[name]

    def reward(state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return 2 * next_state[:, 2] + 10 * state[:, 2] + 1000 * action

    with world(make(), num, mode, reward=reward) as made:
        steps = run(made, 12)
        episodes = made.episodes()
    for step in steps:
        expected = 2 * step.next_states[:, 2] + 10 * step.states[:, 2] + 1000 * step.actions
        np.testing.assert_array_equal(step.rewards, np.where(step.valid, expected, 0.0))
    assert sum(e.total_reward for e in episodes) <= sum(step.rewards.sum() for step in steps)
    assert {e.length for e in episodes} <= {1, 2, 3, 4}


def test_a_reward_of_states_and_actions_and_one_that_is_broken() -> None:
    env = counting.registered(num_actions=None)
    learned = cai.factors.FunctionReward(lambda state, action: state[:, 2] - action.sum(-1))
    with world(env, 3, "sync", reward=learned) as made:
        for step in run(made, 5):
            np.testing.assert_allclose(step.rewards, step.states[:, 2] - step.actions.sum(-1), rtol=1e-6)
    with (
        world(env, 3, "sync", reward=lambda state, action: state) as made,
        pytest.raises(
            ValueError, match=r"EnvironmentWorld: reward must give one value for each of 3 states, got \[3, 4"
        ),
    ):
        run(made, 1)
    with (
        world(env, 3, "sync", reward=lambda state, action: state[:, 0].log() * 0 / 0) as made,
        pytest.raises(cai.errors.NonFinite, match="environment 0 gave a reward that is not finite at step 0"),
    ):
        run(made, 1)


def test_what_makes_no_world_is_refused() -> None:
    env = counting.registered()
    for number in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match=r"num_envs: expected a whole number of at least 1, got"):
            world(env, number).__enter__()
    with pytest.raises(ValueError, match=r"vectorization_mode: expected one of .*'sync', 'async'.* got 'threads'"):
        world(env, 2, "threads").__enter__()
    with pytest.raises(ValueError, match="initial: an environment starts where it will, not from Delta"):
        world(env, 1, initial=cai.factors.Delta(torch.zeros(4))).__enter__()
    with pytest.raises(ValueError, match="reward: it is another environment's"):
        world(env, 1, reward=cai.factors.Environment(counting.registered())).__enter__()
    with pytest.raises(ValueError, match="FunctionReward changes with time"):
        timed = cai.factors.FunctionReward(lambda state, action, t: state[..., 0], time_varying=True)
        world(env, 1, reward=timed).__enter__()
    composite = gymnasium.wrappers.TransformObservation(
        counting.registered(), lambda state: {"state": state}, spaces.Dict({"state": counting.SPACE})
    )
    with pytest.raises(ValueError, match=r"states: expected .* gymnasium.wrappers.FlattenObservation"):
        world(composite, 1).__enter__()


def test_a_world_is_reset_first_and_remembers_nothing() -> None:
    with world(counting.registered(), 2, "sync") as made:
        with pytest.raises(ValueError, match="EnvironmentWorld: reset it before its first step"):
            made.step(np.zeros(2, np.int64))
        made.reset(0)
        assert made.memory() is None
        with pytest.raises(ValueError, match="cannot be put back"):
            made.remember({})


class Slow(counting.Counting):
    """An environment whose second episode takes its time."""

    def step(self, action: Any) -> Any:
        if self.episode:
            time.sleep(30)
        return super().step(action)


def test_an_interrupted_run_of_processes_closes_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), world(Slow(), 2, "async") as made:  # noqa: PT012
        made.reset(0)
        for process in made._backend._vector.processes:  # what a terminal sends to all
            os.kill(process.pid, signal.SIGINT)
        run(made, 3)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        made.step(np.zeros(2, np.int64))
    assert time.perf_counter() - started < 10
