"""Linear-Gaussian graphs without a horizon: scipy's Riccati and Lyapunov equations, long horizons, existence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import METHODS, infer, policy_of, readings, risky, some_actions, some_states

TOLERANCE = 1e-10
CASES = {
    "plain": {"plain": True},
    "full": {},
    "large": {"n": 6, "m": 3},
    "unstable": {"radius": 1.3},
    "no noise": {"noise": "none"},
    "singular noise": {"noise": "singular", "n": 3, "m": 2},
    "prior": {"prior": "gain", "m": 2},
    "hot": {"temperature": 20.0},
    "cold": {"temperature": 0.03},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def random_problem(seed: int, **options: object) -> oracles.Problem:
    return oracles.random_problem(seed, horizon=None, **options)  # type: ignore[arg-type]


@cases
@pytest.mark.parametrize("discount", [1.0, 0.95, 0.5])
def test_fixed_dynamics_solves_the_riccati_equation(options: dict, discount: float) -> None:
    problem = random_problem(91, **(options | {"discount": discount}))
    posterior, step = infer(problem), oracles.stationary_step(problem)
    form = oracles.stationary_form(problem)
    ours = policy_of(posterior)
    for member in ("gain", "offset", "covariance"):
        assert_close(getattr(ours, member), getattr(step.policy, member), TOLERANCE)
    states, actions = some_states(problem), some_actions(problem)
    values = numpy_of(posterior.v(states))
    origin = numpy_of(posterior.v(np.zeros(problem.n)))
    quadratic = values + numpy_of(posterior.v(-states)) - 2 * origin
    assert_close(quadratic, [-x @ form @ x for x in states], TOLERANCE)
    pairs = list(zip(states, actions, strict=True))
    if discount < 1:
        assert_close(values, [step.value(x) for x in states], TOLERANCE)
        assert_close(posterior.q(states, actions), [step.q(x, u) for x, u in pairs], TOLERANCE)
        start = oracles.expected(step.value, problem.mean, problem.covariance, 0.0)
        assert_close(posterior.log_evidence, start / problem.temperature, TOLERANCE)
        assert posterior.is_bound
    else:
        truth = np.array([step.value(x) for x in states])
        assert_close(values - values[0], truth - truth[0], TOLERANCE)
        assert_close(posterior.gain, oracles.gain(problem), TOLERANCE)


@cases
def test_the_posterior_solves_the_riccati_equation_with_luck_as_an_action(options: dict) -> None:
    problem = random_problem(92, **options)
    eta = 1 / problem.temperature
    posterior, step = infer(problem, "posterior"), oracles.stationary_step(problem, eta)
    ours, states = policy_of(posterior), some_states(problem)
    for member in ("gain", "offset", "covariance"):
        assert_close(getattr(ours, member), getattr(step.policy, member), TOLERANCE)
    form = oracles.stationary_form(problem, eta)
    values = numpy_of(posterior.v(states))
    origin = numpy_of(posterior.v(np.zeros(problem.n)))
    assert_close(values + numpy_of(posterior.v(-states)) - 2 * origin, [-x @ form @ x for x in states], TOLERANCE)
    assert_close(posterior.gain, oracles.gain(problem, eta), TOLERANCE)


@pytest.mark.parametrize("eta", [-0.15, -0.02, 0.3])
def test_risk_solves_the_riccati_equation_of_a_game(eta: float) -> None:
    problem = random_problem(93, n=3, m=2)
    problem = problem.replace(w=0.1 * problem.w)
    posterior, step = risky(problem, eta), oracles.stationary_step(problem, eta)
    ours = policy_of(posterior)
    for member in ("gain", "offset", "covariance"):
        assert_close(getattr(ours, member), getattr(step.policy, member), TOLERANCE)
    assert_close(posterior.gain, oracles.gain(problem, eta), TOLERANCE)


@cases
def test_the_long_run_solves_the_lyapunov_equation(options: dict) -> None:
    problem = random_problem(94, **options)
    posterior = infer(problem)
    mean, covariance = oracles.stationary_moments(problem, oracles.stationary_step(problem).policy)
    assert_close(posterior.state_marginals.mean, mean, TOLERANCE)
    assert_close(posterior.state_marginals.covariance_matrix, covariance, TOLERANCE)


@readings
def test_the_long_run_does_not_depend_on_the_start(reading: str) -> None:
    problem = random_problem(95)
    other = problem.replace(mean=problem.mean + 10.0, covariance=0 * problem.covariance)
    ours, theirs = infer(problem, reading), infer(other, reading)
    assert_close(ours.gain, theirs.gain, 1e-12)
    assert_close(ours.state_marginals.mean, theirs.state_marginals.mean, 1e-12)


@readings
def test_answers_are_those_of_long_horizons(reading: str) -> None:
    """At the first of 400 steps the policy has settled; the evidence grows by gain / alpha a step."""
    problem = random_problem(96, n=3, m=2)
    posterior = infer(problem, reading)
    long, longer = (infer(problem.replace(horizon=horizon), reading) for horizon in (400, 401))
    ours, theirs = policy_of(posterior), policy_of(long)
    for member in ("gain", "offset", "covariance"):
        assert_close(getattr(ours, member), getattr(theirs, member), TOLERANCE)
    grown = problem.temperature * (longer.log_evidence - long.log_evidence)
    assert_close(posterior.gain, grown, 1e-9)
    assert_close(posterior.state_marginals.mean, long.state_marginals.mean[200], TOLERANCE)
    covariances = long.state_marginals.covariance_matrix
    assert_close(posterior.state_marginals.covariance_matrix, covariances[200], TOLERANCE)


def test_discounted_answers_are_those_of_long_horizons() -> None:
    problem = random_problem(97, discount=0.9)
    posterior, long = infer(problem), infer(problem.replace(horizon=500))
    assert_close(posterior.log_evidence, long.log_evidence, 1e-10)
    assert_close(posterior.v(some_states(problem)), long.v(some_states(problem)), 1e-10)
    assert_close(posterior.expected_return, long.expected_return, 1e-10)
    assert_close(posterior.entropy, long.entropy, 1e-10)


@readings
def test_golden_ratio(reading: str) -> None:
    """With a = b = q = r = 1: P is the golden ratio, and a step is worth (alpha log(2 pi alpha / (1 + P)) - W P) / 2.

    The posterior's P solves P = 1 + P~ / (1 + P~), P~ = P / (1 + P W / alpha): W / alpha adds to what an action can do,
    P = (1 + sqrt(1 + 4 / (1 + W / alpha))) / 2.
    """
    w, alpha = 0.5, 2.0
    one = [[1.0]]
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Delta(torch.zeros(1, dtype=torch.float64)),
        dynamics=cai.factors.LinearGaussianDynamics(one, one, [[w]]),
        reward=cai.factors.QuadraticReward(one, one),
        temperature=alpha,
    )
    posterior = cai.infer(graph, METHODS[reading]())
    s = 1.0 if reading == "fixed" else 1.0 + w / alpha
    p = (1 + np.sqrt(1 + 4 / s)) / 2
    ahead = p if reading == "fixed" else p / (1 + p * w / alpha)
    policy = posterior.policy([1.0])
    assert_close(policy.mean, -ahead / (1 + ahead), 1e-13)
    assert_close(policy.covariance_matrix, alpha / (1 + ahead), 1e-13)
    assert_close(posterior.v([0.0]) - posterior.v([1.0]), p / 2, 1e-13)
    luck = w * p if reading == "fixed" else alpha * np.log(1 + p * w / alpha)
    assert_close(posterior.gain, 0.5 * (alpha * np.log(2 * np.pi * alpha / (1 + ahead)) - luck), 1e-13)


@readings
def test_what_grows_without_bound_is_unavailable(reading: str) -> None:
    posterior = infer(random_problem(98), reading)
    for member in ("log_evidence", "expected_return", "entropy"):
        with pytest.raises(cai.Unavailable):
            getattr(posterior, member)
    with pytest.raises(cai.Unavailable, match="gain"):
        _ = infer(random_problem(98, discount=0.9)).gain


def test_time_is_ignored() -> None:
    problem = random_problem(99)
    posterior, states = infer(problem), some_states(problem)
    assert torch.equal(posterior.v(states, t=7), posterior.v(states))
    assert torch.equal(posterior.policy(states, t=1000).mean, posterior.policy(states).mean)


def test_samples_need_a_length() -> None:
    posterior = infer(random_problem(100))
    with pytest.raises(ValueError, match="length"):
        posterior.sample(3, seed=0)
    batch = posterior.sample(3, seed=0, length=7)
    assert batch.states.shape == (3, 8, 2) and batch.actions.shape == (3, 7, 1)
    assert torch.isfinite(posterior.log_prob(batch)).all()


@readings
def test_save_and_load(reading: str, tmp_path: Path) -> None:
    problem = random_problem(101)
    posterior = infer(problem, reading)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    assert torch.equal(again.gain, posterior.gain)
    assert torch.equal(again.v(some_states(problem)), posterior.v(some_states(problem)))
    assert torch.equal(again.state_marginals.mean, posterior.state_marginals.mean)


@readings
def test_batch_is_a_loop(reading: str) -> None:
    problems = [random_problem(102 + i, n=3, m=2) for i in range(3)]
    stacked = problems[0].replace(
        **{
            name: np.stack([getattr(problem, name) for problem in problems], 1)
            for name in ("a", "b", "c", "w", "big_q", "big_r", "cross", "q", "r", "constant")
        },
        mean=np.stack([problem.mean for problem in problems]),
        covariance=np.stack([problem.covariance for problem in problems]),
    )
    posterior, states = infer(stacked, reading), some_states(problems[0], 3)
    for i, problem in enumerate(problems):
        single = infer(problem, reading)
        assert_close(posterior.gain[i], single.gain, 1e-10)
        assert_close(posterior.policy(states).mean[i], single.policy(states[i]).mean, 1e-10)


def test_temperature_zero_is_hard_control() -> None:
    problem = random_problem(105, n=3, m=2, temperature=0.0)
    posterior, step = infer(problem), oracles.stationary_step(problem)
    assert_close(policy_of(posterior).gain, step.policy.gain, TOLERANCE)
    assert_close(posterior.gain, oracles.gain(problem), TOLERANCE)


# -- existence --------------------------------------------------------------------------------------------------------


def scalar(a: float, b: float, q: float = 1.0, w: float = 1.0, **changes: object) -> cai.TrajectoryGraph:
    """Dynamics x' = a x + b u + w, r = -(q x^2 + u^2) / 2."""
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(torch.ones(1, dtype=torch.float64)),
        dynamics=cai.factors.LinearGaussianDynamics([[a]], [[b]], [[w]]),
        reward=cai.factors.QuadraticReward([[q]], [[1.0]]),
        **changes,
    )


