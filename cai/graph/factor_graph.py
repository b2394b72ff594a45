"""Any bipartite graph of discrete variables and factors: log p(x) = sum_f log f(x_f) + const."""

from __future__ import annotations

import numbers
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx
import torch
from torch import Tensor

from cai.data.serialization import serializable, write_atomically
from cai.factors.checks import as_table, state_index
from cai.ops.elimination import JunctionTree, junction_tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cai.graph.trajectory_graph import TrajectoryGraph


@serializable
@dataclass(frozen=True)
class Variable:
    """A discrete variable with values 0..cardinality-1.

    Attributes:
        name: Its name, unique in a graph.
        cardinality: How many values it has.
    """

    name: str
    cardinality: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"variable {self.name!r}: the name must be a string")
        if (
            not isinstance(self.cardinality, numbers.Integral)
            or isinstance(self.cardinality, bool)
            or self.cardinality < 1
        ):
            raise ValueError(f"variable {self.name!r}: cardinality must be a whole number >= 1, got {self.cardinality}")


@serializable
@dataclass(frozen=True, eq=False)
class Factor:
    """A potential on some variables.

    Attributes:
        variables: Names of the variables, one a dimension of the table.
        log_table: log f, in nats: one dimension a variable, `-inf` where forbidden.
        name: What to call it in messages and drawings.

    Raises:
        ValueError: A dimension too many or too few, a variable twice, NaN or `+inf`.
    """

    variables: tuple[str, ...]
    log_table: Tensor
    name: str = "factor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        dtype = self.log_table.dtype if isinstance(self.log_table, Tensor) else None
        object.__setattr__(self, "log_table", as_table(self.log_table, f"factor {self.name!r}", dtype))
        if len(set(self.variables)) != len(self.variables):
            raise ValueError(f"factor {self.name!r}: a variable stands in it twice: {self.variables}")
        if self.log_table.dim() != len(self.variables):
            raise ValueError(
                f"factor {self.name!r}: {len(self.variables)} variables need a table of as many dimensions, got shape "
                f"{list(self.log_table.shape)}"
            )
        values = self.log_table.detach()
        if (torch.isnan(values) | torch.isposinf(values)).any():
            raise ValueError(f"factor {self.name!r}: the log table holds NaN or +inf")


