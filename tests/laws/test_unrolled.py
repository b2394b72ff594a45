"""A trajectory graph written out over time has the answers of the trajectory methods.

Oracle: the trajectory methods themselves, which their own laws hold against enumeration, and enumeration again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import oracles
from tests.graph_oracles import bernstein
from tests.laws.build import assert_close, graph_of, numpy_of, tables_of
from tests.laws.cases import CASES, cases

EVIDENCE = {
    "a state": {"states": {2: 1}},
    "the start": {"states": {0: 1}},
    "the end": {"states": {3: 0}},
    "an action": {"actions": {1: 0}},
    "several": {"states": {1: 1, 3: 0}, "actions": {0: 1, 2: 0}},
}
WORLDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "per step": {"per_step": ("dynamics", "reward", "prior")},
    "terminal": {"num_terminal": 1, "terminal_reward": True},
    "discount": {"discount": 0.7, "num_terminal": 1},
}
evidence = pytest.mark.parametrize("known", EVIDENCE.values(), ids=EVIDENCE)
worlds = pytest.mark.parametrize("options", WORLDS.values(), ids=WORLDS)


def both(graph: cai.TrajectoryGraph, method: Any) -> tuple[cai.Posterior, cai.Posterior]:
    """The answer of the trajectory method and that of the unrolled graph."""
    return cai.infer(graph, method()), cai.infer(graph.unroll(), method())


def assert_same(graph: cai.TrajectoryGraph) -> None:
    """Evidence, marginals and policy of the exact posterior, to 1e-10."""
    chain, written_out = both(graph, cai.SumProduct)
    assert written_out.log_evidence.shape == ()
    assert_close(written_out.log_evidence, chain.log_evidence)
    assert written_out.is_bound is False
    assert written_out.state_marginals.shape == chain.state_marginals.shape
    assert_close(written_out.state_marginals, chain.state_marginals)
    assert written_out.state_action_marginals.shape == chain.state_action_marginals.shape
    assert_close(written_out.state_action_marginals, chain.state_action_marginals)
    policy, met = tables_of(chain).policy, numpy_of(chain.state_action_marginals).sum(-1) > 1e-6
    for t, s in zip(*np.nonzero(met), strict=True):
        assert_close(written_out.policy(int(s), t=int(t)).probs, policy[t, s], 1e-9)


@cases
def test_the_exact_posterior_is_that_of_the_chain(options: dict) -> None:
    assert_same(graph_of(oracles.random_problem(301, **options)))


@evidence
@worlds
def test_evidence_of_the_chain_stays_evidence(options: dict, known: dict) -> None:
    assert_same(graph_of(oracles.random_problem(302, **options).replace(**known)))


@cases
def test_the_answers_equal_enumeration(options: dict) -> None:
    """The same without the trajectory method in between."""
    problem = oracles.random_problem(303, **options)
    exact = oracles.enumerate_posterior(problem)
    posterior = cai.infer(graph_of(problem).unroll(), cai.SumProduct())
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(posterior.state_marginals, exact.state_marginals)
    assert_close(posterior.state_action_marginals, exact.state_action_marginals)
    if problem.discount < 1:  # the value added for what has ended holds the rest
        assert_close(posterior.marginal(f"s{problem.horizon}")[-1], 1.0 - exact.state_marginals[-1].sum())


UNDISCOUNTED = {name: options for name, options in CASES.items() if "discount" not in options}
undiscounted = pytest.mark.parametrize("options", UNDISCOUNTED.values(), ids=UNDISCOUNTED)


def assert_same_mode(problem: oracles.Problem) -> None:
    chain, written_out = both(graph_of(problem), cai.MaxProduct)
    assert_close(written_out.log_evidence, chain.log_evidence)
    assert written_out.is_bound is True
    assert_close(written_out.state_marginals, chain.state_marginals)
    assert_close(written_out.state_action_marginals, chain.state_action_marginals)
    mode, best = written_out.most_probable_assignment, oracles.enumerate_posterior(problem)
    assert_close(written_out.log_evidence, best.log_most_probable)
    for t in range(problem.horizon + 1):
        assert mode[f"s{t}"] == best.most_probable.state_at(t)
    for t, action in enumerate(best.most_probable.actions):
        assert mode[f"a{t}"] == action


@undiscounted
def test_the_mode_is_that_of_the_chain(options: dict) -> None:
    """An action after the end of an episode is no choice: it must not make an ended path less probable."""
    for seed in (304, 305):
        assert_same_mode(oracles.random_problem(seed, **options))


@pytest.mark.parametrize("options", [{}, {"num_terminal": 1, "terminal_reward": True}], ids=["plain", "terminal"])
@evidence
def test_the_mode_under_evidence_is_that_of_the_chain(options: dict, known: dict) -> None:
    assert_same_mode(oracles.random_problem(306, **options).replace(**known))


def test_an_episode_that_ends_at_once_is_the_mode_of_both() -> None:
    """All actions but one lead to the end, and the end pays."""
    problem = oracles.random_problem(307, num_terminal=1, num_actions=4, horizon=3, prior="uniform", scale=0.1)
    assert_same_mode(problem.replace(terminal_reward=np.array([0.0, 0.0, 3.0])))


@worlds
def test_longer_chains_and_larger_tables(options: dict) -> None:
    problem = oracles.random_problem(308, **({"num_states": 7, "num_actions": 4, "horizon": 20} | options))
    assert_same(graph_of(problem))


def test_rewards_hundreds_of_temperatures_apart() -> None:
    assert_same(graph_of(oracles.random_problem(309, scale=300.0, reward="sa", horizon=6, density=0.5)))


@worlds
def test_gradients_reach_the_factors_of_the_chain(options: dict) -> None:
    """d(alpha log evidence) / d reward through `unroll` is the chain's own."""
    problem = oracles.random_problem(310, **({"reward": "sa"} | options))
    gradients = []
    for ask in (lambda graph: graph, lambda graph: graph.unroll()):
        values = torch.tensor(problem.reward, requires_grad=True)
        build = cai.factors.TabularReward.per_step if "reward" in problem.per_step else cai.factors.TabularReward
        graph = ask(graph_of(problem, reward=build(values)))
        gradients += torch.autograd.grad(cai.infer(graph, cai.SumProduct()).log_evidence, values)
    assert_close(gradients[1], numpy_of(gradients[0]))


