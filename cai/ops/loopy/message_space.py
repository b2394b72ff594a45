"""How messages of belief propagation are kept and multiplied: as logarithms, or as probabilities.

Logarithms carry any span, zeros and damping. Probabilities need no exponential and no logarithm in a sweep, which makes
it twice as fast, and are kept where nothing can underflow: no zeros, and no variable whose factors together span more
nats than the exponent holds. A message is greater than zero then, so that the product of the others is the product of
all divided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF, finite
from cai.ops.loopy.contractions import Contraction, Linear, contraction
from cai.ops.loopy.factor_groups import Variables
from cai.ops.semirings import Semiring


class MessageSpace(Protocol):
    """How messages are kept."""

    def of_logs(self, logs: Tensor) -> Tensor:
        """Makes messages `[c, E]` of their logarithms."""

    def logs(self, message: Tensor) -> Tensor:
        """Gives the logarithms of messages `[c, E]`."""

    def contraction(self, log_table: Tensor) -> Contraction:
        """Prepares a stack of tables `[c_1, ..., c_k, G or 1]`, nats, to pass messages of this space."""

    def to_factors(self, variables: Variables, unary: Tensor, message: Tensor) -> Tensor:
        """Multiplies all messages to a variable but one, and its own factors, for each one: `[c, E]`, greatest 1.

        Args:
            variables: Who is told what.
            unary: `[c, N]`, in this space.
            message: `[c, E]`.
        """

    def damped(self, new: Tensor, old: Tensor, damping: float) -> Tensor:
        """Computes new^(1 - damping) old^damping, `[c, E]`."""

    def change(self, old: Tensor, new: Tensor) -> Tensor:
        """Computes |log new - log old|, `[c, E]`, zero where both are zero."""

    def greatest_change(self, old: Tensor, new: Tensor) -> float:
        """Computes max |log new - log old| of messages `[c, E]`."""


@dataclass(frozen=True, eq=False)
class LogSpace:
    """Messages are logarithms.

    Attributes:
        semiring: How values are summed out.
        has_zeros: Whether any table has a zero, so that messages may be `-inf`.
    """

    semiring: Semiring
    has_zeros: bool

    def of_logs(self, logs: Tensor) -> Tensor:
        """Gives logarithms `[c, E]` as they are."""
        return logs

    def logs(self, message: Tensor) -> Tensor:
        """Gives messages `[c, E]` as they are."""
        return message

    def contraction(self, log_table: Tensor) -> Contraction:
        """Prepares a stack of tables `[c_1, ..., c_k, G or 1]`, nats."""
        return contraction(log_table, self.semiring)

    def to_factors(self, variables: Variables, unary: Tensor, message: Tensor) -> Tensor:
        """Adds all messages `[c, E]` to a variable but one, and `unary` `[c, N]`; the greatest entry is 0 then."""
        if not self.has_zeros:
            others = variables.spread(variables.sum(message) + unary).sub_(message)
            return others.sub_(others.amax(0))
        # -inf - -inf is nothing: the entries of -inf among the terms are counted apart from the finite sum.
        dead, dead_unary = torch.isneginf(message), torch.isneginf(unary)
        message, count = torch.where(dead, 0.0, message), dead.to(message)
        others = variables.spread(variables.sum(message) + torch.where(dead_unary, 0.0, unary)).sub_(message)
        count = variables.spread(variables.sum(count) + dead_unary).sub_(count)
        others = torch.where(count > 0.5, NEG_INF, others)
        return others.sub_(finite(others.amax(0)))

    def damped(self, new: Tensor, old: Tensor, damping: float) -> Tensor:
        """Computes (1 - damping) new + damping old, `[c, E]`, in the place of new."""
        return new.mul_(1.0 - damping).add_(old, alpha=damping) if damping > 0.0 else new

    def change(self, old: Tensor, new: Tensor) -> Tensor:
        """Computes |new - old|, `[c, E]`, zero where both are `-inf`."""
        change = torch.where(old == new, 0.0, new - old) if self.has_zeros else new - old
        return change.abs_()

    def greatest_change(self, old: Tensor, new: Tensor) -> float:
        """Computes max |new - old| of messages `[c, E]`."""
        return float(self.change(old, new).amax()) if old.numel() else 0.0


@dataclass(frozen=True, eq=False)
class ProbabilitySpace:
    """Messages are probabilities up to a factor, none of them zero; for sums only."""

    def of_logs(self, logs: Tensor) -> Tensor:
        """Computes exp, with the greatest entry of each column of `[c, E]` at 1."""
        return (logs - logs.amax(0)).exp_()

    def logs(self, message: Tensor) -> Tensor:
        """Computes log, `[c, E]`."""
        return message.log()

    def contraction(self, log_table: Tensor) -> Contraction:
        """Prepares a stack of tables `[c_1, ..., c_k, G or 1]`, nats."""
        return Linear(log_table.exp())

    def to_factors(self, variables: Variables, unary: Tensor, message: Tensor) -> Tensor:
        """Divides the product of `unary` `[c, N]` and all messages `[c, E]` to a variable by each; greatest 1 then."""
        product = unary.scatter_reduce(1, variables.owners.expand_as(message), message, "prod")
        others = variables.spread(product).div_(message)
        return others.div_(others.amax(0))

    def damped(self, new: Tensor, old: Tensor, damping: float) -> Tensor:
        """Computes new^(1 - damping) old^damping, `[c, E]`."""
        return new.pow(1.0 - damping).mul_(old.pow(damping)) if damping > 0.0 else new

    def change(self, old: Tensor, new: Tensor) -> Tensor:
        """Computes |log(new / old)|, `[c, E]`."""
        return (new / old).log_().abs_()

    def greatest_change(self, old: Tensor, new: Tensor) -> float:
        """Computes max |log(new / old)| of messages `[c, E]`."""
        if not old.numel():
            return 0.0
        low, high = (new / old).aminmax()
        return float(torch.maximum(high.log(), -low.log()))
