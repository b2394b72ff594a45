"""Graphs of gymnasium environments: exact tables, or the reason why not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation, TransformReward

import cai
from cai.factors import Environment
from tests.laws.gym_tables import problem_of_env


def rewards_of(graph: cai.TrajectoryGraph) -> np.ndarray:
    num_states, num_actions = graph.dynamics.num_states, graph.dynamics.num_actions
    grid = np.ogrid[:num_states, :num_actions, :num_states]
    return graph.reward(*map(torch.as_tensor, grid)).numpy()


# -- the worlds of gymnasium ------------------------------------------------------------------------------------------

WORLDS = {
    "4x4": ("FrozenLake-v1", {}),
    "8x8": ("FrozenLake-v1", {"map_name": "8x8"}),
    "solid": ("FrozenLake-v1", {"is_slippery": False}),
    "custom": ("FrozenLake-v1", {"desc": ["SFH", "FFF", "HFG"]}),
    "success rate": ("FrozenLake-v1", {"success_rate": 0.7}),
    "rewards": ("FrozenLake-v1", {"reward_schedule": (5, -2, -1)}),
    "cliff": ("CliffWalking-v1", {}),
    "taxi": ("Taxi-v4", {}),
    "rain": ("Taxi-v4", {"is_rainy": True}),
}


@pytest.mark.parametrize("env_id, options", WORLDS.values(), ids=WORLDS)
def test_published_tables(env_id: str, options: dict) -> None:
    graph, problem = cai.from_gym(env_id, **options), problem_of_env(env_id, options=options)
    terminal = graph.dynamics.terminal_mask.numpy()
    alive = ~terminal
    np.testing.assert_allclose(graph.dynamics.dense()[alive], problem.dynamics[alive], atol=1e-15)
    np.testing.assert_allclose(graph.initial.probs, problem.initial, atol=1e-12)
    paid = (problem.dynamics > 0) & alive[:, None, None]
    np.testing.assert_allclose(rewards_of(graph)[paid], problem.reward[paid], atol=1e-12)
    if "taxi" not in env_id.lower():
        np.testing.assert_array_equal(terminal, problem.terminal)


@pytest.mark.parametrize("options", [{}, {"map_name": "8x8"}, {"desc": ["SFH", "FFF", "HFG"]}])
def test_frozen_lake_ends_in_holes_and_at_the_goal(options: dict) -> None:
    graph = cai.from_gym("FrozenLake-v1", **options)
    labels = np.array(graph.state_space.labels)
    np.testing.assert_array_equal(graph.dynamics.terminal_mask, np.isin(labels, ["H", "G"]))
    assert graph.initial.probs.argmax() == int(np.flatnonzero(labels == "S")[0])
    assert isinstance(graph.state_space, cai.GridSpace)
    assert graph.state_space.moves == ((0, -1), (1, 0), (0, 1), (-1, 0))


def test_frozen_lake_that_is_not_slippery_is_deterministic() -> None:
    graph = cai.from_gym("FrozenLake-v1", is_slippery=False)
    moves = graph.state_space.moves
    for action, (row, column) in enumerate(moves):
        expected = np.clip([1 + row, 0 + column], 0, 3) @ [4, 1]  # from the cell (1, 0)
        assert int(graph.dynamics(4, action).probs.argmax()) == expected
        assert float(graph.dynamics(4, action).probs.max()) == 1.0


def test_cliff_walking() -> None:
    graph = cai.from_gym("CliffWalking-v1", horizon=20)
    assert graph.dynamics.terminal_mask.nonzero().flatten().tolist() == [47]
    assert graph.initial.probs.argmax() == 36
    assert float(graph.reward(36, 1, 36)) == -100.0  # over the cliff and back to the start
    assert graph.state_space.labels[36:38] == ("S", "C")
    assert graph.state_space.to_grid(torch.arange(48)).shape == (4, 12)


def test_slippery_cliff_pays_two_rewards_for_one_transition() -> None:
    """At the start, slipping back and falling off lead to the same cell, for -1 and for -100."""
    graph = cai.from_gym("CliffWalkingSlippery-v1", horizon=20)
    with pytest.raises(cai.IncompatibleMethod, match=r"state 36, action \d to state 36\) pays different rewards"):
        cai.infer(graph, cai.SoftValueIteration())
    graph.dynamics.env.close()


def test_taxi_ends_with_the_passenger_at_the_destination() -> None:
    """Four states; they are also entered without an end, from states that cannot be reached only."""
    graph = cai.from_gym("Taxi-v4")
    env = gymnasium.make("Taxi-v4").unwrapped
    ends = graph.dynamics.terminal_mask.nonzero().flatten().tolist()
    places = [tuple(env.decode(s)) for s in ends]
    assert [(row, column) for row, column, _, _ in places] == [env.locs[index] for _, _, _, index in places]
    assert all(passenger == destination for _, _, passenger, destination in places)
    assert graph.dynamics.num_states == 500
    assert graph.dynamics.probs.layout == torch.sparse_csr
    assert int((graph.initial.probs > 0).sum()) == 300
    posterior = cai.infer(graph.replace(discount=0.99, temperature=1e-3), cai.SoftValueIteration())
    start = int(env.encode(0, 1, 4, 0))  # the passenger aboard, the destination one step to the west
    assert float(posterior.v(start)) == pytest.approx(-1 + 0.99 * 20, abs=0.05)


def test_settings_are_the_graphs() -> None:
    graph = cai.from_gym("FrozenLake-v1", horizon=7, discount=0.5, temperature=0.1)
    assert (graph.horizon, graph.discount, graph.temperature) == (7, 0.5, 0.1)
    assert cai.from_gym("FrozenLake-v1").horizon is None


def test_an_environment_already_made_stays_open() -> None:
    env = gymnasium.make("FrozenLake-v1", max_episode_steps=3)
    assert cai.from_gym(env).dynamics.num_states == 16
    env.reset(seed=0)
    env.step(0)
    env.close()


# -- worlds of the user -----------------------------------------------------------------------------------------------

END = {0: [(1.0, 2, 0.0, True)], 1: [(1.0, 2, 0.0, True)]}
TABLE: dict[int, Any] = {
    0: {0: [(1.0, 1, 0.0, False)], 1: [(0.5, 2, 1.0, True), (0.5, 0, 0.0, False)]},
    1: {0: [(1.0, 2, 3.0, True)], 1: [(1.0, 0, 0.0, False)]},
    2: END,
}


class Custom(gymnasium.Env):
    """A user's environment with the same attribute as gymnasium's own."""

    observation_space: spaces.Space = spaces.Discrete(3)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, table: Any = TABLE, initial: Any = None, starts: tuple[int, ...] = (0,)) -> None:
        self.P, self.starts = table, starts
        if initial is not None:
            self.initial_state_distrib = initial

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        return int(self.np_random.choice(self.starts)), {}


def with_entry(state: int, action: int, outcomes: Any) -> dict[int, Any]:
    table = copy.deepcopy(TABLE)
    table[state][action] = outcomes
    return table


def test_custom_environment() -> None:
    graph = cai.from_gym(Custom(initial=[0.0, 1.0, 0.0]))
    assert graph.initial.probs.tolist() == [0.0, 1.0, 0.0]
    assert graph.dynamics.terminal_mask.tolist() == [False, False, True]
    assert graph.dynamics(0, 1).probs.tolist() == [0.5, 0.0, 0.5]
    assert float(graph.reward(0, 1, 2)) == 1.0
    assert type(graph.state_space) is spaces.Discrete


def test_custom_environment_as_lists() -> None:
    table = [[TABLE[s][a] for a in range(2)] for s in range(3)]
    assert torch.equal(cai.from_gym(Custom(table)).dynamics.dense(), cai.from_gym(Custom()).dynamics.dense())


def test_unpublished_start_is_found_or_estimated() -> None:
    assert cai.from_gym(Custom()).initial.probs.tolist() == [1.0, 0.0, 0.0]
    with pytest.warns(cai.EstimatedInitial, match="estimated from 1000 resets"):
        graph = cai.from_gym(Custom(starts=(0, 1)))
    assert float(graph.initial.probs[0]) == pytest.approx(0.5, abs=5 * 0.5 / 1000**0.5)
    assert graph.initial.probs[2] == 0.0


def test_state_entered_both_ways_has_a_twin() -> None:
    """State 1 ends the episode half of the time; going on from it stays possible."""
    table = with_entry(0, 0, [(0.5, 1, 4.0, True), (0.5, 1, 0.0, False)])
    graph = cai.from_gym(Custom(table, initial=[1.0, 0.0, 0.0]))
    assert graph.dynamics.num_states == 4
    assert graph.dynamics.terminal_mask.tolist() == [False, False, True, True]
    assert graph.dynamics(0, 0).probs.tolist() == [0.0, 0.5, 0.0, 0.5]
    assert (float(graph.reward(0, 0, 3)), float(graph.reward(0, 0, 1))) == (4.0, 0.0)
    assert graph.initial.probs.tolist() == [1.0, 0.0, 0.0, 0.0]
    posterior = cai.infer(graph.replace(temperature=0.0, horizon=5), cai.SoftValueIteration())
    assert posterior.v([0, 1, 2, 3]).tolist() == pytest.approx([0.5 * 4 + 0.5 * 3, 3.5, 0, 0], abs=0.6)
    assert float(posterior.v(1, t=4)) == 3.0


def test_a_start_that_is_also_an_end_has_a_twin() -> None:
    graph = cai.from_gym(Custom(with_entry(1, 0, [(1.0, 0, 5.0, True)]), initial=[1.0, 0.0, 0.0]))
    assert graph.dynamics.num_states == 4
    assert graph.dynamics(1, 0).probs.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert graph.dynamics.terminal_mask.tolist() == [False, False, True, True]


def test_an_end_entered_from_unreachable_states_otherwise_has_no_twin() -> None:
    table = with_entry(1, 1, [(1.0, 2, 0.0, False)])
    table[0][0] = [(1.0, 0, 0.0, False)]  # nothing leads to state 1
    graph = cai.from_gym(Custom(table, initial=[1.0, 0.0, 0.0]))
    assert graph.dynamics.num_states == 3
    assert graph.dynamics.terminal_mask.tolist() == [False, False, True]


@pytest.mark.parametrize("outcomes", [[], [(0.5, 2, 0.0, True), (0.5, 2, 1.0, True)]], ids=["empty", "two rewards"])
def test_rows_of_ends_are_never_read(outcomes: list) -> None:
    graph = cai.from_gym(Custom(with_entry(2, 0, outcomes)))
    assert not isinstance(graph.dynamics, Environment)
    assert torch.isfinite(cai.infer(graph, cai.SoftPolicyIteration()).log_evidence)
    assert (cai.rollout(graph, cai.UniformPolicy(), 50, seed=0).states[:, -1] == 2).all()


def test_two_rewards_for_one_transition_leave_the_environment() -> None:
    graph = cai.from_gym(Custom(with_entry(0, 0, [(0.5, 1, 0.0, False), (0.5, 1, 1.0, False)])))
    assert isinstance(graph.dynamics, Environment)
    message = r"\(state 0, action 0 to state 1\) pays different rewards at random"
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(graph, cai.SumProduct())


def test_the_same_outcome_twice_adds_up() -> None:
    graph = cai.from_gym(Custom(with_entry(0, 0, [(0.5, 1, 2.0, False), (0.5, 1, 2.0, False)])))
    assert float(graph.dynamics(0, 0).probs[1]) == 1.0
    assert float(graph.reward(0, 0, 1)) == 2.0


MALFORMED = {
    "sum": (with_entry(0, 0, [(0.5, 1, 0.0, False)]), r"state 0, action 0\) sums to 0.5, not 1"),
    "negative": (with_entry(0, 0, [(-0.5, 1, 0.0, False), (1.5, 0, 0.0, False)]), "negative probability -0.5"),
    "probability nan": (with_entry(0, 0, [(np.nan, 1, 0.0, False)]), "nan"),
    "reward nan": (with_entry(0, 0, [(1.0, 1, np.nan, False)]), "nan"),
    "reward inf": (with_entry(0, 0, [(1.0, 1, np.inf, False)]), "inf"),
    "too short": (with_entry(0, 0, [(1.0, 1, 0.0)]), r"P\[0\]\[0\] must be a list of \(probability, next state"),
    "no such state": (with_entry(1, 1, [(1.0, 99, 0.0, False)]), "99"),
    "no such end": (with_entry(1, 1, [(1.0, 99, 0.0, True)]), "99"),
    "below zero": (with_entry(1, 1, [(1.0, -1, 0.0, True)]), "-1"),
    "fraction": (with_entry(1, 1, [(1.0, 1.7, 0.0, False)]), r"P\[1\]\[1\]"),
    "missing state": ({0: TABLE[0], 1: TABLE[1]}, "KeyError: 2"),
    "missing action": ({**TABLE, 1: {0: TABLE[1][0]}}, "KeyError: 1"),
    "none": (None, "TypeError"),
    "dense array": (np.ones((3, 2, 3)), "TypeError"),
}


@pytest.mark.parametrize("table, message", MALFORMED.values(), ids=MALFORMED)
def test_malformed_tables(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.from_gym(Custom(table, initial=[1.0, 0.0, 0.0]))


@pytest.mark.parametrize("initial", [[1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [np.nan, 0.0, 0.0]], ids=str)
def test_malformed_start(initial: list[float]) -> None:
    with pytest.raises(ValueError, match="initial|Categorical"):
        cai.from_gym(Custom(initial=initial))


# -- environments that stay environments ------------------------------------------------------------------------------

LIVE: dict[str, tuple[Callable[[], gymnasium.Env], str]] = {
    "no tables": (lambda: gymnasium.make("Pendulum-v1"), "publishes no tables"),
    "reward changed": (lambda: TransformReward(gymnasium.make("FrozenLake-v1"), abs), "wrapper TransformReward may"),
    "below another": (
        lambda: gymnasium.wrappers.TimeLimit(TransformReward(gymnasium.make("FrozenLake-v1"), abs), 5),
        "wrapper TransformReward may",
    ),
    "states changed": (
        lambda: TransformObservation(gymnasium.make("CliffWalking-v1"), lambda s: s, spaces.Discrete(48)),
        "wrapper TransformObservation may",
    ),
    "fickle": (lambda: gymnasium.make("Taxi-v4", fickle_passenger=True), "fickle_passenger"),
}


@pytest.mark.parametrize("make, reason", LIVE.values(), ids=LIVE)
def test_environments_that_can_only_be_stepped(make: Callable[[], gymnasium.Env], reason: str) -> None:
    env = make()
    graph = cai.from_gym(env, discount=0.9)
    assert isinstance(graph.dynamics, Environment)
    assert graph.dynamics is graph.reward is graph.initial
    assert graph.dynamics.env is env
    assert (graph.state_space, graph.action_space) == (env.observation_space, env.action_space)
    for method in (cai.SumProduct(), cai.SoftValueIteration(), cai.SoftPolicyIteration()):
        with pytest.raises(cai.IncompatibleMethod, match=f"can only be stepped: .*{reason}"):
            cai.infer(graph, method)
    env.close()


def test_spaces_that_do_not_start_at_zero_are_refused_as_tables() -> None:
    class FromOne(Custom):
        observation_space = spaces.Discrete(3, start=1)

    assert "start at 0" in cai.from_gym(FromOne()).dynamics.why_not_tables


# -- what is no environment -------------------------------------------------------------------------------------------

WRONG = {
    "unknown": (lambda: cai.from_gym("Nope-v0"), "cannot make the environment 'Nope-v0': .* doesn't exist"),
    "unknown option": (lambda: cai.from_gym("FrozenLake-v1", temprature=1), "unexpected keyword argument 'temprature'"),
    "malformed id": (lambda: cai.from_gym("not an id!"), "cannot make the environment 'not an id!'"),
    "unknown map": (
        lambda: cai.from_gym("FrozenLake-v1", map_name="9x9"),
        "cannot make the environment 'FrozenLake-v1': .*9x9",
    ),
    "none": (lambda: cai.from_gym(None), "expected a gymnasium.Env or an id, got NoneType"),
    "class": (lambda: cai.from_gym(Custom), "expected a gymnasium.Env or an id, got type"),
    "option of a made one": (lambda: cai.from_gym(Custom(), is_slippery=True), "'is_slippery' is an option for an id"),
    "horizon": (lambda: cai.from_gym("FrozenLake-v1", horizon=-1), "horizon: expected"),
}


@pytest.mark.parametrize("ask, message", WRONG.values(), ids=WRONG)
def test_what_is_no_environment(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


def test_vector_environments_are_refused() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match="got CartPoleVectorEnv"):
        cai.from_gym(envs)
    envs.close()
