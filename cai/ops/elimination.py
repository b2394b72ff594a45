"""Elimination orders and the junction trees they make. No numbers here: scopes and sizes only.

Eliminating v multiplies all tables that hold v, over the clique C_v = {v} and its neighbours, and leaves a table on
C_v less v, which ties those neighbours to each other. The cliques, each joined to that of its next variable to go, are
a junction tree: what two of them share stands in every clique between them.

    cost = sum over cliques of prod of the sizes of their variables

Finding the least cost is NP-hard. Orders are compared by cost, which weighs cardinalities, and the cheapest is taken:
the order in which the variables are given (for chains, trees and grids written row by row often the best), the variable
whose clique is smallest first (min-weight), and, where these are dear, opt_einsum's greedy contraction paths, plain and
randomised.

Source: Lauritzen and Spiegelhalter (1988); Kjaerulff (1990) for min-weight; Koller and Friedman (2009), chapters 9 and
10; Gray and Kourtis (2021) for the greedy paths.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import opt_einsum

Scope = Sequence[int]

#: Where the cheapest order costs more table entries than this, a greedy contraction path is tried,
_WORTH_A_PATH = 2**16
#: more than this, many randomised ones,
_WORTH_A_SEARCH = 2**20
#: and more than this, none: nothing would make it fit.
_HOPELESS = 2**50
#: Paths are found for so many factors at most: a hundred take milliseconds, thousands many seconds.
_MOST_FACTORS = 1000
#: Factors times repeats of the randomised search: a second at most.
_SEARCH = 2**12


@dataclass(frozen=True)
class Clique:
    """A node of a junction tree.

    Attributes:
        variables: Its variables in the order of their elimination: its own, then those shared with the parent.
        shape: Their sizes.
        num_own: How many are eliminated here; each variable is in exactly one clique.
        parent: Index of the parent, or None at a root; a parent comes after its children.
        factors: Indices of the factors that are multiplied in here.
    """

    variables: tuple[int, ...]
    shape: tuple[int, ...]
    num_own: int
    parent: int | None
    factors: tuple[int, ...]

    @property
    def num_entries(self) -> int:
        """Number of entries of a table on its variables."""
        return math.prod(self.shape)

    @property
    def own(self) -> tuple[int, ...]:
        """The variables eliminated here."""
        return self.variables[: self.num_own]

    @property
    def separator(self) -> tuple[int, ...]:
        """The variables shared with the parent."""
        return self.variables[self.num_own :]


@dataclass(frozen=True)
class JunctionTree:
    """A forest of cliques, children before parents.

    Attributes:
        cliques: The cliques.
        constants: Indices of the factors that hold no variable.
    """

    cliques: tuple[Clique, ...]
    constants: tuple[int, ...] = ()

    @cached_property
    def width(self) -> int:
        """Treewidth of the order: number of variables of the largest clique, less one."""
        return max((len(clique.variables) for clique in self.cliques), default=1) - 1

    @cached_property
    def num_entries(self) -> int:
        """Number of entries of all cliques' tables: what one pass must compute."""
        return sum(clique.num_entries for clique in self.cliques)

    @cached_property
    def largest(self) -> int:
        """Number of entries of the largest clique's table."""
        return max((clique.num_entries for clique in self.cliques), default=0)

    @property
    def num_entries_held(self) -> int:
        """Predicts the numbers in memory at once: each clique's table before and after the second pass, and copies."""
        return 2 * self.num_entries + 3 * self.largest

    def holding(self, variables: Scope) -> int | None:
        """Finds the smallest clique that holds all the variables, or None."""
        wanted = set(variables)
        homes = self._homes.get(variables[0], []) if variables else []
        return next((home for home in homes if wanted.issubset(self.cliques[home].variables)), None)

    @cached_property
    def _homes(self) -> dict[int, list[int]]:
        """The cliques that hold each variable, small ones first."""
        homes: dict[int, list[int]] = {}
        for index in sorted(range(len(self.cliques)), key=lambda index: self.cliques[index].num_entries):
            for variable in self.cliques[index].variables:
                homes.setdefault(variable, []).append(index)
        return homes


def junction_tree(scopes: Sequence[Scope], sizes: Mapping[int, int]) -> JunctionTree:
    """Builds a junction tree of small cost.

    Args:
        scopes: The variables of each factor.
        sizes: Number of values of each variable; one that stands in no scope gets a clique of its own.
    """
    order = elimination_order(scopes, sizes)
    rank = {variable: place for place, variable in enumerate(order)}
    cliques = _merged_cliques(order, rank, _eliminated(scopes, order))
    members = [tuple(sorted(clique, key=rank.__getitem__)) for clique, _ in cliques]
    owner = {variable: index for index, (_, own) in enumerate(cliques) for variable in own}
    factors: list[list[int]] = [[] for _ in cliques]
    for index, scope in enumerate(scopes):
        if scope:
            factors[owner[min(scope, key=rank.__getitem__)]].append(index)
    nodes = []
    for index, (_, own) in enumerate(cliques):
        parent = owner[members[index][len(own)]] if len(own) < len(members[index]) else None
        shape = tuple(sizes[variable] for variable in members[index])
        nodes.append(Clique(members[index], shape, len(own), parent, tuple(factors[index])))
    return JunctionTree(tuple(nodes), tuple(index for index, scope in enumerate(scopes) if not scope))


