"""Normals cut off at the edges of a box, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from cai.factors.truncated_normal import TruncatedNormal, log_normal_mass

LOW, HIGH = torch.tensor([-1.0, 0.5], dtype=torch.float64), torch.tensor([2.0, 0.7], dtype=torch.float64)


def peer(mean: np.ndarray, std: np.ndarray) -> scipy.stats.rv_continuous:
    low, high = LOW.numpy(), HIGH.numpy()
    return scipy.stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)


@pytest.mark.parametrize("mean", [(0.0, 0.6), (2.0, 0.5), (9.0, -3.0), (-30.0, 4.0)], ids=str)
@pytest.mark.parametrize("std", [0.05, 0.7, 20.0])
def test_density_is_scipys(mean: tuple[float, float], std: float) -> None:
    center = torch.tensor(mean, dtype=torch.float64)
    ours = TruncatedNormal(center, torch.full((2,), std, dtype=torch.float64), LOW, HIGH)
    points = LOW + torch.linspace(0.01, 0.99, 21, dtype=torch.float64)[:, None] * (HIGH - LOW)
    expected = peer(np.array(mean), np.full(2, std)).logpdf(points.numpy()).sum(-1)
    # scipy keeps some ten digits in tails hundreds of standard deviations away
    np.testing.assert_allclose(ours.log_prob(points).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_density_is_zero_off_the_box() -> None:
    ours = TruncatedNormal(torch.zeros(3, 2), torch.ones(3, 2), LOW, HIGH)
    assert torch.equal(ours.log_prob(torch.tensor([2.1, 0.6])), torch.full((3,), -math.inf))


def test_draws_have_scipys_moments_and_stay_inside() -> None:
    torch.manual_seed(0)
    mean = torch.tensor([[0.0, 0.6], [4.0, 0.0]], dtype=torch.float64)
    std = torch.tensor([[1.0, 0.1], [1.5, 2.0]], dtype=torch.float64)
    ours, num = TruncatedNormal(mean, std, LOW, HIGH), 20_000
    drawn = ours.sample((num,))
    assert drawn.shape == (num, 2, 2)
    assert ((drawn >= LOW) & (drawn <= HIGH)).all()
    theirs = peer(mean.numpy(), std.numpy())
    errors = (drawn.mean(0).numpy() - theirs.mean()) / (theirs.std() / math.sqrt(num))
    assert np.abs(errors).max() < 5.0
    np.testing.assert_allclose(drawn.std(0).numpy(), theirs.std(), rtol=5.0 / math.sqrt(num))


def test_draws_of_a_distant_normal_lie_at_the_near_edge() -> None:
    torch.manual_seed(1)
    far = TruncatedNormal(torch.tensor([60.0, -60.0]), torch.ones(2), LOW.float(), HIGH.float())
    drawn = far.sample((1000,))
    assert drawn.dtype == torch.float32
    distances = torch.stack([2.0 - drawn[:, 0], drawn[:, 1] - 0.5], -1).double()
    means = np.array([1.0 / 58.0, 1.0 / 60.5])  # of the tail's exponential, less what lies beyond the other edge
    assert np.abs(distances.mean(0).numpy() / means - 1.0).max() < 5.0 / math.sqrt(1000)
    assert torch.equal(far.mode, torch.tensor([2.0, 0.5]))


def test_log_mass_keeps_its_digits_in_both_tails() -> None:
    low = torch.tensor([-9.0, 8.0, -0.5, 30.0], dtype=torch.float64)
    high = torch.tensor([-8.0, 9.0, 0.25, 30.1], dtype=torch.float64)
    expected = [math.log(scipy.stats.norm.cdf(-8) - scipy.stats.norm.cdf(-9))] * 2
    expected.append(math.log(scipy.stats.norm.cdf(0.25) - scipy.stats.norm.cdf(-0.5)))
    a, b = scipy.stats.norm.logcdf(-30.0), scipy.stats.norm.logcdf(-30.1)
    expected.append(a + math.log1p(-math.exp(b - a)))
    np.testing.assert_allclose(log_normal_mass(low, high).numpy(), expected, rtol=1e-12)


def test_gradient_of_the_density() -> None:
    mean = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.8, 0.1], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([[0.1, 0.55], [1.9, 0.69]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: TruncatedNormal(m, s, LOW, HIGH).log_prob(value), (mean, std))


def test_expanded_distribution_is_the_same_in_every_row() -> None:
    ours = TruncatedNormal(torch.zeros(2), torch.ones(2), LOW.float(), HIGH.float())
    value = torch.tensor([0.2, 0.6])
    assert torch.equal(ours.expand((3,)).log_prob(value), ours.log_prob(value).expand(3))
    batch = TruncatedNormal(torch.zeros(3, 2), torch.ones(3, 2), LOW.float(), HIGH.float())
    assert batch.expand((4, 3)).sample().shape == (4, 3, 2)
