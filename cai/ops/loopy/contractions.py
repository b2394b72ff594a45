"""Messages from factors to their variables: every dimension of a table but one summed out, for a stack of tables.

    m_j(x_j) = sum_{x without x_j} f(x) prod_{i != j} w_i(x_i)        sum is sum, or max

for all dimensions j at once. Half of the dimensions is summed out, one after the other, and what is left gives the
messages to the other half in the same way: the whole table is read twice, whatever its number of dimensions is.

Products of probabilities are several times faster than log-sum-exps and lose nothing, being sums of numbers that are at
least zero, as long as nothing underflows. Tables and incoming messages have their greatest entry at 0. A table without
zeros whose entries span R nats then adds up to at least exp(-R), and what underflows is exp(R) tiny of that at most. A
table with zeros may leave only an entry whose messages are small: there the span of the messages counts, too. Where
the spans are too wide, the sum is taken in log space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cai.ops.logspace import finite, safe_log
from cai.ops.semirings import LogSemiring, Semiring

#: Share of the exponent range that products of probabilities may use.
_SAFE = 0.8
#: Entries that a table of many factors is spread out to at a time, in log space.
_BLOCK = 2**22
#: Entries of a slice from which on slices are added up one by one.
_LONG = 2**12


class Contraction(Protocol):
    """A stack of tables, ready to pass messages."""

    def messages(self, incoming: Sequence[Tensor]) -> list[Tensor]:
        """Computes the message to each dimension, of the incoming ones `[c_j, G]`: `[c_j, G]` each."""

    def total(self, incoming: Sequence[Tensor]) -> Tensor:
        """Computes the sum over all dimensions, of the incoming messages `[c_j, G]`: `[G]`."""


def contraction(log_table: Tensor, semiring: Semiring) -> Contraction:
    """Chooses how messages through a stack of tables are computed; messages are logarithms, nats.

    Args:
        log_table: `[c_1, ..., c_k, G]`, or `[c_1, ..., c_k, 1]` for any G; nats, see `with_top_at_zero`.
        semiring: How values are summed out.
    """
    in_logs = InLogs(log_table, semiring)
    if not isinstance(semiring, LogSemiring):
        return in_logs
    room = exponent_range(log_table.dtype) - finite_span(log_table)
    if room < 0.0:
        return in_logs
    exponentiated = Exponentiated(Linear(log_table.exp()))
    return Watched(exponentiated, in_logs, room) if torch.isneginf(log_table).any() else exponentiated


def with_top_at_zero(log_table: Tensor) -> tuple[Tensor, Tensor]:
    """Divides each table of a stack `[c_1, ..., c_k, G]` by its greatest entry: the tables, and its logarithm `[G]`."""
    top = finite(log_table.detach().flatten(0, -2).amax(0))
    return log_table - top, top


def exponent_range(dtype: torch.dtype) -> float:
    """Gives how many nats apart the factors of a product of probabilities may lie."""
    return -_SAFE * math.log(torch.finfo(dtype).tiny)


def finite_span(logs: Tensor) -> float:
    """Gives the least finite entry of a tensor of any shape whose greatest is 0, as a distance from it, nats."""
    return -float(torch.where(torch.isneginf(logs), 0.0, logs).detach().amin()) if logs.numel() else 0.0


@dataclass(frozen=True, eq=False)
class InLogs:
    """Sums in log space: any span, any semiring.

    Attributes:
        log_table: `[c_1, ..., c_k, G or 1]`.
        semiring: How values are summed out.
    """

    log_table: Tensor
    semiring: Semiring

    def messages(self, incoming: Sequence[Tensor]) -> list[Tensor]:
        """Computes the message to each dimension, of the incoming ones `[c_j, G]`, nats."""
        blocks = [_messages(self, table, block) for table, block in self._blocks(incoming)]
        return blocks[0] if len(blocks) == 1 else [torch.cat(parts, -1) for parts in zip(*blocks, strict=True)]

    def total(self, incoming: Sequence[Tensor]) -> Tensor:
        """Computes the log sum over all dimensions, of the incoming messages `[c_j, G]`, nats."""
        return torch.cat([_total(self, table, block) for table, block in self._blocks(incoming)])

    def over_first(self, table: Tensor, message: Tensor) -> Tensor:
        """Sums the first dimension out."""
        return self.semiring.reduce(table + _at_first(message, table.dim()), [0])

    def over_last(self, table: Tensor, message: Tensor) -> Tensor:
        """Sums the last dimension before that of the factors out."""
        return self.semiring.reduce(table + message, [table.dim() - 2])

    def _blocks(self, incoming: Sequence[Tensor]) -> list[tuple[Tensor, Sequence[Tensor]]]:
        entries, count = self.log_table[..., 0].numel(), incoming[0].shape[1]
        size = max(1, _BLOCK // entries)
        if self.log_table.shape[-1] == count:
            return [(self.log_table, incoming)]
        cuts = range(0, count, size)
        return [(self.log_table, [message[:, at : at + size] for message in incoming]) for at in cuts]


@dataclass(frozen=True, eq=False)
class Linear:
    """Sums products of probabilities; one table for many factors is a matrix, and its messages one matrix product.

    Attributes:
        table: `[c_1, ..., c_k, G or 1]`, probabilities up to a factor.
    """

    table: Tensor

    def messages(self, incoming: Sequence[Tensor]) -> list[Tensor]:
        """Computes the message to each dimension, of the incoming ones `[c_j, G]`, all of them probabilities."""
        return _messages(self, self.table, incoming)

    def total(self, incoming: Sequence[Tensor]) -> Tensor:
        """Computes the sum over all dimensions, of the incoming messages `[c_j, G]`, probabilities."""
        return _total(self, self.table, incoming)

    def over_first(self, table: Tensor, message: Tensor) -> Tensor:
        """Sums the first dimension out."""
        if table.shape[-1] == 1:
            return (table.reshape(table.shape[0], -1).T @ message).reshape(*table.shape[1:-1], -1)
        return _weighted_sum(table, _at_first(message, table.dim()), 0)

    def over_last(self, table: Tensor, message: Tensor) -> Tensor:
        """Sums the last dimension before that of the factors out."""
        if table.shape[-1] == 1:
            return (table.reshape(-1, table.shape[-2]) @ message).reshape(*table.shape[:-2], -1)
        return _weighted_sum(table, message, -2)


@dataclass(frozen=True, eq=False)
class Exponentiated:
    """Sums products of probabilities, of messages that are logarithms.

    Attributes:
        linear: The tables.
    """

    linear: Linear

    def messages(self, incoming: Sequence[Tensor]) -> list[Tensor]:
        """Computes the message to each dimension, of the incoming ones `[c_j, G]`, nats."""
        return [safe_log(message) for message in self.linear.messages([message.exp() for message in incoming])]

    def total(self, incoming: Sequence[Tensor]) -> Tensor:
        """Computes the log sum over all dimensions, of the incoming messages `[c_j, G]`, nats."""
        return safe_log(self.linear.total([message.exp() for message in incoming]))


@dataclass(frozen=True, eq=False)
class Watched:
    """Sums products of probabilities where the incoming messages leave room, and in log space where not.

    Attributes:
        fast: The fast way.
        safe: The safe way.
        room: By how many nats the incoming messages may span more than the tables do.
    """

    fast: Exponentiated
    safe: InLogs
    room: float

    def messages(self, incoming: Sequence[Tensor]) -> list[Tensor]:
        """Computes the message to each dimension, of the incoming ones `[c_j, G]`, nats."""
        return self._way(incoming).messages(incoming)

    def total(self, incoming: Sequence[Tensor]) -> Tensor:
        """Computes the log sum over all dimensions, of the incoming messages `[c_j, G]`, nats."""
        return self._way(incoming).total(incoming)

    def _way(self, incoming: Sequence[Tensor]) -> Contraction:
        fits = sum(finite_span(message) for message in incoming) <= self.room
        return self.fast if fits else self.safe


def _messages(way: InLogs | Linear, table: Tensor, incoming: Sequence[Tensor]) -> list[Tensor]:
    if len(incoming) == 1:
        return [table]
    half = len(incoming) // 2
    left = right = table
    for message in reversed(incoming[half:]):
        left = way.over_last(left, message)
    for message in incoming[:half]:
        right = way.over_first(right, message)
    return _messages(way, left, incoming[:half]) + _messages(way, right, incoming[half:])


def _total(way: InLogs | Linear, table: Tensor, incoming: Sequence[Tensor]) -> Tensor:
    for message in reversed(incoming):
        table = way.over_last(table, message)
    return table


def _weighted_sum(table: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sums table * weights over a dimension, slice by slice: their product, as large as the table, is slow to write."""
    if table.numel() < _LONG * table.shape[dim]:
        return (table * weights).sum(dim)
    slices = zip(table.unbind(dim), weights.unbind(dim), strict=True)
    part, weight = next(slices)
    total = part * weight
    for part, weight in slices:
        total.addcmul_(part, weight)
    return total


def _at_first(message: Tensor, num_dims: int) -> Tensor:
    """Makes `[c, G]` stand at the first and the last of some dimensions."""
    return message.reshape(message.shape[0], *[1] * (num_dims - 2), -1)
