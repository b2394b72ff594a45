"""Maximum-entropy control: the soft-optimal policy of a dynamics that stays what it is.

Posterior: q*(tau) = p(s_0) prod_t pi_t(a_t|s_t) p(s_{t+1}|s_t,a_t), of this form the one nearest to p(tau | O) in KL.

    Q_t = E[r] + gamma E V_{t+1},     V_t = alpha log sum_a mu exp(Q_t / alpha),     pi_t = mu exp((Q_t - V_t) / alpha)

Exactness: exact on tables; `log_evidence` = E V_0 / alpha is a lower bound of log p(O), tight iff the dynamics is
deterministic (and s_0 known). Cost: one backward pass, T products with the table (nnz or S A S multiplications each);
on an infinite horizon the fixed point, with a certified error in `stats`. Temperature 0 is value iteration.

Source: Ziebart, Bagnell and Dey (2010); Levine (2018), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cai.data.serialization import serializable
from cai.methods.solvers import AbstractSolver, default_solver
from cai.methods.tabular_method import AbstractTabularMethod
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class SoftValueIteration(AbstractTabularMethod):
    """Soft-optimal control under the graph's own dynamics, exactly: maximum-entropy RL.

    Needs tables of the dynamics. `log_evidence` is a lower bound; `SumProduct` gives the evidence itself, and a policy
    that counts on luck. Takes one backward pass, or the fixed point V = B V of an infinite horizon. Temperature 0 is
    hard optimality. Without horizon, discount and terminal states it gives the gain a step and relative values.
    `SoftPolicyIteration` is this with Newton's method always.

    Attributes:
        solver: How the fixed point of an infinite horizon is reached: `ValueIteration()`, `Newton()` and the others of
            `cai.methods`. None picks Newton's method above discount 0.9, `NewtonKrylov()` in large sparse worlds.
        tolerance: Certified error of V to reach on an infinite horizon, relative to max(1, max|V|).
        max_steps: The most steps of the solver; None takes the solver's own limit.
    """

    solver: AbstractSolver | None = None
    tolerance: float = 1e-10
    max_steps: int | None = None

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph has tables; `ValueError` for what is not a solver."""
        if not isinstance(self.solver, AbstractSolver | None):
            raise ValueError(f"SoftValueIteration: expected a solver such as Newton(), got {self.solver!r}")
        super().accepts(graph)

    @property
    def reading(self) -> Reading:
        """The dynamics is what it is."""
        return FixedDynamics()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """The solver given, or the one that suits."""
        solver = default_solver(tables) if self.solver is None else self.solver
        return solver if self.max_steps is None else replace(solver, max_steps=self.max_steps)
