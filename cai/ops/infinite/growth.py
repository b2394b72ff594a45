"""Whether an infinite horizon has an answer: how fast values grow by the step where nothing ends them.

Far out, where |V| is large, a backup B of tilted dynamics is but for a constant the undiscounted backup T of the same
world without its ends,

    (T V)(s) = alpha log sum_a mu exp(Q / alpha),    Q = r + log(sum over s' not terminal of p exp(eta (r_e + V))) / eta
    B V = T V + log(gamma) / eta + o(1)    as V -> +inf (eta > 0) or V -> -inf (eta < 0)

T is monotone and T(V + c) = T V + c, so it has growth rates, lim (T^n 0)(s) / n. Let g be the greatest of them where
eta > 0, the least where eta < 0. Then V = B V has a finite solution iff

    eta g + log gamma < 0.

Take eta > 0. For every g' > g there is an h with T h <= g' + h (Gaubert and Gunawardena 2004). If g' still satisfies
the criterion, h + c is a supersolution of B for a large c, and iterates that start below it stay there. Conversely a
solution has V = B V >= T V + log(gamma) / eta + d with some d > 0, hence g < -log(gamma) / eta. For eta < 0 all signs
turn. At eta = 1 / alpha, exp(g / alpha) is the spectral radius lambda of M(s,s') = sum_a mu exp(r / alpha) p(s'|s,a),
and the criterion is gamma lambda < 1.

Without discount the ends take its place: the criterion is eta g < 0, as long as every state can reach an end. For
eta < 0 the value may then also grow to +inf, along actions that avoid every end for certain: the greatest growth rate
of those must be below zero, too. (At temperature 0, where loops may cost nothing, a rate of zero decides nothing.)

States that end for certain do not grow: where eta > 0 those from which nothing can go on for ever; where eta < 0 those
from which some choice of actions ends for certain.

Source: Gaubert and Gunawardena (2004), for growth rates; Howard and Matheson (1972) for g as a risk-sensitive gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cai.ops.readings import RiskSensitive
from cai.ops.tables import Tables

#: Sweeps after which a rate is taken as it is.
_MAX_STEPS = 5_000


def why_endless(tables: Tables, reading: RiskSensitive) -> str:
    """Says why an infinite horizon has no finite value; empty where it has one.

    Args:
        tables: The world; where it is not discounted, every state can reach an end.
        reading: How its dynamics is read.
    """
    eta, rate = reading.eta, growth_rate(tables, reading)
    exponent = eta * rate + (math.log(tables.discount) if tables.discount > 0.0 else -math.inf)
    if _diverges(exponent, tables):
        way = "grows without bound" if eta > 0 else "falls without bound (risk-averse control breaks down)"
        return (
            f"the value {way}: in the long run a step that ends nothing is worth g = {rate:.6g} with eta = {eta:g}, "
            f"and eta * g + log(discount) = {exponent:.6g} must be below 0"
        )
    climb = greatest_climb(tables, reading) if eta < 0 and tables.discount == 1.0 else -math.inf
    if not _diverges(climb, tables):
        return ""
    return (
        f"the value grows without bound: going on for ever is worth {climb:.6g} a step, more than any exit (with the "
        "flat prior its entropy alone can be)"
    )


def _diverges(rate: float, tables: Tables) -> bool:
    return rate > 0.0 or (rate == 0.0 and not tables.is_hard)


def growth_rate(tables: Tables, reading: RiskSensitive) -> float:
    """Computes g, the long-run worth of a step that ends nothing, reward units: the greatest, or (eta < 0) the least.

    Args:
        tables: A world of infinite horizon.
        reading: How its dynamics is read.

    Returns:
        g; -inf (eta > 0) or +inf (eta < 0) where every state ends for certain.
    """
    offered = tables.step(0).prior > 0
    if reading.eta > 0:
        lasting = _greatest_set(tables, lambda states: (_may_enter(tables, states) & offered).any(-1))
        return _rate(tables, reading, lasting, outside=-math.inf)
    lasting = _greatest_set(tables, lambda states: (_may_enter(tables, states) | ~offered).all(-1))
    return _rate(tables, reading, lasting, outside=math.inf)


def greatest_climb(tables: Tables, reading: RiskSensitive) -> float:
    """Computes the greatest long-run worth of a step among actions that avoid every end for certain, reward units."""
    offered = tables.step(0).prior > 0
    lasting = _greatest_set(tables, lambda states: (~_may_enter(tables, ~states) & offered).any(-1))
    return _rate(tables, reading, lasting, outside=-math.inf)


def _greatest_set(tables: Tables, keeps: Callable[[Tensor], Tensor]) -> Tensor:
    """Finds the greatest set of states that a rule keeps, `[S]`, bool; terminal states are out."""
    states = ~tables.terminal
    while not torch.equal(fewer := states & keeps(states), states):
        states = fewer
    return states


def _may_enter(tables: Tables, states: Tensor) -> Tensor:
    """Says which pairs lead into a set of states with positive probability, `[S, A]`."""
    return tables.step(0).transitions.expect(states.to(tables.initial.dtype)) > 0.0


def log_spectral_radius(tables: Tables) -> float:
    """Computes log lambda, lambda the spectral radius of M(s,s') = sum_a mu exp(r/alpha) p on non-terminal states.

    Args:
        tables: A world of infinite horizon and positive temperature.

    Returns:
        log lambda, nats; NaN where it has not settled.
    """
    temperature = tables.temperature_value
    return growth_rate(tables, RiskSensitive(1.0 / temperature)) / temperature


def _rate(tables: Tables, reading: RiskSensitive, lasting: Tensor, *, outside: float) -> float:
    """Computes the greatest rate of T on a set of states where all others are worth -inf, the least where +inf.

    Power iteration with (T + 1) / 2, which has no period. At every h, max (T h - h) bounds the greatest rate from
    above, and min (T h - h) the least from below. Both agree in the end if one class holds all states; else the bound
    is taken once it has stood still for as many steps as news takes from one end of the world to the other. NaN where
    neither has happened.
    """
    if not lasting.any():
        return outside
    step = replace(tables.step(0), discount=1.0)
    relevant = lasting[:, None] & (step.prior > 0)
    h, rate, still = torch.where(lasting, torch.zeros_like(tables.terminal_values), outside), math.nan, 0
    with torch.no_grad():
        for _ in range(_MAX_STEPS):
            q = torch.where(relevant, reading.q(step, h), 0.0)
            change = (reading.v(step, q) - h)[lasting]
            low, high = float(change.min()), float(change.max())
            before, rate = rate, high if outside < 0 else low
            still = still + 1 if rate == before else 0
            if high - low <= 1e-13 * max(1.0, abs(rate)) or still >= 4 * tables.num_states + 100:
                return rate
            h[lasting] += (change - change.max()) / 2
    return math.nan
