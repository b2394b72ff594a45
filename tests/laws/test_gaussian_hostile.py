"""Linear-Gaussian graphs that break careless code: precision, length, singular noise, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import METHODS, graph_of, infer, policy_of, readings, some_states

F = cai.factors
GOLDEN = (1 + math.sqrt(5)) / 2


def scalar(*, w: float | None = None, dtype: torch.dtype = torch.float64, **changes: object) -> cai.TrajectoryGraph:
    """Dynamics x' = x + u + w, r = -(x^2 + u^2) / 2: the golden ratio once settled."""
    arguments: dict[str, object] = {
        "initial": F.Delta(torch.ones(1, dtype=dtype)),
        "dynamics": F.LinearGaussianDynamics([[1.0]], [[1.0]], None if w is None else [[w]], dtype=dtype),
        "reward": F.QuadraticReward([[1.0]], [[1.0]], dtype=dtype),
        "horizon": 40,
    }
    return cai.TrajectoryGraph(**(arguments | changes))  # type: ignore[arg-type]


# -- precision --------------------------------------------------------------------------------------------------------


@readings
@pytest.mark.parametrize("w", [None, 0.0, 1e-300, 1e-30, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_that_is_almost_nothing(reading: str, w: float | None, dtype: torch.dtype) -> None:
    """A precision form would hold W^-1: in float32 it loses the gain from W = 1e-8 on."""
    graph = scalar(w=w, dtype=dtype)
    posterior = cai.infer(graph, METHODS[reading]())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-8 if w == 1e-8 else 1e-13
    assert_close(posterior.policy([1.0]).mean, 1 - GOLDEN, tolerance)
    assert torch.isfinite(posterior.log_evidence)
    assert torch.isfinite(posterior.state_marginals.covariance_matrix).all()


@readings
@pytest.mark.parametrize("w", [1e6, 1e12])
def test_noise_that_is_overwhelming(reading: str, w: float) -> None:
    """Fixed dynamics acts as if it were not there; the posterior leaves everything to luck."""
    posterior = cai.infer(scalar(w=w), METHODS[reading]())
    mean = float(posterior.policy([1.0]).mean)
    assert abs(mean - (1 - GOLDEN)) < 1e-12 if reading == "fixed" else abs(mean) < 2 / w


@readings
@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 1e6, 1e12])
def test_extreme_temperatures(reading: str, alpha: float) -> None:
    problem = oracles.random_problem(111, n=3, m=2, temperature=alpha)
    eta = 0.0 if reading == "fixed" else 1 / alpha
    posterior = infer(problem, reading)
    for t, step in enumerate(oracles.backward(problem, eta)):
        ours = policy_of(posterior, t)
        assert_close(ours.gain, step.policy.gain, 1e-8)
        assert_close(ours.covariance / alpha, step.policy.covariance / alpha, 1e-8)


@readings
@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_units_of_very_different_size(reading: str, scale: float) -> None:
    """The first coordinate in other units changes nothing but that."""
    problem = oracles.random_problem(112, n=2, m=1)
    s = np.diag([scale, 1.0])
    inverse = np.diag([1 / scale, 1.0])
    other = problem.replace(
        mean=inverse @ problem.mean,
        covariance=inverse @ problem.covariance @ inverse,
        a=inverse @ problem.a @ s,
        b=inverse @ problem.b,
        c=problem.c @ inverse,
        w=inverse @ problem.w @ inverse,
        big_q=s @ problem.big_q @ s,
        cross=problem.cross @ s,
        q=problem.q @ s,
        end_q=s @ problem.end_q @ s,
        end_linear=s @ problem.end_linear,
    )
    ours, theirs, states = infer(problem, reading), infer(other, reading), some_states(problem)
    assert_close(theirs.log_evidence, ours.log_evidence, 1e-9)
    assert_close(theirs.policy(states @ inverse).mean, ours.policy(states).mean, 1e-9)
    spread, expected = numpy_of(theirs.state_marginals.stddev) * [scale, 1.0], ours.state_marginals.stddev
    assert_close(spread, expected, 1e-9)


