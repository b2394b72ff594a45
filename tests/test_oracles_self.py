"""The oracles held against each other: enumeration of all trajectories vs loops backwards in time, and closed forms.

A mistake in an oracle would otherwise become a mistake in every test that trusts it.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from tests import oracles

VARIANTS = {
    "plain": {},
    "reward s": {"reward": "s"},
    "reward sa, flat": {"reward": "sa", "prior": "flat"},
    "time-varying": {"per_step": ("dynamics", "reward", "prior")},
    "terminals": {"num_terminal": 1, "terminal_reward": True},
    "restricted, forbidden": {"prior": "restricted", "density": 0.5, "num_actions": 3},
    "discounted": {"discount": 0.8},
    "discounted, terminals": {"discount": 0.6, "num_terminal": 1, "terminal_reward": True},
    "everything": {
        "per_step": ("dynamics", "reward", "prior"),
        "prior": "restricted",
        "density": 0.6,
        "num_terminal": 1,
        "terminal_reward": True,
        "discount": 0.9,
        "temperature": 0.3,
    },
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@variants
@pytest.mark.parametrize("seed", [0, 1])
def test_posterior_enumeration_equals_programme(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    messages = oracles.backward(problem, "posterior")
    exact = oracles.enumerate_posterior(problem)
    v, q = oracles.enumerate_values(problem)
    assert messages.log_evidence == pytest.approx(exact.log_evidence, abs=1e-12)
    np.testing.assert_allclose(messages.v, v, atol=1e-12)
    np.testing.assert_allclose(messages.q, q, atol=1e-12)
    states, pairs = oracles.posterior_marginals(problem, messages)
    np.testing.assert_allclose(states, exact.state_marginals, atol=1e-12)
    np.testing.assert_allclose(pairs, exact.state_action_marginals, atol=1e-12)


@variants
@pytest.mark.parametrize("seed", [0, 1])
def test_fixed_enumeration_equals_programme(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    messages = oracles.backward(problem, "fixed")
    under = oracles.enumerate_policy(problem, messages.policy)
    assert messages.log_evidence == pytest.approx(under.log_evidence, abs=1e-12)
    states, pairs = oracles.rollout_marginals(problem, messages.policy)
    np.testing.assert_allclose(states, under.state_marginals, atol=1e-12)
    np.testing.assert_allclose(pairs, under.state_action_marginals, atol=1e-12)


@variants
def test_fixed_answer_is_the_best_policy(options: dict) -> None:
    problem = oracles.random_problem(2, **options)
    best = oracles.backward(problem, "fixed").log_evidence
    for seed in range(20):
        assert oracles.enumerate_policy(problem, oracles.random_policy(problem, seed)).log_evidence <= best + 1e-12


@variants
@pytest.mark.parametrize("temperature", [None, 0.0, 1.3])
def test_evaluation_equals_enumeration(options: dict, temperature: float | None) -> None:
    problem = oracles.random_problem(3, **options)
    policy = oracles.random_policy(problem, 4)
    by_paths = oracles.enumerate_policy(problem, policy, temperature)
    by_loops = oracles.evaluate(problem, policy, temperature)
    assert by_loops.log_evidence == pytest.approx(by_paths.log_evidence, abs=1e-12)


@variants
def test_evidence_minus_bound_is_the_divergence(options: dict) -> None:
    problem = oracles.random_problem(5, **options)
    policy = oracles.random_policy(problem, 6)
    gap = oracles.enumerate_posterior(problem).log_evidence - oracles.enumerate_policy(problem, policy).log_evidence
    assert gap == pytest.approx(oracles.kl_to_posterior(problem, policy), abs=1e-12)
    assert oracles.kl_from_posterior(problem, policy) > 0


@variants
def test_probabilities_of_all_paths_sum_to_one(options: dict) -> None:
    problem = oracles.random_problem(7, **options)
    policy = oracles.random_policy(problem, 8)
    for deaths in (False, True):
        found = oracles.paths(problem, deaths=deaths)
        assert sum(math.exp(x.log_dynamics + x.log_policy(policy)) for x in found) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", [k for k in VARIANTS if "discount" not in k and k != "everything"])
def test_weight_of_one_path_is_its_enumerated_weight(name: str) -> None:
    problem = oracles.random_problem(10, **VARIANTS[name])
    for path in oracles.paths(problem):
        weight = oracles.log_weight_of(problem, list(path.states), list(path.actions))
        assert weight == pytest.approx(path.log_weight(problem.temperature), abs=1e-12)


def test_hard_programme_is_the_best_deterministic_policy() -> None:
    problem = oracles.random_problem(0, num_states=2, horizon=2, temperature=0.0, discount=0.9)
    every = [oracles.enumerate_policy(problem, x).log_evidence for x in oracles.deterministic_policies(problem)]
    assert oracles.backward(problem, "fixed").log_evidence == pytest.approx(max(every), abs=1e-13)


@pytest.mark.parametrize("reading", ["fixed", "posterior"])
def test_arithmetics_agree(reading: oracles.Reading) -> None:
    problem = oracles.random_problem(1, num_terminal=1, discount=0.9)
    with mpmath.workdps(40):
        many = oracles.backward(problem, reading, mpmath.mp)
    doubles = oracles.backward(problem, reading)
    np.testing.assert_allclose(many.q, doubles.q, atol=1e-13)
    np.testing.assert_allclose(many.policy, doubles.policy, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"num_terminal": 2, "terminal_reward": True, "prior": "restricted"}])
def test_infinite_horizon_solutions_are_limits_of_long_horizons(options: dict) -> None:
    problem = oracles.random_problem(2, num_states=5, num_actions=3, discount=0.6, horizon=None, **options)
    finite = problem.replace(horizon=80)
    q, v, policy = oracles.solve_fixed(problem)
    long = oracles.backward(finite, "fixed")
    np.testing.assert_allclose(v, long.v[0], atol=1e-12)
    np.testing.assert_allclose(q, long.q[0], atol=1e-12)
    q_pi, v_pi = oracles.solve_evaluation(problem, policy)
    np.testing.assert_allclose(v_pi, v, atol=1e-12)
    np.testing.assert_allclose(q_pi, q, atol=1e-12)
    occupancy = oracles.discounted_occupancy(problem, policy)
    marginals = oracles.truncated_state_marginals(problem, policy, 80)
    alive = ~problem.is_terminal
    np.testing.assert_allclose(0.4 * occupancy.sum(-1)[alive], marginals[alive], atol=1e-12)
    assert marginals.sum() == pytest.approx(1, abs=1e-12)


def test_infinite_posterior_is_the_limit_of_long_horizons() -> None:
    problem = oracles.random_problem(4, num_states=4, discount=0.5, horizon=None, num_terminal=1, terminal_reward=True)
    problem = oracles.with_radius(problem, 0.8)
    q, v = oracles.solve_posterior(problem)
    long = oracles.backward(problem.replace(horizon=200), "posterior")
    np.testing.assert_allclose(v, long.v[0], atol=1e-12)
    np.testing.assert_allclose(q, long.q[0], atol=1e-12)


@variants
@pytest.mark.parametrize("reading", ["fixed", "posterior"])
def test_long_doubles_agree(options: dict, reading: oracles.Reading) -> None:
    problem = oracles.random_problem(6, **options)
    long, short = oracles.backward_long(problem, reading), oracles.backward(problem, reading)
    np.testing.assert_allclose(long.q, short.q, atol=1e-12)
    np.testing.assert_allclose(long.v, short.v, atol=1e-12)
    np.testing.assert_allclose(long.policy, short.policy, atol=1e-12)


def test_infinite_posterior_in_many_digits() -> None:
    problem = oracles.random_problem(4, num_states=4, discount=0.5, horizon=None, num_terminal=1, terminal_reward=True)
    problem = oracles.with_radius(problem, 0.8)
    with mpmath.workdps(40):
        np.testing.assert_allclose(oracles.solve_posterior_mp(problem, mpmath.mp), oracles.solve_posterior(problem)[1])


def test_one_step_by_hand() -> None:
    """Two actions worth 1 and 0 at temperature 1: log p(O) = log((e + 1) / 2) if uniform, log(e + 1) if flat."""
    one = oracles.Problem(
        initial=np.ones(1),
        dynamics=np.ones((1, 2, 1)),
        reward=np.array([[1.0, 0.0]]),
        prior=np.full((1, 2), 0.5),
        horizon=1,
    )
    assert oracles.enumerate_posterior(one).log_evidence == pytest.approx(math.log((math.e + 1) / 2), abs=1e-15)
    flat = one.replace(prior=np.ones((1, 2)), flat=True)
    assert oracles.enumerate_posterior(flat).log_evidence == pytest.approx(math.log(math.e + 1), abs=1e-15)
    np.testing.assert_allclose(oracles.backward(one, "fixed").policy[0, 0], [math.e / (1 + math.e), 1 / (1 + math.e)])


def test_evidence_sums_to_the_whole() -> None:
    problem = oracles.random_problem(9)
    whole = oracles.enumerate_posterior(problem).log_evidence
    parts = [oracles.enumerate_posterior(problem.replace(states={2: s})).log_evidence for s in range(3)]
    assert oracles.log_sum_exp(parts) == pytest.approx(whole, abs=1e-12)
    parts = [oracles.enumerate_posterior(problem.replace(actions={1: a})).log_evidence for a in range(2)]
    assert oracles.log_sum_exp(parts) == pytest.approx(whole, abs=1e-12)
