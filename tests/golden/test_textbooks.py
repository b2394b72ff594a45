"""A few published numbers, each with its page. Sutton and Barto are quoted by the second edition (2018).

Tables printed to one decimal are compared to half a unit of that decimal; closed forms to 1e-10.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close, numpy_of

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))

EQUIPROBABLE = """
 3.3  8.8  4.4  5.3  1.5
 1.5  3.0  2.3  1.9  0.5
 0.1  0.7  0.7  0.4 -0.4
-1.0 -0.4 -0.4 -0.6 -1.2
-1.9 -1.3 -1.2 -1.4 -2.0"""
OPTIMAL = """
22.0 24.4 22.0 19.4 17.5
19.8 22.0 19.8 17.8 16.0
17.8 19.8 17.8 16.0 14.4
16.0 17.8 16.0 14.4 13.0
14.4 16.0 14.4 13.0 11.7"""
FOUR_BY_FOUR = """
  0 -14 -20 -22
-14 -18 -20 -20
-20 -20 -18 -14
-22 -20 -14   0"""


def numbers(text: str) -> np.ndarray:
    return np.array(text.split(), float)


def grid(side: int) -> np.ndarray:
    """Successors `[S, 4]` of a square grid whose walls keep one in place."""
    nexts = np.zeros((side * side, 4), int)
    for s, (a, (down, right)) in ((s, move) for s in range(side * side) for move in enumerate(MOVES)):
        row, column = s // side + down, s % side + right
        nexts[s, a] = row * side + column if 0 <= row < side and 0 <= column < side else s
    return nexts


def dynamics_of(nexts: np.ndarray, terminal: list[int]) -> cai.factors.TabularDynamics:
    table = np.eye(len(nexts))[nexts]
    return cai.factors.TabularDynamics(table, terminal=torch.as_tensor(np.isin(np.arange(len(nexts)), terminal)))


def test_gridworld_of_example_3_5_and_3_8() -> None:
    """Pages 60 and 65: discount 0.9, A and B jump and pay 10 and 5, walls cost 1."""
    nexts = grid(5)
    reward = -(nexts == np.arange(25)[:, None]).astype(float)
    nexts[1], reward[1] = 21, 10.0
    nexts[3], reward[3] = 13, 5.0
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(0),
        dynamics=dynamics_of(nexts, []),
        reward=cai.factors.TabularReward(reward),
        discount=0.9,
        temperature=0.0,
    )
    uniform = cai.factors.TabularPolicy(np.full((25, 4), 0.25))
    states = torch.arange(25)
    judged = cai.infer(graph, cai.PolicyEvaluation(uniform, temperature=0.0))
    assert np.abs(numpy_of(judged.v(states)) - numbers(EQUIPROBABLE)).max() <= 0.05 + 1e-9
    best = cai.infer(graph, cai.SoftValueIteration())
    assert np.abs(numpy_of(best.v(states)) - numbers(OPTIMAL)).max() <= 0.05 + 1e-9


def test_gridworld_of_example_4_1() -> None:
    """Page 77: undiscounted, -1 a step until one of two corners, the equiprobable policy."""
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(5),
        dynamics=dynamics_of(grid(4), [0, 15]),
        reward=cai.factors.TabularReward(-np.ones((16, 4))),
    )
    uniform = cai.factors.TabularPolicy(np.full((16, 4), 0.25))
    judged = cai.infer(graph, cai.PolicyEvaluation(uniform, temperature=0.0))
    assert_close(judged.v(torch.arange(16)), numbers(FOUR_BY_FOUR))
    assert_close(judged.expected_return, -18.0)


def test_random_walk_of_example_6_2() -> None:
    """Page 125: five states, ends at either side, 1 at the right: values 1/6 to 5/6."""
    nexts = np.array([[0, 0], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [6, 6]])
    reward = np.zeros((7, 2))
    reward[5, 1] = 1.0
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(3),
        dynamics=dynamics_of(nexts, [0, 6]),
        reward=cai.factors.TabularReward(reward),
    )
    uniform = cai.factors.TabularPolicy(np.full((7, 2), 0.5))
    judged = cai.infer(graph, cai.PolicyEvaluation(uniform, temperature=0.0))
    assert_close(judged.v(torch.arange(1, 6)), np.arange(1, 6) / 6)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
def test_cliff_walking_of_example_6_6(method: cai.AbstractMethod) -> None:
    """Page 132: the best path along the cliff returns -13."""
    posterior = cai.infer(cai.from_gym("CliffWalking-v1", temperature=0.0), method)
    assert_close(posterior.v(36), -13.0)
    assert_close(posterior.expected_return, -13.0)


@pytest.mark.parametrize("cost", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("width", [4, 12])
def test_gamblers_ruin(cost: float, width: int) -> None:
    """E exp(-cost * duration) of the fair ruin game, cosh(k (i - w/2)) / cosh(k w/2) with cosh k = e^cost.

    Source: Feller (1968), An Introduction to Probability Theory, volume 1, third edition, XIV.4, equations 4.11, 4.12.
    """
    cells = np.arange(width + 1)
    nexts = np.stack([np.maximum(cells - 1, 0), np.minimum(cells + 1, width)], 1)
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(width // 2),
        dynamics=dynamics_of(nexts, [0, width]),
        reward=cai.factors.TabularReward(np.full((width + 1, 2), -cost)),
    )
    posterior = cai.infer(graph, cai.SumProduct())
    k = np.arccosh(np.exp(cost))
    x = np.abs(cells - width / 2)
    log_cosh = [y + np.log1p(np.exp(-2 * y)) - np.log(2) for y in (k * x, k * width / 2)]
    assert_close(posterior.v(torch.arange(width + 1)), log_cosh[0] - log_cosh[1])
