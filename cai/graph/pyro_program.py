"""A tabular trajectory graph as a Pyro program: the same joint density, for Pyro's own inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from pyro.poutine.runtime import InferDict
from torch import Tensor

from cai.graph.unrolling import finite_tables, padded_initial, padded_terminal, step_log_tables
from cai.ops.logspace import logsumexp

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph


def pyro_program(graph: TrajectoryGraph) -> Callable[[], None]:
    """Writes a graph as a Pyro program with sites s0..sT, a0..a{T-1} and factors O0..O{T-1}.

    Sites are marked for parallel enumeration, and the chain is a `pyro.markov` one. Under `TraceEnum_ELBO` with an
    empty guide the loss is -log p(O); mind that Pyro's enumeration loses what lies some 36 nats below the best path.
    """
    tables = finite_tables(graph, "to_pyro")
    horizon = tables.horizon
    assert horizon is not None
    steps = step_log_tables(graph, tables)
    initial, ends = padded_initial(tables), padded_terminal(tables)
    known = graph.evidence

    def program() -> None:
        state = _draw("s0", initial, known.states.get(0))
        for t in pyro.markov(range(horizon)):
            log_prior, log_dynamics, reward = steps[t]
            action = _draw(f"a{t}", log_prior[state], known.actions.get(t))
            following = _draw(f"s{t + 1}", Vindex(log_dynamics)[state, action], known.states.get(t + 1))
            indices = (state, action) if reward.dim() == 2 else (state, action, following)
            pyro.factor(f"O{t}", Vindex(reward)[indices])
            if t == horizon - 1:  # outside the loop Pyro may have given the last state's dimension away
                pyro.factor(f"O{horizon}", ends[following])
            state = following

    return program


def _draw(name: str, log_weights: Tensor, known: int | None) -> Tensor:
    """Draws from weights that need not sum to one: what they sum to is a factor."""
    value = None if known is None else torch.tensor(known)
    mode: InferDict = {} if known is not None else {"enumerate": "parallel"}
    drawn = pyro.sample(name, dist.Categorical(logits=log_weights), obs=value, infer=mode)
    total = logsumexp(log_weights)
    if (total.detach().abs() > 1e-12).any():
        pyro.factor(f"{name}_mass", total)
    return drawn
