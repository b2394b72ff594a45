"""What a backup proves: bounds of the error of a fixed point V = B V.

With residual k = B V - V and the expected time to the end n = (I - G)^-1 1, N = max n:

    fixed dynamics, gamma < 1:         gamma/(1 - gamma) min k <= V* - B V <= gamma/(1 - gamma) max k
                                       (k = 0 at terminal states counts). So |V* - V| <= max|k| / (1 - gamma); and where
                                       nothing ends the middle of the two bounds, taken as the answer, is off by half
                                       their distance: the span of k counts, and not its size
    a given policy:                    |V* - V| <= N max|k|
    otherwise, with d = expm1(max|k| / alpha), if d N < 1, which proves that V* exists:
                                       |V* - V| <= -alpha log(1 - d N)

The last holds because exp(K / alpha), K = V* - V, is bounded from both sides by 1 +- c n, super- and subsolutions of
its linear equation. N itself is verified: any n > 0 with (I - G) n >= 1 bounds the time to the end. Rounding of the
residual is counted in max|k|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.ops.infinite.linear import EXACT, ROUGH, Resolvent
from cai.ops.infinite.risk_steps import risk_judged
from cai.ops.infinite.sweeps import Swept
from cai.ops.readings import HIGH_TEMPERATURE, RiskSensitive

if TYPE_CHECKING:
    from cai.ops.infinite.fixed_point import Iterate, Stationary


def judged(
    problem: Stationary, iterate: Iterate, swept: Swept, tolerance: float, longest: float | Callable[[], float]
) -> Iterate:
    """Makes the next iterate of a backup of this one: its residual, its certified error, whether it is done.

    Args:
        problem: The fixed-point problem.
        iterate: The iterate that was swept.
        swept: What came of it.
        tolerance: Error of V to reach, relative to max(1, max|V|).
        longest: The expected time to the end, steps, or what computes it: asked for only where it can decide.
    """
    if isinstance(problem.reading, RiskSensitive):
        return risk_judged(problem, iterate, swept, tolerance)
    target = tolerance * max(1.0, swept.largest)
    slack = rounding(problem, swept.largest)
    stalled = iterate.residual <= swept.residual <= slack
    done = replace(iterate, v=swept.v.detach(), num_steps=iterate.num_steps + 1, residual=swept.residual)
    if problem.contracts:
        error = _error_from(problem, swept.residual + slack, 1.0)
        if error > target and not problem.tables.has_exits:
            centred = _centred(problem, done, swept, slack)
            if centred.certified_error <= target:
                return replace(centred, done=True)
        return replace(done, certified_error=error, done=error <= target or stalled)
    if callable(longest):
        if _error_from(problem, swept.residual + slack, iterate.longest) > target and not stalled:
            return replace(done, certified_error=math.inf)
        longest = longest()
    error = _error_from(problem, swept.residual + slack, longest)
    return replace(done, certified_error=error, longest=max(longest, 1.0), done=error <= target or stalled)


def _centred(problem: Stationary, iterate: Iterate, swept: Swept, rounding: float) -> Iterate:
    """Moves B V to the middle of the two bounds of V*, as if V had been moved by a constant before the backup."""
    discount = problem.tables.discount
    half, middle = 0.5 * (swept.high - swept.low), 0.5 * (swept.high + swept.low)
    reach = discount / (1.0 - discount)
    v = torch.where(problem.tables.terminal, iterate.v, iterate.v + reach * middle)
    return replace(iterate, v=v, residual=half, certified_error=reach * half + rounding / (1.0 - discount))


def rounding(problem: Stationary, largest: float) -> float:
    """Bounds the rounding of one backup whose values are at most this large, reward units."""
    # A log-sum-exp rounds by some eps of the temperature; above this one another arithmetic takes over.
    temperature = min(problem.tables.temperature_value, HIGH_TEMPERATURE)
    return 16 * torch.finfo(problem.tables.terminal_values.dtype).eps * (problem.largest_reward + largest + temperature)


def longest_at(problem: Stationary, v_next: Tensor) -> float:
    """The expected time to the end under the policy of a value `[S]`, steps."""
    q, v = problem.backup(v_next)
    chain = problem.chain(q, v, v_next)
    return longest_time(problem, chain, problem.resolvent(chain, v), ROUGH)


def longest_time(
    problem: Stationary, chain: np.ndarray | scipy.sparse.csr_matrix, resolvent: Resolvent, forcing: float
) -> float:
    """Computes a verified bound of the expected time to the end, steps; infinite where there is none.

    Args:
        problem: The fixed-point problem.
        chain: G, `[S, S]`.
        resolvent: (I - G)^-1.
        forcing: Zero for an exact solve; above, a rough one is tried first.
    """
    if problem.contracts:
        return 1.0 / (1.0 - problem.tables.discount)
    ones = torch.ones(problem.tables.num_states, dtype=torch.float64)
    for rtol in (ROUGH, EXACT) if forcing else (EXACT,):
        time = resolvent.solve(ones, rtol=rtol).numpy()
        if np.isfinite(time).all() and time.min() > 0.0 and (slack := (time - chain @ time).min()) > 0.0:
            return float(time.max() / slack)
    return math.inf


def _error_from(problem: Stationary, residual: float, longest: float) -> float:
    """Bounds |V* - B V|, hence |V* - V| of what is returned; see the module's doc string."""
    if problem.contracts:
        return residual / (1.0 - problem.tables.discount)
    if problem.policy is not None:
        return longest * residual
    if problem.tables.is_hard:
        return math.inf
    temperature = problem.tables.temperature_value
    grown = math.expm1(min(residual / temperature, 700.0)) * longest
    return math.inf if grown >= 1.0 else residual - temperature * math.log1p(-grown)
