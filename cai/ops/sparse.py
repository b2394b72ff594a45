"""Products with a sparse matrix whose values may be learned.

    y = C v,     dL/dv = C' dL/dy,     dL/dC_e = (dL/dy)[row_e] v[col_e]   for stored entries e only

torch's own gradient of a CSR product with respect to the values goes through a dense matrix; this one touches the
stored entries only. It is differentiable twice, because its backward pass is made of the same product.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

    Attributes:
        row_starts: `[R + 1]`, int64: row i owns entries `row_starts[i]` to `row_starts[i + 1] - 1`.
        columns: `[nnz]`, int64, ascending within a row.
        num_columns: Number of columns.
    """

    row_starts: Tensor
    columns: Tensor
    num_columns: int

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
        counts = self.row_starts.diff()
        return torch.repeat_interleave(torch.arange(self.num_rows, device=counts.device), counts)

    @cached_property
    def narrow_indices(self) -> tuple[Tensor, Tensor]:
        """Row starts and columns as int32 where they fit: a product then moves a third fewer bytes."""
        fits = max(self.num_entries, self.num_columns) < 2**31
        dtype = torch.int32 if fits else torch.int64
        return self.row_starts.to(dtype), self.columns.to(dtype)

    @cached_property
    def max_row_length(self) -> int:
        """The most entries that a row has."""
        return int(self.row_starts.diff().max()) if self.num_rows else 0

    @cached_property
    def keys(self) -> Tensor:
        """`row * num_columns + column` of each entry, ascending: what a search for an entry searches."""
        return self.rows * self.num_columns + self.columns

    @cached_property
    def _transposition(self) -> tuple[Pattern, Tensor]:
        order = torch.argsort(self.columns, stable=True)
        starts = torch.zeros(self.num_columns + 1, dtype=torch.int64, device=self.columns.device)
        starts[1:] = torch.bincount(self.columns, minlength=self.num_columns).cumsum(0)
        return Pattern(starts, self.rows[order], self.num_rows), order

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
        floor = entries.new_full((*entries.shape[:-1], self.num_rows), NEG_INF)
        return floor.scatter_reduce(-1, self.rows.expand(entries.shape), entries, "amax")

    def spread(self, groups: Tensor) -> Tensor:
        """Gives each entry the value of its row: `[..., R] -> [..., nnz]`."""
        return groups.index_select(-1, self.rows)

    def find(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Looks entries up, `[N]` each: their positions (any position where absent) and whether they are stored."""
        wanted = rows * self.num_columns + columns
        if not self.num_entries:
            return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
        position = torch.searchsorted(self.keys, wanted).clamp(max=self.num_entries - 1)
        return position, self.keys[position] == wanted


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
    row_starts, columns = pattern.narrow_indices
    return torch.sparse_csr_tensor(row_starts, columns, values, shape, check_invariants=False)


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
            grad_vector = csr_product(pattern.transposed, values[pattern.transposed_order], grad)
        return grad_values, grad_vector, None