@readings
def test_single_precision_is_near_double(reading: str) -> None:
    problem = oracles.random_problem(113, n=3, m=2, prior="gain", horizon=10, radius=0.9)
    double = infer(problem, reading)
    single = cai.infer(graph_of(problem, dtype=torch.float32), METHODS[reading]())
    states = torch.as_tensor(some_states(problem))
    for t in range(10):
        assert single.policy(states, t=t).mean.dtype == torch.float32
        assert_close(single.policy(states, t=t).mean, double.policy(states, t=t).mean, 1e-4)
        assert_close(single.v(states, t=t), double.v(states, t=t), 1e-4)
    assert_close(single.log_evidence, double.log_evidence, 1e-4)
    assert_close(single.state_marginals.mean, double.state_marginals.mean, 1e-4)
    assert_close(single.state_marginals.covariance_matrix, double.state_marginals.covariance_matrix, 1e-4)


# -- length -----------------------------------------------------------------------------------------------------------


@readings
def test_one_step_is_a_formula(reading: str) -> None:
    """T = 1, terminal reward -x^2/2: H = 1 + P~, P~ = 1, or 1 / (1 + w / alpha) of the posterior."""
    w, alpha = 0.5, 2.0
    end = F.QuadraticReward([[1.0]])
    posterior = cai.infer(scalar(w=w, horizon=1, terminal_reward=end, temperature=alpha), METHODS[reading]())
    ahead = 1.0 if reading == "fixed" else 1 / (1 + w / alpha)
    assert_close(posterior.policy([2.0]).mean, -2 * ahead / (1 + ahead), 1e-14)
    assert_close(posterior.policy([2.0]).covariance_matrix, alpha / (1 + ahead), 1e-14)
    luck = -w / 2 if reading == "fixed" else -alpha / 2 * math.log(1 + w / alpha)
    normaliser = alpha / 2 * math.log(2 * math.pi * alpha / (1 + ahead))
    value = -0.5 * (1 + ahead / (1 + ahead)) * 4 + luck + normaliser
    assert_close(posterior.v([2.0]), value, 1e-14)


HORIZON = 100_000


def long_problem(reading: str) -> tuple[cai.TrajectoryGraph, float, float]:
    """A hundred thousand steps; the gain of the policy and the gain a step once settled, in closed form."""
    w, alpha = 0.5, 2.0
    s = 1.0 if reading == "fixed" else 1.0 + w / alpha
    p = (1 + math.sqrt(1 + 4 / s)) / 2
    ahead = p if reading == "fixed" else p / (1 + p * w / alpha)
    luck = w * p if reading == "fixed" else alpha * math.log(1 + p * w / alpha)
    step = 0.5 * (alpha * math.log(2 * math.pi * alpha / (1 + ahead)) - luck)
    return scalar(w=w, temperature=alpha, horizon=HORIZON), -ahead / (1 + ahead), step


@readings
def test_a_hundred_thousand_steps(reading: str) -> None:
    """The policy has settled at the beginning, and T steps are worth T gains and what the ends add, for any T."""
    graph, gain, step = long_problem(reading)
    long, short = (cai.infer(g, METHODS[reading]()) for g in (graph, graph.replace(horizon=1000)))
    assert_close(long.policy([1.0]).mean, gain, 1e-12)
    ends = [float(answer.log_evidence) * 2.0 - step * answer.graph.horizon for answer in (long, short)]
    assert abs(ends[0] - ends[1]) < 1e-11 * HORIZON


@pytest.mark.slow
@readings
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_marginals_of_a_hundred_thousand_steps(reading: str, dtype: torch.dtype) -> None:
    graph, gain, step = long_problem(reading)
    dynamics = F.LinearGaussianDynamics([[1.0]], [[1.0]], [[0.5]], dtype=dtype)
    posterior = cai.infer(
        graph.replace(
            dynamics=dynamics,
            reward=F.QuadraticReward([[1.0]], [[1.0]], dtype=dtype),
            initial=F.Delta(torch.ones(1, dtype=dtype)),
        ),
        METHODS[reading](),
    )
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close(posterior.policy([1.0]).mean, gain, tolerance)
    assert abs(float(posterior.log_evidence) * 2.0 / HORIZON - step) < 100 * tolerance + 2 / HORIZON
    marginals = posterior.state_marginals
    assert len(marginals) == HORIZON + 1
    middle = marginals.covariance_matrix[[1000, 50_000]]
    assert_close(middle[0], middle[1], tolerance)


