"""Copies of tables and of callable dynamics: frequencies, moments, ends, and going on bit for bit."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.sparse
import torch
from gymnasium import spaces

import cai
from cai.simulate.worlds import AbstractWorld, Episode, Step, world_of

F = cai.factors
NUM_STATES, NUM_ACTIONS = 6, 3
TERMINAL = np.array([False, False, True, False, False, True])


def tables(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(s'|s,a) with zeros, r(s,a,s') and p(s_0), which gives something to a terminal state."""
    rng = np.random.default_rng(seed)
    probs = rng.random((NUM_STATES, NUM_ACTIONS, NUM_STATES)) * (
        rng.random((NUM_STATES, NUM_ACTIONS, NUM_STATES)) > 0.4
    )
    probs[..., 0] += 0.1
    rewards = rng.normal(size=probs.shape)
    initial = np.array([0.0, 0.3, 0.3, 0.1, 0.3, 0.0])
    return probs / probs.sum(-1, keepdims=True), rewards, initial


def tabular(seed: int = 0, *, sparse: bool = False, **options: Any) -> cai.TrajectoryGraph:
    probs, rewards, initial = tables(seed)
    if sparse:
        flat = scipy.sparse.csr_matrix(probs.reshape(-1, NUM_STATES))
        dynamics = F.TabularDynamics(flat, terminal=TERMINAL)
        reward = F.TabularReward(scipy.sparse.csr_matrix(rewards.reshape(-1, NUM_STATES)))
    else:
        dynamics, reward = F.TabularDynamics(probs, terminal=TERMINAL), F.TabularReward(rewards)
    parts = {"initial": F.Categorical(initial), "dynamics": dynamics, "reward": reward, "discount": 0.9}
    return cai.TrajectoryGraph(**(parts | options))


def run(made: AbstractWorld, num_steps: int, seed: int = 0) -> list[Step]:
    rng = np.random.default_rng(seed)
    if isinstance(made.action_space, spaces.Discrete):
        actions = rng.integers(0, made.action_space.n, (num_steps, made.num_envs))
    else:
        actions = rng.normal(size=(num_steps, made.num_envs, *made.action_space.shape))
    return [made.step(action) for action in actions]


def joined(steps: list[Step], name: str) -> np.ndarray:
    return np.stack([getattr(step, name) for step in steps])


