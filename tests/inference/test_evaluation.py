"""Evaluations: episodes with known returns, seeds, what is left alone, and the best policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

import cai
from cai.factors import greedy_action
from tests.inference.rehearsal import Rehearsal, StopAt

FACTORS = cai.factors


class Arms(gymnasium.Env):
    """Pays 10 times the action, plus the seed, at each of `1 + seed % 7` steps."""

    observation_space = Discrete(2)
    action_space = Discrete(4)
    num_resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        type(self).num_resets += 1
        self.seed, self.left = seed or 0, 1 + (seed or 0) % 7
        return 0, {}

    def step(self, action: int) -> Any:
        self.left -= 1
        return 1, 10.0 * action + self.seed, self.left == 0, False, {}

    @staticmethod
    def paid(action: int, seeds: Any) -> np.ndarray:
        return np.array([(10.0 * action + seed) * (1 + seed % 7) for seed in seeds])


class Uncopyable(Arms):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        self.held = (step for step in range(3))


def graph_of(env: gymnasium.Env, **options: Any) -> cai.TrajectoryGraph:
    return cai.from_gym(env, discount=0.9, **options)


def test_metrics_are_those_of_the_episodes() -> None:
    evaluation = cai.Evaluation(9, 100, seed=3)
    posterior = cai.infer(graph_of(Arms()), Rehearsal(300, favourites=(1, 3, 2)), callbacks=[evaluation])
    for action, row in zip((1, 3, 2), posterior.history.rows, strict=True):
        paid = Arms.paid(action, range(3, 12))
        assert row["evaluation_return"] == pytest.approx(paid.mean())
        assert row["evaluation_standard_error"] == pytest.approx(paid.std(ddof=1) / 3.0)
        assert row["evaluation_length"] == pytest.approx(np.mean([1 + seed % 7 for seed in range(3, 12)]))


def test_the_default_seeds_are_the_promised_ones() -> None:
    posterior = cai.infer(graph_of(Arms()), Rehearsal(100, favourites=(0,)), callbacks=[cai.Evaluation()])
    paid = Arms.paid(0, range(10_000, 10_020)).mean()
    assert posterior.history.rows[0]["evaluation_return"] == pytest.approx(paid)


def test_one_episode_has_no_standard_error() -> None:
    posterior = cai.infer(graph_of(Arms()), Rehearsal(100, favourites=(0,)), callbacks=[cai.Evaluation(1, seed=2)])
    assert posterior.history.rows[0]["evaluation_return"] == Arms.paid(0, [2])
    assert np.isnan(posterior.history.rows[0]["evaluation_standard_error"])


@pytest.mark.parametrize(
    ("interval", "report", "total", "when"),
    [
        (100, 100, 500, [100, 200, 300, 400, 500]),
        (250, 100, 700, [300, 500, 700]),
        (1000, 100, 300, [300]),
        (50, 120, 360, [120, 240, 360]),
    ],
)
def test_when_it_evaluates(interval: int, report: int, total: int, when: list[int]) -> None:
    method = Rehearsal(total, interval=report, favourites=(0,))
    posterior = cai.infer(graph_of(Arms()), method, callbacks=[cai.Evaluation(2, interval)])
    assert posterior.history.curve("evaluation_return").steps.tolist() == when


def test_the_best_is_kept(tmp_path: Path) -> None:
    evaluation = cai.Evaluation(5, 100, seed=1, path=tmp_path / "best")
    graph, method = graph_of(Arms()), Rehearsal(500, favourites=(1, 3, 0, 3, 2))
    cai.infer(graph, method, callbacks=[evaluation])
    assert evaluation.best_steps == 200  # the first of the two that are equally good
    assert evaluation.best_return == pytest.approx(Arms.paid(3, range(1, 6)).mean())
    best = cai.load(tmp_path / "best", graph=graph)
    assert greedy_action(best.policy(0)) == 3 and best.stats.num_steps == 200


@pytest.mark.parametrize(("then", "best"), [(2, 200), (3, 300)])
def test_a_resumed_run_knows_what_was_best(then: int, best: int, tmp_path: Path) -> None:
    graph, file, checkpoint = graph_of(Arms()), tmp_path / "best", tmp_path / "checkpoint"
    first = cai.Evaluation(3, 100, path=file)
    started = Rehearsal(500, favourites=(1, 2, then))
    cai.infer(graph, started, callbacks=[first, cai.Checkpoint(checkpoint), StopAt(200)])
    second = cai.Evaluation(3, 100, path=file)
    posterior = cai.infer(graph, started, callbacks=[second], resume=checkpoint)
    assert second.best_steps == best and cai.load(file, graph=graph).stats.num_steps == best
    assert posterior.history.curve("evaluation_return").steps.tolist() == [100, 200, 300, 400, 500]


def test_a_resumed_run_counts_the_interval_from_where_it_was(tmp_path: Path) -> None:
    graph, method = graph_of(Arms()), Rehearsal(1200, favourites=(1,))
    cai.infer(graph, method, callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(700)])
    posterior = cai.infer(graph, method, callbacks=[cai.Evaluation(2, 500)], resume=tmp_path / "c")
    assert posterior.history.curve("evaluation_return").steps.tolist() == [1000, 1200]


def test_the_environment_of_the_run_and_random_numbers_are_left_alone() -> None:
    env = Arms()
    env.reset(seed=5)
    before, drawn = (env.seed, env.left), torch.get_rng_state()
    cai.infer(graph_of(env), Rehearsal(300), callbacks=[cai.Evaluation(4, 100, choose=cai.plan.sampled_action)])
    assert (env.seed, env.left) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_drawn_actions_repeat_with_the_seed() -> None:
    def evaluated(seed: int) -> float:
        evaluation = cai.Evaluation(30, 100, seed=seed, choose=cai.plan.sampled_action)
        cai.infer(graph_of(Arms()), Rehearsal(100, favourites=(1,)), callbacks=[evaluation])
        return evaluation.best_return

    assert evaluated(1) == evaluated(1) != evaluated(2)
    assert evaluated(1) != pytest.approx(Arms.paid(1, range(1, 31)).mean())


def test_tables_are_sampled() -> None:
    """The mean is that of the exact evaluation, terminal rewards included, within 4 standard errors."""
    graph = cai.load_model("gridworld", slip=0.3, horizon=20)
    posterior = cai.infer(graph, Rehearsal(100, favourites=(1,)), callbacks=[cai.Evaluation(2000)])
    row = posterior.history.rows[0]
    table = torch.zeros(graph.dynamics.num_states, graph.dynamics.num_actions)
    table[:, 1] = 1.0
    exact = cai.infer(graph, cai.PolicyEvaluation(FACTORS.TabularPolicy(table))).expected_return
    assert 0.0 < row["evaluation_standard_error"] < 0.3
    assert abs(row["evaluation_return"] - float(exact)) < 4.0 * row["evaluation_standard_error"]


def test_an_episode_that_does_not_end_is_cut_off() -> None:
    graph = cai.load_model("two_state", horizon=None, discount=0.9)
    posterior = cai.infer(graph, Rehearsal(100, favourites=(0,)), callbacks=[cai.Evaluation(3, length=17)])
    assert posterior.history.rows[0]["evaluation_length"] == 17


@pytest.mark.parametrize("world", ["FrozenLake-v1", "environment", "graph"])
def test_other_worlds(world: str) -> None:
    graph = cai.from_gym("FrozenLake-v1", discount=0.9, horizon=100)
    given: Any = {"environment": lambda: gymnasium.make("FrozenLake-v1"), "graph": lambda: graph}.get(
        world, lambda: world
    )()
    evaluation = cai.Evaluation(10, world=given, seed=0)
    arms = cai.TrajectoryGraph(
        graph.initial, graph.dynamics, FACTORS.TabularReward(torch.full((16,), 50.0)), discount=0.9
    )
    cai.infer(arms, Rehearsal(100, favourites=(2,)), callbacks=[evaluation])
    assert 0.0 <= evaluation.best_return <= 1.0


def test_a_world_that_cannot_be_copied_is_run_episode_by_episode() -> None:
    evaluation = cai.Evaluation(9, 100, seed=3, world=Uncopyable())
    cai.infer(graph_of(Arms()), Rehearsal(100, favourites=(1,)), callbacks=[evaluation])
    assert evaluation.best_return == pytest.approx(Arms.paid(1, range(3, 12)).mean())


def test_vector_forms_do_not_share_a_seed() -> None:
    """CartPole's own vector form draws all copies from one seed; episode i is promised seed + i."""
    graph = cai.from_gym("CartPole-v1", discount=0.9)
    first = []
    env = gymnasium.make("CartPole-v1")
    for i in range(3):
        first.append(env.reset(seed=20 + i)[0])
    seen: list[Any] = []
    world = cai.simulate.returns.world_for_episodes(graph, 3)

    def act(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.clone())
        return torch.zeros(3, dtype=torch.int64)

    cai.simulate.returns.run_episodes(world, act, 3, seed=20, length=2)
    assert np.array_equal(seen[0].numpy(), np.stack(first))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"num_episodes": 0}, {"interval": 0}, {"length": -1}])
