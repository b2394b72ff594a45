"""Every method that learns from samples on every kind of world that it accepts: the promises that all of them make.

A new method joins with a line in `METHODS`, a new kind of world with a line in `WORLDS`. Runs are a few hundred steps:
nothing here asks whether anything was learned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.factors import MLPBody
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import MatchingReward

M, BODY = cai.methods, MLPBody((8,))


def tables(**options: Any) -> cai.TrajectoryGraph:
    defaults = {"num_states": 4, "num_actions": 3, "horizon": None, "discount": 0.8, "num_terminal": 1}
    return graph_of(oracles.random_problem(3, **(defaults | options)))


WORLDS: dict[str, Callable[[], cai.TrajectoryGraph]] = {
    "tables": lambda: tables(terminal_reward=True),
    "flat tables": lambda: tables(prior="flat"),
    "vectors": lambda: MatchingReward().graph(temperature=0.5),
    "boxes": lambda: MatchingReward("box").graph(temperature=0.5),
}
FINITE = ("tables", "flat tables", "vectors")
OFF_POLICY: dict[str, Any] = {"num_steps": 300, "num_envs": 2, "learning_starts": 20, "updates_per_step": 0.2}
ON_POLICY: dict[str, Any] = {"num_steps": 300, "num_envs": 2, "steps_per_rollout": 25}
METHODS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "SoftQLearning": (lambda: cai.SoftQLearning(**OFF_POLICY), FINITE[:2]),
    "SoftQLearning, network": (lambda: cai.SoftQLearning(head=M.Network(BODY), **OFF_POLICY), FINITE),
    "SoftQLearning, quadratic": (lambda: cai.SoftQLearning(head=M.Quadratic(BODY), **OFF_POLICY), ("boxes",)),
    "SoftQLearning, Stein": (
        lambda: cai.SoftQLearning(head=M.Stein(BODY, sampler_body=BODY, num_particles=4), **OFF_POLICY),
        ("boxes",),
    ),
    "SoftActorCritic": (lambda: cai.SoftActorCritic(body=BODY, batch_size=32, **OFF_POLICY), tuple(WORLDS)),
    "PolicyGradient": (lambda: cai.PolicyGradient(body=BODY, **ON_POLICY), tuple(WORLDS)),
    "PathConsistency": (lambda: cai.PathConsistency(num_steps=300, num_envs=2), FINITE),
    "CrossEntropyPolicySearch": (
        lambda: cai.CrossEntropyPolicySearch(num_steps=300, population=4, body=BODY),
        tuple(WORLDS),
    ),
}
PAIRS = [(method, world) for method, (_, worlds) in METHODS.items() for world in worlds]
pairs = pytest.mark.parametrize("method, world", PAIRS, ids=[f"{method} on {world}" for method, world in PAIRS])
methods = pytest.mark.parametrize("name", METHODS)


def learned(method: str, world: str, seed: int = 0, **parts: Any) -> Any:
    return cai.infer(WORLDS[world]().replace(**parts), METHODS[method][0](), seed=seed)


def states_of(graph: cai.TrajectoryGraph) -> torch.Tensor:
    if isinstance(graph.state_space, gymnasium.spaces.Discrete):
        return torch.arange(3)
    return torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.5, 0.0]])


def log_probs(posterior: Any, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Log-densities; where they are estimated by draws, by the same draws."""
    torch.manual_seed(0)
    return posterior.policy(states).log_prob(actions)


