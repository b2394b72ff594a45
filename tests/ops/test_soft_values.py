"""Soft values of finitely many actions against numpy, the envelope identity, and the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from cai.ops.soft_values import soft_log_policy, soft_value


def problem(seed: int, dtype: torch.dtype = torch.float64, *, holes: bool = True) -> tuple[Tensor, Tensor]:
    """Q `[5, 3, 4]` and a log prior of the same shape in which some actions are impossible."""
    generator = torch.Generator().manual_seed(seed)
    q = 3.0 * torch.randn(5, 3, 4, dtype=dtype, generator=generator)
    prior = torch.rand(5, 3, 4, dtype=dtype, generator=generator)
    if holes:
        prior[..., 1:] *= torch.rand(5, 3, 3, dtype=dtype, generator=generator) > 0.4
    return q, (prior / prior.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_policy_by_numpy(seed: int, temperature: float) -> None:
    q, log_prior = problem(seed)
    weights = np.exp(log_prior.numpy())
    value = temperature * scipy.special.logsumexp(q.numpy() / temperature, axis=-1, b=weights)
    ours = soft_value(q, log_prior, temperature).numpy()
    assert np.allclose(ours, value, rtol=1e-9, atol=1e-9 * max(1.0, 1e-6 * temperature))
    advantage = np.where(weights > 0, q.numpy() - value[..., None], 0.0)
    policy = weights * np.exp(advantage / temperature)
    assert np.allclose(soft_log_policy(q, log_prior, temperature).exp().numpy(), policy, atol=1e-10)
    tensor = torch.tensor(temperature, dtype=torch.float64)
    assert np.allclose(soft_value(q, log_prior, tensor).numpy(), ours, rtol=1e-12)


def test_very_high_temperature_is_the_mean_under_the_prior() -> None:
    q, log_prior = problem(0, torch.float32)
    mean = (log_prior.exp() * q).sum(-1)
    assert torch.allclose(soft_value(q, log_prior, 1e7), mean, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_slope_of_the_value_is_the_policy(seed: int) -> None:
    q, log_prior = problem(seed)
    q.requires_grad_()
    value = soft_value(q, log_prior, 0.7)
    (slope,) = torch.autograd.grad(value.sum(), q)
    assert torch.allclose(slope, soft_log_policy(q, log_prior, 0.7).exp(), atol=1e-12)


def test_float32_keeps_its_digits_at_low_temperatures() -> None:
    q, log_prior = problem(1, torch.float32)
    exact = soft_value(q.double(), log_prior.double(), 1e-3)
    assert torch.allclose(soft_value(q, log_prior, 1e-3).double(), exact, rtol=1e-6)


def test_zero_temperature_is_the_best_allowed_action() -> None:
    q = torch.tensor([[1.0, 5.0, 2.0], [3.0, 0.0, 3.0]])
    log_prior = torch.tensor([[0.25, 0.0, 0.75], [0.2, 0.2, 0.6]]).log()
    assert torch.equal(soft_value(q, log_prior, 0.0), torch.tensor([2.0, 3.0]))
    policy = soft_log_policy(q, log_prior, 0.0).exp()
    assert torch.allclose(policy, torch.tensor([[0.0, 0.0, 1.0], [0.25, 0.0, 0.75]]))  # ties as the prior has them
    assert soft_value(q, log_prior, 1e-4)[0].item() == pytest.approx(2.0, abs=1e-3)


def test_flat_prior_counts_actions() -> None:
    q = torch.zeros(2, 4)
    assert soft_value(q, torch.zeros(4), 0.5)[0].item() == pytest.approx(0.5 * math.log(4.0))
