"""Linear models with known answers: Fibonacci numbers, minimum-effort transfers, scipy's Riccati solver."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

import cai

PHI = (1 + math.sqrt(5)) / 2
POINTS = torch.tensor([[-2.0], [0.0], [1.0], [3.0]], dtype=torch.float64)


def curvature(posterior: Any, t: int = 0) -> float:
    """P of V(x) = -P x^2 / 2 + constant, by values at three points."""
    low, middle, high = (float(posterior.v(torch.tensor([x]).double(), t=t)) for x in (-1.0, 0.0, 1.0))
    return -(low - 2 * middle + high)


# -- the golden ratio -------------------------------------------------------------------------------------------------


def fibonacci(number: int) -> int:
    before, last = 1, 0
    for _ in range(number):
        before, last = last, before + last
    return last


@pytest.mark.parametrize(("noise", "alpha"), [(0.0, 1.0), (0.5, 0.3), (2.0, 4.0)])
def test_fibonacci_numbers(noise: float, alpha: float) -> None:
    soft = cai.infer(
        cai.load_model("golden_ratio", horizon=12, noise=noise, temperature=alpha), cai.SoftValueIteration()
    )
    for k in range(1, 13):
        t = 12 - k
        assert curvature(soft, t) == pytest.approx(float(Fraction(fibonacci(2 * k), fibonacci(2 * k - 1))), rel=1e-11)
        before = Fraction(fibonacci(2 * k - 2), fibonacci(2 * k - 3)) if k > 1 else Fraction(0)
        policy = soft.policy(POINTS, t=t)
        gain = fibonacci(2 * k - 2) / fibonacci(2 * k - 1)
        np.testing.assert_allclose(policy.mean, -gain * POINTS, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(policy.covariance_matrix[0], alpha / float(1 + before), rtol=1e-12)


@pytest.mark.parametrize(("noise", "alpha"), [(0.5, 0.3), (1.0, 1.0)])
def test_golden_ratio_without_a_horizon(noise: float, alpha: float) -> None:
    graph = cai.load_model("golden_ratio", horizon=None, noise=noise, temperature=alpha)
    soft = cai.infer(graph, cai.SoftValueIteration())
    assert curvature(soft) == pytest.approx(PHI, rel=1e-11)
    np.testing.assert_allclose(soft.policy(POINTS).mean, -POINTS / PHI, rtol=1e-10, atol=1e-12)
    gain = 0.5 * (alpha * math.log(2 * math.pi * alpha / (1 + PHI)) - PHI * noise**2)
    assert float(soft.gain) == pytest.approx(gain, rel=1e-10)
    variance = (noise**2 + alpha / PHI**2) / (1 - PHI**-4)
    assert float(soft.state_marginals.variance) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize(("noise", "alpha"), [(0.0, 1.0), (0.5, 0.3), (1.0, 1.0), (30.0, 0.1)])
def test_golden_ratio_of_an_optimist(noise: float, alpha: float) -> None:
    graph = cai.load_model("golden_ratio", horizon=60, noise=noise, temperature=alpha)
    w = noise**2 / alpha
    assert curvature(cai.infer(graph, cai.SumProduct())) == pytest.approx(0.5 + math.sqrt(0.25 + 1 / (1 + w)), rel=1e-8)


def test_golden_ratio_at_temperature_zero() -> None:
    hard = cai.infer(cai.load_model("golden_ratio", horizon=4, temperature=0.0), cai.SoftValueIteration())
    assert float(hard.v(torch.tensor([2.0]))) == pytest.approx(-0.5 * 21 / 13 * 4, rel=1e-14)


# -- the double integrator --------------------------------------------------------------------------------------------


def transfer_cost(steps: int, dt: float, effort: float, free: np.ndarray, ends: np.ndarray) -> float:
    """The formula of the doc string, one dimension."""
    reach = np.array(
        [[dt**3 * steps * (4 * steps**2 - 1) / 12, dt**2 * steps**2 / 2], [dt**2 * steps**2 / 2, dt * steps]]
    )
    return 0.5 * free @ np.linalg.solve(np.diag(1 / ends) + reach / effort, free)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_value_of_a_transfer(dimensions: int, steps: int) -> None:
    rng = np.random.default_rng(steps)
    start, goal = rng.normal(size=2 * dimensions), rng.normal(size=dimensions)
    graph = cai.load_model(
        "double_integrator",
        dimensions=dimensions,
        horizon=steps,
        step=0.2,
        start=start,
        goal=goal,
        effort=0.7,
        position_weight=30.0,
        velocity_weight=2.0,
        temperature=0.0,
    )
    hard = cai.infer(graph, cai.SoftValueIteration())
    place, speed = start[:dimensions] - goal, start[dimensions:]
    free = np.stack([place + 0.2 * steps * speed, speed], -1)
    cost = sum(transfer_cost(steps, 0.2, 0.7, one, np.array([30.0, 2.0])) for one in free)
    assert float(hard.v(torch.as_tensor(start))) == pytest.approx(-cost, rel=1e-10)
    warm = cai.infer(graph.replace(temperature=0.5), cai.SoftValueIteration())
    np.testing.assert_allclose(warm.policy(start, t=0).mean, hard.policy(start, t=0).mean, rtol=1e-9, atol=1e-12)


def test_rest_to_rest_in_a_straight_line_of_accelerations() -> None:
    steps, dt = 30, 0.1
    graph = cai.load_model(
        "double_integrator", temperature=0.0, position_weight=1e12, velocity_weight=1e12, start=[-2.0, 0.0]
    )
    hard = cai.infer(graph, cai.SoftValueIteration())
    assert float(hard.v(torch.tensor([-2.0, 0.0]).double())) == pytest.approx(
        -6 * 4.0 / (dt**3 * steps * (steps**2 - 1)), rel=1e-6
    )
    drawn = cai.rollout(graph, hard, 1, seed=0)
    expected = 6 * 2.0 * (steps - 1 - 2 * np.arange(steps)) / (dt**2 * steps * (steps**2 - 1))
    np.testing.assert_allclose(drawn.actions[0, :, 0], expected, atol=1e-5)
    np.testing.assert_allclose(drawn.states[0, -1], [0.0, 0.0], atol=1e-6)


def test_a_step_is_constant_acceleration() -> None:
    dynamics = cai.load_model("double_integrator", dimensions=2, step=0.3).dynamics
    state, action = np.array([1.0, -2.0, 0.5, 4.0]), np.array([3.0, -1.0])
    place = state[:2] + 0.3 * state[2:] + 0.045 * action
    np.testing.assert_allclose(dynamics.mean(state, action), np.concatenate([place, state[2:] + 0.3 * action]))


def test_noise_is_that_of_an_acceleration() -> None:
    graph = cai.load_model("double_integrator", dimensions=2, noise=0.5)
    assert np.linalg.matrix_rank(graph.dynamics.covariance) == 2
    made = graph.dynamics(np.zeros(4), np.zeros(2))
    assert made.rank == 2
    pushed = graph.dynamics.mean(np.zeros(4), 0.5 * np.eye(2))
    np.testing.assert_allclose(pushed.mT @ pushed, made.covariance_matrix, atol=1e-15)
    quiet = cai.infer(graph.replace(temperature=0.0), cai.SoftValueIteration())
    assert cai.rollout(graph, quiet, 5, seed=0).states.isfinite().all()


# -- linear systems of any size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "seed"), [(1, 1, 0), (4, 2, 0), (4, 2, 1), (3, 5, 2), (8, 4, 3)])
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_scipys_riccati_solution(n: int, m: int, seed: int, discount: float) -> None:
    options = {"num_states": n, "num_actions": m, "seed": seed, "discount": discount, "temperature": 0.7}
    graph = cai.load_model("linear_quadratic", horizon=None, **options)
    a, b, q, r = (x.numpy() for x in (graph.dynamics.a, graph.dynamics.b, graph.reward.Q, graph.reward.R))
    assert np.abs(np.linalg.eigvals(a)).max() == pytest.approx(0.95, rel=1e-12)
    p = scipy.linalg.solve_discrete_are(discount**0.5 * a, discount**0.5 * b, q, r)
    inner = r + discount * b.T @ p @ b
    states = np.random.default_rng(9).normal(size=(6, n))
    soft = cai.infer(graph, cai.SoftValueIteration())
    policy = soft.policy(states)
    np.testing.assert_allclose(policy.mean, -states @ np.linalg.solve(inner, discount * b.T @ p @ a).T, rtol=1e-8)
    np.testing.assert_allclose(policy.covariance_matrix[0], 0.7 * np.linalg.inv(inner), rtol=1e-8, atol=1e-12)
    values = soft.v(states) - soft.v(np.zeros(n))
    np.testing.assert_allclose(values, -0.5 * np.einsum("ni,ij,nj->n", states, p, states), rtol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_riccati_recursion(noise: float) -> None:
    """Both readings, step by step."""
    graph = cai.load_model("linear_quadratic", horizon=9, noise=noise, temperature=0.4)
    a, b, q, r = (x.numpy() for x in (graph.dynamics.a, graph.dynamics.b, graph.reward.Q, graph.reward.R))
    w = np.zeros((4, 4)) if graph.dynamics.covariance is None else graph.dynamics.covariance.numpy()
    for method, tilted in ((cai.SoftValueIteration(), False), (cai.SumProduct(), True)):
        p = q
        for _ in range(9):
            used = np.linalg.solve(np.eye(4) + p @ w / 0.4, p) if tilted else p
            gain = np.linalg.solve(r + b.T @ used @ b, b.T @ used @ a)
            p = q + a.T @ used @ (a - b @ gain)
        posterior = cai.infer(graph, method)
        state = np.array([1.0, -2.0, 0.5, 3.0])
        np.testing.assert_allclose(posterior.policy(state, t=0).mean, -gain @ state, rtol=1e-9)
        difference = float(posterior.v(state) - posterior.v(np.zeros(4)))
        assert difference == pytest.approx(-0.5 * state @ p @ state, rel=1e-9)


def test_seeds_make_systems() -> None:
    first, second, other = (cai.load_model("linear_quadratic", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.dynamics.a, second.dynamics.a)
    assert not torch.equal(first.dynamics.a, other.dynamics.a)


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["double_integrator", "golden_ratio", "linear_quadratic"])
def test_defaults_can_be_run(name: str) -> None:
    graph = cai.load_model(name)
    drawn = cai.rollout(graph, cai.infer(graph, cai.SoftValueIteration()), 4, seed=0)
    assert drawn.states.shape == (4, graph.horizon + 1, *graph.state_space.shape)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "start": ("golden_ratio", {"start": math.nan}, "start must be finite"),
    "noise": ("golden_ratio", {"noise": -1.0}, "noise is a standard deviation"),
    "dimensions": ("double_integrator", {"dimensions": 0}, "dimensions must be at least 1"),
    "step": ("double_integrator", {"step": 0.0}, "step must be positive"),
    "effort": ("double_integrator", {"effort": math.inf}, "effort must be positive"),
    "weight": ("double_integrator", {"velocity_weight": -1.0}, "velocity_weight must be at least 0"),
    "goal": ("double_integrator", {"goal": [1.0, 2.0]}, r"goal must have 1 coordinates, got shape \[2\]"),
    "states": ("linear_quadratic", {"num_states": 0}, "num_states must be at least 1"),
    "radius": ("linear_quadratic", {"radius": -1.0}, "radius must be at least 0"),
}


@pytest.mark.parametrize(("name", "options", "message"), WRONG.values(), ids=WRONG)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model(name, **options)
