"""Limits and inequalities: deterministic, cold and hot, Jensen, performance difference, contraction.

Oracles: an independent hard value iteration in numpy loops, the prior itself, enumeration where a number is needed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of
from tests.laws.cases import cases


@cases
def test_deterministic_dynamics_make_both_readings_one(options: dict) -> None:
    problem = oracles.random_problem(61, **(options | {"deterministic": True, "density": 0.0}))
    if problem.discount < 1:
        pytest.skip("a discount is a chance of dying, so nothing is deterministic")
    graph = graph_of(problem)
    exact, soft = cai.infer(graph, cai.SumProduct()), cai.infer(graph, cai.SoftValueIteration())
    assert_close(tables_of(exact).q, tables_of(soft).q)
    assert_close(tables_of(exact).v, tables_of(soft).v)
    assert_close(tables_of(exact).policy, tables_of(soft).policy)
    assert_close(exact.state_marginals, soft.state_marginals)
    assert_close(soft.gap(exact).kl, 0.0)


@cases
def test_temperature_zero_is_hard_value_iteration(options: dict) -> None:
    problem = oracles.random_problem(62, **options).replace(temperature=0.0)
    hard = oracles.backward(problem, "fixed")
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    tables = tables_of(posterior)
    assert_close(tables.q, hard.q)
    assert_close(tables.v, hard.v)
    alive = ~problem.is_terminal
    best = hard.q >= hard.v[:-1, :, None] - 1e-9
    assert_close((tables.policy * best).sum(-1)[:, alive], 1.0, 1e-12)
    states, pairs = oracles.rollout_marginals(problem, tables.policy)
    assert_close(posterior.state_marginals, states)
    assert_close(posterior.state_action_marginals, pairs)
    assert_close(posterior.expected_return, hard.log_evidence)


@cases
def test_cold_tends_to_hard(options: dict) -> None:
    """V_hard + alpha log min mu <= V <= V_hard + alpha log sum mu a step, so the error is at most T alpha max |log|."""
    alpha = 1e-5
    problem = oracles.random_problem(63, **options).replace(temperature=alpha)
    hard = oracles.backward(problem.replace(temperature=0.0), "fixed")
    soft = tables_of(cai.infer(graph_of(problem), cai.SoftValueIteration()))
    measures = np.array([problem.mu(t) for t in range(problem.horizon)])
    most = np.abs(np.log(measures[measures > 0])).max() + np.log(problem.num_actions)
    assert np.abs(soft.v - hard.v).max() <= problem.horizon * alpha * most + 1e-12


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
@pytest.mark.parametrize("num_terminal", [0, 1])
def test_temperature_zero_without_horizon(method: cai.AbstractMethod, num_terminal: int) -> None:
    problem = oracles.random_problem(
        64, num_states=8, num_actions=3, horizon=None, discount=0.9, num_terminal=num_terminal, temperature=0.0
    )
    q, v, policy = oracles.solve_fixed(problem)
    posterior = cai.infer(graph_of(problem), method)
    assert_close(tables_of(posterior).v, v, 1e-9)
    assert_close(tables_of(posterior).q, q, 1e-9)
    assert_close(tables_of(posterior).policy, policy)


@cases
@pytest.mark.parametrize("method", [cai.SumProduct(), cai.SoftValueIteration()], ids=["SumProduct", "Soft"])
def test_hot_tends_to_the_prior(options: dict, method: cai.AbstractMethod) -> None:
    """log(pi / mu') is at most twice the range of q over alpha, mu' the normalised prior."""
    alpha = 1e7
    problem = oracles.random_problem(65, **options).replace(temperature=alpha)
    policy = tables_of(cai.infer(graph_of(problem), method)).policy
    expected = np.array([problem.mu_normalised(t) for t in range(problem.horizon)])
    if problem.flat and (problem.terminal is not None or problem.prior.min() == 0):
        pytest.skip("the flat measure pays for freedom of action, at this temperature with infinite weight")
    assert np.abs(policy - expected).max() < 1e-5


@given(
    seed=st.integers(0, 1000),
    prior=st.sampled_from(["uniform", "flat", "restricted"]),
    num_terminal=st.integers(0, 2),
    temperature=st.floats(0.01, 100),
    discount=st.sampled_from([1.0, 0.9]),
)
def test_jensen(seed: int, **options: object) -> None:
    """The posterior's values are never below the fixed dynamics' ones."""
    problem = oracles.random_problem(seed, num_states=6, num_actions=3, horizon=8, density=0.5, **options)
    graph = graph_of(problem)
    exact, soft = cai.infer(graph, cai.SumProduct()), cai.infer(graph, cai.SoftValueIteration())
    slack = 1e-11 * np.maximum(1, np.abs(tables_of(soft).v))
    assert (tables_of(exact).v >= tables_of(soft).v - slack).all()
    assert float(exact.log_evidence) >= float(soft.log_evidence) - 1e-11 * max(1, abs(float(soft.log_evidence)))


@given(seed=st.integers(0, 1000), discount=st.sampled_from([1.0, 0.7]), num_terminal=st.integers(0, 1))
def test_performance_difference(seed: int, **options: object) -> None:
    """J(pi') - J(pi) = sum_s d_pi'(s) [E_pi' Q_pi - alpha KL(pi' || mu) - V_pi](s)."""
    problem = oracles.random_problem(seed, num_states=4, num_actions=3, horizon=5, **options)
    graph, alpha = graph_of(problem), problem.temperature
    old, new = (policy_of(oracles.random_policy(problem, seed + k)) for k in (1, 2))
    before, after = cai.infer(graph, cai.PolicyEvaluation(old)), cai.infer(graph, cai.PolicyEvaluation(new))
    pi, mu = tables_of(after).policy, problem.prior
    soft_q = (pi * (tables_of(before).q - alpha * np.log(pi / mu))).sum(-1)
    gain = (numpy_of(after.occupancy).sum(-1) * (soft_q - tables_of(before).v[:-1])).sum()
    assert_close(alpha * (after.log_evidence - before.log_evidence), gain)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_contraction(temperature: float) -> None:
    """A step of the operator, with two terminal values, brings them together by the discount at least."""
    gamma, rng = 0.8, np.random.default_rng(0)
    problem = oracles.random_problem(66, num_states=6, horizon=1, discount=gamma, temperature=temperature)
    for _ in range(20):
        ends = rng.normal(size=(2, 6)) * 10
        values = [
            tables_of(cai.infer(graph_of(problem.replace(terminal_reward=x)), cai.SoftValueIteration())).v[0]
            for x in ends
        ]
        assert np.abs(values[0] - values[1]).max() <= gamma * np.abs(ends[0] - ends[1]).max() * (1 + 1e-12)


def test_normalised_prior_stays_below_the_hard_value() -> None:
    problem = oracles.random_problem(67, num_states=5, num_actions=4, horizon=None, discount=0.9)
    soft = tables_of(cai.infer(graph_of(problem), cai.SoftValueIteration())).v
    hard = oracles.solve_fixed(problem.replace(temperature=0.0))[1]
    assert (soft <= hard + 1e-10).all()


def test_optimal_policy_is_its_own_evaluation() -> None:
    problem = oracles.random_problem(68, num_terminal=1, discount=0.9, terminal_reward=True, prior="restricted")
    graph = graph_of(problem)
    soft = cai.infer(graph, cai.SoftValueIteration())
    judged = cai.infer(graph, cai.PolicyEvaluation(policy_of(tables_of(soft).policy)))
    assert_close(tables_of(judged).v, tables_of(soft).v)
    assert_close(judged.log_evidence, soft.log_evidence)
    assert_close(judged.gap(soft).kl, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_risky_branch_by_hand(seed: int) -> None:
    """A safe branch worth m, a risky one worth x with probability p: sigmoid(p x - m) against the tilted sigmoid."""
    rng = np.random.default_rng(seed)
    p, x, m = (0.5, 4.0, 2.0) if seed == 0 else (rng.uniform(0.1, 0.9), 3 * rng.normal(), rng.normal())
    dynamics = np.zeros((4, 2, 4))
    dynamics[0, 0, 1] = 1.0
    dynamics[0, 1, 2:] = p, 1 - p
    dynamics[1:, :, 1:] = np.eye(3)[:, None]
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(0),
        dynamics=cai.factors.TabularDynamics(dynamics, terminal=torch.tensor([False, True, True, True])),
        reward=cai.factors.TabularReward(torch.zeros(4)),
        terminal_reward=cai.factors.TabularReward(torch.tensor([0.0, m, x, 0.0], dtype=torch.float64)),
        horizon=1,
    )
    soft, exact = cai.infer(graph, cai.SoftValueIteration()), cai.infer(graph, cai.SumProduct())
    assert_close(soft.policy(0).probs[1], 1 / (1 + np.exp(m - p * x)), 1e-12)
    assert_close(exact.policy(0).probs[1], 1 / (1 + np.exp(m - np.log(p * np.exp(x) + 1 - p))), 1e-12)
    if seed == 0:
        assert float(soft.policy(0).probs[1]) == pytest.approx(0.5, abs=1e-12)
        assert float(exact.policy(0).probs[1]) == pytest.approx(0.790, abs=5e-4)


def test_a_policy_in_any_form_is_the_same_policy() -> None:
    problem = oracles.random_problem(69, discount=0.9, num_terminal=1)
    graph, probs = graph_of(problem), oracles.random_policy(problem, 70)[0]
    table = torch.as_tensor(probs)
    forms = (
        policy_of(probs),
        probs,
        table,
        lambda state, t: torch.distributions.Categorical(probs=table[state]),
        policy_of(np.broadcast_to(probs, (3, *probs.shape)).copy()),
    )
    judged = [cai.infer(graph, cai.PolicyEvaluation(form)) for form in forms]
    for other in judged[1:]:
        assert_close(other.log_evidence, judged[0].log_evidence, 1e-13)
    again = cai.infer(graph, cai.PolicyEvaluation(judged[0]))
    assert_close(again.log_evidence, judged[0].log_evidence, 1e-13)
    uniform = cai.infer(graph, cai.PolicyEvaluation(cai.UniformPolicy()))
    half = np.full((3, 3, 2), 0.5)
    assert_close(uniform.log_evidence, oracles.evaluate(problem, half).log_evidence)


@pytest.mark.parametrize(
    "probs", [np.full((3, 2), 0.4), np.full((2, 2), 0.5), np.full((2, 3, 2), 0.5), np.array([[1.5, -0.5]] * 3)]
)
def test_bad_policies_are_refused(probs: np.ndarray) -> None:
    with pytest.raises(ValueError):
        cai.infer(graph_of(oracles.random_problem(60)), cai.PolicyEvaluation(probs))


def test_a_policy_outside_the_prior_is_refused() -> None:
    problem = oracles.random_problem(60).replace(prior=np.array([[1.0, 0.0]] * 3))
    with pytest.raises(ValueError):
        cai.infer(graph_of(problem), cai.PolicyEvaluation(np.full((3, 2), 0.5)))


def test_the_luckiest_trajectory() -> None:
    """MaxProduct at temperature 0: the greatest sum of rewards on any possible path, probabilities aside."""
    problem = oracles.random_problem(71, density=0.5, num_states=4)
    best = cai.infer(graph_of(problem.replace(temperature=0.0)), cai.MaxProduct()).most_probable_trajectory
    greatest = max(sum(path.rewards) for path in oracles.paths(problem))
    assert_close(best.returns()[0], greatest)
