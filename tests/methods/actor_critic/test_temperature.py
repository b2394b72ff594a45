"""Tuning of the temperature: what is brought to what, in which direction, and in which units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete

import cai
from cai.methods import TargetDivergence, TargetEntropy
from tests.methods.actor_critic import build as B


def flat(graph: cai.TrajectoryGraph) -> cai.TrajectoryGraph:
    return graph.replace(action_prior=cai.factors.FlatPrior())


@pytest.mark.parametrize("prior", ["uniform", "flat"])
@pytest.mark.parametrize(
    ("space", "unit", "default"),
    [
        (B.box(), math.log(1.5 * 2.0), -2.0),  # half sides: the entropy in [-1, 1]^2 is less by their logarithm
        (Discrete(4), 0.0, 0.5 * math.log(4)),
        (MultiDiscrete([2, 3]), 0.0, 0.5 * math.log(6)),
        (B.unbounded(3), 0.0, -3.0),
    ],
    ids=["box", "discrete", "several", "unbounded"],
)
def test_entropy_is_in_units_of_the_unit_box(space: Any, unit: float, default: float, prior: str) -> None:
    """E log(pi/mu) = budget if and only if the entropy of the policy in its own units is target + unit."""
    graph = B.graph_of(space) if prior == "uniform" else flat(B.graph_of(space))
    learner = B.learner_of(graph, temperature=TargetEntropy())
    log_prior = learner.prior.log_density
    for target, tuning in ((default, TargetEntropy()), (0.7, TargetEntropy(0.7))):
        entropy = -tuning.budget(learner.actions, learner.prior) - log_prior
        assert entropy == pytest.approx(target + unit)


@pytest.mark.parametrize("space", [B.box(), Discrete(4)], ids=["box", "discrete"])
@pytest.mark.parametrize("above", [True, False])
def test_temperature_goes_up_where_entropy_is_short(space: Any, above: bool) -> None:
    graph = B.graph_of(space)
    tuning = TargetEntropy(5.0 if above else -5.0, initial=0.5, learning_rate=0.01)
    learner = B.learner_of(graph, temperature=tuning)
    assert learner.temperature == pytest.approx(0.5)
    batch = B.box_batch() if isinstance(space, B.Box) else B.batch_of([0, 1, 2, 3, 0, 1])
    learner.learn(batch)
    step = 0.01 if above else -0.01  # Adam's first step is the learning rate, along the gradient's sign
    assert math.log(learner.temperature) == pytest.approx(math.log(0.5) + step, abs=1e-6)


def test_gradient_of_the_temperature_by_hand() -> None:
    """d/d log alpha of log alpha (budget - E log(pi/mu)), of the draws that the actor learned from."""
    graph = B.graph_of(B.box())
    learner, before = (B.learner_of(graph, temperature=TargetEntropy(initial=0.3)) for _ in range(2))
    batch = B.box_batch()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.randn(6, 2)
        noise = torch.randn(6, 2)
        torch.manual_seed(3)
        learner.learn(batch)
    outputs = B.network(B.parameters_of(before.modules["actor"]), B.numbers(batch.states))
    _, log_prob = B.squashed_draw(outputs, B.numbers(noise))
    half = np.log((B.HIGH - B.LOW) / 2).sum()
    entropy = -log_prob.mean() - half
    (parameter,) = learner.modules["temperature"].parameters()
    assert float(parameter.grad) == pytest.approx(entropy - (-2.0), rel=1e-4)


def test_temperature_in_an_update_is_the_one_before_it() -> None:
    """Tuned or fixed, the same temperature gives the same errors and the same actor."""
    batch = B.box_batch()
    tuned = B.learner_of(B.graph_of(B.box()), temperature=TargetEntropy(initial=0.3))
    fixed = B.learner_of(B.graph_of(B.box(), temperature=0.3))
    errors = []
    for learner in (tuned, fixed):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            errors.append(B.numbers(learner.learn(batch)))
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-5)
    for a, b in zip(*(B.parameters_of(learner.modules["actor"]) for learner in (tuned, fixed)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_divergence_from_a_prior_is_brought_to_its_target() -> None:
    """One step with reward k a and a normal prior N(0, s^2): pi = N(k s^2 / alpha, s^2), so KL = (k s / alpha)^2 / 2.

    The actor is given its optimum; only the temperature learns, and settles where the divergence is the target.
    """
    tuning = TargetDivergence(0.5, initial=3.0, learning_rate=0.05)
    graph = B.graph_of(B.unbounded(1), action_prior=lambda state: torch.distributions.Independent(_normal(state), 1))
    learner = B.learner_of(graph, temperature=tuning, body=B.MLPBody(()))
    assert tuning.budget(learner.actions, learner.prior) == 0.5
    for _ in range(400):
        mean = 2.0 * 0.25 / learner.temperature
        learner._tune(torch.tensor((mean / 0.5) ** 2 / 2))
    assert learner.temperature == pytest.approx(2.0 * 0.5 / math.sqrt(2 * 0.5), rel=1e-2)


def _normal(state: torch.Tensor) -> torch.distributions.Normal:
    return torch.distributions.Normal(0.0 * state[..., :1], 0.5)


def test_temperature_used_is_the_posteriors() -> None:
    method = cai.SoftActorCritic(
        100, learning_starts=10, batch_size=8, body=B.SMALL, temperature=TargetEntropy(initial=0.2, learning_rate=0.01)
    )
    posterior = cai.infer(B.graph_of(B.box()), method, seed=0)
    assert posterior.graph.temperature == posterior.learner.temperature != 0.2
    curve = posterior.history.curve("temperature")
    assert float(curve.values[-1]) == posterior.graph.temperature
    assert (curve.values > 0).all()


def test_learning_rates_are_separate_and_annealed() -> None:
    rates = {"critic": cai.methods.Annealed(0.2, 0.1), "actor": 0.03, "temperature": 0.004}
    learner = B.learner_of(
        B.graph_of(B.box()),
        learning_rate=rates["critic"],
        actor_learning_rate=rates["actor"],
        temperature=TargetEntropy(learning_rate=rates["temperature"]),
    )
    for share, critic in ((0.0, 0.2), (0.5, 0.15), (1.0, 0.1)):
        learner.share = share
        learner.learn(B.box_batch())
        found = {name: optimiser.param_groups[0]["lr"] for name, optimiser in learner.optimisers.items()}
        assert found == pytest.approx({"critic": critic, "actor": 0.03, "temperature": 0.004})
