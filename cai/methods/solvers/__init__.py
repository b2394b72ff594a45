"""How the fixed point of an infinite horizon is reached: solver objects for `SoftValueIteration`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cai.data.serialization import serializable
from cai.ops.fixed_point import Iterate, Stationary

#: Sweeps between two looks at the callbacks.
_SWEEPS_A_STEP = 32


class Solver(Protocol):
    """A way to the fixed point, one piece of work at a time."""

    @property
    def max_steps(self) -> int:
        """The most steps."""

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does a piece of the work."""


@serializable
@dataclass(frozen=True)
class ValueIteration:
    """Plain sweeps V <- B V: cheap each, log(tolerance) / log(discount) of them.

    Attributes:
        max_steps: The most sweeps.
    """

    max_steps: int = 1_000_000

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does some sweeps."""
        for _ in range(_SWEEPS_A_STEP):
            iterate = problem.sweep(iterate, tolerance=tolerance)
            if iterate.done or iterate.num_steps >= self.max_steps:
                break
        return iterate


@serializable
@dataclass(frozen=True)
class Newton:
    """Newton's method on V = B V, which is soft policy iteration: a handful of linear solves at any discount.

    Attributes:
        max_steps: The most Newton steps.
    """

    max_steps: int = 200

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Does one Newton step."""
        return problem.newton_step(iterate, tolerance=tolerance)
