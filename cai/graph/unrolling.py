"""A trajectory graph written out over time as a factor graph.

Variables s0..sT and a0..a{T-1}; factors `initial`, `prior t`, `dynamics t`, `reward t` and `terminal reward`. The sum
of the density over all assignments is p(O). In a terminal state the chain stays, reward is zero, and the action is a
dummy, always the first (or the one that is known): were it spread over all, the best assignment would pay for each
step that it does not live. A discount below one adds one value to every state variable, the absorbing state S of value
zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.factors.protocols import TabulatedDynamics
from cai.graph.factor_graph import Factor, FactorGraph, Variable
from cai.graph.tabulate import tabulate
from cai.ops.logspace import log_expectation, safe_log
from cai.ops.tables import StepTables, Tables

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph

#: The most entries that a dense dynamics factor may have (2 GiB of float64).
MAX_ENTRIES = 2**28


def unrolled(graph: TrajectoryGraph) -> FactorGraph:
    """Writes a tabular graph of finite horizon out over time."""
    tables = finite_tables(graph, "unroll")
    horizon = tables.horizon
    assert horizon is not None
    extra = tables.discount < 1.0
    num_states = tables.num_states + extra
    states = [Variable(f"s{t}", num_states) for t in range(horizon + 1)]
    actions = [Variable(f"a{t}", tables.num_actions) for t in range(horizon)]
    log_tables = step_log_tables(graph, tables)
    factors = [Factor(("s0",), padded_initial(tables), "initial")]
    for t in range(horizon):
        prior, dynamics, reward = log_tables[t]
        here, there = (f"s{t}", f"a{t}"), (f"s{t}", f"a{t}", f"s{t + 1}")
        factors.append(Factor(here, prior, f"prior {t}"))
        factors.append(Factor(there, dynamics, f"dynamics {t}"))
        factors.append(Factor(here if reward.dim() == 2 else there, reward, f"reward {t}"))
    factors.append(Factor((f"s{horizon}",), padded_terminal(tables), "terminal reward"))
    known = {f"s{t}": state for t, state in graph.evidence.states.items()}
    known |= {f"a{t}": action for t, action in graph.evidence.actions.items()}
    return FactorGraph((*states, *actions), tuple(factors), known, graph)


def finite_tables(graph: TrajectoryGraph, what: str) -> Tables:
    """Gives the tables of a graph that can be written out over time.

    Raises:
        ValueError: An infinite horizon, no tables, temperature 0, or dense factors that would not fit.
    """
    if not isinstance(graph.dynamics, TabulatedDynamics):
        raise ValueError(f"{what}: needs tabular dynamics, the graph's is {type(graph.dynamics).__name__}")
    need_density(graph, what)
    entries = graph.dynamics.num_states**2 * graph.dynamics.num_actions
    if entries > MAX_ENTRIES:
        raise ValueError(
            f"{what}: a dense factor of {graph.dynamics.num_states} states would hold {entries:,} entries "
            f"({entries * 8 / 2**30:.1f} GiB); the limit is {MAX_ENTRIES:,}"
        )
    return tabulate(graph)


def need_density(graph: TrajectoryGraph, what: str) -> None:
    """Raises ValueError at an infinite horizon or temperature 0: there is no density to write out over time."""
    if graph.horizon is None:
        raise ValueError(f"{what}: needs a finite horizon; give one with graph.replace(horizon=...)")
    if not graph.temperature:
        raise ValueError(f"{what}: at temperature 0 the optimality has no density; give a positive temperature")


def padded_initial(tables: Tables) -> Tensor:
    """Gives log p(s_0), with the absorbing state of a discount: `[S]` or `[S + 1]`."""
    return _padded(safe_log(tables.initial), tables.discount < 1.0, -torch.inf)


def padded_terminal(tables: Tables) -> Tensor:
    """Gives the terminal reward over alpha, with the absorbing state of a discount: `[S]` or `[S + 1]`."""
    return _padded(tables.terminal_values / tables.temperature, tables.discount < 1.0, 0.0)


def step_log_tables(graph: TrajectoryGraph, tables: Tables) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gives, for each step, log prior `[S, A]`, log dynamics `[S, A, S]` and reward / alpha `[S, A]` or `[S, A, S]`.

    Terminal states stay where they are; with a discount below one, S counts the absorbing state, the last.
    """
    assert tables.horizon is not None
    cache: dict[tuple[int, int | None], tuple[Tensor, Tensor, Tensor]] = {}
    for t in range(tables.horizon):
        key = (id(tables.step(t)), graph.evidence.actions.get(t))
        if key not in cache:
            cache[key] = _one_step(tables.step(t), key[1])
    return [cache[id(tables.step(t)), graph.evidence.actions.get(t)] for t in range(tables.horizon)]


def _one_step(step: StepTables, known_action: int | None) -> tuple[Tensor, Tensor, Tensor]:
    idle, extra = step.terminal[:, None], step.discount < 1.0
    dummy = torch.zeros_like(step.prior[0])
    dummy[known_action or 0] = 1.0
    prior = safe_log(torch.where(idle, dummy, step.prior))
    stay = torch.eye(step.terminal.numel(), dtype=prior.dtype, device=prior.device)[:, None, :]
    table = torch.where(idle[..., None], stay, step.transitions.dense(step.transitions.values))
    pairs = torch.where(idle, 0.0, step.rewards) / step.temperature
    triples = None
    if step.entry_rewards is not None:
        triples = torch.where(idle[..., None], 0.0, step.transitions.dense(step.entry_rewards)) / step.temperature
    if not extra:
        return prior, safe_log(table), pairs if triples is None else pairs[..., None] + triples
    dying = torch.where(idle, 0.0, torch.full_like(pairs, 1.0 - step.discount))
    table = torch.cat([table * (1.0 - dying)[..., None], dying[..., None]], -1)
    final = torch.zeros_like(table[:1])
    final[..., -1] = 1.0
    if triples is not None:
        on_death = log_expectation(triples, step.transitions.dense(step.transitions.values))
        on_death = torch.where(idle, 0.0, on_death)
        triples = _padded(torch.cat([pairs[..., None] + triples, (pairs + on_death)[..., None]], -1), True, 0.0, dim=0)
    rewards = _padded(pairs, True, 0.0, dim=0) if triples is None else triples
    return torch.cat([prior, safe_log(dummy)[None]]), safe_log(torch.cat([table, final])), rewards


def _padded(table: Tensor, extra: bool, value: float, dim: int = -1) -> Tensor:
    if not extra:
        return table
    shape = list(table.shape)
    shape[dim] = 1
    return torch.cat([table, table.new_full(shape, value)], dim)
