"""Trajectories of a linear-Gaussian chain: drawn, and their densities."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.data.trajectories import Trajectories
from cai.factors.distributions import DegenerateNormal, support_of
from cai.ops.gaussian.moments import PathMoments
from cai.ops.gaussian.problem import quadratic_form, with_one


def joined(state: Tensor, action: Tensor) -> Tensor:
    """Puts z = [x; 1; u] together, `[..., d]`."""
    batch = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
    state, action = state.expand(*batch, state.shape[-1]), action.expand(*batch, action.shape[-1])
    return torch.cat([with_one(state), action], -1)


def drawn_paths(moments: PathMoments, num: int, length: int) -> Trajectories:
    """Draws trajectories of what has no batch, or one of a single element.

    Args:
        moments: The chain.
        num: Number of trajectories N.
        length: Actions in each.

    Returns:
        N trajectories, with rewards.
    """
    start, arrival, messages = moments.start, moments.arrival, moments.messages
    gains, steps = _alone(messages.gains), _alone(arrival.dynamics)
    spread = roots_of(_alone(messages.covariances))
    noise = None if arrival.noise is None else roots_of(_alone(arrival.noise))
    x = start.means.reshape(1, -1) + _noise(num, roots_of(_alone(start.covariances[None]))[0])
    states, paths = [x], []
    for t in range(length):
        y = with_one(x)
        u = y @ _at(gains, t).mT + _noise(num, _at(spread, t))
        z = torch.cat([y, u], -1)
        x = z @ _at(steps, t).mT
        if noise is not None:
            x = x + _noise(num, _at(noise, t))
        states.append(x)
        paths.append(z)
    path, n = torch.stack(paths, 1), x.shape[-1]
    rewards = -0.5 * quadratic_form(_alone(moments.problem.reward)[:length], path)
    return Trajectories(torch.stack(states, 1), path[..., n + 1 :], rewards)


def roots_of(covariances: Tensor) -> Tensor:
    """Computes G with G G' = S, its columns zero where S has no spread beyond rounding: `[..., n, n]`.

    What is drawn with it stays on the support of N(0, S).

    Args:
        covariances: S, `[..., n, n]`, of any rank.
    """
    on = support_of(covariances)
    inner = torch.where(on.live[..., None], on.root(covariances), 0.0)  # its rows off the support hold a one alone
    return on.scale[..., None] * (on.basis @ inner)


def log_density_of_states(states: Tensor, actions: Tensor, moments: PathMoments) -> Tensor:
    """Computes log p(x_0) and log p(x_{t+1} | x_t, u_t) of all steps at once: `[N, T + 1]`, nats.

    Args:
        states: `[N, T + 1, n]`.
        actions: `[N, T, m]`.
        moments: The chain, of what has no batch, or one of a single element.
    """
    start, arrival, (num_steps, n) = moments.start, moments.arrival, (actions.shape[1], states.shape[-1])
    first = DegenerateNormal(start.means.reshape(n), start.covariances.reshape(n, n)).log_prob(states[:, 0])
    z = joined(states[:, :-1], actions)
    means = (_alone(arrival.dynamics)[:num_steps] @ z[..., None]).squeeze(-1)
    noise = z.new_zeros(1, n, n) if arrival.noise is None else _alone(arrival.noise)
    moved = DegenerateNormal(means, noise[:num_steps]).log_prob(states[:, 1:])
    return torch.cat([first[:, None], moved], 1)


def _alone(part: Tensor) -> Tensor:
    """Drops batch dimensions of size 1: `[T or 1, r, c]`."""
    return part.reshape(len(part), *part.shape[-2:])


def _at(part: Tensor, t: int) -> Tensor:
    return part[t if len(part) > 1 else 0]


def _noise(num: int, root: Tensor) -> Tensor:
    """Draws N(0, G G'): `[N, k]`."""
    return torch.randn(num, root.shape[-1], dtype=root.dtype, device=root.device) @ root.mT
