"""Soft Q-learning on tables: against the exact messages, against closed forms, and the same again bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.data.transitions import Transitions
from cai.methods import EpsilonSoft, HarmonicSteps, PolynomialSteps, SoftPolicy, Tabular, UniformReplay
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import PROBES, Probe

#: Where nothing is random every update may go all the way.
ALL_THE_WAY = Tabular(PolynomialSteps(0.0))


def learned(graph: cai.TrajectoryGraph, seed: int = 0, **options: Any) -> cai.LearnedPosterior:
    defaults = {"num_steps": 20_000, "num_envs": 50, "batch_size": 512, "updates_per_step": 0.04}
    return cai.infer(graph, cai.SoftQLearning(**(defaults | options)), seed=seed)  # type: ignore[return-value]


def errors(posterior: cai.LearnedPosterior, exact: cai.Posterior) -> tuple[float, float]:
    """The greatest error of q on pairs that were seen, over max |q|; the greatest KL to the exact policy, nats."""
    dynamics = posterior.graph.dynamics
    live = (~dynamics.terminal_mask).nonzero().squeeze(-1)
    actions = torch.arange(dynamics.num_actions)
    true = exact.q(live[:, None], actions)
    seen = posterior.learner.num_updates[live] > 0  # type: ignore[attr-defined]
    error = (posterior.q(live[:, None], actions) - true).abs()[seen].max() / true.abs().max()
    known = live[seen.all(-1)]
    kl = torch.distributions.kl_divergence(posterior.policy(known), exact.policy(known))
    return float(error), float(kl.max())


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
@pytest.mark.parametrize("flat, num_envs", [(False, 1), (True, 3)])
def test_probes(probe: type[Probe], flat: bool, num_envs: int) -> None:
    world = probe(states="index")
    options = {"temperature": 0.3, "discount": 0.6}
    graph = world.graph(**options).replace(action_prior=cai.factors.FlatPrior() if flat else None)
    posterior = learned(graph, num_steps=300, num_envs=num_envs, batch_size=64, updates_per_step=0.7)
    states, actions = world.pairs_of_both
    # A mean of 300 coins over 3 actions, and the noise of the step size on top.
    tolerance = 5 * 0.5 / np.sqrt(50) if probe.__name__ == "RandomReward" else 1e-4
    np.testing.assert_allclose(
        posterior.q(states, actions), world.q(states, actions, flat=flat, **options), atol=tolerance
    )
    np.testing.assert_allclose(posterior.v(world.states), world.v(world.states, flat=flat, **options), atol=tolerance)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("world", ["FrozenLake-v1", "CliffWalking-v1"])
def test_equals_the_exact_messages_where_nothing_is_random(world: str, seed: int) -> None:
    options: dict[str, Any] = {"is_slippery": False} if world == "FrozenLake-v1" else {}
    graph = cai.from_gym(world, discount=0.99, temperature=0.1, **options)
    posterior = learned(graph, seed, num_steps=15_000, head=ALL_THE_WAY)
    error, kl = errors(posterior, cai.infer(graph, cai.SoftValueIteration()))
    assert error < 1e-6
    assert kl < 1e-6


def test_policy_on_the_slippery_lake() -> None:
    graph = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    posterior = learned(graph, num_steps=150_000, num_envs=500, batch_size=4096, updates_per_step=0.003)
    error, kl = errors(posterior, cai.infer(graph, cai.SoftValueIteration()))
    assert error < 4 * 0.47 / np.sqrt(200) / 0.59  # the goal is a coin of chance 1/3, thrown 200 times by each action
    assert kl < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slippery_lake_within_two_per_cent(seed: int) -> None:
    graph = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    many: dict[str, Any] = {"num_envs": 1000, "batch_size": 16_384, "updates_per_step": 0.001}
    posterior = learned(graph, seed, num_steps=4_000_000, replay=UniformReplay(4_000_000), **many)
    exact = cai.infer(graph, cai.SoftValueIteration())
    error, kl = errors(posterior, exact)
    assert error < 0.02
    assert kl < 0.003
    assert 0.0 <= float(exact.log_evidence - posterior.log_evidence) < 0.001


# -- random worlds, with everything that a graph may have -----------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"num_terminal": 1, "terminal_reward": True}, {"prior": "restricted", "num_actions": 3}, {"prior": "flat"}],
    ids=["plain", "terminal reward", "restricted prior", "flat prior"],
)
def test_random_worlds(options: dict) -> None:
    problem = oracles.random_problem(3, num_states=4, horizon=None, discount=0.7, density=0.6, **options)
    graph = graph_of(problem)
    exact = cai.infer(graph, cai.SoftValueIteration())
    posterior = learned(
        graph, num_steps=60_000, num_envs=200, batch_size=2048, updates_per_step=0.005, exploration=EpsilonSoft(0.5)
    )
    error, kl = errors(posterior, exact)
    assert error < 0.05
    assert kl < 0.02
    everywhere = torch.arange(4)
    forbidden = exact.policy(everywhere).probs == 0
    assert (posterior.policy(everywhere).probs[forbidden] == 0).all()
    assert float(exact.log_evidence - posterior.log_evidence) > -1e-9  # a bound, and exactly evaluated
    terminal = graph.dynamics.terminal_mask
    torch.testing.assert_close(posterior.v(everywhere)[terminal], exact.v(everywhere)[terminal])
    assert (posterior.advantage(everywhere[:, None], torch.arange(2))[terminal] == 0).all()


def test_temperature_zero_is_q_learning() -> None:
    graph = cai.from_gym("CliffWalking-v1", discount=0.9, temperature=0.0)
    posterior = learned(graph, num_steps=30_000, head=ALL_THE_WAY)
    error, _ = errors(posterior, cai.infer(graph, cai.SoftValueIteration()))
    assert error < 1e-6
    assert float(posterior.expected_return) == pytest.approx(-sum(0.9**t for t in range(13)))


@pytest.mark.parametrize("n_step", [2, 4])
def test_several_steps_have_the_same_answer(n_step: int) -> None:
    """With the soft policy as the behaviour and little left to learn, soft returns of n steps are unbiased."""
    graph = graph_of(oracles.random_problem(5, num_states=3, horizon=None, discount=0.7, temperature=1.0))
    exact = cai.infer(graph, cai.SoftValueIteration())
    options: dict[str, Any] = {"num_envs": 200, "batch_size": 4096, "updates_per_step": 0.005}
    posterior = learned(
        graph, num_steps=80_000, n_step=n_step, exploration=SoftPolicy(), replay=UniformReplay(40_000), **options
    )
    assert errors(posterior, exact)[0] < 0.05


# -- the arithmetic of an update ------------------------------------------------------------------------------------


def batch_of(states: list, actions: list, rewards: list, next_states: list, terminated: list) -> Transitions:
    num = len(states)
    return Transitions(
        torch.tensor(states), torch.tensor(actions), torch.tensor(rewards), torch.tensor(next_states),
        torch.tensor(terminated), torch.full((num,), 0.5), torch.zeros(num), torch.ones(num), torch.arange(num),
    )  # fmt: skip


def small_graph(**options: Any) -> cai.TrajectoryGraph:
    parts: dict[str, Any] = {"horizon": None, "discount": 0.5, "temperature": 1.0} | options
    return graph_of(oracles.random_problem(0, num_states=3)).replace(**parts)


def test_one_update_by_hand() -> None:
    method = cai.SoftQLearning(head=Tabular(PolynomialSteps(0.5), initial=1.0))
    learner = method.learner(small_graph())
    learner.learn(batch_of([0, 0, 1], [1, 1, 0], [2.0, 4.0, 6.0], [1, 2, 2], [False, False, True]))
    v = 1.0  # the uniform prior and equal values
    expected = torch.full((3, 2), 1.0, dtype=torch.float64)
    expected[0, 1] += 1.0 * ((2.0 + 4.0) / 2 + 0.5 * v - 1.0)
    expected[1, 0] += 1.0 * (6.0 - 1.0)
    torch.testing.assert_close(learner.table, expected)
    learner.learn(batch_of([0], [1], [0.0], [2], [True]))
    expected[0, 1] += 2**-0.5 * (0.0 - expected[0, 1])
    torch.testing.assert_close(learner.table, expected)
    assert learner.num_updates.tolist() == [[0, 2], [1, 0], [0, 0]]


def test_a_bad_target_leaves_the_table() -> None:
    learner = cai.SoftQLearning().learner(small_graph())
    learner.learn(batch_of([0], [1], [3.0], [1], [False]))
    before = learner.table.clone(), learner.num_updates.clone()
    with pytest.raises(cai.NonFinite, match="target"):
        learner.learn(batch_of([0, 1], [1, 1], [torch.inf, 1.0], [1, 2], [False, False]))
    torch.testing.assert_close((learner.table, learner.num_updates), before, rtol=0, atol=0)


def test_step_sizes() -> None:
    n = torch.tensor([1.0, 2.0, 101.0], dtype=torch.float64)
    torch.testing.assert_close(HarmonicSteps(10.0)(n), torch.tensor([1.0, 10 / 11, 10 / 110], dtype=torch.float64))
    torch.testing.assert_close(PolynomialSteps(1.0)(n), 1 / n)
    with pytest.raises(ValueError, match="scale must be positive"):
        HarmonicSteps(0.0)
    with pytest.raises(ValueError, match=r"exponent must be in \[0, 1\]"):
        PolynomialSteps(2.0)


# -- the same again -------------------------------------------------------------------------------------------------


def table_of(posterior: cai.Posterior) -> torch.Tensor:
    return posterior.learner.table  # type: ignore[attr-defined]


def test_same_seed_same_table() -> None:
    graph = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    first, again, other = (learned(graph, seed, num_steps=1500, num_envs=7) for seed in (4, 4, 5))
    assert torch.equal(table_of(first), table_of(again))
    assert not torch.equal(table_of(first), table_of(other))


class StopAt(cai.AbstractCallback):
    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def on_step(self, progress: Any) -> None:
        if progress.num_steps >= self.num_steps:
            raise cai.StopInference(f"{progress.num_steps} steps")


@pytest.mark.parametrize("replay", [UniformReplay(3000), cai.methods.PrioritisedReplay(3000), cai.methods.NoReplay()])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_resumed_run_is_the_same_bit_for_bit(replay: Any, n_step: int, tmp_path: Path) -> None:
    if isinstance(replay, cai.methods.NoReplay) and n_step > 1:
        pytest.skip("it keeps single steps")
    graph = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    method = cai.SoftQLearning(
        num_steps=900,
        num_envs=3,
        replay=replay,
        n_step=n_step,
        train_every=7,
        exploration=EpsilonSoft(cai.methods.Annealed(1.0, 0.1)),
    )
    whole = cai.infer(graph, method, seed=3)
    path = tmp_path / "checkpoint"
    stopped = cai.infer(graph, method, seed=3, callbacks=[cai.Checkpoint(path), StopAt(500)])
    assert 500 <= stopped.stats.num_steps < 900
    resumed = cai.infer(graph, method, seed=99, resume=path)
    assert torch.equal(table_of(whole), table_of(resumed))
    assert resumed.stats.num_steps == whole.stats.num_steps
    assert resumed.history.rows == whole.history.rows  # type: ignore[attr-defined]


def test_discrete_spaces_that_do_not_start_at_zero() -> None:
    class Shifted(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Discrete(2, start=5), gymnasium.spaces.Discrete(2, start=3)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.state = 5 + int(self.np_random.integers(2))
            return self.state, {}

        def step(self, action: Any) -> Any:
            return self.state, float(self.state == 5) + 2.0 * (action == 4), True, False, {}

    posterior = learned(cai.from_gym(Shifted(), discount=0.9, temperature=1.0), num_steps=500, num_envs=2)
    q = posterior.q(np.array([[5], [6]]), np.array([3, 4]))
    torch.testing.assert_close(q, torch.tensor([[1.0, 3.0], [0.0, 2.0]], dtype=torch.float64), atol=1e-4, rtol=0)
    policy = posterior.policy(5)
    assert set(policy.sample((50,)).tolist()) == {3, 4}
    assert float(policy.log_prob(torch.tensor(4)).exp()) == pytest.approx(np.exp(2) / (1 + np.exp(2)), abs=1e-4)
