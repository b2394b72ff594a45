"""Trajectories of a linear-Gaussian chain: drawn, and their densities."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.data.trajectories import Trajectories
from cai.factors.distributions import DegenerateNormal, support_of
from cai.factors.gaussian_checks import as_vector
from cai.ops.gaussian.moments import PathMoments
from cai.ops.gaussian.problem import LinearQuadratic, quadratic_form, with_one


def joined(state: Tensor, action: Tensor) -> Tensor:
    """Puts z = [x; 1; u] together, `[..., d]`."""
    batch = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
    state, action = state.expand(*batch, state.shape[-1]), action.expand(*batch, action.shape[-1])
    return torch.cat([with_one(state), action], -1)


def finite_vector(value: Any, size: int, like: Tensor, name: str) -> Tensor:
    """Reads states or actions `[..., size]`, of the dtype and device of `like`.

    Raises:
        ValueError: Not numbers, another size, or not finite.
    """
    vector = as_vector(value, size, like, name)
    if not torch.isfinite(vector).all():
        raise ValueError(f"{name}: there are numbers that are not finite")
    return vector


def checked_length(num: Any, length: Any, horizon: int | None) -> int:
    """Gives the number of actions in each trajectory to be drawn.

    Raises:
        ValueError: `num` or `length` is no whole number of at least 1, or the length is beyond the horizon, or missing
            where there is none.
    """
    for name, number in (("num", num), ("length", length)):
        whole = isinstance(number, numbers.Real) and not isinstance(number, bool) and float(number).is_integer()
        if not (whole and number >= 1) and (name == "num" or number is not None):
            raise ValueError(f"sample: {name} must be a whole number of at least 1, got {number!r}")
    if length is None and horizon is None:
        raise ValueError("sample: the horizon is infinite and no state is terminal; give length=")
    if horizon is not None and length is not None and length > horizon:
        raise ValueError(f"sample: length must be within 1..{horizon}, the horizon, got {length}")
    return int(horizon if length is None else length)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Steps:
    """What trajectories did.

    Attributes:
        states: `[N, T + 1, n]`, zero in the padding.
        actions: `[N, T, m]`, zero in the padding.
        mask: Which states were visited, `[N, T + 1]`, bool.
    """

    states: Tensor
    actions: Tensor
    mask: Tensor


def steps_taken(trajectories: Trajectories, problem: LinearQuadratic, like: Tensor) -> Steps:
    """Reads trajectories, up to the end of the longest, in the dtype and on the device of `like`.

    Raises:
        ValueError: Longer than the horizon, other sizes than the problem's, or numbers that are not finite.
    """
    num_steps = int(trajectories.lengths.max()) if len(trajectories) else 0
    if problem.horizon is not None and num_steps > problem.horizon:
        raise ValueError(f"log_prob: a trajectory takes {num_steps} actions, the horizon is {problem.horizon}")
    masks = {"states": trajectories.state_mask[:, : num_steps + 1], "actions": trajectories.mask[:, :num_steps]}
    read = {}
    for (name, mask), size in zip(masks.items(), (problem.num_states, problem.num_actions), strict=True):
        values = getattr(trajectories, name)[:, : mask.shape[1]]
        if values.dim() != 3:
            raise ValueError(f"log_prob: expected {name} [N, T, {size}], got {list(values.shape)}")
        read[name] = finite_vector(torch.where(mask[..., None], values, 0), size, like, f"log_prob: {name}")
    return Steps(**read, mask=masks["states"].to(like.device))


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
    first = DegenerateNormal(start.means.reshape(n), start.covariances.reshape(n, n), validate_args=False)
    z = joined(states[:, :-1], actions)
    means = (_alone(arrival.dynamics)[:num_steps] @ z[..., None]).squeeze(-1)
    noise = z.new_zeros(1, n, n) if arrival.noise is None else _alone(arrival.noise)
    moved = DegenerateNormal(means, noise[:num_steps], validate_args=False)
    return torch.cat([first.log_prob(states[:, 0])[:, None], moved.log_prob(states[:, 1:])], 1)


def _alone(part: Tensor) -> Tensor:
    """Drops batch dimensions of size 1: `[T or 1, r, c]`."""
    return part.reshape(len(part), *part.shape[-2:])


def _at(part: Tensor, t: int) -> Tensor:
    return part[t if len(part) > 1 else 0]


def _noise(num: int, root: Tensor) -> Tensor:
    """Draws N(0, G G'): `[N, k]`."""
    return torch.randn(num, root.shape[-1], dtype=root.dtype, device=root.device) @ root.mT
