"""Edits of an unrolled trajectory: waypoints, goals, memories, two agents, observations.

Oracle: every trajectory of a tiny graph (`tests/oracles.py`), reweighed by what the edit says; for observations, the
forward-backward algorithm in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of

WORLDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "terminal": {"num_terminal": 1, "terminal_reward": True},
    "per step, forbidden": {"per_step": ("dynamics", "reward", "prior"), "density": 0.6, "num_states": 4},
    "discount": {"discount": 0.7},
}
worlds = pytest.mark.parametrize("options", WORLDS.values(), ids=WORLDS)


def log_of(table: Any) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(table, float))


def reweighed(
    problem: oracles.Problem, log_potential: Callable[[oracles.Path], float]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, state marginals and state-action marginals when each path gets a potential more."""
    found = oracles.paths(problem, deaths=problem.discount < 1)
    logs = np.array([path.log_weight(problem.temperature) + log_potential(path) for path in found])
    log_evidence = oracles.log_sum_exp(logs)
    states, pairs = oracles._counts(problem, found, np.exp(logs - log_evidence))
    return log_evidence, states, pairs


def assert_reweighed(
    graph: cai.FactorGraph, problem: oracles.Problem, log_potential: Callable[[oracles.Path], float]
) -> None:
    posterior = cai.infer(graph, cai.SumProduct())
    log_evidence, states, pairs = reweighed(problem, log_potential)
    assert_close(posterior.log_evidence, log_evidence)
    assert_close(posterior.state_marginals, states)
    assert_close(posterior.state_action_marginals, pairs)


def path_of(problem: oracles.Problem, path: oracles.Path) -> list[int]:
    """The states at times 0..T; a dead path is in the state added for it, the last."""
    ended = problem.num_states
    return [ended if (s := path.state_at(t)) is None else s for t in range(problem.horizon + 1)]


# -- waypoints and goals ----------------------------------------------------------------------------------------------


@worlds
@pytest.mark.parametrize("time, state", [(3, 0), (2, 1), (0, 1)])
def test_a_waypoint_is_evidence_on_a_state(options: dict, time: int, state: int) -> None:
    problem = oracles.random_problem(401, **(options | {"horizon": 4}))
    graph = graph_of(problem)
    assert_reweighed(
        graph.unroll().condition({f"s{time}": state}),
        problem,
        lambda path: 0.0 if path.state_at(time) == state else -np.inf,
    )
    before = cai.infer(graph.condition(states={time: state}), cai.SumProduct())
    after = cai.infer(graph.unroll().condition({f"s{time}": state}), cai.SumProduct())
    assert_close(after.log_evidence, numpy_of(before.log_evidence))
    assert_close(after.state_marginals, numpy_of(before.state_marginals))
    assert_close(after.state_action_marginals, numpy_of(before.state_action_marginals))


@pytest.mark.parametrize("options", [WORLDS["plain"], WORLDS["per step, forbidden"]], ids=["plain", "per step"])
def test_evidence_on_an_action_after_unrolling(options: dict) -> None:
    problem = oracles.random_problem(402, **options)
    graph = graph_of(problem)
    before = cai.infer(graph.condition(actions={1: 0}), cai.SumProduct())
    after = cai.infer(graph.unroll().condition({"a1": 0}), cai.SumProduct())
    assert_close(after.log_evidence, numpy_of(before.log_evidence))
    assert_close(after.state_action_marginals, numpy_of(before.state_action_marginals))


@worlds
def test_a_goal_is_a_factor_on_the_last_state(options: dict) -> None:
    problem = oracles.random_problem(403, **options)
    size = problem.num_states + (problem.discount < 1)
    wish = np.random.default_rng(0).normal(size=size)
    graph = graph_of(problem).unroll().add_factors(cai.Factor(("s3",), wish, "goal"))
    assert_reweighed(graph, problem, lambda path: wish[path_of(problem, path)[-1]])
    must = log_of(np.arange(size) == 1)
    certain = graph_of(problem).unroll().add_factors(cai.Factor(("s3",), must, "goal"))
    conditioned = cai.infer(graph_of(problem).unroll().condition({"s3": 1}), cai.SumProduct())
    posterior = cai.infer(certain, cai.SumProduct())
    assert_close(posterior.log_evidence, numpy_of(conditioned.log_evidence))
    assert_close(posterior.state_marginals, numpy_of(conditioned.state_marginals))


