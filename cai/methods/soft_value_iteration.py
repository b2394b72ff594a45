"""Maximum-entropy control: the soft-optimal policy of a dynamics that stays what it is.

Posterior: q*(tau) = p(s_0) prod_t pi_t(a_t|s_t) p(s_{t+1}|s_t,a_t), of this form the one nearest to p(tau | O) in KL.

    Q_t = E[r] + gamma E V_{t+1},     V_t = alpha log sum_a mu exp(Q_t / alpha),     pi_t = mu exp((Q_t - V_t) / alpha)

Exactness: exact on tables; `log_evidence` = E V_0 / alpha is a lower bound of log p(O), tight iff the dynamics is
deterministic (and s_0 known). Cost: one backward pass, T products with the table (nnz or S A S multiplications each);
on an infinite horizon the fixed point, with a certified error in `stats`. Temperature 0 is value iteration.

On linear-Gaussian graphs the same recursion is Riccati's: pi_t = N(K_t x + k_t, alpha H_uu^-1), V_t a quadratic; T
steps of (n + m)^3 multiplications, or a scan of depth log T; on an infinite horizon doubling.

Source: Ziebart, Bagnell and Dey (2010); Levine (2018), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.graph.quadratics import is_linear_gaussian
from cai.methods.exact_method import AbstractExactMethod
from cai.methods.schedules import TimeSchedule
from cai.methods.solvers import AbstractSolver, default_solver
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.scans.time_schedules import AssociativeScan
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class SoftValueIteration(AbstractExactMethod):
    """Soft-optimal control under the graph's own dynamics, exactly: maximum-entropy RL.

    Needs tables of the dynamics, or linear-Gaussian factors (LQR). `log_evidence` is a lower bound; `SumProduct` gives
    the evidence itself, and a policy that counts on luck. Takes one backward pass, or the fixed point V = B V of an
    infinite horizon. Temperature 0 is hard optimality. Without horizon, discount and terminal states it gives the gain
    a step and relative values. On tables `SoftPolicyIteration` is this with Newton's method always.

    Attributes:
        solver: On tables, how the fixed point of an infinite horizon is reached: `ValueIteration()`, `Newton()` and the
            others of `cai.methods`. None picks Newton's method above discount 0.9, `NewtonKrylov()` in large sparse
            worlds.
        tolerance: Certified error of V to reach on an infinite horizon, relative to max(1, max|V|).
        max_steps: The most steps of the solver; None takes the solver's own limit.
        schedule: On linear-Gaussian graphs, how messages go through a finite horizon: `Sequential()` is the loop over
            time, `AssociativeScan()` a scan, `None` the quicker of the two. The soft backup of tables has no scan.
    """

    solver: AbstractSolver | None = None
    tolerance: float = 1e-10
    max_steps: int | None = None
    schedule: TimeSchedule = None

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph has tables or linear-Gaussian factors.

        Raises:
            ValueError: What is not a solver, or not a schedule.
        """
        if not isinstance(self.solver, AbstractSolver | None):
            raise ValueError(f"SoftValueIteration: expected a solver such as Newton(), got {self.solver!r}")
        super().accepts(graph)
        if isinstance(self.schedule, AssociativeScan) and not is_linear_gaussian(graph):
            raise IncompatibleMethod(
                "SoftValueIteration: the soft backup of tables is linear in nothing, so that there is no scan; leave "
                "schedule out. SumProduct and PolicyEvaluation have scans"
            )

    @property
    def reading(self) -> Reading:
        """The dynamics is what it is."""
        return FixedDynamics()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """The solver given, or the one that suits."""
        solver = default_solver(tables) if self.solver is None else self.solver
        return solver if self.max_steps is None else replace(solver, max_steps=self.max_steps)
