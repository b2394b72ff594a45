"""Building sparse tables block by block of rows, at the memory of the table and of one block.

What comes (rows of a scipy matrix, successors, triplets) is brought into compressed-row order, where each row's columns
ascend and none stands twice:

    C[i, j] = sum of the values given for (i, j),     entries of value zero left out

Blocks that are in order are taken as they are; others are ordered by scipy's C code, which moves positions instead of
values, so that values may learn: what is summed is summed differentiably. Indices are int32 wherever they fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.ops.sparse import Pattern, index_dtype
from cai.ops.sparse_transitions import SparseTransitions


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Consecutive rows of a sparse matrix as they were given: a row's entries in any order, some zero, some twice.

    Attributes:
        row_starts: `[R + 1]`, integers, on the CPU: row i owns entries `row_starts[i]` to `row_starts[i + 1] - 1`.
        columns: `[n]`, integers, on the CPU.
        values: `[n]`, on any device.
    """

    row_starts: Tensor
    columns: Tensor
    values: Tensor

    @property
    def num_rows(self) -> int:
        """Number of rows R."""
        return self.row_starts.numel() - 1

    def row_of(self, entry: int) -> int:
        """Gives the row that owns an entry."""
        return int(torch.searchsorted(self.row_starts, entry, right=True)) - 1

    def sums(self) -> Tensor:
        """Adds up each row, `[R]`, float64 whatever the values are: a row of float32 may be long."""
        values, starts = self.values.detach().to(torch.float64), self.row_starts.to(self.values.device)
        return torch.segment_reduce(values, "sum", offsets=starts, axis=0, unsafe=True)

    def canonical(self, num_columns: int) -> RowBlock:
        """Brings the entries into order: zeros dropped, columns ascending in each row, duplicates added up.

        Args:
            num_columns: Number of columns, all of which are below it.
        """
        dtype = index_dtype(self.columns.numel(), num_columns)
        block = RowBlock(self.row_starts.to(dtype), self.columns.to(dtype), self.values)._without_zeros()
        if block._scipy(block.columns, num_columns).has_canonical_format:
            return block
        return block._ordered(num_columns)._without_duplicates()

    def _without_zeros(self) -> RowBlock:
        kept = (self.values.detach() != 0).cpu()
        if kept.all():
            return self
        positions = kept.nonzero()[:, 0]
        values = self.values.index_select(0, positions.to(self.values.device))
        return RowBlock(self._starts_of(kept), self.columns.index_select(0, positions), values)

    def _ordered(self, num_columns: int) -> RowBlock:
        matrix = self._scipy(self.columns.clone(), num_columns)
        matrix.sort_indices()
        order = torch.from_numpy(matrix.data).to(self.values.device)
        return RowBlock(self.row_starts, torch.from_numpy(matrix.indices), self.values.index_select(0, order))

    def _without_duplicates(self) -> RowBlock:
        first = torch.ones(self.columns.numel() + 1, dtype=torch.bool)
        torch.ne(self.columns[1:], self.columns[:-1], out=first[1:-1])
        first[self.row_starts.to(torch.int64)] = True  # as much as the end, of which an empty last row is the start
        first = first[:-1]
        if first.all():
            return self
        group = (first.cumsum(0, dtype=self.columns.dtype) - 1).to(self.values.device)
        summed = self.values.new_zeros(int(first.sum())).index_add(0, group, self.values)
        return RowBlock(self._starts_of(first), self.columns[first], summed)

    def _starts_of(self, kept: Tensor) -> Tensor:
        """Where the rows start once only the entries marked are kept."""
        before = torch.nn.functional.pad(kept.cumsum(0, dtype=self.row_starts.dtype), (1, 0))
        return before.index_select(0, self.row_starts)

    def _scipy(self, columns: Tensor, num_columns: int) -> scipy.sparse.csr_matrix:
        """The positions of the entries as a matrix, sharing memory."""
        positions = np.arange(columns.numel(), dtype=columns.numpy().dtype)
        shape = (self.num_rows, num_columns)
        return scipy.sparse.csr_matrix((positions, columns.numpy(), self.row_starts.numpy()), shape=shape)