@readings
def test_unstable_dynamics_over_a_long_horizon(reading: str) -> None:
    """2^1000 would overflow single steps of an open loop squared; the closed loop is stable."""
    problem = oracles.random_problem(114, n=2, m=2, radius=2.0, horizon=1000)
    posterior = infer(problem, reading)
    assert torch.isfinite(posterior.log_evidence)
    covariances = posterior.state_marginals.covariance_matrix
    assert torch.isfinite(covariances).all()
    assert_close(covariances[500], covariances[501], 1e-9)


@readings
def test_values_that_leave_the_type_say_when(reading: str) -> None:
    """Dynamics x' = 1e60 x with nothing to control it: the value overflows a few steps before the end."""
    graph = scalar(dynamics=F.LinearGaussianDynamics([[1e60]], [[0.0]]), horizon=9)
    with pytest.raises(cai.NonFinite, match="time"):
        cai.infer(graph, METHODS[reading]())


# -- singular ---------------------------------------------------------------------------------------------------------


@readings
def test_a_known_start_is_the_limit_of_narrow_ones(reading: str) -> None:
    problem = oracles.random_problem(115, n=3, m=2, start="none")
    known, states = infer(problem, reading), some_states(problem)
    zero = infer(problem, reading, initial=F.Gaussian(problem.mean, np.zeros((3, 3))))
    assert_close(zero.log_evidence, known.log_evidence, 1e-13)
    assert_close(zero.state_marginals.covariance_matrix, known.state_marginals.covariance_matrix, 1e-13)
    for size in (1e-6, 1e-12):
        narrow = infer(problem.replace(covariance=size * np.eye(3)), reading)
        assert abs(float(narrow.log_evidence - known.log_evidence)) < 1e3 * size + 1e-12
        assert torch.equal(narrow.v(states), known.v(states))
        difference = narrow.state_marginals.covariance_matrix - known.state_marginals.covariance_matrix
        assert float(difference.abs().max()) < 1e3 * size + 1e-12


@readings
def test_marginals_of_what_cannot_vary(reading: str) -> None:
    """Position is driven by a noisy velocity: singular noise and start; the first positions are certain."""
    problem = oracles.random_problem(116, n=2, m=1, start="none", plain=True)
    problem = problem.replace(
        a=np.array([[[1.0, 0.1], [0.0, 1.0]]]), b=np.array([[[0.0], [0.1]]]), w=np.array([np.diag([0.0, 0.2])])
    )
    marginals = infer(problem, reading).state_marginals
    assert (marginals[0].covariance_matrix == 0).all()
    assert marginals[1].covariance_matrix[0, 0].abs() < 1e-15
    assert marginals[1].covariance_matrix[1, 1] > 1e-3
    assert marginals[2].covariance_matrix[0, 0] > 1e-5
    assert torch.isfinite(marginals[1].log_prob(marginals[1].sample()))
    assert marginals[1].log_prob(marginals[1].mean + 0.1) == -torch.inf


@readings
def test_rewards_that_ignore_a_coordinate(reading: str) -> None:
    problem = oracles.random_problem(117, n=3, m=1, plain=True)
    problem = problem.replace(big_q=np.array([np.diag([1.0, 0.0, 0.0])]), end_q=np.zeros((3, 3)))
    assert_close(infer(problem, reading).log_evidence, truth(problem, reading), 1e-9)


@readings
def test_rewards_for_being_away_are_fine_while_the_value_exists(reading: str) -> None:
    """An indefinite Q: unstable to look at, and well defined as long as Quu is positive definite."""
    problem = oracles.random_problem(118, n=2, m=1, horizon=3)
    least = np.linalg.eigvalsh(problem.big_q[0])[0]
    indefinite = problem.big_q - (least + 0.05) * np.eye(2)
    problem = problem.replace(big_q=indefinite, w=0.1 * problem.w, covariance=0.1 * np.eye(2))
    assert_close(infer(problem, reading).log_evidence, truth(problem, reading), 1e-9)


