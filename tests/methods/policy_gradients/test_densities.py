"""log pi against finite differences, divergences against sums and samples, draws against their own density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from cai.data.encodings import ActionEncoding
from cai.factors import (
    CategoricalHead,
    GaussianHead,
    MLPBody,
    MultiCategoricalHead,
    NeuralPolicy,
    SquashedGaussianHead,
    StateGaussianHead,
)
from cai.methods.policy_gradients.densities import LogitsDensity, density_of

STATES = gymnasium.spaces.Box(-1.0, 1.0, (2,))
BOX = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
LINE = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
CASES: dict[str, tuple[Any, Any]] = {
    "categorical": (CategoricalHead(), gymnasium.spaces.Discrete(4)),
    "several choices": (MultiCategoricalHead(), gymnasium.spaces.MultiDiscrete([2, 3])),
    "normal": (GaussianHead(-0.3), LINE),
    "normal with a spread of the state": (StateGaussianHead(), LINE),
    "squashed": (SquashedGaussianHead(), BOX),
}


def policy_of(name: str) -> NeuralPolicy:
    head, space = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NeuralPolicy(STATES, space, head=head, body=MLPBody((5,), "tanh")).double()


def drawn(name: str, num: int = 6) -> tuple[NeuralPolicy, Tensor, Any]:
    policy = policy_of(name)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        features = torch.rand(num, 2, dtype=torch.float64) * 2 - 1
        return policy, features, density_of(policy).draw(policy.network(features))


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_finite_differences(name: str) -> None:
    policy, features, draw = drawn(name)
    density, parameters = density_of(policy), list(policy.parameters())

    def total() -> Tensor:
        weights = torch.arange(1.0, 7.0, dtype=torch.float64)
        return (weights * density.log_prob(policy.network(features), draw.actions)).sum()

    compare(total, parameters)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_divergences_by_finite_differences(name: str) -> None:
    policy, features, _ = drawn(name)
    density, parameters = density_of(policy), list(policy.parameters())
    old, old_outputs = density.frozen(), policy.network(features).detach()
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.2 * torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).view_as(parameter)
    compare(lambda: density.divergence(old, old_outputs, policy.network(features)).sum(), parameters)


def compare(total: Callable[[], Tensor], parameters: list[Tensor], step: float = 1e-6) -> None:
    exact = torch.autograd.grad(total(), parameters)
    for parameter, gradient in zip(parameters, exact, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 3):
            middle = float(flat[i])
            ends = []
            for sign in (1, -1):
                flat[i] = middle + sign * step
                ends.append(float(total().detach()))
            flat[i] = middle
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient.view(-1)[i]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_draws_know_their_density(name: str) -> None:
    policy, features, draw = drawn(name)
    with torch.no_grad():
        again = density_of(policy).log_prob(policy.network(features), draw.actions)
        made = policy.on_features(features).log_prob(draw.actions)
    torch.testing.assert_close(draw.log_probs, again, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again, made, rtol=1e-12, atol=1e-12)
    encoding = ActionEncoding(policy.actions.space)
    assert encoding.to_env(draw.actions).shape[0] == 6


@pytest.mark.parametrize("name", CASES)
def test_divergences_are_means_of_differences(name: str) -> None:
    policy, features, _ = drawn(name, num=1)
    other = policy_of(name)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        for parameter in other.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        density, old = density_of(other), density_of(policy).frozen()
        outputs, old_outputs = other.network(features), policy.network(features)
        num = 200_000
        draw = old.draw(old_outputs.expand(num, -1))
        samples = draw.log_probs - density.log_prob(outputs.expand(num, -1), draw.actions)
        divergence = density.divergence(old, old_outputs, outputs)
    assert float(divergence) > 1e-3
    assert abs(float(samples.mean() - divergence)) < 4.5 * float(samples.std()) / num**0.5


def test_a_frozen_density_stays_where_it_was() -> None:
    policy, features, draw = drawn("normal")
    frozen, outputs = density_of(policy).frozen(), policy.network(features).detach()
    before = frozen.log_prob(outputs, draw.actions)
    with torch.no_grad():
        policy.output.log_std += 1.0
    torch.testing.assert_close(frozen.log_prob(outputs, draw.actions), before, rtol=0, atol=0)


def test_actions_that_are_not_available_are_never_drawn_and_cost_nothing() -> None:
    density = LogitsDensity()
    outputs = torch.tensor([[0.3, -torch.inf, 0.1]], requires_grad=True)
    with torch.no_grad():
        draw = density.draw(outputs.expand(2000, -1))
    assert set(draw.actions.tolist()) == {0, 2}
    old = torch.tensor([[0.0, -torch.inf, 1.0]])
    divergence = density.divergence(density, old, outputs)
    (gradient,) = torch.autograd.grad(divergence.sum() + density.log_prob(outputs, torch.tensor([2])).sum(), outputs)
    assert torch.isfinite(divergence).all() and torch.isfinite(gradient).all()
