"""The two ways of summing a variable out of a table of logarithms.

A factor graph's messages need two operations on log tables: a product, which is always +, and a sum over the values of
some variables, which is what a semiring names.

    LogSemiring        log sum_x exp(table)      probabilities: sum-product
    TropicalSemiring   max_x table               the best assignment: max-product, in logarithms max-sum

Both distribute over +, which is all that elimination, junction trees and belief propagation rest on.

Source: Aji and McEliece (2000), The generalized distributive law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cai.ops.logspace import logsumexp

#: Up to so many entries one call of torch's costs less than the few that are quicker an entry.
_SMALL = 2**11


class Semiring(Protocol):
    """How variables are summed out of a table of logarithms."""

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Sums over `dims`, `[...]` without them; `-inf` where all entries are; the table itself if there are none."""


@dataclass(frozen=True)
class LogSemiring:
    """Sums by log-sum-exp: the messages of sum-product."""

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Computes log sum exp over `dims`, `[...]` without them, in nats."""
        if not dims:
            return log_table
        table = _last(log_table, dims)
        if table.numel() <= _SMALL and not (table.requires_grad and torch.is_grad_enabled()):
            return torch.logsumexp(table, -1)
        return logsumexp(table, -1)


@dataclass(frozen=True)
class TropicalSemiring:
    """Sums by the maximum: the messages of max-product."""

    def reduce(self, log_table: Tensor, dims: Sequence[int]) -> Tensor:
        """Computes the maximum over `dims`, `[...]` without them, in nats."""
        return _last(log_table, dims).amax(-1) if dims else log_table


def _last(table: Tensor, dims: Sequence[int]) -> Tensor:
    """Brings some dimensions to the end, as one."""
    count, gone = len(dims), {dim % table.dim() for dim in dims}
    if gone != set(range(table.dim() - count, table.dim())):
        table = table.permute([dim for dim in range(table.dim()) if dim not in gone] + sorted(gone))
    return table.flatten(-count) if count > 1 else table