@pairs
def test_promises(method: str, world: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    posterior = learned(method, world)
    assert torch.equal(torch.rand(2), expected)
    graph = posterior.graph
    assert posterior.stats.num_steps >= 300
    assert posterior.stats.converged
    assert posterior.stats.estimates
    row = posterior.history.rows[-1]
    assert {"num_steps", "num_updates", "num_episodes", "return", "episode_length", "temperature"} <= set(row)
    assert row["num_steps"] == posterior.stats.num_steps
    assert all(np.isfinite(value) for row in posterior.history.rows for value in row.values())

    states = states_of(graph)
    policy = posterior.policy(states)
    actions = policy.sample()
    assert graph.action_space.contains(np.asarray(actions[0].numpy(), graph.action_space.dtype))
    assert policy.log_prob(actions).shape == (3,)
    assert torch.isfinite(policy.log_prob(actions)).all()
    assert not policy.log_prob(actions).requires_grad
    for read in (lambda: posterior.v(states), lambda: posterior.q(states, actions)):
        try:
            value = read()
        except cai.Unavailable as reason:
            assert len(str(reason)) > 20
        else:
            assert value.shape == (3,)
            assert torch.isfinite(value).all()
            assert not value.requires_grad

    samples = posterior.sample(4, seed=1, length=5)
    assert samples.actions.shape[:1] == (4,)
    assert torch.equal(samples.states, posterior.sample(4, seed=1, length=5).states)
    assert posterior.is_bound
    assert torch.isfinite(posterior.log_evidence)
    if "tables" in world:
        exact = cai.infer(WORLDS[world](), cai.SoftValueIteration())
        assert float(posterior.log_evidence) <= float(exact.log_evidence) + 1e-6
        assert posterior.state_marginals.sum() == pytest.approx(1.0)

    path = tmp_path / "posterior"
    posterior.save(path)
    again = cai.load(path, graph=WORLDS[world]())
    assert torch.equal(log_probs(again, states, actions), log_probs(posterior, states, actions))
    assert again.history.rows == posterior.history.rows


@pairs
def test_seeds(method: str, world: str) -> None:
    first, again = learned(method, world, 3), learned(method, world, 3)
    states = states_of(first.graph)
    actions = first.policy(states).sample()
    assert torch.equal(log_probs(first, states, actions), log_probs(again, states, actions))
    assert first.history.rows == again.history.rows


class At(cai.AbstractCallback):
    """Raises after so many steps."""

    def __init__(self, num_steps: int, error: BaseException) -> None:
        self.num_steps, self.error = num_steps, error

    def on_step(self, progress: Any) -> None:
        assert progress.total_steps == 300
        assert progress.posterior().stats.num_steps == progress.num_steps
        if progress.num_steps >= self.num_steps:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), cai.StopInference(), RuntimeError("full")], ids=repr)
@methods
def test_ends_early(name: str, error: BaseException) -> None:
    make, worlds = METHODS[name]
    graph, states = WORLDS[worlds[-1]](), None
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="full") as caught:
            cai.infer(graph, make(), seed=0, callbacks=[At(1, error)])
        posterior = caught.value.posterior  # type: ignore[attr-defined]
    else:
        posterior = cai.infer(graph, make(), seed=0, callbacks=[At(1, error)])
    states = states_of(graph)
    assert posterior.stats.num_steps > 0
    assert torch.isfinite(posterior.policy(states).log_prob(posterior.policy(states).sample())).all()


@methods
def test_goes_on(name: str, tmp_path: Path) -> None:
    make, worlds = METHODS[name]
    graph, path = WORLDS[worlds[0]](), tmp_path / "checkpoint"
    stopped = cai.infer(graph, make(), seed=0, callbacks=[cai.Checkpoint(path), At(1, cai.StopInference())])
    resumed = cai.infer(graph, make(), resume=path)
    assert resumed.stats.num_steps >= 300
    assert resumed.history.rows[: len(stopped.history)] == stopped.history.rows
    with pytest.raises(ValueError, match="another method or other settings|another graph"):
        cai.infer(graph.replace(discount=0.5), make(), resume=path)


@methods
def test_refuses(name: str) -> None:
    make, worlds = METHODS[name]
    live = MatchingReward("box" if "boxes" in worlds else "discrete")
    with pytest.raises(cai.IncompatibleMethod, match="discount"):
        cai.infer(live.graph(temperature=1.0, discount=1.0), make())
    with pytest.raises(cai.IncompatibleMethod, match="trajectory graphs"):
        cai.infer(cai.load_model("two_state").unroll(), make())
    if worlds[0] == "tables":
        late = tables(horizon=3).condition(states={2: 1})
        with pytest.raises(cai.IncompatibleMethod, match="evidence"):
            cai.infer(late, make())
        with pytest.raises(cai.IncompatibleMethod, match="stationary"):
            cai.infer(tables(horizon=3, per_step=("dynamics",)), make())
    space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)})
    with pytest.raises(ValueError, match="composite|Dict"):
        cai.infer(live.graph(temperature=1.0).replace(state_space=space), make())


class Broken(MatchingReward):
    """Gives a reward that is not a number, after a while."""

    def step(self, action: Any) -> Any:
        self.taken = getattr(self, "taken", 0) + 1
        state, reward, *rest = super().step(action)
        return state, (np.nan if self.taken > 20 else reward), *rest


@methods
def test_a_broken_world(name: str) -> None:
    make, worlds = METHODS[name]
    if worlds[-1] not in ("vectors", "boxes"):
        pytest.skip("it answers discrete states only")
    world = Broken("box" if worlds[-1] == "boxes" else "discrete")
    with pytest.raises(cai.NonFinite, match=r"reward that is not finite at step \d+") as caught:
        cai.infer(world.graph(temperature=0.5), make(), seed=0)
    posterior = caught.value.posterior  # type: ignore[attr-defined]
    states = states_of(world.graph(temperature=0.5))
    assert torch.isfinite(posterior.policy(states).log_prob(posterior.policy(states).sample())).all()
