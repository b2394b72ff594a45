"""A factor graph as loopy belief propagation reads it: factors of one shape side by side, no loop over factors.

The density stays what it is; its factors are brought together:

1. a constant goes into `log_constant`, a factor on one variable into that variable's `log_unary`;
2. a factor whose variables all stand in another one is multiplied into that one, which takes short loops away;
3. the tables of one shape are stacked to `[c_1, ..., c_k, G]`. The factors come last: then products and sums run along
   long rows, also where variables have two or three values. Tables that are equal are kept once, `[c_1, ..., c_k, 1]`.

Messages of all variables of one cardinality c stand in one tensor `[c, E]`, a column a pair (factor, variable); those
of a group to its j-th variables are neighbours in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cai.ops.loopy.merging import Scope, alike_as_one, merged_into_wider

#: A table of more entries is a group of its own: a copy would cost more than a loop.
_LARGE = 2**16
#: A table that at least this share of the factors of a shape have is kept once.
_SHARED = 1 / 8


@dataclass(frozen=True, eq=False)
class Group:
    """Factors of one shape.

    Attributes:
        members: Which factors.
        log_table: `[c_1, ..., c_k, G]`, or `[c_1, ..., c_k, 1]` where all have the same table; nats.
        kinds: For each dimension the place of its cardinality among `FactorGroups.variables`.
        starts: For each dimension the first of its G columns among the messages of that cardinality.
    """

    members: tuple[int, ...]
    log_table: Tensor
    kinds: tuple[int, ...]
    starts: tuple[int, ...]

    def columns(self, messages: Sequence[Tensor]) -> list[Tensor]:
        """Takes the group's own columns `[c_j, G]` of messages `[c, E]`, one a dimension."""
        count = len(self.members)
        return [messages[kind][:, at : at + count] for kind, at in zip(self.kinds, self.starts, strict=True)]

    def table(self, place: int) -> Tensor:
        """Gives the log table of one of its factors."""
        return self.log_table[..., place % self.log_table.shape[-1]]


@dataclass(frozen=True, eq=False)
class Variables:
    """All variables of one cardinality c.

    Attributes:
        numbers: Which variables, N of them.
        log_unary: `[c, N]`, nats: the product of the factors on each alone.
        owners: `[E]`, int64: the place among `numbers` of the variable that each message is about.
        order: `[E]`, int64: the column of each message, were they in the order of factors and dimensions.
    """

    numbers: tuple[int, ...]
    log_unary: Tensor
    owners: Tensor
    order: Tensor

    def sum(self, messages: Tensor) -> Tensor:
        """Adds what each variable is told: `[c, E] -> [c, N]`."""
        zeros = messages.new_zeros(messages.shape[0], len(self.numbers))
        return zeros.index_add(1, self.owners, messages)

    def spread(self, totals: Tensor) -> Tensor:
        """Gives each message the column of its variable: `[c, N] -> [c, E]`."""
        return totals.gather(1, self.owners.expand(totals.shape[0], -1))


@dataclass(frozen=True, eq=False)
class FactorGroups:
    """Variables by cardinality, factors by shape.

    Attributes:
        variables: The variables of each cardinality.
        groups: The factors of each shape.
        scopes: The variables of each factor that is left.
        log_constant: 0-dim, nats: the factors that hold no variable.
    """

    variables: tuple[Variables, ...]
    groups: tuple[Group, ...]
    scopes: tuple[Scope, ...]
    log_constant: Tensor

    @cached_property
    def places(self) -> dict[int, tuple[int, int]]:
        """Where each variable stands: its place among `variables`, and among their `numbers`."""
        return {
            number: (kind, column)
            for kind, variables in enumerate(self.variables)
            for column, number in enumerate(variables.numbers)
        }

    @cached_property
    def positions(self) -> dict[int, tuple[Group, int]]:
        """Where each factor stands: its group, and its place in it."""
        return {member: (group, place) for group in self.groups for place, member in enumerate(group.members)}

    @cached_property
    def largest(self) -> int:
        """Number of entries of the largest stack of tables or messages: what one operation goes over."""
        tables = [group.log_table.numel() for group in self.groups]
        return max([*tables, *(v.owners.numel() * v.log_unary.shape[0] for v in self.variables)], default=0)

    @cached_property
    def is_forest(self) -> bool:
        """Whether variables and factors form no loop."""
        pairs = np.array([(v, f) for f, scope in enumerate(self.scopes) for v in scope], dtype=np.int64).reshape(-1, 2)
        num_variables = sum(len(variables.numbers) for variables in self.variables)
        num_nodes = num_variables + len(self.scopes)
        edges = (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1] + num_variables))
        parts = connected_components(scipy.sparse.coo_matrix(edges, (num_nodes, num_nodes)), directed=False)[0]
        return len(pairs) == num_nodes - parts


