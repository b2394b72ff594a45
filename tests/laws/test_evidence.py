"""Evidence on states and actions, and the unrolled graph.

Oracle: enumeration of the trajectories that agree with the evidence.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, tables_of

EVIDENCE = {
    "a state": {"states": {2: 1}},
    "the start": {"states": {0: 2}},
    "the end": {"states": {3: 0}},
    "an action": {"actions": {1: 0}},
    "several": {"states": {1: 2, 3: 1}, "actions": {0: 1, 2: 0}},
}
evidence = pytest.mark.parametrize("known", EVIDENCE.values(), ids=EVIDENCE)


@evidence
@pytest.mark.parametrize(
    "options", [{}, {"per_step": ("dynamics", "reward", "prior")}, {"prior": "flat", "reward": "s"}]
)
def test_conditioning_equals_enumeration(known: dict, options: dict) -> None:
    problem = oracles.random_problem(71, **options).replace(**known)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals)
    best = cai.infer(graph_of(problem), cai.MaxProduct())
    assert_close(best.log_evidence, exact.log_most_probable)
    tau = best.most_probable_trajectory
    weight = oracles.log_weight_of(problem, tau.states[0].tolist(), tau.actions[0].tolist())
    assert_close(weight, exact.log_most_probable, 1e-12)


def test_state_evidence_with_terminal_states() -> None:
    """Absorbed mass stays: evidence on a terminal state at t = 2 means absorbed by then."""
    problem = oracles.random_problem(72, num_terminal=1, terminal_reward=True).replace(states={2: 2})
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)
    alive = problem.replace(states={2: 0})
    assert_close(
        cai.infer(graph_of(alive), cai.SumProduct()).log_evidence, oracles.enumerate_posterior(alive).log_evidence
    )


@pytest.mark.parametrize("options", [{"num_terminal": 1}, {"num_terminal": 1, "discount": 0.7}, {"discount": 0.7}])
@pytest.mark.parametrize(
    "known", [{"actions": {1: 0}}, {"actions": {0: 1, 2: 0}}, {"actions": {1: 1}, "states": {2: 1}}]
)
def test_action_evidence_says_nothing_once_the_trajectory_has_ended(options: dict, known: dict) -> None:
    problem = oracles.random_problem(85, **options).replace(**known)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals)
    assert_close(log_total(graph_of(problem).unroll()), exact.log_evidence)
    ended = problem.is_terminal
    assert_close(tables_of(posterior).policy[:, ended], np.broadcast_to(problem.prior, (3, 3, 2))[:, ended])


def test_state_evidence_with_a_discount_means_alive() -> None:
    problem = oracles.random_problem(73, discount=0.7).replace(states={2: 1})
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)


@pytest.mark.parametrize("known", [{"actions": {1: 0}}, {"actions": {0: 1, 2: 1}}])
def test_action_evidence_under_fixed_dynamics(known: dict) -> None:
    """The policy is forced where the evidence says, and pays alpha log mu for it."""
    problem = oracles.random_problem(74).replace(**known)
    mu = np.array([problem.mu(t) for t in range(3)])
    for t, a in known["actions"].items():
        mu[t] *= np.arange(problem.num_actions) == a
    forced = problem.replace(prior=mu, per_step=frozenset({"prior"}), actions={})
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    assert_close(posterior.log_evidence, oracles.backward(forced, "fixed").log_evidence)
    assert_close(tables_of(posterior).policy, oracles.backward(forced, "fixed").policy)


def test_state_evidence_under_deterministic_dynamics_is_the_posterior() -> None:
    problem = oracles.random_problem(75, deterministic=True, num_states=4, num_actions=3)
    problem = problem.replace(initial=np.eye(4)[0])
    reached = oracles.enumerate_posterior(problem).state_marginals[2]
    problem = problem.replace(states={2: int(reached.argmax())})
    soft = cai.infer(graph_of(problem), cai.SoftValueIteration())
    exact = oracles.enumerate_posterior(problem)
    assert_close(soft.log_evidence, exact.log_evidence)
    assert_close(soft.state_marginals, exact.state_marginals)


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_evidence_on_the_start_under_fixed_dynamics(discount: float) -> None:
    """The start is where it is known to be, and its probability is part of the evidence."""
    problem = oracles.random_problem(86, discount=discount, num_terminal=1).replace(states={0: 1})
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    there = problem.replace(initial=np.array([0.0, 1.0, 0.0]), states={})
    best = oracles.backward(there, "fixed")
    assert_close(posterior.log_evidence, best.log_evidence + np.log(problem.initial[1]))
    assert_close(posterior.state_marginals, oracles.rollout_marginals(there, best.policy)[0])
    exact = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(exact.log_evidence, oracles.enumerate_posterior(problem).log_evidence)
    assert_close(posterior.gap(exact).kl, exact.log_evidence - posterior.log_evidence)


def test_state_evidence_that_no_policy_can_guarantee_is_refused() -> None:
    problem = oracles.random_problem(76).replace(states={2: 1})
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph_of(problem), cai.SoftValueIteration())


def test_state_evidence_and_a_discount_under_fixed_dynamics_are_refused() -> None:
    """No policy can guarantee to be alive at t = 1; a number for it would exceed the exact evidence."""
    problem = oracles.random_problem(87, discount=0.7, deterministic=True)
    reached = oracles.enumerate_posterior(problem.replace(initial=np.eye(3)[0], discount=1.0)).state_marginals[1]
    problem = problem.replace(initial=np.eye(3)[0], states={1: int(reached.argmax())})
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph_of(problem), cai.SoftValueIteration())


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("prior", ["restricted", "flat-available"])
def test_a_state_that_lacks_the_known_action_is_excluded(discount: float, prior: str) -> None:
    """Where mu forbids the known action nothing is possible: no mass there, and no NaN anywhere."""
    problem = oracles.random_problem(88, prior=prior, num_actions=3, discount=discount)
    table = problem.prior.copy()
    table[1] = [0.5, 0.5, 0.0] if prior == "restricted" else [1.0, 1.0, 0.0]
    table[0, 2] = table[0].max()
    table[0] /= 1.0 if problem.flat else table[0].sum()
    problem = problem.replace(prior=table, actions={1: 2})
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals)
    assert_close(posterior.expected_return, exact.expected_return)
    assert_close(posterior.entropy, exact.entropy)
    batch = posterior.sample(200, seed=0)
    assert (batch.states[:, 1][batch.lengths > 1] != 1).all()
    assert torch.isfinite(posterior.log_prob(batch)).all()


@given(
    seed=st.integers(0, 10_000),
    states=st.dictionaries(st.integers(0, 3), st.integers(0, 2), max_size=2),
    actions=st.dictionaries(st.integers(0, 2), st.integers(0, 1), max_size=2),
    discount=st.sampled_from([1.0, 0.7, 0.0]),
    num_terminal=st.integers(0, 1),
    prior=st.sampled_from(["uniform", "flat", "restricted", "flat-available"]),
    density=st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=60)
def test_any_evidence(seed: int, states: dict, actions: dict, **options: object) -> None:
    """Possible evidence: everything as enumerated, samples that agree with it. Impossible evidence: refused."""
    problem = oracles.random_problem(seed, **options).replace(states=states, actions=actions)
    if not oracles.paths(problem, deaths=problem.discount < 1):
        with pytest.raises(ValueError):
            cai.infer(graph_of(problem), cai.SumProduct())
        return
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals, 1e-9)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals, 1e-9)
    batch = posterior.sample(30, seed=0)
    assert torch.isfinite(posterior.log_prob(batch)).all()
    for t, s in states.items():
        last = batch.lengths.clamp(max=t)
        assert (batch.states.gather(1, last[:, None]) == s).all()
    for t, a in actions.items():
        assert (batch.actions[:, t][batch.mask[:, t]] == a).all()


def test_impossible_evidence_is_refused() -> None:
    problem = oracles.random_problem(77, deterministic=True, num_actions=1).replace(initial=np.eye(3)[0])
    reached = oracles.enumerate_posterior(problem).state_marginals[2]
    problem = problem.replace(states={2: int(reached.argmin())})
    with pytest.raises(ValueError):
        cai.infer(graph_of(problem), cai.SumProduct())


@pytest.mark.parametrize("known", [{"states": {9: 0}}, {"states": {1: 7}}, {"actions": {3: 0}}, {"actions": {0: 5}}])
def test_evidence_outside_the_graph_is_refused(known: dict) -> None:
    with pytest.raises(ValueError):
        graph_of(oracles.random_problem(78)).condition(**known)


def test_conditioning_twice_adds_up_and_leaves_the_graph_alone() -> None:
    problem = oracles.random_problem(79)
    graph = graph_of(problem)
    both = graph.condition(states={2: 1}).condition(actions={0: 1})
    exact = oracles.enumerate_posterior(problem.replace(states={2: 1}, actions={0: 1}))
    assert_close(cai.infer(both, cai.SumProduct()).log_evidence, exact.log_evidence)
    whole = oracles.enumerate_posterior(problem)
    assert_close(cai.infer(graph, cai.SumProduct()).log_evidence, whole.log_evidence)


# -- the unrolled graph -----------------------------------------------------------------------------------------------


def log_total(unrolled: cai.FactorGraph) -> float:
    """Log of the sum of all assignments of a factor graph."""
    names = [variable.name for variable in unrolled.variables]
    ranges = [range(variable.cardinality) for variable in unrolled.variables]
    logs = [float(unrolled.log_density(dict(zip(names, x, strict=True)))) for x in itertools.product(*ranges)]
    return oracles.log_sum_exp(logs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward": "s", "per_step": ("dynamics", "reward", "prior")},
        {"prior": "restricted", "density": 0.5, "terminal_reward": True},
        {"num_terminal": 1, "terminal_reward": True},
        {"num_terminal": 1, "terminal_reward": True, "prior": "flat"},
        {"discount": 0.7},
        {"discount": 0.7, "num_terminal": 1, "terminal_reward": True},
    ],
)
def test_unrolled_assignments_sum_to_the_evidence(options: dict) -> None:
    problem = oracles.random_problem(80, horizon=2, **options)
    assert_close(log_total(graph_of(problem).unroll()), oracles.enumerate_posterior(problem).log_evidence)


@evidence
def test_unrolled_density_of_each_assignment(known: dict) -> None:
    """Log p(tau, O) path by path, evidence included; all other assignments have density zero."""
    problem = oracles.random_problem(81, density=0.6).replace(initial=np.array([0.2, 0.3, 0.5]), **known)
    unrolled = graph_of(problem).unroll()
    weights = {(x.states, x.actions): x.log_weight(problem.temperature) for x in oracles.paths(problem)}
    for states in itertools.product(range(3), repeat=4):
        for actions in itertools.product(range(2), repeat=3):
            names = {f"s{t}": s for t, s in enumerate(states)} | {f"a{t}": a for t, a in enumerate(actions)}
            density = float(unrolled.log_density(names))
            expected = weights.get((states, actions), -math.inf)
            assert density == expected or density == pytest.approx(expected, abs=1e-11)


def test_unrolled_density_takes_batches() -> None:
    problem = oracles.random_problem(82, horizon=1)
    unrolled = graph_of(problem).unroll()
    grid = {"s0": torch.arange(3)[:, None, None], "a0": torch.arange(2)[:, None], "s1": torch.arange(3)}
    table = unrolled.log_density(grid)
    assert table.shape == (3, 2, 3)
    for s, a, j in np.ndindex(3, 2, 3):
        assert_close(table[s, a, j], unrolled.log_density({"s0": s, "a0": a, "s1": j}), 1e-12)
    assert_close(torch.logsumexp(table.flatten(), 0), oracles.enumerate_posterior(problem).log_evidence)


def test_evidence_of_a_factor_graph() -> None:
    """Conditioning the unrolled graph is conditioning the trajectory graph."""
    problem = oracles.random_problem(83, horizon=2)
    clamped = graph_of(problem).unroll().condition({"s1": 2})
    exact = oracles.enumerate_posterior(problem.replace(states={1: 2}))
    names = {"s1": 2}
    logs = []
    for s0, a0, a1, s2 in itertools.product(range(3), range(2), range(2), range(3)):
        logs.append(float(clamped.log_density(names | {"s0": s0, "a0": a0, "a1": a1, "s2": s2})))
    assert_close(oracles.log_sum_exp(logs), exact.log_evidence)


def test_one_more_factor_is_one_more_reward() -> None:
    problem = oracles.random_problem(84, horizon=2)
    bonus = np.random.default_rng(3).normal(size=3)
    factor = cai.Factor(variables=("s2",), log_table=torch.as_tensor(bonus / problem.temperature), name="bonus")
    larger = graph_of(problem).unroll().add_factors(factor)
    changed = problem.replace(terminal_reward=bonus)
    assert_close(log_total(larger), oracles.enumerate_posterior(changed).log_evidence)
