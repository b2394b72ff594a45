"""Undiscounted infinite horizons without exits: gain, relative values, stationary distributions.

Oracles: bordered dense systems in long doubles, Perron pairs in mpmath, long finite horizons, all deterministic
policies, finite differences. Laws: d gain / d r = p(s, a); rewards shifted, scaled and shaped; states relabelled; the
posterior's gain minus that of fixed dynamics = temperature times the rate of KL between the two chains.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests import oracles, recurrent_oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of
from tests.recurrent_oracles import Gained

READINGS: dict[str, tuple[cai.AbstractMethod, Callable[[oracles.Problem], Gained]]] = {
    "fixed": (cai.SoftValueIteration(), recurrent_oracles.solve_fixed),
    "posterior": (cai.SumProduct(), recurrent_oracles.solve_posterior),
}
METHODS = {
    "value iteration": (cai.SoftValueIteration(solver=cai.methods.ValueIteration()), recurrent_oracles.solve_fixed),
    "Newton": (cai.SoftValueIteration(solver=cai.methods.Newton()), recurrent_oracles.solve_fixed),
    "SoftPolicyIteration": (cai.SoftPolicyIteration(), recurrent_oracles.solve_fixed),
    "SumProduct": READINGS["posterior"],
}
methods = pytest.mark.parametrize("method, solve", METHODS.values(), ids=METHODS)
readings = pytest.mark.parametrize("method, solve", READINGS.values(), ids=READINGS)

CASES = {
    "plain": {},
    "reward s": {"reward": "s"},
    "reward sa": {"reward": "sa"},
    "flat prior": {"prior": "flat", "reward": "sa"},
    "action sets": {"prior": "flat-available", "num_actions": 4},
    "zeros": {"prior": "restricted", "density": 0.5},
    "cold": {"temperature": 0.02},
    "hot": {"temperature": 100.0},
    "one action": {"num_actions": 1},
    "one state": {"num_states": 1},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def endless(seed: int, **options: object) -> oracles.Problem:
    return oracles.random_problem(seed, **({"num_states": 6, "num_actions": 3, "horizon": None} | options))


def assert_answers(posterior: cai.Posterior, expected: Gained, tolerance: float = 1e-9) -> None:
    tables = tables_of(posterior)
    assert_close(posterior.gain, expected.gain, tolerance)
    for name in ("v", "q"):
        assert_close(getattr(tables, name), getattr(expected, name), tolerance * max(1, np.abs(expected.v).max()))
    assert_close(tables.policy, expected.policy, tolerance / min(1.0, posterior.graph.temperature or 1.0))
    assert_close(posterior.state_marginals, expected.marginals, 1e-8)
    assert_close(posterior.state_action_marginals, expected.pairs, 1e-8)


# -- answers ----------------------------------------------------------------------------------------------------------


@cases
@methods
def test_gain_and_relative_values(options: dict, method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(301, **options)
    posterior = cai.infer(graph_of(problem), method)
    assert_answers(posterior, solve(problem))
    assert posterior.stats.converged
    assert_close(posterior.state_marginals.sum(), 1.0)
    assert_close(posterior.state_marginals @ posterior.v(torch.arange(problem.num_states)), 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_all_sorts_of_worlds(seed: int) -> None:
    """Reducible, periodic, cold and hot at random: right where the answer exists, refused where it does not."""
    rng = np.random.default_rng(seed)
    answered = 0
    for _ in range(15):
        problem = endless(
            int(rng.integers(1 << 30)),
            num_states=int(rng.integers(2, 6)),
            num_actions=int(rng.integers(1, 4)),
            density=float(rng.uniform(0.05, 1)),
            prior=str(rng.choice(["uniform", "flat", "tabular", "restricted"])),
            temperature=float(10 ** rng.uniform(-1.5, 1.5)),
            deterministic=bool(rng.random() < 0.3),
        )
        edges = recurrent_oracles.support(problem)
        unichain = recurrent_oracles.num_closed_classes(edges) == 1
        for name, (method, solve) in METHODS.items():
            exists = unichain
            if name == "SumProduct":
                exists = recurrent_oracles.is_irreducible(edges) and recurrent_oracles.period_of(edges) == 1
            try:
                posterior = cai.infer(graph_of(problem), method)
            except cai.IncompatibleMethod as refusal:
                assert not exists or ("depends on the state" in str(refusal) and not growth_is_even(problem))
                continue
            assert exists
            assert_answers(posterior, solve(problem))
            answered += 1
    assert answered > 25


def growth_is_even(problem: oracles.Problem) -> bool:
    """Whether long horizons earn the same a step from every state."""
    v = [np.zeros(problem.num_states)]
    for _ in range(4000):
        v.append(oracles.soft_bellman(problem, v[-1])[1])
    return bool(np.ptp(v[4000] - v[2000]) < 1e-3 * 2000)


@readings
def test_long_horizons_grow_by_the_gain(method: cai.AbstractMethod, solve: Callable) -> None:
    """V_T - T gain - V tends to a constant, and the policy at the start to the stationary one."""
    problem = endless(302, density=0.6)
    forever = cai.infer(graph_of(problem), method)
    long, longer = (cai.infer(graph_of(problem.replace(horizon=T)), method) for T in (150, 151))
    states = torch.arange(6)
    rest = long.v(states, t=0) - 150 * forever.gain - forever.v(states)
    assert_close(rest - rest.mean(), 0.0, 1e-9)
    assert_close(problem.temperature * (longer.log_evidence - long.log_evidence), forever.gain)
    assert_close(long.policy(states, t=0).probs, forever.policy(states).probs)
    assert_close(long.state_marginals[75], forever.state_marginals)
    assert_close(long.state_action_marginals[75], forever.state_action_marginals)


@pytest.mark.parametrize("temperature", [None, 0.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"prior": "restricted", "density": 0.4}, {"prior": "flat"}])
def test_policy_evaluation_is_gain_and_bias(options: dict, temperature: float | None) -> None:
    problem = endless(303, **options)
    policy = oracles.random_policy(problem, 304)
    posterior = cai.infer(graph_of(problem), cai.PolicyEvaluation(policy_of(policy), temperature=temperature))
    expected = recurrent_oracles.evaluate(problem, policy, temperature)
    assert_answers(posterior, expected)
    chain, rewards = oracles.policy_matrices(problem, policy)
    if temperature == 0.0:  # the bias is what is earned beyond the gain, in the sum over all time
        excess, power = np.zeros(6), np.eye(6)
        for _ in range(3000):
            excess, power = excess + power @ (rewards - expected.gain), power @ chain
        assert_close(posterior.v(torch.arange(6)), excess, 1e-8)


def test_the_soft_optimal_policy_is_the_best() -> None:
    problem = endless(305)
    soft = cai.infer(graph_of(problem), cai.SoftValueIteration())
    again = cai.infer(graph_of(problem), cai.PolicyEvaluation(soft))
    assert_close(again.gain, soft.gain)
    assert_close(tables_of(again).v, tables_of(soft).v)
    for seed in range(20):
        other = cai.infer(graph_of(problem), cai.PolicyEvaluation(policy_of(oracles.random_policy(problem, seed))))
        assert other.gain < soft.gain


@pytest.mark.parametrize("solver", ["value iteration", "Newton"])
def test_temperature_zero_is_the_best_deterministic_policy(solver: str) -> None:
    """Against all deterministic policies; the gain may depend on the state, and is then refused."""
    rng = np.random.default_rng(306)
    method = METHODS[solver][0]
    refused = 0
    for _ in range(60):
        problem = endless(
            int(rng.integers(1 << 30)),
            num_states=int(rng.integers(2, 5)),
            num_actions=2,
            temperature=0.0,
            density=float(rng.uniform(0.05, 1)),
            deterministic=bool(rng.random() < 0.5),
        )
        if recurrent_oracles.num_closed_classes(recurrent_oracles.support(problem)) > 1:
            continue
        gains = recurrent_oracles.solve_hard(problem)
        try:
            posterior = cai.infer(graph_of(problem), method)
        except cai.IncompatibleMethod:
            assert np.ptp(gains) > 1e-6
            refused += 1
            continue
        assert_close(posterior.gain, gains, 1e-8)
        assert_close((posterior.state_action_marginals * problem_rewards(problem)).sum(), gains[0], 1e-8)
        assert posterior.stats.certified_error == np.inf
    assert 0 < refused < 20


def problem_rewards(problem: oracles.Problem) -> torch.Tensor:
    return torch.as_tensor((problem.p() * problem.r()).sum(-1))


def test_low_temperatures_tend_to_the_hard_answer() -> None:
    problem = endless(307, temperature=0.0)
    hard = cai.infer(graph_of(problem), cai.SoftValueIteration())
    for temperature in (1e-2, 1e-3, 1e-4):
        soft = cai.infer(graph_of(problem.replace(temperature=temperature)), cai.SoftValueIteration())
        least = problem.prior[problem.prior > 0].min()
        assert hard.gain + temperature * np.log(least) - 1e-9 <= soft.gain <= hard.gain + 1e-9


# -- laws -------------------------------------------------------------------------------------------------------------


@cases
@readings
def test_the_derivative_of_the_gain_is_the_marginal(options: dict, method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(311, **(options | {"reward": "sa"}))
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), method)
    (gradient,) = torch.autograd.grad(posterior.gain, values)
    assert_close(gradient, posterior.state_action_marginals)
    assert_close(gradient, solve(problem).pairs, 1e-8)


def test_the_derivative_of_the_gain_at_temperature_zero() -> None:
    problem = endless(310, reward="sa", temperature=0.0)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), cai.SoftValueIteration())
    (gradient,) = torch.autograd.grad(posterior.gain, values)
    assert_close(gradient, posterior.state_action_marginals)
    assert (numpy_of(posterior.policy(torch.arange(6)).probs).max(-1) == 1).all()


@readings
def test_the_derivative_by_a_reward_of_transitions(method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(312, density=0.7)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), method)
    (gradient,) = torch.autograd.grad(posterior.gain, values)
    expected = solve(problem)
    assert_close(gradient, expected.pairs[:, :, None] * expected.arrival, 1e-8)


@readings
@pytest.mark.parametrize("num_states", [4, 20])
def test_gap_of_the_gains_is_a_rate_of_kl(method: cai.AbstractMethod, solve: Callable, num_states: int) -> None:
    """(gain of the posterior - gain of a policy) / alpha = sum_s d(s) KL(pi p || the posterior's), d of the policy."""
    problem = endless(313, num_states=num_states, density=0.5)
    exact = cai.infer(graph_of(problem), cai.SumProduct())
    tilted = recurrent_oracles.solve_posterior(problem) if num_states == 4 else None
    policies = [oracles.random_policy(problem, 314), tables_of(cai.infer(graph_of(problem), method)).policy]
    for policy in policies:
        evaluated = cai.infer(graph_of(problem), cai.PolicyEvaluation(policy_of(policy)))
        chain = recurrent_oracles.evaluate(problem, policy)
        tables = tables_of(exact)
        weights = problem.p() * np.exp((problem.r() + tables.v) / problem.temperature)
        arrival = weights / weights.sum(-1, keepdims=True)
        if tilted is not None:
            assert_close(arrival, tilted.arrival, 1e-8)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.log(policy / tables.policy)[:, :, None] + np.log(problem.p() / arrival)
        joint = chain.pairs[:, :, None] * problem.p()
        rate = np.where(joint > 0, joint * np.where(joint > 0, ratios, 0.0), 0.0).sum()
        assert_close((exact.gain - evaluated.gain) / problem.temperature, rate, 1e-8)


@readings
def test_rewards_shifted_scaled_and_shaped(method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(315, density=0.7)
    before = cai.infer(graph_of(problem), method)
    shifted = cai.infer(graph_of(problem.replace(reward=problem.reward + 3.0)), method)
    assert_close(shifted.gain, before.gain + 3.0)
    assert_close(tables_of(shifted).v, tables_of(before).v)
    scaled = problem.replace(reward=5.0 * problem.reward, temperature=5.0 * problem.temperature)
    larger = cai.infer(graph_of(scaled), method)
    assert_close(larger.gain, 5.0 * before.gain)
    assert_close(tables_of(larger).v, 5.0 * tables_of(before).v)
    potential = np.random.default_rng(0).normal(size=6)
    shaped = problem.replace(reward=problem.reward + potential - potential[:, None, None])
    moved = cai.infer(graph_of(shaped), method)
    assert_close(moved.gain, before.gain)
    assert_close(tables_of(moved).policy, tables_of(before).policy)
    expected = tables_of(before).v - potential + numpy_of(before.state_marginals) @ potential
    assert_close(tables_of(moved).v, expected)


@readings
def test_states_relabelled(method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(316, density=0.5)
    order = np.random.default_rng(1).permutation(6)
    renamed = problem.replace(
        initial=problem.initial[order],
        dynamics=problem.dynamics[order][:, :, order],
        reward=problem.reward[order][:, :, order],
        prior=problem.prior[order],
    )
    before, after = (cai.infer(graph_of(one), method) for one in (problem, renamed))
    assert_close(after.gain, before.gain)
    assert_close(tables_of(after).v, tables_of(before).v[order])
    assert_close(after.state_marginals, before.state_marginals[order])


@readings
def test_sparse_is_dense(method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(317, num_states=9, density=0.3)
    table = scipy.sparse.csr_matrix(problem.dynamics.reshape(-1, 9))
    dense = cai.infer(graph_of(problem), method)
    sparse = cai.infer(graph_of(problem, dynamics=cai.factors.TabularDynamics(table)), method)
    assert_close(sparse.gain, dense.gain)
    assert_close(tables_of(sparse).v, tables_of(dense).v)
    assert_close(sparse.state_action_marginals, dense.state_action_marginals)


@readings
def test_one_precision(method: cai.AbstractMethod, solve: Callable) -> None:
    problem = endless(318, reward="sa")
    single = {
        "initial": cai.factors.Categorical(probs=problem.initial, dtype=torch.float32),
        "dynamics": cai.factors.TabularDynamics(problem.dynamics, dtype=torch.float32),
        "reward": cai.factors.TabularReward(problem.reward, dtype=torch.float32),
    }
    posterior = cai.infer(graph_of(problem, **single), method)
    assert posterior.gain.dtype == posterior.state_marginals.dtype == torch.float32
    assert_close(posterior.gain, solve(problem).gain, 1e-5)
    assert_close(tables_of(posterior).v, solve(problem).v, 1e-5)


# -- gradients --------------------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


PARAMETERS = {
    "reward": (
        lambda problem: problem.reward,
        lambda problem, x: problem.replace(reward=x),
        lambda x: {"reward": cai.factors.TabularReward(x)},
    ),
    "dynamics": (
        lambda problem: np.log(problem.dynamics),
        lambda problem, x: problem.replace(dynamics=softmax(x)),
        lambda x: {"dynamics": cai.factors.TabularDynamics(torch.softmax(x, -1))},
    ),
    "prior": (
        lambda problem: np.log(problem.prior),
        lambda problem, x: problem.replace(prior=softmax(x)),
        lambda x: {"action_prior": cai.factors.TabularPolicy(torch.softmax(x, -1))},
    ),
    "temperature": (
        lambda problem: np.array(problem.temperature),
        lambda problem, x: problem.replace(temperature=float(x)),
        lambda x: {"temperature": x},
    ),
}
WEIGHTS = np.random.default_rng(2).normal(size=(4, 4))


def numbers_of(gained: Gained) -> np.ndarray:
    """Gain, values, q and marginals, mixed: one number each."""
    q = WEIGHTS[2] @ gained.q @ [1.0, -0.5]
    return np.array([gained.gain, WEIGHTS[0] @ gained.v, q, WEIGHTS[1] @ gained.marginals])


@pytest.mark.parametrize("name", PARAMETERS)
@readings
def test_gradients_against_finite_differences(method: cai.AbstractMethod, solve: Callable, name: str) -> None:
    problem = endless(321, num_states=4, num_actions=2, reward="sa")
    start, replaced, factors = PARAMETERS[name]
    x = np.array(start(problem), dtype=float)
    parameter = torch.tensor(x, requires_grad=True)
    posterior = cai.infer(graph_of(problem, **factors(parameter)), method)
    states, actions = torch.arange(4), torch.arange(2)
    weights = torch.as_tensor(WEIGHTS)
    outputs = [
        posterior.gain,
        weights[0] @ posterior.v(states),
        weights[2] @ posterior.q(states[:, None], actions) @ torch.tensor([1.0, -0.5], dtype=torch.float64),
        weights[1] @ posterior.state_marginals,
    ]
    gradients = [torch.autograd.grad(output, parameter, retain_graph=True)[0].numpy() for output in outputs]
    expected = np.zeros((4, *x.shape))
    for index in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[index] += 1e-5
        back[index] -= 1e-5
        difference = numbers_of(solve(replaced(problem, there))) - numbers_of(solve(replaced(problem, back)))
        expected[(slice(None), *index)] = difference / 2e-5
    assert_close(np.array(gradients), expected, 1e-7)


def test_gradients_of_a_given_policy() -> None:
    problem = endless(322, num_states=4, num_actions=2)
    logits = torch.tensor(np.log(oracles.random_policy(problem, 323)), requires_grad=True)
    posterior = cai.infer(graph_of(problem), cai.PolicyEvaluation(cai.factors.TabularPolicy(torch.softmax(logits, -1))))
    (gradient,) = torch.autograd.grad(posterior.gain, logits)
    x, expected = logits.detach().numpy(), np.zeros((4, 2))
    for index in np.ndindex(4, 2):
        there, back = x.copy(), x.copy()
        there[index] += 1e-5
        back[index] -= 1e-5
        gains = [recurrent_oracles.evaluate(problem, softmax(y)).gain for y in (there, back)]
        expected[index] = (gains[0] - gains[1]) / 2e-5
    assert_close(gradient, expected, 1e-8)


# -- existence --------------------------------------------------------------------------------------------------------


def world(probs: np.ndarray, rewards: list[float], **options: object) -> cai.TrajectoryGraph:
    """Of probabilities `[S, A, S]` and rewards of states."""
    initial = cai.factors.Categorical(probs=np.full(len(probs), 1 / len(probs)))
    return cai.TrajectoryGraph(
        initial, cai.factors.TabularDynamics(probs), cai.factors.TabularReward(rewards), **options
    )


def two_rooms(leak: float, back: float) -> np.ndarray:
    """Rooms {0, 1} and {2, 3}, mixed within; from the first to the second by `leak`, the other way by `back`."""
    within = np.kron(np.eye(2), np.full((2, 2), 0.5))
    across = np.kron([[0.0, 1.0], [1.0, 0.0]], np.full((2, 2), 0.5))
    share = np.array([leak, leak, back, back])[:, None]
    return ((1 - share) * within + share * across)[:, None, :]


def test_one_closed_class_or_two() -> None:
    fixed, posterior = READINGS["fixed"][0], READINGS["posterior"][0]
    for method in (fixed, posterior, cai.SoftPolicyIteration(), cai.PolicyEvaluation(np.ones((4, 1)))):
        with pytest.raises(cai.IncompatibleMethod, match="one closed class.* has 2: state 0 and state 2 never reach"):
            cai.infer(world(two_rooms(0.0, 0.0), [0.0, 0.0, 1.0, 2.0]), method)
    leaving = world(two_rooms(1e-3, 0.0), [0.0, 0.0, 1.0, 2.0])
    assert_close(cai.infer(leaving, fixed).gain, 1.5)
    assert_close(cai.infer(leaving, fixed).state_marginals, [0.0, 0.0, 0.5, 0.5])
    with pytest.raises(cai.IncompatibleMethod, match="state 0 is never reached from state 2; .* SoftValueIteration"):
        cai.infer(leaving, posterior)
    both = world(two_rooms(1e-3, 2e-3), [0.0, 0.0, 1.0, 2.0])
    assert_close(cai.infer(both, fixed).gain, 0.5)  # a third of the time in the second room
    assert cai.infer(both, posterior).gain > 1.5


def test_a_policy_has_classes_of_its_own() -> None:
    """The world is one class, the policy splits it; one that leaks does not."""
    probs = np.stack([np.eye(2), np.full((2, 2), 0.5)], 1)
    graph = world(probs, [0.0, 1.0])
    with pytest.raises(cai.IncompatibleMethod, match="policy's chain must have one closed class.* state 0 and state 1"):
        cai.infer(graph, cai.PolicyEvaluation(np.array([[1.0, 0.0], [1.0, 0.0]])))
    stays = cai.infer(graph, cai.PolicyEvaluation(np.array([[0.5, 0.5], [1.0, 0.0]]), temperature=0.0))
    assert_close(stays.gain, 1.0)
    assert_close(stays.v(0), -4.0)  # it takes four steps to get there


@pytest.mark.parametrize("length", [2, 3, 4])
def test_periods(length: int) -> None:
    """A cycle is refused by the posterior, with its period; staying now and then mends it."""
    cycle = np.roll(np.eye(length), 1, axis=1)[:, None, :]
    rewards = list(range(length))
    with pytest.raises(cai.IncompatibleMethod, match=rf"multiples of {length} steps only \(period {length}\)"):
        cai.infer(world(cycle, rewards), cai.SumProduct())
    for method in (cai.SoftValueIteration(), cai.SoftValueIteration(solver=cai.methods.ValueIteration())):
        around = cai.infer(world(cycle, rewards), method)
        assert_close(around.gain, np.mean(rewards))
        assert_close(around.state_marginals, 1 / length)
    slow = 0.999 * cycle
    slow[0, 0, 0] += 0.001
    slow[1:] = cycle[1:]
    assert cai.infer(world(slow, rewards), cai.SumProduct()).gain < np.mean(rewards)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("method", ["value iteration", "Newton"])
@pytest.mark.parametrize("margin", [-1e-2, 1e-2])
def test_a_state_better_than_the_class_that_is_never_left(method: str, margin: float, temperature: float) -> None:
    """State 0 may stay, for a reward, or go to where all is zero for ever.

    Staying for ever is worth reward - alpha log 2 a step: below zero there is an answer, above it there is none.
    """
    probs = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    graph = world(probs, [temperature * np.log(2) + margin, 0.0], temperature=temperature)
    if margin > 0:
        with pytest.raises(cai.IncompatibleMethod, match=r"depends on the state.* \(state 1 is in it\)"):
            cai.infer(graph, METHODS[method][0])
        return
    posterior = cai.infer(graph, METHODS[method][0])
    assert_close(posterior.gain, 0.0)
    if temperature:
        x = np.exp(margin / temperature)  # z = x / 2 (z + 1) * 2, with alpha log 2 for the choice
        assert_close(posterior.v(0), temperature * np.log(x / (1 - x)), 1e-8)


def test_ties_between_classes_at_temperature_zero() -> None:
    """Two places that are equally good, and worth staying in: no one stationary distribution; soft there is one."""
    probs = np.stack([np.eye(2), np.full((2, 2), 0.5)], 1)
    reward = cai.factors.TabularReward(np.array([[1.0, 0.0], [1.0, 0.0]]))
    graph = world(probs, [0.0, 0.0], temperature=0.0).replace(reward=reward)
    with pytest.raises(cai.IncompatibleMethod, match="temperature 0 the best policy stays in several classes.*0.*1"):
        cai.infer(graph, cai.SoftValueIteration())
    soft = cai.infer(graph.replace(temperature=0.1), cai.SoftValueIteration())
    assert_close(soft.state_marginals, 0.5)
    with pytest.raises(cai.IncompatibleMethod, match="all but falls into several classes.*higher temperature"):
        cai.infer(graph.replace(temperature=1e-3), cai.SoftValueIteration())


def test_exits_are_as_before() -> None:
    """With a terminal state somewhere the question is the first exit, and all must reach it."""
    probs = np.array([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]])
    dynamics = cai.factors.TabularDynamics(probs, terminal=[False, False, True])
    with pytest.raises(cai.IncompatibleMethod, match="state 0 never reaches a terminal state"):
        cai.infer(world(probs, [0.0, 0.0, 0.0]).replace(dynamics=dynamics), cai.SoftValueIteration())


def test_max_product_still_needs_a_horizon() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="finite horizon"):
        cai.infer(graph_of(endless(331)), cai.MaxProduct())


# -- large ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@readings
def test_a_torus(method: cai.AbstractMethod, solve: Callable, temperature: float) -> None:
    """A slippery torus of 41 x 41 cells: the answer satisfies its sparse equations."""
    size = 41
    row, column = np.divmod(np.arange(size * size), size)
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    ends = np.stack([((row + dr) % size) * size + (column + dc) % size for dr, dc in moves], 1)
    nexts = np.stack([ends, np.roll(ends, 1, 1), np.roll(ends, -1, 1)], 2)
    probs = np.broadcast_to([0.8, 0.1, 0.1], nexts.shape).copy()
    reward = np.cos(2 * np.pi * row / size) + np.cos(2 * np.pi * column / size)
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=np.full(size * size, size**-2.0)),
        dynamics=cai.factors.TabularDynamics.from_successors(torch.as_tensor(nexts), torch.as_tensor(probs)),
        reward=cai.factors.TabularReward(reward),
        temperature=temperature,
    )
    posterior = cai.infer(graph, method)
    v, marginals = tables_of(posterior).v, numpy_of(posterior.state_marginals)
    if isinstance(method, cai.SumProduct):
        top = v[nexts].max(-1)
        weights = probs * np.exp((v[nexts] - top[..., None]) / temperature)
        q, arrival = reward[:, None] + top + temperature * np.log(weights.sum(-1)), weights
        arrival = weights / weights.sum(-1, keepdims=True)
    else:
        q, arrival = reward[:, None] + (probs * v[nexts]).sum(-1), probs
    best = q.max(-1)
    weights = np.exp((q - best[:, None]) / temperature) / 4
    assert_close(best + temperature * np.log(weights.sum(-1)) - v, float(posterior.gain), 1e-9)
    flow = marginals[:, None, None] * (weights / weights.sum(-1, keepdims=True))[:, :, None] * arrival
    arriving = np.zeros(size * size)
    np.add.at(arriving, nexts.ravel(), flow.ravel())
    assert_close(arriving, marginals, 1e-10)
    assert posterior.stats.num_steps < 40
    assert posterior.stats.certified_error < 1e-6


