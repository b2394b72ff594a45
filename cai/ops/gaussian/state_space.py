"""Linear-Gaussian state spaces: a hidden state, and what is observed of it.

x_0 ~ N(m, P),   x_{t+1} = F x_t + c + N(0, W),   y_t = H x_t + d + N(0, R)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.errors import IncompatibleMethod, NonFinite
from cai.ops.gaussian.existence import root_of
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.problem import symmetric


@dataclass(frozen=True, eq=False)
class StateSpace:
    """A linear-Gaussian state space; all parts have equally many batch dimensions, which broadcast.

    Attributes:
        transition: F, `[T or 1, *batch, n, n]`.
        offset: c, `[T or 1, *batch, n]`: what is known to push the state, actions included.
        noise: W, `[T or 1, *batch, n, n]`, positive semi-definite.
        observation: H, `[T + 1 or 1, *batch, k, n]`.
        observation_offset: d, `[T + 1 or 1, *batch, k]`.
        observation_noise: R, `[T + 1 or 1, *batch, k, k]`, positive semi-definite.
        initial: Moments of x_0, `[*batch, ...]`; the covariance may be singular.
        horizon: T.
    """

    transition: Tensor
    offset: Tensor
    noise: Tensor
    observation: Tensor
    observation_offset: Tensor
    observation_noise: Tensor
    initial: Moments
    horizon: int


@dataclass(frozen=True, eq=False)
class Correction:
    """What an observation does to the covariance before it, at one time or at all.

    Attributes:
        gains: K, `[..., n, k]`.
        factors: The Cholesky factor of S, `[..., k, k]`.
        info: What LAPACK said of the factorisation, `[...]`: 0 where S is positive definite.
        kept: I - K H, `[..., n, n]`.
        covariances: P+, `[..., n, n]`.
    """

    gains: Tensor
    factors: Tensor
    info: Tensor
    kept: Tensor
    covariances: Tensor


def corrected(covariance: Tensor, observation: Tensor, noise: Tensor) -> Correction:
    """Takes an observation into account, at one time or at all of them.

    Args:
        covariance: P-, `[..., n, n]`.
        observation: H, `[..., k, n]`.
        noise: R, `[..., k, k]`.
    """
    mixed = observation @ covariance
    factors, info = torch.linalg.cholesky_ex(symmetric(mixed @ observation.mT + noise))
    gains = torch.cholesky_solve(mixed, factors).mT
    kept = torch.eye(covariance.shape[-1], dtype=gains.dtype, device=gains.device) - gains @ observation
    after = kept @ covariance @ kept.mT + gains @ noise @ gains.mT
    return Correction(gains, factors, info, kept, symmetric(after))


def without_missing(space: StateSpace, known: Tensor) -> StateSpace:
    """Makes rows of missing observations say nothing; `known` is `[T + 1, *batch, k]`."""
    if known.all():
        return space
    for axis in range(1, known.dim() - 1):  # covariances are shared where all sequences lack the same
        if (known == known.narrow(axis, 0, 1)).all():
            known = known.narrow(axis, 0, 1)
    observation, noise = _only_known(space.observation, space.observation_noise, known)
    return replace(space, observation=observation, observation_noise=noise)


def take_in(space: StateSpace, belief: Moments, seen: Tensor, t: int) -> Moments:
    """Gives the distribution of x_t with the observation of time t, from that without it.

    Args:
        space: The model.
        belief: Moments, `[*batch, ...]`.
        seen: y_t, `[*batch, k]`; NaN where there is none.
        t: Time.

    Raises:
        IncompatibleMethod: The covariance of the observation is not positive definite.
    """
    h, d, r = (_at(x, t) for x in (space.observation, space.observation_offset, space.observation_noise))
    known = ~torch.isnan(seen)
    if not known.all():
        h, r = _only_known(h, r, known)
    correction = corrected(belief.covariances, h, r)
    need_definite(correction.info[None], belief.covariances[None], first=t)
    innovation = torch.where(known, seen - d, 0.0) - applied(h, belief.means)
    return Moments(belief.means + applied(correction.gains, innovation), correction.covariances)


def predict(space: StateSpace, belief: Moments, push: Tensor, t: int) -> Moments:
    """Gives the distribution of x_{t+1} from that of x_t.

    Args:
        space: The model.
        belief: Moments, `[*batch, ...]`.
        push: What moves the state beside F and c, such as B u: `[*batch, n]`.
        t: Time.
    """
    f, c, w = (_at(x, t) for x in (space.transition, space.offset, space.noise))
    return Moments(applied(f, belief.means) + c + push, symmetric(f @ belief.covariances @ f.mT + w))


def _at(part: Tensor, t: int) -> Tensor:
    return part[t if len(part) > 1 else 0]


def _only_known(observation: Tensor, noise: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Gives H and R with what is missing, `[..., k]`, cut out."""
    eye = torch.eye(known.shape[-1], dtype=noise.dtype, device=known.device)
    pairs = known[..., :, None] & known[..., None, :]
    return torch.where(known[..., None], observation, 0.0), torch.where(pairs, noise, eye)


