"""Enclosures of fixed points, and the growth rates that decide whether there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.graph.tabulate import tabulate
from cai.ops import RiskSensitive
from cai.ops.infinite.enclosure import enclosed_error
from cai.ops.infinite.growth import greatest_climb, growth_rate, why_endless
from tests import oracles, risk_oracles
from tests.laws.build import graph_of


def affine(seed: int, size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """A nonnegative matrix of radius below one, a vector, and the fixed point of v -> matrix v + vector."""
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(size=(size, size))
    matrix *= 0.9 / np.abs(np.linalg.eigvals(matrix)).max()
    vector = rng.normal(size=size)
    return tuple(torch.as_tensor(x) for x in (matrix, vector, np.linalg.solve(np.eye(size) - matrix, vector)))


def bent(matrix: Tensor, vector: Tensor, v: Tensor) -> Tensor:
    """A monotone operator that is neither convex nor concave, of slope at most the matrix."""
    return matrix @ torch.sin(v / 20).clamp(-0.9, 0.9) * 20 + vector


@pytest.mark.parametrize("distance", [1e-1, 1e-5, 1e-12])
@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_enclosed_and_not_much_overstated(seed: int, distance: float) -> None:
    matrix, vector, start = affine(seed)
    fixed = 0.1 * start
    for _ in range(2000):
        fixed = bent(matrix, 0.1 * vector, fixed)
    slope = matrix * torch.cos(fixed / 20)
    time = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - slope, torch.ones(6, dtype=torch.float64))
    v = fixed + distance * torch.as_tensor(np.random.default_rng(seed).uniform(-1, 1, 6))
    backup = lambda x: bent(matrix, 0.1 * vector, x)  # noqa: E731
    bound = enclosed_error(backup, v, backup(v), time, rounding=lambda x: 1e-15)
    error = float((backup(v) - fixed).abs().max())
    assert error <= bound <= 10 * float(time.max()) * (distance + 1e-14)
    # Any positive vector may serve, and none is trusted.
    for other in (time * 1.3, time.flip(0), torch.ones_like(time)):
        assert error <= enclosed_error(backup, v, backup(v), other, rounding=lambda x: 1e-15)
    for useless in (-time, time * math.inf, time * 0):
        assert enclosed_error(backup, v, backup(v), useless, rounding=lambda x: 0.0) == math.inf


def test_what_has_no_fixed_point_is_not_enclosed() -> None:
    """B v = v + 1 has none; far out, where a step drowns in rounding, it must not seem to have one."""
    for size in (0.0, 1e10, 1e17, -1e17):
        v = torch.full((3,), size, dtype=torch.float64)
        for time in (1.0, 1e5, 1e15):
            bound = enclosed_error(
                lambda x: x + 1.0,
                v,
                v + 1.0,
                torch.full_like(v, time),
                rounding=lambda x: 4e-16 * float(x.abs().max()),
            )
            assert bound == math.inf


@pytest.mark.parametrize("eta", [-8.0, -0.5, 1e-6, 0.5, 8.0])
@pytest.mark.parametrize("options", [{}, {"density": 0.4}, {"temperature": 0.0}, {"prior": "flat"}], ids=str)
def test_growth_rate_equals_that_of_sweeps(eta: float, options: dict) -> None:
    problem = oracles.random_problem(51, **({"num_states": 5, "num_actions": 3, "horizon": None} | options))
    tables = tabulate(graph_of(problem))
    assert growth_rate(tables, RiskSensitive(eta)) == pytest.approx(risk_oracles.growth(problem, eta), abs=1e-8)


def test_growth_rate_at_one_over_temperature_is_the_spectral_radius() -> None:
    for num_terminal in (0, 2):
        problem = oracles.random_problem(52, num_states=6, horizon=None, num_terminal=num_terminal)
        rate = growth_rate(tabulate(graph_of(problem)), RiskSensitive(1 / problem.temperature))
        radius = oracles.spectral_radius(oracles.posterior_matrix(problem))
        assert rate / problem.temperature == pytest.approx(math.log(radius), abs=1e-9)


@pytest.mark.parametrize("eta", [-1.3, 0.6])
def test_growth_rate_of_the_coin_in_closed_form(eta: float) -> None:
    """Both states lead on alike: g = alpha log mean_a exp(c_a / alpha), c_a what aiming at state a is worth."""
    coin = cai.load_model("two_state", accuracy=0.8, rewards=(-1.0, 1.0), horizon=None, discount=0.9, temperature=0.5)
    pays = [math.log(0.8 * math.exp(eta * x) + 0.2 * math.exp(-eta * x)) / eta for x in (-1.0, 1.0)]
    rate = 0.5 * math.log(sum(math.exp(x / 0.5) for x in pays) / 2)
    assert growth_rate(tabulate(coin), RiskSensitive(eta)) == pytest.approx(rate, abs=1e-12)


def corridor(rewards: list[float], stay: float, **options: float) -> cai.TrajectoryGraph:
    """States 0 and 1, then the exit: action 0 stays with some chance, else moves on; action 1 stays for certain."""
    dynamics = np.zeros((3, 2, 3))
    for s in range(3):
        dynamics[s, 0, s] += stay
        dynamics[s, 0, min(s + 1, 2)] += 1 - stay
        dynamics[s, 1, s] = 1.0
    return cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0, 0.0]),
        cai.factors.TabularDynamics(dynamics, terminal=[False, False, True]),
        cai.factors.TabularReward(np.array([*rewards, 0.0])),
        temperature=0.3,
        **options,
    )


def test_what_ends_for_certain_does_not_grow() -> None:
    sure, unsure = tabulate(corridor([-1.0, -2.0], stay=0.0)), tabulate(corridor([-1.0, -2.0], stay=0.1))
    assert growth_rate(sure, RiskSensitive(-1.0)) == math.inf  # moving on ends it
    assert growth_rate(unsure, RiskSensitive(-5.0)) < 0
    assert growth_rate(sure, RiskSensitive(1.0)) == pytest.approx(
        -1.0 - 0.3 * math.log(2), abs=1e-9
    )  # staying does not
    assert why_endless(sure, RiskSensitive(-5.0)) == ""
    assert "breaks down" in why_endless(unsure, RiskSensitive(-5.0))


@pytest.mark.parametrize("margin", [-1e-3, 1e-3])
def test_staying_for_ever_must_not_pay(margin: float) -> None:
    """Action 1 stays for certain, so that with a prior of one half it is worth the reward less alpha log 2."""
    reward = 0.3 * math.log(2) + margin
    tables = tabulate(corridor([reward, reward - 1.0], stay=0.1))
    assert greatest_climb(tables, RiskSensitive(-0.01)) == pytest.approx(margin, abs=1e-9)
    assert ("going on for ever" in why_endless(tables, RiskSensitive(-0.01))) == (margin > 0)
