"""Infinite horizons: the fixed point of the Riccati recursion, by doubling.

The recursion of k steps is an element (A, C, J) of the product that scans use (Särkkä and García-Fernández, 2021); with
equal steps it is squared,

    M = (I + C J)^-1,     A <- A M A,     C <- C + A M C A',     J <- J + A' J M A        (the values of A on the right)

so that J after k rounds is P after 2^k steps from P = 0: quadratic convergence, and the structure-preserving doubling
algorithm of control. The linear part p solves (I - gamma Phi') p = b, Phi the closed loop. Without a discount the
constant grows by the gain at each step, and V is relative: its mean in the stationary distribution is zero.

Gradients are those of the fixed point, dP = gamma Phi' dP Phi + (what the parts say): one discrete Lyapunov equation.

Source: Anderson (1978); Chu, Fan, Lin and Wang (2004) for the doubling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from cai.errors import IncompatibleMethod
from cai.ops.gaussian.existence import tilt_info
from cai.ops.gaussian.marginals import arrival_of, closed_loop
from cai.ops.gaussian.problem import Answer, LinearQuadratic, QuadraticMessages, quadratic_form, symmetric, with_one
from cai.ops.gaussian.riccati import Backup, backup, covariances_of, step_constants, without_corner
from cai.ops.gaussian.risk import scaled_noise, through_noise, towards_luck
from cai.ops.tables import as_number

#: Rounds of doubling: 2^64 steps.
_MAX_ROUNDS = 64
#: Single steps, where the cost of the action alone is not positive definite and nothing can be doubled.
_MAX_STEPS = 1_000_000
#: Single steps after doubling.
_MAX_POLISH = 30


def solve_stationary(problem: LinearQuadratic, eta: float | Tensor) -> Answer:
    """Computes the backward messages of an infinite horizon; differentiable (once) with respect to every part.

    Args:
        problem: A problem without a horizon.
        eta: The risk parameter, 1 / reward units.

    Raises:
        IncompatibleMethod: No fixed point: a mode that the actions cannot hold, a reward that is not concave in the
            action, or an eta too far below zero.
    """
    with torch.no_grad():
        plain = problem.detached
        risk = as_number(eta)
        found = _quadratic_part(plain, risk)
        values = _with_linear_part(plain, risk, found.values)
        _need_expectation(plain, risk, values)
        residual = float((_quadratic(_step(plain, risk, values).values) - _quadratic(values)).abs().max())
    values = _attached(problem, eta, values)
    last = _step(problem, eta, values)
    curvatures = last.factors @ last.factors.mT
    increments = step_constants(problem, eta, values, curvatures) - 0.5 * last.values[..., -1, -1].double()
    covariances = covariances_of(curvatures, problem.temperature)
    messages = QuadraticMessages(values, increments, last.gains, covariances, last.factors.detach())
    return Answer(_levelled(problem, messages, eta), found.num_steps, residual)


def stationary_moments(transition: Tensor, offset: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean and covariance of x' = Phi x + phi + N(0, Omega) in the long run: `[..., n]`, `[..., n, n]`.

    Args:
        transition: Phi, stable, `[..., n, n]`.
        offset: phi, `[..., n]`.
        noise: Omega, `[..., n, n]`.
    """
    identity = torch.eye(transition.shape[-1], dtype=transition.dtype, device=transition.device)
    mean = torch.linalg.solve(identity - transition, offset[..., None]).squeeze(-1)
    return mean, lyapunov(transition, noise)


def lyapunov(transition: Tensor, source: Tensor) -> Tensor:
    """Solves X = Phi X Phi' + source by doubling, Phi stable: `[..., n, n]`. Differentiable.

    Source: Smith (1968).
    """
    return _Lyapunov.apply(*torch.broadcast_tensors(transition, source))


def spectral_radius(matrix: Tensor) -> Tensor:
    """Computes the greatest |eigenvalue|: `[...]`."""
    return torch.linalg.eigvals(matrix).abs().amax(-1)


@dataclass(frozen=True, eq=False)
class _Found:
    values: Tensor
    num_steps: int


