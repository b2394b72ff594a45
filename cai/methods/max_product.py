"""The most probable trajectory given optimality: max-product messages, which is Viterbi's algorithm.

    Q_t = r + max_s' [alpha log p(s'|s,a) + V_{t+1}(s')],     V_t = max_a [alpha log mu(a|s) + Q_t]

Posterior: the point mass at tau* = argmax p(tau, O); its marginals are one-hot, `sample` repeats it, and `log_evidence`
is log p(tau*, O), a lower bound of log p(O). Exact on tables; ties go to the first. Cost: as `SumProduct`.

Source: Viterbi (1967); Levine (2018), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.methods.solvers import Solver
from cai.methods.tabular_method import AbstractTabularMethod, default_solver
from cai.ops.readings import MostProbable, Reading
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class MaxProduct(AbstractTabularMethod):
    """The most probable trajectory given optimality, exactly; at temperature 0 the luckiest possible one.

    Needs tables of the dynamics, a finite horizon and no discount (under which a trajectory that ends at once is often
    the most probable). It names one trajectory, not a policy to trust under noise: for that take `SoftValueIteration`.
    """

    @property
    def reading(self) -> Reading:
        """Only the best trajectory counts."""
        return MostProbable()

    def solver_for(self, tables: Tables) -> Solver:
        """Never asked: an infinite horizon is refused."""
        return default_solver(tables)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph has tables, a finite horizon and no discount."""
        super().accepts(graph)
        if graph.horizon is None:
            raise IncompatibleMethod(
                "MaxProduct needs a finite horizon: graph.replace(horizon=...); SumProduct and SoftValueIteration "
                "answer infinite ones"
            )
        if graph.discount < 1.0:
            raise IncompatibleMethod(
                f"MaxProduct needs discount 1, got {graph.discount}: a discount is a chance to end at every step, and "
                "the most probable trajectory may be one that ends at once; use graph.replace(discount=1.0)"
            )
