"""Returns of segments of experience: recursions over time that stop where episodes end.

A segment is T steps of some copies of a world, time first: rewards r_t, the value V(s'_t) of the true successor (before
any reset), terminated d_t (the world ended, nothing is worth anything beyond) and ended e_t (terminated or truncated:
the next row is another episode). The last row of a segment counts as cut off: c_t = e_t, and 1 in the last row.

    lambda-return  G_t = r_t + gamma (1 - d_t) [(1 - lambda_t) V(s'_t) + lambda_t G_{t+1}],  lambda_t = lambda (1 - c_t)
    Monte Carlo    the same with lambda = 1: V is read only where something was cut off
    advantage      A_t = delta_t + gamma lambda (1 - e_t) A_{t+1},  delta_t = r_t + gamma (1 - d_t) V(s'_t) - V(s_t)
    n steps        sum_{k<n} gamma^k r_{t+k} - alpha sum_{1<=k<n} gamma^k l_{t+k} + gamma^n V(s_{t+n}),  l = log(pi/mu)

Where an episode terminates and is truncated at once, it terminates. What a terminal state is worth, if anything, is
part of the last reward, times gamma. With rewards - alpha l in the place of rewards, returns and advantages are those
of soft values V; the n-step return is a target of Q(s_t, a_t), whose first action pays nothing.

Everything is differentiable with respect to rewards, values and log-ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.ops.segments import (
    cuts,
    need_same_shapes,
    reverse_recursion,
    times,
    values_ahead,
    window_lengths,
    window_sums,
)


def discounted_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, *, discount: float
) -> Tensor:
    """Computes the reward-to-go of every step, G_t = sum_{k>=t} discount^(k-t) r_k up to the end of its episode.

    Where the episode was truncated, or the segment ends, discount^n V of the last successor is added.

    Args:
        rewards: `[T, ...]`, reward units.
        next_values: `[T, ...]`, V of the true successor; read only where an episode was truncated and in the last row.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, or there is no step.
    """
    return td_lambda_returns(rewards, next_values, terminated, ended, discount=discount, decay=1.0)


def episode_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, *, discount: float
) -> Tensor:
    """Computes, for every step, the return of its whole episode from the first step that the segment has of it.

    The weight of each grad log pi in the plainest policy gradient: with it, and no discount^t, the sum over steps is an
    unbiased gradient of the discounted objective.

    Args:
        rewards: `[T, ...]`, reward units.
        next_values: `[T, ...]`, as in `discounted_returns`.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool.
        discount: gamma.

    Returns:
        `[T, ...]`, reward units.
    """
    to_go = discounted_returns(rewards, next_values, terminated, ended, discount=discount)
    return to_go.gather(0, times(to_go) - steps_in_episode(terminated | ended))


def steps_in_episode(ended: Tensor) -> Tensor:
    """Counts, for every step, the steps that the segment has of its episode before it.

    Args:
        ended: `[T, ...]`, bool.

    Returns:
        `[T, ...]`, int64.
    """
    now = times(ended)
    first = torch.zeros_like(now)
    first[1:] = torch.where(ended[:-1], now[1:], 0)
    return now - first.cummax(0).values


def td_lambda_returns(
    rewards: Tensor, next_values: Tensor, terminated: Tensor, ended: Tensor, *, discount: float, decay: float
) -> Tensor:
    """Computes G_t = r_t + discount (1 - d_t) [(1 - lambda_t) V(s'_t) + lambda_t G_{t+1}], lambda_t = decay (1 - c_t).

    Args:
        rewards: `[T, ...]`, reward units.
        next_values: `[T, ...]`, V of the true successor, reward units; not read where `terminated`.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        decay: lambda; 0 gives one-step targets, 1 Monte Carlo returns.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Sutton and Barto (2018), section 12.1.
    """
    need_same_shapes(rewards=rewards, next_values=next_values, terminated=terminated, ended=ended)
    trace = decay * (~cuts(terminated, ended)).to(rewards.dtype)
    ahead = discount * torch.where(terminated | (trace == 1.0), 0.0, (1.0 - trace) * next_values)
    return reverse_recursion(rewards + ahead, discount * trace)


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    decay: float,
) -> Tensor:
    """Computes A_t = delta_t + discount decay (1 - e_t) A_{t+1}, delta_t = r_t + discount (1 - d_t) V(s'_t) - V(s_t).

    Decay 0 gives the one-step error, decay 1 Monte Carlo returns less V. The recursion starts anew after every end, by
    truncation too; the last row of the segment has its delta alone.

    Args:
        rewards: `[T, ...]`, reward units.
        values: `[T, ...]`, V(s_t).
        next_values: `[T, ...]`, V of the true successor; not read where `terminated`.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        decay: lambda.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Schulman, Moritz, Levine, Jordan and Abbeel (2016), section 3.
    """
    need_same_shapes(rewards=rewards, values=values, next_values=next_values, terminated=terminated, ended=ended)
    errors = rewards + discount * torch.where(terminated, 0.0, next_values) - values
    return reverse_recursion(errors, discount * decay * (~(terminated | ended)).to(rewards.dtype))


def n_step_returns(
    rewards: Tensor,
    next_values: Tensor,
    log_ratios: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    temperature: float,
    num_steps: int,
) -> Tensor:
    """Computes soft n-step targets of Q(s_t, a_t).

        sum_{k<n} gamma^k r_{t+k} - alpha sum_{1<=k<n} gamma^k log(pi/mu)(a_{t+k}|s_{t+k}) + gamma^n V(s_{t+n})

    n is `num_steps`, or fewer where the episode or the segment ends before; nothing is added beyond a termination.

    Args:
        rewards: `[T, ...]`, reward units.
        next_values: `[T, ...]`, soft V of the true successor, reward units.
        log_ratios: `[T, ...]`, log(pi/mu) of the actions taken, nats.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        temperature: alpha, reward units.
        num_steps: n.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, there is no step, or `num_steps` is below one.
    """
    need_same_shapes(
        rewards=rewards, next_values=next_values, log_ratios=log_ratios, terminated=terminated, ended=ended
    )
    windows = window_lengths(cuts(terminated, ended), num_steps)
    summed = window_sums(rewards, rewards - temperature * log_ratios, windows, discount)
    return summed + values_ahead(next_values, terminated, windows, discount)
