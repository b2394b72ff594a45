"""How iterative LQR regularises, and which step sizes it tries.

The regularisation grows and shrinks at a growing rate: changes in a row are by the factor, its square, its cube ...

Source: Tassa, Erez and Todorov (2012), section II-F (regularisation schedule) and II-D (improved line search).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Regularisation:
    """The regularisation of each batch element.

    Attributes:
        size: mu, `[B]`, float64, cost units over squared state units.
        rate: What the last change multiplied it by, `[B]`, float64.
    """

    size: Tensor
    rate: Tensor


@dataclass(frozen=True)
class RegularisationSchedule:
    """When H_uu is not positive definite, or no step helps, mu grows; when a step helps, it shrinks.

    Attributes:
        initial: mu at the start, cost units over squared state units; 0 makes the first step Newton's own.
        factor: By how much more each change in a row changes mu; above 1.
        minimum: Where mu jumps to when it leaves zero; below it falls to zero.
        maximum: Where an element is given up.
    """

    initial: float = 0.0
    factor: float = 2.0
    minimum: float = 1e-6
    maximum: float = 1e10

    def __post_init__(self) -> None:
        if not self.factor > 1.0 or math.isinf(self.factor):
            raise ValueError(f"RegularisationSchedule: factor must be a finite number above 1, got {self.factor}")
        if not 0.0 < self.minimum <= self.maximum < math.inf:
            raise ValueError(
                "RegularisationSchedule: expected 0 < minimum <= maximum, both finite, got "
                f"{self.minimum} and {self.maximum}"
            )
        if not 0.0 <= self.initial <= self.maximum:
            raise ValueError(f"RegularisationSchedule: initial must lie in 0..{self.maximum}, got {self.initial}")

    def start(self, batch: int, device: torch.device) -> Regularisation:
        """Gives the first mu of B elements."""
        size = torch.full((batch,), float(self.initial), dtype=torch.float64, device=device)
        return Regularisation(size, torch.ones_like(size))

    def raised(self, old: Regularisation) -> Regularisation:
        """Gives the next larger mu."""
        rate = (old.rate * self.factor).clamp(min=self.factor)
        return Regularisation((old.size * rate).clamp(min=self.minimum), rate)

    def lowered(self, old: Regularisation) -> Regularisation:
        """Gives the next smaller mu."""
        rate = (old.rate / self.factor).clamp(max=1.0 / self.factor)
        size = old.size * rate
        return Regularisation(torch.where(size < self.minimum, 0.0, size), rate)


@dataclass(frozen=True)
class LineSearch:
    """Of the step sizes that bring their share of the predicted decrease, the one of least cost is taken.

    All are tried in one batched rollout, so that more of them cost little. Sizes above 1 pay where the curvature is
    overestimated, which leaving out second derivatives of the dynamics, and clamped controls, often do.

    Attributes:
        step_sizes: What to try, falling, positive, 1 among them.
        acceptance: The least share of the predicted decrease, in [0, 1).
    """

    step_sizes: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.03)
    acceptance: float = 1e-4

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_sizes", tuple(float(size) for size in self.step_sizes))
        sizes = self.step_sizes
        falling = all(a > b for a, b in zip(sizes, sizes[1:], strict=False))
        if 1.0 not in sizes or not falling or not sizes[-1] > 0.0 or math.isinf(sizes[0]):
            raise ValueError(f"LineSearch: step_sizes must be positive, fall, and have 1 among them, got {sizes}")
        if not 0.0 <= self.acceptance < 1.0:
            raise ValueError(f"LineSearch: acceptance must lie in [0, 1), got {self.acceptance}")