def test_a_hilly_torus_finds_the_best_of_many_places_to_stay() -> None:
    """Rewards at random cells, far apart: policies that stay with a worse one must be left behind."""
    size = 21
    row, column = np.divmod(np.arange(size * size), size)
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)]
    ends = np.stack([((row + dr) % size) * size + (column + dc) % size for dr, dc in moves], 1)
    reward = np.full(size * size, -1.0)
    places = np.random.default_rng(341).permutation(size * size)[:12]
    reward[places] = np.linspace(0.5, 1.0, 12)
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=np.full(size * size, size**-2.0)),
        dynamics=cai.factors.TabularDynamics.from_successors(
            torch.as_tensor(ends[:, :, None]), torch.ones(size * size, 5, 1, dtype=torch.float64)
        ),
        reward=cai.factors.TabularReward(reward),
    )
    for temperature in (0.05, 0.01, 0.0):
        method = cai.SoftValueIteration(solver=cai.methods.Newton())
        posterior = cai.infer(graph.replace(temperature=temperature), method)
        assert posterior.stats.converged
        assert int(posterior.state_marginals.argmax()) == places[-1]
        assert_close(posterior.gain, 1.0 - temperature * np.log(5), 1e-6)


# -- what the posterior gives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log_evidence", "occupancy", "expected_return", "entropy"])
@readings
def test_what_grows_without_bound_says_so(method: cai.AbstractMethod, solve: Callable, name: str) -> None:
    posterior = cai.infer(graph_of(endless(351)), method)
    with pytest.raises(cai.Unavailable, match=f"no {name} .*without bound.*gain"):
        getattr(posterior, name)
    with pytest.raises(cai.Unavailable, match="no gap"):
        posterior.gap(posterior)
    with pytest.raises(ValueError, match="give length="):
        posterior.sample(3, seed=0)


