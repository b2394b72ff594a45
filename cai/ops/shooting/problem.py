"""A trajectory optimisation problem, as tensors and callables.

    minimise sum_t gamma^t l_t(x_t, u_t) + gamma^T l_T(x_T),   x_{t+1} = f_t(x_t, u_t),   low <= u_t <= high

for a batch of B elements, each by itself. What it is locally, around a trajectory, with dx, du the deviations from it:

    dx' = F dx + B du + d          d = f(x, u) - x', the gap, zero on a trajectory that keeps to the dynamics
    l  ~= l + g'dw + dw'H dw / 2   w = [u; x]

Controls stand first in w, so that every block that a step of the recursion reads is one slice.

Dynamics and costs are parts with values and derivatives; `cai.ops.shooting.parts` has those of a user's functions, and
those known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.ops.shooting.expansions import Curvature, Jacobians

#: A step, or steps that broadcast with the batch: a number, or int64 `[T, 1, ...]`.
Time = int | Tensor


class Dynamics(Protocol):
    """x' = f_t(x, u)."""

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the next state, `[..., B, n]`, of `[..., B, n]` and `[..., B, m]`."""

    def jacobians(self, states: Tensor, actions: Tensor, t: Tensor) -> Jacobians:
        """Gives first derivatives along trajectories `[T, B, n]` and `[T, B, m]`."""

    def second_derivatives(self, states: Tensor, actions: Tensor, t: Tensor) -> Tensor | None:
        """Gives d2f/dw2, `[T, B, n, m + n, m + n]`, or None where it is zero."""

    def select(self, index: Tensor) -> Dynamics:
        """Gives the dynamics of some batch elements."""


class Cost(Protocol):
    """l_t(x, u); of a last state, with actions of no coordinates."""

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the cost, `[..., B]`, of `[..., B, n]` and `[..., B, m]`."""

    def curvature(self, states: Tensor, actions: Tensor, t: Tensor) -> Curvature:
        """Gives gradient and Hessian along trajectories `[T, B, n]` and `[T, B, m]`."""

    def select(self, index: Tensor) -> Cost:
        """Gives the cost of some batch elements."""


@dataclass(frozen=True, eq=False)
class SumOfCosts:
    """Several costs at once.

    Attributes:
        parts: The costs.
    """

    parts: tuple[Cost, ...]

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the cost; see `Cost`."""
        return torch.stack([part(state, action, t) for part in self.parts]).sum(0)

    def curvature(self, states: Tensor, actions: Tensor, t: Tensor) -> Curvature:
        """Gives gradient and Hessian; see `Cost`."""
        parts = [part.curvature(states, actions, t) for part in self.parts]
        gradient, hessian = parts[0].gradient, parts[0].hessian
        for part in parts[1:]:
            gradient, hessian = gradient + part.gradient, hessian + part.hessian
        return Curvature(gradient, hessian)

    def select(self, index: Tensor) -> SumOfCosts:
        """Gives the costs of some batch elements; `index` is `[k]`."""
        return SumOfCosts(tuple(part.select(index) for part in self.parts))


@dataclass(frozen=True, eq=False)
class Limits:
    """Bounds of the actions; infinite where there is none.

    Attributes:
        low: `[m]`.
        high: `[m]`.
    """

    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A trajectory of each element of a batch.

    Attributes:
        states: `[T + 1, B, n]`.
        actions: `[T, B, m]`.
        costs: `[B]`, float64.
        gaps: f(x_t, u_t) - x_{t+1}, `[T, B, n]`, or None where there are none.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor
    gaps: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ShootingProblem:
    """A batch of trajectory optimisation problems.

    Attributes:
        dynamics: f.
        cost: l_t.
        end: l_T, a cost of the state with actions of no coordinates.
        start: x_0, `[B, n]`.
        num_actions: m.
        horizon: T.
        discount: gamma.
        limits: Bounds of the actions, or None.
        divisible: Whether any of the batch elements can be asked for alone. Not so where a function refers to tensors
            of the whole batch.
    """

    dynamics: Dynamics
    cost: Cost
    end: Cost
    start: Tensor
    num_actions: int
    horizon: int
    discount: float = 1.0
    limits: Limits | None = None
    divisible: bool = True

    def select(self, index: Tensor) -> ShootingProblem:
        """Gives the problems of some batch elements; `index` is `[k]`."""
        parts = {name: getattr(self, name).select(index) for name in ("dynamics", "cost", "end")}
        return replace(self, start=self.start[index], **parts)

    def costs(self, states: Tensor, actions: Tensor) -> Tensor:
        """Computes the cost of each step and of the end: `[T + 1, ..., B]`.

        Args:
            states: `[T + 1, ..., B, n]`.
            actions: `[T, ..., B, m]`.
        """
        steps = self.cost(states[:-1], actions, step_numbers(actions))
        return torch.cat([steps, self.end(states[-1], actions[-1, ..., :0], self.horizon)[None]])

    def total_cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """Computes sum_t gamma^t l_t + gamma^T l_T: `[..., B]`, float64; see `costs`."""
        return discounted_sum(self.costs(states, actions), self.discount)


def discounted_sum(steps: Tensor, discount: float) -> Tensor:
    """Computes sum_t gamma^t x_t of `[T, ...]`: `[...]`, float64."""
    if discount == 1.0:
        return steps.sum(0, dtype=torch.float64)
    weights = discount ** torch.arange(len(steps), dtype=torch.float64, device=steps.device)
    return torch.tensordot(weights, steps.double(), 1)


def step_numbers(points: Tensor) -> Tensor:
    """Gives 0..T-1, to broadcast with the batch of points `[T, ..., k]`: `[T, 1, ...]`, int64."""
    steps = torch.arange(len(points), device=points.device)
    return steps.reshape(-1, *[1] * (points.dim() - 2))


def need_finite(value: Tensor, what: str, *, first: int = 0) -> None:
    """Raises `NonFinite` at the first time step and batch element where something is not.

    Args:
        value: `[T, B, ...]`.
        what: What it is, to begin the sentence with.
        first: The time step of `value[0]`.
    """
    if torch.isfinite(value.sum()):  # one number to look at; a sum of finite numbers that overflows is looked at twice
        return
    bad = ~torch.isfinite(value.flatten(2) if value.dim() > 2 else value[..., None]).all(-1)
    if bad.any():
        t, element = bad.nonzero()[0].tolist()
        raise NonFinite(f"{what} is NaN or infinite at time {t + first}, batch element {element}")
