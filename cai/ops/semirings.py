"""Products of tables of logarithms, and the two ways of summing a variable out of one.

A factor graph's messages need two operations on log tables: a product, which is always + of tables that broadcast (see
`aligned`), and a sum over the values of some variables, which is what a semiring names.

    LogSemiring        log sum_x exp(table)      probabilities: sum-product
    TropicalSemiring   max_x table               the best assignment: max-product, in logarithms max-sum

Both distribute over +, which is all that elimination, junction trees and belief propagation rest on. On a chain a table
of two variables is a matrix, and summing out what two of them share is a product of matrices (`matmul`): associative,
so that a scan over time may take them in any grouping. `RealSemiring` is the same of plain numbers.

Source: Aji and McEliece (2000), The generalized distributive law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF, logsumexp
from cai.ops.scans.matrix_products import log_matmul, max_plus_matmul

#: Up to so many entries one call of torch's costs less than the few that are quicker an entry.
_SMALL = 2**11


class Semiring(Protocol):
    """How variables are summed out of a table of logarithms."""

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Sums over `dims`, `[...]` without them; `-inf` where all entries are; the table itself if there are none."""


class MatrixSemiring(Protocol):
    """How matrices are multiplied."""

    #: What adds nothing, and what multiplies by one.
    zero: float
    one: float

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies `[..., n, k]` by `[..., k, m]`."""


@dataclass(frozen=True)
class LogSemiring:
    """Sums by log-sum-exp: the messages of sum-product."""

    zero = NEG_INF
    one = 0.0

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Computes log sum exp over `dims`, `[...]` without them, in nats."""
        if not dims:
            return log_table
        table, dim = _as_one(log_table, dims)
        if table.requires_grad and torch.is_grad_enabled():
            return logsumexp(table, dim)
        if table.shape[dim] == 2:  # half the exponentials
            return torch.logaddexp(*table.unbind(dim))
        return torch.logsumexp(table, dim) if table.numel() <= _SMALL else logsumexp(table, dim)

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Computes log(exp(left) @ exp(right)), `[..., n, m]`, in nats."""
        return log_matmul(left, right)


@dataclass(frozen=True)
class TropicalSemiring:
    """Sums by the maximum: the messages of max-product."""

    zero = NEG_INF
    one = 0.0

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Computes the maximum over `dims`, `[...]` without them, in nats."""
        if not dims:
            return log_table
        table, dim = _as_one(log_table, dims)
        return table.amax(dim)

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Computes max_k left_ik + right_kj, `[..., n, m]`, in nats."""
        return max_plus_matmul(left, right)


@dataclass(frozen=True)
class RealSemiring:
    """Sums plain numbers: expectations."""

    zero = 0.0
    one = 1.0

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Computes the plain product, `[..., n, m]`."""
        return left @ right


def aligned(table: Tensor, places: Sequence[int], num_dims: int) -> Tensor:
    """Views a table `[c_1, ..., c_k]` as one of more dimensions: c_j at the j-th of `places`, one elsewhere.

    Args:
        table: The table.
        places: Where each of its dimensions goes.
        num_dims: How many dimensions there are to be.
    """
    if len(places) > 1:
        table = table.permute(sorted(range(len(places)), key=places.__getitem__))
    if len(places) == num_dims:
        return table
    shape = [1] * num_dims
    for place, size in zip(sorted(places), table.shape, strict=True):
        shape[place] = size
    return table.reshape(shape)


def _as_one(table: Tensor, dims: Sequence[int]) -> tuple[Tensor, int]:
    """Makes some dimensions one; those that are not neighbours are brought to the front, where sums are quick."""
    places = sorted(dim % table.dim() for dim in dims)
    first, last = places[0], places[-1]
    if last - first + 1 != len(places):
        table = table.permute(places + [dim for dim in range(table.dim()) if dim not in places])
        first, last = 0, len(places) - 1
    return table.flatten(first, last) if last > first else table, first
