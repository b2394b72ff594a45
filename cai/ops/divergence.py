"""KL between trajectory distributions of one finite world, without enumerating a trajectory.

    KL(q1 || q2) = KL(initial) + sum_t sum_{s,a} n1_t(s,a) [log pi1 - log pi2 + KL(K1(.|s,a) || K2(.|s,a))]

n1 are the expected visits under the first; the kernels' outcomes are (s', goes on) and (s', ends), so that a discount
read as an absorbing state is counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.ops.readings import Kernel


def kl_terms(log_first: Tensor, log_second: Tensor) -> Tensor:
    """Computes w1 (log w1 - log w2) of log-weights, entry by entry: zero where w1 is, `inf` where only w2 is.

    Args:
        log_first: `[...]`, nats.
        log_second: `[...]`, nats.
    """
    positive = ~torch.isneginf(log_first)
    kept = torch.where(positive, log_first, 0.0)
    return torch.where(positive, kept.exp() * (kept - torch.where(positive, log_second, 0.0)), 0.0)


def kl_of_kernels(first: Kernel, second: Kernel) -> Tensor:
    """Computes KL(K1(.|s,a) || K2(.|s,a)) for each pair, `[S, A]`, nats."""
    total = sum(kl_terms(one, other) for one, other in zip(_log_outcomes(first), _log_outcomes(second), strict=True))
    assert isinstance(total, Tensor)
    return first.transitions.over_next(total)


def kl_of_steps(visits: Tensor, log_policies: tuple[Tensor, Tensor], kernels: tuple[Kernel, Kernel]) -> Tensor:
    """Computes one step's part of the KL between trajectory distributions, 0-dim, nats.

    Args:
        visits: `[S, A]`, expected visits under the first.
        log_policies: log pi1 and log pi2, `[S, A]`.
        kernels: K1 and K2.
    """
    visited = visits > 0
    differ = torch.where(visited, log_policies[0] - log_policies[1], 0.0)
    step = torch.where(visited, kl_of_kernels(*kernels), 0.0)
    return (visits * (differ + step)).sum()


def _log_outcomes(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Gives log K of arriving and going on, and of arriving and ending, on entries."""
    arrival, survival = kernel.log_arrival, kernel.survival
    if survival is None:
        return arrival, torch.full_like(arrival, -torch.inf)
    at_next = kernel.transitions.at_next
    return arrival + at_next(survival.log_goes_on), arrival + at_next(survival.log_ends)
