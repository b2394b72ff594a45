"""The certificate of a fixed point: a bound of the true error, wherever the iteration is stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops import FixedDynamics, Tables
from cai.ops.infinite.fixed_point import Iterate, Stationary
from cai.ops.infinite.growth import log_spectral_radius
from cai.ops.infinite.occupancy import policy_costs
from tests import oracles
from tests.laws.build import graph_of

PROBLEMS = {
    "discount": {"discount": 0.95},
    "discount, terminal": {"discount": 0.95, "num_terminal": 1, "terminal_reward": True},
    "first exit": {"discount": 1.0, "num_terminal": 2, "scale": 0.3},
    "counting measure": {"discount": 0.9, "prior": "flat"},
}
problems = pytest.mark.parametrize("options", PROBLEMS.values(), ids=PROBLEMS)


def problem(options: dict) -> oracles.Problem:
    return oracles.random_problem(11, **({"num_states": 6, "horizon": None, "reward": "sa"} | options))


def tables_of(given: oracles.Problem) -> Tables:
    return tabulate(graph_of(given))


@problems
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-7])
@pytest.mark.parametrize("step", ["sweep", "newton_step"])
def test_certified_error_bounds_the_error_from_anywhere(options: dict, distance: float, step: str) -> None:
    given = problem(options)
    _, v, _ = oracles.solve_fixed(given)
    stationary = Stationary(tables_of(given), FixedDynamics())
    offset = distance * np.random.default_rng(0).uniform(-1, 1, v.shape)
    start = Iterate(torch.as_tensor(np.where(tables_of(given).terminal, v, v + offset)))
    after = getattr(stationary, step)(start, tolerance=1.0 if distance < 1e-5 else 0.0)
    once = stationary.backup(start.v)[1]
    judged = after.v if after.done else once  # what the certificate of a step is of
    assert float((judged - torch.as_tensor(v)).abs().max()) <= after.certified_error
    change = (once - start.v).numpy()
    moved = after.done and not torch.equal(after.v, once)  # to the middle of its bounds
    assert after.residual == pytest.approx(np.ptp(change) / 2 if moved else np.abs(change).max())
    if distance <= 1e-3 and (step == "newton_step" or stationary.contracts):
        assert after.certified_error <= 1e3 * distance  # useful too, and not only true


@problems
def test_newton_rises_and_squares_its_error(options: dict) -> None:
    given = problem(options)
    _, v, _ = oracles.solve_fixed(given)
    stationary = Stationary(tables_of(given), FixedDynamics())
    iterate, errors = Iterate(stationary.start()), []
    while not iterate.done:
        before = iterate.v
        iterate = stationary.newton_step(iterate, tolerance=1e-12)
        errors.append(float((iterate.v - torch.as_tensor(v)).abs().max()))
        if len(errors) > 1:
            assert (iterate.v >= before - 1e-12).all()
    assert len(errors) <= 10
    assert errors[-1] <= 1e-12 * max(1, np.abs(v).max())
    assert math.isfinite(iterate.certified_error)


def test_a_given_policy_takes_one_solve() -> None:
    given = problem({"discount": 0.99})
    policy = torch.as_tensor(oracles.random_policy(given, 3))
    policy = policy if policy.dim() == 3 else policy[None]
    tables = tables_of(given)
    stationary = Stationary(tables, FixedDynamics(), policy[:1], policy_costs(tables, policy[:1]))
    after = stationary.newton_step(Iterate(stationary.start()), tolerance=0.0)
    _, expected = oracles.solve_evaluation(given, policy[0].numpy())
    np.testing.assert_allclose(after.v, expected, rtol=1e-11)


def test_a_policy_that_never_ends_is_refused() -> None:
    dynamics = np.zeros((2, 2, 2))
    dynamics[0, 0, 0] = dynamics[0, 1, 1] = dynamics[1, :, 1] = 1.0
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0]),
        cai.factors.TabularDynamics(dynamics, terminal=[False, True]),
        cai.factors.TabularReward([-1.0, 0.0]),
    )
    with pytest.raises(cai.IncompatibleMethod, match="never ends"):
        cai.infer(graph, cai.PolicyEvaluation(np.array([[1.0, 0.0], [0.5, 0.5]])))


def test_rounding_ends_an_iteration_whose_tolerance_is_out_of_reach() -> None:
    stationary = Stationary(tables_of(problem({"discount": 0.5})), FixedDynamics())
    iterate = Iterate(stationary.start())
    for _ in range(200):
        iterate = stationary.sweep(iterate, tolerance=0.0)
        if iterate.done:
            break
    assert iterate.done
    assert iterate.num_steps < 100


@pytest.mark.parametrize("num_terminal", [0, 2])
@pytest.mark.parametrize("shift", [0.0, 800.0])
def test_spectral_radius(num_terminal: int, shift: float) -> None:
    given = problem({"discount": 1.0, "num_terminal": num_terminal})
    matrix = oracles.posterior_matrix(given)
    moved = tables_of(given.replace(reward=given.reward + shift * given.temperature))
    computed = log_spectral_radius(moved)
    assert computed == pytest.approx(math.log(oracles.spectral_radius(matrix)) + shift, abs=1e-8)


def test_spectral_radius_of_a_chain_that_ends_at_once_is_zero() -> None:
    dynamics = np.zeros((2, 1, 2))
    dynamics[..., 1] = 1.0
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0]),
        cai.factors.TabularDynamics(dynamics, terminal=[False, True]),
        cai.factors.TabularReward([0.0, 0.0]),
    )
    assert log_spectral_radius(tabulate(graph)) < math.log(1e-3)