@pytest.mark.parametrize("options", [{"horizon": 3}, {"discount": 0.9}, {"num_terminal": 1}])
def test_what_ends_has_no_gain(options: dict) -> None:
    posterior = cai.infer(graph_of(endless(352, **options)), cai.SoftValueIteration())
    with pytest.raises(cai.Unavailable, match="no gain.*only an infinite horizon with discount 1"):
        _ = posterior.gain


@readings
def test_started_in_the_long_run_it_stays_there(method: cai.AbstractMethod, solve: Callable) -> None:
    """Samples begin where p(s_0) e^(V / alpha) (fixed: p(s_0)) says, and keep to the stationary distribution."""
    problem = endless(353, num_states=4, num_actions=2, reward="sa")
    expected = solve(problem)
    start = expected.marginals
    if isinstance(method, cai.SumProduct):
        start = start * np.exp(-expected.v / problem.temperature)
        start = start / start.sum()
    posterior = cai.infer(graph_of(problem, initial=cai.factors.Categorical(probs=start)), method)
    batch = posterior.sample(4000, seed=0, length=12)
    states, actions = numpy_of(batch.states)[:, :12], numpy_of(batch.actions)
    for t in (0, 5, 11):
        counts = np.zeros((4, 2))
        np.add.at(counts, (states[:, t], actions[:, t]), 1 / 4000)
        deviation = 6 * np.sqrt(expected.pairs * (1 - expected.pairs) / 4000) + 1e-3
        assert (np.abs(counts - expected.pairs) < deviation).all()
    assert torch.isfinite(posterior.log_prob(batch)).all()


def test_stopping_early_warns_and_the_bounds_hold() -> None:
    problem = endless(354, density=0.3)
    exact = recurrent_oracles.solve_fixed(problem).gain
    for steps in (1, 4, 16):
        with pytest.warns(cai.NotConverged):
            method = cai.SoftValueIteration(solver=cai.methods.ValueIteration(max_steps=steps))
            posterior = cai.infer(graph_of(problem), method)
        assert abs(float(posterior.gain) - exact) <= posterior.stats.residual


def test_the_messages_name_what_they_refuse() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(cai.IncompatibleMethod) as refusal:
            cai.infer(world(two_rooms(0.0, 0.0), [0.0] * 4), cai.SumProduct())
    assert re.match("SumProduct: on an undiscounted infinite horizon without terminal states", str(refusal.value))
    assert "give a discount below 1 or a finite horizon" in str(refusal.value)
