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
        matrix = _steps(self.matrix, t)
        return _affine(torch.cat([action, state], -1)[None], matrix[..., :-1].mT, matrix[..., -1])[0]

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
        form, joint = _steps(self.form, t), torch.cat([action, state], -1)
        if isinstance(t, int):
            joint = joint[None]
        value = (_affine(joint, 0.5 * form[..., :-1, :-1], form[..., :-1, -1]) * joint).sum(-1)
        corner = 0.5 * form[..., -1, -1]
        value = value + corner.reshape(len(corner), *[1] * (value.dim() - 2), -1)
        return value[0] if isinstance(t, int) else value

    def curvature(self, states: Tensor, actions: Tensor, t: Tensor) -> Curvature:
        """Gives gradient and Hessian; see `Cost`."""
        form, joint = _steps(self.form, t), torch.cat([actions, states], -1)
        return Curvature(_affine(joint, form[..., :-1, :-1], form[..., :-1, -1]), form[..., :-1, :-1])

    def select(self, index: Tensor) -> QuadraticCost:
        """Gives the cost of some batch elements; `index` is `[k]`."""
        return QuadraticCost(_selected(self.form, index))


def _steps(part: Tensor, t: Time) -> Tensor:
    """Steps t of `[T or 1, ...]`: `[k or 1, ...]`."""
    if len(part) == 1:
        return part
    return part[t : t + 1] if isinstance(t, int) else part[t.flatten()]


def _affine(vectors: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Computes v'A + a: `[T, ..., B, j]`.

    Args:
        vectors: v, `[T, ..., B, i]`.
        matrices: A, `[T or 1, B or 1, i, j]`.
        offsets: a, `[T or 1, B or 1, j]`.
    """
    shape, size = vectors.shape, matrices.shape[-1]
    if matrices.shape[:2] == (1, 1):  # two dimensions: four times as quick as the same with more
        return torch.addmm(offsets[0, 0], vectors.reshape(-1, shape[-1]), matrices[0, 0]).reshape(*shape[:-1], size)
    middle = vectors.reshape(shape[0], -1, *shape[-2:]).transpose(1, 2)  # [T, B, ..., i]: no copies of the matrices
    return (middle @ matrices + offsets[..., None, :]).transpose(1, 2).reshape(*shape[:-1], size)


def _selected(part: Tensor, index: Tensor) -> Tensor:
    return part[:, index] if part.shape[1] > 1 else part