def test_numbers_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1"):
        cai.Evaluation(**options)


def test_methods_without_an_answer_on_the_way_are_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="Evaluation: SoftValueIteration has no answer before it is done"):
        cai.infer(cai.load_model("two_state"), cai.SoftValueIteration(), callbacks=[cai.Evaluation()])


@pytest.mark.parametrize("num_episodes", [1, 5])
def test_the_environment_of_the_run_is_not_borrowed(num_episodes: int) -> None:
    with pytest.raises(ValueError, match="the run's own environment is in use, give another by world="):
        cai.infer(graph_of(Uncopyable()), Rehearsal(), callbacks=[cai.Evaluation(num_episodes)])


def test_a_folder_that_is_missing_is_refused_before_any_work(tmp_path: Path) -> None:
    Arms.num_resets = 0
    with pytest.raises(FileNotFoundError, match="missing"):
        cai.infer(graph_of(Arms()), Rehearsal(), callbacks=[cai.Evaluation(path=tmp_path / "missing" / "best")])
    assert Arms.num_resets == 0


def test_worlds_that_are_none() -> None:
    with pytest.raises(
        ValueError, match="no world to run the policy in; give one by world=: cannot make the environment 'Nothing-v0'"
    ):
        cai.infer(graph_of(Arms()), Rehearsal(), callbacks=[cai.Evaluation(world="Nothing-v0")])


def test_policies_without_a_mode_must_be_drawn_from() -> None:
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)), 1),
    )
    with pytest.raises(ValueError, match="MixtureSameFamily has neither mode nor median; draw from it"):
        greedy_action(mixture)


def test_greedy_actions() -> None:
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.arange(3.0), torch.ones(3)), 1)
    assert torch.equal(greedy_action(normal), torch.arange(3.0))
    assert greedy_action(torch.distributions.Categorical(probs=torch.tensor([0.2, 0.5, 0.3]))) == 1
