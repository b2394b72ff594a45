"""Newton's method on V = B V, with the linear equation of each step solved exactly, inexactly, or by some sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cai.data.serialization import serializable
from cai.methods.solvers.solver import AbstractSolver
from cai.ops.infinite.fixed_point import Iterate, Stationary


@serializable
@dataclass(frozen=True)
class Newton(AbstractSolver):
    """Newton's method on V = B V, which is soft policy iteration: a handful of linear solves at any discount.

    Each solve is exact: by elimination, and in large sparse worlds by multigrid to the floor of rounding.

    Attributes:
        max_steps: The most Newton steps.
    """

    max_steps: int = 200
    finds_gain: ClassVar[bool] = True

    def advance(self, problem: Any, iterate: Iterate, tolerance: float) -> Iterate:
        """Does one Newton step."""
        return problem.newton_step(iterate, tolerance=tolerance)


@serializable
@dataclass(frozen=True)
class NewtonKrylov(AbstractSolver):
    """Newton's method whose linear solves are no more accurate than the step is worth: for many states.

    The equation (I - G) d = B V - V of each step is solved by flexible GMRES, preconditioned by multigrid where states
    do not mix (`cai.ops.infinite.multigrid`), to a residual of `forcing` times that of the step, and to less as the
    steps begin to converge. A few plain sweeps after each, which are cheap beside it, improve the policy where its next
    steps would: at temperature 0 they more than halve the number of solves. Time and memory grow in proportion to the
    number of possible transitions.

    Source: Dembo, Eisenstat and Steihaug (1982), inexact Newton methods.

    Attributes:
        max_steps: The most steps, Newton's and sweeps.
        forcing: Residual that a linear solve may leave, relative, within (0, 1).
        num_sweeps: Sweeps after each Newton step.
    """

    max_steps: int = 2_000
    forcing: float = 1e-2
    num_sweeps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_whole("num_sweeps", least=0)
        if not isinstance(self.forcing, int | float) or not 0.0 < self.forcing < 1.0:
            raise ValueError(f"NewtonKrylov: forcing must be a number within (0, 1), got {self.forcing!r}")

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does one Newton step and the sweeps after it."""
        iterate = problem.newton_step(iterate, tolerance=tolerance, forcing=self.forcing)
        for _ in range(self.num_sweeps):
            if iterate.done or iterate.num_steps >= self.max_steps:
                break
            iterate = problem.sweep(iterate, tolerance=tolerance)
        return iterate


@serializable
@dataclass(frozen=True)
class ModifiedPolicyIteration(AbstractSolver):
    """A sweep, then some sweeps with the policy held, which cost a product with the chain and no exponentials.

    V <- V + sum_{j <= m} G^j (B V - V): between value iteration (m = 0) and Newton's method (m without end).

    Source: Puterman (1994), section 6.5.

    Attributes:
        max_steps: The most steps, each of which is one backup and `num_evaluations` products.
        num_evaluations: m, how often the policy is held.
    """

    max_steps: int = 100_000
    num_evaluations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_whole("num_evaluations", least=0)

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does some steps."""
        return self.repeated(
            lambda now: problem.partial_step(now, tolerance=tolerance, num_terms=self.num_evaluations), iterate
        )
