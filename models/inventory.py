r"""Stochastic inventory control: how much to order.

One product, and the demand is known only after the order. The state is the stock s at the start of a month, 0 ..
`capacity`; the action a is the order, which arrives at once and must fit: only 0 .. `capacity` - s are available, the
others have probability 0 under the action prior. Demand D takes its share, and what exceeds the stock is lost: s' =
max(s + a - D, 0). A month pays the expected revenue less the cost of ordering and of holding,

    r(s, a) = price E[min(s + a, D)] - (fixed_cost + unit_cost a) [a > 0] - holding_cost (s + a).

The defaults are the textbook's: capacity 3, order cost 4 + 2 a, holding cost 1, price 8, demand 0, 1, 2 with
probability 1/4, 1/2, 1/4, three months, and no salvage value. Known answer at temperature 0 (the expected revenue is
the reward here, so fixed dynamics is the reading meant):

    stock        0       1        2        3          order at stock 0     at any other
    month 1   67/16   129/16   194/16   227/16               3                  0
    month 2     2      25/4      10      21/2                2                  0
    month 3     0        5        6        5                 0                  0

Source: Puterman (1994), section 3.2.2 (page 41, the numbers) and 4.6.1 (pages 94 to 96, the values and the policy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import cai


def build(
    *,
    capacity: int = 3,
    fixed_cost: float = 4.0,
    unit_cost: float = 2.0,
    holding_cost: float = 1.0,
    price: float = 8.0,
    demand: Sequence[float] = (0.25, 0.5, 0.25),
    initial: int = 0,
    horizon: int | None = 3,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the warehouse: S = A = capacity + 1, rewards `[S, A]`, action prior `[S, A]` uniform over what fits.

    Args:
        capacity: Most units that the warehouse holds.
        fixed_cost: Cost of placing an order, in reward units.
        unit_cost: Cost of a unit ordered, in reward units.
        holding_cost: Cost of a unit in stock after the order arrives, in reward units a month.
        price: Price of a unit sold, in reward units.
        demand: Probabilities of a demand of 0, 1, 2, .. units a month.
        initial: Stock at the start.
        horizon: Number of months; None for ever.
        discount: Discount per month.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A capacity below 1, an initial stock outside 0 .. capacity, demand that is not a probability
            distribution, a cost or price that is not finite.
    """
    demand_probs = np.asarray(demand, dtype=float)
    _check(capacity, initial, demand_probs, (fixed_cost, unit_cost, holding_cost, price))
    levels = np.arange(capacity + 1)
    order, demanded = levels[None, :], np.arange(len(demand_probs))
    fits = levels[:, None] + order <= capacity
    # An order that does not fit is never placed; its row must still be a distribution, so it fills the warehouse.
    stock = np.minimum(levels[:, None] + order, capacity)
    revenue = price * np.minimum(stock[..., None], demanded) @ demand_probs
    cost = (fixed_cost + unit_cost * order) * (order > 0) + holding_cost * stock
    successors = np.maximum(stock[..., None] - demanded, 0)
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=(levels == initial).astype(float)),
        dynamics=cai.factors.TabularDynamics.from_successors(
            successors, np.broadcast_to(demand_probs, successors.shape).copy()
        ),
        reward=cai.factors.TabularReward(np.where(fits, revenue - cost, 0.0)),
        action_prior=cai.factors.TabularPolicy(fits / fits.sum(axis=1, keepdims=True)),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )


def _check(capacity: int, initial: int, demand: np.ndarray, prices: Sequence[float]) -> None:
    """Raises ValueError for the first option that makes no sense."""
    if capacity < 1:
        raise ValueError(f"inventory: capacity must be at least 1, got {capacity}")
    if not 0 <= initial <= capacity:
        raise ValueError(f"inventory: initial must be a stock in 0 .. {capacity}, got {initial}")
    if demand.ndim != 1 or not (demand >= 0).all() or not math.isclose(demand.sum(), 1.0, abs_tol=1e-9):
        raise ValueError(
            f"inventory: demand must be probabilities of 0, 1, 2, .. units, got {demand} summing to {demand.sum()}"
        )
    if not all(math.isfinite(value) for value in prices):
        raise ValueError(f"inventory: costs and price must be finite, got {tuple(prices)}")
