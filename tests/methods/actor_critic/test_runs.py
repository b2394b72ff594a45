"""Whole runs: repeatable, resumable, written and read, on every kind of space, and safe where numbers break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import cai
from cai.factors import greedy_action
from cai.factors.joint_categorical import JointCategorical
from cai.methods import TargetEntropy
from tests.methods.actor_critic import build as B

QUICK: dict[str, Any] = {"num_steps": 100, "learning_starts": 20, "batch_size": 8, "body": B.SMALL}
TUNED = {"temperature": TargetEntropy()}
SPACES: dict[str, tuple[gymnasium.Space, float, dict[str, Any]]] = {
    "box": (B.box(), 0.3, TUNED),
    "box of a shape": (Box(-1.0, 2.0, (2, 2), np.float32), 0.3, {}),
    "box of float64": (Box(-1.0, 2.0, (2,), np.float64), 0.3, {}),
    "unbounded": (B.unbounded(), 0.3, TUNED),
    "deterministic": (B.box(), 0.0, {}),
    "deterministic unbounded": (B.unbounded(), 0.0, {}),
    "discrete": (Discrete(3, start=2), 0.3, TUNED),
    "several": (MultiDiscrete([2, 3]), 0.3, {}),
    "binary": (MultiBinary(2), 0.3, {}),
}


def parameters(posterior: Any) -> list[torch.Tensor]:
    return [value.clone() for value in posterior.learner.modules.state_dict().values()]


@pytest.mark.parametrize("kind", SPACES)
def test_every_space(kind: str, tmp_path: Path) -> None:
    """Learns, answers for any batch in the environment's units, is run, and is read back as it was written."""
    space, temperature, options = SPACES[kind]
    graph = B.graph_of(space, temperature=temperature)
    posterior = cai.infer(graph, cai.SoftActorCritic(**QUICK, **options), seed=0)
    states = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    policy = posterior.policy(states)
    drawn = policy.sample()
    assert drawn.shape == (5, *(space.shape or ()))
    assert all(space.contains(a) for a in drawn.numpy().astype(space.dtype))
    assert all(space.contains(a) for a in greedy_action(policy).numpy().astype(space.dtype))
    assert posterior.v(states).shape == posterior.q(states, drawn).shape == (5,)
    assert posterior.v(states[0]).shape == posterior.q(states[0], drawn[0]).shape == ()
    torch.testing.assert_close(posterior.v(states)[2], posterior.v(states[2]), atol=0.3, rtol=0.3)
    assert posterior.q(states[:, None], drawn[None]).shape == (5, 5)
    torch.testing.assert_close(posterior.q(states[:, None], drawn[None]).diagonal(), posterior.q(states, drawn))
    episodes = posterior.sample(3, seed=0)
    assert episodes.actions.shape[:2] == (3, 4)
    if temperature:
        assert np.isfinite(float(posterior.log_evidence))
    else:
        with pytest.raises(cai.Unavailable, match="temperature 0"):
            posterior.log_evidence  # noqa: B018
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file", graph=graph)
    assert again.method == posterior.method
    assert again.graph.temperature == posterior.graph.temperature
    torch.testing.assert_close(again.v(states), posterior.v(states), rtol=0, atol=0)
    torch.testing.assert_close(again.q(states, drawn), posterior.q(states, drawn), rtol=0, atol=0)
    torch.testing.assert_close(greedy_action(again.policy(states)), greedy_action(policy), rtol=0, atol=0)
    assert all(map(torch.equal, parameters(again), parameters(posterior)))


def test_values_are_read_alike_every_time() -> None:
    posterior = cai.infer(B.graph_of(B.box()), cai.SoftActorCritic(**QUICK), seed=0)
    states = np.zeros((2, 3, 2), np.float32)
    before = torch.random.get_rng_state()
    assert torch.equal(posterior.v(states), posterior.v(states))
    assert torch.equal(before, torch.random.get_rng_state())
    assert posterior.v(states).shape == (2, 3)


@pytest.mark.parametrize("kind", ["box", "deterministic", "discrete"])
def test_same_seed_same_run(kind: str) -> None:
    """Bit for bit, 300 steps."""
    space, temperature, options = SPACES[kind]
    graph = B.graph_of(space, temperature=temperature)
    method = cai.SoftActorCritic(**QUICK | options | {"num_steps": 300})
    one, two = (parameters(cai.infer(graph, method, seed=4)) for _ in range(2))
    assert all(map(torch.equal, one, two))