def truth(problem: oracles.Problem, reading: str) -> float:
    if reading == "posterior":
        return oracles.joint_posterior(problem).log_integral
    return oracles.value_of_start(problem) / problem.temperature


# -- what has no answer -----------------------------------------------------------------------------------------------


@readings
def test_an_action_without_a_price_is_refused_at_its_time(reading: str) -> None:
    problem = oracles.random_problem(119, n=2, m=2, horizon=5, per_step=("reward",), plain=True)
    big_r = problem.big_r.copy()
    big_r[3] = -100.0 * np.eye(2)
    with pytest.raises(cai.IncompatibleMethod, match=r"time 3\b"):
        infer(problem.replace(big_r=big_r), reading)


@readings
@pytest.mark.parametrize("r", [0.0, -1.0])
def test_the_last_step_must_price_its_action(reading: str, r: float) -> None:
    """Without a terminal reward the last action moves nothing that counts: R alone must be positive definite."""
    graph = scalar(reward=F.QuadraticReward([[1.0]], [[r]]), horizon=4)
    with pytest.raises(cai.IncompatibleMethod, match=r"time 3\b"):
        cai.infer(graph, METHODS[reading]())


def test_a_prior_makes_up_for_a_free_action() -> None:
    """R = 0 and an action prior N(0, s): Quu = alpha / s."""
    graph = scalar(
        reward=F.QuadraticReward([[1.0]], [[0.0]]), horizon=2, action_prior=F.Gaussian([0.0], [[4.0]]), temperature=0.5
    )
    posterior = cai.infer(graph, cai.SoftValueIteration())
    assert_close(posterior.policy([1.0], t=1).covariance_matrix, 4.0, 1e-14)
    assert_close(posterior.policy([1.0], t=0).covariance_matrix, 0.5 / (1.0 + 0.5 / 4.0), 1e-14)


def test_fear_that_breaks_down_names_the_time() -> None:
    """I + eta P W fails first where P is largest, counting from the end; the oracle says when."""
    problem = oracles.random_problem(120, n=1, m=1, horizon=8, plain=True, start="none")
    problem = problem.replace(
        a=np.full((1, 1, 1), 1.5), b=np.full((1, 1, 1), 0.1), w=np.full((1, 1, 1), 1.0), end_q=np.ones((1, 1))
    )
    eta, value, broken = -0.1, oracles.last_value(problem), None
    for t in reversed(range(8)):
        try:
            value = oracles.step_back(problem, value, t, eta).value
        except np.linalg.LinAlgError:
            broken = t + 1  # the time whose value has no certainty equivalent
            break
    assert broken is not None and broken < 8
    with pytest.raises(cai.IncompatibleMethod, match=rf"time {broken}\b"):
        cai.infer(graph_of(problem), cai.RiskSensitiveControl(eta))


def test_an_uncertain_start_may_be_too_much_to_fear() -> None:
    """I + eta P S is negative at the start, S = 100, P about 1.6: log det would give a number all the same."""
    graph = scalar(initial=F.Gaussian([0.0], [[100.0]]), w=0.01)
    with pytest.raises(cai.IncompatibleMethod):
        _ = cai.infer(graph, cai.RiskSensitiveControl(-0.1)).log_evidence


def test_an_uncertain_start_may_be_too_good_to_be_true() -> None:
    """The same of the posterior: E exp(x^2 / 2 alpha) at x ~ N(0, 4)."""
    graph = scalar(initial=F.Gaussian([0.0], [[4.0]]), reward=F.QuadraticReward([[-1.0]], [[1.0]]), horizon=1)
    assert torch.isfinite(cai.infer(graph, cai.SoftValueIteration()).log_evidence)
    with pytest.raises(cai.IncompatibleMethod):
        _ = cai.infer(graph, cai.SumProduct()).log_evidence


