"""A factor graph as the kernels read it: numbered variables, evidence plugged in, tables of one dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cai.graph.factor_graph import FactorGraph


@dataclass(frozen=True, eq=False)
class LatentFactors:
    """The factors of what is not observed.

    Attributes:
        names: Names of the latent variables; a variable's number is its place here.
        sizes: Number of values of each.
        scopes: Numbers of the variables of each factor, in the order of its dimensions.
        log_tables: Log table of each factor on its latent variables, nats.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    log_tables: tuple[Tensor, ...]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each latent variable, by name."""
        return {name: number for number, name in enumerate(self.names)}

    @property
    def cardinalities(self) -> dict[int, int]:
        """Number of values of each variable, by number."""
        return dict(enumerate(self.sizes))

    @property
    def like(self) -> Tensor:
        """A 0-dim zero of the tables' dtype and device: float64 on the CPU where there are none."""
        return self.log_tables[0].detach().new_zeros(()) if self.log_tables else torch.zeros((), dtype=torch.float64)

    def tying(self, variables: Sequence[int]) -> LatentFactors:
        """Adds a factor of ones on some variables, so that a junction tree keeps them together."""
        zeros = self.like.new_zeros(()).expand([self.sizes[variable] for variable in variables])
        return LatentFactors(self.names, self.sizes, (*self.scopes, tuple(variables)), (*self.log_tables, zeros))


def latent_factors(graph: FactorGraph) -> LatentFactors:
    """Plugs the evidence of a graph into its factors; differentiable in every log table.

    Returns:
        The factors in the graph's order and in the widest of their dtypes; one whose variables are all observed is a
        constant.
    """
    latent = [variable for variable in graph.variables if variable.name not in graph.evidence]
    number = {variable.name: place for place, variable in enumerate(latent)}
    tables = []
    for factor in graph.factors:
        table = factor.log_table.to(graph.like.dtype)
        if any(name in graph.evidence for name in factor.variables):
            table = table[tuple(graph.evidence.get(name, slice(None)) for name in factor.variables)]
        tables.append(table)
    return LatentFactors(
        names=tuple(number),
        sizes=tuple(variable.cardinality for variable in latent),
        scopes=tuple(tuple(number[name] for name in f.variables if name in number) for f in graph.factors),
        log_tables=tuple(tables),
    )
