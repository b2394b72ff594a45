"""The steered coin, whose every answer is a formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close, tables_of

REWARDS = np.array([-0.4, 1.1])
CASES = [(0.8, 1.0), (0.5, 0.3), (1.0, 2.0), (0.1, 0.7)]


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def fixed_gain(accuracy: float, alpha: float, discount: float = 1.0) -> float:
    """The value of a free choice of where to aim, one step before the reward of the next state."""
    aims = discount * (REWARDS[0] + np.array([1 - accuracy, accuracy]) * (REWARDS[1] - REWARDS[0]))
    return alpha * np.log(np.exp(aims / alpha).mean())


def build(accuracy: float, alpha: float, **options: object) -> cai.TrajectoryGraph:
    return cai.load_model("two_state", accuracy=accuracy, rewards=tuple(REWARDS), temperature=alpha, **options)


@pytest.mark.parametrize(("accuracy", "alpha"), CASES)
def test_fixed_dynamics(accuracy: float, alpha: float) -> None:
    graph = build(accuracy, alpha, horizon=6, initial=(0.7, 0.3))
    soft = cai.infer(graph, cai.SoftValueIteration())
    answer, gain = tables_of(soft), fixed_gain(accuracy, alpha)
    turn = sigmoid((2 * accuracy - 1) * (REWARDS[1] - REWARDS[0]) / alpha)
    assert_close(answer.v, np.append(REWARDS + gain * np.arange(5, -1, -1)[:, None], [[0, 0]], axis=0))
    assert_close(answer.policy[:, :, 1], np.append(np.full((5, 2), turn), [[0.5, 0.5]], axis=0))
    lies = turn * accuracy + (1 - turn) * (1 - accuracy)
    assert_close(soft.state_marginals[:, 1], [0.3, *[lies] * 5, 0.5])
    assert_close(soft.log_evidence, ([0.7, 0.3] @ REWARDS + 5 * gain) / alpha)


@pytest.mark.parametrize(("accuracy", "alpha"), CASES)
def test_posterior(accuracy: float, alpha: float) -> None:
    graph = build(accuracy, alpha, horizon=6, initial=(0.7, 0.3))
    exact = cai.infer(graph, cai.SumProduct())
    answer, x = tables_of(exact), np.exp(REWARDS / alpha)
    gain = alpha * np.log(x.mean())
    turn = (accuracy * x[1] + (1 - accuracy) * x[0]) / x.sum()
    assert_close(answer.v, np.append(REWARDS + gain * np.arange(5, -1, -1)[:, None], [[0, 0]], axis=0))
    assert_close(answer.policy[:, :, 1], np.append(np.full((5, 2), turn), [[0.5, 0.5]], axis=0))
    first = 0.3 * x[1] / (0.7 * x[0] + 0.3 * x[1])
    assert_close(exact.state_marginals[:, 1], [first, *[x[1] / x.sum()] * 5, 0.5])
    assert_close(exact.log_evidence, np.log([0.7, 0.3] @ x) + 5 * gain / alpha)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
@pytest.mark.parametrize(("accuracy", "alpha"), CASES)
def test_fixed_dynamics_discounted(accuracy: float, alpha: float, method: cai.AbstractMethod) -> None:
    graph = build(accuracy, alpha, horizon=None, discount=0.9)
    constant = fixed_gain(accuracy, alpha, discount=0.9) / (1 - 0.9)
    soft = cai.infer(graph, method)
    error = np.abs(soft.v(torch.arange(2)).numpy() - REWARDS - constant).max()
    assert error <= soft.stats.certified_error <= 1e-10 * max(1, np.abs(REWARDS + constant).max())


@pytest.mark.parametrize("accuracy", [0.8, 0.5])
def test_posterior_discounted(accuracy: float) -> None:
    graph = build(accuracy, 2.0, horizon=None, discount=0.6)
    x = np.exp(REWARDS / 2.0)
    constant = 2.0 * np.log((1 - 0.6) / (1 - 0.6 * x.mean()))
    assert_close(cai.infer(graph, cai.SumProduct()).v(torch.arange(2)), REWARDS + constant)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
@pytest.mark.parametrize(("accuracy", "alpha"), CASES)
def test_fixed_dynamics_undiscounted(accuracy: float, alpha: float, method: cai.AbstractMethod) -> None:
    soft = cai.infer(build(accuracy, alpha, horizon=None), method)
    turn = sigmoid((2 * accuracy - 1) * (REWARDS[1] - REWARDS[0]) / alpha)
    lies = turn * accuracy + (1 - turn) * (1 - accuracy)
    assert_close(soft.gain, fixed_gain(accuracy, alpha))
    assert_close(soft.v(torch.arange(2)), REWARDS - [1 - lies, lies] @ REWARDS)
    assert_close(soft.policy(torch.arange(2)).probs[:, 1], turn)
    assert_close(soft.state_marginals, [1 - lies, lies])


@pytest.mark.parametrize(("accuracy", "alpha"), CASES)
def test_posterior_undiscounted(accuracy: float, alpha: float) -> None:
    exact = cai.infer(build(accuracy, alpha, horizon=None, initial=(0.7, 0.3)), cai.SumProduct())
    x = np.exp(REWARDS / alpha)
    assert_close(exact.gain, alpha * np.log(x.mean()))
    assert_close(exact.v(torch.arange(2)), REWARDS - x / x.sum() @ REWARDS)
    assert_close(exact.policy(torch.arange(2)).probs[:, 1], (accuracy * x[1] + (1 - accuracy) * x[0]) / x.sum())
    assert_close(exact.state_marginals, x / x.sum())


def test_temperature_zero_undiscounted() -> None:
    hard = cai.infer(build(0.8, 0.0, horizon=None), cai.SoftValueIteration())
    assert_close(hard.gain, REWARDS @ [0.2, 0.8], 1e-9)
    assert_close(hard.state_marginals, [0.2, 0.8])


def test_posterior_discounted_does_not_exist_for_ever_growing_rewards() -> None:
    graph = build(0.8, 1.0, horizon=None, discount=0.9)
    assert np.exp(REWARDS).mean() * 0.9 > 1
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph, cai.SumProduct())


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct()], ids=["fixed", "posterior"])
def test_cold_posterior_counts_on_its_luck(method: cai.AbstractMethod) -> None:
    policy = cai.infer(build(0.8, 1e-3, horizon=4), method).policy(torch.arange(2), t=1).probs
    expected = 1.0 if isinstance(method, cai.SoftValueIteration) else 0.8
    assert_close(policy[:, 1], expected)


def test_temperature_zero() -> None:
    hard = cai.infer(build(0.8, 0.0, horizon=4), cai.SoftValueIteration())
    gain = REWARDS @ [0.2, 0.8]
    assert_close(hard.v(torch.arange(2), t=0), REWARDS + 3 * gain)
    assert_close(hard.policy(torch.arange(2), t=0).probs, [[0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 1.2}, "accuracy is a probability"),
        ({"accuracy": float("nan")}, "accuracy is a probability"),
        ({"rewards": (1.0,)}, "two finite numbers"),
        ({"rewards": (1.0, float("inf"))}, "two finite numbers"),
        ({"initial": (1.0, 0.0, 0.0)}, "two probabilities"),
        ({"initial": (0.5, 0.6)}, "1.1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("two_state", **options)