def _quadratic_part(problem: LinearQuadratic, eta: float) -> _Found:
    """Finds P, `[1, *batch, n, n]`, by doubling, or by single steps where R is not positive definite."""
    n = problem.num_states
    cost, dynamics = problem.cost, problem.dynamics * math.sqrt(problem.discount)
    f, b = dynamics[..., :n, :n], dynamics[..., :n, n + 1 :]
    mixed, r = cost[..., n + 1 :, :n], cost[..., n + 1 :, n + 1 :]
    factor, info = torch.linalg.cholesky_ex(r)
    if (info != 0).any():
        return _by_steps(problem, eta)
    by_action = torch.cholesky_solve(mixed, factor)
    a = f - b @ by_action
    c = b @ torch.cholesky_solve(b.mT, factor)
    scaled = scaled_noise(problem, eta)
    if scaled is not None:  # noise is one more control, of cost w' (eta W)^-1 w / 2
        c = c + scaled
    j = symmetric(cost[..., :n, :n] - mixed.mT @ by_action)
    batch = problem.message_batch
    a, c, j = (x.expand(1, *batch, n, n) for x in (a, c, j))
    identity = torch.eye(n, dtype=j.dtype, device=j.device)
    for k in range(_MAX_ROUNDS):
        between = identity + c @ j
        if eta < 0.0 and not (torch.linalg.eigvals(between).real > 0.0).all():
            break  # values have passed through infinity
        solved, info = torch.linalg.solve_ex(between, torch.cat([a, c], -1))
        if (info != 0).any():
            break
        moved, spread = solved[..., :n], solved[..., n:]
        gain = symmetric(a.mT @ j @ moved)
        j, c, a = j + gain, symmetric(c + a @ spread @ a.mT), a @ moved
        if not torch.isfinite(j).all():
            break
        if _all_within(gain, j, torch.finfo(j.dtype).eps):
            return _Found(j, k + 1)
    raise _unbounded(problem, eta)


def _by_steps(problem: LinearQuadratic, eta: float) -> _Found:
    n = problem.num_states
    values = _without_affine(problem.cost[..., : n + 1, : n + 1]).expand(1, *problem.message_batch, n + 1, n + 1)
    for k in range(_MAX_STEPS):
        new = _without_affine(_step(problem, eta, values).values)
        change, values = new - values, new
        if not torch.isfinite(values).all():
            break
        if _all_within(change, values, 4 * torch.finfo(values.dtype).eps):
            return _Found(_quadratic(values), k + 1)
    raise _unbounded(problem, eta)


def _all_within(change: Tensor, whole: Tensor, share: float) -> bool:
    """Whether every batch element changes by no more than a share of its greatest entry."""
    return bool((change.abs().amax((-2, -1)) <= share * whole.abs().amax((-2, -1))).all())


def _without_affine(values: Tensor) -> Tensor:
    """Keeps the quadratic part of `[..., n + 1, n + 1]` alone."""
    return pad(_quadratic(values), (0, 1, 0, 1))


def _unbounded(problem: LinearQuadratic, eta: float) -> IncompatibleMethod:
    if eta < 0.0:
        return IncompatibleMethod(
            f"there is no value of this infinite horizon at eta = {eta:g}: fear of noise outgrows what actions can do; "
            "take eta nearer to zero, less noise, or a finite horizon"
        )
    rate = "" if problem.discount == 1.0 else f" (times sqrt(gamma) = {math.sqrt(problem.discount):.6g})"
    return IncompatibleMethod(
        "the value of this infinite horizon is unbounded: a mode of the dynamics grows by itself"
        f"{rate}, the reward sees it and no action holds it, or going ever further is rewarded; give a finite horizon, "
        "a smaller discount, actions that hold it, or a reward that is concave"
    )


def _with_linear_part(problem: LinearQuadratic, eta: float, quadratic: Tensor) -> Tensor:
    """Adds p to P: (I - gamma Phi') p = b; `[1, *batch, n + 1, n + 1]` with a corner of zero."""
    n = problem.num_states
    values = _polished(problem, eta, pad(quadratic, (0, 1, 0, 1)))
    step = _step(problem, eta, values)
    phi = _closed(problem, eta, values, step.gains)[..., :n, :n]
    _need_stable(phi, problem.discount)
    identity = torch.eye(n, dtype=phi.dtype, device=phi.device)
    linear = torch.linalg.solve(identity - problem.discount * phi.mT, step.values[..., :n, n:])
    return values + pad(linear, (n, 0, 0, 1)) + pad(linear.mT, (0, 1, n, 0))


def _polished(problem: LinearQuadratic, eta: float, values: Tensor) -> Tensor:
    """Takes single steps as long as they bring P nearer to its fixed point: rounding that doubling has gathered."""
    change = math.inf
    for _ in range(_MAX_POLISH):
        new = _without_affine(_step(problem, eta, values).values)
        before, change = change, float((new - values).abs().max())
        if not change < before:
            break
        values = new
    return values


def _need_stable(phi: Tensor, discount: float) -> None:
    radius = float(spectral_radius(phi).max()) * math.sqrt(discount)
    if not radius < 1.0:
        raise IncompatibleMethod(
            f"the closed loop is not stable: its spectral radius{'' if discount == 1.0 else ' times sqrt(gamma)'} is "
            f"{radius:.6g}; a mode that the reward does not see goes its own way. Give a finite horizon, a smaller "
            "discount, or a reward that sees it"
        )