def assert_frequencies(counts: np.ndarray, probs: np.ndarray) -> None:
    """Counts `[..., n]` are those of draws from rows of probabilities, within 5 standard errors."""
    total = counts.sum(-1, keepdims=True)
    assert (counts[(probs == 0) & (total > 0)] == 0).all()
    error = np.abs(counts - total * probs)
    assert (error <= 5 * np.sqrt(total * probs * (1 - probs)) + 1e-9).all()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_transitions_have_the_frequencies_of_the_tables(sparse: bool) -> None:
    probs, rewards, initial = tables(1)
    made = world_of(tabular(1, sparse=sparse), 200)
    torch.manual_seed(0)
    made.reset()
    steps = run(made, 400)
    states, actions, following = (joined(steps, name) for name in ("states", "actions", "next_states"))
    assert states.dtype == following.dtype == np.int64
    assert not TERMINAL[states].any()
    counts = np.zeros(probs.shape)
    np.add.at(counts, (states, actions, following), 1)
    assert (counts[~TERMINAL].sum(-1) > 1000).all()
    assert_frequencies(counts, probs)
    np.testing.assert_allclose(joined(steps, "rewards"), rewards[states, actions, following], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(joined(steps, "terminated"), TERMINAL[following])
    assert not joined(steps, "truncated").any()
    assert joined(steps, "valid").all()
    ended, after = joined(steps, "terminated")[:-1], states[1:]
    np.testing.assert_array_equal(after[~ended], following[:-1][~ended])
    alive = np.where(TERMINAL, 0.0, initial)
    assert_frequencies(np.bincount(after[ended], minlength=NUM_STATES), alive / alive.sum())
    lengths = [episode.length for episode in made.episodes()]
    assert len(lengths) == joined(steps, "terminated").sum()


@pytest.mark.parametrize("horizon", [1, 4])
def test_the_horizon_truncates(horizon: int) -> None:
    made = world_of(tabular(2, horizon=horizon), 50)
    made.reset()
    ages = np.zeros(50, dtype=int)
    totals, expected = np.zeros(50), []
    for step in run(made, 40):
        ages += 1
        totals += step.rewards
        np.testing.assert_array_equal(step.terminated, TERMINAL[step.next_states])
        np.testing.assert_array_equal(step.truncated, (ages == horizon) & ~step.terminated)
        expected += [Episode(total, age) for total, age in zip(totals[step.done], ages[step.done], strict=True)]
        ages[step.done], totals[step.done] = 0, 0.0
    assert [(e.length, pytest.approx(e.total_reward)) for e in expected] == [
        (e.length, e.total_reward) for e in made.episodes()
    ]


def test_discounting_and_prior_are_not_the_worlds_business() -> None:
    prior = F.TabularPolicy(np.eye(NUM_ACTIONS)[np.zeros(NUM_STATES, dtype=int)])
    made = world_of(tabular(3, discount=0.1, action_prior=prior), 20)
    torch.manual_seed(0)
    made.reset()
    one = run(made, 20)
    other = world_of(tabular(3), 20)
    torch.manual_seed(0)
    other.reset()
    np.testing.assert_array_equal(joined(one, "next_states"), joined(run(other, 20), "next_states"))


def linear(**options: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Gaussian([1.0, -1.0], [[0.5, 0.1], [0.1, 0.2]]),
        "dynamics": F.LinearGaussianDynamics([[0.9, 0.2], [0.0, 0.8]], [[0.0], [0.5]], [[0.3, 0.1], [0.1, 0.2]]),
        "reward": F.QuadraticReward(torch.eye(2), torch.eye(1)),
        "discount": 0.9,
    }
    return cai.TrajectoryGraph(**(parts | options))


def test_moments_of_linear_dynamics() -> None:
    num = 20_000
    made = world_of(linear(), num)
    torch.manual_seed(0)
    made.reset()
    action = np.full((num, 1), 2.0)
    step = made.step(action)
    mean, cov = np.array([1.0, -1.0]), np.array([[0.5, 0.1], [0.1, 0.2]])
    A, B = np.array([[0.9, 0.2], [0.0, 0.8]]), np.array([0.0, 0.5])
    moments = {
        "states": (mean, cov),
        "next_states": (A @ mean + 2 * B, A @ cov @ A.T + [[0.3, 0.1], [0.1, 0.2]]),
    }
    for name, (expected, spread) in moments.items():
        values = getattr(step, name)
        variance = np.diag(spread)
        assert (np.abs(values.mean(0) - expected) < 5 * np.sqrt(variance / num)).all()
        error = np.sqrt((np.outer(variance, variance) + spread**2) / num)  # of a covariance of normals
        assert (np.abs(np.cov(values.T) - spread) < 5 * error).all()
    assert not step.done.any()
    expected = -0.5 * (step.states**2).sum(-1) - 0.5 * (action**2).sum(-1)
    np.testing.assert_allclose(step.rewards, expected, rtol=1e-12)
    np.testing.assert_array_equal(made.states, step.next_states)


class Walk:
    """s' = s + a, which ends beyond 3.5; states of one number, float32."""

    def __call__(self, state: torch.Tensor, action: torch.Tensor) -> torch.distributions.Distribution:
        assert state.dtype == action.dtype == torch.float32
        assert not torch.is_grad_enabled()
        return torch.distributions.Independent(torch.distributions.Normal(state + action, 1e-6), 1)

    def terminal(self, state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor) -> torch.Tensor:
        return next_state[:, 0] > 3.5


def walk(**options: Any) -> cai.TrajectoryGraph:
    start = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1e-6), 1)
    parts = {
        "initial": start,
        "dynamics": Walk(),
        "reward": lambda state, action, next_state: 10 * state[:, 0] + next_state[:, 0],
        "action_space": spaces.Box(-1.0, 1.0, (1,), np.float64),
    }
    return cai.TrajectoryGraph(**(parts | options))


@pytest.mark.parametrize("horizon", [None, 4, 2])
def test_callables_end_where_they_say(horizon: int | None) -> None:
    made = world_of(walk(horizon=horizon), 2)
    made.reset()
    states = []
    for k in range(9):
        step = made.step(np.array([[1.0], [0.25]]))
        age = k % (horizon or 4)
        np.testing.assert_allclose(step.states[0], age, atol=1e-4)
        np.testing.assert_allclose(step.next_states[0], age + 1, atol=1e-4)
        np.testing.assert_allclose(step.rewards[0], 10 * age + age + 1, atol=1e-3)
        assert step.terminated[0] == (step.next_states[0, 0] > 3.5)
        assert step.truncated[0] == (not step.terminated[0] and age + 1 == horizon)
        states.append(step.states.dtype)
    assert set(states) == {np.dtype("float32")}
    first = made.episodes()[0]
    assert first.length == (horizon or 4)


