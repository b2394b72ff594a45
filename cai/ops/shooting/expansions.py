"""Derivatives of a user's functions along trajectories, all times and batch elements at once, by `torch.func`.

With joint coordinates w = [u; x] of m actions and n states, at every point of a trajectory

    f(u, x):  J = df/dw, [n, m + n]            f_ww: [n, m + n, m + n]
    l(u, x):  g = dl/dw, [m + n]               H = d2l/dw2, [m + n, m + n], joint over (u, x)

A function maps each point of a batch by itself. Its batch is differentiated as it stands, by reverse mode: one
pull-back for each output, `vmap`ped over the outputs and not over the points. So `fn` is called once, on tensors
`[*batch, n]` and `[*batch, m]` as everywhere else, and branches that depend on values work. Reverse mode suits n
outputs of n + m inputs.

Source: Mayne (1966) and Jacobson and Mayne (1970) for what second derivatives of the dynamics are good for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from cai.errors import IncompatibleMethod

#: fn(state, action), `[*batch, n]` and `[*batch, m]`, of one value for each of the batch.
PointFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Jacobians:
    """First derivatives of dynamics.

    Attributes:
        of_actions: B = df/du, `[*batch, n, m]`.
        of_states: F = df/dx, `[*batch, n, n]`.
    """

    of_actions: Tensor
    of_states: Tensor

    @property
    def joint(self) -> Tensor:
        """[B F], `[*batch, n, m + n]`."""
        return torch.cat([self.of_actions, self.of_states], -1)


@dataclass(frozen=True, eq=False)
class Curvature:
    """First and second derivatives of a cost over w = [u; x].

    Attributes:
        gradient: `[*batch, m + n]`.
        hessian: Symmetric up to rounding, `[*batch, m + n, m + n]`.
    """

    gradient: Tensor
    hessian: Tensor


def jacobians(fn: PointFunction, states: Tensor, actions: Tensor, *, name: str = "the dynamics") -> Jacobians:
    """Computes F = df/dx and B = df/du at every point.

    Args:
        fn: Gives `[*batch, n]`.
        states: `[*batch, n]`.
        actions: `[*batch, m]`.
        name: What to call the function in an error.

    Raises:
        IncompatibleMethod: `torch.func` cannot differentiate the function.
    """
    with torch.no_grad(), _Translated(name):
        rows = _rows(lambda u, x: fn(x, u), actions, states)[1]
    return Jacobians(rows.of_actions.movedim(0, -2), rows.of_states.movedim(0, -2))


def second_derivatives(fn: PointFunction, states: Tensor, actions: Tensor, *, name: str = "the dynamics") -> Tensor:
    """Computes d2f_i/dw2 at every point: `[*batch, n, m + n, m + n]`.

    Args:
        fn: Gives `[*batch, n]`.
        states: `[*batch, n]`.
        actions: `[*batch, m]`.
        name: What to call the function in an error.

    Raises:
        IncompatibleMethod: `torch.func` cannot differentiate the function twice.
    """

    def of_output(weight: Tensor) -> Tensor:
        def gradient(action: Tensor, state: Tensor) -> Tensor:
            return torch.cat(vjp(lambda u, x: fn(x, u), action, state)[1](weight.expand_as(states)), -1)

        return _rows(gradient, actions, states)[1].joint

    outputs = torch.eye(states.shape[-1], dtype=states.dtype, device=states.device)
    with torch.no_grad(), _Translated(name):
        return vmap(of_output)(outputs).movedim((0, 1), (-3, -2))


def curvature(fn: PointFunction, states: Tensor, actions: Tensor, *, name: str = "the reward") -> Curvature:
    """Computes gradient and Hessian of a cost at every point.

    Args:
        fn: Gives `[*batch]`.
        states: `[*batch, n]`.
        actions: `[*batch, m]`; m may be zero.
        name: What to call the function in an error.

    Raises:
        IncompatibleMethod: `torch.func` cannot differentiate the function twice.
    """

    def gradient(action: Tensor, state: Tensor) -> Tensor:
        return torch.cat(grad(lambda u, x: fn(x, u).sum(), argnums=(0, 1))(action, state), -1)

    with torch.no_grad(), _Translated(name):
        value, rows = _rows(gradient, actions, states)
    return Curvature(value, rows.joint.movedim(0, -2))


def _rows(fn: Callable[[Tensor, Tensor], Tensor], actions: Tensor, states: Tensor) -> tuple[Tensor, Jacobians]:
    """Gives fn(u, x), `[*batch, k]`, and the gradients of its outputs: `[k, *batch, m]` and `[k, *batch, n]`."""
    value, pull = vjp(fn, actions, states)[:2]
    return value, Jacobians(*vmap(pull)(_basis(value)))


def _basis(points: Tensor) -> Tensor:
    """One unit vector for all points at a time: `[k, *batch, k]` of points `[*batch, k]`."""
    size = points.shape[-1]
    units = torch.eye(size, dtype=points.dtype, device=points.device)
    return units.reshape(size, *[1] * (points.dim() - 1), size).expand(size, *points.shape)


class _Translated:
    """Says what to change where `torch.func` gives up."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError | NotImplementedError | TypeError):
            reason = " ".join(str(error).split())
            raise IncompatibleMethod(
                f"{self._name} cannot be differentiated by torch.func: {reason[:300]}; write it with differentiable "
                "torch operations on tensors [*batch, n] alone: no numpy, no .item(), no writing into tensors made "
                "beforehand, and no autograd.Function without setup_context and vmap support"
            ) from error
