"""Independent variables as the variational family: the naive mean field of a factor graph.

    q(x) = prod_i q_i(x_i),     ELBO = sum_f E_q[log f] + sum_i H(q_i)

computed exactly, table by table. A value that some factor rules out has q_i = 0; a combination of possible values that
is forbidden makes the bound -inf for every q, and is refused.

Source: Wainwright and Jordan (2008), chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.graph.factor_graph import FactorGraph
from cai.graph.latent import latent_factors
from cai.inference.factor_graph import need_support
from cai.inference.guided import Store
from cai.inference.stats import Stats
from cai.inference.variational import MeanFieldPosterior
from cai.methods.guides.family import AbstractFamily, AbstractGuide, Effort
from cai.ops.loopy.factor_groups import group_factors
from cai.ops.mean_field import forbidden_member, mean_field_bound, possible_values
from cai.simulate.seeding import seeded

#: Standard deviation of the first logits: equal ones are a saddle point of symmetric graphs.
_SPREAD = 0.1


@serializable
@dataclass(frozen=True)
class MeanFieldGuide(AbstractGuide):
    """A categorical distribution of its own for every variable of a factor graph.

    The bound is exact, and below the log evidence by KL(q || p). It has many local maxima where variables are strongly
    tied: the seed decides which one is found. `LoopyBeliefPropagation` is usually nearer, but bounds nothing.
    """

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless it is a factor graph."""
        if not isinstance(graph, FactorGraph):
            raise IncompatibleMethod(
                f"MeanFieldGuide answers a FactorGraph, got a {type(graph).__name__}; graph.unroll() makes one of a "
                "trajectory on tables, FixedDynamicsGuide() keeps its structure"
            )

    def family(self, graph: FactorGraph, effort: Effort, seed: int) -> MeanFieldFamily:
        """Starts near uniform distributions."""
        return MeanFieldFamily(graph, seed)


class MeanFieldFamily(AbstractFamily):
    """The product distributions of one factor graph.

    Args:
        graph: The graph.
        seed: The seed of the start.

    Raises:
        IncompatibleMethod: A factor forbids a combination of possible values, or nothing is possible.
    """

    is_exact = True
    learning_rate = 0.2

    def __init__(self, graph: FactorGraph, seed: int) -> None:
        self._latent = latent_factors(graph)
        self._factors = group_factors(self._latent.sizes, self._latent.scopes, self._latent.log_tables)
        self._possible = possible_values(self._factors)
        self._check()
        self._graph = graph
        self.store, self.num_entries = Store(), self._factors.largest
        with self.store.opened(), seeded(seed, self._latent.like.device):
            self.log_q()

    def _check(self) -> None:
        nothing = any(bool((~possible).all(0).any()) for possible in self._possible)
        need_support(not (nothing or torch.isneginf(self._factors.log_constant)))
        member = forbidden_member(self._factors, self._possible)
        if member is not None:
            names = ", ".join(self._latent.names[number] for number in self._factors.scopes[member])
            raise IncompatibleMethod(
                f"MeanFieldGuide: a factor on {names} forbids combinations of values that are possible one by one, "
                "which independent variables cannot avoid: their bound is -inf. SumProduct is exact, "
                "LoopyBeliefPropagation takes graphs of any width"
            )

    def log_q(self) -> list[Tensor]:
        """Computes log q of the parameters in the open store: `[c, N]` for each cardinality c."""
        result = []
        for variables, possible in zip(self._factors.variables, self._possible, strict=True):
            start = partial(torch.normal, 0.0, torch.full_like(variables.log_unary.detach(), _SPREAD))
            logits = pyro.param(f"logits_of_{len(possible)}", start)
            result.append(torch.log_softmax(torch.where(possible, logits, -torch.inf), 0))
        return result

    def loss(self) -> Tensor:
        """Computes -ELBO exactly: 0-dim, nats."""
        return -mean_field_bound(self._factors, self.log_q())

    def answer(self, graph: FactorGraph, method: Any, stats: Stats, seed: int) -> MeanFieldPosterior:
        """Gives the distributions, and their bound; at the optimum its gradient in the tables is that of q alone."""
        log_q = [log_probs.detach() for log_probs in self.log_q()]
        return MeanFieldPosterior(graph, method, stats, self._by_name(log_q), mean_field_bound(self._factors, log_q))

    def _by_name(self, log_q: list[Tensor]) -> dict[str, Tensor]:
        found = {
            self._latent.names[number]: log_probs[:, column]
            for variables, log_probs in zip(self._factors.variables, log_q, strict=True)
            for column, number in enumerate(variables.numbers)
        }
        return {name: found[name] for name in self._latent.names}

    @cached_property
    def model(self) -> Callable[[], Any]:
        """The graph as a Pyro program."""
        return self._graph.to_pyro()

    @cached_property
    def guide(self) -> Callable[[], Any]:
        """A site for each variable, marked for enumeration."""

        def program() -> None:
            for name, log_probs in self._by_name(self.log_q()).items():
                pyro.sample(name, dist.Categorical(logits=log_probs), infer={"enumerate": "parallel"})

        return program
