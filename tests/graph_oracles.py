"""Factor graphs in plain numpy: every assignment written down, in long doubles, and random graphs to try it on.

    log Z = log sum_x prod_f f(x_f),    p(x_A) = sum_{x not in A} prod_f f(x_f) / Z,    mode = argmax_x prod_f f(x_f)

The sums run over all assignments that agree with the evidence, so models must be small: 10 variables or so. Nothing
here knows how `cai` computes; `factor_graph_of`, at the end, only hands the tables over.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray
Scope = tuple[str, ...]
Scopes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Model:
    """Variables with their cardinalities, log tables on some of them, and what is observed.

    Attributes:
        cards: cardinality by name; the order of the names is the order of the variables.
        factors: scope and log table, one dimension a name of the scope.
        evidence: observed values.
        support: an assignment of positive density that agrees with the evidence.
    """

    cards: dict[str, int]
    factors: tuple[tuple[Scope, Array], ...]
    evidence: dict[str, int] = field(default_factory=dict)
    support: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> Scope:
        return tuple(self.cards)

    @property
    def free(self) -> Scope:
        return tuple(name for name in self.cards if name not in self.evidence)

    def replace(self, **changes: Any) -> Model:
        return replace(self, **changes)

    @cached_property
    def log_joint(self) -> Array:
        """Log prod_f f over all assignments, one dimension a variable, `-inf` where the evidence disagrees."""
        total = np.zeros(tuple(self.cards.values()), np.longdouble)
        for scope, table in self.factors:
            total = total + self._spread(scope, np.asarray(table, np.longdouble))
        for name, value in self.evidence.items():
            agrees = np.where(np.arange(self.cards[name]) == value, 0.0, -np.inf)
            total = total + self._spread((name,), agrees)
        return total

    def _spread(self, scope: Scope, table: Array) -> Array:
        order = sorted(range(len(scope)), key=lambda i: self.names.index(scope[i]))
        shape = [self.cards[name] if name in scope else 1 for name in self.names]
        return table.transpose(order).reshape(shape)

    @cached_property
    def _weights(self) -> tuple[Array, np.longdouble, np.longdouble]:
        top = self.log_joint.max()
        weights = np.exp(self.log_joint - top)
        return weights, weights.sum(), top

    @property
    def log_evidence(self) -> float:
        """Log Z in nats."""
        _, total, top = self._weights
        return float(top + np.log(total))

    def marginal(self, names: Sequence[str]) -> Array:
        """p(x_names | evidence), one dimension a name, in the order given."""
        weights, total, _ = self._weights
        others = tuple(i for i, name in enumerate(self.names) if name not in names)
        kept = [name for name in self.names if name in names]
        return (weights.sum(others) / total).transpose([kept.index(name) for name in names]).astype(float)

    @property
    def log_maximum(self) -> float:
        """Log max_x prod_f f(x_f)."""
        return float(self.log_joint.max())

    @property
    def mode(self) -> dict[str, int]:
        """The first of the most probable assignments."""
        best = np.unravel_index(int(self.log_joint.argmax()), self.log_joint.shape)
        return {name: int(value) for name, value in zip(self.names, best, strict=True)}

    def log_density(self, assignment: Mapping[str, int]) -> float:
        """Log prod_f f(x_f) of one assignment."""
        return float(self.log_joint[tuple(assignment[name] for name in self.names)])


def assignments(cards: Mapping[str, int]) -> dict[str, Array]:
    """Every assignment, as one flat array of values a variable."""
    grids = np.meshgrid(*(np.arange(size) for size in cards.values()), indexing="ij")
    return {name: grid.reshape(-1) for name, grid in zip(cards, grids, strict=True)}


def sliced(model: Model) -> Model:
    """The model without its observed variables, their values put into the tables."""
    known = model.evidence
    factors = []
    for scope, table in model.factors:
        index = tuple(known.get(name, slice(None)) for name in scope)
        factors.append((tuple(name for name in scope if name not in known), table[index]))
    return Model({name: model.cards[name] for name in model.free}, tuple(factors))


# -- structures: which variables stand together -----------------------------------------------------------------------


def tree(rng: np.random.Generator, num: int) -> Scopes:
    return [*((i,) for i in range(num)), *((i, int(rng.integers(i))) for i in range(1, num))]


def forest(rng: np.random.Generator, num: int) -> Scopes:
    """Three trees; one variable more with a factor of its own, and one that stands in no factor at all."""
    edges = [(i, i - 3) for i in range(3, num - 2)]
    return [*edges, *((i,) for i in range(num - 1))]


def cycle(rng: np.random.Generator, num: int) -> Scopes:
    return [*((i, (i + 1) % num) for i in range(num)), (0,)]


def grid(rng: np.random.Generator, num: int) -> Scopes:
    """Three columns, as many rows as the number allows: width 3."""
    right = [(i, i + 1) for i in range(num - 1) if i % 3 < 2]
    return right + [(i, i + 3) for i in range(num - 3)]


def width_four(rng: np.random.Generator, num: int) -> Scopes:
    """A random 4-tree of pairs: width 4."""
    cliques: list[tuple[int, ...]] = [(0, 1, 2, 3)]
    pairs = list(itertools.combinations(range(4), 2))
    for i in range(4, num):
        base = cliques[rng.integers(len(cliques))]
        pairs += [(i, j) for j in base]
        cliques += [(i, *(j for j in base if j != gone)) for gone in base]
    return pairs


def higher_order(rng: np.random.Generator, num: int) -> Scopes:
    return [tuple(rng.choice(num, size, replace=False).tolist()) for size in (3, 3, 4, 2, 1, 3)]


def repeated(rng: np.random.Generator, num: int) -> Scopes:
    """Several factors on one scope, also the other way round, and factors on nothing."""
    edges = tree(rng, num)[num:]
    return [*edges, *edges[:4], *(edge[::-1] for edge in edges[2:6]), (0,), (0,), (), ()]


def complete(rng: np.random.Generator, num: int) -> Scopes:
    return list(itertools.combinations(range(num), 2))


def two_parts(rng: np.random.Generator, num: int) -> Scopes:
    """Two loops that know nothing of each other."""
    half = num // 2
    first = [(i, (i + 1) % half) for i in range(half)]
    return [*first, *((half + i, half + (i + 1) % (num - half)) for i in range(num - half))]


Structure = Callable[[np.random.Generator, int], Scopes]


# -- random models ----------------------------------------------------------------------------------------------------


def random_model(
    seed: int,
    structure: Structure = tree,
    *,
    num: int = 8,
    cards: Sequence[int] = (1, 2, 3, 4),
    scale: float = 1.0,
    zeros: float = 0.0,
    observed: int = 0,
) -> Model:
    """A random model: names, the order of dimensions and of factors are shuffled.

    `scale` is the standard deviation of the log tables, nats; `zeros` the share of forbidden entries, with one
    assignment, `support`, always allowed; `observed` variables are known to be as in `support`.
    """
    rng = np.random.default_rng(seed)
    sizes = {f"x{i}": int(rng.choice(cards)) for i in rng.permutation(num)}
    support = {name: int(rng.integers(size)) for name, size in sizes.items()}
    factors = []
    for indices in structure(rng, num):
        scope = tuple(f"x{i}" for i in rng.permutation(indices))
        table = np.array(scale * rng.normal(size=tuple(sizes[name] for name in scope)))
        forbidden = np.array(rng.random(table.shape) < zeros)
        forbidden[tuple(support[name] for name in scope)] = False
        factors.append((scope, np.where(forbidden, -np.inf, table)))
    known = rng.permutation(num)[:observed]
    shuffled = tuple(factors[i] for i in rng.permutation(len(factors)))
    return Model(sizes, shuffled, {f"x{i}": support[f"x{i}"] for i in known}, support)


#: Every kind of graph that a law must survive, as arguments of `random_model`.
KINDS: dict[str, dict[str, Any]] = {
    "tree": {"structure": tree},
    "forest": {"structure": forest, "num": 9},
    "cycle": {"structure": cycle},
    "grid": {"structure": grid, "num": 9},
    "width four": {"structure": width_four},
    "higher order": {"structure": higher_order},
    "repeated scopes": {"structure": repeated},
    "two parts": {"structure": two_parts},
    "zeros": {"structure": grid, "num": 9, "zeros": 0.4},
    "zeros, higher order": {"structure": higher_order, "zeros": 0.6},
    "evidence": {"structure": width_four, "observed": 3},
    "evidence in a tree": {"structure": tree, "observed": 2},
    "all observed": {"structure": cycle, "observed": 8},
    "far apart": {"structure": grid, "num": 9, "scale": 300.0},
    "far apart, zeros, evidence": {"structure": cycle, "scale": 300.0, "zeros": 0.3, "observed": 1},
    "one value each": {"structure": tree, "cards": (1,)},
}


def bernstein(p: Array, num: int) -> Array:
    """Deviation of a mean of `num` Bernoulli(p) draws that is exceeded with probability below 1e-9."""
    p, log_odds = np.clip(p, 0.0, 1.0), math.log(2 / 1e-9)
    return np.sqrt(2 * p * (1 - p) * log_odds / num) + 2 * log_odds / (3 * num)


def pairs_of(names: Iterable[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(names, 2))


# -- what changes nothing ---------------------------------------------------------------------------------------------


def renamed(model: Model, new: Mapping[str, str]) -> Model:
    """Other names for the same variables."""
    return Model(
        {new[name]: size for name, size in model.cards.items()},
        tuple((tuple(new[name] for name in scope), table) for scope, table in model.factors),
        {new[name]: value for name, value in model.evidence.items()},
        {new[name]: value for name, value in model.support.items()},
    )


def reordered(model: Model, seed: int) -> Model:
    """Variables, factors and the dimensions of each table in another order."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(model.names).tolist()
    factors = []
    for i in rng.permutation(len(model.factors)):
        scope, table = model.factors[i]
        order = rng.permutation(len(scope))
        factors.append((tuple(scope[j] for j in order), table.transpose(order)))
    return model.replace(cards={name: model.cards[name] for name in names}, factors=tuple(factors))


def revalued(model: Model, seed: int) -> tuple[Model, dict[str, Array]]:
    """The values of each variable numbered anew; old value of each new one, by name."""
    rng = np.random.default_rng(seed)
    old = {name: rng.permutation(size) for name, size in model.cards.items()}
    factors = tuple(
        (scope, table[np.ix_(*(old[name] for name in scope))] if scope else table) for scope, table in model.factors
    )
    known = {name: int(np.flatnonzero(old[name] == value)[0]) for name, value in model.evidence.items()}
    return model.replace(factors=factors, evidence=known, support={}), old


def factor_graph_of(model: Model, tables: Sequence[Any] | None = None) -> Any:
    """The `cai.FactorGraph` of a model; `tables` replace its log tables, such as tensors that need gradients."""
    import cai

    tables = [table for _, table in model.factors] if tables is None else tables
    return cai.FactorGraph(
        tuple(cai.Variable(name, size) for name, size in model.cards.items()),
        tuple(
            cai.Factor(scope, table, f"f{i}")
            for i, ((scope, _), table) in enumerate(zip(model.factors, tables, strict=True))
        ),
        model.evidence,
    )
