"""The posterior of a method that learns: shapes, what running it tells, and what comes back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.methods import Network
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import ChoiceReward, DelayedReward, MatchingReward

SMALL = Network(body=cai.factors.MLPBody((8,)))


def learned(graph: cai.TrajectoryGraph, **options: Any) -> cai.LearnedPosterior:
    method = cai.SoftQLearning(**({"num_steps": 200, "num_envs": 2} | options))
    return cai.infer(graph, method, seed=0)  # type: ignore[return-value]


def tables(**options: Any) -> cai.TrajectoryGraph:
    defaults = {"num_states": 4, "num_actions": 3, "horizon": None, "discount": 0.8, "num_terminal": 1}
    return graph_of(oracles.random_problem(3, **(defaults | options)))


# -- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, SMALL], ids=["table", "network"])
def test_shapes_on_discrete_states(head: Any) -> None:
    posterior = learned(tables(), head=head)
    states, actions = torch.arange(4), torch.arange(3)
    q = posterior.q(states[:, None], actions)
    assert q.shape == (4, 3)
    assert posterior.q(2, 1).shape == ()
    assert posterior.q(np.array([2, 0]), np.array([1, 1])).shape == (2,)
    assert posterior.q(2, actions).shape == (3,)
    torch.testing.assert_close(posterior.q(2, actions), q[2])
    torch.testing.assert_close(posterior.q(states[:, None], actions, t=7), q)
    assert posterior.v(states.reshape(2, 2)).shape == (2, 2)
    assert posterior.policy(np.zeros((5, 2), np.int64)).probs.shape == (5, 2, 3)
    torch.testing.assert_close(posterior.advantage(states[:, None], actions), q - posterior.v(states)[:, None])
    live = ~tables().dynamics.terminal_mask
    mu = tables().action_prior.probs
    ratio = posterior.policy(states).probs.double().log() - mu.log()
    torch.testing.assert_close(
        ratio[live], (posterior.advantage(states[:, None], actions) / 0.7).double()[live], atol=1e-5, rtol=0
    )
    for bad in (4, -1, 0.5):
        with pytest.raises(ValueError, match="outside|whole numbers"):
            posterior.v(bad)
    assert not q.requires_grad


def test_shapes_on_vectors() -> None:
    world = MatchingReward()
    posterior = learned(world.graph(temperature=0.5), head=SMALL)
    states = torch.from_numpy(world.states)
    assert posterior.q(states[:, None], torch.arange(3)).shape == (2, 3)
    assert posterior.q(states[0], 1).shape == ()
    assert posterior.v(states[0]).shape == ()
    assert posterior.v(np.zeros((3, 4, 2))).shape == (3, 4)
    assert posterior.policy(states[0].double()).probs.shape == (3,)
    torch.testing.assert_close(posterior.v(states.double()), posterior.v(world.states))
    with pytest.raises(ValueError, match=r"expected \[\*batch, 2\]"):
        posterior.v(torch.zeros(3))


# -- what running it tells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"terminal_reward": True}, {"horizon": 3, "terminal_reward": True}, {"prior": "flat"}],
    ids=["plain", "terminal reward", "horizon", "flat prior"],
)
def test_estimates_agree_with_the_exact_evaluation(options: dict) -> None:
    """Episodes run in the tables, against linear algebra on them; a discounted future below 0.001 is left out."""
    graph = tables(**options)
    posterior = learned(graph)
    exact = cai.infer(graph, cai.PolicyEvaluation(posterior.policy))
    torch.testing.assert_close(posterior.log_evidence, exact.log_evidence)
    torch.testing.assert_close(posterior.expected_return, exact.expected_return)
    torch.testing.assert_close(posterior.state_marginals, exact.state_marginals)
    assert posterior.is_bound
    estimate = posterior.bound(4000, seed=1)
    largest = float(exact.v(torch.arange(4)).abs().max()) / float(graph.temperature)
    left_out = 0.0 if graph.horizon else 1e-3 * largest
    assert abs(estimate.mean - float(exact.log_evidence)) < 5 * estimate.standard_error + left_out
    episodes = posterior._episodes(4000, 2)
    totals = (episodes.rewards * episodes.weights).sum(1) + episodes.endings
    assert abs(float(totals.mean() - exact.expected_return)) < 5 * float(totals.std()) / 4000**0.5 + left_out
    soft = cai.infer(graph, cai.SoftValueIteration())
    assert float(posterior.log_evidence) <= float(soft.log_evidence) + 1e-9
    gap = soft.gap(posterior._evaluated)
    torch.testing.assert_close(gap.evidence_gap, soft.log_evidence - posterior.log_evidence)
    samples = posterior.sample(5, seed=0, length=3)
    torch.testing.assert_close(posterior.log_prob(samples), exact.log_prob(samples))


def test_estimates_in_a_live_world() -> None:
    """Two steps, of which the first pays through the second: the bound of the exact policy is the evidence."""
    world = ChoiceReward()
    ends = lambda state: 2.0 * state[..., 1]  # noqa: E731  (twice the phase: 2 at every end)
    options = {"temperature": 0.5, "discount": 0.8}
    posterior = learned(
        world.graph(**options).replace(terminal_reward=ends), num_steps=1600, updates_per_step=0.5,
        head=Network(cai.factors.MLPBody((32,)), target=cai.methods.PolyakTarget(0.1), learning_rate=5e-3),
    )  # fmt: skip
    evidence = (world.v(world.states[:1], **options)[0] + 0.8**2 * 2.0) / 0.5
    estimate = posterior.bound(500)
    assert abs(estimate.mean - evidence) < 5 * estimate.standard_error + 0.05
    assert float(posterior.log_evidence) == posterior.bound().mean
    assert float(posterior.expected_return) == pytest.approx(0.5 * estimate.mean, abs=0.5)
    for name in ("state_marginals", "state_action_marginals", "occupancy", "entropy"):
        with pytest.raises(
            cai.Unavailable, match=f"SoftQLearning gives no {name} on this graph: the graph has no tables"
        ):
            getattr(posterior, name)
    with pytest.raises(cai.Unavailable, match="no tables"):
        posterior.log_prob(posterior.sample(2, seed=0))


def test_there_is_no_evidence_at_temperature_zero() -> None:
    posterior = learned(MatchingReward().graph(temperature=0.0), head=SMALL)
    with pytest.raises(cai.Unavailable, match="temperature 0"):
        _ = posterior.log_evidence
    assert np.isfinite(float(posterior.expected_return))


# -- files ----------------------------------------------------------------------------------------------------------


def test_a_live_posterior_comes_back_with_its_world(tmp_path: Path) -> None:
    world = DelayedReward()
    graph = world.graph(temperature=0.5, discount=0.9)
    posterior = learned(graph, head=SMALL)
    posterior.save(tmp_path / "file")
    with pytest.raises(ValueError, match="hole|graph="):
        cai.load(tmp_path / "file")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    again = cai.load(tmp_path / "file", graph=graph)
    assert torch.equal(torch.rand(2), expected)
    states, actions = world.pairs_of_both
    assert torch.equal(again.q(states, actions), posterior.q(states, actions))
    assert again.history.rows == posterior.history.rows
    assert again.stats == posterior.stats
    assert again.method == posterior.method
    assert torch.equal(again.sample(4, seed=1).actions, posterior.sample(4, seed=1).actions)


def test_a_tabular_posterior_comes_back_alone(tmp_path: Path) -> None:
    posterior = learned(tables())
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    states, actions = torch.arange(4)[:, None], torch.arange(3)
    assert torch.equal(again.q(states, actions), posterior.q(states, actions))
    torch.testing.assert_close(again.log_evidence, posterior.log_evidence, rtol=0, atol=0)


def test_a_file_of_other_networks_is_damaged(tmp_path: Path) -> None:
    graph = MatchingReward().graph(temperature=0.5)
    posterior = learned(graph, head=SMALL)
    other = learned(graph, head=Network(body=cai.factors.MLPBody((9,))))
    broken = cai.LearnedPosterior(graph, posterior.method, posterior.stats, other.learner, posterior.history)
    broken.save(tmp_path / "file")
    with pytest.raises(cai.CorruptFile, match="does not fit the networks"):
        cai.load(tmp_path / "file", graph=graph)


def test_spaces_that_do_not_start_at_zero() -> None:
    class Numbered(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2, start=7)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action), action
            return np.zeros(1, np.float32), float(action == 8), True, False, {}

    graph = cai.from_gym(Numbered(), discount=0.9, temperature=0.5)
    posterior = learned(graph, head=Network(cai.factors.MLPBody((8,)), learning_rate=0.01), num_steps=400)
    q = posterior.q(torch.zeros(2, 1), np.array([7, 8]))
    torch.testing.assert_close(q, torch.tensor([0.0, 1.0]), atol=0.1, rtol=0)
    estimate = posterior.bound(300)
    assert abs(estimate.mean - np.log(0.5 + 0.5 * np.exp(2.0))) < 5 * estimate.standard_error + 0.05
