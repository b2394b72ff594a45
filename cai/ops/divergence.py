"""KL between trajectory distributions of one finite world, without enumerating a trajectory.

    KL(q1 || q2) = KL(initial) + sum_t sum_{s,a} n1_t(s,a) [log pi1 - log pi2 + KL(K1(.|s,a) || K2(.|s,a))]

n1 are the expected visits under the first; the kernels' outcomes are (s', goes on) and (s', ends), so that a discount
read as an absorbing state is counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.ops.readings import Kernel


def kl_of_weights(first: Tensor, second: Tensor) -> Tensor:
    """Computes w1 log(w1 / w2) entry by entry: zero where w1 is, `inf` where only w2 is."""
    positive = first > 0
    ratio = torch.where(positive, first, 1.0).log() - torch.where(positive, second, 1.0).log()
    return torch.where(positive, first * ratio, 0.0)


def kl_of_kernels(first: Kernel, second: Kernel) -> Tensor:
    """Computes KL(K1(.|s,a) || K2(.|s,a)) for each pair, `[S, A]`, nats."""
    transitions = first.arrival
    total = torch.zeros_like(transitions.values)
    for goes_on in (True, False):
        weights = [_outcome(kernel, goes_on) for kernel in (first, second)]
        total = total + kl_of_weights(*weights)
    return transitions.over_next(total)


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


def _outcome(kernel: Kernel, goes_on: bool) -> Tensor:
    values = kernel.arrival.values
    if kernel.survival is None:
        return values if goes_on else torch.zeros_like(values)
    chance = kernel.survival if goes_on else 1.0 - kernel.survival
    return values * kernel.arrival.at_next(chance)
