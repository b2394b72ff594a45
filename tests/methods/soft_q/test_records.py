"""Soft Q-learning on recorded data: fitted iteration against the exact answer of the empirical model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.factors import RecordedDynamics
from cai.methods import Network, PolyakTarget, PrioritisedReplay
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import MatchingReward

#: What nobody would go through.
DOOM = -2000.0


def some_graph(seed: int = 0, **options: Any) -> cai.TrajectoryGraph:
    defaults = {"num_states": 5, "num_actions": 3, "horizon": None, "discount": 0.8, "num_terminal": 1}
    return graph_of(oracles.random_problem(seed, **(defaults | options)))


def recorded_graph(graph: cai.TrajectoryGraph, num: int, seed: int = 0, length: int = 6) -> cai.TrajectoryGraph:
    """The graph with what a uniform policy met in it in the place of its dynamics and reward."""
    data = cai.rollout(graph, cai.UniformPolicy(), num, seed=seed, length=length)
    recorded = RecordedDynamics(data)
    return graph.replace(dynamics=recorded, reward=recorded)


def empirical(graph: cai.TrajectoryGraph, num_states: int, num_actions: int) -> cai.TrajectoryGraph:
    """The model of the counts: three more states for what ended, what was never done, and what nobody knows.

    Recorded transitions that ended lead to twins of their states, so that terminal rewards stay. What was never done
    leads to doom. A state in which nothing was done is an end itself.
    """
    data = graph.dynamics.trajectories
    counts = np.zeros((num_states, num_actions, 2 * num_states + 1))
    rewards = np.zeros((num_states, num_actions))
    for n in range(len(data)):
        for t in range(int(data.lengths[n])):
            s, a, following = int(data.states[n, t]), int(data.actions[n, t]), int(data.states[n, t + 1])
            ended = bool(data.terminated[n]) and t == int(data.lengths[n]) - 1
            counts[s, a, following + (num_states if ended else 0)] += 1
            rewards[s, a] += float(data.rewards[n, t])
    times = counts.sum(-1)
    size, doom = 2 * num_states + 1, 2 * num_states
    table = np.zeros((size, num_actions, size))
    table[:num_states] = counts / np.maximum(times, 1)[..., None]
    table[:num_states][times == 0, doom] = 1.0
    table[num_states:, :, doom] = 1.0
    terminal = np.ones(size, dtype=bool)
    terminal[:num_states] = times.sum(-1) == 0
    ends = np.zeros(size)
    if graph.terminal_reward is not None:
        ends[:num_states] = ends[num_states:doom] = graph.terminal_reward(torch.arange(num_states)).numpy()
    ends[doom] = DOOM
    values = np.zeros((size, num_actions))
    values[:num_states] = rewards / np.maximum(times, 1)
    prior = graph.action_prior
    if isinstance(prior, cai.factors.TabularPolicy):
        rows = np.full((size, num_actions), 1 / num_actions)
        rows[:num_states] = prior.probs.numpy()
        prior = cai.factors.TabularPolicy(rows)
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(np.eye(size)[0]),
        dynamics=cai.factors.TabularDynamics(table, terminal=terminal),
        reward=cai.factors.TabularReward(values),
        terminal_reward=cai.factors.TabularReward(ends),
        discount=graph.discount,
        temperature=graph.temperature,
        action_prior=prior,
    )


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "flat": {"prior": "flat"},
    "restricted": {"prior": "restricted"},
    "terminal reward": {"terminal_reward": True},
    "temperature zero": {"temperature": 0.0},
    "high discount": {"discount": 0.95},
}


@pytest.mark.parametrize("num", [6, 300])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_sweeps_are_the_exact_answer_of_the_counts(options: dict, num: int) -> None:
    graph = recorded_graph(some_graph(**options), num)
    posterior = cai.infer(graph, cai.SoftQLearning(num_steps=int(25 / (1 - graph.discount))))
    exact = cai.infer(empirical(graph, 5, 3), cai.SoftValueIteration(tolerance=1e-13))
    states, actions = torch.arange(5)[:, None], torch.arange(3)
    assert posterior.stats.residual < 1e-8
    done = torch.zeros(5, 3, dtype=torch.bool)
    data = graph.dynamics.trajectories
    done[data.states[:, :-1][data.mask], data.actions[data.mask]] = True
    if options.get("prior") != "restricted":
        assert bool(done.all(-1)[:4].all()) == (num == 300)
    q, true = posterior.q(states, actions), exact.q(states, actions)
    torch.testing.assert_close(q[done], true[done], atol=1e-8, rtol=0)
    assert bool((q[~done & done.any(-1, keepdim=True)] == -torch.inf).all())
    live = done.any(-1)
    if options.get("prior") == "restricted":  # something recorded must be allowed
        live &= (done & (graph.action_prior.probs > 0)).any(-1)
    torch.testing.assert_close(posterior.v(torch.arange(5))[live], exact.v(torch.arange(5))[live], atol=1e-8, rtol=0)
    probs, expected = (answer.policy(torch.arange(5)).probs[live] for answer in (posterior, exact))
    torch.testing.assert_close(probs.double(), expected, atol=1e-7, rtol=0)


def test_what_nothing_is_known_of_ends_the_episode() -> None:
    data = cai.Trajectories(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 0]]), torch.tensor([[1.0, 2.0]]))
    recorded = RecordedDynamics(data)
    ends = cai.factors.TabularReward([0.0, 0.0, 7.0])
    graph = cai.TrajectoryGraph(recorded, recorded, recorded, discount=0.5, terminal_reward=ends)
    assert graph.state_space == gymnasium.spaces.Discrete(3)
    assert graph.action_space == gymnasium.spaces.Discrete(2)
    posterior = cai.infer(graph, cai.SoftQLearning(num_steps=10))
    assert float(posterior.v(2)) == 7.0
    assert float(posterior.q(1, 0)) == pytest.approx(2.0 + 0.5 * 7.0)
    assert float(posterior.v(1)) == pytest.approx(5.5 - np.log(2))
    assert float(posterior.q(0, 0)) == -np.inf
    assert posterior.policy(torch.arange(3)).probs.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    with pytest.raises(cai.Unavailable, match="can neither be run nor tabulated"):
        _ = posterior.log_evidence


def test_rewards_of_another_factor() -> None:
    graph = recorded_graph(some_graph(), 300)
    other = cai.factors.TabularReward(np.arange(15.0).reshape(5, 3))
    data = graph.dynamics.trajectories
    moved = cai.Trajectories(
        data.states, data.actions, other(data.states[:, :-1], data.actions), data.lengths, data.terminated
    )
    recorded = RecordedDynamics(moved)
    tables = [
        cai.infer(g, cai.SoftQLearning(num_steps=100)).learner.table
        for g in (graph.replace(reward=other), graph.replace(dynamics=recorded, reward=recorded))
    ]
    torch.testing.assert_close(*tables, atol=1e-12, rtol=0)
    without = cai.Trajectories(data.states, data.actions)
    with pytest.raises(cai.IncompatibleMethod, match="no rewards were recorded"):
        cai.infer(graph.replace(dynamics=RecordedDynamics(without)), cai.SoftQLearning())
    cai.infer(graph.replace(dynamics=RecordedDynamics(without), reward=other), cai.SoftQLearning(num_steps=3))


def test_interrupted_sweeps_go_on_bit_for_bit(tmp_path: Path) -> None:
    from tests.methods.soft_q.test_tabular import StopAt

    graph = recorded_graph(some_graph(), 50)
    method = cai.SoftQLearning(num_steps=300)
    whole = cai.infer(graph, method, seed=0)
    path = tmp_path / "checkpoint"
    cai.infer(graph, method, seed=0, callbacks=[cai.Checkpoint(path), StopAt(100)])
    resumed = cai.infer(graph, method, resume=path)
    assert torch.equal(whole.learner.table, resumed.learner.table)
    whole.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    assert torch.equal(again.learner.table, whole.learner.table)


@pytest.mark.parametrize("replay", [cai.methods.UniformReplay(), PrioritisedReplay()], ids=["uniform", "prioritised"])
def test_a_network_comes_close(replay: Any) -> None:
    graph = recorded_graph(some_graph(discount=0.6), 400)
    head = Network(
        body=cai.factors.MLPBody(()), target=PolyakTarget(0.1), learning_rate=cai.methods.Annealed(0.05, 1e-3)
    )
    posterior = cai.infer(graph, cai.SoftQLearning(num_steps=800, head=head, replay=replay, batch_size=256), seed=0)
    exact = cai.infer(empirical(graph, 5, 3), cai.SoftValueIteration())
    states, actions = torch.arange(4)[:, None], torch.arange(3)  # the last is terminal
    error = (posterior.q(states, actions).double() - exact.q(states, actions)).abs()
    assert error.max() < 0.15  # what a batch of 256 with rewards of deviation 1 still moves at the end


def test_vectors_and_boxes() -> None:
    """States are vectors; spaces are inferred; several steps where nothing depends on log-ratios."""
    rng = np.random.default_rng(0)
    states = torch.from_numpy(rng.normal(size=(20, 5, 2))).float()
    actions = torch.from_numpy(rng.integers(0, 3, size=(20, 4)))
    recorded = RecordedDynamics(cai.Trajectories(states, actions, states[:, 1:, 0] + actions))
    graph = cai.TrajectoryGraph(recorded, recorded, recorded, discount=0.5, temperature=0.0)
    assert graph.state_space.shape == (2,)
    head = Network(body=cai.factors.MLPBody((8,)))
    posterior = cai.infer(graph, cai.SoftQLearning(num_steps=20, n_step=2, head=head), seed=0)
    assert posterior.policy(states).probs.shape == (20, 5, 3)
    pairs = torch.stack([actions, actions], -1)
    several = RecordedDynamics(cai.Trajectories(states, pairs, actions.float()))
    assert several.action_space == gymnasium.spaces.MultiDiscrete([3, 3])
    boxed = RecordedDynamics(cai.Trajectories(states, states[:, 1:], actions.float()))
    assert boxed.action_space.shape == (2,)


@pytest.mark.parametrize(
    "change, method, message",
    [
        ({"discount": 1.0, "horizon": 5}, cai.SoftQLearning(), "needs a discount below 1"),
        ({}, cai.SoftQLearning(n_step=2), "log.pi/mu. of the actions, which was not recorded"),
        ({}, cai.SoftQLearning(replay=cai.methods.PrioritisedReplay()), "sweeps all that was recorded"),
        ({}, cai.SoftQLearning(replay=cai.methods.NoReplay(), head=Network()), "does not hold recorded data"),
        ({"action_space": gymnasium.spaces.Discrete(2), "action_prior": None}, cai.SoftQLearning(), "does not fit"),
        ({"state_space": gymnasium.spaces.Discrete(3), "action_prior": None}, cai.SoftQLearning(), "does not fit"),
        ({}, cai.PolicyGradient(), "records of one only; SoftQLearning learns from them"),
        ({}, cai.SoftValueIteration(), "tab"),
    ],
    ids=["discount", "steps", "priorities", "no replay", "actions", "states", "policy gradient", "exact"],
)
def test_refusals(change: dict, method: Any, message: str) -> None:
    graph = recorded_graph(some_graph(), 30).replace(**change)
    with pytest.raises(ValueError, match=message):
        cai.infer(graph, method)


def test_bad_records() -> None:
    with pytest.raises(ValueError, match=r"expected cai\.Trajectories"):
        RecordedDynamics([1, 2])
    with pytest.raises(ValueError, match="have no actions"):
        RecordedDynamics(cai.Trajectories(torch.zeros(2, 3), torch.zeros(2, 2), lengths=torch.zeros(2)))
    graph = recorded_graph(some_graph(), 30)
    with pytest.raises(ValueError, match="can neither be run nor tabulated"):
        graph.dynamics(0, 1)
    with pytest.raises(ValueError, match="can neither be run nor tabulated"):
        cai.rollout(graph, cai.UniformPolicy(), 2, length=3)


def test_records_of_a_live_world_keep_its_spaces_and_rewards() -> None:
    world = MatchingReward()
    options = {"temperature": 0.5, "discount": 0.8}
    graph = world.graph(**options)
    data = cai.rollout(graph, cai.UniformPolicy(), 60, seed=0)
    recorded = graph.replace(dynamics=RecordedDynamics(data))
    assert (recorded.state_space, recorded.action_space) == (graph.state_space, graph.action_space)
    head = Network(cai.factors.MLPBody((16,)), learning_rate=cai.methods.Annealed(0.02, 1e-3))
    posterior = cai.infer(recorded, cai.SoftQLearning(num_steps=400, head=head), seed=0)
    states, actions = world.pairs_of_both
    np.testing.assert_allclose(posterior.q(states, actions), world.q(states, actions, **options), atol=0.05)
