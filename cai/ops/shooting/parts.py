"""Dynamics and costs with their derivatives: of a user's functions, or linear and quadratic in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.ops.shooting.expansions import Curvature, Jacobians, curvature, jacobians, second_derivatives
from cai.ops.shooting.problem import Time


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
