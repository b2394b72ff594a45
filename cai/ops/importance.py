"""Importance weights: of samples, and of the steps of an episode that another policy has chosen.

    weights           w_k = p(x_k) / q(x_k),  self-normalised w_k / sum w
    effective size    (sum w)^2 / sum w^2, between 1 and K
    soft value        V = alpha log E_{a~q} [mu(a) exp(Q(a)/alpha) / q(a)], biased low by alpha Var(w) / (2 K E[w]^2)
    per decision      grad J = E_b sum_t gamma^t (prod_{k<=t} rho_k) grad log pi(a_t|s_t) G_t
                      G_t = sum_{j>=t} gamma^(j-t) r_j prod_{t<k<=j} rho_k,  rho_k = pi(a_k|s_k) / b(a_k|s_k)

The second product starts after t: rho_t is in the first one already, and would be counted twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.ops.logspace import AlongDim, log_expectation, logsumexp
from cai.ops.segments import cuts, need_same_shapes, reverse_recursion


def normalised_weights(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Computes w_k / sum_k w_k along a dimension.

    Args:
        log_weights: `[..., K, ...]`, nats; a constant more or less is the same.
        dim: The dimension of the samples.

    Returns:
        `[..., K, ...]`; zero throughout where all weights are.
    """
    total = logsumexp(log_weights, dim).unsqueeze(dim)
    return (log_weights - torch.where(torch.isneginf(total), 0.0, total)).exp()


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Computes (sum w)^2 / sum w^2: how many samples without weights would tell as much.

    Args:
        log_weights: `[..., K, ...]`, nats; a constant more or less is the same.
        dim: The dimension of the samples.

    Returns:
        `[...]`, between 1 and K; zero where all weights are.

    Source: Kong, Liu and Wong (1994).
    """
    weights = normalised_weights(log_weights, dim)
    squares = weights.square().sum(dim)
    return torch.where(squares > 0, 1.0 / squares, 0.0)


def importance_sampled_soft_value(
    q: Tensor, log_proposal: Tensor, *, temperature: float | Tensor, dim: int = 0
) -> Tensor:
    """Estimates V = alpha log int mu(a) exp(Q(a)/alpha) da from K actions of a proposal.

        alpha (logsumexp_k(Q_k / alpha - log q_k) - log K)

    It is biased low, by about alpha Var(w) / (2 K E[w]^2), w = exp(Q/alpha) / q; the effective sample size is
    `effective_sample_size(q / temperature - log_proposal)`. At temperature 0 it is the greatest Q.

    Args:
        q: `[..., K, ...]`, reward units.
        log_proposal: Log-density of the actions under the proposal, less their log-density under the action prior where
            there is one; broadcast against `q`, nats.
        temperature: alpha, reward units; 0 for the maximum.
        dim: The dimension of the actions.

    Returns:
        `[...]`, reward units.

    Source: Haarnoja, Tang, Abbeel and Levine (2017), equation 10.
    """
    if temperature == 0:
        return q.amax(dim)
    log_weights = q / temperature - log_proposal
    even = torch.full_like(log_weights, 1.0 / log_weights.shape[dim])
    return temperature * log_expectation(log_weights, even, AlongDim(dim), all_positive=True)


def per_decision_weights(log_weights: Tensor, ended: Tensor, *, limit: float = math.inf) -> Tensor:
    """Computes prod_{k<=t} min(c, rho_k) over the steps of the episode of t, from the first that the segment has of it.

    Args:
        log_weights: log rho_t = log pi(a_t|s_t) - log b(a_t|s_t), `[T, ...]`, nats.
        ended: `[T, ...]`, bool, terminated or truncated: the next row is another episode.
        limit: c, what each factor is truncated at; without a limit the weights are unbiased, with c = 1 none exceeds 1.

    Returns:
        `[T, ...]`.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Precup, Sutton and Singh (2000).
    """
    need_same_shapes(log_weights=log_weights, ended=ended)
    total, starts = log_weights.clamp(max=_log(limit)), torch.zeros_like(ended)
    starts[0], starts[1:] = True, ended[:-1]
    step = 1
    while step < len(total):  # a pass doubles the number of earlier rows taken in, up to the start of the episode
        total = torch.cat([total[:step], torch.where(starts[step:], total[step:], total[step:] + total[:-step])])
        starts = torch.cat([starts[:step], starts[step:] | starts[:-step]])
        step *= 2
    return total.exp()


def per_decision_returns(
    rewards: Tensor,
    next_values: Tensor,
    log_weights: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    limit: float = math.inf,
) -> Tensor:
    """Computes the reward-to-go of every step under another policy than the one that acted.

        G_t = sum_{j>=t} gamma^(j-t) r_j prod_{t<k<=j} min(c, rho_k) = r_t + gamma min(c, rho_{t+1}) G_{t+1}

    Args:
        rewards: `[T, ...]`, reward units.
        next_values: `[T, ...]`, V of the true successor under the policy in question; read where an episode was
            truncated and in the last row.
        log_weights: log rho_t = log pi(a_t|s_t) - log b(a_t|s_t), `[T, ...]`, nats.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        limit: c, what each factor is truncated at.

    Returns:
        `[T, ...]`, reward units. Times `per_decision_weights` and grad log pi, the sum over steps is the gradient.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Precup, Sutton and Singh (2000).
    """
    need_same_shapes(
        rewards=rewards, next_values=next_values, log_weights=log_weights, terminated=terminated, ended=ended
    )
    cut = cuts(terminated, ended)
    inputs = rewards + discount * torch.where(cut & ~terminated, next_values, 0.0)
    ratios = log_weights.clamp(max=_log(limit)).exp()
    following = torch.cat([ratios[1:], torch.zeros_like(ratios[:1])])
    return reverse_recursion(inputs, torch.where(cut, 0.0, discount * following))


def per_decision_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    log_weights: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    decay: float,
    limit: float = math.inf,
) -> Tensor:
    """Computes generalised advantages under another policy than the one that acted.

        A_t = delta_t + discount decay (1 - e_t) min(c, rho_{t+1}) A_{t+1}
        delta_t = r_t + discount (1 - d_t) V(s'_t) - V(s_t)

    With decay 1 it is `per_decision_returns` less V(s_t), and terms in V(s_k) (1 - rho_k), k > t, of mean zero.

    Args:
        rewards: `[T, ...]`, reward units.
        values: `[T, ...]`, V(s_t).
        next_values: `[T, ...]`, V of the true successor; not read where `terminated`.
        log_weights: log rho_t = log pi(a_t|s_t) - log b(a_t|s_t), `[T, ...]`, nats.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        decay: lambda.
        limit: c, what each factor is truncated at.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Precup, Sutton and Singh (2000); Schulman, Moritz, Levine, Jordan and Abbeel (2016).
    """
    need_same_shapes(
        rewards=rewards,
        values=values,
        next_values=next_values,
        log_weights=log_weights,
        terminated=terminated,
        ended=ended,
    )
    errors = rewards + discount * torch.where(terminated, 0.0, next_values) - values
    ratios = log_weights.clamp(max=_log(limit)).exp()
    following = torch.cat([ratios[1:], torch.zeros_like(ratios[:1])])
    return reverse_recursion(errors, torch.where(terminated | ended, 0.0, discount * decay * following))


def v_trace_returns(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    log_weights: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    limit: float = 1.0,
    trace_limit: float = 1.0,
) -> Tensor:
    """Computes V-trace targets of V(s_t): lambda-returns with truncated importance weights.

        G_t = V(s_t) + delta_t + gamma (1 - e_t) min(trace_limit, rho_t) (G_{t+1} - V(s_{t+1}))
        delta_t = min(limit, rho_t) (r_t + gamma (1 - d_t) V(s'_t) - V(s_t))

    Args:
        rewards: `[T, ...]`, reward units.
        values: `[T, ...]`, V(s_t).
        next_values: `[T, ...]`, V of the true successor.
        log_weights: log rho_t = log pi(a_t|s_t) - log b(a_t|s_t), `[T, ...]`, nats.
        terminated: `[T, ...]`, bool.
        ended: `[T, ...]`, bool, terminated or truncated.
        discount: gamma.
        limit: What a weight of an error is truncated at; it decides whose values are the fixed point.
        trace_limit: What a factor of the trace is truncated at; it decides the variance.

    Returns:
        `[T, ...]`, reward units.

    Raises:
        ValueError: Shapes differ, or there is no step.

    Source: Espeholt et al. (2018), equation 1.
    """
    need_same_shapes(
        rewards=rewards,
        values=values,
        next_values=next_values,
        log_weights=log_weights,
        terminated=terminated,
        ended=ended,
    )
    errors = rewards + discount * torch.where(terminated, 0.0, next_values) - values
    traces = log_weights.clamp(max=_log(trace_limit)).exp()
    factors = torch.where(terminated | ended, 0.0, discount * traces)
    return values + reverse_recursion(log_weights.clamp(max=_log(limit)).exp() * errors, factors)


def _log(limit: float) -> float:
    """The logarithm of a limit of weights."""
    if not limit > 0:
        raise ValueError(f"a limit of importance weights must be positive, got {limit}")
    return math.log(limit)
