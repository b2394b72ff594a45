"""Backward messages of a linear-quadratic problem: the Riccati recursion, and its adjoint.

With y = [x; 1], z = [x; 1; u] (see `cai.ops.gaussian.problem`), V_{t+1}(x) = -y'Py/2 and one parameter eta that says
how luck is read, (1/eta) log E exp(eta V) (0 is the plain mean, 1/alpha the posterior, below 0 averse to risk):

    P~ = (I + eta P W)^-1 P                  through the noise
    H  = M + gamma D' P~ D                   Q_t = -z'Hz/2
    K  = -H_uu^-1 H_uy,  P_t = H_yy + H_yu K                  V_t = alpha log integral exp(Q_t / alpha) du

and the constants, s_t = -corner(P_t)/2 + gamma (s_{t+1} + nu) + (alpha/2) (m log(2 pi alpha) - logdet H_uu), where nu
is -tr(PW)/2, or -logdet(I + eta P W) / (2 eta); a Gaussian prior's normaliser joins logdet H_uu.

Adjoint. At the optimum K's own variation drops out of P, dP_t = Y' dH_t Y with Y = [I; K], so that the only recursion
is S_{t+1} = P_bar_{t+1} + Phi S_t Phi' forward in time, Phi = sqrt(gamma) (I - eta W P~) D Y the closed loop. All else
is batched over time, and reuses gains and Cholesky factors:

    H_bar = Y S_t Y' + [what K_bar says],  M_bar = H_bar,  D_bar = 2 gamma P~ D H_bar,  (eta W)_bar = -P~ P~_bar P~

Sources: Whittle (1981) for eta; Toussaint (2009) and Levine (2018) for the posterior; Amos et al. (2018) for
differentiating through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.gaussian.existence import need_concave, root_of, sign_of
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, flat_batch, symmetric
from cai.ops.gaussian.recursion import Recursion
from cai.ops.gaussian.risk import noise_constants, scaled_logdet, scaled_noise, through_noise
from cai.ops.tables import is_hard


@dataclass(frozen=True, eq=False)
class Backup:
    """What one step back, or many at once, gives.

    Attributes:
        values: P_t, the step's own constant in its corner, `[..., n + 1, n + 1]`.
        gains: K_t, `[..., m, n + 1]`.
        factors: The Cholesky factor of H_uu, `[..., m, m]`.
    """

    values: Tensor
    gains: Tensor
    factors: Tensor


def solve(problem: LinearQuadratic, eta: float | Tensor) -> QuadraticMessages:
    """Computes the backward messages of a finite horizon, one step after the other.

    Differentiable (once) with respect to every part of the problem, by the adjoint above.

    Args:
        problem: The problem, of finite horizon.
        eta: The risk parameter, 1 / reward units; 0 keeps the dynamics as it is.

    Raises:
        IncompatibleMethod: The reward is not concave in the action, or eta too far below zero: at which time step.
        NonFinite: The values leave what the type holds.
    """
    assert problem.horizon is not None
    batch = problem.message_batch
    noise, sign, root = scaled_noise(problem, eta), sign_of(eta), None
    parts = [problem.dynamics, problem.cost, problem.end[None]]
    if noise is not None:
        parts.append(noise)
        root = flat_batch(pad(root_of(sign * noise), (0, 0, 0, 1)), batch)
    arguments = (problem.horizon, problem.discount, sign, root, *(flat_batch(part, batch) for part in parts))
    values, corners, gains, curvatures, factors = Recursion.apply(*arguments)
    values, gains, curvatures, factors = (
        x.reshape(len(x), *batch, *x.shape[-2:]) for x in (values, gains, curvatures, factors)
    )
    return assemble(
        problem,
        eta,
        corners=corners.reshape(-1, *batch),
        values=values,
        gains=gains,
        curvatures=curvatures,
        factors=factors,
    )


def assemble(
    problem: LinearQuadratic,
    eta: float | Tensor,
    *,
    corners: Tensor,
    values: Tensor,
    gains: Tensor,
    curvatures: Tensor,
    factors: Tensor,
) -> QuadraticMessages:
    """Adds to the quadratic parts what follows from them: constants, and the policy's covariances.

    Args:
        problem: The problem, of finite horizon T.
        eta: The risk parameter.
        corners: What each step's own constant puts into the corner of P_t, `[T + 1, *batch]`.
        values: P_t with a corner of zero, `[T + 1, *batch, n + 1, n + 1]`.
        gains: K_t, `[T, *batch, m, n + 1]`.
        curvatures: H_uu, `[T, *batch, m, m]`.
        factors: Their Cholesky factors, without gradient.
    """
    own = -0.5 * corners.double()
    steps = own[:-1] + step_constants(problem, eta, values[1:], curvatures)
    constants = discounted_sums(steps, own[-1], problem.discount)
    covariances = covariances_of(curvatures, problem.temperature)
    return QuadraticMessages(values, constants, gains, covariances, factors)


def step_constants(problem: LinearQuadratic, eta: float | Tensor, after: Tensor, curvatures: Tensor) -> Tensor:
    """Computes gamma nu_t + (alpha/2) (m log(2 pi alpha) - logdet H_uu - logdet(2 pi S)): `[T, *batch]`, float64.

    Without the last, of a Gaussian action prior's covariance S, where the prior is flat.

    Args:
        problem: The problem.
        eta: The risk parameter.
        after: P_{t+1}, `[T, *batch, n + 1, n + 1]`.
        curvatures: H_uu, `[T, *batch, m, m]`.
    """
    n, total = problem.num_states, torch.zeros(after.shape[:-2], dtype=torch.float64, device=after.device)
    if problem.noise is not None:
        total = total + problem.discount * noise_constants(after[..., :n, :n], problem.noise, eta).double()
    if problem.is_hard:
        return total
    alpha = torch.as_tensor(problem.temperature, dtype=torch.float64)
    if problem.prior_covariance is None:
        logdets = torch.linalg.slogdet(curvatures).logabsdet.double()
        return total + 0.5 * alpha * (problem.num_actions * torch.log(2 * math.pi * alpha) - logdets)
    # With a prior N(., S), H_uu = alpha S^-1 + X: what is left of its normaliser is logdet(I + S X / alpha).
    acts = problem.dynamics[..., n + 1 :]
    curved = problem.reward[..., n + 1 :, n + 1 :]
    curved = curved + problem.discount * acts.mT @ through_noise(after, scaled_noise(problem, eta)) @ acts
    logdets = scaled_logdet(problem.prior_covariance @ curved, 1.0 / problem.temperature)
    return total - 0.5 * logdets.double()


def covariances_of(curvatures: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes alpha H_uu^-1, the policy's covariance: `[..., m, m]`."""
    if is_hard(temperature):
        return torch.zeros_like(curvatures)
    return symmetric(torch.linalg.inv(curvatures)) * temperature