def test_policies_broadcast() -> None:
    chain, written_out = both(graph_of(oracles.random_problem(311)), cai.SumProduct)
    states, times = torch.arange(3), torch.arange(3)[:, None]
    assert_close(written_out.policy(states, t=times).probs, numpy_of(chain.policy(states, t=times).probs))
    assert written_out.policy(torch.tensor([[0, 1], [2, 2]])).sample().shape == (2, 2)
    for bad in ({"state": 3}, {"state": -1}, {"state": 0, "t": 3}, {"state": 0, "t": -1}, {"state": 0.5}):
        with pytest.raises(ValueError):
            written_out.policy(**bad)


def test_adding_factors_keeps_the_trajectory() -> None:
    """A factor that says nothing, then one that asks for the same action twice."""
    problem = oracles.random_problem(312)
    graph = graph_of(problem)
    nothing = cai.Factor(("s0", "s3"), np.zeros((3, 3)), "nothing")
    edited = cai.infer(graph.unroll().add_factors(nothing), cai.SumProduct())
    assert_close(edited.state_marginals, numpy_of(cai.infer(graph, cai.SumProduct()).state_marginals))
    with np.errstate(divide="ignore"):
        same = cai.Factor(("a0", "a1"), np.log(np.eye(2)), "same")
    alike = cai.infer(graph.unroll().add_factors(same), cai.SumProduct())
    found = [path for path in oracles.paths(problem) if path.actions[0] == path.actions[1]]
    logs = [path.log_weight(problem.temperature) for path in found]
    assert_close(alike.log_evidence, oracles.log_sum_exp(logs))
    weights = np.exp(np.array(logs) - oracles.log_sum_exp(logs))
    pairs = np.zeros((3, 3, 2))
    for path, weight in zip(found, weights, strict=True):
        for t in range(3):
            pairs[t, path.states[t], path.actions[t]] += weight
    assert_close(alike.state_action_marginals, pairs)
    assert_close(alike.policy(2, t=1).probs, pairs[1, 2] / pairs[1, 2].sum())


