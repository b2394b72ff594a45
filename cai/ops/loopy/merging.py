"""Factors that can be made one: equal tables, and factors that stand inside others.

    f(x, y) g(y, x) h(x, y, z) = h'(x, y, z)

Two factors that share two variables are a loop, the shortest there is. Multiplied into one they are none, the density
stays what it is, and a table that was read anyway is as large as before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from cai.ops.semirings import aligned

Scope = tuple[int, ...]

#: Entries by which tables that may be equal are found.
_SAMPLE = 512


def alike_as_one(tables: Sequence[Tensor]) -> list[Tensor]:
    """Puts one tensor in the place of equal ones; one that learns is equal to nothing but itself.

    Args:
        tables: Tensors of any shape.
    """
    found: dict[Hashable, list[Tensor]] = defaultdict(list)
    result = []
    for table in tables:
        twins = found[_key(table)]
        twin = next((other for other in twins if other is table or torch.equal(other, table)), None)
        if twin is None:
            twins.append(twin := table)
        result.append(twin)
    return result


def _key(table: Tensor) -> Hashable:
    if table.requires_grad:
        return id(table)
    sample = table if table.numel() <= _SAMPLE else table.reshape(-1)[:: table.numel() // _SAMPLE]
    return table.shape, sample.cpu().numpy().tobytes()


def merged_into_wider(scopes: Sequence[Scope], tables: Sequence[Tensor]) -> tuple[list[Scope], list[Tensor]]:
    """Multiplies each factor whose variables all stand in another one into that one.

    Args:
        scopes: The variables of each factor, in the order of its dimensions.
        tables: The log table of each factor, one dimension a variable; equal ones are one tensor.

    Returns:
        Scopes and log tables of the factors that are left, in their order; equal products are one tensor.
    """
    guests = _guests(scopes)
    made: dict[Hashable, Tensor] = {}
    result = []
    for host in sorted(guests):
        parts = [(tables[guest], tuple(map(scopes[host].index, scopes[guest]))) for guest in guests[host]]
        recipe = (id(tables[host]), *((id(table), places) for table, places in parts))
        if recipe not in made:
            made[recipe] = sum((aligned(*part, len(scopes[host])) for part in parts), tables[host])
        result.append(made[recipe])
    return [scopes[host] for host in sorted(guests)], result


def _guests(scopes: Sequence[Scope]) -> dict[int, list[int]]:
    """Finds the factors that are left, each with those that are multiplied into it."""
    holders: dict[int, list[int]] = defaultdict(list)
    guests: dict[int, list[int]] = {}
    for index in sorted(range(len(scopes)), key=lambda i: -len(scopes[i])):
        inside = min((holders[variable] for variable in scopes[index]), key=len)
        host = next((other for other in inside if set(scopes[index]) <= set(scopes[other])), None)
        if host is not None:
            guests[host].append(index)
            continue
        guests[index] = []
        for variable in scopes[index]:
            holders[variable].append(index)
    return guests
