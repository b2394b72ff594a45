"""The Riccati recursion as one differentiable function: a loop back through time, and its adjoint forward.

The algebra stands in `cai.ops.gaussian.riccati`. The adjoint's only loop is S_{t+1} = P_bar_{t+1} + Phi S_t Phi', two
products a step; what depends on one step alone is done for all steps at once, with the loop's gains and factors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cai.ops.gaussian.existence import need_concave, need_expectation, need_finite
from cai.ops.gaussian.problem import summed_over_time, symmetric
from cai.ops.gaussian.risk import towards_luck


class Recursion(torch.autograd.Function):
    """The recursion and its adjoint; time first, one batch dimension.

    Takes horizon, discount, the sign of eta, a square root of |eta| W with a row of zeros (`[T or 1, B, n + 1, n]`) or
    None, and the parts that may learn: D, M, M_T (`[1, B, n + 1, n + 1]`) and, with noise, eta W. Gives P_t with a
    corner of zero, what belongs there (`[T + 1, B]`), K_t, H_uu and its Cholesky factor, which has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, horizon: int, discount: float, sign: float, root: Tensor | None, *parts: Tensor) -> Any:
        """Goes back through time."""
        loop = _Loop(horizon, discount, sign, root, *parts[:3])
        for t in range(horizon - 1, -1, -1):
            loop.step(t)
        loop.check()
        values, gains, factors = loop.values, loop.gains.neg_(), loop.factors
        ctx.save_for_backward(values, gains, factors, *parts, *([] if root is None else [loop.tilted]))
        ctx.discount = discount
        ctx.mark_non_differentiable(factors)
        return values, loop.corners, gains, factors @ factors.mT, factors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        """Goes forward through time."""
        values, gains, factors, dynamics, cost, end, *noise = ctx.saved_tensors
        tilted = noise[1] if noise else values[1:]
        k = end.shape[-1]
        closed = torch.cat([_identity(k, values[0]).expand(len(gains), -1, k, k), gains], -2)
        own = _of_gains(gains, factors, outputs[2], outputs[3])
        to_next = towards_luck(dynamics, tilted, noise[0] if noise else None)
        base = symmetric(outputs[0])
        base[1:] += ctx.discount * (to_next @ own @ to_next.mT)
        base[:, :, -1, -1] = outputs[1]
        passed = _passed_on(base, math.sqrt(ctx.discount) * (to_next @ closed))
        of_cost = own.add_(closed @ passed[:-1] @ closed.mT)
        moved = ctx.discount * (dynamics @ of_cost)
        of_dynamics = 2.0 * (tilted @ moved)
        of_noise = []
        if noise:
            n = noise[0].shape[-1]
            of_noise = [summed_over_time(-(tilted @ (moved @ dynamics.mT) @ tilted)[..., :n, :n], noise[0])]
        parts = [summed_over_time(of_dynamics, dynamics), summed_over_time(of_cost, cost), passed[-1:], *of_noise]
        return None, None, None, None, *parts