def with_draws(space: StateSpace) -> StateSpace:
    """Puts a batch dimension for draws first, and all offsets and the first mean to zero."""
    timed = ("transition", "offset", "noise", "observation", "observation_offset", "observation_noise")
    parts = {name: getattr(space, name).unsqueeze(1) for name in timed}
    parts |= {name: torch.zeros_like(parts[name]) for name in ("offset", "observation_offset")}
    return replace(space, **parts, initial=Moments(torch.zeros_like(space.initial.means), space.initial.covariances))


def need_finite(values: Tensor, what: str) -> None:
    """Raises `NonFinite` at the first time at which values `[T + 1, ...]` are not finite."""
    if not torch.isfinite(values).all():
        raise NonFinite(f"{what} is not finite at time {int((~torch.isfinite(values)).nonzero()[0, 0])}")


def need_definite(info: Tensor, predicted: Tensor, *, first: int = 0) -> None:
    """Raises `IncompatibleMethod` at the first time at which S was not positive definite: info is `[T + 1, ...]`.

    Args:
        info: What LAPACK said, from time `first` on.
        predicted: P-, of the same times.
        first: The first of these times.
    """
    if not (info != 0).any():
        return
    t = int((info != 0).nonzero()[0, 0])
    need_finite(predicted[: t + 1], "the covariance of the filter")
    raise IncompatibleMethod(
        f"the covariance H P H' + R of the observation at time {first + t} is not positive definite: some combination "
        "of what is observed there is known beforehand; give the observation a positive definite covariance"
    )


def need_noise(space: StateSpace, who: str, advice: str) -> None:
    """Raises `IncompatibleMethod` at the first time at which R is not positive definite."""
    info = torch.linalg.cholesky_ex(space.observation_noise.detach()).info
    if (info != 0).any():
        t = int((info != 0).nonzero()[0, 0])
        raise IncompatibleMethod(
            f"{who} needs observations whose noise is positive definite, and that of time {t} is not; {advice}"
        )


def drawn(covariance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draws N(0, covariance), `[*shape, n]`; the covariance broadcasts with the shape."""
    noise = torch.randn(*shape, covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return applied(root_of(covariance), noise)


def shrunk(matrix: Tensor, by: Tensor) -> Tensor:
    """Computes (P^-1 + J)^-1 = (I + P J)^-1 P of symmetric `[..., n, n]`, positive semi-definite and perhaps singular.

    Its symmetric part is as exact as longer forms that are symmetric by themselves, such as Joseph's, and often more.

    Args:
        matrix: P.
        by: J.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return symmetric(torch.linalg.solve(identity + matrix @ by, matrix))


def solved(factors: Tensor, right: Tensor) -> Tensor:
    """Computes L^-1 R of triangular `[..., k, k]` and `[..., k, c]`: `[..., k, c]`."""
    return torch.linalg.solve_triangular(factors, right, upper=False)


def applied(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Computes M v of `[..., m, n]` and `[..., n]`: `[..., m]`."""
    return (matrix @ vectors[..., None]).squeeze(-1)