def test_a_goal_at_the_end_is_a_terminal_reward() -> None:
    problem = oracles.random_problem(404)
    wish = np.array([0.3, -1.0, 2.0])
    rewarded = cai.infer(graph_of(problem.replace(terminal_reward=wish)), cai.SumProduct())
    graph = graph_of(problem).unroll().add_factors(cai.Factor(("s3",), wish / problem.temperature, "goal"))
    assert_close(cai.infer(graph, cai.SumProduct()).log_evidence, numpy_of(rewarded.log_evidence))


# -- memories ---------------------------------------------------------------------------------------------------------


@worlds
@pytest.mark.parametrize("states", [[1], [0, 2]], ids=str)
def test_visits_remember(options: dict, states: list[int]) -> None:
    """name_t = 1 iff some of s_0..s_t lies in the states: each flag's marginal, and nothing else moves."""
    problem = oracles.random_problem(405, **options)
    graph = graph_of(problem).unroll()
    watched = graph.add_visits("seen", states)
    assert [watched.cardinalities[f"seen{t}"] for t in range(problem.horizon + 1)] == [2] * (problem.horizon + 1)
    assert set(watched.cardinalities) - set(graph.cardinalities) == {f"seen{t}" for t in range(problem.horizon + 1)}
    assert_reweighed(watched, problem, lambda path: 0.0)
    posterior = cai.infer(watched, cai.SumProduct())
    for t in range(problem.horizon + 1):

        def seen(path: oracles.Path, t: int = t) -> float:
            return 0.0 if set(path_of(problem, path)[: t + 1]) & set(states) else -np.inf

        log_seen = reweighed(problem, seen)[0] - reweighed(problem, lambda path: 0.0)[0]
        assert_close(posterior.marginal(f"seen{t}")[1], np.exp(log_seen))


@worlds
def test_never_both_a_and_b(options: dict) -> None:
    problem = oracles.random_problem(406, **(options | {"num_states": 4}))
    forbidden = cai.Factor(("A3", "B3"), log_of([[1, 1], [1, 0]]), "not both")
    graph = graph_of(problem).unroll().add_visits("A", [0]).add_visits("B", [1]).add_factors(forbidden)

    def exclusion(path: oracles.Path) -> float:
        return -np.inf if {0, 1} <= set(path_of(problem, path)) else 0.0

    assert_reweighed(graph, problem, exclusion)
    mode = cai.infer(graph, cai.MaxProduct()).most_probable_assignment
    visited = {mode[f"s{t}"] for t in range(4)}
    assert not {0, 1} <= visited
    assert (mode["A3"], mode["B3"]) == (int(0 in visited), int(1 in visited))
    samples = cai.infer(graph, cai.SumProduct()).sample(300, seed=0)
    visits = np.stack([numpy_of(samples[f"s{t}"]) for t in range(4)])
    assert not ((visits == 0).any(0) & (visits == 1).any(0)).any()


def test_some_visit_is_evidence_on_the_last_flag() -> None:
    problem = oracles.random_problem(407, num_states=4)
    graph = graph_of(problem).unroll().add_visits("A", [0]).add_visits("B", [1])
    assert_reweighed(
        graph.condition({"A3": 1, "B3": 0}),
        problem,
        lambda path: 0.0 if 0 in path_of(problem, path) and 1 not in path_of(problem, path) else -np.inf,
    )


def test_memories_along_other_variables() -> None:
    """Actions are watched as states are; a memory of some times only."""
    problem = oracles.random_problem(408)
    graph = graph_of(problem).unroll().add_visits("used", [1], along=["a0", "a1", "a2"]).condition({"used2": 0})
    assert_reweighed(graph, problem, lambda path: -np.inf if 1 in path.actions else 0.0)
    late = graph_of(problem).unroll().add_visits("late", [2], along=["s2", "s3"]).condition({"late1": 1})
    assert_reweighed(late, problem, lambda path: 0.0 if 2 in path_of(problem, path)[2:] else -np.inf)


def test_memories_that_cannot_be() -> None:
    graph = graph_of(oracles.random_problem(409)).unroll()
    with pytest.raises(ValueError, match="no variable 'z0'"):
        graph.add_visits("A", [0], along=["z0"])
    with pytest.raises(ValueError, match=r"3 is outside 0\.\.2"):
        graph.add_visits("A", [3])
    with pytest.raises(ValueError, match="there is a variable 'A0' already"):
        graph.add_visits("A", [0]).add_visits("A", [1])
    with pytest.raises(ValueError, match="not unrolled"):
        graph.rename(lambda name: "left." + name).add_visits("A", [0])


# -- two agents -------------------------------------------------------------------------------------------------------