@pytest.mark.parametrize("w", [0.0, 1.0])
@readings
def test_what_nothing_can_stabilise_is_refused(reading: str, w: float) -> None:
    """Without control x' = 1.1 x + w runs away; in the posterior luck holds it, P = 1 + 1.21 P / (1 + P W / alpha)."""
    graph = scalar(1.1, 0.0, w=w)
    if reading == "fixed" or w == 0.0:
        with pytest.raises(cai.IncompatibleMethod):
            cai.infer(graph, METHODS[reading]())
        return
    posterior = cai.infer(graph, cai.SumProduct())
    p = (1.21 + np.sqrt(1.21**2 + 4)) / 2
    assert_close(posterior.v([0.0]) - posterior.v([1.0]), p / 2, 1e-13)
    assert_close(posterior.policy([1.0]).mean, 0.0, 1e-14)
    assert_close(posterior.state_marginals.covariance_matrix, (1 + p) / ((1 + p) ** 2 - 1.21), 1e-12)


def test_discount_makes_up_for_instability() -> None:
    """Dynamics x' = 1.1 x without control: sum gamma^t x_t^2 is finite iff 1.21 gamma < 1."""
    posterior = cai.infer(scalar(1.1, 0.0, discount=0.8), cai.SoftValueIteration())
    assert_close(posterior.v([0.0]) - posterior.v([1.0]), 0.5 / (1 - 1.21 * 0.8), 1e-12)
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(scalar(1.1, 0.0, discount=0.83), cai.SoftValueIteration())


