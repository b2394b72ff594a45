"""Scans against loops, and the products of matrices they take against many digits, in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cai.ops import LogSemiring, TropicalSemiring, associative_scan
from cai.ops.scans import matrix_products as products
from cai.ops.scans.matrix_products import log_matmul, max_plus_matmul
from cai.ops.scans.scan import power_vectors, suffix_vectors
from cai.ops.semirings import RealSemiring

LENGTHS = [*range(1, 18), 31, 64, 100]
lengths = pytest.mark.parametrize("length", LENGTHS)
SEMIRINGS = [LogSemiring(), TropicalSemiring(), RealSemiring()]
semirings = pytest.mark.parametrize("semiring", SEMIRINGS, ids=lambda x: type(x).__name__)


def normal(*shape: int, scale: float = 1.0, zeros: float = 0.0, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * scale
    return torch.as_tensor(np.where(rng.uniform(size=shape) < zeros, -math.inf, values))


# -- the generic scan -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """Maps x -> scale x + shift, with the number of maps that were put together."""

    scale: Tensor
    shift: Tensor
    count: Tensor


def then(first: Affine, second: Affine) -> Affine:
    """The first map after the second one: maps on the left act last."""
    shift = (first.scale @ second.shift[..., None]).squeeze(-1) + first.shift
    return Affine(first.scale @ second.scale, shift, first.count + second.count)


def affine(length: int) -> Affine:
    scale, shift = normal(length, 3, 3, scale=0.6), normal(length, 3, seed=1)
    return Affine(scale, shift, torch.ones(length, dtype=torch.int64))


def loop(combine: Callable, elements: list, reverse: bool) -> list:
    elements = elements[::-1] if reverse else elements
    out = elements[:1]
    for element in elements[1:]:
        out.append(combine(element, out[-1]) if reverse else combine(out[-1], element))
    return out[::-1] if reverse else out


@lengths
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_loop_for_products_that_do_not_commute(length: int, reverse: bool) -> None:
    matrices = normal(length, 3, 3, scale=0.6)
    expected = torch.stack(loop(torch.matmul, list(matrices), reverse))
    torch.testing.assert_close(associative_scan(torch.matmul, matrices, reverse=reverse), expected)


@lengths
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_of_dataclasses(length: int, reverse: bool) -> None:
    maps = affine(length)
    singles = [Affine(maps.scale[t], maps.shift[t], maps.count[t]) for t in range(length)]
    expected = loop(then, singles, reverse)
    got = associative_scan(then, maps, reverse=reverse)
    for name in ("scale", "shift", "count"):
        torch.testing.assert_close(getattr(got, name), torch.stack([getattr(x, name) for x in expected]))


@pytest.mark.parametrize("length", [*LENGTHS, 1000])
def test_scan_takes_few_products_in_few_rounds(length: int) -> None:
    rounds: list[int] = []

    def add(a: Tensor, b: Tensor) -> Tensor:
        rounds.append(len(a))
        return a + b

    sums = associative_scan(add, torch.arange(length))
    assert torch.equal(sums, torch.arange(length).cumsum(0))
    assert sum(rounds) < 2 * length
    assert len(rounds) <= 2 * math.log2(length)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_differentiable(reverse: bool) -> None:
    matrices = normal(5, 2, 2).requires_grad_()
    assert gradcheck(lambda x: associative_scan(torch.matmul, x, reverse=reverse), (matrices,))
    assert gradgradcheck(lambda x: associative_scan(torch.matmul, x, reverse=reverse), (matrices,))


def test_scan_of_nothing_is_nothing() -> None:
    assert associative_scan(torch.add, torch.zeros(0, 3)).shape == (0, 3)


def test_scan_refuses_what_has_no_time() -> None:
    with pytest.raises(ValueError, match="expected a tensor or a dataclass of tensors, got list"):
        associative_scan(torch.add, [torch.zeros(3)])
    with pytest.raises(ValueError, match=r"parts of one length, got lengths \[2, 3\]"):
        associative_scan(then, Affine(torch.zeros(2, 1, 1), torch.zeros(3, 1), torch.ones(3)))


# -- vectors ----------------------------------------------------------------------------------------------------------


@lengths
@semirings
def test_vectors_are_the_loops(semiring: LogSemiring, length: int) -> None:
    matrices, end = normal(length, 4, 4, scale=0.7), normal(4, seed=1)

    def backwards(matrix_of: Callable[[int], Tensor]) -> Tensor:
        vectors = [end]
        for t in reversed(range(length)):
            vectors.append(semiring.matmul(matrix_of(t), vectors[-1][:, None])[:, 0])
        return torch.stack(vectors[:0:-1])

    torch.testing.assert_close(suffix_vectors(semiring, matrices, end), backwards(lambda t: matrices[t]))
    torch.testing.assert_close(power_vectors(semiring, matrices[0], end, length), backwards(lambda t: matrices[0]))


@semirings
@pytest.mark.parametrize("size, length", [(1, 300), (40, 300), (150, 100)])
def test_powers_of_any_size_agree_with_steps(semiring: LogSemiring, size: int, length: int) -> None:
    """Large matrices are not squared all the way: blocks of vectors take over."""
    matrix, end = normal(size, size) - math.log(size), normal(size, seed=1)
    if isinstance(semiring, RealSemiring):
        matrix = torch.softmax(matrix, -1)
    stack = matrix.expand(length, size, size)
    got, expected = power_vectors(semiring, matrix, end, length), suffix_vectors(semiring, stack, end)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@semirings
def test_vectors_are_differentiable(semiring: LogSemiring) -> None:
    matrices, end = normal(5, 3, 3).requires_grad_(), normal(3, seed=1).requires_grad_()
    assert gradcheck(lambda a, x: suffix_vectors(semiring, a, x), (matrices, end))
    assert gradcheck(lambda a, x: power_vectors(semiring, a[0], x, 7), (matrices, end))
    if not isinstance(semiring, TropicalSemiring):
        assert gradgradcheck(lambda a, x: suffix_vectors(semiring, a, x), (matrices, end))


def test_no_steps_give_no_vectors() -> None:
    assert power_vectors(RealSemiring(), torch.eye(3), torch.ones(3), 0).shape == (0, 3)


# -- products in logarithms -------------------------------------------------------------------------------------------

RANGES = {"mild": (1.0, 0.0), "zeros": (1.0, 0.6), "wide": (100.0, 0.2), "far": (900.0, 0.3), "absurd": (1e6, 0.5)}
ranges = pytest.mark.parametrize("scale, zeros", RANGES.values(), ids=RANGES)


def exact_log_matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """In 60 digits."""
    out = np.full((left.shape[0], right.shape[1]), -math.inf)
    with mpmath.workdps(60):
        for i, j in np.ndindex(out.shape):
            terms = [a + b for a, b in zip(left[i], right[:, j], strict=True) if math.isfinite(a + b)]
            if terms:
                out[i, j] = float(mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(term)) for term in terms)))
    return out


@ranges
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 5), (2, 6, 1)])
def test_log_product_is_right_in_any_range(scale: float, zeros: float, shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    left, right = (
        normal(rows, inner, scale=scale, zeros=zeros),
        normal(inner, columns, scale=scale, zeros=zeros, seed=1),
    )
    expected = exact_log_matmul(left.numpy(), right.numpy())
    # Entries of some thousand nats are doubles with that many eps of rounding, in the sums of two as well.
    np.testing.assert_allclose(log_matmul(left, right), expected, rtol=1e-14, atol=1e-15 * max(1.0, 10 * scale))


def test_log_product_where_the_maxima_do_not_meet() -> None:
    """Shifting rows and columns by their maxima and clamping makes -inf, or some -708, of it."""
    left = torch.tensor([[0.0, -799.0]], dtype=torch.float64)
    right = torch.tensor([[-math.inf], [0.0]], dtype=torch.float64)
    assert log_matmul(left, right).item() == -799.0
    right = torch.tensor([[-800.0], [0.0]], dtype=torch.float64)
    assert log_matmul(left, right).item() == pytest.approx(-799.0 + math.log1p(math.exp(-1.0)), rel=1e-15)


@ranges
def test_gradient_of_the_log_product_is_the_weight_of_each_term(scale: float, zeros: float) -> None:
    left = normal(4, 3, scale=scale, zeros=zeros).requires_grad_()
    right = normal(3, 5, scale=scale, zeros=zeros, seed=1).requires_grad_()
    y = log_matmul(left, right)
    outer = normal(4, 5, seed=2)
    gradients = torch.autograd.grad((torch.where(torch.isneginf(y), 0.0, y) * outer).sum(), (left, right))
    terms = left.detach()[:, :, None] + right.detach()[None]  # [i, k, j]
    dead = torch.isneginf(terms).all(1, keepdim=True)
    weights = torch.where(dead, 0.0, torch.softmax(torch.where(dead, 0.0, terms), 1)) * outer[:, None]
    torch.testing.assert_close(gradients[0], weights.sum(2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[1], weights.sum(0), rtol=1e-12, atol=1e-12)


def test_gradient_where_nothing_is_possible_is_zero() -> None:
    left, right = torch.full((2, 3), -math.inf, dtype=torch.float64), normal(3, 2)
    left[1] = 0.0
    left.requires_grad_()
    gradient, *_ = torch.autograd.grad(log_matmul(left, right).sum(), left)
    assert (gradient[0] == 0).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("scale", [1.0, 900.0])
def test_log_product_derivatives(scale: float) -> None:
    left, right = (normal(2, 2, 3, seed=seed).requires_grad_() for seed in (0, 1))
    shift = scale * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return log_matmul(a + shift, b.mT - shift[:, None])

    assert gradcheck(product, (left, right))
    assert gradgradcheck(product, (left, right))


@pytest.mark.parametrize("scale", [1.0, 40.0, 200.0])
def test_single_precision_stays_and_keeps_its_digits(scale: float) -> None:
    left, right = normal(6, 7, scale=scale).float(), normal(7, 5, scale=scale, seed=1).float()
    got = log_matmul(left, right)
    assert got.dtype == torch.float32
    exact = log_matmul(left.double(), right.double())
    assert ((got - exact).abs() <= 32 * torch.finfo(torch.float32).eps * (scale + exact.abs())).all()


@pytest.mark.parametrize("product", [log_matmul, max_plus_matmul])
def test_batches(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    left, right = normal(2, 1, 3, 4, zeros=0.3), normal(5, 4, 2, zeros=0.3, seed=1)
    got = product(left, right)
    assert got.shape == (2, 5, 3, 2)
    for i, j in np.ndindex(2, 5):
        torch.testing.assert_close(got[i, j], product(left[i, 0], right[j]))


@pytest.mark.parametrize("product", [log_matmul, max_plus_matmul])
@pytest.mark.parametrize("right", [(2, 3), (3,)])
def test_shapes_that_do_not_meet_are_refused(
    product: Callable[[Tensor, Tensor], Tensor], right: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"takes \[\.\.\., n, k\]"):
        product(torch.zeros(2, 3), torch.zeros(right))


def test_entries_are_computed_term_by_term_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = (normal(8, 8, scale=2000.0, seed=seed) for seed in (0, 1))
    expected = log_matmul(left, right)
    monkeypatch.setattr(products, "_CHUNK", 20)
    torch.testing.assert_close(log_matmul(left, right), expected, rtol=1e-15, atol=0.0)


def test_numbers_that_are_none_come_through() -> None:
    left = torch.tensor([[math.nan, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y = log_matmul(left, torch.zeros(2, 1, dtype=torch.float64))
    assert torch.isnan(y[0, 0])
    assert y[1, 0] == pytest.approx(math.log(1.0 + math.e))


# -- products of maxima -----------------------------------------------------------------------------------------------


@ranges
@pytest.mark.parametrize("rows, columns", [(3, 4), (60, 40)])
def test_max_plus_product_is_the_maximum(scale: float, zeros: float, rows: int, columns: int) -> None:
    left = normal(rows, 9, scale=scale, zeros=zeros)
    right = normal(9, columns, scale=scale, zeros=zeros, seed=1)
    expected = (left[:, :, None] + right).amax(1)
    assert torch.equal(max_plus_matmul(left, right), expected)
    assert torch.equal(max_plus_matmul(left.requires_grad_(), right), expected)


def test_max_plus_gradient_goes_to_the_first_of_the_greatest_terms() -> None:
    left = torch.tensor([[1.0, 3.0, 3.0], [-math.inf] * 3], dtype=torch.float64, requires_grad=True)
    right = torch.tensor([[2.0], [0.0], [0.0]], dtype=torch.float64, requires_grad=True)
    y = max_plus_matmul(left, right)
    assert y.tolist() == [[3.0], [-math.inf]]
    gradients = torch.autograd.grad(y.sum(), (left, right))
    assert gradients[0].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert gradients[1].tolist() == [[1.0], [0.0], [0.0]]
