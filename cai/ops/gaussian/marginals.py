"""Forward messages of a linear-quadratic problem: means and covariances of states and actions.

Under the policy u ~ N(K y, Sigma), y = [x; 1], and messages read with eta (`cai.ops.gaussian.riccati`), the next state
is tilted by exp(eta V):

    x' ~ N(G (F x + B u + c - eta W p), G W),      G = (I + eta W P)^-1

P and p of the next value; eta = 0 leaves the dynamics as it is. With G_y = I - eta W P~ on homogeneous coordinates,

    y' = G_y D z,     z = [y; u],     covariance of x' = Phi C Phi' + G B Sigma B' G' + G W,    Phi = G (F + B K_x)

The means are the optimum of the deterministic problem in which noise is one more control of cost w'W^-1 w / (2 eta).
Their gradient is one more such problem with the same gains and factors and a linear term alone: two sweeps of vectors,
where the gradient of the messages is a sweep of matrices. With multipliers lambda = P y and, of the second problem,
dz and dlambda,

    M_bar = -(dz z' + z dz') / 2,   D_bar = -(dlambda z' + lambda dz')
    (eta W)_bar = (dlambda lambda' + lambda dlambda') / 2

Source: Amos et al. (2018) for the gradient; Toussaint (2009) for the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from cai.ops.gaussian.problem import (
    LinearQuadratic,
    QuadraticMessages,
    flat_batch,
    summed_over_time,
    symmetric,
    with_one,
)
from cai.ops.gaussian.risk import is_zero, scaled_noise, through_noise, towards_luck


@dataclass(frozen=True, eq=False)
class Moments:
    """A Gaussian at each time.

    Attributes:
        means: `[T, *batch, n]`.
        covariances: `[T, *batch, n, n]`.
    """

    means: Tensor
    covariances: Tensor


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """The chain of states under the policy: x' ~ N(Phi x + phi, Omega), from N(mean, covariance).

    Attributes:
        transition: Phi, `[T or 1, *batch, n, n]`.
        offset: phi, `[T or 1, *batch, n]`.
        noise: Omega, `[T or 1, *batch, n, n]`.
    """

    transition: Tensor
    offset: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Arrival:
    """The distribution of the next state given state and action: N(D_x z, noise), z = [x; 1; u].

    Attributes:
        dynamics: The rows of x' in G_y D, `[T or 1, *batch, n, d]`.
        noise: G W, `[T or 1, *batch, n, n]`, or None where there is none.
    """

    dynamics: Tensor
    noise: Tensor | None


def start_of(problem: LinearQuadratic, messages: QuadraticMessages, eta: float | Tensor) -> Moments:
    """Gives the distribution of x_0, tilted by exp(eta V_0): means `[*batch, n]`, covariances `[*batch, n, n]`."""
    n = problem.num_states
    mean, covariance = problem.initial_mean, problem.initial_covariance
    if covariance is None:
        return Moments(mean, mean.new_zeros(*mean.shape, n))
    if is_zero(eta):
        return Moments(mean, covariance)
    value = messages.values[0]
    turn = _solved(eta * covariance, value[..., :n, :n])
    shifted = mean[..., None] - eta * (covariance @ value[..., :n, n:])
    return Moments((turn @ shifted).squeeze(-1), symmetric(turn @ covariance))


def arrival_of(problem: LinearQuadratic, messages: QuadraticMessages, eta: float | Tensor) -> Arrival:
    """Gives the distribution of the next state under these messages."""
    n, noise = problem.num_states, problem.noise
    scaled = scaled_noise(problem, eta)
    if scaled is None or noise is None:
        return Arrival(problem.dynamics[..., :n, :], noise)
    after = messages.values if problem.horizon is None else messages.values[1:]
    turned = towards_luck(problem.dynamics, through_noise(after, scaled), scaled)
    return Arrival(turned[..., :n, :], symmetric(_solved(scaled, after[..., :n, :n]) @ noise))


def closed_loop(arrival: Arrival, messages: QuadraticMessages) -> ClosedLoop:
    """Gives the chain of states under the policy of these messages."""
    n = arrival.dynamics.shape[-2]
    steps, acts = arrival.dynamics[..., : n + 1], arrival.dynamics[..., n + 1 :]
    moved = steps + acts @ messages.gains
    noise = acts @ messages.covariances @ acts.mT
    if arrival.noise is not None:
        noise = noise + arrival.noise
    return ClosedLoop(moved[..., :n], moved[..., n], symmetric(noise))


def covariances_forward(chain: ClosedLoop, covariance: Tensor, horizon: int) -> Tensor:
    """Computes C_{t+1} = Phi C_t Phi' + Omega, one step after the other: `[T + 1, *batch, n, n]`.

    Args:
        chain: The chain.
        covariance: C_0, `[*batch, n, n]`.
        horizon: T.
    """
    batch = torch.broadcast_shapes(covariance.shape, chain.transition.shape[1:], chain.noise.shape[1:])
    now = covariance.expand(batch)
    everything = [now]
    transitions, noises = chain.transition.unbind(0), chain.noise.unbind(0)
    for t in range(horizon):
        phi = transitions[t if len(transitions) > 1 else 0]
        now = symmetric(phi @ now @ phi.mT + noises[t if len(noises) > 1 else 0])
        everything.append(now)
    return torch.stack(everything)


def optimal_path(problem: LinearQuadratic, messages: QuadraticMessages, eta: float | Tensor, start: Tensor) -> Tensor:
    """Computes the mean trajectory z_t = [x_t; 1; u_t]: `[T + 1, *batch, d]`, without an action at the last time.

    Differentiable by two sweeps of vectors, with the gains and factors of the messages.

    Args:
        problem: The problem, of finite horizon.
        messages: Its backward messages.
        eta: The risk parameter they were read with.
        start: The mean of x_0, `[*batch, n]`.
    """
    batch = torch.broadcast_shapes(messages.gains.shape[1:-2], start.shape[:-1])
    scaled = scaled_noise(problem, eta)
    if problem.discount < 1.0 or messages.factors is None or not (problem.learns or start.requires_grad):
        noise = None if scaled is None else flat_batch(scaled, batch)
        turned = _turned(flat_batch(problem.dynamics, batch), flat_batch(messages.values, batch), noise)
        path = _rolled(
            turned, flat_batch(messages.gains, batch), flat_batch(with_one(start)[None, ..., None], batch)[0]
        )
    else:
        fixed = [x.detach() for x in (messages.values, messages.gains, messages.factors)]
        parts = [problem.dynamics, problem.cost, problem.end[None], with_one(start)[None, ..., None]]
        parts += [] if scaled is None else [scaled]
        path = _OptimalPath.apply(*(flat_batch(part, batch) for part in (*fixed, *parts)))
    return path.reshape(len(path), *batch, path.shape[-2])


class _OptimalPath(torch.autograd.Function):
    """The mean trajectory and its adjoint; time first, one batch dimension."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gains: Tensor, factors: Tensor, *parts: Tensor) -> Tensor:
        """Rolls the means out, z_t, `[T + 1, B, d, 1]`."""
        dynamics, _, _, start, *noise = parts
        turned = _turned(dynamics, values, noise[0] if noise else None)
        path = _rolled(turned, gains, start[0])
        ctx.save_for_backward(values, gains, factors, turned, path, *parts)
        return path

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Solves the second problem: one sweep of vectors back, one forward."""
        values, gains, factors, turned, path, dynamics, cost, end, _, *noise = ctx.saved_tensors
        (gradient,), k = gradients, end.shape[-1]
        pushes = _pushes(gradient, gains, factors, turned)
        w, feed = pushes.values, pushes.feeds
        drift = None
        if noise:  # x' = G (F x + B u + c - eta W w)
            padded = pad(noise[0], (0, 1, 0, 1))
            drift = _turned(-padded, values, noise[0]) @ w[1:]
        answer = _rolled(turned, gains, torch.zeros_like(w[0]), feed=feed, drift=drift)
        multipliers = (values[1:] @ path[1:, :, :k])[..., 0]
        answers = (values[1:] @ answer[1:, :, :k] + w[1:])[..., 0]
        z, dz = path[..., 0], answer[..., 0]
        half = -0.5 * dz
        of_cost = _outer(half[:-1], z[:-1], z[:-1], half[:-1])
        of_end = _outer(half[-1:], z[-1:], z[-1:], half[-1:])[..., :k, :k]
        of_dynamics = _outer(-answers, z[:-1], -multipliers, dz[:-1])
        of_noise = []
        if noise:
            n = k - 1
            outer = symmetric(answers[..., :n, None] * multipliers[..., None, :n])
            of_noise = [summed_over_time(outer, noise[0])]
        parts = [summed_over_time(of_dynamics, dynamics), summed_over_time(of_cost, cost), of_end, -w[:1], *of_noise]
        return None, None, None, *parts


def _outer(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Computes a b' + c d', `[..., k, l]`: a product over an inner dimension of two is slower."""
    return (a[..., None] * b[..., None, :]).addcmul_(c[..., None], d[..., None, :])


