"""A trajectory optimisation problem, as tensors and callables.

    minimise sum_t gamma^t l_t(x_t, u_t) + gamma^T l_T(x_T),   x_{t+1} = f_t(x_t, u_t),   low <= u_t <= high

for a batch of B elements, each by itself. What it is locally, around a trajectory, with dx, du the deviations from it:

    dx' = F dx + B du + d          d = f(x, u) - x', the gap, zero on a trajectory that keeps to the dynamics
    l  ~= l + g'dw + dw'H dw / 2   w = [u; x]

Controls stand first in w, so that every block that a step of the recursion reads is one slice.

Dynamics and costs are parts with values and derivatives: of a user's function (`FunctionDynamics`, `FunctionCost`), or
known in closed form (`LinearDynamics`, `QuadraticCost`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.ops.shooting.expansions import Curvature, Jacobians, curvature, jacobians, second_derivatives

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
class FunctionDynamics:
    """Dynamics of a user's function, differentiated by `torch.func`.

    Attributes:
        fn: fn(state, action, t).
    """

    fn: Callable[[Tensor, Tensor, Any], Tensor]

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the next state; see `Dynamics`."""
        return self.fn(state, action, t)

    def jacobians(self, states: Tensor, actions: Tensor, t: Tensor) -> Jacobians:
        """Gives first derivatives; see `Dynamics`."""
        return jacobians(lambda x, u: self.fn(x, u, t), states, actions)

    def second_derivatives(self, states: Tensor, actions: Tensor, t: Tensor) -> Tensor:
        """Gives d2f/dw2; see `Dynamics`."""
        return second_derivatives(lambda x, u: self.fn(x, u, t), states, actions)

    def select(self, index: Tensor) -> FunctionDynamics:
        """Gives itself: a function of points serves any batch."""
        return self


@dataclass(frozen=True, eq=False)
class LinearDynamics:
    """x' = F x + B u + c, known in closed form.

    Attributes:
        matrix: [B F c], `[T or 1, B or 1, n, m + n + 1]`.
    """

    matrix: Tensor

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the next state; see `Dynamics`."""
        assert isinstance(t, int)  # values are asked for step by step
        return _products(_joint(action, state)[None], _steps(self.matrix, t).mT)[0]

    def jacobians(self, states: Tensor, actions: Tensor, t: Tensor) -> Jacobians:
        """Gives first derivatives; see `Dynamics`."""
        matrix, m = _steps(self.matrix, t), actions.shape[-1]
        return Jacobians(matrix[..., :m], matrix[..., m:-1])

    def second_derivatives(self, states: Tensor, actions: Tensor, t: Tensor) -> None:
        """None: they are zero."""

    def select(self, index: Tensor) -> LinearDynamics:
        """Gives the dynamics of some batch elements; `index` is `[k]`."""
        return LinearDynamics(_selected(self.matrix, index))


@dataclass(frozen=True, eq=False)
class FunctionCost:
    """Costs of a user's function, differentiated by `torch.func`.

    Attributes:
        fn: fn(state, action, t).
        name: What to call it in an error.
    """

    fn: Callable[[Tensor, Tensor, Any], Tensor]
    name: str = "the reward"

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the cost; see `Cost`."""
        return self.fn(state, action, t)

    def curvature(self, states: Tensor, actions: Tensor, t: Tensor) -> Curvature:
        """Gives gradient and Hessian; see `Cost`."""
        return curvature(lambda x, u: self.fn(x, u, t), states, actions, name=self.name)

    def select(self, index: Tensor) -> FunctionCost:
        """Gives itself: a function of points serves any batch."""
        return self


@dataclass(frozen=True, eq=False)
class QuadraticCost:
    """z'Mz / 2, z = [u; x; 1], known in closed form.

    Attributes:
        form: M, symmetric, `[T or 1, B or 1, m + n + 1, m + n + 1]`.
    """

    form: Tensor

    def __call__(self, state: Tensor, action: Tensor, t: Time) -> Tensor:
        """Gives the cost; see `Cost`."""
        joint, form = _joint(action, state), _steps(self.form, t)
        if isinstance(t, int):
            return 0.5 * (_products(joint[None], form)[0] * joint).sum(-1)
        return 0.5 * (_products(joint, form) * joint).sum(-1)

    def curvature(self, states: Tensor, actions: Tensor, t: Tensor) -> Curvature:
        """Gives gradient and Hessian; see `Cost`."""
        form = _steps(self.form, t)
        return Curvature(_products(_joint(actions, states), form[..., :-1]), form[..., :-1, :-1])

    def select(self, index: Tensor) -> QuadraticCost:
        """Gives the cost of some batch elements; `index` is `[k]`."""
        return QuadraticCost(_selected(self.form, index))


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

    def weights(self) -> Tensor:
        """Gives gamma^t, t = 0..T: `[T + 1]`, float64."""
        steps = torch.arange(self.horizon + 1, dtype=torch.float64, device=self.start.device)
        return self.discount**steps

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
        costs = self.costs(states, actions).double()
        if self.discount == 1.0:
            return costs.sum(0)
        return torch.tensordot(self.weights(), costs, 1)


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


def _joint(action: Tensor, state: Tensor) -> Tensor:
    """[u; x; 1]."""
    return torch.cat([action, state, torch.ones_like(state[..., :1])], -1)


def _steps(part: Tensor, t: Time) -> Tensor:
    """Steps t of `[T or 1, ...]`: `[k or 1, ...]`."""
    if len(part) == 1:
        return part
    return part[t : t + 1] if isinstance(t, int) else part[t.flatten()]


def _products(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Multiplies vectors `[T, ..., B, i]` by matrices `[T or 1, B or 1, i, j]` from the left: `[T, ..., B, j]`."""
    if matrices.shape[:2] == (1, 1):
        return vectors @ matrices[0, 0]
    shape = vectors.shape
    middle = vectors.reshape(shape[0], -1, *shape[-2:]).transpose(1, 2)  # [T, B, ..., i]: no copies of the matrices
    return (middle @ matrices).transpose(1, 2).reshape(*shape[:-1], matrices.shape[-1])


def _selected(part: Tensor, index: Tensor) -> Tensor:
    return part[:, index] if part.shape[1] > 1 else part