def two_agents(problems: tuple[oracles.Problem, oracles.Problem]) -> cai.FactorGraph:
    """Both chains, and for each time a factor that keeps them out of the same state."""
    left, right = (graph_of(problem).unroll() for problem in problems)
    apart = log_of(1.0 - np.eye(problems[0].num_states))
    times = range(problems[0].horizon + 1)
    graph = left.rename(lambda name: "left." + name) | right.rename(lambda name: "right." + name)
    return graph.add_factors(*(cai.Factor((f"left.s{t}", f"right.s{t}"), apart, f"apart {t}") for t in times))


@pytest.mark.parametrize("options", [WORLDS["plain"], WORLDS["terminal"]], ids=["plain", "terminal"])
def test_two_agents_keep_apart(options: dict) -> None:
    problems = tuple(oracles.random_problem(seed, **(options | {"horizon": 2})) for seed in (410, 411))
    found = [oracles.paths(problem) for problem in problems]
    states = [np.array([path_of(p, path) for path in paths]) for p, paths in zip(problems, found, strict=True)]
    logs = [np.array([path.log_weight(p.temperature) for path in ps]) for p, ps in zip(problems, found, strict=True)]
    meet = (states[0][:, None] == states[1][None]).any(-1)
    joint = np.where(meet, -np.inf, logs[0][:, None] + logs[1])
    log_evidence = oracles.log_sum_exp(joint.reshape(-1))
    weights = np.exp(joint - log_evidence)
    posterior = cai.infer(two_agents(problems), cai.SumProduct())
    assert_close(posterior.log_evidence, log_evidence)
    for t in range(3):
        pairs = np.zeros((3, 3))
        np.add.at(pairs, (states[0][:, None, t], states[1][None, :, t]), weights)
        assert_close(posterior.marginal(f"left.s{t}", f"right.s{t}"), pairs)
    start_and_end = np.zeros((3, 3))
    np.add.at(start_and_end, (states[0][:, None, 0], states[1][None, :, 2]), weights)
    assert_close(posterior.marginal("left.s0", "right.s2"), start_and_end)
    assert_close(cai.infer(two_agents(problems), cai.MaxProduct()).log_evidence, joint.max())
    samples = posterior.sample(200, seed=0)
    assert all((samples[f"left.s{t}"] != samples[f"right.s{t}"]).all() for t in range(3))


def test_two_agents_have_no_trajectory_of_their_own() -> None:
    problems = (oracles.random_problem(410, horizon=2), oracles.random_problem(411, horizon=2))
    posterior = cai.infer(two_agents(problems), cai.SumProduct())
    for ask in (
        lambda: posterior.state_marginals,
        lambda: posterior.state_action_marginals,
        lambda: posterior.policy(0),
    ):
        with pytest.raises(cai.Unavailable):
            ask()


def test_a_chain_beside_another_graph_keeps_its_trajectory() -> None:
    problem = oracles.random_problem(412)
    weather = cai.FactorGraph((cai.Variable("rain", 2),), (cai.Factor(("rain",), log_of([0.3, 0.7])),))
    tie = cai.Factor(("rain", "s1"), np.random.default_rng(0).normal(size=(2, 3)), "tie")
    graph = (graph_of(problem).unroll() | weather).add_factors(tie)
    table = log_of(np.array([0.3, 0.7]) @ np.exp(numpy_of(tie.log_table)))
    assert_reweighed(graph, problem, lambda path: table[path.states[1]])
    assert_reweighed(
        (weather | graph_of(problem).unroll()).add_factors(tie), problem, lambda path: table[path.states[1]]
    )


# -- observations -----------------------------------------------------------------------------------------------------


