"""Products with a sparse matrix of learned values against the dense product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cai.ops import Pattern, csr_product

NUM_ROWS, NUM_COLUMNS = 6, 4


def example(seed: int = 0) -> tuple[Pattern, Tensor]:
    """A random matrix with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(NUM_ROWS, NUM_COLUMNS)) * (rng.random((NUM_ROWS, NUM_COLUMNS)) < 0.6)
    dense[2], dense[:, 1] = 0.0, 0.0
    matrix = torch.as_tensor(dense)
    rows, columns = matrix.nonzero().T
    starts = torch.zeros(NUM_ROWS + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(rows, minlength=NUM_ROWS).cumsum(0)
    return Pattern(starts, columns, NUM_COLUMNS), matrix[rows, columns]


def dense(pattern: Pattern, values: Tensor) -> Tensor:
    zeros = values.new_zeros(pattern.num_rows, pattern.num_columns)
    return zeros.index_put((pattern.rows, pattern.columns), values)


@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_product_is_the_dense_one(batch: tuple[int, ...]) -> None:
    pattern, values = example()
    vector = torch.as_tensor(np.random.default_rng(1).normal(size=(*batch, NUM_COLUMNS)))
    expected = vector @ dense(pattern, values).T
    torch.testing.assert_close(csr_product(pattern, values, vector), expected, rtol=1e-14, atol=1e-14)
    learned = csr_product(pattern, values.requires_grad_(), vector)
    torch.testing.assert_close(learned, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_derivatives(batch: tuple[int, ...]) -> None:
    pattern, values = example()
    vector = torch.as_tensor(np.random.default_rng(2).normal(size=(*batch, NUM_COLUMNS))).requires_grad_()
    arguments = (values.requires_grad_(), vector)
    assert gradcheck(lambda c, v: csr_product(pattern, c, v), arguments)
    assert gradgradcheck(lambda c, v: csr_product(pattern, c, v), arguments)


@pytest.mark.parametrize("leaf", [0, 1])
def test_gradient_of_one_argument_only(leaf: int) -> None:
    pattern, values = example()
    arguments = [values, torch.linspace(-1, 1, NUM_COLUMNS, dtype=torch.float64)]
    arguments[leaf].requires_grad_()
    (sparse,) = torch.autograd.grad(csr_product(pattern, *arguments).square().sum(), arguments[leaf])
    (full,) = torch.autograd.grad((dense(pattern, arguments[0]) @ arguments[1]).square().sum(), arguments[leaf])
    torch.testing.assert_close(sparse, full, rtol=1e-13, atol=1e-13)


def test_row_reductions() -> None:
    pattern, values = example()
    full = dense(pattern, values)
    batch = torch.stack([values, 2 * values])
    torch.testing.assert_close(pattern.sum(batch), torch.stack([full.sum(-1), 2 * full.sum(-1)]))
    stored = dense(pattern, torch.ones_like(values)) > 0
    expected = torch.where(stored, full, -torch.inf).amax(-1)
    assert torch.equal(pattern.max(batch), torch.stack([expected, 2 * expected]))
    assert pattern.max(values)[2] == -torch.inf  # the empty row
    assert torch.equal(pattern.spread(torch.arange(NUM_ROWS)), pattern.rows)
    assert pattern.max_row_length == int(stored.sum(-1).max())


def test_transposition() -> None:
    pattern, values = example()
    transposed = dense(pattern.transposed, values[pattern.transposed_order])
    assert torch.equal(transposed, dense(pattern, values).T)


def test_entries_are_found() -> None:
    pattern, values = example()
    rows, columns = torch.meshgrid(torch.arange(NUM_ROWS), torch.arange(NUM_COLUMNS), indexing="ij")
    position, stored = pattern.find(rows, columns)
    assert torch.equal(torch.where(stored, values[position], 0.0), dense(pattern, values))
    empty = Pattern(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 2)
    assert not empty.find(torch.tensor([0, 1]), torch.tensor([1, 1]))[1].any()
