"""What every solver is."""

from __future__ import annotations

import numbers
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from cai.ops.infinite.fixed_point import Iterate

#: Seconds between two looks at the callbacks, and the most cheap steps between them.
_PIECE_SECONDS, _PIECE_STEPS = 1.0, 32


@dataclass(frozen=True)
class AbstractSolver(ABC):
    """A way to the fixed point, one piece of work at a time; everything that it remembers stands in the iterate.

    Attributes:
        max_steps: The most steps.
    """

    max_steps: int = 1_000_000

    #: Whether it knows what to do without discount and without exits, where V grows by the gain at each step.
    finds_gain: ClassVar[bool] = False

    @abstractmethod
    def advance(self, problem: Any, iterate: Iterate, tolerance: float) -> Iterate:
        """Does a piece of the work.

        Args:
            problem: The fixed-point problem: a `Stationary`, or for solvers that find a gain a `Recurrent` too.
            iterate: Where it stands.
            tolerance: Certified error of V to reach, relative to max(1, max|V|).
        """

    def __post_init__(self) -> None:
        self.need_whole("max_steps", least=0)

    def need_whole(self, name: str, *, least: int) -> None:
        """Raises ValueError unless a hyper-parameter is a whole number of at least so much."""
        value = getattr(self, name)
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{type(self).__name__}: {name} must be a whole number of at least {least}, got {value!r}")

    def repeated(self, step: Callable[[Iterate], Iterate], iterate: Iterate) -> Iterate:
        """Takes cheap steps until done, for a second at most."""
        stop = time.perf_counter() + _PIECE_SECONDS
        for _ in range(_PIECE_STEPS):
            iterate = step(iterate)
            if iterate.done or iterate.num_steps >= self.max_steps or time.perf_counter() > stop:
                break
        return iterate
