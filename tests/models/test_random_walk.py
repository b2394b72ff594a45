"""The random walk against its closed forms, in both readings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close

FIXED = [cai.SoftValueIteration(), cai.SoftPolicyIteration()]


def infer(method: cai.AbstractMethod, **options: float) -> cai.Posterior:
    return cai.infer(cai.load_model("random_walk", **options), method)


def messages(*, num_positions: int, step_cost: float, discount: float, temperature: float, ends: tuple) -> np.ndarray:
    """V of the posterior, by the formula of the model's doc string; complex arithmetic makes the three cases one."""
    last, y = num_positions + 1, np.exp(-step_cost / temperature)
    i, (first, final) = np.arange(last + 1), np.exp(np.array(ends) / temperature)
    if discount * y == 1.0:
        return temperature * np.log(first + (final - first) * i / last)
    rest = y * (1 - discount) / (1 - discount * y)
    theta = np.arccosh(complex(1 / (discount * y)))
    parts = (first - rest) * np.sinh((last - i) * theta) + (final - rest) * np.sinh(i * theta)
    return temperature * np.log((rest + parts / np.sinh(last * theta)).real)


@pytest.mark.parametrize("accuracy", [1.0, 0.7, 0.5, 0.0])
@pytest.mark.parametrize(
    ("cost", "discount", "alpha", "ends"),
    [
        (0.0, 1.0, 1.0, (0.0, 1.0)),
        (0.3, 1.0, 0.5, (0.0, 1.0)),
        (-0.05, 1.0, 1.0, (0.5, -1.0)),
        (0.0, 0.9, 1.0, (0.0, 2.0)),
        (0.2, 0.95, 0.7, (-1.0, 1.0)),
        (-0.1, 0.97, 2.0, (-1.0, 3.0)),
    ],
    ids=["linear", "hyperbolic", "sines", "discounted", "both", "sines, discounted"],
)
def test_posterior_messages(cost: float, discount: float, alpha: float, ends: tuple, accuracy: float) -> None:
    shared = {"num_positions": 6, "step_cost": cost, "discount": discount, "temperature": alpha}
    exact = infer(cai.SumProduct(), **shared, accuracy=accuracy, left_reward=ends[0], right_reward=ends[1])
    expected = messages(**shared, ends=ends)
    assert_close(exact.v(torch.arange(8)), expected)
    assert_close(exact.log_evidence, expected[7 // 2] / alpha)


def test_steering_to_one_end_is_the_conditioned_walk() -> None:
    """With nothing to win on the left, pi(right | i) = (i + 1) / (2 i): Doob's transform of the walk."""
    exact = infer(cai.SumProduct(), num_positions=9, left_reward=-900.0)
    inner = np.arange(1, 10)
    assert_close(exact.policy(inner).probs[:, 1], (inner + 1) / (2.0 * inner))


def test_policy_is_the_ratio_of_messages() -> None:
    options = {"num_positions": 5, "step_cost": 0.3, "temperature": 0.5}
    z = np.exp(messages(**options, discount=1.0, ends=(0.0, 1.0)) / 0.5)
    policy = infer(cai.SumProduct(), **options).policy(torch.arange(1, 6)).probs
    assert_close(policy[:, 1], z[2:] / (z[:-2] + z[2:]))


@pytest.mark.parametrize(("cost", "exists"), [(-0.1, True), (-0.13, True), (-0.15, False), (-1.0, False)])
def test_where_the_posterior_exists(cost: float, exists: bool) -> None:
    """exp(0.1437) cos(pi / 6) = 1 is the limit for six steps from end to end."""
    assert exists == (np.exp(-cost) * np.cos(np.pi / 6) < 1)
    graph = cai.load_model("random_walk", step_cost=cost)
    if exists:
        expected = messages(num_positions=5, step_cost=cost, discount=1.0, temperature=1.0, ends=(0.0, 1.0))
        assert_close(cai.infer(graph, cai.SumProduct()).v(torch.arange(7)), expected)
        return
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph, cai.SumProduct())


@pytest.mark.parametrize("method", FIXED, ids=["VI", "PI"])
def test_deterministic_walk_has_one_answer(method: cai.AbstractMethod) -> None:
    options = {"num_positions": 6, "step_cost": 0.3, "temperature": 0.5}
    expected = messages(**options, discount=1.0, ends=(0.0, 1.0))
    assert_close(infer(method, **options).v(torch.arange(8)), expected)


@pytest.mark.parametrize("method", FIXED, ids=["VI", "PI"])
def test_actions_without_effect_leave_the_plain_walk(method: cai.AbstractMethod) -> None:
    soft = infer(method, accuracy=0.5, step_cost=0.2, left_reward=1.0, right_reward=4.0)
    i = np.arange(7)
    assert_close(soft.v(torch.arange(7)), 1.0 + 3.0 * i / 6 - 0.2 * i * (6 - i))
    assert_close(soft.policy(torch.arange(1, 6)).probs, 0.5)


@pytest.mark.parametrize("method", FIXED, ids=["VI", "PI"])
@pytest.mark.parametrize(("accuracy", "slope", "alpha"), [(0.8, 1.0, 1.0), (0.8, -2.0, 0.5), (0.3, 1.5, 2.0)])
def test_cost_that_the_drift_is_worth(accuracy: float, slope: float, alpha: float, method: cai.AbstractMethod) -> None:
    tilt = (2 * accuracy - 1) * slope / alpha
    cost = alpha * np.log(np.cosh(tilt))
    soft = infer(method, accuracy=accuracy, step_cost=cost, right_reward=6 * slope, temperature=alpha)
    assert_close(soft.v(torch.arange(7)), slope * np.arange(7))
    assert_close(soft.policy(torch.arange(1, 6)).probs[:, 1], 1 / (1 + np.exp(-2 * tilt)))


def test_uniform_policy_gives_the_textbook_values() -> None:
    """Sutton and Barto (2018), example 6.2, page 125."""
    judged = infer(cai.PolicyEvaluation(cai.UniformPolicy(), temperature=0.0))
    assert_close(judged.v(torch.arange(1, 6)), np.arange(1, 6) / 6)


def test_start_and_ends() -> None:
    graph = cai.load_model("random_walk", num_positions=3, start=1)
    assert_close(graph.initial.probs, [0, 1, 0, 0, 0])
    assert graph.dynamics.terminal_mask.tolist() == [True, False, False, False, True]
    assert (graph.state_space.num_rows, graph.state_space.num_columns) == (1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_positions": 0}, "num_positions must be at least 1, got 0"),
        ({"accuracy": -0.1}, "accuracy is a probability"),
        ({"accuracy": float("nan")}, "accuracy is a probability"),
        ({"step_cost": float("inf")}, "must be finite"),
        ({"right_reward": float("nan")}, "must be finite"),
        ({"start": 0}, "start must lie between the ends 0 and 6, got 0"),
        ({"start": 6}, "start must lie between"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("random_walk", **options)
