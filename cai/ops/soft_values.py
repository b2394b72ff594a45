"""Soft values of finitely many actions, as learners need them: small batches, float32, many times a second.

    V = alpha log sum_a mu(a) exp(Q(a) / alpha)          pi(a) = mu(a) exp((Q(a) - V) / alpha)

with the limits V = max Q and pi = mu on the best actions at temperature zero. An action that mu excludes, log mu =
-inf, counts nowhere, whatever its finite Q.

`cai.ops.readings` has the same for tables of exact messages, where whole states may be dead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.ops.logspace import log_expectation
from cai.ops.readings import HIGH_TEMPERATURE


def soft_value(q: Tensor, log_prior: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes V = alpha log sum_a mu(a) exp(Q(a) / alpha), or max_a Q(a) at temperature zero.

    Args:
        q: `[*batch, A]`, reward units.
        log_prior: log mu, `[*batch, A]` or what broadcasts to it, nats; `-inf` for what mu excludes, but not for all.
        temperature: alpha >= 0, reward units, a number or 0-dim.

    Returns:
        `[*batch]`, reward units.
    """
    if temperature == 0:
        return torch.where(torch.isneginf(log_prior), -torch.inf, q).amax(-1)
    if temperature >= HIGH_TEMPERATURE:
        return temperature * log_expectation(q / temperature, log_prior.exp())
    return temperature * torch.logsumexp(q / temperature + log_prior, -1)


def soft_log_policy(q: Tensor, log_prior: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes log pi(a) = log mu(a) + (Q(a) - V) / alpha; at temperature zero mu restricted to the best actions.

    Args:
        q: `[*batch, A]`, reward units.
        log_prior: log mu, `[*batch, A]` or what broadcasts to it, nats; `-inf` for what mu excludes, but not for all.
        temperature: alpha >= 0, reward units, a number or 0-dim.

    Returns:
        `[*batch, A]`, nats, normalised.
    """
    if temperature == 0:
        best = q >= soft_value(q, log_prior, 0.0)[..., None]
        return torch.where(best, log_prior, -torch.inf).log_softmax(-1)
    return (q / temperature + log_prior).log_softmax(-1)
