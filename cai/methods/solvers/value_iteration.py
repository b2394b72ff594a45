"""Plain sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cai.data.serialization import serializable
from cai.methods.solvers.solver import AbstractSolver
from cai.ops.infinite.fixed_point import Iterate


@serializable
@dataclass(frozen=True)
class ValueIteration(AbstractSolver):
    """Plain sweeps V <- B V: cheap each, no more memory than V, some log(tolerance) / log(discount) of them at worst.

    Stops by the span of B V - V as well as by its size: V* - B V lies between gamma / (1 - gamma) times the least and
    the greatest change, so that where all states gain alike, as they do once they have mixed, few sweeps are enough at
    any discount. Terminal states never change, and only the size counts then.

    Source: Puterman (1994), section 6.6.3 for the span.

    Attributes:
        max_steps: The most sweeps.
    """

    max_steps: int = 1_000_000
    finds_gain: ClassVar[bool] = True

    def advance(self, problem: Any, iterate: Iterate, tolerance: float) -> Iterate:
        """Does some sweeps."""
        return self.repeated(lambda now: problem.sweep(now, tolerance=tolerance), iterate)
