"""What soft actor-critic refuses, when, and what it says."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import cai
from cai.methods import Annealed, DeterministicLimit, TargetDivergence, TargetEntropy
from tests.methods.actor_critic import build as B


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "a fixed temperature is the graph's"),
        ({"limit": None}, "limit must be"),
        ({"num_critics": 0}, "num_critics"),
        ({"learning_rate": -1.0}, "learning rates must be at least 0"),
        ({"actor_learning_rate": Annealed(1.0, float("nan"))}, "learning rates must be at least 0"),
        ({"temperature": TargetEntropy(learning_rate=float("inf"))}, "learning rates must be at least 0"),
        ({"target": 0.005}, "target must be such as PolyakTarget"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be positive"),
        ({"body": (256, 256)}, "body must make a network"),
        ({"critic_body": 3}, "critic_body must make a network"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_step": 0}, "n_step"),
        ({"updates_per_step": 0.0}, "updates_per_step"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.infer(B.graph_of(B.box()), cai.SoftActorCritic(**options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetEntropy(initial=0.0), "initial must be positive"),
        (lambda: TargetDivergence(0.0), "target must be positive"),
        (lambda: TargetDivergence(1.0, initial=-1.0), "initial must be positive"),
        (lambda: DeterministicLimit(target_noise=-0.1), "target_noise must be at least 0"),
        (lambda: DeterministicLimit(policy_delay=0), "policy_delay must be a whole number"),
        (lambda: DeterministicLimit(policy_delay=True), "policy_delay must be a whole number"),
    ],
    ids=["entropy", "divergence", "initial", "noise", "delay", "bool"],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def normal(state: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(state), 1.0), 1)


def table_graph(**parts: Any) -> cai.TrajectoryGraph:
    return cai.load_model("two_state", discount=0.9, horizon=None).replace(**parts)


@pytest.mark.parametrize(
    ("graph", "method", "message"),
    [
        (lambda: B.graph_of(Discrete(3), temperature=0.0), {}, "SoftQLearning is double DQN"),
        (lambda: B.graph_of(B.box(), temperature=0.0), {"temperature": TargetEntropy()}, "give initial="),
        (lambda: B.graph_of(B.box(), action_prior=normal), {"temperature": TargetEntropy()}, "TargetDivergence"),
        (lambda: B.graph_of(B.box()).replace(discount=1.0), {}, "discount below 1"),
        (lambda: B.graph_of(Box(0.0, np.inf, (1,), np.float32)), {}, "every coordinate of a box must be bounded"),
        (lambda: cai.load_model("two_state").condition(actions={1: 0}), {}, "evidence"),
        (lambda: cai.load_model("two_state").unroll(), {}, "trajectory graphs"),
    ],
    ids=["discrete", "tuned", "prior", "endless", "half", "evidence", "factor graph"],
)
def test_pairings(graph: Any, method: dict[str, Any], message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(graph(), cai.SoftActorCritic(**method))


def test_states_that_no_network_reads() -> None:
    class Composite(B.Field):
        observation_space = gymnasium.spaces.Dict({"x": Box(-1, 1, (1,), np.float32)})  # type: ignore[assignment]

    with pytest.raises(cai.IncompatibleMethod, match="FlattenObservation"):
        cai.infer(cai.from_gym(Composite(B.box()), discount=0.9), cai.SoftActorCritic())


def test_excluded_actions_are_never_done() -> None:
    """A prior's zero is a zero of the policy, of its draws, and of what is drawn first."""
    available = torch.tensor([[True, False], [True, True]])
    graph = table_graph(action_prior=cai.factors.FlatPrior(available))
    method = cai.SoftActorCritic(100, learning_starts=40, batch_size=16, body=B.SMALL, learning_rate=1e-2)
    posterior = cai.infer(graph, method, seed=0)
    assert posterior.policy(0).probs.tolist() == [1.0, 0.0]
    assert (posterior.policy(1).probs > 0).all()
    assert all(torch.isfinite(posterior.v(torch.arange(2))))