def forward_backward(
    problem: oracles.Problem, emission: np.ndarray, seen: dict[int, int]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, p(s_t | seen), and p(o_t | seen), by scaled messages over the chain with its actions summed out."""
    kernel = np.einsum("sa,saj,saj->sj", problem.mu(), problem.p(), np.exp(problem.r() / problem.temperature))
    times = range(problem.horizon + 1)
    likelihood = [emission[:, seen[t]] if t in seen else np.ones(problem.num_states) for t in times]
    forward, backward, log_scale = [problem.initial * likelihood[0]], [np.ones(problem.num_states)], 0.0
    for t in range(problem.horizon):
        total = forward[-1].sum()
        log_scale += np.log(total)
        forward[-1] = forward[-1] / total
        forward.append((forward[-1] @ kernel) * likelihood[t + 1])
    for t in reversed(range(problem.horizon)):
        message = kernel @ (likelihood[t + 1] * backward[-1])
        backward.append(message / message.sum())
    product = np.stack(forward) * np.stack(backward[::-1])
    states = product / product.sum(-1, keepdims=True)
    return log_scale + float(np.log(forward[-1].sum())), states, states @ emission


@pytest.mark.parametrize("seen", [{t: t % 3 for t in range(9)}, {2: 0, 7: 1}, {}], ids=["all", "some", "none"])
def test_a_partially_observed_chain(seen: dict[int, int]) -> None:
    problem = oracles.random_problem(413, num_states=5, num_actions=2, horizon=8, density=0.7)
    emission = oracles.random_rows(np.random.default_rng(1), (5, 3), 0.7)
    times = range(problem.horizon + 1)
    graph = graph_of(problem).unroll().add_variables(*(cai.Variable(f"o{t}", 3) for t in times))
    graph = graph.add_factors(*(cai.Factor((f"s{t}", f"o{t}"), log_of(emission), f"observation {t}") for t in times))
    log_evidence, states, observations = forward_backward(problem, emission, seen)
    assert np.isfinite(log_evidence)
    posterior = cai.infer(graph.condition({f"o{t}": value for t, value in seen.items()}), cai.SumProduct())
    assert_close(posterior.log_evidence, log_evidence)
    assert_close(posterior.state_marginals, states)
    for t in set(times) - set(seen):
        assert_close(posterior.marginal(f"o{t}"), observations[t])
    assert posterior.policy(0).probs.shape == (2,)


# -- factored states --------------------------------------------------------------------------------------------------


def test_a_factored_state_is_the_flat_one() -> None:
    """Two switches with a chain each, an action that turns one, a reward for both: against the product chain."""
    rng = np.random.default_rng(2)
    turn = oracles.random_rows(rng, (2, 2, 2, 2))  # p_i(x' | x, a), [i, x, a, x']
    reward, horizon = rng.normal(size=(2, 2, 2)), 4  # r(x, y, a)
    start = oracles.random_rows(rng, (2, 2))
    names = [f"{part}{t}" for t in range(horizon + 1) for part in "xy"]
    variables = [cai.Variable(name, 2) for name in (*names, *(f"a{t}" for t in range(horizon)))]
    factors = [cai.Factor(("x0",), log_of(start[0])), cai.Factor(("y0",), log_of(start[1]))]
    for t in range(horizon):
        factors.append(cai.Factor((f"x{t}", f"a{t}", f"x{t + 1}"), log_of(turn[0])))
        factors.append(cai.Factor((f"y{t}", f"a{t}", f"y{t + 1}"), log_of(turn[1])))
        factors.append(cai.Factor((f"x{t}", f"y{t}", f"a{t}"), reward))
    posterior = cai.infer(cai.FactorGraph(tuple(variables), tuple(factors)), cai.SumProduct())
    flat = oracles.Problem(
        initial=np.outer(start[0], start[1]).reshape(-1),
        dynamics=np.einsum("xaz,yaw->xyazw", turn[0], turn[1]).reshape(4, 2, 4),
        reward=reward.reshape(4, 2),
        prior=np.ones((4, 2)),
        horizon=horizon,
        flat=True,
    )
    messages = oracles.backward(flat, "posterior")
    states, pairs = oracles.posterior_marginals(flat, messages)
    assert_close(posterior.log_evidence, messages.log_evidence)
    for t in range(horizon + 1):
        assert_close(numpy_of(posterior.marginal(f"x{t}", f"y{t}")).reshape(-1), states[t])
    for t in range(horizon):
        assert_close(numpy_of(posterior.marginal(f"x{t}", f"y{t}", f"a{t}")).reshape(4, 2), pairs[t])


def test_gradients_reach_an_added_factor() -> None:
    """The slope of the log evidence in a potential is how probable it is that it acts."""
    problem = oracles.random_problem(414)
    wish = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    graph = graph_of(problem).unroll().add_factors(cai.Factor(("s0", "s3"), wish, "wish"))
    posterior = cai.infer(graph, cai.SumProduct())
    (gradient,) = torch.autograd.grad(posterior.log_evidence, wish)
    found = oracles.paths(problem)
    logs = np.array([path.log_weight(problem.temperature) for path in found])
    expected = np.zeros((3, 3))
    for path, weight in zip(found, np.exp(logs - oracles.log_sum_exp(logs)), strict=True):
        expected[path.states[0], path.states[-1]] += weight
    assert_close(gradient, expected)
