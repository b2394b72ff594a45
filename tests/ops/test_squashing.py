"""The slope of tanh in logarithms, and its inverse, against sixty digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from cai.ops import inverse_tanh, log_tanh_slope

POINTS = [0.0, 1e-12, 1e-3, 0.5, 1.0, 3.0, 9.0, 10.0, 15.0, 19.0, 20.5, 40.0, 300.0, 1e4]
POINTS = [sign * point for point in POINTS for sign in (1, -1)]


def exact_slope(u: float) -> float:
    with mpmath.workdps(60):
        return float(-2 * mpmath.log(mpmath.cosh(mpmath.mpf(u))))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-15), (torch.float32, 3e-7)])
def test_slope(dtype: torch.dtype, tolerance: float) -> None:
    u = torch.tensor(POINTS, dtype=dtype)
    expected = torch.tensor([exact_slope(float(point)) for point in u], dtype=torch.float64)
    errors = (log_tanh_slope(u).double() - expected).abs() / expected.abs().clamp(min=1)
    assert errors.max() < tolerance
    assert log_tanh_slope(u).dtype == dtype


def test_the_common_formula_loses_what_this_keeps() -> None:
    assert float(log_tanh_slope(torch.tensor(10.0))) == pytest.approx(-18.6137, abs=1e-4)
    assert math.log(1 - math.tanh(10.0) ** 2 + 1e-6) == pytest.approx(-13.8, abs=0.1)


def test_derivatives() -> None:
    u = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(log_tanh_slope(u).sum(), u, create_graph=True)
    torch.testing.assert_close(first, -2 * torch.tanh(u), rtol=0, atol=1e-15)
    (second,) = torch.autograd.grad(first.sum(), u)
    torch.testing.assert_close(second, -2 / torch.cosh(u) ** 2, rtol=0, atol=1e-14)


def test_density_of_squashed_numbers_is_the_slope_of_the_map() -> None:
    u, step = np.linspace(-4, 4, 33), 1e-5
    differences = (np.tanh(u + step) - np.tanh(u - step)) / (2 * step)
    np.testing.assert_allclose(log_tanh_slope(torch.as_tensor(u)), np.log(differences), atol=1e-7)


@pytest.mark.parametrize("dtype, largest", [(torch.float32, 8.6643), (torch.float64, 18.7150)])
def test_inverse(dtype: torch.dtype, largest: float) -> None:
    eps = torch.finfo(dtype).eps
    u = torch.linspace(-8, 8, 401, dtype=dtype)
    slope = 1 - torch.tanh(u) ** 2  # an ulp of a is so many of u
    assert ((inverse_tanh(torch.tanh(u)) - u).abs() <= 4 * eps * (1 + u.abs()) + 2 * eps / slope.clamp(min=eps)).all()
    small = torch.tensor([0.0, 1e-20, -1e-9], dtype=dtype)
    torch.testing.assert_close(inverse_tanh(small), small, rtol=4 * eps, atol=0)
    ends = inverse_tanh(torch.tensor([1.0, -1.0, 1.0 + 4 * eps, -1.5], dtype=dtype))
    torch.testing.assert_close(ends, largest * torch.tensor([1, -1, 1, -1], dtype=dtype), rtol=1e-4, atol=0)


def test_inverse_has_a_gradient_inside() -> None:
    a = torch.linspace(-0.99, 0.99, 21, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(inverse_tanh(a).sum(), a)
    torch.testing.assert_close(slope, 1 / (1 - a**2), rtol=1e-12, atol=0)
