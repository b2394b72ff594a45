"""The frame of methods that learn from samples: what is refused, what is repeated, how a run ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.methods import Network, NoReplay, UniformReplay
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import ConstantReward, DelayedReward, EndlessReward, MatchingReward

SMALL = Network(body=cai.factors.MLPBody((8,)))


def tables(**options: Any) -> cai.TrajectoryGraph:
    return graph_of(oracles.random_problem(0, **({"horizon": None, "discount": 0.9} | options)))


def learned(graph: cai.TrajectoryGraph, seed: int | None = 0, callbacks: tuple = (), **options: Any) -> Any:
    return cai.infer(graph, cai.SoftQLearning(**({"num_steps": 300} | options)), seed=seed, callbacks=callbacks)


def parameters(posterior: Any) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in posterior.learner.memory()["modules"].values()])


class Callback(cai.AbstractCallback):
    """Calls a function after each step."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def on_step(self, progress: Any) -> None:
        self.function(progress)


def raising(error: BaseException, after: int = 100) -> Callback:
    def check(progress: Any) -> None:
        if progress.num_steps >= after:
            raise error

    return Callback(check)


# -- what is refused ------------------------------------------------------------------------------------------------


def observed() -> cai.TrajectoryGraph:
    model = cai.load_model("double_integrator", horizon=5)
    return model.replace(observation=cai.factors.LinearGaussianObservation(np.eye(2), np.eye(2)))


def composite() -> cai.TrajectoryGraph:
    space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)})
    return ConstantReward().graph(temperature=1.0).replace(state_space=space)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: MatchingReward().graph(temperature=1.0, discount=1.0),
            "needs a discount below 1, a horizon or declared",
        ),
        (lambda: tables(discount=1.0), "needs a discount below 1"),
        (lambda: tables(per_step=("reward",), horizon=3), "stationary, and the reward changes with time"),
        (lambda: tables(horizon=3).condition(states={2: 0}), "cannot heed evidence"),
        (observed, "hides them behind observations"),
        (composite, "FlattenObservation makes a box of a composite one"),
        (lambda: MatchingReward("box").graph(temperature=1.0), "a head that is named|finitely many actions|Box"),
        (
            lambda: cai.TrajectoryGraph(None, lambda s, a: s, lambda s, a: 0.0, discount=0.5),
            "needs the graph's state_space",
        ),
    ],
    ids=["discount 1", "no terminal", "per step", "evidence", "observation", "composite", "box", "no space"],
)
def test_graphs_refused(make: Any, message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(make(), cai.SoftQLearning(head=SMALL if "Box" in message else None))


@pytest.mark.parametrize(
    "graph", [tables(discount=1.0, num_terminal=1), tables(discount=1.0, horizon=4)], ids=["terminal", "horizon"]
)
def test_discount_one_where_something_ends(graph: cai.TrajectoryGraph) -> None:
    assert learned(graph).stats.num_steps == 300


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": 10.5}, "num_steps must be a whole number"),
        ({"num_envs": 0}, "num_envs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"learning_starts": -1}, "learning_starts must be a whole number of at least 0"),
        ({"updates_per_step": 0.0}, "updates_per_step must be positive"),
        ({"updates_per_step": math.nan}, "updates_per_step must be positive"),
        ({"n_step": 2, "replay": NoReplay()}, "NoReplay keeps one step"),
        ({"replay": None}, "replay must be such as UniformReplay"),
        ({"replay": UniformReplay(2), "num_envs": 4}, "capacity of 2 does not hold"),
        ({"head": "table"}, r"head must be such as cai\.methods\.Tabular"),
        ({"exploration": 0.1}, r"exploration must be such as cai\.methods\.EpsilonGreedy"),
        ({"vectorization_mode": "threads"}, "vectorization_mode"),
    ],
    ids=str,
)
def test_options_refused(options: dict, message: str) -> None:
    graph = MatchingReward(states="index").graph(temperature=1.0)
    with pytest.raises(ValueError, match=message):
        learned(graph, **options)


def test_a_table_needs_discrete_states() -> None:
    graph = MatchingReward().graph(temperature=1.0)
    with pytest.raises(cai.IncompatibleMethod, match=r"a table needs Discrete spaces.*Network\(\) takes others"):
        learned(graph, head=cai.methods.Tabular())


