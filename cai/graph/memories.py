"""Memories of a trajectory: variables that carry along what has happened so far.

A potential on a whole path would tie all its states together. A memory m_t = f(m_{t-1}, s_t), a deterministic factor a
step, keeps the graph a chain, and one factor on the last memory says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.factors.checks import state_index
from cai.graph.factor_graph import Factor, FactorGraph, Variable

_EITHER = torch.tensor([False, True])


def with_visits(graph: FactorGraph, name: str, states: Any, along: Sequence[str] | None) -> FactorGraph:
    """Adds the memory of visits; see `FactorGraph.add_visits`."""
    if isinstance(along, str):
        raise ValueError(f"add_visits: along must be names in order of time, such as [{along!r}], got {along!r}")
    watched = states_over_time(graph) if along is None else list(along)
    cardinalities = graph.cardinalities
    for variable in watched:
        if variable not in cardinalities:
            raise ValueError(f"add_visits: there is no variable {variable!r}")
    taken = sorted({f"{name}{t}" for t in range(len(watched))} & set(cardinalities))
    if taken:
        raise ValueError(f"add_visits: there is a variable {taken[0]!r} already; call the memory something else")
    flags = [Variable(f"{name}{t}", 2) for t in range(len(watched))]
    factors = []
    for t, variable in enumerate(watched):
        inside = _members(states, cardinalities[variable], f"add_visits: a state of {name!r}")
        before, scope = (_EITHER[:1], (variable,)) if t == 0 else (_EITHER, (f"{name}{t - 1}", variable))
        table = (before[:, None] | inside)[..., None] == _EITHER
        table = table[0] if t == 0 else table
        factors.append(
            Factor((*scope, f"{name}{t}"), torch.where(table, 0.0, -torch.inf).to(graph.like), f"{name} {t}")
        )
    return graph.add_variables(*flags).add_factors(*factors)


def states_over_time(graph: FactorGraph) -> list[str]:
    """Gives the names of an unrolled trajectory's states, in order of time.

    Raises:
        ValueError: The graph was not unrolled from a trajectory.
    """
    if graph.trajectory is None or graph.trajectory.horizon is None:
        raise ValueError(
            "this graph was not unrolled from a trajectory; name the variables to watch: along=['s0', ...]"
        )
    return [f"s{t}" for t in range(graph.trajectory.horizon + 1)]


def _members(states: Any, size: int, what: str) -> Tensor:
    """Reads one state, some, or a mask of all of them: bool `[S]`."""
    given = list(states) if isinstance(states, Iterable) and not isinstance(states, Tensor | np.ndarray) else states
    inside = torch.zeros(size, dtype=torch.bool)
    if isinstance(given, Tensor | np.ndarray) and given.dtype in (torch.bool, np.bool_):
        if given.shape != (size,):
            raise ValueError(f"{what}: a mask must be [{size}], got {list(given.shape)}")
        return inside | torch.as_tensor(given)
    inside[state_index(given, size, what)] = True
    return inside
