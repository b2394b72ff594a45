"""Where a stationary policy goes, and what it pays for leaving the action prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.ops.infinite.linear import implicit
from cai.ops.logspace import safe_log
from cai.ops.messages import Messages
from cai.ops.tables import Tables

if TYPE_CHECKING:
    from cai.ops.infinite.fixed_point import Stationary


def policy_costs(tables: Tables, policy: Tensor) -> Tensor:
    """Computes alpha KL(pi(.|s) || mu(.|s)), `[1 or T, S]`, in reward units: what a policy pays for leaving the prior.

    Args:
        tables: The world; its prior is mu.
        policy: `[1 or T, S, A]`, probabilities.
    """
    taken = policy > 0  # elsewhere no logarithm enters: 0 (-inf - -inf) has no gradient
    ratio = torch.where(taken, safe_log(policy) - torch.where(taken, safe_log(tables.priors), 0.0), 0.0)
    return tables.temperature * (policy * ratio).sum(-1)


def stationary_occupancy(problem: Stationary, messages: Messages, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the expected (discounted) number of visits of a stationary policy, and what is absorbed.

    n = (I - G')^-1 d_0 on the non-terminal states, by one transposed solve, differentiable (once).

    Args:
        problem: The fixed-point problem.
        messages: Its solution.
        initial: `[S]`, the distribution of s_0.

    Returns:
        Visits `[S, A]` (zero at terminal states) and the mass that ends in each terminal state, `[S]`.
    """
    tables, q, v = problem.tables, messages.q[0], messages.v[0]
    kernel = problem.reading.kernel(tables.step(0), q, v)
    acting = problem.log_policy_of(q, v).exp() * tables.alive[:, None]
    resolvent = problem.resolvent(problem.chain(q, v, v), v)
    visits = resolvent.solve(initial * tables.alive, transposed=True)
    once_more = tables.alive * (initial + kernel.push(visits[:, None] * acting))
    visits = implicit(visits, once_more, resolvent, transposed=True)
    pairs = visits[:, None] * acting
    absorbed = torch.where(tables.terminal, initial + kernel.push(pairs), 0.0)
    return pairs, absorbed