def elimination_order(scopes: Sequence[Scope], sizes: Mapping[int, int]) -> list[int]:
    """Finds an order of elimination in which the tables stay small: the cheapest of a few."""
    tied = [frozenset(scope) for scope in scopes if scope]
    as_given = (list(sizes), list(sizes)[::-1])
    to_read = sum(math.prod(sizes[variable] for variable in scope) for scope in tied)
    for order in as_given:  # trees: no dearer than reading the factors
        if cost_of_order(tied, sizes, order, limit=to_read) < math.inf:
            return order
    best = _cheapest(tied, sizes, [_min_weight_order(tied, sizes), *as_given])
    if len(tied) > _MOST_FACTORS:
        return best
    if cost_of_order(tied, sizes, best) > _WORTH_A_PATH:
        path = opt_einsum.paths.greedy(tied, frozenset(), dict(sizes))
        best = _cheapest(tied, sizes, [best, _order_of_path(tied, sizes, path)])
    if _WORTH_A_SEARCH < cost_of_order(tied, sizes, best) < _HOPELESS:
        best = _cheapest(tied, sizes, [best, _order_of_path(tied, sizes, _searched_path(tied, sizes))])
    return best


def cost_of_order(
    scopes: Iterable[Iterable[int]], sizes: Mapping[int, int], order: Sequence[int], limit: float = math.inf
) -> float:
    """Counts the entries of the cliques' tables; infinite once it passes `limit`."""
    total = 0.0
    for clique in _eliminated(scopes, order):
        total += math.prod(float(sizes[variable]) for variable in clique)
        if total > limit:
            return math.inf
    return total


def _eliminated(scopes: Iterable[Iterable[int]], order: Sequence[int]) -> Iterator[set[int]]:
    """Yields the clique of each variable in turn."""
    neighbours: dict[int, set[int]] = {variable: {variable} for variable in order}
    for scope in scopes:
        for variable in scope:
            neighbours[variable].update(scope)
    for variable in order:
        clique = neighbours.pop(variable)
        yield clique
        for other in clique:
            if other != variable:
                neighbours[other] |= clique
                neighbours[other].discard(variable)


def _merged_cliques(
    order: Sequence[int], rank: Mapping[int, int], cliques: Iterator[set[int]]
) -> list[tuple[set[int], list[int]]]:
    """Merges each clique into a child that holds all of it; gives (variables, those eliminated here), parents last."""
    nodes: list[tuple[set[int], list[int]]] = []
    waiting: dict[int, list[int]] = {}  # nodes by the variable of theirs that goes next
    for variable, clique in zip(order, cliques, strict=True):
        children = waiting.pop(variable, [])
        swallowed = next((child for child in children if _num_left(nodes[child]) == len(clique)), None)
        if swallowed is None:
            nodes.append(({*clique}, [variable]))
        else:
            whole, own = nodes[swallowed]
            nodes[swallowed] = (set(), [])
            nodes.append((whole, [*own, variable]))
        left = nodes[-1][0] - set(nodes[-1][1])
        if left:
            waiting.setdefault(min(left, key=rank.__getitem__), []).append(len(nodes) - 1)
    return [node for node in nodes if node[0]]


def _num_left(node: tuple[set[int], list[int]]) -> int:
    return len(node[0]) - len(node[1])


def _cheapest(tied: list[frozenset[int]], sizes: Mapping[int, int], orders: Sequence[list[int]]) -> list[int]:
    best, least = orders[0], cost_of_order(tied, sizes, orders[0])
    for order in orders[1:]:
        cost = cost_of_order(tied, sizes, order, limit=least)
        if cost < least:
            best, least = order, cost
    return best


def _min_weight_order(tied: list[frozenset[int]], sizes: Mapping[int, int]) -> list[int]:
    """Eliminates the variable of the smallest clique first; weights that have changed stand in the heap again."""
    neighbours: dict[int, set[int]] = {variable: {variable} for variable in sizes}
    for scope in tied:
        for variable in scope:
            neighbours[variable] |= scope
    log_sizes = {variable: math.log(size) for variable, size in sizes.items()}
    weights = {variable: sum(map(log_sizes.__getitem__, near)) for variable, near in neighbours.items()}
    heap = [(weight, variable) for variable, weight in weights.items()]
    heapq.heapify(heap)
    order = []
    while heap:
        weight, variable = heapq.heappop(heap)
        if variable not in neighbours or weights[variable] != weight:
            continue
        order.append(variable)
        clique = neighbours.pop(variable)
        clique.discard(variable)
        for other in clique:
            neighbours[other] |= clique
            neighbours[other].discard(variable)
            weights[other] = sum(map(log_sizes.__getitem__, neighbours[other]))
            heapq.heappush(heap, (weights[other], other))
    return order


def _searched_path(inputs: list[frozenset[int]], sizes: Mapping[int, int]) -> list[tuple[int, ...]]:
    with _own_randomness():
        search = opt_einsum.path_random.RandomGreedy(max_repeats=min(32, max(1, _SEARCH // len(inputs))))
        return search(inputs, frozenset(), dict(sizes))


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Seeds the global generator that opt_einsum draws from, and puts it back."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


def _order_of_path(tied: list[frozenset[int]], sizes: Mapping[int, int], path: Sequence[tuple[int, ...]]) -> list[int]:
    """Reads the order in which a contraction path sums variables out; those in no factor come first."""
    live, count = list(tied), dict.fromkeys(sizes, 0)
    for scope in live:
        for variable in scope:
            count[variable] += 1
    order = [variable for variable in sizes if not count[variable]]
    for step in path:
        taken = [live.pop(index) for index in sorted(step, reverse=True)]
        union = frozenset().union(*taken)
        for scope in taken:
            for variable in scope:
                count[variable] -= 1
        gone = {variable for variable in union if not count[variable]}
        order += sorted(gone)
        for variable in union - gone:
            count[variable] += 1
        live.append(union - gone)
    return order + [variable for scope in live for variable in sorted(scope)]
