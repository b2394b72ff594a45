"""Loopy belief propagation: messages between variables and factors, all at once.

    w_{i->f}(x_i) = u_i(x_i) prod_{g != f} m_{g->i}(x_i)
    m_{f->i}(x_i) = sum_{x_f without x_i} f(x_f) prod_{j != i} w_{j->f}(x_j)        sum is sum, or max
    b_i(x_i)      = u_i(x_i) prod_f m_{f->i}(x_i),      b_f(x_f) = f(x_f) prod_j w_{j->f}(x_j)

with u_i the factors on x_i alone. On a forest the beliefs are marginals (or max-marginals) after as many sweeps as a
longest path has factors; on other graphs a fixed point is a stationary point of the Bethe free energy. Its log evidence

    log Z = sum_i log sum b_i + sum_f log sum b_f - sum_{(i, f)} log sum_x m_{f->i} w_{i->f}

does not depend on how messages are scaled, and is stationary in them at a fixed point: its gradient with respect to
the log tables is then the normalised b_f, messages held fixed.

Each w has its greatest entry at 1, and so has each table, so that a message m lies between exp(-span of the table) and
the number of entries summed, and none need be normalised on its way.

Source: Kschischang, Frey and Loeliger (2001); Yedidia, Freeman and Weiss (2005) for the free energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cai.ops.logspace import logsumexp
from cai.ops.loopy.contractions import Contraction, contraction, exponent_range, finite_span, with_top_at_zero
from cai.ops.loopy.factor_groups import FactorGroups
from cai.ops.loopy.message_space import LogSpace, MessageSpace, ProbabilitySpace
from cai.ops.semirings import LogSemiring, Semiring, aligned

#: One tensor `[c, E]` a cardinality: a column a pair (factor, variable).
Messages = tuple[Tensor, ...]
#: The change of each entry of new messages against old ones, nats.
Change = Callable[[Tensor, Tensor], Tensor]
#: Which new messages take the place of the old ones: a schedule.
Commit = Callable[[Messages, Messages, Change], Messages]


@dataclass(frozen=True, eq=False)
class LoopyKernel:
    """The messages of one factor graph. Messages m are what is passed on from sweep to sweep, as `space` keeps them.

    Attributes:
        factors: The factor graph.
        semiring: Sums, or maxima.
        damping: Share of the old message, in logarithms, that a new one keeps.
    """

    factors: FactorGroups
    semiring: Semiring
    damping: float = 0.0

    def start(self) -> Messages:
        """Gives messages that say nothing: `[c, E]` a cardinality."""
        zeros = (v.log_unary.new_zeros(v.log_unary.shape[0], v.owners.numel()) for v in self.factors.variables)
        return tuple(self.space.of_logs(logs) for logs in zeros)

    def sweep(self, messages: Messages, commit: Commit) -> tuple[Messages, float]:
        """Computes every message anew.

        Args:
            messages: `[c, E]` a cardinality, factors to variables.
            commit: Takes old and new messages, and gives those to go on with.

        Returns:
            The messages to go on with, and how far the old ones are from the fixed point: the greatest change of one,
            nats, were all of them replaced, without damping.
        """
        new = self._to_variables(self._to_factors(messages))
        pairs = list(zip(messages, new, strict=True))
        residual = max((self.space.greatest_change(*pair) for pair in pairs), default=0.0)
        new = tuple(self.space.damped(fresh, old, self.damping) for old, fresh in pairs)
        return commit(messages, new, self.space.change), residual

    def log_incoming(self, messages: Messages) -> Messages:
        """Computes log w from messages m, greatest entry 0: `[c, E]` a cardinality."""
        return tuple(self.space.logs(message) for message in self._to_factors(messages))

    def log_beliefs(self, messages: Messages) -> tuple[Tensor, ...]:
        """Computes log b_i of messages `[c, E]`, not normalised: `[c, N]` a cardinality; differentiable in unaries."""
        pairs = zip(self.factors.variables, messages, strict=True)
        return tuple(variables.log_unary + variables.sum(self.space.logs(message)) for variables, message in pairs)

    def log_factor_belief(self, log_incoming: Messages, member: int) -> Tensor:
        """Computes log b_f of one factor, not normalised, one dimension a variable.

        Args:
            log_incoming: log w, `[c, E]` a cardinality.
            member: Which factor.
        """
        group, place = self.factors.positions[member]
        belief = group.table(place).detach()
        for dim, message in enumerate(group.columns(log_incoming)):
            belief = belief + aligned(message[:, place], [dim], belief.dim())
        return belief

    def log_evidence(self, messages: Messages) -> Tensor:
        """Computes the Bethe log evidence, 0-dim, nats; differentiable in the tables, messages `[c, E]` held fixed.

        The gradient is that of the Bethe free energy at a fixed point only.
        """
        incoming = self.log_incoming(messages)
        total = self.factors.log_constant
        for belief in self.log_beliefs(messages):
            total = total + logsumexp(belief, 0).sum()
        for message, other in zip(messages, incoming, strict=True):
            total = total - logsumexp(self.space.logs(message) + other, 0).sum()
        for group in self.factors.groups:
            table, top = with_top_at_zero(group.log_table)
            total = total + (contraction(table, self.semiring).total(group.columns(incoming)) + top).sum()
        return total

    def ordered(self, messages: Messages) -> Messages:
        """Sorts messages `[c, E]` by factor and dimension: an order that does not depend on how factors are grouped."""
        return tuple(m[:, v.order] for v, m in zip(self.factors.variables, messages, strict=True))

    def grouped(self, ordered: Sequence[Tensor]) -> Messages:
        """Undoes `ordered`, of messages `[c, E]`."""
        pairs = zip(self.factors.variables, ordered, strict=True)
        return tuple(message.new_empty(message.shape).index_copy_(1, v.order, message) for v, message in pairs)

    def forest_error(self, residual: float) -> float:
        """Bounds the error of log beliefs and log evidence on a forest, nats; infinite on any other graph.

        An error of a message passes on undiminished at most, and adds up along the way: that of a belief is at most
        the sum of all messages' residuals. Twice it, since the greatest entry is what is fixed.

        Args:
            residual: The greatest change of a message in one more sweep, nats.
        """
        if not self.factors.is_forest:
            return math.inf
        num_messages = sum(variables.owners.numel() for variables in self.factors.variables)
        return 2.0 * (num_messages + 1) * (residual + self.rounding)

    @cached_property
    def rounding(self) -> float:
        """Bounds what rounding alone can change in a message, nats: some eps of what its terms add up to."""
        return 8 * torch.finfo(self.factors.log_constant.dtype).eps * max(1.0, self._widest)

    @cached_property
    def space(self) -> MessageSpace:
        """How messages are kept: as probabilities where nothing can underflow."""
        tables = [group.log_table.detach() for group in self.factors.groups]
        has_zeros = any(bool(torch.isneginf(table).any()) for table in (*tables, *self._log_unaries))
        room = exponent_range(self.factors.log_constant.dtype)
        # Damping takes powers of probabilities, which cost what logarithms do.
        if isinstance(self.semiring, LogSemiring) and not has_zeros and self._widest < room and not self.damping:
            return ProbabilitySpace()
        return LogSpace(self.semiring, has_zeros)

    def _to_factors(self, messages: Messages) -> Messages:
        triples = zip(self.factors.variables, self._unaries, messages, strict=True)
        return tuple(self.space.to_factors(*triple) for triple in triples)

    def _to_variables(self, incoming: Messages) -> Messages:
        new = tuple(torch.empty_like(message) for message in incoming)
        for group, way in zip(self.factors.groups, self._ways, strict=True):
            for column, message in zip(group.columns(new), way.messages(group.columns(incoming)), strict=True):
                column.copy_(message)
        return new

    @cached_property
    def _widest(self) -> float:
        """Bounds how many nats the finite entries of a belief span, and its greatest one, over all variables."""
        spans = tuple(torch.zeros_like(v.owners, dtype=torch.float64)[None] for v in self.factors.variables)
        for group in self.factors.groups:
            table = with_top_at_zero(group.log_table.detach())[0]
            for column in group.columns(spans):
                column += finite_span(table) + math.log(table[..., 0].numel())
        widest = 0.0
        for variables, unary, span in zip(self.factors.variables, self._log_unaries, spans, strict=True):
            unary = torch.where(torch.isneginf(unary), 0.0, unary)
            widest = max(widest, float((variables.sum(span)[0] + unary.abs().amax(0)).amax()))
        return 2.0 * widest

    @cached_property
    def _ways(self) -> list[Contraction]:
        return [self.space.contraction(with_top_at_zero(group.log_table.detach())[0]) for group in self.factors.groups]

    @cached_property
    def _unaries(self) -> tuple[Tensor, ...]:
        return tuple(self.space.of_logs(unary) for unary in self._log_unaries)

    @cached_property
    def _log_unaries(self) -> tuple[Tensor, ...]:
        return tuple(variables.log_unary.detach() for variables in self.factors.variables)
