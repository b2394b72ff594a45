"""The exact posterior p(tau | O): backward and forward messages of the graphical model as it stands.

    Q_t = r + alpha log E exp(V_{t+1} / alpha),     V_t = alpha log sum_a mu exp(Q_t / alpha)
    log p(O) = log sum_s p(s_0) exp(V_0 / alpha),   p(s'|s,a,O) ~ p(s'|s,a) exp(V_{t+1}(s') / alpha)

Exactness: exact on tables, `log_evidence` included. The dynamics is tilted towards luck too: read as a plan, the answer
is risk-seeking. A discount is a chance 1 - gamma a step of moving to an absorbing state of value zero, and marginals
are then those of what has not ended. Infinite horizons: z = exp(V / alpha) solves a linear system, found in log space
by Newton's method; it exists iff gamma lambda < 1, lambda the spectral radius of M(s,s') = sum_a mu exp(r / alpha)
p(s'|s,a).

Cost: as `SoftValueIteration`, with a log-sum-exp over successors in the place of a product.

On linear-Gaussian graphs it is the optimistic LEQG: P is replaced by (I + P W / alpha)^-1 P before each step, gains are
smaller, the dynamics is tilted to N(G (mu - W p / alpha), G W), G = (I + W P / alpha)^-1, and `log_evidence` is that of
the joint Gaussian; exact, undiscounted, with and without a horizon.

On any other discrete factor graph (`graph.unroll()` and what is made of it) the same messages run on a junction tree,
at a cost of the product of the sizes of each clique's variables; `stats.num_steps` counts cliques.

Source: Levine (2018), section 2; Todorov (2009) for the linear system; Lauritzen and Spiegelhalter (1988) for junction
trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.schedules import TimeSchedule
from cai.methods.semiring_method import AbstractSemiringMethod
from cai.methods.solvers import AbstractSolver, newton_for
from cai.ops.readings import PosteriorDynamics, Reading
from cai.ops.semirings import LogSemiring, Semiring
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class SumProduct(AbstractSemiringMethod):
    """The posterior given optimality and evidence, exactly: log evidence, marginals, samples, tilted dynamics.

    Answers a trajectory graph with tables of the dynamics, or linear-Gaussian factors (LEQG), and a positive
    temperature, and any `FactorGraph` whose cliques fit into memory. It conditions on success, so under noise its
    policy is risk-seeking: for control take `SoftValueIteration`, which equals it iff the dynamics is deterministic. It
    is the method for evidence on states and actions (`graph.condition`), and the evidence that bounds are judged by.
    Without horizon, discount and terminal states it gives the Perron pair of the graph: the gain a step and relative
    values.

    Attributes:
        tolerance: Certified error of V to reach on an infinite horizon, relative to max(1, max|V|).
        max_steps: The most Newton steps.
        max_memory: GiB that the messages may take; None is what is free, half of it on a factor graph.
        schedule: How messages go through a finite horizon: `Sequential()` is the loop over time, `AssociativeScan()`
            takes all steps at once, `None` is the quicker of the two.
    """

    tolerance: float = 1e-10
    max_steps: int = 200
    max_memory: float | None = None
    schedule: TimeSchedule = None

    @property
    def reading(self) -> Reading:
        """Everything answers to the optimality."""
        return PosteriorDynamics()

    @property
    def semiring(self) -> Semiring:
        """Probabilities are added."""
        return LogSemiring()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """Newton's method in log space."""
        return newton_for(tables, self.max_steps)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless it is a factor graph, or has tables or linear-Gaussian factors.

        And a positive temperature.
        """
        super().accepts(graph)
        if isinstance(graph, TrajectoryGraph) and not graph.temperature:
            raise IncompatibleMethod(
                "SumProduct needs a positive temperature: at 0 the optimality has no density; SoftValueIteration and "
                "MaxProduct answer temperature 0"
            )