# -- the same again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: MatchingReward().graph(temperature=0.5), tables], ids=["network", "table"])
def test_seeds(make: Any) -> None:
    graph = make()
    head = SMALL if isinstance(graph.state_space, gymnasium.spaces.Box) else None
    first, again, other = (learned(graph, seed, head=head, num_envs=2) for seed in (1, 1, 2))
    assert torch.equal(parameters(first), parameters(again))
    assert first.history.rows == again.history.rows
    assert not torch.equal(parameters(first), parameters(other))
    assert not torch.equal(parameters(learned(graph, None, head=head)), parameters(learned(graph, None, head=head)))


def test_the_generators_of_the_process_are_left_alone() -> None:
    graph = MatchingReward().graph(temperature=0.5)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    posterior = learned(graph, head=SMALL)
    _ = posterior.log_evidence, posterior.sample(2, seed=0)
    torch.testing.assert_close(torch.rand(3), expected[0], rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_what_happens_between_steps_does_not_matter() -> None:
    """Callbacks may draw, evaluate and reseed as they like."""

    def disturb(progress: Any) -> None:
        torch.manual_seed(progress.num_steps)
        progress.posterior().sample(2, length=3)

    graph = MatchingReward().graph(temperature=0.5)
    calm = learned(graph, head=SMALL)
    disturbed = learned(graph, head=SMALL, callbacks=(Callback(disturb),))
    assert torch.equal(parameters(calm), parameters(disturbed))


# -- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_num_steps_are_exact(mode: str) -> None:
    """Rows that a vector form spends on a reset are no steps; the last step of all copies may go beyond."""
    graph = cai.from_gym("CartPole-v1", discount=0.99, temperature=0.0)
    rows: list[dict] = []
    posterior = learned(
        graph, num_steps=500, num_envs=3, head=SMALL, vectorization_mode=mode, train_every=10, updates_per_step=0.3,
        learning_starts=100, callbacks=(Callback(lambda progress: rows.append(progress.metrics)),),
    )  # fmt: skip
    assert 500 <= posterior.stats.num_steps < 503
    assert posterior.stats.converged
    assert [row["num_steps"] for row in rows] == sorted({row["num_steps"] for row in rows})
    assert rows[-1]["num_updates"] == pytest.approx(0.3 * (posterior.stats.num_steps - 100), abs=0.3 * 13 + 1)
    assert rows[-1]["return"] == pytest.approx(rows[-1]["episode_length"])  # one of reward a step


@pytest.mark.parametrize("updates_per_step, train_every", [(1.0, 1), (0.25, 1), (2.0, 1), (0.5, 8)])
def test_num_updates_are_exact(updates_per_step: float, train_every: int) -> None:
    posterior = learned(
        tables(), num_steps=250, learning_starts=10, updates_per_step=updates_per_step, train_every=train_every
    )
    assert posterior.history.rows[-1]["num_updates"] == 240 * updates_per_step


def test_metrics_have_their_names() -> None:
    posterior = learned(DelayedReward().graph(temperature=0.5), head=SMALL)
    names = {
        "num_steps", "num_updates", "num_episodes", "return", "episode_length", "temperature", "entropy",
        "bellman_residual", "q_loss", "gradient_norm",
    }  # fmt: skip
    assert names == set(posterior.history.names)
    curve = posterior.history.curve("return")
    assert curve.values[-1] == 1.0
    assert posterior.history.rows[-1]["episode_length"] == 2.0
    assert 0.0 < posterior.history.rows[-1]["entropy"] <= math.log(3) + 1e-6


# -- worlds ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_copies_one_after_another_and_in_processes_are_the_same() -> None:
    graph = EndlessReward().graph(temperature=0.5, discount=0.5)
    here = learned(graph, num_steps=120, num_envs=2, head=SMALL, learning_starts=20)
    there = learned(graph, num_steps=120, num_envs=2, head=SMALL, learning_starts=20, vectorization_mode="async")
    assert torch.equal(parameters(here), parameters(there))


def test_callable_dynamics() -> None:
    """A point that steps left or right and is paid where it stands; its horizon truncates, and does not end."""
    space = gymnasium.spaces.Discrete(2)
    dynamics = lambda state, action: torch.distributions.Independent(  # noqa: E731
        torch.distributions.Normal((state + (2.0 * action[..., None] - 1.0)).clamp(-1, 1), 1e-6), 1
    )
    graph = cai.TrajectoryGraph(
        cai.factors.Delta([0.0]), dynamics, lambda state, action: state[..., 0],
        horizon=10, discount=0.5, temperature=0.1, action_space=space,
        state_space=gymnasium.spaces.Box(-1.1, 1.1, (1,)),
    )  # fmt: skip
    posterior = learned(
        graph, num_steps=800, num_envs=4, updates_per_step=0.5, learning_starts=50,
        head=Network(cai.factors.MLPBody((32,)), learning_rate=0.01, target=cai.methods.PolyakTarget(0.1)),
    )  # fmt: skip
    v, x = np.zeros(3), np.array([-1.0, 0.0, 1.0])
    for _ in range(60):
        q = x[:, None] + 0.5 * v[np.array([[0, 1], [0, 2], [1, 2]])]
        v = 0.1 * np.log(np.exp(q / 0.1).mean(1))
    states = torch.from_numpy(x).float()[:, None, None].expand(3, 2, 1)
    np.testing.assert_allclose(posterior.q(states, torch.arange(2)), q, atol=0.1)


# -- how a run ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), cai.StopInference("enough")], ids=["interrupt", "stop"])
def test_what_is_stopped_has_its_answer(reason: BaseException) -> None:
    posterior = learned(tables(), num_steps=10_000, callbacks=(raising(reason, 200),))
    assert posterior.stats.num_steps == 200
    assert not posterior.stats.converged
    assert len(posterior.history) == 2
    shorter = learned(tables(), num_steps=200)
    assert torch.equal(parameters(posterior), parameters(shorter))


def test_an_error_carries_what_was_learned() -> None:
    with pytest.raises(RuntimeError, match="disk full") as caught:
        learned(tables(), callbacks=(raising(RuntimeError("disk full"), 200),))
    assert caught.value.posterior.stats.num_steps == 200
    assert torch.equal(parameters(caught.value.posterior), parameters(learned(tables(), num_steps=200)))


class Breaking(MatchingReward):
    """Gives a bad reward after some steps."""

    def __init__(self, reward: float, after: int) -> None:
        super().__init__()
        self.bad, self.after, self.taken = reward, after, 0

    def step(self, action: Any) -> Any:
        self.taken += 1
        state, reward, *rest = super().step(action)
        if self.taken > self.after:
            if self.bad == 0.0:
                raise RuntimeError("the simulator fell over")
            reward = self.bad
        return state, reward, *rest


@pytest.mark.parametrize("reward", [math.nan, math.inf, 0.0], ids=["nan", "inf", "crash"])
def test_a_world_that_breaks(reward: float) -> None:
    graph = Breaking(reward, 70).graph(temperature=0.5)
    kind = RuntimeError if reward == 0.0 else cai.NonFinite
    with pytest.raises(kind) as caught:
        learned(graph, num_envs=2, head=SMALL, learning_starts=10)
    said = " ".join([str(caught.value), *caught.value.__notes__])
    assert "environment 0" in said
    assert "step 70" in said
    posterior = caught.value.posterior
    assert posterior.stats.num_steps == 140
    assert torch.isfinite(posterior.v(graph.dynamics.env.states)).all()


def test_a_loss_that_overflows_names_the_update_and_leaves_what_was_learned() -> None:
    graph = MatchingReward().graph(temperature=0.5, reward=lambda state, action: 3e38 * torch.ones(len(state)))
    with pytest.raises(cai.NonFinite, match="SoftQLearning: at update 1, the q loss is inf") as caught:
        learned(graph, head=SMALL)
    assert torch.isfinite(parameters(caught.value.posterior)).all()


# -- going on -------------------------------------------------------------------------------------------------------


def test_a_live_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """A live environment cannot be put back: what was learned is, and episodes begin anew."""
    graph, path = MatchingReward().graph(temperature=0.5), tmp_path / "checkpoint"
    options: dict[str, Any] = {"num_steps": 400, "head": SMALL, "replay": UniformReplay(1000)}
    stopped = learned(graph, callbacks=(cai.Checkpoint(path), raising(cai.StopInference("now"), 200)), **options)
    seen: list[Any] = []
    watch = Callback(lambda progress: seen.append((progress.num_steps, parameters(progress.posterior()))))
    resumed = cai.infer(graph, cai.SoftQLearning(**options), resume=path, callbacks=[watch])
    assert [steps for steps, _ in seen] == [300, 400]
    assert len(resumed.history) == 4
    assert resumed.history.rows[:2] == stopped.history.rows
    assert resumed.learner._count.num_updates == 300
    longer = cai.infer(graph, cai.SoftQLearning(**(options | {"num_steps": 600})), resume=path)
    assert longer.stats.num_steps == 600


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    learned(tables(), callbacks=(cai.Checkpoint(path),))
    with pytest.raises(ValueError, match="another method or other settings"):
        cai.infer(tables(), cai.SoftQLearning(num_steps=500, batch_size=3), resume=path)
    with pytest.raises(ValueError, match="another graph"):
        cai.infer(tables(discount=0.8), cai.SoftQLearning(num_steps=500), resume=path)