def test_several_copies_steps_and_priorities() -> None:
    """Options of the engine together: the number of updates is what was asked for, and nothing is out of place."""
    method = cai.SoftActorCritic(
        **QUICK | {"num_steps": 120, "num_envs": 4, "n_step": 3, "updates_per_step": 0.5, "train_every": 8},
        replay=cai.methods.PrioritisedReplay(capacity=100),
        max_gradient_norm=1.0,
    )
    posterior = cai.infer(B.graph_of(B.box()), method, seed=0)
    assert posterior.history.rows[-1]["num_updates"] == (120 - 20) / 2 - 2  # the last four steps wait for four more


@pytest.mark.parametrize("kind", ["box", "deterministic", "discrete"])
def test_resumed_run_goes_on(kind: str, tmp_path: Path) -> None:
    """Steps, updates, moments and transitions go on; the environment begins a new episode, so numbers differ."""
    space, temperature, options = SPACES[kind]
    graph = B.graph_of(space, temperature=temperature)
    short = cai.SoftActorCritic(**QUICK | options)
    path = tmp_path / "checkpoint"
    first = cai.infer(graph, short, seed=0, callbacks=[cai.Checkpoint(path, interval=0.0)])
    longer = cai.SoftActorCritic(**QUICK | options | {"num_steps": 200})
    resumed = cai.infer(graph, longer, resume=path)
    steps = [row["num_steps"] for row in resumed.history.rows]
    assert steps == [100, 200]
    assert resumed.history.rows[-1]["num_updates"] == 180
    assert int(resumed.learner.modules["count"].num_updates) == 180
    for name, optimiser in resumed.learner.optimisers.items():
        counted = {float(state["step"]) for state in optimiser.state_dict()["state"].values()}
        assert counted == {90.0 if kind == "deterministic" and name == "actor" else 180.0}
    same = cai.infer(graph, short, resume=path)
    assert all(map(torch.equal, parameters(same), parameters(first)))


class Breaking(B.Field):
    """Sound for a while; then a reward beyond float32."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        state, reward, *rest = super().step(action)
        return state, 1e30 if self.steps > 250 else reward, *rest


@pytest.mark.parametrize("space", [B.box(), Discrete(3)], ids=["box", "discrete"])
def test_broken_numbers_keep_what_was_learned(space: Any) -> None:
    """The squared error overflows: the update is named, and no parameter is touched by it."""
    graph = cai.from_gym(Breaking(space), discount=0.9, temperature=0.3)
    method = cai.SoftActorCritic(**QUICK | {"num_steps": 1000})
    with pytest.raises(cai.NonFinite, match=r"SoftActorCritic: at update \d+, the critic loss is inf") as caught:
        cai.infer(graph, method, seed=0)
    posterior = caught.value.posterior  # type: ignore[attr-defined]
    assert posterior.stats.num_steps > 250
    assert all(bool(torch.isfinite(value).all()) for value in parameters(posterior))
    assert torch.isfinite(posterior.v(np.zeros(2, np.float32)))


def test_networks_of_ones_own() -> None:
    """A body is any callable; critics of it stand side by side, and a file has a hole in its place."""
    made = []

    def body(num_inputs: int, num_outputs: int) -> torch.nn.Module:
        made.append((num_inputs, num_outputs))
        return torch.nn.Linear(num_inputs, num_outputs)

    posterior = cai.infer(B.graph_of(B.box()), cai.SoftActorCritic(**QUICK | {"body": body, "num_critics": 3}), seed=0)
    assert made == [(2, 4), (4, 1), (4, 1), (4, 1)]
    assert len(posterior.learner.modules["critics"](torch.zeros(5, 4))) == 3


def test_joint_choices_need_not_factorise() -> None:
    """The distribution over combinations against its table."""
    logits = torch.tensor(np.random.default_rng(0).normal(size=(4, 6)))
    joint = JointCategorical(logits, (2, 3))
    pairs = torch.tensor([[i, j] for i in range(2) for j in range(3)])
    table = joint.log_prob(pairs[:, None, :]).T
    torch.testing.assert_close(table, logits.log_softmax(-1))
    torch.testing.assert_close(joint.entropy(), torch.distributions.Categorical(logits=logits).entropy())
    assert torch.equal(joint.mode, pairs[logits.argmax(-1)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = joint.sample(torch.Size([4000]))
    counts = (drawn[:, :, None, :] == pairs).all(-1).double().mean(0)
    error = (joint.probs * (1 - joint.probs) / 4000).sqrt()
    assert ((counts - joint.probs).abs() < 5 * error).all()
    other = JointCategorical(logits.flip(0), (2, 3))
    kl = (joint.probs * (joint.logits - other.logits)).sum(-1)
    torch.testing.assert_close(torch.distributions.kl_divergence(joint, other), kl)
    assert joint.expand(torch.Size([2, 4])).batch_shape == (2, 4)
    with pytest.raises(ValueError, match="need 6 logits"):
        JointCategorical(logits[:, :5], (2, 3))