@pytest.mark.parametrize("make", [tabular, linear, walk], ids=["tabular", "linear", "walk"])
def test_a_memory_goes_on_bit_for_bit(make: Any) -> None:
    graph = make(horizon=7)
    made = world_of(graph, 5)
    torch.manual_seed(0)
    made.reset()
    act = (
        (lambda w, n: run(w, n, 1)) if make is not walk else (lambda w, n: [w.step(np.ones((5, 1))) for _ in range(n)])
    )
    act(made, 10)
    memory, state = made.memory(), torch.get_rng_state()
    assert all(isinstance(value, int | torch.Tensor) for value in memory.values())
    expected, episodes = act(made, 20), made.episodes()
    other = world_of(graph, 5)
    other.remember(memory)
    torch.set_rng_state(state)
    found = act(other, 20)
    for name in ("states", "actions", "rewards", "next_states", "terminated", "truncated"):
        np.testing.assert_array_equal(joined(found, name), joined(expected, name))
    assert other.episodes() == episodes
    assert len(episodes) >= 5
    with pytest.raises(ValueError, match=r"the memory has states \[5.*, not \[4"):
        world_of(graph, 4).remember(memory)


def test_frozen_lakes_pay_as_gymnasium_does() -> None:
    """Mean return of a policy that always goes right, against gymnasium's own environment."""
    made = world_of(cai.from_gym("FrozenLake-v1"), 100)
    torch.manual_seed(0)
    made.reset()
    for _ in range(300):
        made.step(np.full(100, 2))
    ours = np.array([(e.total_reward, e.length) for e in made.episodes()])
    env = gymnasium.make("FrozenLake-v1").unwrapped
    theirs = []
    for k in range(1000):
        env.reset(seed=k)
        total, length, over = 0.0, 0, False
        while not over:
            _, reward, over, _, _ = env.step(2)
            total, length = total + reward, length + 1
        theirs.append((total, length))
    theirs = np.array(theirs)
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert len(ours) > 1000
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()


def test_what_makes_no_world_is_refused() -> None:
    per_step = F.TabularDynamics.per_step(np.stack([tables(0)[0]] * 4), terminal=TERMINAL)
    cases: list[tuple[cai.TrajectoryGraph, str]] = [
        (tabular(dynamics=per_step, horizon=4), "dynamics: TabularDynamics changes with time"),
        (
            tabular(reward=F.TabularReward.per_step(np.zeros((4, 6, 3))), horizon=4),
            "reward: TabularReward changes with",
        ),
        (tabular(horizon=4).condition(states={2: 1}), "know nothing of the graph's evidence"),
        (tabular(initial=F.Categorical(TERMINAL / 2)), "every state that the initial factor gives is terminal"),
        (tabular().replace(dynamics=None), "cannot sample NoneType"),
        (walk(action_space=None), "action_space: the graph's factors do not tell it"),
        (linear(observation=F.LinearGaussianObservation(torch.eye(2), torch.eye(2))), "hidden behind its observation"),
    ]
    for graph, message in cases:
        with pytest.raises(ValueError, match=message):
            world_of(graph, 3)
    with pytest.raises(ValueError, match="num_envs: expected a whole number of at least 1, got 0"):
        world_of(tabular(), 0)


def test_what_a_callable_may_not_give() -> None:
    action = np.ones((3, 1))
    cases: list[tuple[cai.TrajectoryGraph, Any, str]] = [
        (
            walk(dynamics=lambda s, a: s + a),
            ValueError,
            "CallableWorld: dynamics must return a distribution, got Tensor",
        ),
        (
            walk(dynamics=lambda s, a: torch.distributions.Normal(s[:, 0], 1.0)),
            ValueError,
            r"CallableWorld: dynamics gave next states \[3\] for states \[3, 1\]",
        ),
        (walk(reward=lambda s, a: s), ValueError, r"CallableWorld: reward must give one value for each of 3 states"),
        (
            walk(reward=lambda s, a: torch.tensor([0.0, 1.0, torch.nan])),
            cai.errors.NonFinite,
            "CallableWorld: copy 2 gave a reward that is not finite at step 1",
        ),
    ]
    for graph, error, message in cases:
        made = world_of(graph, 3)
        made.reset()
        if "step 1" in message:
            made.reset()
            made._num_steps = 1
        with pytest.raises(error, match=message):
            made.step(action)
    made = world_of(walk(), 3)
    with pytest.raises(ValueError, match="reset it before its first step"):
        made.step(action)
