"""The maximum-entropy policy around an optimal trajectory, and its Laplace evidence.

At the optimum x*, u* the dynamics is linearised and the cost expanded to second order, both written in x and u
themselves (not in deviations), with w = [u; x] and z = [x; 1; u]:

    x' = F x + B u + c,   c = f(x*, u*) - F x* - B u*
    l  = l* + g'(w - w*) + (w - w*)' H (w - w*) / 2 = z'Mz / 2

Second derivatives of the dynamics, where they are used, go into M, weighed by the slope of the next value. A last
backward pass without regularisation gives u ~ N(u* + K (x - x*), alpha H_uu^-1) and

    V_t(x) = -(cost to go) + sum_(s >= t) gamma^(s-t) c_s
    c_s = (alpha / 2) (m log(2 pi alpha) - logdet H_uu) - gamma tr(P_{s+1} W) / 2

Clamped controls have no feedback and no spread. By Laplace's method at a boundary, each adds alpha log(alpha / |slope|)
in the place of its share of the Gaussian integral.

Source: Levine and Koltun (2013), section 4, for the policy around an optimum; Tierney and Kadane (1986) for Laplace's
method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, homogeneous_form
from cai.ops.gaussian.riccati import discounted_sums
from cai.ops.shooting.backward_pass import BackwardPass, LocalModel, backward_pass
from cai.ops.shooting.box_qp import free_controls, is_definite, without
from cai.ops.shooting.iteration import ShootingIterate
from cai.ops.shooting.local_models import GaussNewton, SecondOrder, local_model
from cai.ops.shooting.problem import ShootingProblem


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the graph has beside the costs and the mean of the dynamics.

    Attributes:
        temperature: alpha >= 0, reward units.
        noise: W, `[T or 1, B or 1, n, n]`, or None where there is none.
        initial_covariance: `[B, n, n]`, or None where the start is known.
        prior: What the costs have from the action prior, z'Mz/2 with z = [x; 1; u], `[T or 1, B or 1, d, d]`, or None.
        log_volume: What a uniform prior divides by, nats a step; zero for any other.
    """

    temperature: float
    noise: Tensor | None = None
    initial_covariance: Tensor | None = None
    prior: Tensor | None = None
    log_volume: float = 0.0


@dataclass(frozen=True, eq=False)
class LocalAnswer:
    """The local problem in x and u themselves, and its backward messages; the batch is one dimension.

    Attributes:
        problem: The problem.
        messages: Its messages.
    """

    problem: LinearQuadratic
    messages: QuadraticMessages

    def with_batch(self, batch: torch.Size) -> LocalAnswer:
        """Gives the same with other batch dimensions in the place of the one, of as many elements."""

        def reshaped(whole: Any, *timeless: str) -> Any:
            changes = {}
            for entry in fields(whole):
                part, lead = getattr(whole, entry.name), 0 if entry.name in timeless else 1
                if isinstance(part, Tensor) and part.dim() > lead:
                    size = batch if part.shape[lead] > 1 else [1] * len(batch)
                    changes[entry.name] = part.reshape(*part.shape[:lead], *size, *part.shape[lead + 1 :])
            return replace(whole, **changes)

        problem = reshaped(self.problem, "end", "initial_mean", "initial_covariance", "temperature")
        return LocalAnswer(problem, reshaped(self.messages))


@dataclass(frozen=True, eq=False)
class _LastPass:
    """A backward pass around the final trajectory.

    Attributes:
        model: The expansion.
        backward: The pass.
        free: Which controls are not clamped, `[T, B, m]`, bool.
        curvatures: H~_uu, with the identity in the rows and columns of clamped controls, `[T, B, m, m]`.
        slopes: H_u [k; 0; 1], how the cost to go grows with a clamped control, `[T, B, m]`.
    """

    model: LocalModel
    backward: BackwardPass
    free: Tensor
    curvatures: Tensor
    slopes: Tensor


