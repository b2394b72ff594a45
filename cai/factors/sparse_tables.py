"""Sparse tables read block by block of states, each checked as it comes; there never are two whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.factors.checks import (
    as_numbers,
    check_kept,
    check_probabilities,
    check_range,
    check_sums,
    needs_normalising,
    own_copy,
    place,
    whole_numbers,
)
from cai.ops.sparse_building import RowBlock, rows_of_triplets, sparse_from_rows
from cai.ops.sparse_transitions import SparseTransitions

#: Entries that are read at once: few enough for a core's cache, many enough to make the overhead of a call small.
_PIECE = 2**18


@dataclass(frozen=True, eq=False)
class RowChecks:
    """What the rows of a table p(s' | s, a) must be.

    Attributes:
        num_actions: Number of actions A.
        terminal: `[S]`, bool, on the CPU: where rows need not be distributions.
        name: What to call the table.
    """

    num_actions: int
    terminal: Tensor
    name: str

    def check(self, rows: RowBlock, first_state: int = 0) -> Tensor:
        """Raises ValueError at the first bad entry, or row sum, of the rows from a state on; gives the sums, `[R]`."""
        name_of, num_states = self._namer(rows, first_state), len(self.terminal)
        _check_columns(rows, num_states, name_of)
        check_probabilities(rows.values.detach(), name_of)
        sums = rows.sums().cpu()
        last_state = first_state + rows.num_rows // self.num_actions
        skip = self.terminal[first_state:last_state, None].expand(-1, self.num_actions)
        check_sums(sums.view(-1, self.num_actions), self.name, ["state", "action"], skip, first=first_state)
        return sums

    def checked(self, rows: RowBlock, first_state: int, dtype: torch.dtype) -> RowBlock:
        """Checks rows as they were given, brings them into order, normalises and casts them."""
        sums = self.check(rows, first_state)
        rows = rows.canonical(len(self.terminal))
        values = rows.values
        check_kept(values, dtype, self._namer(rows, first_state))
        off = needs_normalising(sums.to(values.dtype))
        if off.any() and not values.requires_grad:  # the gradient of what learns must be that of the numbers given
            scale = torch.where(off, sums, 1.0).repeat_interleave(rows.row_starts.diff())
            values = values / scale.to(values)
        return RowBlock(rows.row_starts, rows.columns, values.to(dtype))

    def _namer(self, rows: RowBlock, first_state: int) -> Callable[[int], str]:
        return _row_namer(rows, first_state, self.num_actions, f"{self.name} row")


def sparse_dynamics(blocks: Iterable[tuple[str, Any]], checks: RowChecks, *, dtype: torch.dtype) -> SparseTransitions:
    """Builds a table of blocks, each with what to call it; see `TabularDynamics.from_blocks` for what they may be."""
    return sparse_from_rows(_checked(blocks, checks, dtype), num_states=len(checks.terminal))


def _checked(blocks: Iterable[tuple[str, Any]], checks: RowChecks, dtype: torch.dtype) -> Iterator[RowBlock]:
    num_states, num_actions = len(checks.terminal), checks.num_actions
    done = 0
    for name, block in blocks:
        for rows in read_rows(block, num_states, num_actions, name):
            came = done + rows.num_rows // num_actions
            if came > num_states:
                raise ValueError(f"{name}: {came} states have come, and num_states is {num_states}")
            yield checks.checked(rows, done, dtype)
            done = came
    if done != num_states:
        raise ValueError(f"{checks.name}: the blocks end after {done} states, and num_states is {num_states}")


def sparse_reward(matrix: Any, *, dtype: torch.dtype, name: str) -> SparseTransitions:
    """Builds the table r(s, a, s') of a sparse matrix `[S * A, S]`.

    Raises:
        ValueError: A wrong shape, or a value that is not finite or beyond the range of the dtype.
    """
    num_rows, num_states = sparse_shape(matrix, name)
    if not num_states or not num_rows or num_rows % num_states:
        raise ValueError(f"{name}: a sparse reward must be [S * A, S], got [{num_rows}, {num_states}]")
    num_actions = num_rows // num_states

    def checked() -> Iterator[RowBlock]:
        """Reads block after block, and refuses the first bad value."""
        first = 0
        for rows in read_rows(matrix, num_states, num_actions, name):
            name_of = _row_namer(rows, first, num_actions, f"{name}:")
            _check_columns(rows, num_states, name_of)
            infinite = ~torch.isfinite(rows.values.detach())
            if infinite.any():
                entry = int(infinite.nonzero()[0])
                raise ValueError(f"{name_of(entry)} is {rows.values[entry].item()}; every value must be finite")
            rows = rows.canonical(num_states)
            check_range(rows.values, dtype, _row_namer(rows, first, num_actions, f"{name}:"))
            yield RowBlock(rows.row_starts, rows.columns, rows.values.to(dtype))
            first += rows.num_rows // num_actions

    return sparse_from_rows(checked(), num_states=num_states)


def _row_namer(rows: RowBlock, first_state: int, num_actions: int, name: str) -> Callable[[int], str]:
    """Names the row of an entry by its state in the whole world, and its action."""

    def name_of(entry: int) -> str:
        state, action = divmod(rows.row_of(entry), num_actions)
        return f"{name} ({place(['state', 'action'], [first_state + state, action])})"

    return name_of


def _check_columns(rows: RowBlock, num_states: int, name_of: Callable[[int], str]) -> None:
    columns = rows.columns
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < num_states:
        entry = int(((columns < 0) | (columns >= num_states)).nonzero()[0])
        raise ValueError(f"{name_of(entry)}: next state {int(columns[entry])} is outside 0..{num_states - 1}")


def read_rows(block: Any, num_states: int, num_actions: int, name: str) -> Iterator[RowBlock]:
    """Reads successors (next_states, probs), `[n, A, K]` each, or a sparse matrix `[n * A, S]`, in pieces.

    What is read is a copy; values that learn keep their gradient.

    Raises:
        ValueError: It is neither, or of another shape.
    """
    if is_sparse(block):
        return _rows_of_matrix(block, num_states, num_actions, name)
    if isinstance(block, tuple | list) and len(block) == 2:
        next_states, probs = block
        return _rows_of_successors(next_states, probs, num_actions, name)
    raise ValueError(f"{name}: expected (next_states, probs) or a sparse matrix, got {type(block).__name__}")


def is_sparse(value: Any) -> bool:
    """Says whether a value is a scipy or torch sparse matrix."""
    return scipy.sparse.issparse(value) or (isinstance(value, Tensor) and value.layout != torch.strided)


def sparse_shape(matrix: Any, name: str) -> tuple[int, int]:
    """Gives the shape of a sparse matrix; ValueError for one that has not two dimensions."""
    if len(matrix.shape) != 2:
        raise ValueError(f"{name}: a sparse matrix must have two dimensions, got {list(matrix.shape)}")
    return tuple(matrix.shape)


def _rows_of_matrix(matrix: Any, num_states: int, num_actions: int, name: str) -> Iterator[RowBlock]:
    num_rows, num_columns = sparse_shape(matrix, name)
    if num_columns != num_states or num_rows % num_actions:
        raise ValueError(
            f"{name}: a sparse matrix of {num_states} states and {num_actions} actions must be "
            f"[n * {num_actions}, {num_states}], got [{num_rows}, {num_columns}]"
        )
    if isinstance(matrix, Tensor):
        coo = (matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()).coalesce()
        rows, columns = coo.indices()
        yield rows_of_triplets(rows, columns, as_numbers(coo.values(), name), num_rows=num_rows)
    elif matrix.format == "coo":  # whose own conversion would add up duplicates before they are checked
        rows, columns = own_copy(matrix.row), own_copy(matrix.col)
        yield rows_of_triplets(rows, columns, as_numbers(matrix.data, name), num_rows=num_rows)
    else:
        csr = matrix.tocsr()
        step = num_actions * max(1, _PIECE * num_rows // (max(csr.nnz, 1) * num_actions))
        for row in range(0, num_rows, step):
            starts = own_copy(csr.indptr[row : row + step + 1])
            entries = slice(int(starts[0]), int(starts[-1]))
            yield RowBlock(starts - starts[0], own_copy(csr.indices[entries]), as_numbers(csr.data[entries], name))


def _rows_of_successors(next_states: Any, probs: Any, num_actions: int, name: str) -> Iterator[RowBlock]:
    values, successors = as_array(probs, f"{name} probs"), as_array(next_states, f"{name} next_states")
    if len(values.shape) != 3 or values.shape[1] != num_actions:
        raise ValueError(f"{name}: probs must be [n, {num_actions}, K], got {list(values.shape)}")
    if successors.shape != values.shape:
        raise ValueError(f"{name}: next_states must be {list(values.shape)} as probs, got {list(successors.shape)}")
    num_successors = values.shape[2]
    step = max(1, _PIECE // max(1, num_actions * num_successors))
    for given, following in zip(_pieces(values, step), _pieces(successors, step), strict=True):
        numbers = as_numbers(given, f"{name} probs")
        columns = torch.where(numbers.detach().cpu() == 0, 0, own_copy(following).cpu())
        starts = torch.arange(len(given) * num_actions + 1) * num_successors
        yield RowBlock(starts, whole_numbers(columns, f"{name}: next state").flatten(), numbers.flatten())


def as_array(value: Any, name: str) -> Tensor | np.ndarray:
    """Gives a tensor as it is, and anything else as an array; nothing is copied that need not be."""
    try:
        return value if isinstance(value, Tensor) else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: cannot be read as an array of numbers ({error})") from None


def _pieces(array: Tensor | np.ndarray, step: int) -> Iterable[Any]:
    if isinstance(array, Tensor):
        return array.split(step)  # one node of the gradient, where slices would be many
    return (array[first : first + step] for first in range(0, max(len(array), 1), step))  # torch splits nothing too
