"""Every finite-horizon answer against the list of all trajectories.

Laws: soft Bellman backup, exact posterior messages, forward messages, evidence minus bound is a divergence.
Oracle: `tests.oracles` writes down every trajectory with its probability and rewards; nothing here is a recursion
except the optimal policy of the fixed reading, which the oracle's own test shows to be the best.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, policy_of, tables_of
from tests.laws.cases import cases

SEEDS = pytest.mark.parametrize("seed", [11, 12])


@cases
@SEEDS
def test_sum_product_equals_enumeration(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    v, q = oracles.enumerate_values(problem)
    tables = tables_of(posterior)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert not posterior.is_bound
    assert_close(tables.q, q)
    assert_close(tables.v, v)
    assert_close(posterior.state_marginals, exact.state_marginals)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals)
    assert_close(posterior.occupancy, exact.state_action_marginals)
    met = exact.state_action_marginals.sum(-1) > 1e-9
    assert_close(tables.policy[met], exact.policy[met], 1e-7)


@cases
@SEEDS
def test_soft_value_iteration_equals_enumeration(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    best = oracles.backward(problem, "fixed")
    tables = tables_of(posterior)
    under = oracles.enumerate_policy(problem, tables.policy)
    assert_close(tables.q, best.q)
    assert_close(tables.v, best.v)
    assert_close(tables.policy, best.policy)
    assert posterior.is_bound
    assert_close(posterior.log_evidence, best.log_evidence)
    assert_close(posterior.log_evidence, under.log_evidence)
    assert_close(posterior.state_marginals, under.state_marginals)
    assert_close(posterior.state_action_marginals, under.state_action_marginals)
    assert_close(posterior.expected_return, under.expected_return)
    assert_close(posterior.entropy, under.entropy)
    weights = problem.discount ** np.arange(problem.horizon)
    assert_close(posterior.occupancy, weights[:, None, None] * under.state_action_marginals)


@cases
def test_advantage_is_q_minus_v(options: dict) -> None:
    problem = oracles.random_problem(13, **options)
    best = oracles.backward(problem, "fixed")
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    states, actions = torch.arange(problem.num_states)[:, None], torch.arange(problem.num_actions)
    for t in range(problem.horizon):
        assert_close(posterior.advantage(states, actions, t=t), best.q[t] - best.v[t][:, None])


@cases
@pytest.mark.parametrize("temperature", [None, 0.0, 1.7])
def test_policy_evaluation_equals_enumeration(options: dict, temperature: float | None) -> None:
    problem = oracles.random_problem(14, **options)
    policy = oracles.random_policy(problem, 15)
    expected = oracles.evaluate(problem, policy, temperature)
    under = oracles.enumerate_policy(problem, policy, temperature)
    posterior = cai.infer(graph_of(problem), cai.PolicyEvaluation(policy_of(policy), temperature=temperature))
    tables = tables_of(posterior)
    assert_close(tables.q, expected.q)
    assert_close(tables.v, expected.v)
    assert_close(posterior.expected_return, under.expected_return)
    assert_close(posterior.entropy, under.entropy)
    assert_close(posterior.state_marginals, under.state_marginals)
    assert_close(posterior.state_action_marginals, under.state_action_marginals)
    if temperature is None:
        assert posterior.is_bound
        assert_close(posterior.log_evidence, under.log_evidence)


@cases
@SEEDS
def test_most_probable_trajectory_equals_enumeration(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    if problem.discount < 1:
        pytest.skip("the most probable trajectory is asked of undiscounted graphs")
    posterior = cai.infer(graph_of(problem), cai.MaxProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_most_probable)
    assert posterior.is_bound
    best = posterior.most_probable_trajectory
    length = int(best.lengths[0])
    states, actions = best.states[0, : length + 1].tolist(), best.actions[0, :length].tolist()
    assert_close(oracles.log_weight_of(problem, states, actions), exact.log_most_probable, 1e-12)


@cases
def test_expected_return_and_entropy_of_the_posterior(options: dict) -> None:
    problem = oracles.random_problem(16, **options)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.expected_return, exact.expected_return, 1e-9)
    assert_close(posterior.entropy, exact.entropy, 1e-9)


@cases
def test_log_prob_of_every_trajectory(options: dict) -> None:
    """Log q(tau) of each path, one by one, and their probabilities sum to one."""
    problem = oracles.random_problem(17, **options)
    found = oracles.paths(problem)
    policy = oracles.backward(problem, "fixed").policy
    soft = cai.infer(graph_of(problem), cai.SoftValueIteration())
    expected = [x.log_dynamics + x.log_policy(policy) for x in found]
    records = [(x.states, x.actions, bool(problem.is_terminal[x.states[-1]])) for x in found]
    log_prob = soft.log_prob(trajectories_of(problem, records))
    assert_close(log_prob, expected, 1e-9)
    assert_close(torch.logsumexp(log_prob, 0), 0.0)

    exact = cai.infer(graph_of(problem), cai.SumProduct())
    log_evidence = oracles.enumerate_posterior(problem).log_evidence
    found = oracles.paths(problem, deaths=problem.discount < 1)
    seen: dict[tuple, list[float]] = {}
    for path in found:  # a death on arrival in a terminal state leaves the same record as the arrival alive
        record = (path.states if path.arrival is None else (*path.states, path.arrival), path.actions)
        ended = path.died or bool(problem.is_terminal[record[0][-1]])
        seen.setdefault((*record, ended), []).append(path.log_weight(problem.temperature) - log_evidence)
    log_prob = exact.log_prob(trajectories_of(problem, list(seen)))
    assert_close(log_prob, [oracles.log_sum_exp(logs) for logs in seen.values()], 1e-9)
    assert_close(torch.logsumexp(log_prob, 0), 0.0)


def trajectories_of(problem: oracles.Problem, records: list[tuple]) -> cai.Trajectories:
    """A batch of records (states, actions, whether the episode terminated)."""
    states = np.zeros((len(records), problem.horizon + 1), int)
    actions = np.zeros((len(records), problem.horizon), int)
    for i, (visited, taken, _) in enumerate(records):
        states[i, : len(visited)], actions[i, : len(taken)] = visited, taken
    return cai.Trajectories(
        states=torch.as_tensor(states),
        actions=torch.as_tensor(actions),
        lengths=torch.as_tensor([len(taken) for _, taken, _ in records]),
        terminated=torch.as_tensor([ended for _, _, ended in records]),
    )


@pytest.mark.parametrize("reading", ["fixed", "posterior"])
@pytest.mark.parametrize("options", [{}, {"num_terminal": 3, "terminal_reward": True, "discount": 0.95}])
def test_a_middling_problem_equals_slow_loops(reading: oracles.Reading, options: dict) -> None:
    """Too many trajectories to write down: against the loops over time, states, actions and successors."""
    problem = oracles.random_problem(10, num_states=25, num_actions=4, horizon=15, density=0.3, **options)
    expected = oracles.backward(problem, reading)
    posterior = cai.infer(graph_of(problem), cai.SumProduct() if reading == "posterior" else cai.SoftValueIteration())
    assert_close(posterior.log_evidence, expected.log_evidence)
    assert_close(tables_of(posterior).q, expected.q)
    assert_close(tables_of(posterior).policy, expected.policy)
    if reading == "fixed":
        states, pairs = oracles.rollout_marginals(problem, expected.policy)
    else:
        states, pairs = oracles.posterior_marginals(problem, expected)
    assert_close(posterior.state_marginals, states)
    assert_close(posterior.state_action_marginals, pairs)


@cases
def test_gap_is_the_divergence_of_all_trajectories(options: dict) -> None:
    problem = oracles.random_problem(18, **options)
    graph = graph_of(problem)
    exact, soft = cai.infer(graph, cai.SumProduct()), cai.infer(graph, cai.SoftValueIteration())
    policy = oracles.backward(problem, "fixed").policy
    gap = soft.gap(exact)
    assert_close(gap.kl, oracles.kl_to_posterior(problem, policy), 1e-9)
    assert_close(gap.evidence_gap, gap.kl, 1e-9)
    assert_close(gap.reverse_kl, oracles.kl_from_posterior(problem, policy), 1e-9)
    back = exact.gap(soft)
    assert_close(back.kl, gap.reverse_kl, 1e-9)
    assert_close(back.evidence_gap, gap.evidence_gap, 1e-9)


@cases
def test_any_policy_is_a_bound_and_its_gap_a_divergence(options: dict) -> None:
    problem = oracles.random_problem(19, **options)
    graph, policy = graph_of(problem), oracles.random_policy(problem, 20)
    exact = cai.infer(graph, cai.SumProduct())
    judged = cai.infer(graph, cai.PolicyEvaluation(policy_of(policy)))
    assert_close(judged.gap(exact).kl, oracles.kl_to_posterior(problem, policy), 1e-9)
    assert_close(exact.log_evidence - judged.log_evidence, oracles.kl_to_posterior(problem, policy), 1e-9)


@given(
    seed=st.integers(0, 10_000),
    reward=st.sampled_from(["s", "sa", "sas"]),
    prior=st.sampled_from(["uniform", "flat", "flat-available", "tabular", "restricted"]),
    num_states=st.integers(1, 3),
    num_actions=st.integers(1, 3),
    horizon=st.integers(1, 3),
    num_terminal=st.integers(0, 1),
    terminal_reward=st.booleans(),
    discount=st.sampled_from([1.0, 0.9, 0.3]),
    log_temperature=st.floats(-2, 2),
    density=st.floats(0.2, 1.0),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_anything_goes(seed: int, log_temperature: float, **options: object) -> None:
    """Both readings on whatever hypothesis can think of."""
    problem = oracles.random_problem(seed, temperature=math.exp(log_temperature), **options)
    graph = graph_of(problem)
    exact, soft = cai.infer(graph, cai.SumProduct()), cai.infer(graph, cai.SoftValueIteration())
    truth = oracles.enumerate_posterior(problem)
    assert_close(exact.log_evidence, truth.log_evidence)
    assert_close(exact.state_marginals, truth.state_marginals, 1e-9)
    assert_close(exact.state_action_marginals, truth.state_action_marginals, 1e-9)
    best = oracles.backward(problem, "fixed")
    assert_close(soft.log_evidence, best.log_evidence)
    assert_close(tables_of(soft).policy, best.policy, 1e-9)
    assert float(soft.log_evidence) <= float(exact.log_evidence) + 1e-10 * max(1, abs(float(exact.log_evidence)))
