"""Products with a sparse matrix of learned values against the dense product."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cai.ops import Pattern, csr_product
from cai.ops.sparse import csr_tensor, index_dtype

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


@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_derivatives_of_the_greatest_entry(batch: tuple[int, ...]) -> None:
    pattern, _ = example()
    entries = torch.as_tensor(np.random.default_rng(3).normal(size=(*batch, pattern.num_entries)))
    plain, learned = pattern.max(entries), pattern.max(entries.requires_grad_())
    assert torch.equal(plain, learned.detach())
    has_entries = pattern.row_starts.diff() > 0
    assert gradcheck(lambda x: pattern.max(x)[..., has_entries].square(), entries)
    assert gradgradcheck(lambda x: pattern.max(x)[..., has_entries].square(), entries)


def random_pattern(rng: np.random.Generator, num_rows: int, num_columns: int, density: float) -> tuple[Pattern, Tensor]:
    matrix = scipy.sparse.random(num_rows, num_columns, density, format="csr", random_state=rng)
    parts = [torch.as_tensor(part) for part in (matrix.indptr, matrix.indices, matrix.data)]
    return Pattern(parts[0].long(), parts[1].long(), num_columns), parts[2]


SHAPES = [(1, 1, 1.0), (1, 9, 0.0), (30, 7, 0.2), (7, 30, 0.2), (40, 40, 0.02), (5, 300, 0.9), (0, 4, 0.0)]


@pytest.mark.parametrize(("num_rows", "num_columns", "density"), SHAPES)
def test_random_patterns(num_rows: int, num_columns: int, density: float) -> None:
    """Every operation on patterns of all kinds: with empty rows, long rows, nothing at all."""
    rng = np.random.default_rng([num_rows, num_columns])
    for _ in range(5):
        pattern, values = random_pattern(rng, num_rows, num_columns, density)
        full, stored = dense(pattern, values), dense(pattern, torch.ones_like(values)) > 0
        assert torch.equal(dense(pattern.transposed, values[pattern.transposed_order]), full.T)
        assert torch.equal(pattern.max(values), torch.where(stored, full, -torch.inf).amax(-1))
        torch.testing.assert_close(pattern.sum(values), full.sum(-1), rtol=1e-13, atol=1e-13)
        rows, columns = torch.meshgrid(torch.arange(num_rows), torch.arange(num_columns), indexing="ij")
        position, found = pattern.find(rows, columns)
        assert torch.equal(found, stored)
        assert torch.equal(values[position[found]], full[stored])


def test_indices_are_narrow() -> None:
    pattern, values = random_pattern(np.random.default_rng(0), 30, 20, 0.3)
    for made in (pattern, pattern.transposed):
        assert {made.row_starts.dtype, made.columns.dtype, made.rows.dtype} == {torch.int32}
    assert pattern.transposed_order.dtype == torch.int32
    matrix = csr_tensor(pattern, values)
    assert matrix.crow_indices().data_ptr() == pattern.row_starts.data_ptr()  # no second copy
    assert matrix.col_indices().data_ptr() == pattern.columns.data_ptr()


@pytest.mark.parametrize("sizes", [(2**31, 5), (5, 2**31)])
def test_indices_are_wide_where_they_must_be(sizes: tuple[int, int]) -> None:
    assert index_dtype(*sizes) == torch.int64
    assert index_dtype(2**31 - 1, 5) == torch.int32
    few = Pattern(torch.tensor([0, 2], dtype=torch.int32), torch.tensor([1, 2**31 + 5]), 2**32)
    assert few.columns.dtype == few.row_starts.dtype == torch.int64
    position, found = few.find(torch.tensor([0, 0]), torch.tensor([2**31 + 5, 5]))
    assert (int(position[0]), found.tolist()) == (1, [True, False])


def test_nothing_is_found_where_nothing_is() -> None:
    empty = Pattern(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 2)
    assert not empty.find(torch.tensor([0, 1]), torch.tensor([1, 1]))[1].any()
