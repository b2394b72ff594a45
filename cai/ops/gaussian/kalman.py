"""The Kalman filter: messages forward along a linear-Gaussian state space.

    x_0 ~ N(m, P),   x_{t+1} = F x_t + c + N(0, W),   y_t = H x_t + d + N(0, R)

With m-, P- the moments of x_t given the observations before t,

    S = H P- H' + R,  K = P- H' S^-1,  v = y - H m- - d          m+ = m- + K v,  P+ = (I - K H) P- (I - K H)' + K R K'
    m-' = F m+ + c,   P-' = F P+ F' + W                          log p(y) = sum_t log N(v_t; 0, S_t)

The covariances obey the Riccati recursion of control with time reversed, P-' = W + F P- F' - F P- H' S^-1 H P- F' being
that of D = [F' H'] and the cost W of states and R of actions, so that one scan serves both, with the same product of
elements. Given K, the means are an affine chain. Missing observations are rows of zeros in H, of ones on the diagonal
of R, and of zeros in v: they change nothing.

Sources: Kalman (1960); Särkkä and García-Fernández (2021) for the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.errors import IncompatibleMethod
from cai.ops.gaussian.affine_scan import looped_means, scanned_means
from cai.ops.gaussian.control_scan import pays_to_scan as control_pays
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.problem import symmetric
from cai.ops.gaussian.riccati_scan import riccati_scan
from cai.ops.gaussian.state_space import (
    Correction,
    StateSpace,
    applied,
    corrected,
    need_definite,
    need_finite,
    need_noise,
    shrunk,
    solved,
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
        predicted: The covariances P- of a state space, `[T + 1, *batch, n, n]`.
        precisions: The quadratic parts J of its backward messages, of what each observation adds to them,
            `[T + 1, *batch, n, n]`.
        means: The means of an affine chain, of Phi, phi, the first and T; see `looped_means`.
    """

    predicted: Callable[[StateSpace], Tensor]
    precisions: Callable[[StateSpace, Tensor], Tensor]
    means: Callable[[Tensor, Tensor, Tensor, int], Tensor]


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
    means = predicted_means(space, correction, away, passes)
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


def predicted_means(space: StateSpace, correction: Correction, away: Tensor, passes: Passes) -> Tensor:
    """Computes m-, `[T + 1, *batch, n]`.

    Args:
        space: The model, with missing observations taken out.
        correction: What its observations do, `[T + 1, *batch, ...]`.
        away: Observations less their offset, `[T + 1, *batch, k]`.
        passes: How to go through time.
    """
    closed = space.transition @ correction.kept[:-1]
    pushes = applied(space.transition, applied(correction.gains[:-1], away[:-1])) + space.offset
    return passes.means(closed, pushes, space.initial.means, space.horizon)


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
    need_noise(space, "a scan over time", "schedule=Sequential() is the loop, which takes singular ones")
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


def _looped_precisions(space: StateSpace, seen: Tensor) -> Tensor:
    transitions, noises, now = space.transition.unbind(0), space.noise.unbind(0), seen[-1]
    batch = torch.broadcast_shapes(seen.shape[1:], space.transition.shape[1:], space.noise.shape[1:])
    found = [now.expand(batch)]
    for t in range(space.horizon - 1, -1, -1):
        f, w = (part[t if len(part) > 1 else 0] for part in (transitions, noises))
        now = symmetric(seen[t] + f.mT @ shrunk(found[-1], w) @ f)
        found.append(now.expand(batch))
    return torch.stack(found[::-1])


def _scanned_precisions(space: StateSpace, seen: Tensor) -> Tensor:
    """Computes them as the values of control without actions, with luck counted in: eta = 1."""
    batch = torch.broadcast_shapes(seen.shape[1:], space.transition.shape[1:], space.noise.shape[1:])
    mask = torch.ones(batch[-2:], dtype=seen.dtype, device=seen.device)
    scanned = riccati_scan(
        space.transition, seen[:-1], seen[-1].expand(batch), space.horizon, mask=mask, noise=space.noise
    )
    if scanned.lost is not None:
        raise IncompatibleMethod(
            f"a scan over time loses the digits of the backward messages before time {scanned.lost}; "
            "schedule=Sequential() is the loop, which keeps them"
        )
    return scanned.values


#: One time step after the other, and all of them at once.
LOOP = Passes(_looped_predictions, _looped_precisions, looped_means)
SCAN = Passes(_scanned_predictions, _scanned_precisions, scanned_means)


def _log_likelihood(factors: Tensor, innovations: Tensor, known: Tensor) -> Tensor:
    white = solved(factors, innovations[..., None]).squeeze(-1)
    logdets = 2.0 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    terms = white.square().sum(-1) + logdets + math.log(2 * math.pi) * known.sum(-1).to(white)
    return -0.5 * terms.double().sum(0)


def _joined(first: Tensor, second: Tensor, axis: int) -> Tensor:
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return torch.cat([part.expand(*batch, *part.shape[-2:]) for part in (first, second)], axis)


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    n, k = first.shape[-1], second.shape[-1]
    return _joined(pad(first, (0, k)), pad(second, (n, 0)), -2)