def test_unstable_and_controllable_is_stabilised() -> None:
    posterior = cai.infer(scalar(3.0, 0.1), cai.SoftValueIteration())
    closed = 3.0 + 0.1 * float(posterior.policy([1.0]).mean)
    assert abs(closed) < 1


def test_an_action_that_does_not_help_is_not_taken() -> None:
    """Where the state costs nothing and dies by itself, nothing is done."""
    posterior = cai.infer(scalar(0.9, 1.0, q=0.0), cai.SoftValueIteration())
    assert_close(posterior.policy([1.0]).mean, 0.0, 1e-12)


def test_too_much_fear_breaks_down() -> None:
    """P = q + a^2 P~ / (1 + b^2 P~) with P~ = P / (1 + eta P W): no solution once eta W + b^2 is below -1/4 / q."""
    calm = cai.infer(scalar(1.0, 1.0), cai.RiskSensitiveControl(-0.1))
    assert torch.isfinite(calm.gain)
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(scalar(1.0, 1.0), cai.RiskSensitiveControl(-1.5))


def test_a_discount_in_the_posterior_is_refused() -> None:
    for method in (cai.SumProduct(), cai.RiskSensitiveControl(-0.1)):
        with pytest.raises(cai.IncompatibleMethod, match="discount"):
            cai.infer(scalar(0.5, 1.0, discount=0.9), method)
