"""The fixed-interval smoother: messages backward along a linear-Gaussian state space, times those forward.

What the observations after t say of x_t = m+ + e, m+ the mean of the filter, which knows those up to t, is
exp(-e'J e / 2 + q'e) up to a constant, with the next time's J, q, K, v on the right of

    J = Psi' (J + G) F,   q = Psi' (q + (J K + H' R^-1) v),     Psi = (I + W (J + G))^-1 F,  G = H' R^-1 H

and its product with the filter's N(m+, P+) has the

    covariance C = (I + P+ J)^-1 P+,   mean m+ + C q

That is the posterior of Rauch, Tung and Striebel without an inverse of W or P-, which may be singular; only R must not
be. J + G is the value of control without actions, in a world whose luck is counted in (eta = 1), so that its scan
serves here too; given J, the q are an affine chain. Written in innovations, nothing large is subtracted.

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
    shrunk,
    solved,
    with_draws,
)


@dataclass(frozen=True, eq=False)
class _Backward:
    """What does not depend on the numbers observed.

    Attributes:
        turn: Psi', `[T, *batch, n, n]`.
        ahead: J, `[T + 1, *batch, n, n]`.
        seen: L^-1 H with R = L L', `[T + 1 or 1, *batch, k, n]`.
        factors: L.
    """

    turn: Tensor
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
    need_noise(filtered.space, "the smoother", "give it a small variance; the filter takes singular noise")
    backward = _backward(filtered.space, passes)
    covariances = shrunk(filtered.correction.covariances, backward.ahead)
    known = filtered.moments.means
    means = _smoothed_means(backward, filtered.correction, covariances, known, filtered.innovations, passes)
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
    innovations = seen - applied(space.observation, before)
    known = before + applied(correction.gains, innovations)
    backward = _backward(space, passes)
    covariances = shrunk(correction.covariances, backward.ahead)
    return smoothed[:, None] + states - _smoothed_means(backward, correction, covariances, known, innovations, passes)


def _backward(space: StateSpace, passes: Passes) -> _Backward:
    factors = torch.linalg.cholesky(space.observation_noise)
    seen = solved(factors, space.observation)
    adds = (seen.mT @ seen).expand(space.horizon + 1, *[-1] * (seen.dim() - 1))
    after = passes.precisions(space, adds)[1:]
    identity = torch.eye(after.shape[-1], dtype=after.dtype, device=after.device)
    turn = space.transition.mT @ torch.linalg.inv(identity + after @ space.noise)
    ahead = symmetric(turn @ after @ space.transition)
    return _Backward(turn, torch.cat([ahead, torch.zeros_like(ahead[-1:])]), seen, factors)


def _smoothed_means(
    backward: _Backward,
    correction: Correction,
    covariances: Tensor,
    filtered: Tensor,
    innovations: Tensor,
    passes: Passes,
) -> Tensor:
    says = applied(backward.seen.mT, solved(backward.factors, innovations[..., None]).squeeze(-1))
    says = says + applied(backward.ahead, applied(correction.gains, innovations))
    pushes, nothing = applied(backward.turn, says[1:]), torch.zeros_like(filtered[-1])
    chain = passes.means(backward.turn.flip(0), pushes.flip(0), nothing, len(pushes)).flip(0)
    return filtered + applied(covariances, chain)
