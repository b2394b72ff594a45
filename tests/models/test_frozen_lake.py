"""Our own tables of the frozen lake against gymnasium's, and the success rates of its best policies."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close

LAKES = [
    {},
    {"map_name": "8x8"},
    {"is_slippery": False},
    {"success_rate": 0.8},
    {"success_rate": 1.0, "map_name": "8x8"},
    {"desc": ["SFH", "GFS"], "reward_schedule": (3, -2, -0.5)},
    {"desc": ["SFGF"], "is_slippery": False},
]
SUCCESS = {
    ("4x4", 100): 0.7441902878292697,
    ("4x4", 200): 0.8167335046802775,
    ("8x8", 100): 0.6407192702708887,
    ("8x8", 200): 0.9132201502016296,
}
DISCOUNTED = {"4x4": 0.5420259320004713, "8x8": 0.4146403617999857}


def published(map_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Gymnasium's tables as p(s' | s, a) and r(s, a), nothing out of a state that ends the episode."""
    table = gymnasium.make("FrozenLake-v1", map_name=map_name).unwrapped.P
    probs, rewards = np.zeros((len(table), 4, len(table))), np.zeros((len(table), 4))
    for s, a in np.ndindex(rewards.shape):
        for prob, target, reward, _ in table[s][a]:
            going_on = (target, True) not in [(x[1], x[3]) for x in table[s][a] if s == target]
            probs[s, a, target] += prob * going_on
            rewards[s, a] += prob * reward
    return probs, rewards


@pytest.mark.parametrize("options", LAKES)
def test_tables_are_those_of_gymnasium(options: dict) -> None:
    ours = cai.load_model("frozen_lake", **options)
    theirs = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.1, **options)
    num_states = theirs.state_space.n
    inner = ~theirs.dynamics.terminal_mask
    assert ours.state_space.n == num_states
    assert_close(ours.dynamics.dense()[inner], theirs.dynamics.dense()[inner], 1e-15)
    assert torch.equal(ours.dynamics.terminal_mask, theirs.dynamics.terminal_mask)
    assert_close(ours.initial.probs, theirs.initial.probs)
    s, a, j = (theirs.dynamics.dense() * inner[:, None, None] > 0).nonzero(as_tuple=True)
    assert_close(ours.reward(s, a, j), theirs.reward(s, a, j))
    assert (ours.horizon, ours.discount, ours.temperature) == (theirs.horizon, theirs.discount, theirs.temperature)
    for name in ("num_rows", "num_columns", "cells", "moves", "labels"):
        assert getattr(ours.state_space, name) == getattr(theirs.state_space, name)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct()], ids=["fixed", "posterior"])
def test_answers_are_those_of_gymnasiums_tables(method: cai.AbstractMethod) -> None:
    ours, theirs = cai.load_model("frozen_lake"), cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.1)
    one, other = cai.infer(ours, method), cai.infer(theirs, method)
    assert_close(one.log_evidence, other.log_evidence)
    assert_close(one.state_marginals, other.state_marginals)


@pytest.mark.parametrize("map_name", ["4x4", "8x8"])
def test_best_success_rates(map_name: str) -> None:
    probs, rewards = published(map_name)
    value = np.zeros(len(probs))
    for horizon in range(1, 201):
        value = (rewards + probs @ value).max(1)
        if (map_name, horizon) not in SUCCESS:
            continue
        graph = cai.load_model("frozen_lake", map_name=map_name, horizon=horizon, temperature=0.0)
        hard = cai.infer(graph, cai.SoftValueIteration())
        assert_close(hard.v(torch.arange(len(probs)), t=0), value)
        assert_close(value[0], SUCCESS[map_name, horizon], 1e-14)
        assert_close(hard.expected_return, SUCCESS[map_name, horizon])


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
@pytest.mark.parametrize("map_name", ["4x4", "8x8"])
def test_best_discounted_values(map_name: str, method: cai.AbstractMethod) -> None:
    probs, rewards = published(map_name)
    value = np.zeros(len(probs))
    for _ in range(3000):
        value = (rewards + 0.99 * probs @ value).max(1)
    graph = cai.load_model("frozen_lake", map_name=map_name, horizon=None, discount=0.99, temperature=0.0)
    hard = cai.infer(graph, method)
    assert_close(hard.v(torch.arange(len(probs))), value)
    assert_close(hard.v(0), DISCOUNTED[map_name])


@pytest.mark.parametrize(("map_name", "best"), [("4x4", 14 / 17), ("8x8", 1.0)])
def test_best_success_rate_without_end(map_name: str, best: float) -> None:
    graph = cai.load_model("frozen_lake", map_name=map_name, horizon=None, temperature=0.0)
    hard = cai.infer(graph, cai.SoftValueIteration())
    assert_close(hard.v(0), best, 1e-7)


def test_conditioning_on_success_does_not_feel_the_ice() -> None:
    exact = [cai.infer(cai.load_model("frozen_lake", **options), cai.SumProduct()) for options in LAKES[:4:2]]
    assert_close(exact[0].log_evidence, exact[1].log_evidence)
    assert_close(exact[0].state_marginals, exact[1].state_marginals)
    soft = [cai.infer(cai.load_model("frozen_lake", **options), cai.SoftValueIteration()) for options in LAKES[:4:2]]
    assert soft[0].log_evidence < soft[1].log_evidence - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_name": "5x5"}, r"one of \['4x4', '8x8'\], got '5x5'"),
        ({"success_rate": 1.5}, "success_rate is a probability"),
        ({"success_rate": float("nan")}, "success_rate is a probability"),
        ({"reward_schedule": (1.0, 0.0)}, "three finite numbers"),
        ({"reward_schedule": (1.0, 0.0, float("nan"))}, "three finite numbers"),
        ({"desc": []}, "rows of one length"),
        ({"desc": ["SF", "G"]}, r"lengths \[2, 1\]"),
        ({"desc": ["SF", "xG"]}, r"'x' at \(1, 0\)"),
        ({"desc": ["FF", "FG"]}, "no start"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("frozen_lake", **options)