def test_states_of_probability_zero_follow_the_prior() -> None:
    problem = oracles.random_problem(313, prior="tabular").replace(states={1: 2})
    posterior = cai.infer(graph_of(problem).unroll(), cai.SumProduct())
    assert_close(posterior.policy(0, t=1).probs, problem.mu(1)[0])
    assert_close(posterior.state_action_marginals[1, 0], 0.0)


@pytest.mark.parametrize("name", ["plain", "per step", "terminal"])
def test_sampled_trajectories_are_the_posteriors(name: str) -> None:
    """Frequencies by Bernstein's inequality at 1e-9 an entry; rewards and ends as the graph has them."""
    num, problem = 4000, oracles.random_problem(314, **WORLDS[name])
    graph = graph_of(problem)
    posterior = cai.infer(graph.unroll(), cai.SumProduct())
    batch = posterior.sample_trajectories(num, seed=0)
    joint = oracles.enumerate_posterior(problem).state_action_marginals
    states, actions, mask = (numpy_of(x) for x in (batch.states, batch.actions, batch.mask))
    for t in range(problem.horizon):
        counts = np.zeros(joint[t].shape)
        np.add.at(counts, (states[mask[:, t], t], actions[mask[:, t], t]), 1)
        assert (np.abs(counts / num - joint[t]) <= bernstein(joint[t], num)).all()
    assert not problem.is_terminal[states[:, :-1][mask]].any()
    ends = states[np.arange(num), numpy_of(batch.lengths)]
    assert (problem.is_terminal[ends] == numpy_of(batch.terminated)).all()
    for n in range(20):
        steps = [problem.r(t)[states[n, t], actions[n, t], states[n, t + 1]] for t in np.flatnonzero(mask[n])]
        assert_close(batch.rewards[n][batch.mask[n]], np.array(steps))
    chain = cai.infer(graph, cai.SumProduct())
    weights = [path.log_weight(problem.temperature) for path in oracles.paths(problem)]
    assert (numpy_of(chain.log_prob(batch)) <= max(weights) - numpy_of(chain.log_evidence) + 1e-9).all()
    again = posterior.sample_trajectories(num, seed=0)
    assert torch.equal(again.states, batch.states)
    assert torch.equal(again.actions, batch.actions)


def test_trajectories_of_a_discounted_graph_are_not_drawn() -> None:
    posterior = cai.infer(graph_of(oracles.random_problem(315, discount=0.7)).unroll(), cai.SumProduct())
    with pytest.raises(cai.Unavailable, match="discount"):
        posterior.sample_trajectories(3, seed=0)


@worlds
def test_save_and_load(options: dict, tmp_path: Path) -> None:
    """The trajectory travels along."""
    problem = oracles.random_problem(316, **options)
    with np.errstate(divide="ignore"):
        tie = cai.Factor(("s0", "s2"), np.log(1.0 - 0.9 * np.eye(3 + (problem.discount < 1))), "tie")
    posterior = cai.infer(graph_of(problem).unroll().add_factors(tie), cai.SumProduct())
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    for member in ("log_evidence", "state_marginals", "state_action_marginals"):
        assert torch.equal(getattr(again, member), getattr(posterior, member)), member
    assert torch.equal(again.policy(1, t=1).probs, posterior.policy(1, t=1).probs)
    assert torch.equal(again.marginal("s0", "s3"), posterior.marginal("s0", "s3"))


def test_callables_of_the_trajectory_are_filled_in_on_loading(tmp_path: Path) -> None:
    """A reward that is a function cannot be written: the file has a hole, which the same graph fills."""
    graph = graph_of(oracles.random_problem(317)).replace(reward=lambda s, a, following=None: 0.3 * s - 0.2 * a)
    posterior = cai.infer(graph.unroll(), cai.SumProduct())
    posterior.save(tmp_path / "posterior")
    with pytest.raises(ValueError, match="was saved without its .*give graph="):
        cai.load(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior", graph=graph.unroll())
    assert again.graph.trajectory.reward is graph.reward
    assert torch.equal(again.state_action_marginals, posterior.state_action_marginals)
