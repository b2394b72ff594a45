"""Log-space reductions against scipy and many digits, in value, gradient and second derivative."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cai.ops import log_expectation, logsumexp, max_over_support, safe_log

BATCHES = [(), (4,), (3, 2)]
batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


def entries(*shape: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape) * spread)


def distribution(*shape: int, seed: int = 1) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]))


# -- logsumexp --------------------------------------------------------------------------------------------------------


@batches
@pytest.mark.parametrize("spread", [1e-9, 1.0, 900.0])
@pytest.mark.parametrize("dim", [0, -1])
def test_logsumexp_is_scipys(batch: tuple[int, ...], spread: float, dim: int) -> None:
    x = entries(*batch, 5, spread=spread).requires_grad_()
    expected = scipy.special.logsumexp(x.detach().numpy(), axis=dim)
    np.testing.assert_allclose(logsumexp(x, dim).detach(), expected, rtol=1e-15, atol=1e-15)
    assert torch.equal(logsumexp(x.detach(), dim), logsumexp(x, dim).detach())


@batches
def test_logsumexp_derivatives(batch: tuple[int, ...]) -> None:
    x = entries(*batch, 4).requires_grad_()
    assert gradcheck(logsumexp, (x,))
    assert gradgradcheck(logsumexp, (x,))


@pytest.mark.parametrize("spread", [1.0, 900.0])
def test_logsumexp_gradient_is_softmax_with_forbidden_entries_and_dead_slices(spread: float) -> None:
    x = entries(3, 4, spread=spread)
    x[0, 1], x[1], x[2, 1:] = -math.inf, -math.inf, -math.inf
    x.requires_grad_()
    y = logsumexp(x)
    (gradient,) = torch.autograd.grad(y[[0, 2]].sum() + torch.where(torch.isneginf(y[1]), 0.0, y[1]), x)
    expected = scipy.special.softmax(x.detach().numpy()[[0, 2]], axis=-1)
    np.testing.assert_allclose(gradient[[0, 2]], expected, atol=1e-15)
    assert torch.isneginf(y[1])
    assert (gradient[1] == 0).all()


def test_logsumexp_second_derivative_is_finite_on_dead_slices() -> None:
    x = torch.tensor([[0.3, -math.inf, 1.0], [-math.inf] * 3], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(logsumexp(x)[0], x, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], x)
    p = scipy.special.softmax([0.3, 1.0])
    np.testing.assert_allclose(second[0], [p[0] * (1 - p[0]), 0.0, -p[0] * p[1]], atol=1e-15)
    assert (second[1] == 0).all()


# -- log_expectation --------------------------------------------------------------------------------------------------


@batches
@pytest.mark.parametrize("spread", [1e-9, 0.1, 1.0, 900.0])
def test_log_expectation_is_scipys(batch: tuple[int, ...], spread: float) -> None:
    x, weights = entries(*batch, 5, spread=spread), distribution(*batch, 5)
    expected = scipy.special.logsumexp(x.numpy(), b=weights.numpy(), axis=-1)
    np.testing.assert_allclose(log_expectation(x, weights), expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(log_expectation(x, 3 * weights), expected + math.log(3), rtol=1e-14, atol=1e-15)


@batches
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_log_expectation_derivatives(batch: tuple[int, ...], spread: float) -> None:
    x = entries(*batch, 4, spread=spread).requires_grad_()
    weights = distribution(*batch, 4).requires_grad_()
    assert gradcheck(log_expectation, (x, weights))
    assert gradgradcheck(log_expectation, (x, weights))


def test_log_expectation_derivatives_with_forbidden_entries() -> None:
    """What is -inf is -inf in a neighbourhood: differentiate with respect to the rest."""
    weights = distribution(2, 4).requires_grad_()
    free = entries(2, 2).requires_grad_()
    forbidden = torch.full((2, 2), -math.inf, dtype=torch.float64)

    def reduced(free: Tensor, weights: Tensor) -> Tensor:
        return log_expectation(torch.cat([free, forbidden], -1), weights)

    assert gradcheck(reduced, (free, weights))
    assert gradgradcheck(reduced, (free, weights))


@pytest.mark.parametrize("spread", [0.1, 900.0])
def test_log_expectation_never_reads_what_has_no_weight(spread: float) -> None:
    x, weights = entries(4, spread=spread), torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    expected = scipy.special.logsumexp(x[[0, 2]].numpy()) - math.log(2)
    for hidden in (math.nan, math.inf, -math.inf, 1e300):
        given = x.clone()
        given[[1, 3]] = hidden
        leaves = given.requires_grad_(), weights.clone().requires_grad_()
        y = log_expectation(*leaves)
        np.testing.assert_allclose(y.detach(), expected, rtol=1e-14)
        for gradient in torch.autograd.grad(y, leaves):
            assert torch.isfinite(gradient).all()
            assert (gradient[[1, 3]] == 0).all()


def test_log_expectation_of_dead_groups() -> None:
    x = torch.tensor([[0.0, 0.1], [-math.inf, -math.inf], [0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = log_expectation(x, weights)
    assert y.isneginf().tolist() == [False, True, True]
    for gradient in torch.autograd.grad(y[0], (x, weights)):
        assert torch.isfinite(gradient).all()
        assert (gradient[1:] == 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1e-8, 1e-15, 1e-200])
def test_log_expectation_next_to_one_keeps_its_digits(scale: float) -> None:
    x, weights = scale * entries(6), distribution(6)
    with mpmath.workdps(500):
        rest = 1 - mpmath.fsum(map(mpmath.mpf, weights.tolist()))
        terms = [mpmath.mpf(w) * mpmath.expm1(mpmath.mpf(v)) for w, v in zip(weights.tolist(), x.tolist(), strict=True)]
        assert abs(rest) < 1e-15  # one up to rounding, which counts as one
        expected = float(mpmath.log1p(mpmath.fsum(terms)))
    assert float(log_expectation(x, weights)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("spread", [0.1, 1.0, 80.0])
def test_single_precision(spread: float) -> None:
    x, weights = entries(3, 5, spread=spread).float(), distribution(3, 5).float()
    y = log_expectation(x.requires_grad_(), weights)
    assert y.dtype == torch.float32
    expected = scipy.special.logsumexp(x.detach().double().numpy(), b=weights.double().numpy(), axis=-1)
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()
    assert logsumexp(x).dtype == torch.float32


def test_weights_are_broadcast_against_entries() -> None:
    x, weights = entries(3, 1, 4).requires_grad_(), distribution(2, 4).requires_grad_()
    assert log_expectation(x, weights).shape == (3, 2)
    assert gradcheck(log_expectation, (x, weights))


# -- helpers ----------------------------------------------------------------------------------------------------------


def test_max_over_support() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    weights = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert max_over_support(x, weights).tolist() == [2.0, -math.inf]


def test_safe_log_at_zero() -> None:
    x = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = safe_log(x)
    assert y.tolist() == [-math.inf, math.log(2)]
    (gradient,) = torch.autograd.grad(y[1] + torch.where(torch.isneginf(y[0]), 0.0, y[0]), x)
    assert gradient.tolist() == [0.0, 0.5]