@dataclass(frozen=True, eq=False)
class _Pushes:
    values: Tensor
    feeds: Tensor


def _pushes(gradient: Tensor, gains: Tensor, factors: Tensor, turned: Tensor) -> _Pushes:
    """Solves backward for the linear terms of the second problem: w_t `[T + 1, B, k, 1]` and k_t `[T, B, m, 1]`."""
    k = gains.shape[-1]
    now = -gradient[-1, :, :k]
    values, feeds = [now], []
    back, turned_gains = turned.mT.unbind(0), gains.mT.unbind(0)
    for t in range(len(gains) - 1, -1, -1):
        push = torch.baddbmm(-gradient[t], back[t if len(back) > 1 else 0], now)
        feeds.append(torch.cholesky_solve(push[:, k:], factors[t]).neg_())
        now = torch.baddbmm(push[:, :k], turned_gains[t], push[:, k:])
        values.append(now)
    return _Pushes(torch.stack(values[::-1]), torch.stack(feeds[::-1]))


def _rolled(
    turned: Tensor, gains: Tensor, start: Tensor, *, feed: Tensor | None = None, drift: Tensor | None = None
) -> Tensor:
    """Computes y' = G_y D [y; K y + feed] + drift: z_t, `[T + 1, B, d, 1]`, zero actions at the last."""
    y, path = start, []
    steps = turned.unbind(0)
    for t, gain in enumerate(gains.unbind(0)):
        action = gain.bmm(y) if feed is None else torch.baddbmm(feed[t], gain, y)
        z = torch.cat([y, action], 1)
        path.append(z)
        step = steps[t if len(steps) > 1 else 0]
        y = step.bmm(z) if drift is None else torch.baddbmm(drift[t], step, z)
    return torch.stack([*path, pad(y, (0, 0, 0, gains.shape[-2]))])


def _turned(dynamics: Tensor, values: Tensor, noise: Tensor | None) -> Tensor:
    """Computes (I - eta W P~) D for all steps."""
    return towards_luck(dynamics, through_noise(values[1:], noise), noise)


def _solved(scaled: Tensor, values: Tensor) -> Tensor:
    """Computes G = (I + eta W P)^-1, `[..., n, n]`."""
    identity = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    return torch.linalg.inv(identity + scaled @ values)
