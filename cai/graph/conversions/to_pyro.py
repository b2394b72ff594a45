"""Graphs as Pyro programs: the same joint density, for Pyro's own inference.

A tabular trajectory graph becomes a chain of discrete sites, one with callable factors a chain of whatever these
return (`cai.graph.conversions.callables`), and a factor graph one site a variable, in an order that keeps the variables
of each factor close together, so that `pyro.markov` can give tensor dimensions away. Sites are marked for enumeration;
Pyro's loses what lies some 36 nats below the best path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch
from pyro.ops.indexing import Vindex
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import _PYRO_STACK, InferDict
from torch import Tensor

from cai.factors.protocols import TabulatedDynamics
from cai.graph.conversions.callables import callable_program
from cai.graph.unrolling import finite_tables, padded_initial, padded_terminal, step_log_tables
from cai.ops.logspace import logsumexp

if TYPE_CHECKING:
    from cai.graph.factor_graph import FactorGraph
    from cai.graph.trajectory_graph import TrajectoryGraph

#: Variables that Pyro may have to enumerate at once; torch has 64 dimensions, and plates take some.
_MAX_WIDTH = 60


def pyro_program(graph: TrajectoryGraph) -> Callable[[], None]:
    """Writes a trajectory graph as a Pyro program with sites s0..sT, a0..a{T-1} and factors O0..O{T}.

    Of a tabular graph the sites are marked for parallel enumeration, and the chain is a `pyro.markov` one: under
    `TraceEnum_ELBO` with an empty guide the loss is -log p(O). With other factors see `callable_program`.

    Raises:
        ValueError: An infinite horizon, temperature 0, or factors that have no density.
    """
    if not isinstance(graph.dynamics, TabulatedDynamics):
        return callable_program(graph)
    tables = finite_tables(graph, "to_pyro")
    horizon = tables.horizon
    assert horizon is not None
    steps = step_log_tables(graph, tables)
    initial, ends = padded_initial(tables), padded_terminal(tables)
    known = graph.evidence
    starts, masses = _has_mass(initial), [(_has_mass(prior), _has_mass(dynamics)) for prior, dynamics, _ in steps]

    def program() -> None:
        state = torch.tensor(0)
        for t in pyro.markov(range(horizon)):
            if t == 0:  # before the loop it would spoil the dimensions of an enumerated guide, without an error
                state = _draw("s0", initial, known.states.get(0), has_mass=starts)
            log_prior, log_dynamics, reward = steps[t]
            of_action, of_arrival = masses[t]
            action = _draw(f"a{t}", log_prior[state], known.actions.get(t), has_mass=of_action)
            arrival = Vindex(log_dynamics)[state, action]
            following = _draw(f"s{t + 1}", arrival, known.states.get(t + 1), has_mass=of_arrival)
            indices = (state, action) if reward.dim() == 2 else (state, action, following)
            pyro.factor(f"O{t}", Vindex(reward)[indices])
            if t == horizon - 1:  # outside the loop Pyro may have given the last state's dimension away
                pyro.factor(f"O{horizon}", ends[following])
            state = following

    return program


def factor_graph_program(graph: FactorGraph) -> Callable[[], None]:
    """Writes a factor graph as a Pyro program: a site for each variable, a `pyro.factor` for each factor.

    A variable is drawn uniformly, and one factor makes good for what that costs, so that the joint density is the
    product of the graph's factors: under `TraceEnum_ELBO` with an empty guide the loss is -log_evidence. Observed
    variables are observed sites. A factor whose name is taken gets a number.

    Returns:
        The program. Enumerated by Pyro, it raises ValueError where no order keeps the variables of each factor within
        60 of each other; other inference, and `cai.from_pyro`, have no such limit.
    """
    cardinalities, evidence, like = graph.cardinalities, graph.evidence, graph.like
    order, width = _narrow_order(graph)
    due = _by_last_variable(graph, order)
    names = _site_names(graph)
    tables = [factor.log_table.to(like) for factor in graph.factors]
    correction = like.new_tensor(sum(math.log(size) for size in cardinalities.values()))

    def program() -> None:
        if width > _MAX_WIDTH and any(isinstance(handler, EnumMessenger) for handler in _PYRO_STACK):
            raise ValueError(
                f"to_pyro: Pyro would have to enumerate {width} of the {len(order)} variables at once, in as many "
                f"tensor dimensions; {_MAX_WIDTH} are possible. Ask cai.SumProduct or cai.LoopyBeliefPropagation"
            )
        values: dict[str, Tensor] = {}
        for name, value in evidence.items():
            uniform = dist.Categorical(logits=like.new_zeros(cardinalities[name]))
            values[name] = pyro.sample(name, uniform, obs=torch.tensor(value, device=like.device))
        pyro.factor(names[-1], correction)
        for step in pyro.markov(range(-1, len(order)), history=max(width - 1, 1)):
            if step >= 0:
                uniform = dist.Categorical(logits=like.new_zeros(cardinalities[order[step]]))
                values[order[step]] = pyro.sample(order[step], uniform, infer={"enumerate": "parallel"})
            for place in due[step]:
                pyro.factor(names[place], _entry(graph.factors[place].variables, tables[place], values))

    return program


def _entry(names: Sequence[str], log_table: Tensor, values: dict[str, Tensor]) -> Tensor:
    return Vindex(log_table)[tuple(values[name] for name in names)] if names else log_table


def _by_last_variable(graph: FactorGraph, order: Sequence[str]) -> dict[int, list[int]]:
    """Sorts the factors by the step at which all their variables are known; -1 is before the first."""
    step_of = {name: step for step, name in enumerate(order)}
    due: dict[int, list[int]] = {step: [] for step in range(-1, len(order))}
    for place, factor in enumerate(graph.factors):
        due[max((step_of.get(name, -1) for name in factor.variables), default=-1)].append(place)
    return due


def _narrow_order(graph: FactorGraph) -> tuple[list[str], int]:
    """Gives the latent variables in an order in which those of one factor are near, and how many such a window holds.

    The graph's own order, or reverse Cuthill-McKee, whichever is narrower.
    """
    latent = [variable.name for variable in graph.variables if variable.name not in graph.evidence]
    number = {name: place for place, name in enumerate(latent)}
    scopes = [[number[name] for name in factor.variables if name in number] for factor in graph.factors]
    pairs = [(a, b) for scope in scopes for a in scope for b in scope]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    shape = (len(latent), len(latent))
    matrix = scipy.sparse.coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=shape).tocsr()
    cuthill_mckee = scipy.sparse.csgraph.reverse_cuthill_mckee(matrix, symmetric_mode=True) if latent else np.arange(0)

    def width(order: np.ndarray) -> int:
        place = np.argsort(order)
        return 1 + max((int(np.ptp(place[scope])) for scope in scopes if scope), default=0)

    best = min(np.arange(len(latent)), cuthill_mckee, key=width)
    return [latent[place] for place in best], width(best)


def _site_names(graph: FactorGraph) -> list[str]:
    """Gives each factor a site name that no variable and no other factor has, and one more for the correction."""
    taken = set(graph.cardinalities)
    names = []
    for wanted in [*(factor.name for factor in graph.factors), "cardinalities"]:
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted} {number}"
        taken.add(name)
        names.append(name)
    return names


def _draw(name: str, log_weights: Tensor, known: int | None, *, has_mass: bool) -> Tensor:
    """Draws from weights that need not sum to one: what they sum to is a factor.

    Whether it stands is said beforehand, for all states alike: a site must not come and go with sampled values.
    """
    value = None if known is None else torch.tensor(known, device=log_weights.device)
    mode: InferDict = {} if known is not None else {"enumerate": "parallel"}
    total = logsumexp(log_weights)
    possible = torch.where(torch.isneginf(total)[..., None], 0.0, log_weights)  # else evidence leaves nothing
    drawn = pyro.sample(name, dist.Categorical(logits=possible), obs=value, infer=mode)
    if has_mass:
        pyro.factor(f"{name}_mass", total)
    return drawn


def _has_mass(log_weights: Tensor) -> bool:
    """Whether some row does not sum to one."""
    return bool((logsumexp(log_weights).detach().abs() > 1e-12).any())