def laplace(
    problem: ShootingProblem, iterate: ShootingIterate, expansion: GaussNewton | SecondOrder, around: Surroundings
) -> LocalAnswer:
    """Computes the local problem around final trajectories, and its messages.

    Elements that have not converged, and all at temperature 0, may lack a positive definite H_uu: it is that of a
    convex expansion then, regularised as they were last.

    Args:
        problem: The problem.
        iterate: Where its iteration ended.
        expansion: Which derivatives of the dynamics are used.
        around: What else the graph has.

    Raises:
        IncompatibleMethod: At a positive temperature H_uu is not positive definite: at which time step.
    """
    last = _last_pass(problem, iterate, expansion, torch.zeros_like(iterate.size), None)
    definite = is_definite(last.curvatures)
    if around.temperature > 0.0:
        _need_definite(definite | ~iterate.converged)
    lacking = ~definite.all(0)
    if lacking.any():
        last = _last_pass(problem, iterate, expansion, torch.where(lacking, iterate.size, 0.0), lacking)
        definite = is_definite(last.curvatures)
        if around.temperature > 0.0:
            _need_definite(definite)
    gains = torch.where((definite & ~lacking | definite.all(0))[..., None, None], last.backward.gains, 0.0)
    return LocalAnswer(
        _written_out(problem, iterate, expansion, last, around), _messages(problem, iterate, last, gains, around)
    )


def _last_pass(
    problem: ShootingProblem,
    iterate: ShootingIterate,
    expansion: GaussNewton | SecondOrder,
    regularisation: Tensor,
    convex: Tensor | None,
) -> _LastPass:
    model = local_model(problem, iterate.trajectory, expansion, convex, convex)
    backward = backward_pass(model, regularisation)
    m, offsets = model.num_actions, backward.gains[..., -1]
    slopes = (backward.rows[..., :m] @ offsets[..., None]).squeeze(-1) + backward.rows[..., -1]
    if model.low is None or model.high is None:
        free = torch.ones_like(offsets, dtype=torch.bool)
    else:
        free = free_controls(offsets, slopes, model.low, model.high)
    return _LastPass(model, backward, free, without(~free, backward.curvatures), slopes)


def _need_definite(definite: Tensor) -> None:
    if not definite.all():
        t, element = (~definite).nonzero()[-1].tolist()
        raise IncompatibleMethod(
            f"there is no maximum-entropy policy around the trajectory found: at time {t}, batch element {element}, "
            "H_uu is not positive definite, so that the trajectory is no strict optimum; start elsewhere "
            "(initial_actions=, initial_noise=), or ask at temperature 0 for the plan alone"
        )


def _messages(
    problem: ShootingProblem, iterate: ShootingIterate, last: _LastPass, gains: Tensor, around: Surroundings
) -> QuadraticMessages:
    n, alpha = problem.start.shape[-1], around.temperature
    states, actions = iterate.states, iterate.actions
    feedback = torch.where(last.free[..., None], gains[..., :n], 0.0)
    offsets = actions - (feedback @ states[:-1, ..., None]).squeeze(-1)
    costs = problem.costs(states, actions).double()
    to_go = discounted_sums(costs[:-1], costs[-1], problem.discount)
    forms, linear, constants = _absolute(last.backward.values[..., :n], last.backward.values[..., n], states)
    column = linear[..., None]
    corner = torch.zeros_like(column[..., :1, :])
    values = torch.cat([torch.cat([forms, column], -1), torch.cat([column.mT, corner], -1)], -2)
    steps = torch.zeros_like(costs[:-1])
    if around.noise is not None:
        steps = steps - 0.5 * problem.discount * (forms[1:] * around.noise).sum((-2, -1)).double()
    covariances, factors = torch.zeros_like(last.curvatures), None
    if alpha > 0.0:
        steps = steps + _integrals(last, alpha) - alpha * around.log_volume
        both = last.free[..., :, None] & last.free[..., None, :]
        covariances = torch.where(both, alpha * torch.linalg.inv(last.curvatures), 0.0)
        factors = torch.linalg.cholesky(last.curvatures) if last.free.all() else None
    soft = discounted_sums(steps, torch.zeros_like(steps[0]), problem.discount)
    return QuadraticMessages(
        values=values,
        constants=soft - to_go - constants.double(),
        gains=torch.cat([feedback, offsets[..., None]], -1),
        covariances=0.5 * (covariances + covariances.mT),
        factors=factors,
    )