def discounted_sums(steps: Tensor, end: Tensor, discount: float) -> Tensor:
    """Computes s_t = steps_t + gamma s_{t+1} from s_T = end: `[T + 1, *batch]`.

    Args:
        steps: `[T, *batch]`.
        end: `[*batch]`.
        discount: gamma.
    """
    if discount == 1.0:
        return torch.cat([steps, end.expand(steps.shape[1:])[None]]).flip(0).cumsum(0).flip(0)
    total, sums = end.expand(steps.shape[1:]), []
    for step in steps.flip(0).unbind(0):
        total = step + discount * total
        sums.append(total)
    return torch.stack([*sums[::-1], end.expand(steps.shape[1:])])


def without_corner(values: Tensor) -> Tensor:
    """Puts a zero into the corner of matrices `[..., k, k]`."""
    kept = torch.ones(values.shape[-2:], dtype=values.dtype, device=values.device)
    kept[-1, -1] = 0.0
    return values * kept


def backup(dynamics: Tensor, cost: Tensor, tilted: Tensor, discount: float) -> Backup:
    """Takes a step back, for one time step or all of them at once.

    Args:
        dynamics: D, `[..., n + 1, d]`.
        cost: M, `[..., d, d]`.
        tilted: P~ of the next step, `[..., n + 1, n + 1]`.
        discount: gamma.

    Raises:
        IncompatibleMethod: H_uu is not positive definite: at which index of the first dimension.
    """
    k = tilted.shape[-1]
    hamiltonian = symmetric(cost + discount * (dynamics.mT @ (tilted @ dynamics)))
    factors, info = torch.linalg.cholesky_ex(hamiltonian[..., k:, k:])
    need_concave(info)
    gains = -torch.cholesky_solve(hamiltonian[..., k:, :k], factors)
    values = hamiltonian[..., :k, :k] + hamiltonian[..., :k, k:] @ gains
    return Backup(symmetric(values), gains, factors)
