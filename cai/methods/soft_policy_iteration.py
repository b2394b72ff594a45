"""Soft policy iteration: evaluate a policy by one linear solve, improve it softly, repeat; Newton's method on V = B V.

Posterior: that of `SoftValueIteration`. Each step solves (I - gamma P_pi) V = r_pi - alpha KL(pi || mu) for the policy
of the last V; values rise monotonically and the error is squared at each step: a handful does at gamma = 0.9999.

Cost: an exact linear solve a step: by factorisation (S^3 / 3 dense, or sparse elimination), by multigrid in sparse
worlds of 5,000 states or more. There `SoftValueIteration` with `NewtonKrylov()` solves no more exactly than a step is
worth. On a finite horizon one backward pass evaluates and improves at once.

Source: Haarnoja et al. (2018), section 4.1; Puterman (1994), section 6.4 for Newton's view.
"""

from __future__ import annotations

from dataclasses import dataclass

from cai.data.serialization import serializable
from cai.methods.solvers import AbstractSolver, Newton, default_solver
from cai.methods.tabular_method import AbstractTabularMethod
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.tables import Tables


@serializable
@dataclass(frozen=True)
class SoftPolicyIteration(AbstractTabularMethod):
    """The answer of `SoftValueIteration`, exactly, by alternating policy evaluation and soft improvement.

    Needs tables of the dynamics. Prefer it near a discount of one; prefer value iteration where a linear solve is dear:
    many states and a small discount.

    Attributes:
        tolerance: Certified error of V to reach, relative to max(1, max|V|).
        max_steps: The most improvements.
    """

    tolerance: float = 1e-10
    max_steps: int = 200

    @property
    def reading(self) -> Reading:
        """The dynamics is what it is."""
        return FixedDynamics()

    def solver_for(self, tables: Tables) -> AbstractSolver:
        """Newton; at temperature 0 without discount a greedy policy may never end, and sweeps take over."""
        endless = tables.discount == 1.0 and tables.is_hard and tables.has_exits
        return default_solver(tables) if endless else Newton(self.max_steps)
