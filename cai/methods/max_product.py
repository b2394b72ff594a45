"""The most probable trajectory given optimality: max-product messages, which is Viterbi's algorithm.

    Q_t = r + max_s' [alpha log p(s'|s,a) + V_{t+1}(s')],     V_t = max_a [alpha log mu(a|s) + Q_t]

Posterior: the point mass at tau* = argmax p(tau, O); its marginals are one-hot, `sample` repeats it, and `log_evidence`
is log p(tau*, O), a lower bound of log p(O). Exact on tables; ties go to the first. Cost: as `SumProduct`. On any other
discrete factor graph the same messages run on a junction tree, and name the most probable assignment.

Source: Viterbi (1967); Levine (2018), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.graph.quadratics import is_linear_gaussian
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.schedules import TimeSchedule
from cai.methods.semiring_method import AbstractSemiringMethod
from cai.methods.solvers import AbstractSolver, default_solver
from cai.ops.readings import MostProbable, Reading
from cai.ops.semirings import Semiring, TropicalSemiring
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class MaxProduct(AbstractSemiringMethod):
    """The most probable trajectory given optimality, exactly; at temperature 0 the luckiest possible one.

    Answers a trajectory graph with tables of the dynamics, a finite horizon and no discount (under which a trajectory
    that ends at once is often the most probable), and any `FactorGraph` whose cliques fit into memory. It names one
    trajectory, not a policy to trust under noise: for that take `SoftValueIteration`.

    Attributes:
        max_memory: GiB that the messages may take; None is what is free, half of it on a factor graph.
        schedule: How messages go through a finite horizon: `Sequential()` is the loop over time, `AssociativeScan()`
            takes all steps at once, `None` is the quicker of the two.
    """

    max_memory: float | None = None
    schedule: TimeSchedule = None

    @property
    def reading(self) -> Reading:
        """Only the best trajectory counts."""
        return MostProbable()

    @property
    def semiring(self) -> Semiring:
        """Of many terms the greatest counts."""
        return TropicalSemiring()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """Never asked: an infinite horizon is refused."""
        return default_solver(tables)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless it is a factor graph, or has tables, a horizon and no discount."""
        if is_linear_gaussian(graph):
            raise IncompatibleMethod(
                "MaxProduct answers tables and discrete factor graphs; of a linear-Gaussian graph the most probable "
                "trajectory is the mean: SumProduct's most_probable_trajectory"
            )
        super().accepts(graph)
        if not isinstance(graph, TrajectoryGraph):
            return
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