def _integrals(last: _LastPass, alpha: float) -> Tensor:
    """Computes alpha log integral exp(-Q/alpha) du, Q zero at the optimum: `[T, B]`, float64."""
    logdets = torch.linalg.slogdet(last.curvatures).logabsdet.double()
    gaussian = 0.5 * (last.free.sum(-1).double() * math.log(2 * math.pi * alpha) - logdets)
    slopes = torch.where(last.free, alpha, last.slopes.abs()).double()
    return alpha * (gaussian + (alpha / slopes).log().sum(-1))


def _written_out(
    problem: ShootingProblem,
    iterate: ShootingIterate,
    expansion: GaussNewton | SecondOrder,
    last: _LastPass,
    around: Surroundings,
) -> LinearQuadratic:
    """The local problem on z = [x; 1; u]."""
    model, n, m = last.model, last.model.num_states, last.model.num_actions
    order = [*range(m, m + n + 1), *range(m)]  # of [u; x; 1]
    states, actions = iterate.states, iterate.actions
    following = states[1:] if iterate.gaps is None else states[1:] + iterate.gaps
    points = torch.cat([actions, states[:-1]], -1)
    dynamics = model.moves.clone()
    dynamics[..., :n, -1] = following - (model.moves[..., :n, :-1] @ points[..., None]).squeeze(-1)
    hessians, gradients = _with_bends(model, last.backward), model.slopes[..., -1]
    costs = problem.costs(states, actions)
    cost = _form(*_absolute(hessians, gradients, points), costs[:-1])[..., order, :][..., order]
    end = _form(*_absolute(model.end[..., :n], model.end[..., n], states[-1]), costs[-1])
    prior = around.prior
    if around.log_volume:
        volume = torch.zeros(cost.shape[-2:], dtype=cost.dtype, device=cost.device)
        volume[n, n] = 2.0 * around.temperature * around.log_volume
        cost, prior = cost + volume, volume.expand(1, 1, *volume.shape)
    return LinearQuadratic(
        dynamics=dynamics[..., order],
        noise=around.noise,
        cost=cost,
        reward=cost if prior is None else cost - prior,
        end=end,
        initial_mean=problem.start,
        initial_covariance=around.initial_covariance,
        temperature=around.temperature,
        discount=problem.discount,
        horizon=problem.horizon,
    )


def _with_bends(model: LocalModel, backward: BackwardPass) -> Tensor:
    """The Hessians of the costs, with second derivatives of the dynamics weighed by the slope of the next value."""
    hessians, n = model.slopes[..., :-1], model.num_states
    if model.bends is None:
        return hessians
    hessians, slopes = hessians.clone(), backward.values[1:, ..., n]
    for t in range(len(hessians) - 1, -1, -1):
        bend = model.bends(t)
        if bend is not None:
            hessians[t] += model.discount * torch.einsum("bi,bijk->bjk", slopes[t], bend)
    return hessians


def _absolute(hessian: Tensor, gradient: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Writes g'(w - w*) + (w - w*)'H(w - w*)/2 as w'Hw/2 + q'w + k: H, q and k."""
    pull = (hessian @ point[..., None]).squeeze(-1)
    return hessian, gradient - pull, ((0.5 * pull - gradient) * point).sum(-1)


def _form(hessian: Tensor, linear: Tensor, constant: Tensor, value: Tensor) -> Tensor:
    """Puts w'Hw/2 + q'w + k and the value at the expansion point together, `[..., d, d]`."""
    return homogeneous_form(0.5 * (hessian + hessian.mT), linear, constant + value)
