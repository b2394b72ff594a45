"""Running policies: what is reproducible, where episodes end, what policies may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.sparse
import torch
from gymnasium import spaces

import cai

F = cai.factors
#: State 0 goes to 1 or to the end, 2; state 1 goes back, or to the end.
P = np.array([[[0.0, 0.5, 0.5]] * 2, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]] * 2])
REWARD = np.array([[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]])


def graph(probs: Any = P, **options: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Categorical([1.0, 0.0, 0.0]),
        "dynamics": F.TabularDynamics(probs, terminal=[False, False, True]),
        "reward": F.TabularReward(REWARD),
        "horizon": 5,
    }
    return cai.TrajectoryGraph(**(parts | options))


def empty_end(probs: np.ndarray) -> np.ndarray:
    probs = probs.copy()
    probs[2] = 0.0
    return probs


TABLES = {
    "dense": P,
    "sparse": scipy.sparse.csr_matrix(P.reshape(6, 3)),
    "dense, empty end": empty_end(P),
    "sparse, empty end": scipy.sparse.csr_matrix(empty_end(P).reshape(6, 3)),
}
tables = pytest.mark.parametrize("probs", TABLES.values(), ids=TABLES)


# -- tables -----------------------------------------------------------------------------------------------------------


@tables
@pytest.mark.parametrize("horizon, length", [(5, None), (5, 2), (None, None), (None, 3)])
def test_episodes_stop_on_entering_the_end(probs: Any, horizon: int | None, length: int | None) -> None:
    drawn = cai.rollout(graph(probs, horizon=horizon), cai.UniformPolicy(), 200, seed=0, length=length)
    limit = length or horizon
    assert drawn.states.shape[1] == drawn.actions.shape[1] + 1 == drawn.rewards.shape[1] + 1
    if limit is not None:
        assert drawn.actions.shape[1] == limit
    last = drawn.states.gather(1, drawn.lengths[:, None])[:, 0]
    assert torch.equal(drawn.terminated, last == 2)
    assert torch.equal(drawn.truncated, ~drawn.terminated)
    assert set(drawn.lengths[drawn.truncated].tolist()) <= {limit}
    assert ((drawn.states == 2) & drawn.state_mask).sum() == drawn.terminated.sum()
    expected = torch.as_tensor(REWARD)[drawn.states[:, :-1], drawn.actions]
    assert torch.equal(drawn.rewards, torch.where(drawn.mask, expected, 0.0))
    assert (drawn.lengths[drawn.terminated] >= 1).all()
    assert len(set(drawn.lengths.tolist())) > 1


def test_steps_have_positive_probability() -> None:
    drawn = cai.rollout(graph(), cai.UniformPolicy(), 300, seed=1)
    steps = torch.as_tensor(P)[drawn.states[:, :-1], drawn.actions, drawn.states[:, 1:]]
    assert (steps[drawn.mask] > 0).all()
    assert drawn.actions[drawn.mask].float().mean() == pytest.approx(0.5, abs=0.1)


def test_episodes_that_start_at_their_end() -> None:
    for horizon in (None, 3):
        drawn = cai.rollout(graph(initial=F.Delta(2), horizon=horizon), cai.UniformPolicy(), 4, seed=0)
        assert drawn.lengths.tolist() == [0] * 4
        assert drawn.terminated.all()
        assert drawn.returns().tolist() == [0.0] * 4


def test_tables_and_policies_of_each_step() -> None:
    swap = np.eye(2)[[1, 0]][:, None, :].repeat(2, 1)
    world = cai.TrajectoryGraph(
        F.Delta(0),
        F.TabularDynamics.per_step([swap, np.eye(2)[:, None, :].repeat(2, 1), swap]),
        F.TabularReward.per_step([[[0.0, 1.0]] * 2, [[0.0, 10.0]] * 2, [[0.0, 100.0]] * 2]),
        horizon=3,
    )
    policy = F.TabularPolicy.per_step(np.eye(2)[[1, 0, 1]][:, None, :].repeat(2, 1))
    drawn = cai.rollout(world, policy, 2, seed=0)
    assert drawn.states.tolist() == [[0, 1, 1, 0]] * 2
    assert drawn.rewards.tolist() == [[1.0, 0.0, 100.0]] * 2
    with pytest.raises(ValueError, match="length"):
        cai.rollout(world, cai.UniformPolicy(), 2, length=4)


def test_discount_does_not_end_a_rollout() -> None:
    endless = graph(horizon=None, discount=0.1, dynamics=F.TabularDynamics(P))
    drawn = cai.rollout(endless, cai.UniformPolicy(), 3, seed=0, length=20)
    assert drawn.lengths.tolist() == [20] * 3
    assert not drawn.terminated.any()
    with pytest.raises(ValueError, match="no state is terminal; give length="):
        cai.rollout(endless, cai.UniformPolicy(), 3)


def test_an_episode_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.simulate.chains.LONGEST_EPISODE", 50)
    policy = F.TabularPolicy([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    trap = P.copy()
    trap[0] = [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="has not ended after 50 steps; give length="):
        cai.rollout(graph(trap, horizon=None), policy, 1, seed=0)


# -- environments -----------------------------------------------------------------------------------------------------


class Counter(gymnasium.Env):
    """Counts to `end`; the start is the seed, modulo 3."""

    observation_space = spaces.Discrete(100)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, end: int | None = 6, cut: int | None = None) -> None:
        self.end, self.cut, self.taken = end, cut, []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.state, self.steps = (seed or 0) % 3, 0
        return self.state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.state, self.steps = self.state + 1, self.steps + 1
        return self.state, float(self.state), self.state == self.end, self.steps == self.cut, {}


def test_environment_episodes_end_where_the_environment_says() -> None:
    drawn = cai.rollout(Counter(), cai.UniformPolicy(), 4, seed=3)
    assert drawn.lengths.tolist() == [6, 5, 4, 6]
    assert drawn.terminated.all()
    assert not drawn.truncated.any()
    assert drawn.states[1, :6].tolist() == [1, 2, 3, 4, 5, 6]
    assert drawn.returns().tolist() == [21.0, 20.0, 18.0, 21.0]


@pytest.mark.parametrize("options, length", [({"cut": 2}, None), ({}, 2), ({"end": None, "cut": 2}, 9)])
def test_environment_episodes_that_are_cut_off(options: dict, length: int | None) -> None:
    drawn = cai.rollout(Counter(**options), cai.UniformPolicy(), 3, seed=0, length=length)
    assert drawn.lengths.tolist() == [2, 2, 2]
    assert not drawn.terminated.any()
    assert drawn.truncated.all()


def test_terminated_and_cut_off_at_once_is_terminated() -> None:
    drawn = cai.rollout(Counter(end=3, cut=3), cai.UniformPolicy(), 1, seed=0)
    assert drawn.terminated.tolist() == [True]


def test_environment_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.simulate.episodes.LONGEST_EPISODE", 50)
    with pytest.raises(ValueError, match="has not ended after 50 steps"):
        cai.rollout(Counter(end=None), cai.UniformPolicy(), 1, seed=0)


def test_graph_of_an_environment() -> None:
    live = cai.from_gym(Counter(), horizon=4)
    drawn = cai.rollout(live, cai.UniformPolicy(), 2, seed=0)
    assert drawn.lengths.tolist() == [4, 4]
    assert cai.rollout(live, cai.UniformPolicy(), 2, seed=0, length=1).lengths.tolist() == [1, 1]


def test_box_actions() -> None:
    drawn = cai.rollout("Pendulum-v1", cai.UniformPolicy(), 3, seed=0, length=7)
    assert drawn.states.shape == (3, 8, 3)
    assert drawn.actions.shape == (3, 7, 1)
    assert (drawn.actions.abs() <= 2).all()
    assert drawn.rewards.is_floating_point()
    assert drawn.truncated.all()


def test_the_environments_own_time_limit() -> None:
    assert cai.rollout("Pendulum-v1", cai.UniformPolicy(), 1, seed=0).lengths.tolist() == [200]


def test_posterior_in_its_environment() -> None:
    solved = cai.infer(cai.from_gym("FrozenLake-v1", is_slippery=False, temperature=1e-3), cai.SoftValueIteration())
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    drawn = cai.rollout(env, solved, 5, seed=0)
    assert drawn.lengths.min() >= 6
    assert drawn.returns().tolist() == [1.0] * 5
    env.close()


# -- seeds ------------------------------------------------------------------------------------------------------------

WORLDS: dict[str, Callable[[], Any]] = {
    "tables": graph,
    "sparse": lambda: graph(TABLES["sparse"]),
    "environment": lambda: "CartPole-v1",
    "box": lambda: cai.from_gym("Pendulum-v1", horizon=5),
}
worlds = pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)


@worlds
def test_same_seed_same_episodes(make: Callable[[], Any]) -> None:
    first, second, other = (cai.rollout(make(), cai.UniformPolicy(), 20, seed=seed) for seed in (1, np.int64(1), 2))
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.rewards, second.rewards)
    assert first.states.shape != other.states.shape or not torch.equal(first.states, other.states)


@worlds
@pytest.mark.parametrize("seed", [0, None])
def test_global_generators_are_left_alone(make: Callable[[], Any], seed: int | None) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    cai.rollout(make(), cai.UniformPolicy(), 3, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_no_seed_is_fresh_entropy() -> None:
    torch.manual_seed(0)
    first = cai.rollout(graph(), cai.UniformPolicy(), 100)
    torch.manual_seed(0)
    assert not torch.equal(first.states, cai.rollout(graph(), cai.UniformPolicy(), 100).states)


def test_generator_is_put_back_after_an_error() -> None:
    before = torch.get_rng_state()

    def broken(state: Any, t: int) -> Any:
        raise RuntimeError("broken policy")

    with pytest.raises(RuntimeError, match="broken policy"):
        cai.rollout(graph(), broken, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


# -- policies ---------------------------------------------------------------------------------------------------------

POLICIES: dict[str, Any] = {
    "tensor": lambda state, t: torch.ones_like(torch.as_tensor(state)),
    "number": lambda state, t: 1,
    "numpy": lambda state, t: np.ones(np.shape(state), dtype=np.int64),
    "categorical": lambda state, t: torch.distributions.Categorical(
        probs=torch.tensor([0.0, 1.0]).expand(*np.shape(state), 2)
    ),
    "bernoulli": lambda state, t: torch.distributions.Bernoulli(torch.ones(np.shape(state))),
    "table": F.TabularPolicy(np.tile([0.0, 1.0], (100, 1))),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("world", ["tables", "environment"])
def test_policies_of_every_kind(policy: Any, world: str) -> None:
    if world == "tables" and isinstance(policy, F.TabularPolicy):
        policy = F.TabularPolicy(policy.probs[:3])
    drawn = cai.rollout(graph() if world == "tables" else Counter(), policy, 4, seed=0)
    assert drawn.actions.dtype == torch.int64 or world == "environment"
    assert (drawn.actions[drawn.mask] == 1).all()


def test_policies_see_state_and_time() -> None:
    seen: list[tuple[Any, int]] = []

    def policy(state: Any, t: int) -> int:
        seen.append((state, t))
        return 0

    cai.rollout(Counter(end=None), policy, 2, seed=0, length=2)
    assert seen == [(0, 0), (1, 1), (1, 0), (2, 1)]
    seen.clear()
    cai.rollout(graph(), policy, 30, seed=0, length=2)
    assert [(len(state), t) for state, t in seen] == [(30, 0), (30, 1)]


def test_policies_with_bind_are_bound_first() -> None:
    class Bound:
        def bind(self, world: Any) -> Callable[[Any, int], int]:
            return lambda state, t: world.action_space.n - 1

    assert (cai.rollout(graph(), Bound(), 3, seed=0, length=1).actions == 1).all()
    assert (cai.rollout(Counter(), Bound(), 3, seed=0, length=1).actions == 1).all()


@pytest.mark.parametrize(
    "action, message",
    [
        (lambda s, t: torch.full_like(s, 2), "action 2 is outside 0..1"),
        (lambda s, t: torch.full_like(s, -1), "action -1 is outside 0..1"),
        (lambda s, t: torch.full(s.shape, 0.7), "action must be whole numbers, got 0.69"),
        (lambda s, t: torch.zeros(len(s) + 1), "action"),
        (lambda s, t: torch.zeros(len(s), 2), "action"),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_actions_that_do_not_exist(action: Any, message: str, kind: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.rollout(graph(TABLES[kind]), action, 3, seed=0)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no episodes": (lambda: cai.rollout(graph(), cai.UniformPolicy(), 0), "num_episodes must be .* got 0"),
    "half an episode": (lambda: cai.rollout(graph(), cai.UniformPolicy(), 2.5), "num_episodes .* 2.5"),
    "length": (lambda: cai.rollout(graph(), cai.UniformPolicy(), 1, length=-1), "length .* -1"),
    "length of an environment": (lambda: cai.rollout(Counter(), cai.UniformPolicy(), 1, length=0), "length .* 0"),
    "no policy": (lambda: cai.rollout(graph(), None, 1), "must be callable as policy.state, t., got NoneType"),
    "no world": (lambda: cai.rollout(None, lambda s, t: 0, 1), "NoneType"),
    "factor graph": (lambda: cai.rollout(cai.FactorGraph(), lambda s, t: 0, 1), "FactorGraph"),
    "no dynamics": (lambda: cai.rollout(graph(dynamics=None), lambda s, t: 0, 1), "NoneType"),
    "unknown id": (lambda: cai.rollout("Nope-v1", lambda s, t: 0, 1), "Nope-v1"),
    "reward to fit": (
        lambda: cai.rollout(graph(reward=F.LinearReward(np.eye(3))), cai.UniformPolicy(), 1),
        "weights are not set",
    ),
}


@pytest.mark.parametrize("ask, message", WRONG.values(), ids=WRONG)
def test_what_cannot_be_run(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()
