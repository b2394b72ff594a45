"""Kalman filter and fixed-interval smoother: messages forward and backward along a linear-Gaussian state space.

    x_0 ~ N(m, P),   x_{t+1} = F x_t + c + N(0, W),   y_t = H x_t + d + N(0, R)

Forward, with m-, P- the moments of x_t given the observations before t,

    S = H P- H' + R,  K = P- H' S^-1,  v = y - H m- - d          m+ = m- + K v,  P+ = (I - K H) P- (I - K H)' + K R K'
    m-' = F m+ + c,   P-' = F P+ F' + W                          log p(y) = sum_t log N(v_t; 0, S_t)

The covariances obey the Riccati recursion of control with time reversed, P-' = W + F P- F' - F P- H' S^-1 H P- F' being
that of D = [F' H'] and the cost W of states and R of actions, so that one scan serves both, with the same product of
elements. Given K, the means are an affine chain. Backward, in the adjoint form of Bryson and Frazier,
with Phi = F (I - K H),

    u_t = H'S^-1 v_t + Phi' u_{t+1},   U_t = H'S^-1 H + Phi' U_{t+1} Phi         (u, U zero after the end)
    mean m+ + P+ F' u_{t+1},   covariance P+ - P+ F' U_{t+1} F P+

an affine chain again, without an inverse of P- or W, which may be singular. Trajectories of the smoothing distribution
are drawn by mean correction: x + E[X | y] - E[X | Y = y_x] with x, y_x drawn from the model. Missing observations are
rows of zeros in H, of ones on the diagonal of R, and of zeros in v: they change nothing.

Sources: Kalman (1960); Rauch, Tung and Striebel (1965); Bryson and Frazier (1963); Durbin and Koopman (2002) for the
samples; Särkkä and García-Fernández (2021) for scans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.errors import IncompatibleMethod
from cai.ops.gaussian.affine_scan import looped_means, scanned_covariances, scanned_means
from cai.ops.gaussian.control_scan import pays_to_scan as control_pays
from cai.ops.gaussian.marginals import ClosedLoop, Moments, covariances_forward
from cai.ops.gaussian.problem import symmetric
from cai.ops.gaussian.riccati_scan import riccati_scan
from cai.ops.gaussian.state_space import (
    Correction,
    StateSpace,
    applied,
    corrected,
    drawn,
    need_definite,
    need_finite,
    with_draws,
    without_missing,
)


@dataclass(frozen=True, eq=False)
class Filtered:
    """The forward messages of a state space for given observations.

    Attributes:
        space: The model, with missing observations taken out.
        predicted: Moments of x_t given the observations before t, `[T + 1, *batch, ...]`.
        moments: Moments of x_t given those up to t.
        correction: How the covariances came about, `[T + 1, *batch, ...]`.
        innovations: v, `[T + 1, *batch, k]`, zero where an observation is missing.
        log_likelihood: log p(y), `[*batch]`, nats.
    """

    space: StateSpace
    predicted: Moments
    moments: Moments
    correction: Correction
    innovations: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True)
class Passes:
    """How the recursions over time are computed: `LOOP` or `SCAN`.

    Attributes:
        predicted: The covariances P- of a state space.
        means: The means of an affine chain, of Phi, phi, the first and T.
        covariances: Its covariances, of Phi, Omega, the first and T.
    """

    predicted: Callable[[StateSpace], Tensor]
    means: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    covariances: Callable[[Tensor, Tensor, Tensor, int], Tensor]


def kalman_filter(space: StateSpace, observations: Tensor, passes: Passes) -> Filtered:
    """Computes the filtering distributions and the likelihood.

    Args:
        space: The model.
        observations: y, `[T + 1, *batch, k]`; NaN where there is none.
        passes: How to go through time.

    Raises:
        IncompatibleMethod: S is not positive definite, at which time; or a scan has no answer of full precision.
        NonFinite: A mean or covariance is not finite, at which time.
    """
    known = ~torch.isnan(observations)
    space = without_missing(space, known)
    predicted = passes.predicted(space)
    correction = corrected(predicted, space.observation, space.observation_noise)
    need_definite(correction.info, predicted)
    away = torch.where(known, observations - space.observation_offset, 0.0)
    means = _predicted_means(space, correction, away, passes)
    innovations = away - applied(space.observation, means)
    filtered = means + applied(correction.gains, innovations)
    need_finite(filtered, "the mean of the filter")
    return Filtered(
        space,
        Moments(means, predicted.expand(*means.shape, means.shape[-1])),
        Moments(filtered, correction.covariances.expand(*means.shape, means.shape[-1])),
        correction,
        innovations,
        _log_likelihood(correction.factors, innovations, known),
    )


def kalman_smoother(filtered: Filtered, passes: Passes) -> Moments:
    """Computes the moments of each x_t given all observations, `[T + 1, *batch, ...]`.

    Args:
        filtered: What the filter found.
        passes: How to go through time.
    """
    space, correction = filtered.space, filtered.correction
    means = _smoothed_means(space, correction, filtered.moments.means, filtered.innovations, passes)
    whitened = _solved(correction.factors, space.observation)
    seen, back = whitened.mT @ whitened, _adjoint_transition(space, correction)
    adjoint = passes.covariances(back, seen[:-1].flip(0), seen[-1], space.horizon).flip(0)
    ahead = space.transition.mT @ adjoint[1:] @ space.transition
    before = correction.covariances[:-1]
    covariances = torch.cat([before - before @ ahead @ before, correction.covariances[-1:]])
    return Moments(means, symmetric(covariances).expand(*means.shape, means.shape[-1]))


def smoothing_samples(filtered: Filtered, smoothed: Tensor, num: int, passes: Passes) -> Tensor:
    """Draws trajectories given all observations, by torch's generator: `[T + 1, num, *batch, n]`.

    Args:
        filtered: What the filter found.
        smoothed: The smoothed means, `[T + 1, *batch, n]`.
        num: How many to draw for each sequence of observations.
        passes: How to go through time.
    """
    space, batch = with_draws(filtered.space), smoothed.shape[1:-1]
    correction = Correction(**{name: part.unsqueeze(1) for name, part in vars(filtered.correction).items()})
    start = drawn(space.initial.covariances, (num, *batch))
    pushes = drawn(space.noise, (space.horizon, num, *batch))
    states = passes.means(space.transition, pushes, start, space.horizon)
    seen = applied(space.observation, states) + drawn(space.observation_noise, (len(states), num, *batch))
    means = _predicted_means(space, correction, seen, passes)
    innovations = seen - applied(space.observation, means)
    corrected_means = means + applied(correction.gains, innovations)
    expected = _smoothed_means(space, correction, corrected_means, innovations, passes)
    return smoothed[:, None] + states - expected


def pays_to_scan(space: StateSpace, observations: Tensor) -> bool:
    """Says whether scans are quicker than loops, by `benchmarks/linear_quadratic_scan.py`.

    Args:
        space: The model.
        observations: `[T + 1, *batch, k]`.
    """
    return control_pays(observations[0, ..., 0].numel(), space.horizon, space.transition.shape[-1])


def _looped_predictions(space: StateSpace) -> Tensor:
    parts = (space.transition, space.noise, space.observation, space.observation_noise)
    batch = torch.broadcast_shapes(space.initial.covariances.shape[:-2], *(part.shape[1:-2] for part in parts))
    now = space.initial.covariances.expand(*batch, *space.noise.shape[-2:])
    covariances = [now]
    for t in range(space.horizon):
        f, w, h, r = (part[t if len(part) > 1 else 0] for part in parts)
        now = symmetric(f @ corrected(now, h, r).covariances @ f.mT + w)
        covariances.append(now)
    return torch.stack(covariances)


def _scanned_predictions(space: StateSpace) -> Tensor:
    """Computes P- as the values of control with time reversed: D = [F' H'], M = diag(W, R)."""
    n, horizon = space.noise.shape[-1], space.horizon
    parts = [
        part[:horizon].flip(0) if len(part) > 1 else part
        for part in (space.transition, space.noise, space.observation, space.observation_noise)
    ]
    batch = torch.broadcast_shapes(space.initial.covariances.shape[:-2], *(part.shape[1:-2] for part in parts))
    f, w, h, r = parts
    if (torch.linalg.cholesky_ex(r.detach()).info != 0).any():
        raise IncompatibleMethod(
            "a scan over time needs an observation noise that is positive definite; schedule=Sequential() is the loop, "
            "which takes singular ones"
        )
    scanned = riccati_scan(
        _joined(f.mT, h.mT, -1),
        _block_diagonal(w, r),
        space.initial.covariances.expand(*batch, n, n),
        horizon,
        mask=torch.ones(n, n, dtype=w.dtype, device=w.device),
    )
    if scanned.lost is not None:
        raise IncompatibleMethod(
            f"a scan over time loses the digits of the covariances after time {horizon - scanned.lost}; "
            "schedule=Sequential() is the loop, which keeps them"
        )
    return scanned.values.flip(0)


def _looped_covariances(transition: Tensor, noise: Tensor, start: Tensor, horizon: int) -> Tensor:
    return covariances_forward(ClosedLoop(transition, transition[..., 0], noise), start, horizon)


#: One time step after the other, and all of them at once.
LOOP = Passes(_looped_predictions, looped_means, _looped_covariances)
SCAN = Passes(_scanned_predictions, scanned_means, scanned_covariances)


def _predicted_means(space: StateSpace, correction: Correction, away: Tensor, passes: Passes) -> Tensor:
    """Computes m- for observations less their offset, `[T + 1, *batch, k]`."""
    closed = space.transition @ correction.kept[:-1]
    pushes = applied(space.transition, applied(correction.gains[:-1], away[:-1])) + space.offset
    return passes.means(closed, pushes, space.initial.means, space.horizon)


def _smoothed_means(
    space: StateSpace, correction: Correction, filtered: Tensor, innovations: Tensor, passes: Passes
) -> Tensor:
    whitened = _solved(correction.factors, space.observation)
    pushes = applied(whitened.mT, _solved(correction.factors, innovations[..., None]).squeeze(-1))
    back = _adjoint_transition(space, correction)
    adjoint = passes.means(back, pushes[:-1].flip(0), pushes[-1], space.horizon).flip(0)
    moved = applied(correction.covariances[:-1], applied(space.transition.mT, adjoint[1:]))
    return torch.cat([filtered[:-1] + moved, filtered[-1:]])


def _adjoint_transition(space: StateSpace, correction: Correction) -> Tensor:
    """Gives Phi' = (F (I - K H))' with time reversed, `[T, *batch, n, n]`."""
    return (space.transition @ correction.kept[:-1]).mT.flip(0)


def _log_likelihood(factors: Tensor, innovations: Tensor, known: Tensor) -> Tensor:
    white = _solved(factors, innovations[..., None]).squeeze(-1)
    logdets = 2.0 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    terms = white.square().sum(-1) + logdets + math.log(2 * math.pi) * known.sum(-1).to(white)
    return -0.5 * terms.double().sum(0)


def _solved(factors: Tensor, right: Tensor) -> Tensor:
    """Computes L^-1 R."""
    return torch.linalg.solve_triangular(factors, right, upper=False)


def _joined(first: Tensor, second: Tensor, axis: int) -> Tensor:
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return torch.cat([part.expand(*batch, *part.shape[-2:]) for part in (first, second)], axis)


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    n, k = first.shape[-1], second.shape[-1]
    return _joined(pad(first, (0, k)), pad(second, (n, 0)), -2)
