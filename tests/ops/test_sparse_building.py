"""Rows in any order, with zeros and duplicates, against a dense sum; what is in order is not moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cai.ops import SparseTransitions, sparse_from_triplets
from cai.ops.sparse_building import RowBlock, rows_of_triplets, sparse_from_rows

NUM_COLUMNS = 6


def random_block(rng: np.random.Generator, num_rows: int, longest: int) -> RowBlock:
    """Rows of up to `longest` entries, among them zeros and duplicates."""
    counts = rng.integers(0, longest + 1, num_rows)
    columns = rng.integers(0, NUM_COLUMNS, counts.sum())
    values = rng.integers(-2, 3, counts.sum()).astype(float)
    return RowBlock(*(torch.as_tensor(part) for part in (np.append(0, counts.cumsum()), columns, values)))


def dense(block: RowBlock) -> np.ndarray:
    full = np.zeros((block.num_rows, NUM_COLUMNS))
    rows = np.repeat(np.arange(block.num_rows), block.row_starts.diff().numpy())
    np.add.at(full, (rows, block.columns.numpy()), block.values.detach().numpy())
    return full


def check_order(block: RowBlock) -> None:
    for first, last in zip(block.row_starts[:-1], block.row_starts[1:], strict=True):
        assert (block.columns[first:last].diff() > 0).all()


@pytest.mark.parametrize("longest", [0, 1, 3, 20])
@pytest.mark.parametrize("num_rows", [1, 2, 17])
def test_rows_are_put_in_order(num_rows: int, longest: int) -> None:
    rng = np.random.default_rng([num_rows, longest])
    for _ in range(30):
        block = random_block(rng, num_rows, longest)
        ordered = block.canonical(NUM_COLUMNS)
        check_order(ordered)
        np.testing.assert_array_equal(dense(ordered), dense(block))  # sums of small whole numbers are exact
        np.testing.assert_array_equal(block.sums(), dense(block).sum(-1))
        assert ordered.columns.dtype == ordered.row_starts.dtype == torch.int32


def test_what_is_in_order_is_not_moved() -> None:
    starts, columns = torch.tensor([0, 2, 2, 3], dtype=torch.int32), torch.tensor([1, 4, 0], dtype=torch.int32)
    values = torch.tensor([1.0, 2.0, 3.0])
    ordered = RowBlock(starts, columns, values).canonical(NUM_COLUMNS)
    assert ordered.columns is columns
    assert ordered.values is values


def test_the_row_of_an_entry() -> None:
    block = random_block(np.random.default_rng(0), 12, 3)
    rows = np.repeat(np.arange(12), block.row_starts.diff().numpy())
    assert [block.row_of(entry) for entry in range(len(rows))] == rows.tolist()


@pytest.mark.parametrize("ordered", [True, False])
def test_triplets(ordered: bool) -> None:
    rng = np.random.default_rng(1)
    for num in (0, 1, 5, 200):
        rows = torch.as_tensor(np.sort(rng.integers(0, 9, num)) if ordered else rng.integers(0, 9, num))
        columns = torch.as_tensor(rng.integers(0, NUM_COLUMNS, num))
        values = torch.as_tensor(rng.integers(-2, 3, num).astype(float))
        expected = np.zeros((9, NUM_COLUMNS))
        np.add.at(expected, (rows.numpy(), columns.numpy()), values.numpy())
        block = rows_of_triplets(rows, columns, values, num_rows=9)
        np.testing.assert_array_equal(dense(block), expected)
        np.testing.assert_array_equal(dense(block.canonical(NUM_COLUMNS)), expected)


def test_blocks_one_under_the_other() -> None:
    """More than one room's worth, so that the arrays must grow several times; blocks without entries among them."""
    rng = np.random.default_rng(2)
    blocks = [random_block(rng, int(num), 5) for num in rng.integers(1, 40, 60)]
    total = sum(block.num_rows for block in blocks)
    blocks.append(random_block(rng, -total % NUM_COLUMNS, 0))
    made = sparse_from_rows((block.canonical(NUM_COLUMNS) for block in blocks), num_states=NUM_COLUMNS)
    np.testing.assert_array_equal(
        made.dense(made.values).reshape(-1, NUM_COLUMNS), np.concatenate([dense(block) for block in blocks])
    )
    assert made.pattern.columns.dtype == torch.int32


@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_blocks_that_learn_among_those_that_do_not(learned: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    blocks = [random_block(rng, NUM_COLUMNS, 4) for _ in range(3)]
    expected = np.concatenate([dense(block) for block in blocks])
    for number in learned:
        blocks[number].values.requires_grad_()
    made = sparse_from_rows([block.canonical(NUM_COLUMNS) for block in blocks], num_states=NUM_COLUMNS)
    np.testing.assert_array_equal(made.dense(made.values).detach().reshape(-1, NUM_COLUMNS), expected)
    gradients = torch.autograd.grad(made.values.square().sum(), [blocks[number].values for number in learned])
    for number, gradient in zip(learned, gradients, strict=True):
        block = blocks[number]
        rows = np.repeat(np.arange(block.num_rows), block.row_starts.diff().numpy())
        of_entries = 2 * dense(block)[rows, block.columns.numpy()]
        np.testing.assert_array_equal(gradient, np.where(block.values.detach() == 0, 0, of_entries))


def test_gradients_flow_through_duplicates_and_order() -> None:
    rows, columns = torch.tensor([3, 0, 3, 2, 0, 3]), torch.tensor([1, 0, 1, 0, 1, 0])
    values = torch.linspace(0.5, 1.5, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(8, dtype=torch.float64).reshape(2, 2, 2) ** 2

    def weighed(values: Tensor) -> Tensor:
        made = sparse_from_triplets(rows, columns, values, num_states=2, num_actions=2)
        return made.dense(made.values) * weights

    assert gradcheck(weighed, values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_are_kept(dtype: torch.dtype) -> None:
    made = sparse_from_triplets(
        torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([0.5, 1.0], dtype=dtype), num_states=2, num_actions=1
    )
    assert isinstance(made, SparseTransitions)
    assert made.values.dtype == dtype
    assert made.values.tolist() == [1.0, 0.5]