@serializable
@dataclass(frozen=True, eq=False, repr=False)
class FactorGraph:
    """Variables, factors tied to them, and what is observed.

    Attributes:
        variables: The variables.
        factors: The factors; the joint density is the product of them all, not normalised.
        evidence: The observed value of some variables, by name.
        trajectory: The trajectory graph that was unrolled into this one, if one was: then s0, a0, s1, ... are its
            states and actions, and an answer can be read as one about trajectories.

    Raises:
        ValueError: Names that are not unique, a factor on an unknown variable or of the wrong size, evidence outside a
            variable's domain.
    """

    variables: tuple[Variable, ...] = ()
    factors: tuple[Factor, ...] = ()
    evidence: Mapping[str, int] = field(default_factory=dict)
    trajectory: TrajectoryGraph | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", _all_of(Variable, self.variables, "variables"))
        object.__setattr__(self, "factors", _all_of(Factor, self.factors, "factors"))
        object.__setattr__(self, "evidence", dict(self.evidence))
        cardinalities = self.cardinalities
        if len(cardinalities) != len(self.variables):
            names = [variable.name for variable in self.variables]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"FactorGraph: there are two variables called {twice!r}")
        for factor in self.factors:
            for name, size in zip(factor.variables, factor.log_table.shape, strict=True):
                if name not in cardinalities:
                    raise ValueError(f"factor {factor.name!r}: there is no variable {name!r}")
                if cardinalities[name] != size:
                    raise ValueError(
                        f"factor {factor.name!r}: variable {name!r} has {cardinalities[name]} values, "
                        f"its dimension {size}"
                    )
        for name, value in self.evidence.items():
            if name not in cardinalities:
                raise ValueError(f"evidence: there is no variable {name!r}")
            self.evidence[name] = _value_of(name, value, cardinalities[name])  # type: ignore[index]

    def __repr__(self) -> str:
        observed = f", observed: {', '.join(self.evidence)}" if self.evidence else ""
        return f"FactorGraph({len(self.variables)} variables, {len(self.factors)} factors{observed})"

    @cached_property
    def cardinalities(self) -> dict[str, int]:
        """Number of values of each variable, by name."""
        return {variable.name: variable.cardinality for variable in self.variables}

    def add_variables(self, *variables: Variable) -> FactorGraph:
        """Makes a copy with more variables."""
        return replace(self, variables=(*self.variables, *variables))

    def add_factors(self, *factors: Factor) -> FactorGraph:
        """Makes a copy with more factors."""
        return replace(self, factors=(*self.factors, *factors))

    def without(self, *names: str) -> FactorGraph:
        """Makes a copy without the factors of these names.

        Raises:
            ValueError: There is no factor of a name.
        """
        there = {factor.name for factor in self.factors}
        for name in names:
            if name not in there:
                raise ValueError(f"without: there is no factor {name!r}")
        return replace(self, factors=tuple(factor for factor in self.factors if factor.name not in names))

    def rename(self, names: Mapping[str, str] | Callable[[str], str]) -> FactorGraph:
        """Makes a copy with other names of variables, such as `graph.rename(lambda name: "left." + name)`.

        Args:
            names: The new name of some variables by their old one, or a function from old to new.

        Returns:
            The copy; it can no longer be read as the trajectory that it was unrolled from.

        Raises:
            ValueError: An unknown variable, or two of the same name.
        """
        known = self.cardinalities
        if not isinstance(names, Mapping) and not callable(names):
            raise ValueError(f"rename: expected a mapping or a function from old names to new ones, got {names!r}")
        if isinstance(names, Mapping):
            unknown = sorted(set(names) - set(known))
            if unknown:
                raise ValueError(f"rename: there is no variable {unknown[0]!r}")
            new = {name: names.get(name, name) for name in known}
        else:
            new = {name: names(name) for name in known}
        taken = Counter(new.values())
        for name in taken:
            if taken[name] > 1:
                raise ValueError(f"rename: two variables would be called {name!r}")
        return FactorGraph(
            tuple(Variable(new[variable.name], variable.cardinality) for variable in self.variables),
            tuple(replace(factor, variables=tuple(new[name] for name in factor.variables)) for factor in self.factors),
            {new[name]: value for name, value in self.evidence.items()},
        )

    def __or__(self, other: FactorGraph) -> FactorGraph:
        """Puts two graphs side by side, `left | right`: factors that tie them are added to the union.

        Raises:
            ValueError: A variable of the same name in both; `rename` one.
        """
        if not isinstance(other, FactorGraph):
            return NotImplemented
        shared = sorted(set(self.cardinalities) & set(other.cardinalities))
        if shared:
            raise ValueError(f"both graphs have a variable {shared[0]!r}; rename those of one: graph.rename(...)")
        return FactorGraph(
            (*self.variables, *other.variables),
            (*self.factors, *other.factors),
            {**self.evidence, **other.evidence},
            self.trajectory if other.trajectory is None else other.trajectory,
        )

    def add_visits(
        self, name: str, states: Iterable[int] | int | Tensor, along: Sequence[str] | None = None
    ) -> FactorGraph:
        """Adds a memory: binary variables name0, name1, ... that say whether one of `states` was visited by then.

            name_t = 1  iff  some of s_0, ..., s_t lies in `states`

        A factor on the last of them, or on those of two memories, then speaks of the whole path: never A, A at some
        time, not both A and B.

        Args:
            name: What to call the memory.
            states: The states to remember, one of them, or a mask, bool `[S]`.
            along: The variables to watch, in order of time; by default s0, s1, ... of an unrolled trajectory.

        Raises:
            ValueError: Variables that are not there, states outside their domain, names that are taken.
        """
        from cai.graph.memories import with_visits

        return with_visits(self, name, states, along)

    def condition(self, evidence: Mapping[str, int]) -> FactorGraph:
        """Makes a copy in which more variables are observed.

        Raises:
            ValueError: An unknown variable, a value outside its domain, or another than observed already.
        """
        for name, value in evidence.items():
            if self.evidence.get(name, value) != value:
                raise ValueError(f"evidence: {name!r} is observed to be {self.evidence[name]} already, not {value}")
        return replace(self, evidence={**self.evidence, **evidence})

    def log_density(self, assignment: Mapping[str, Any]) -> Tensor:
        """Computes sum_f log f(x_f), in nats, not normalised.

        Args:
            assignment: A value, or a batch of values that broadcast, for every variable without evidence. Where it
                names an observed variable too, other values than the observed one have density zero.

        Returns:
            The batch's shape; `-inf` where a factor forbids.

        Raises:
            ValueError: A variable is missing or unknown, or a value is outside its domain.
        """
        values = self._values(assignment)
        shape = torch.broadcast_shapes(*(value.shape for value in values.values())) if values else torch.Size()
        total = torch.zeros(shape, dtype=torch.float64, device=self.like.device)
        for factor in self.factors:
            total = total + factor.log_table[tuple(values[name] for name in factor.variables)]
        for name, observed in self.evidence.items():
            total = torch.where(values[name] == observed, total, -torch.inf)
        return total

    def _values(self, assignment: Mapping[str, Any]) -> dict[str, Tensor]:
        cardinalities = self.cardinalities
        unknown = sorted(set(assignment) - set(cardinalities))
        missing = sorted(set(cardinalities) - set(assignment) - set(self.evidence))
        if unknown or missing:
            raise ValueError(
                f"log_density: no variable {unknown[0]!r}" if unknown else f"log_density: no value for {missing[0]!r}"
            )
        full = {**self.evidence, **assignment}
        return {
            name: state_index(value, cardinalities[name], name).to(self.like.device) for name, value in full.items()
        }

    @cached_property
    def like(self) -> Tensor:
        """A 0-dim zero of the widest dtype of the factors' tables, on their device; float64 where there are none."""
        tables = [factor.log_table for factor in self.factors]
        dtype = reduce(torch.promote_types, (table.dtype for table in tables)) if tables else torch.float64
        return torch.zeros((), dtype=dtype, device=tables[0].device if tables else None)

    def junction_tree(self) -> JunctionTree:
        """Plans exact inference without doing it: the cliques of the best elimination order found.

        Its `width` and `num_entries` say what `SumProduct` will cost. Variables are numbered as in the graph, without
        those that are observed.
        """
        from cai.graph.latent import latent_factors

        factors = latent_factors(self)
        return junction_tree(factors.scopes, factors.cardinalities)

    def to_networkx(self) -> networkx.Graph:
        """Gives the bipartite graph of nodes ("variable", name) and ("factor", index).

        Node attributes: `kind` and `label`; of variables `cardinality` and `observed` (a value or None), of factors
        `scope`, the names of their variables in the order of the table's dimensions.
        """
        view = networkx.Graph()
        for variable in self.variables:
            view.add_node(
                ("variable", variable.name),
                kind="variable",
                label=variable.name,
                cardinality=variable.cardinality,
                observed=self.evidence.get(variable.name),
            )
        for index, factor in enumerate(self.factors):
            view.add_node(("factor", index), kind="factor", label=factor.name, scope=factor.variables)
            view.add_edges_from((("factor", index), ("variable", name)) for name in factor.variables)
        return view

    def to_pyro(self) -> Callable[[], None]:
        """Makes a Pyro program with the same joint density: one site a variable, one `pyro.factor` a factor."""
        from cai.graph.conversions import factor_graph_program

        return factor_graph_program(self)

    @classmethod
    def from_uai(cls, source: str | os.PathLike, evidence: str | os.PathLike | None = None) -> FactorGraph:
        """Reads a model in the UAI format, MARKOV or BAYES; variables are called x0, x1, ...

        Args:
            source: A path, or the text itself (a string of more than one line).
            evidence: A path or the text of an evidence file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The text is malformed; the message says where.
        """
        from cai.graph.conversions import parse_uai, read_text

        return parse_uai(read_text(source, "model"), None if evidence is None else read_text(evidence, "evidence"))

    def to_uai(self, path: str | os.PathLike | None = None, kind: str = "MARKOV") -> str:
        """Writes the model in the UAI format. The format has no names: variable i is the i-th of the graph.

        Args:
            path: Where to write to, if anywhere; the evidence of a graph that has some goes to `path` + ".evid".
            kind: "MARKOV", or "BAYES" if each factor is the conditional distribution of its last variable.

        Returns:
            The text.

        Raises:
            ValueError: A graph that is no Bayesian network, to be written as one.
        """
        from cai.graph.conversions import evidence_text, uai_text

        text = uai_text(self, kind)
        if path is not None:
            write_atomically(path, text.encode())
            beside = Path(f"{os.fspath(path)}.evid")
            if self.evidence or beside.exists():  # what an earlier graph left there would be read with this one
                write_atomically(beside, evidence_text(self).encode())
        return text

    def draw(self, ax: Axes | None = None) -> Axes:
        """Draws variables as circles, factors as squares with their names, observed values shaded; needs matplotlib.

        An unrolled trajectory runs from left to right in time, whatever was added to it; any other graph is laid out so
        that up to some forty nodes can be read.

        Args:
            ax: Where to draw; a new figure by default.
        """
        from cai.graph.drawing import draw_factor_graph

        return draw_factor_graph(self, ax)


def _all_of(kind: type, given: Any, what: str) -> tuple:
    found = tuple(given)
    for item in found:
        if not isinstance(item, kind):
            raise ValueError(f"FactorGraph: {what} must be {kind.__name__}s, one by one, got {item!r}")
    return found


def _value_of(name: str, value: Any, size: int) -> int:
    """Reads an observed value: a whole number of any kind, a 0-dim tensor among them."""
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < size:
        raise ValueError(f"evidence: {name!r} = {value} is not a whole number in 0..{size - 1}")
    return index
