"""The fixed-interval smoother: messages backward along a linear-Gaussian state space, times those forward.

What the observations from t on say of x_t is exp(-x'J x / 2 + j'x) up to a constant; with g_t, G_t what y_t alone says,

    j_t = g_t + Psi' (j_{t+1} - J_{t+1} c),   J_t = G_t + Psi' J_{t+1} F,   Psi = (I + W J_{t+1})^-1 F
    g_t = H' R^-1 (y_t - d),   G_t = H' R^-1 H

and the product with the filter's N(m+, P+), which knows y_0..y_t, takes the message without g_t and G_t:

    covariance C = (I + P+ J)^-1 P+,   mean m+ + C (j - J m+)

That is the posterior of Rauch, Tung and Striebel without an inverse of W or P-, which may be singular; only R must not
be. J is the value of control without actions, in a world whose luck is counted in (eta = 1), so that its scan serves
here too; given J, the j are an affine chain.

Trajectories are drawn by mean correction: x + E[X | y] - E[X | Y = y_x] with x, y_x drawn from the model.

Sources: Fraser and Potter (1969) for the product; Rauch, Tung and Striebel (1965); Durbin and Koopman (2002) for the
samples; Särkkä and García-Fernández (2021) for the scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.gaussian.kalman import Filtered, Passes, predicted_means
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.problem import symmetric
from cai.ops.gaussian.state_space import (
    Correction,
    StateSpace,
    applied,
    drawn,
    need_finite,
    need_noise,
    solved,
    with_draws,
)


@dataclass(frozen=True, eq=False)
class _Backward:
    """What does not depend on the numbers observed.

    Attributes:
        turn: Psi', `[T, *batch, n, n]`.
        after: J_{t+1}, `[T, *batch, n, n]`.
        ahead: J_t without G_t, `[T + 1, *batch, n, n]`.
        seen: L^-1 H with R = L L', `[T + 1 or 1, *batch, k, n]`.
        factors: L.
    """

    turn: Tensor
    after: Tensor
    ahead: Tensor
    seen: Tensor
    factors: Tensor


def kalman_smoother(filtered: Filtered, passes: Passes) -> Moments:
    """Computes the moments of each x_t given all observations, `[T + 1, *batch, ...]`.

    Args:
        filtered: What the filter found.
        passes: How to go through time.

    Raises:
        IncompatibleMethod: The noise of an observation is not positive definite; or a scan loses digits.
        NonFinite: A mean is not finite, at which time.
    """
    need_noise(filtered.space, "the smoother", "give it a variance, however small; the filter takes singular noise")
    backward = _backward(filtered.space, passes)
    covariances = shrunk(filtered.correction.covariances, backward.ahead)
    away = filtered.innovations + applied(filtered.space.observation, filtered.predicted.means)
    means = _smoothed_means(filtered.space, backward, covariances, filtered.moments.means, away, passes)
    need_finite(means, "the mean of the smoother")
    return Moments(means, covariances.expand(*means.shape, means.shape[-1]))


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
    before = predicted_means(space, correction, seen, passes)
    means = before + applied(correction.gains, seen - applied(space.observation, before))
    backward = _backward(space, passes)
    covariances = shrunk(correction.covariances, backward.ahead)
    return smoothed[:, None] + states - _smoothed_means(space, backward, covariances, means, seen, passes)


def _backward(space: StateSpace, passes: Passes) -> _Backward:
    factors = torch.linalg.cholesky(space.observation_noise)
    seen = solved(factors, space.observation)
    adds = (seen.mT @ seen).expand(space.horizon + 1, *[-1] * (seen.dim() - 1))
    after = passes.precisions(space, adds)[1:]
    identity = torch.eye(after.shape[-1], dtype=after.dtype, device=after.device)
    turn = space.transition.mT @ torch.linalg.inv(identity + after @ space.noise)
    ahead = symmetric(turn @ after @ space.transition)
    return _Backward(turn, after, torch.cat([ahead, torch.zeros_like(ahead[-1:])]), seen, factors)


def _smoothed_means(
    space: StateSpace, backward: _Backward, covariances: Tensor, filtered: Tensor, away: Tensor, passes: Passes
) -> Tensor:
    """Computes the means for observations less their offset, `[T + 1, *batch, k]`, zero where missing."""
    says = applied(backward.seen.mT, solved(backward.factors, away[..., None]).squeeze(-1))
    pushes = applied(backward.turn, applied(backward.after, space.offset))
    chain = passes.means(backward.turn.flip(0), (says[:-1] - pushes).flip(0), says[-1], space.horizon).flip(0)
    ahead = applied(backward.turn, chain[1:]) - pushes
    moved = ahead - applied(backward.ahead[:-1], filtered[:-1])
    return torch.cat([filtered[:-1] + applied(covariances[:-1], moved), filtered[-1:]])
