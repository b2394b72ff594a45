"""(I - G)^-1 by each of its ways: dense, sparse direct, Krylov; transposed; singular; its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cai.ops.infinite import linear
from cai.ops.infinite.linear import Resolvent, implicit


def chain(size: int, discount: float = 0.95, density: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.random((size, size)) * (rng.random((size, size)) < density) + 0.1 * np.eye(size)
    return discount * weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("way", ["dense", "direct", "krylov", "krylov gives up"])
def test_solves(monkeypatch: pytest.MonkeyPatch, way: str, transposed: bool) -> None:
    matrix = chain(80)
    if way.startswith("krylov"):
        monkeypatch.setattr(linear, "DIRECT_LIMIT", 10)
        monkeypatch.setattr(linear, "KRYLOV_STEPS", 1 if way.endswith("up") else 100)
    b = torch.linspace(-1, 1, 80, dtype=torch.float64)
    resolvent = Resolvent(matrix if way == "dense" else scipy.sparse.csr_matrix(matrix))
    expected = np.linalg.solve(np.eye(80) - (matrix.T if transposed else matrix), b.numpy())
    for _ in range(2):  # the second time from what the first kept
        np.testing.assert_allclose(resolvent.solve(b, transposed=transposed), expected, rtol=1e-11, atol=1e-11)
    factorised = "_sparse_factors" in resolvent.__dict__
    assert factorised == (way in ("direct", "krylov gives up"))


def test_one_matrix_both_ways() -> None:
    matrix = scipy.sparse.csr_matrix(chain(30))
    resolvent, b, c = Resolvent(matrix), torch.rand(30, dtype=torch.float64), torch.rand(30, dtype=torch.float64)
    assert float(c @ resolvent.solve(b)) == pytest.approx(float(resolvent.solve(c, transposed=True) @ b), rel=1e-12)


@pytest.mark.parametrize("store", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
def test_singular_matrix_gives_infinity(store: Callable) -> None:
    resolvent = Resolvent(store(np.eye(3)))
    assert torch.isinf(resolvent.solve(torch.ones(3, dtype=torch.float64))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_has_the_dtype_of_the_right_side(dtype: torch.dtype) -> None:
    assert Resolvent(chain(5)).solve(torch.ones(5, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("transposed", [False, True])
def test_implicit_gradient(transposed: bool) -> None:
    """The fixed point x = b + G x has dx/db = (I - G)^-1."""
    matrix = torch.as_tensor(chain(6))
    step = matrix.T if transposed else matrix

    def fixed_point(b: Tensor) -> Tensor:
        resolvent = Resolvent(matrix.numpy())
        x = resolvent.solve(b, transposed=transposed)
        return implicit(x, b + step @ x, resolvent, transposed=transposed)

    assert gradcheck(fixed_point, (torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_(),))


def test_implicit_costs_nothing_without_gradients() -> None:
    x = torch.ones(3)
    assert implicit(x, x.clone(), Resolvent(np.zeros((3, 3)))) is x


def test_second_derivatives_are_refused() -> None:
    """The adjoint is solved for on plain numbers: better no second derivative than a wrong one."""
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    matrix = torch.as_tensor(chain(3))
    resolvent = Resolvent(matrix.numpy())
    x = resolvent.solve(b**2)
    solution = implicit(x, b**2 + matrix @ x, resolvent)
    (first,) = torch.autograd.grad(solution.square().sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|differentiate twice"):
        torch.autograd.grad(first.sum(), b)
