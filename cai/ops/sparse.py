"""Products with a sparse matrix whose values may be learned.

    y = C v,     dL/dv = C' dL/dy,     dL/dC_e = (dL/dy)[row_e] v[col_e]   for stored entries e only

torch's own gradient of a CSR product with respect to the values goes through a dense matrix; this one touches the
stored entries only. It is differentiable twice, because its backward pass is made of the same product.

Indices are int32 wherever they fit: a sweep moves a third fewer bytes, and so does everything that is built on the way.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF

with warnings.catch_warnings():
    # torch calls its CSR layout a beta, once a process: on this empty matrix, and not on a user's.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(
        torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), (0, 0)
    )


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the entries of a sparse matrix stand, in compressed-row order.

    Indices given in another integer type are converted.

    Attributes:
        row_starts: `[R + 1]`, int32, or int64 from 2^31 entries or columns: row i owns entries `row_starts[i]` to
            `row_starts[i + 1] - 1`.
        columns: `[nnz]`, of the same type, ascending within a row.
        num_columns: Number of columns.
    """

    row_starts: Tensor
    columns: Tensor
    num_columns: int

    def __post_init__(self) -> None:
        dtype = index_dtype(self.columns.numel(), self.num_columns)
        object.__setattr__(self, "row_starts", self.row_starts.to(dtype))
        object.__setattr__(self, "columns", self.columns.to(dtype))

    @property
    def num_rows(self) -> int:
        """Number of rows R."""
        return self.row_starts.numel() - 1

    @property
    def num_entries(self) -> int:
        """Number of stored entries."""
        return self.columns.numel()

    @cached_property
    def rows(self) -> Tensor:
        """The row of each entry, `[nnz]`."""
        numbers = torch.arange(self.num_rows, dtype=index_dtype(self.num_rows), device=self.columns.device)
        return torch.repeat_interleave(numbers, self.row_starts.diff(), output_size=self.num_entries)

    @cached_property
    def max_row_length(self) -> int:
        """The most entries that a row has."""
        return int(self.row_starts.diff().max()) if self.num_rows else 0

    @cached_property
    def _transposition(self) -> tuple[Pattern, Tensor]:
        positions = np.arange(self.num_entries, dtype=self.columns.cpu().numpy().dtype)
        parts = (positions, self.columns.cpu().numpy(), self.row_starts.cpu().numpy())
        turned = scipy.sparse.csr_matrix(parts, shape=(self.num_rows, self.num_columns)).tocsc()
        starts, rows, order = (
            torch.from_numpy(part).to(self.columns.device) for part in (turned.indptr, turned.indices, turned.data)
        )
        return Pattern(starts, rows, self.num_rows), order

    @property
    def transposed(self) -> Pattern:
        """The pattern of the transposed matrix."""
        return self._transposition[0]

    @property
    def transposed_order(self) -> Tensor:
        """Which entry of this matrix each entry of the transposed one is, `[nnz]`."""
        return self._transposition[1]

    def sum(self, entries: Tensor) -> Tensor:
        """Adds the entries of each row: `[..., nnz] -> [..., R]`."""
        zeros = entries.new_zeros(*entries.shape[:-1], self.num_rows)
        return zeros.index_add(-1, self.rows, entries)

    def max(self, entries: Tensor) -> Tensor:
        """Takes the greatest entry of each row, `-inf` in an empty one: `[..., nnz] -> [..., R]`."""
        if torch.is_grad_enabled() and entries.requires_grad:  # three times slower, but with derivatives of any order
            floor = entries.new_full((*entries.shape[:-1], self.num_rows), NEG_INF)
            return floor.scatter_reduce(-1, self.rows.to(torch.int64).expand(entries.shape), entries, "amax")
        starts = self.row_starts.expand(*entries.shape[:-1], -1)
        return torch.segment_reduce(entries, "max", offsets=starts, axis=entries.dim() - 1, unsafe=True)

    def spread(self, groups: Tensor) -> Tensor:
        """Gives each entry the value of its row: `[..., R] -> [..., nnz]`."""
        return groups.index_select(-1, self.rows)

    def find(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Looks entries up, `[N]` each, by bisection within their rows.

        Returns:
            Their positions (any position where absent) and whether they are stored.
        """
        if not self.num_entries:
            return torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
        low, end = self.row_starts[rows], self.row_starts[rows + 1]
        high = end
        for _ in range(self.max_row_length.bit_length()):
            middle = low + (high - low) // 2
            before = (middle < high) & (self.columns[middle.clamp(max=self.num_entries - 1)] < columns)
            low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
        position = low.clamp(max=self.num_entries - 1)
        return position, (low < end) & (self.columns[position] == columns)


def index_dtype(*sizes: int) -> torch.dtype:
    """Gives the type of indices below the given sizes: int32 where it holds them, else int64."""
    return torch.int32 if max(sizes) < 2**31 else torch.int64


def csr_product(pattern: Pattern, values: Tensor, vector: Tensor) -> Tensor:
    """Computes C v for the sparse matrix C with these stored values.

    Args:
        pattern: Where the values stand; R rows, n columns.
        values: `[nnz]`.
        vector: `[..., n]`.

    Returns:
        `[..., R]`.
    """
    if torch.is_grad_enabled() and (values.requires_grad or vector.requires_grad):
        return _CSRProduct.apply(values, vector, pattern)
    return _csr_product(pattern, values, vector)


def csr_tensor(pattern: Pattern, values: Tensor) -> Tensor:
    """Makes a torch CSR tensor `[R, n]` of stored values."""
    shape = (pattern.num_rows, pattern.num_columns)
    return torch.sparse_csr_tensor(pattern.row_starts, pattern.columns, values, shape, check_invariants=False)


def _csr_product(pattern: Pattern, values: Tensor, vector: Tensor) -> Tensor:
    matrix = csr_tensor(pattern, values)
    if vector.dim() == 1:
        return matrix @ vector
    columns = vector.reshape(-1, pattern.num_columns).T
    return (matrix @ columns).T.reshape(*vector.shape[:-1], pattern.num_rows)


class _CSRProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, vector: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, vector)
        return _csr_product(pattern, values, vector)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, vector = ctx.saved_tensors
        pattern, grad = ctx.pattern, grads[0]
        grad_values = grad_vector = None
        if ctx.needs_input_grad[0]:
            products = pattern.spread(grad) * vector.index_select(-1, pattern.columns)
            grad_values = products.reshape(-1, pattern.num_entries).sum(0)
        if ctx.needs_input_grad[1]:
            grad_vector = csr_product(pattern.transposed, values.index_select(0, pattern.transposed_order), grad)
        return grad_values, grad_vector, None
