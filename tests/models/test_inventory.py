"""Puterman's inventory against his tables, in exact fractions, and the soft answer against a sum by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close, tables_of

DEMAND = {0: Fraction(1, 4), 1: Fraction(1, 2), 2: Fraction(1, 4)}
PAGE_94 = [["67/16", "129/16", "194/16", "227/16"], ["2", "25/4", "10", "21/2"], ["0", "5", "6", "5"], ["0"] * 4]
ORDERS = [[3, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
REWARDS = {0: [0, -1, -2, -5], 1: [5, 0, -3], 2: [6, -1], 3: [5]}


def reward(stock: int, order: int) -> Fraction:
    """The month's expected revenue less its costs, from section 3.2.2's data."""
    revenue = sum(8 * min(stock + order, demand) * prob for demand, prob in DEMAND.items())
    return revenue - (4 + 2 * order if order else 0) - (stock + order)


def q_of(stock: int, order: int, value: list) -> Fraction:
    return reward(stock, order) + sum(prob * value[max(stock + order - d, 0)] for d, prob in DEMAND.items())


def test_fractions_give_the_printed_tables() -> None:
    assert {s: [reward(s, a) for a in range(4 - s)] for s in range(4)} == REWARDS
    value = [Fraction(0)] * 4
    for t in (2, 1, 0):
        q = [[q_of(s, a, value) for a in range(4 - s)] for s in range(4)]
        value = [max(row) for row in q]
        assert value == [Fraction(x) for x in PAGE_94[t]]
        assert [row.index(max(row)) for row in q] == ORDERS[t]


def test_temperature_zero_is_section_4_6_1() -> None:
    answer = tables_of(cai.infer(cai.load_model("inventory", temperature=0.0), cai.SoftValueIteration()))
    assert_close(answer.v, [[float(Fraction(x)) for x in row] for row in PAGE_94])
    assert_close(answer.policy, np.eye(4)[np.array(ORDERS)])


@pytest.mark.parametrize("alpha", [1.0, 0.2, 5.0])
def test_soft_values_and_orders_that_fit(alpha: float) -> None:
    answer = tables_of(cai.infer(cai.load_model("inventory", temperature=alpha), cai.SoftValueIteration()))
    value = [0.0] * 4
    for t in (2, 1, 0):
        q = [[float(q_of(s, a, value)) for a in range(4 - s)] for s in range(4)]
        value = [alpha * math.log(sum(math.exp(x / alpha) for x in row) / len(row)) for row in q]
        assert_close(answer.v[t], value)
        for s, row in enumerate(q):
            weights = [math.exp((x - value[s]) / alpha) / len(row) for x in row]
            assert_close(answer.policy[t, s], weights + [0.0] * s)


def test_rewards_and_larger_warehouse() -> None:
    graph = cai.load_model("inventory")
    for s, row in REWARDS.items():
        assert_close(graph.reward(torch.full((len(row),), s), torch.arange(len(row))), row)
    larger = cai.load_model("inventory", capacity=20, demand=[0.1] * 10, initial=7, horizon=None, discount=0.9)
    assert (larger.state_space.n, larger.action_space.n) == (21, 21)
    newton, sweeps = (cai.infer(larger, method) for method in (cai.SoftPolicyIteration(), cai.SoftValueIteration()))
    assert_close(newton.v(torch.arange(21)), sweeps.v(torch.arange(21)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"initial": 4}, r"stock in 0 .. 3, got 4"),
        ({"initial": -1}, "got -1"),
        ({"demand": [0.5, 0.4]}, "summing to 0.9"),
        ({"demand": [1.5, -0.5]}, "must be probabilities"),
        ({"demand": [[1.0]]}, "must be probabilities"),
        ({"demand": [float("nan"), 1.0]}, "must be probabilities"),
        ({"price": float("inf")}, "must be finite"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("inventory", **options)