def _need_expectation(problem: LinearQuadratic, eta: float, values: Tensor) -> None:
    """Raises `IncompatibleMethod` where E exp(eta V) of the fixed point does not exist, which eta < 0 can bring."""
    if eta < 0.0 and problem.noise is not None and (tilt_info(_quadratic(values), problem.noise, eta) != 0).any():
        raise IncompatibleMethod(
            "the expectation of exp(eta V) does not exist on this infinite horizon: I + eta P W is not positive "
            "definite at the fixed point; take eta nearer to zero, less noise, or a finite horizon"
        )


def _step(problem: LinearQuadratic, eta: float | Tensor, values: Tensor) -> Backup:
    tilted = through_noise(values, scaled_noise(problem, eta))
    return backup(problem.dynamics, problem.cost, tilted, problem.discount)


def _closed(problem: LinearQuadratic, eta: float | Tensor, values: Tensor, gains: Tensor) -> Tensor:
    """The closed loop on [x; 1], `[1, *batch, n + 1, n + 1]`."""
    k, dynamics = gains.shape[-1], problem.dynamics
    closed = dynamics[..., :k] + dynamics[..., k:] @ gains
    scaled = scaled_noise(problem, eta)
    return towards_luck(closed, through_noise(values, scaled), scaled)


def _quadratic(values: Tensor) -> Tensor:
    return values[..., :-1, :-1]


def _attached(problem: LinearQuadratic, eta: float | Tensor, values: Tensor) -> Tensor:
    """Gives the fixed point the gradient that it has by the implicit function theorem."""
    if not problem.learns and not (isinstance(eta, Tensor) and eta.requires_grad):
        return values
    step = _step(problem, eta, values)
    closed = _closed(problem.detached, as_number(eta), values, step.gains.detach())
    return _FixedPoint.apply(without_corner(step.values), closed, problem.discount)


def _levelled(problem: LinearQuadratic, messages: QuadraticMessages, eta: float | Tensor) -> QuadraticMessages:
    """Turns what one step adds into constants: a geometric sum, or a gain and relative values."""
    increments, parts = messages.constants, (messages.values, messages.gains, messages.covariances, messages.factors)
    values, gains, covariances, factors = parts
    if problem.discount < 1.0:
        return QuadraticMessages(values, increments / (1.0 - problem.discount), gains, covariances, factors)
    chain = closed_loop(arrival_of(problem, messages, eta), messages)
    mean, covariance = stationary_moments(chain.transition, chain.offset, chain.noise)
    spread = (_quadratic(values) * covariance).sum((-2, -1))
    level = 0.5 * (quadratic_form(values, with_one(mean)) + spread)
    return QuadraticMessages(values, level.double(), gains, covariances, factors, gain=increments[0])


class _Lyapunov(torch.autograd.Function):
    """X = Phi X Phi' + source."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, source: Tensor) -> Tensor:
        """Solves the equation."""
        answer = _smith(transition, source)
        ctx.save_for_backward(transition, answer)
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Solves the transposed equation."""
        transition, answer = ctx.saved_tensors
        of_source = _smith(transition.mT, symmetric(gradients[0]))
        return 2.0 * of_source @ transition @ symmetric(answer), of_source


def _smith(transition: Tensor, source: Tensor) -> Tensor:
    total, power = source, transition
    for _ in range(_MAX_ROUNDS):
        more = power @ total @ power.mT
        total, power = total + more, power @ power
        if not more.abs().max() > torch.finfo(total.dtype).eps * total.abs().max():
            break
    return total


class _FixedPoint(torch.autograd.Function):
    """The identity, with the gradient of a fixed point of dP = gamma Phi' dP Phi + ..., corner zero."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, closed: Tensor, discount: float) -> Tensor:
        """Gives the values as they are."""
        ctx.save_for_backward(closed)
        ctx.discount = discount
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Sums what all steps to come pass on."""
        (closed,), gradient = ctx.saved_tensors, without_corner(symmetric(gradients[0]))
        n, discount = closed.shape[-1] - 1, ctx.discount
        phi, offset = closed[..., :n, :n], closed[..., :n, n:]
        identity = torch.eye(n, dtype=phi.dtype, device=phi.device)
        linear = torch.linalg.solve(identity - discount * phi, gradient[..., :n, n:])
        moved = phi @ linear @ offset.mT
        source = gradient[..., :n, :n] + discount * (moved + moved.mT)
        quadratic = _smith(math.sqrt(discount) * phi, source)
        return pad(quadratic, (0, 1, 0, 1)) + pad(linear, (n, 0, 0, 1)) + pad(linear.mT, (0, 1, n, 0)), None, None