@readings
def test_luck_may_be_too_good_to_be_true(reading: str) -> None:
    """A reward x^2/2 for being away, times exp, against noise of variance 4: E exp(x^2 / 2 alpha) diverges."""
    problem = oracles.random_problem(121, n=1, m=1, horizon=1, plain=True)
    problem = problem.replace(
        w=np.full((1, 1, 1), 4.0), end_q=-np.ones((1, 1)), b=np.full((1, 1, 1), 0.1), big_r=np.ones((1, 1, 1))
    )
    if reading == "fixed":
        assert torch.isfinite(infer(problem, reading).log_evidence)
    else:
        with pytest.raises(cai.IncompatibleMethod):
            infer(problem, reading)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct(), cai.RiskSensitiveControl(-0.01)])
def test_bounded_actions_are_refused(method: object) -> None:
    import gymnasium

    box = gymnasium.spaces.Box(-1.0, 1.0, (1,), dtype=np.float64)
    with pytest.raises(cai.IncompatibleMethod, match=r"bound|Box"):
        cai.infer(scalar(action_space=box), method)


@pytest.mark.parametrize("method", [cai.SumProduct(), cai.RiskSensitiveControl(-0.01)])
def test_a_discount_in_the_posterior_is_refused(method: object) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="discount"):
        cai.infer(scalar(discount=0.9), method)


@pytest.mark.parametrize("method", [cai.MaxProduct(), cai.SoftPolicyIteration()])
def test_methods_for_tables_say_what_they_need(method: object) -> None:
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(scalar(), method)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct()])
def test_missing_factors_are_named(method: object) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="reward"):
        cai.infer(scalar(reward=None), method)
    with pytest.raises(cai.IncompatibleMethod, match="initial"):
        cai.infer(scalar(initial=None), method)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct()])
def test_factors_of_another_kind_are_refused(method: object) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="reward"):
        cai.infer(scalar(reward=lambda state, action, next_state=None: -state.square().sum(-1)), method)
    with pytest.raises(cai.IncompatibleMethod, match="initial"):
        cai.infer(scalar(initial=lambda: torch.distributions.Normal(torch.zeros(1), 1.0)), method)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": F.QuadraticReward(np.eye(2), [[1.0]])}, "reward"),
        ({"reward": F.QuadraticReward([[1.0]], np.eye(3))}, "reward"),
        ({"terminal_reward": F.QuadraticReward(np.eye(2))}, "terminal_reward"),
        ({"initial": F.Gaussian([0.0, 0.0], np.eye(2))}, "initial"),
        ({"initial": F.Delta(torch.zeros(2))}, "initial"),
        ({"action_prior": F.Gaussian([0.0, 0.0], np.eye(2))}, "action_prior"),
        ({"action_prior": F.LinearGaussianPolicy([[1.0, 2.0]], covariance=[[1.0]])}, "action_prior"),
        ({"reward": F.QuadraticReward.per_step(np.ones((3, 1, 1)), np.ones((3, 1, 1)))}, "3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scalar(**changes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    for build in (
        lambda: F.LinearGaussianDynamics([[bad]], [[1.0]]),
        lambda: F.LinearGaussianDynamics([[1.0]], [[1.0]], [[bad]]),
        lambda: F.QuadraticReward([[bad]], [[1.0]]),
        lambda: F.Gaussian([bad], [[1.0]]),
    ):
        with pytest.raises(ValueError):
            build()


@pytest.mark.parametrize("bad", [[[-1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]]])
def test_covariances_that_are_none_are_refused(bad: list) -> None:
    with pytest.raises(ValueError):
        F.Gaussian([0.0, 0.0], bad)
    with pytest.raises(ValueError):
        F.LinearGaussianDynamics(np.eye(2), np.eye(2), bad)


def test_nothing_that_was_given_is_changed() -> None:
    problem = oracles.random_problem(122, n=2, m=2, prior="gain")
    before = {name: np.copy(value) for name, value in vars(problem).items() if isinstance(value, np.ndarray)}
    posterior = infer(problem, "posterior")
    _ = posterior.state_marginals.mean, posterior.sample(2, seed=0)
    for name, value in before.items():
        assert (getattr(problem, name) == value).all(), name


@pytest.mark.parametrize("method", [cai.SoftValueIteration, cai.SumProduct])
def test_options_are_checked_on_vectors_as_on_tables(method: type) -> None:
    with pytest.raises(ValueError, match="tolerance must be a finite number"):
        cai.infer(scalar(), method(tolerance=-1.0))
