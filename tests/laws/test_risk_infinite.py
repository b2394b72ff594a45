"""Risk-sensitive control without a horizon: fixed points, certified errors, existence, gradients.

Oracles: Newton's method with residuals in 40 digits, growth rates by sweeps in numpy, closed forms of one state.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import cai
from tests import oracles, risk_oracles
from tests.laws.build import assert_close, graph_of, numpy_of, tables_of
from tests.laws.test_gradients import PARAMETERS, central_difference, start_of

ETAS = (-5.0, -0.3, 0.2, 1.0)
etas = pytest.mark.parametrize("eta", ETAS)

CASES = {
    "plain": {},
    "flat prior": {"prior": "flat", "reward": "sa", "temperature": 0.02},
    "zeros": {"prior": "restricted", "density": 0.3},
    "terminal": {"num_terminal": 2, "terminal_reward": True},
    "hard": {"temperature": 0.0},
    "hard, terminal": {"temperature": 0.0, "num_terminal": 1, "terminal_reward": True},
    "cold": {"temperature": 0.01},
    "hot": {"temperature": 2e3},
    "myopic": {"discount": 0.0},
    "far-sighted": {"discount": 0.999, "scale": 1e-4},
    "first exit": {"discount": 1.0, "num_terminal": 2, "terminal_reward": True},
    "first exit, hard": {"discount": 1.0, "num_terminal": 1, "terminal_reward": True, "temperature": 0.0},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def infer(graph: cai.TrajectoryGraph, eta: float, **options: object) -> cai.Posterior:
    return cai.infer(graph, cai.RiskSensitiveControl(eta, **options))


def infinite_problem(seed: int, **options: object) -> oracles.Problem:
    defaults = {"num_states": 5, "num_actions": 3, "horizon": None, "discount": 0.9}
    return oracles.random_problem(seed, **(defaults | options))


def with_exponent(problem: oracles.Problem, eta: float, exponent: float) -> oracles.Problem:
    """The same problem with its rewards shifted so that eta g + log(discount) is `exponent`; no terminal states."""
    now = eta * risk_oracles.growth(problem, eta) + math.log(problem.discount)
    return problem.replace(reward=problem.reward + (exponent - now) / eta)


@cases
@etas
def test_fixed_point_solves_its_equation_to_forty_digits(options: dict, eta: float) -> None:
    problem = infinite_problem(421, **({"scale": 0.03} | options))
    posterior = infer(graph_of(problem), eta)
    v, left = risk_oracles.solve(problem, eta, tables_of(posterior).v)
    assert left < 1e-25
    assert_close(tables_of(posterior).v, v)
    assert np.abs(tables_of(posterior).v - v).max() <= posterior.stats.certified_error < 1e-8 * max(1, np.abs(v).max())
    assert posterior.stats.converged
    assert posterior.stats.num_steps <= 20 or problem.temperature == 0


@pytest.mark.parametrize("solver", [None, cai.methods.ValueIteration()], ids=["Newton", "sweeps"])
def test_certified_error_is_never_below_the_true_error(solver: object) -> None:
    """200 random problems, loose and tight tolerances, few and many steps, both signs, temperature zero too."""
    rng, certified = np.random.default_rng(422), 0
    for _ in range(100):
        eta = float(rng.choice([-1, 1]) * 10 ** rng.uniform(-2, 1))
        num_terminal = int(rng.integers(0, 2))
        problem = infinite_problem(
            int(rng.integers(1 << 30)),
            num_states=int(rng.integers(num_terminal + 1, 6)),
            num_actions=int(rng.integers(1, 4)),
            discount=float(rng.choice([0.5, 0.9, 0.99, 1.0] if num_terminal else [0.0, 0.9, 0.99])),
            temperature=float(rng.choice([0.0, 10 ** rng.uniform(-2, 2)])),
            scale=float(10 ** rng.uniform(-2, 0)),
            density=float(rng.uniform(0.5, 1)),
            num_terminal=num_terminal,
            prior=str(rng.choice(["uniform", "flat", "tabular"])),
        )
        tolerance, max_steps = float(10 ** rng.uniform(-12, 1)), int(rng.choice([1, 4, 10, 1000]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cai.NotConverged)
            try:
                posterior = infer(graph_of(problem), eta, solver=solver, tolerance=tolerance, max_steps=max_steps)
            except cai.IncompatibleMethod:
                continue
        if not math.isfinite(posterior.stats.certified_error):
            assert not posterior.stats.converged
            continue
        v, left = risk_oracles.solve(problem, eta, tables_of(posterior).v)
        assert left < 1e-20
        error = np.abs(tables_of(posterior).v - v).max()
        assert error <= posterior.stats.certified_error + 4e-16 * max(1, np.abs(v).max())
        certified += 1
    assert certified > 30


@pytest.mark.parametrize("options", [{}, {"num_terminal": 1}, {"num_terminal": 2, "discount": 1.0}], ids=str)
def test_at_one_over_temperature_it_is_the_posterior(options: dict) -> None:
    problem = oracles.with_radius(infinite_problem(423, terminal_reward="num_terminal" in options, **options), 0.8)
    graph = graph_of(problem)
    risky, exact = infer(graph, 1 / problem.temperature), cai.infer(graph, cai.SumProduct())
    for name in ("q", "v", "policy"):
        assert_close(getattr(tables_of(risky), name), getattr(tables_of(exact), name), 1e-9)
    for name in (
        "log_evidence",
        "state_marginals",
        "state_action_marginals",
        "occupancy",
        "expected_return",
        "entropy",
    ):
        assert_close(getattr(risky, name), getattr(exact, name), 1e-8)
    assert_close(risky.gap(exact).kl, 0.0, 1e-8)


@pytest.mark.parametrize("options", [{}, {"num_terminal": 2, "discount": 1.0}, {"temperature": 0.0}], ids=str)
def test_it_tends_to_fixed_dynamics_and_rises_with_eta(options: dict) -> None:
    graph = graph_of(infinite_problem(424, **options))
    soft = cai.infer(graph, cai.SoftValueIteration())
    values = [tables_of(infer(graph, eta)).v for eta in (-0.5, -0.01, -1e-10, 1e-10, 0.01)]
    for v in values[2:4]:
        assert_close(v, tables_of(soft).v, 1e-8)
    assert_close(infer(graph, 1e-10).occupancy, soft.occupancy, 1e-7)
    assert all((lower <= upper + 1e-9).all() for lower, upper in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("eta", [-0.8, 0.3])
@pytest.mark.parametrize("options", [{}, {"num_terminal": 1, "discount": 1.0}, {"temperature": 0.0}], ids=str)
def test_every_solver_comes_to_the_same(eta: float, options: dict) -> None:
    graph = graph_of(infinite_problem(430, scale=0.1, **options))
    names = ("Newton", "NewtonKrylov", "ValueIteration", "Anderson")
    answers = [infer(graph, eta, solver=getattr(cai.methods, name)()) for name in names]
    for answer in answers:
        assert_close(tables_of(answer).v, tables_of(answers[0]).v, 1e-9)
        assert answer.stats.certified_error < 1e-8


@pytest.mark.parametrize("eta", [-0.3, -5.0])
def test_newton_does_not_start_where_the_worst_case_never_ends(eta: float) -> None:
    """Values of policies far below the answer, where only a climb by the step leads on, and an exit far above zero."""
    problem = infinite_problem(431, discount=0.999, reward="sa", num_states=3)
    reward = np.array([[-10.0, -10.0, 1.5]] * 3)  # the prior's policy is worth some -6500
    prior = np.full((3, 3), 1 / 3)
    assert infer(graph_of(problem.replace(reward=reward, prior=prior)), eta).stats.num_steps <= 20
    lucky = infinite_problem(432, discount=1.0, num_terminal=1, num_states=4, scale=0.0, terminal_reward=True)
    posterior = infer(graph_of(lucky.replace(terminal_reward=np.full(4, 1000.0))), eta)
    assert posterior.stats.num_steps <= 20
    assert_close(tables_of(posterior).v, 1000.0)


@pytest.mark.parametrize("eta", [-0.5, 0.5])
def test_large_and_sparse(eta: float) -> None:
    nexts, probs = oracles.random_successors(433, 3000, 2, 3)
    reward = 0.05 * np.random.default_rng(434).normal(size=(3000, 2))
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(probs=np.full(3000, 1 / 3000)),
        cai.factors.TabularDynamics.from_successors(torch.as_tensor(nexts), torch.as_tensor(probs)),
        cai.factors.TabularReward(reward),
        discount=0.99,
        temperature=0.5,
    )
    posterior = infer(graph, eta)
    v = tables_of(posterior).v
    q = reward + np.log((probs * (0.99 * np.exp(eta * v[nexts]) + 0.01)).sum(-1)) / eta
    assert_close(v, 0.5 * np.log(np.exp(q / 0.5).mean(-1)), 1e-12)
    visits = numpy_of(posterior.occupancy)
    assert (visits >= 0).all()
    assert posterior.stats.certified_error < 1e-9


def test_long_horizons_end_at_the_fixed_point() -> None:
    problem = infinite_problem(425, discount=0.8, scale=0.1)
    for eta in ETAS:
        forever, long = infer(graph_of(problem), eta), infer(graph_of(problem.replace(horizon=200)), eta)
        assert_close(tables_of(forever).v, tables_of(long).v[0], 1e-9)
        assert_close(forever.occupancy, numpy_of(long.occupancy).sum(0), 1e-9)
        assert_close(forever.expected_return, long.expected_return, 1e-9)


@pytest.mark.parametrize("eta", [-6.0, -0.4, 0.3, 4.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 20.0])
@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_an_answer_exists_exactly_below_the_boundary(eta: float, temperature: float, discount: float) -> None:
    problem = infinite_problem(426, temperature=temperature, discount=discount)
    for distance in (1e-4, 0.3):
        beyond = with_exponent(problem, eta, distance)
        with pytest.raises(cai.IncompatibleMethod) as refusal:
            infer(graph_of(beyond), eta)
        shown = re.search(r"g = (\S+) with eta = (\S+), and .* = (\S+) must be below 0", str(refusal.value))
        assert shown is not None, refusal.value
        assert float(shown[1]) == pytest.approx((distance - math.log(discount)) / eta, abs=1e-5)
        assert float(shown[3]) == pytest.approx(distance, abs=1e-6)
        within = with_exponent(problem, eta, -distance)
        posterior = infer(graph_of(within), eta)
        v, left = risk_oracles.solve(within, eta, tables_of(posterior).v)
        assert left < 1e-20
        assert_close(tables_of(posterior).v, v, 1e-10 / distance)


@pytest.mark.parametrize("eta", [-2.0, 1.5])
def test_one_state_with_an_exit_has_a_closed_form(eta: float) -> None:
    """Z = exp(eta V) is linear: z = exp(eta r) ((1 - e) z + e exp(eta x)); it exists iff (1 - e) exp(eta r) < 1."""
    leaves, exit_worth = 0.2, 0.7
    dynamics = np.array([[[1 - leaves, leaves]], [[0.0, 1.0]]])

    def answer(margin: float) -> tuple[cai.TrajectoryGraph, float]:
        reward = (margin - math.log(1 - leaves)) / eta
        graph = cai.TrajectoryGraph(
            cai.factors.Categorical([1.0, 0.0]),
            cai.factors.TabularDynamics(dynamics, terminal=[False, True]),
            cai.factors.TabularReward([reward, 0.0]),
            terminal_reward=cai.factors.TabularReward([0.0, exit_worth]),
        )
        odds = leaves / -math.expm1(margin) if margin < 0 else math.nan
        return graph, reward + exit_worth + math.log(odds) / eta

    for margin in (-2.0, -1e-3, -1e-8):
        graph, value = answer(margin)
        assert_close(infer(graph, eta).v(0), value, 1e-15 / abs(margin) + 1e-10)
    with pytest.raises(cai.IncompatibleMethod, match="must be below 0"):
        infer(answer(1e-3)[0], eta)


def test_wandering_for_ever_is_refused_by_the_careful_too() -> None:
    graph = cai.from_gym("CliffWalking-v1", temperature=1.0).replace(action_prior=cai.factors.FlatPrior())
    with pytest.raises(cai.IncompatibleMethod, match=r"going on for ever is worth 0\.337644 a step"):
        infer(graph, -0.5)


def test_undiscounted_without_an_exit_is_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod):
        infer(graph_of(infinite_problem(427, discount=1.0)), -0.5)


# -- gradients --------------------------------------------------------------------------------------------------------


def ending(problem: oracles.Problem, build: Callable[[torch.Tensor], dict]) -> Callable[[torch.Tensor], dict]:
    """The same dynamics with the terminal states of the problem."""
    terminal = torch.as_tensor(problem.terminal)
    return lambda x: {"dynamics": cai.factors.TabularDynamics(build(x)["dynamics"].probs, terminal=terminal)}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("eta", [-1.5, 0.4])
@pytest.mark.parametrize("options", [{"discount": 0.8}, {"discount": 1.0, "num_terminal": 1}, {"horizon": 3}], ids=str)
def test_gradients_of_every_factor_by_finite_differences(name: str, eta: float, options: dict) -> None:
    problem = infinite_problem(428, num_states=3, num_actions=2, terminal_reward=True, scale=0.3, **options)
    put, build = PARAMETERS[name]
    if name == "dynamics" and problem.terminal is not None:
        build = ending(problem, build)

    def value(x: np.ndarray) -> float:
        moved = put(problem, x)
        posterior = infer(graph_of(moved), eta)
        return float(posterior.log_evidence) * float(moved.temperature)

    x = start_of(problem, name)
    learned = torch.tensor(x, requires_grad=True)
    posterior = infer(graph_of(problem, **build(learned)), eta)
    temperature = learned if name == "temperature" else problem.temperature
    (gradient,) = torch.autograd.grad(posterior.log_evidence * temperature, learned)
    assert_close(gradient, central_difference(value, x, 1e-5), 1e-7)


@etas
@pytest.mark.parametrize("options", [{}, {"horizon": 3}, {"discount": 1.0, "num_terminal": 1}], ids=str)
def test_envelope(options: dict, eta: float) -> None:
    """The derivative of the value with respect to the rewards is the occupancy of the tilted process."""
    problem = infinite_problem(429, reward="sa", scale=0.1, **options)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = infer(graph_of(problem, reward=cai.factors.TabularReward(values)), eta)
    start = posterior.reading.value_of_start(posterior.tables, posterior.messages.v[0])
    (gradient,) = torch.autograd.grad(start, values)
    visits = numpy_of(posterior.occupancy)
    assert_close(gradient, visits if problem.horizon is None else visits.sum(0), 1e-9)
