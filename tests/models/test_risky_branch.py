"""The risky branch: what fixed dynamics and exact conditioning say of one gamble."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close

CASES = [(2.0, 4.0, 0.5, 1.0), (1.0, 3.0, 0.2, 0.5), (-1.0, 2.0, 0.9, 3.0), (2.0, 500.0, 0.01, 1.0)]
HORIZONS = [1, 3, None]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def infer(method: cai.AbstractMethod, case: tuple, horizon: int | None) -> cai.Posterior:
    names = ("safe", "prize", "probability", "temperature")
    return cai.infer(cai.load_model("risky_branch", **dict(zip(names, case, strict=True)), horizon=horizon), method)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("case", CASES)
def test_fixed_dynamics(case: tuple, horizon: int | None) -> None:
    safe, prize, probability, alpha = case
    soft = infer(cai.SoftValueIteration(), case, horizon)
    assert_close(soft.policy(0).probs[1], sigmoid((probability * prize - safe) / alpha))
    value = alpha * (np.logaddexp(safe / alpha, probability * prize / alpha) - np.log(2))
    assert_close(soft.v(0), value)
    assert_close(soft.v(torch.arange(1, 4)), [safe, prize, 0.0])
    assert_close(soft.log_evidence, value / alpha)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("case", CASES)
def test_posterior(case: tuple, horizon: int | None) -> None:
    safe, prize, probability, alpha = case
    exact = infer(cai.SumProduct(), case, horizon)
    gamble = alpha * np.logaddexp(np.log(probability) + prize / alpha, np.log1p(-probability))
    assert_close(exact.policy(0).probs[1], sigmoid((gamble - safe) / alpha))
    assert_close(exact.v(0), alpha * (np.logaddexp(safe / alpha, gamble / alpha) - np.log(2)))
    assert_close(exact.q(0, torch.arange(2)), [safe, gamble])


@pytest.mark.parametrize("case", CASES)
def test_posterior_tilts_the_luck(case: tuple) -> None:
    safe, prize, probability, alpha = case
    weights = np.array([safe, prize, 0.0]) / alpha + np.log([0.5, 0.5 * probability, 0.5 * (1 - probability)])
    expected = np.exp(weights - np.logaddexp.reduce(weights))
    assert_close(infer(cai.SumProduct(), case, 1).state_marginals[1], [0.0, *expected])


def test_the_numbers_of_the_doc_string() -> None:
    soft, exact = (infer(method, CASES[0], 1) for method in (cai.SoftValueIteration(), cai.SumProduct()))
    assert_close(soft.policy(0).probs[1], 0.5)
    assert round(float(exact.policy(0).probs[1]), 3) == 0.790
    safe, won, lost = exact.state_marginals[1, 1:].tolist()
    assert round(won / (won + lost), 3) == 0.982
    assert_close(safe + won + lost, 1.0)
    gap = soft.gap(exact)
    assert_close(gap.kl, exact.log_evidence - soft.log_evidence)
    assert gap.kl > 0.3


def test_cold_limits() -> None:
    hard = infer(cai.SoftValueIteration(), (2.0, 3.0, 0.5, 0.0), 1)
    assert_close(hard.v(0), 2.0)
    assert_close(hard.policy(0).probs, [1.0, 0.0])
    cold = infer(cai.SumProduct(), (2.0, 3.0, 0.5, 1e-4), 1)
    assert_close(cold.v(0), 3.0, 1e-3)
    assert_close(cold.policy(0).probs, [0.0, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.1}, "probability must be in"),
        ({"probability": float("nan")}, "probability must be in"),
        ({"safe": float("inf")}, "must be finite"),
        ({"prize": float("nan")}, "must be finite"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("risky_branch", **options)
