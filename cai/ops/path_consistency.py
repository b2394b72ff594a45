"""Path consistency: what soft-optimal values and policies satisfy along every path of a deterministic world.

    V(s_t) = sum_{k<d} gamma^k (r_{t+k} - alpha log(pi/mu)(a_{t+k}|s_{t+k})) + gamma^d V(s_{t+d})

In one step it is V = Q - alpha log(pi/mu); along a path it telescopes, whatever policy chose the actions. Where the
world is random, only the mean over successors is zero: the residual of single paths is not, and its square is biased by
the variance.

Source: Nachum, Norouzi, Xu and Schuurmans (2017).
"""

from __future__ import annotations

from torch import Tensor

from cai.ops.segments import cuts, need_same_shapes, values_ahead, window_lengths, window_sums


def path_residuals(
    rewards: Tensor,
    log_ratios: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    temperature: float | Tensor,
    num_steps: int,
) -> Tensor:
    """Computes the residual C of the path that starts at every step, `num_steps` long or to the next end.

        C_t = -V(s_t) + gamma^d V(s_{t+d}) + sum_{k<d} gamma^k (r_{t+k} - alpha log(pi/mu)(a_{t+k}|s_{t+k}))

    V of a terminal state is zero; at a truncation, and at the end of the segment, it is V of the true successor.

    Args:
        rewards: `[T, ...]`, reward units.
        log_ratios: `[T, ...]`, log(pi/mu) of the actions taken, nats.
        values: `[T, ...]`, V(s_t), reward units.
        next_values: `[T, ...]`, V of the true successor.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        temperature: alpha, reward units.
        num_steps: d.

    Returns:
        `[T, ...]`, reward units; differentiable with respect to values, log-ratios and the temperature.

    Raises:
        ValueError: Shapes differ, there is no step, or `num_steps` is below one.

    Source: Nachum, Norouzi, Xu and Schuurmans (2017).
    """
    need_same_shapes(
        rewards=rewards,
        log_ratios=log_ratios,
        values=values,
        next_values=next_values,
        terminated=terminated,
        ended=ended,
    )
    windows = window_lengths(cuts(terminated, ended), num_steps)
    soft = rewards - temperature * log_ratios
    return (
        window_sums(soft, soft, windows, discount) + values_ahead(next_values, terminated, windows, discount) - values
    )