def rows_of_triplets(rows: Tensor, columns: Tensor, values: Tensor, *, num_rows: int) -> RowBlock:
    """Groups triplets `[n]`, in any order, by their rows; those that are grouped already are not moved."""
    dtype = index_dtype(rows.numel(), int(columns.max()) if columns.numel() else 0)
    rows, columns = rows.cpu(), columns.cpu().to(dtype)
    if bool((rows[1:] >= rows[:-1]).all()):
        starts = torch.zeros(num_rows + 1, dtype=dtype)
        starts[1:] = torch.bincount(rows, minlength=num_rows).cumsum(0, dtype=dtype)
        return RowBlock(starts, columns, values)
    # A column for each triplet: all that scipy does then is to count rows, and its column indices are the order.
    positions = np.arange(rows.numel(), dtype=columns.numpy().dtype)
    shape = (num_rows, rows.numel())
    grouped = scipy.sparse.coo_matrix((columns.numpy(), (rows.numpy(), positions)), shape=shape).tocsr()
    starts, order, columns = (torch.from_numpy(x) for x in (grouped.indptr, grouped.indices, grouped.data))
    return RowBlock(starts.to(dtype), columns, values.index_select(0, order.to(values.device)))


def sparse_from_triplets(
    rows: Tensor, columns: Tensor, values: Tensor, *, num_states: int, num_actions: int
) -> SparseTransitions:
    """Builds sparse transitions from triplets in any order; duplicates are added up, differentiably.

    Args:
        rows: `[n]`, integers, s * A + a.
        columns: `[n]`, integers, next states.
        values: `[n]`, probabilities; entries of probability zero are dropped.
        num_states: Number of states S.
        num_actions: Number of actions A.
    """
    block = rows_of_triplets(rows, columns, values, num_rows=num_states * num_actions)
    return sparse_from_rows([block.canonical(num_states)], num_states=num_states)


def sparse_from_rows(blocks: Iterable[RowBlock], *, num_states: int) -> SparseTransitions:
    """Puts blocks of rows, each canonical, one under the other; each may go once the next is asked for.

    Args:
        blocks: All rows s * A + a, in order.
        num_states: Number of states S.
    """
    counts, columns, values = _Growing(), _Growing(), _Growing()
    for block in blocks:
        counts.extend(block.row_starts.diff())
        columns.extend(block.columns)
        values.extend(block.values)
    joined, ends = values.joined(), counts.joined()
    dtype = index_dtype(joined.numel(), num_states)
    starts = torch.zeros(ends.numel() + 1, dtype=dtype)
    torch.cumsum(ends, 0, dtype=dtype, out=starts[1:])
    pattern = Pattern(starts.to(joined.device), columns.joined().to(joined.device), num_states)
    return SparseTransitions(joined, pattern)


class _Growing:
    """A tensor that grows at its end: a copy of what it is given.

    On the CPU its memory is enlarged in place, for which the system moves pages and not bytes. What learns, or lies
    elsewhere, is kept in pieces and joined at the end.
    """

    def __init__(self) -> None:
        self._array: np.ndarray | None = None
        self._size = 0
        self._pieces: list[Tensor] = []

    def extend(self, part: Tensor) -> None:
        if self._pieces or part.requires_grad or part.device.type != "cpu" or part.dtype == torch.bfloat16:
            self._pieces.append(part)
            return
        end = self._size + part.numel()
        if self._array is None:
            self._array = np.empty(end, dtype=part.numpy().dtype)
        elif end > len(self._array):
            self._array.resize(end + end // 8, refcheck=False)
        self._array[self._size : end] = part.numpy()
        self._size = end

    def joined(self) -> Tensor:
        if self._array is None:
            return torch.cat(self._pieces)
        self._array.resize(self._size, refcheck=False)
        start = torch.from_numpy(self._array)
        return torch.cat([start, *self._pieces]) if self._pieces else start
