"""The assignment that max-product messages speak for.

    x_i = argmax b_i                                      where the greatest belief of each variable is single
    x_i = argmax u_i prod_f max_{x_f | decided} ...       otherwise, one variable after the other

Where two values of some variable are equally good, maxima taken apart need not fit together: of x != y each of the four
values is, by itself, part of a best assignment. Variables are then decided from neighbour to neighbour, each given
those before it; on a forest whose messages have converged this is a best assignment.

Source: Koller and Friedman (2009), section 13.3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from cai.ops.loopy.factor_groups import FactorGroups
from cai.ops.loopy.kernel import LoopyKernel, Messages

#: Log beliefs nearer to each other than this, nats, are a tie: they differ by rounding.
_TIE = 1e-9


def decoded(kernel: LoopyKernel, messages: Messages) -> dict[int, int]:
    """Gives the value of each variable by its number; ties go to the first value.

    Args:
        kernel: The messages' graph and semiring; what is decided is a best assignment with maxima only.
        messages: `[c, E]` a cardinality.
    """
    values: dict[int, int] = {}
    for variables, belief in zip(kernel.factors.variables, kernel.log_beliefs(messages), strict=True):
        best = belief.detach() >= belief.detach().amax(0) - _TIE
        if (best.sum(0) > 1).any():
            return _one_by_one(kernel, messages)
        values.update(zip(variables.numbers, best.to(torch.uint8).argmax(0).tolist(), strict=True))
    return dict(sorted(values.items()))


def _one_by_one(kernel: LoopyKernel, messages: Messages) -> dict[int, int]:
    factors, incoming = kernel.factors, kernel.log_incoming(messages)
    factors_of = _factors_of(factors)
    values: dict[int, int] = {}
    for number in _from_neighbour_to_neighbour(factors, factors_of):
        kind, column = factors.places[number]
        score = factors.variables[kind].log_unary[:, column].detach()
        for member in factors_of[number]:
            score = score + _told(kernel, incoming, member, number, values)
        values[number] = int((score >= score.amax() - _TIE).to(torch.uint8).argmax())
    return dict(sorted(values.items()))


def _told(kernel: LoopyKernel, incoming: Messages, member: int, number: int, values: dict[int, int]) -> Tensor:
    """Computes the message of one factor to one variable, given the values decided so far."""
    group, place = kernel.factors.positions[member]
    table = group.table(place).detach()
    for dim, message in reversed(list(enumerate(group.columns(incoming)))):
        other = kernel.factors.scopes[member][dim]
        if other in values:
            table = table.select(dim, values[other])
        elif other != number:
            table = (table.movedim(dim, -1) + message[:, place]).amax(-1)
    return table


def _factors_of(factors: FactorGroups) -> dict[int, list[int]]:
    result: dict[int, list[int]] = defaultdict(list)
    for member, scope in enumerate(factors.scopes):
        for number in scope:
            result[number].append(member)
    return result


def _from_neighbour_to_neighbour(factors: FactorGroups, factors_of: dict[int, list[int]]) -> Iterator[int]:
    seen: set[int] = set()
    for root in sorted(factors.places):
        queue = [root]
        for number in queue:
            if number in seen:
                continue
            seen.add(number)
            yield number
            queue += [other for member in factors_of[number] for other in factors.scopes[member] if other not in seen]