class _Loop:
    """The loop back through time: few calls a step, and what they need laid out beforehand."""

    def __init__(
        self,
        horizon: int,
        discount: float,
        sign: float,
        root: Tensor | None,
        dynamics: Tensor,
        cost: Tensor,
        end: Tensor,
    ) -> None:
        size, k, m = dynamics.shape[1], end.shape[-1], cost.shape[-1] - end.shape[-1]
        self.values = end.new_empty(horizon + 1, size, k, k)
        self.corners = end.new_empty(horizon + 1, size)
        self.tilted = self.values[1:] if root is None else end.new_empty(horizon, size, k, k)
        self.gains, self.factors = end.new_empty(horizon, size, m, k), end.new_empty(horizon, size, m, m)
        self._size, self._discount, self._sign, self._dynamics = k, discount, sign, dynamics
        self._steps = [part.unbind(0) for part in (dynamics, dynamics.mT, cost)]
        self._roots = None if root is None else root.unbind(0)
        self._infos: list[Tensor] = []
        self._tilts: list[Tensor] = []
        self.values[-1] = end[0]
        self._keep_corner(horizon)

    def step(self, t: int) -> None:
        """Goes from t + 1 to t."""
        k, now = self._size, self.values[t + 1]
        if self._roots is not None:
            now = self._through_noise(t, now)
        dynamics, turned, cost = (part[t if len(part) > 1 else 0] for part in self._steps)
        hamiltonian = torch.baddbmm(cost, turned.bmm(now), dynamics, alpha=self._discount)
        mixed = hamiltonian[:, k:, :k]
        factor, info = torch.linalg.cholesky_ex(hamiltonian[:, k:, k:])
        gain = torch.cholesky_solve(mixed, factor)
        value = torch.baddbmm(hamiltonian[:, :k, :k], mixed.mT, gain, alpha=-1.0)
        torch.add(value, value.mT, out=self.values[t]).mul_(0.5)
        self._keep_corner(t)
        self.gains[t], self.factors[t] = gain, factor
        self._infos.append(info)

    def _through_noise(self, t: int, values: Tensor) -> Tensor:
        """Computes P~ = P - s X (I + s S'X)^-1 X', X = P S, with |eta| W = S S' and s the sign of eta."""
        assert self._roots is not None
        root = self._roots[t if len(self._roots) > 1 else 0]
        half = values.bmm(root)
        inner = torch.baddbmm(_identity(root.shape[-1], root), root.mT, half, alpha=self._sign)
        factor, info = torch.linalg.cholesky_ex(inner)
        half = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        self._tilts.append(info)
        return torch.baddbmm(values, half.mT, half, alpha=-self._sign, out=self.tilted[t])

    def _keep_corner(self, t: int) -> None:
        """Takes a step's own constant out of the corner, where it would grow and cost the rest its digits."""
        self.corners[t] = self.values[t, :, -1, -1]
        self.values[t, :, -1, -1] = 0.0

    def check(self) -> None:
        """Raises the error of the last time at which the recursion went wrong."""
        info = torch.stack(self._infos[::-1])
        tilts = torch.stack(self._tilts[::-1]) if self._tilts else torch.zeros_like(info)
        wrong = (info != 0) | (tilts != 0)
        if not wrong.any():
            need_finite(self.values)
            return
        t = int(wrong.nonzero()[-1, 0])
        need_finite(self.values[t + 1 :], first=t + 1)
        if (tilts[t] != 0).any():
            need_expectation(tilts)
        last = self._dynamics[t if len(self._dynamics) > 1 else 0]
        if not torch.isfinite(last.mT @ self.tilted[t] @ last).all():
            need_finite(self.values[: t + 1])
        need_concave(info)


def _of_gains(gains: Tensor, factors: Tensor, of_gains: Tensor, of_curvatures: Tensor) -> Tensor:
    """What gradients of K and H_uu say of H: `[T, B, d, d]`, symmetric; dK = -H_uu^-1 (dH_uy + dH_uu K)."""
    of_mixed = -torch.cholesky_solve(of_gains, factors)
    m, k = of_mixed.shape[-2:]
    total = gains.new_zeros(*gains.shape[:-2], k + m, k + m)
    total[..., k:, :k] = 0.5 * of_mixed
    total[..., :k, k:] = 0.5 * of_mixed.mT
    total[..., k:, k:] = symmetric(of_curvatures + of_mixed @ gains.mT)
    return total


def _passed_on(base: Tensor, closed: Tensor) -> Tensor:
    """Computes S_{t+1} = base_{t+1} + Phi_t S_t Phi_t', nothing of it into the corner: `[T + 1, B, k, k]`."""
    now, everything = base[0], [base[0]]
    for phi, turned, own in zip(closed.unbind(0), closed.mT.unbind(0), base[1:].unbind(0), strict=True):
        now = torch.baddbmm(own, phi.bmm(now), turned)
        now[:, -1, -1] = own[:, -1, -1]
        everything.append(now)
    return torch.stack(everything)


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(len(like), size, size)