def group_factors(sizes: Sequence[int], scopes: Sequence[Scope], log_tables: Sequence[Tensor]) -> FactorGroups:
    """Brings the factors of a graph together; differentiable in every table.

    Args:
        sizes: Number of values of each variable.
        scopes: The variables of each factor, each once, in the order of its dimensions.
        log_tables: The log table of each factor, nats, of one dtype and device: one dimension a variable of its scope.
    """
    like = log_tables[0].detach() if log_tables else torch.zeros((), dtype=torch.float64)
    tables = alike_as_one(log_tables)
    constants = [table for scope, table in zip(scopes, tables, strict=True) if not scope]
    unary = [(scope[0], table) for scope, table in zip(scopes, tables, strict=True) if len(scope) == 1]
    wide = [(scope, table) for scope, table in zip(scopes, tables, strict=True) if len(scope) > 1]
    merged_scopes, merged = merged_into_wider([scope for scope, _ in wide], [table for _, table in wide])

    numbers: dict[int, list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        numbers[size].append(number)
    place = {number: column for of_size in numbers.values() for column, number in enumerate(of_size)}
    groups, messages = _groups(merged, list(numbers))
    variables = []
    for (size, of_size), pairs in zip(numbers.items(), messages, strict=True):
        log_unary = _unary_of(size, [(place[v], table) for v, table in unary if sizes[v] == size], len(of_size), like)
        owners = [place[merged_scopes[member][dim]] for member, dim in pairs]
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        variables.append(Variables(tuple(of_size), log_unary, _indices(owners, like), _indices(order, like)))
    return FactorGroups(tuple(variables), tuple(groups), tuple(merged_scopes), sum(constants, like.new_zeros(())))


def _groups(tables: Sequence[Tensor], sizes: Sequence[int]) -> tuple[list[Group], list[list[tuple[int, int]]]]:
    """Makes the groups, and lists the messages to variables of each size, in order, as pairs (factor, dimension)."""
    messages: list[list[tuple[int, int]]] = [[] for _ in sizes]
    groups = []
    for members, log_table in _stacks(tables):
        kinds = tuple(sizes.index(size) for size in log_table.shape[:-1])
        starts = []
        for dim, kind in enumerate(kinds):
            starts.append(len(messages[kind]))
            messages[kind] += [(member, dim) for member in members]
        groups.append(Group(tuple(members), log_table, kinds, tuple(starts)))
    return groups, messages


def _stacks(tables: Sequence[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Sorts factors into groups: their indices, and the table `[c_1, ..., c_k, G or 1]` of each group."""
    uses = Counter(id(table) for table in tables)
    of_shape = Counter(table.shape for table in tables)
    members: dict[tuple[torch.Size, int | None], list[int]] = defaultdict(list)
    for index, table in enumerate(tables):
        is_shared = uses[id(table)] > max(1.0, _SHARED * of_shape[table.shape])
        alone = is_shared or table.numel() > _LARGE
        members[table.shape, id(table) if alone else None].append(index)
    result = []
    for (_, own_table), group in members.items():
        first = tables[group[0]]
        stack = first[None] if own_table is not None else torch.stack([tables[index] for index in group])
        result.append((group, stack.movedim(0, -1).contiguous()))
    return result


def _unary_of(size: int, factors: list[tuple[int, Tensor]], num: int, like: Tensor) -> Tensor:
    zeros = like.new_zeros(size, num)
    if not factors:
        return zeros
    columns = _indices([column for column, _ in factors], like)
    return zeros.index_add(1, columns, torch.stack([table for _, table in factors], 1))


def _indices(numbers: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)
