"""Numbers that break ordinary code: 900 temperatures apart, -inf logs, 10,000 steps, temperatures 1e-6 and 1e6.

Oracles: loops in mpmath (50 digits), long doubles for long horizons, enumeration in log space for tiny graphs.
Everything must be finite, right to 1e-10 max(1, |x|) in float64, and so must the gradients.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of
from tests.laws.gym_tables import problem_of_env

METHODS = {"fixed": cai.SoftValueIteration, "posterior": cai.SumProduct}
readings = pytest.mark.parametrize("reading", METHODS)


def many_digits(problem: oracles.Problem, reading: oracles.Reading) -> oracles.Messages:
    with mpmath.workdps(50):
        return oracles.backward(problem, reading, mpmath.mp)


def infer_with_gradients(problem: oracles.Problem, reading: str) -> tuple[cai.Posterior, dict[str, np.ndarray]]:
    """The answer, and d(log evidence) with respect to every table, all of them finite."""
    leaves = {
        k: torch.tensor(getattr(problem, k), requires_grad=True) for k in ("initial", "dynamics", "reward", "prior")
    }
    terminal = None if problem.terminal is None else torch.as_tensor(problem.terminal)
    graph = graph_of(
        problem,
        initial=cai.factors.Categorical(probs=leaves["initial"]),
        dynamics=cai.factors.TabularDynamics(leaves["dynamics"], terminal=terminal),
        reward=cai.factors.TabularReward(leaves["reward"]),
        action_prior=cai.factors.TabularPolicy(leaves["prior"]),
    )
    posterior = cai.infer(graph, METHODS[reading]())
    assert torch.isfinite(posterior.log_evidence)
    gradients = torch.autograd.grad(posterior.log_evidence, list(leaves.values()))
    named = {name: numpy_of(gradient) for name, gradient in zip(leaves, gradients, strict=True)}
    for name, gradient in named.items():
        assert np.isfinite(gradient).all(), name
    return posterior, named


def assert_right(posterior: cai.Posterior, expected: oracles.Messages, tolerance: float = 1e-10) -> None:
    assert_close(posterior.log_evidence, expected.log_evidence, tolerance)
    tables = tables_of(posterior)
    # V = alpha log(...): a rounding of mu or p by one unit moves V by alpha eps a step, whatever the method.
    rounding = 4 * np.finfo(float).eps * float(posterior.graph.temperature) * posterior.graph.horizon
    assert_close(tables.v, expected.v, max(tolerance, rounding))
    assert_close(tables.q, expected.q, max(tolerance, rounding))


HOSTILE = {
    "900 nats": {"scale": 900.0, "temperature": 1.0},
    "900 nats, forbidden": {"scale": 900.0, "temperature": 1.0, "density": 0.4, "prior": "restricted"},
    "900 nats, terminal": {"scale": 900.0, "temperature": 1.0, "num_terminal": 1, "terminal_reward": True},
    "900 nats, discount": {"scale": 900.0, "temperature": 1.0, "discount": 0.9},
    "frozen": {"temperature": 1e-6},
    "frozen, forbidden": {"temperature": 1e-6, "density": 0.4, "prior": "restricted", "num_terminal": 1},
    "frozen, discount": {"temperature": 1e-6, "discount": 0.9},
    "molten": {"temperature": 1e6},
    "molten, forbidden": {"temperature": 1e6, "density": 0.4, "prior": "restricted", "num_terminal": 1},
    "molten, discount": {"temperature": 1e6, "discount": 0.9},
    "tiny rewards": {"scale": 1e-200},
    "huge units": {"scale": 1e150, "temperature": 1e150},
}
hostile = pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE)


@hostile
@readings
@pytest.mark.parametrize("seed", [121, 122])
def test_hostile_numbers(options: dict, reading: str, seed: int) -> None:
    problem = oracles.random_problem(
        seed, **({"num_states": 4, "num_actions": 3, "horizon": 5, "reward": "sa"} | options)
    )
    expected = many_digits(problem, reading)
    posterior, gradients = infer_with_gradients(problem, reading)
    assert_right(posterior, expected)
    if reading == "fixed":
        _, pairs = oracles.rollout_marginals(problem, expected.policy)
    else:
        _, pairs = oracles.posterior_marginals(problem, expected)
    exact = 1e-8 if problem.temperature < 1e-3 else 1e-10
    assert_close(posterior.state_action_marginals, pairs, exact)
    weights = problem.discount ** np.arange(5) if reading == "fixed" else np.ones(5)
    assert_close(problem.temperature * gradients["reward"], np.tensordot(weights, pairs, 1), exact)
    for name in ("state_marginals", "state_action_marginals", "occupancy", "expected_return", "entropy"):
        assert torch.isfinite(getattr(posterior, name)).all(), name


@hostile
def test_hostile_numbers_of_the_most_probable_trajectory(options: dict) -> None:
    problem = oracles.random_problem(123, **(options | {"discount": 1.0}))
    posterior = cai.infer(graph_of(problem), cai.MaxProduct())
    exact = oracles.enumerate_posterior(problem)
    assert_close(posterior.log_evidence, exact.log_most_probable)
    best = posterior.most_probable_trajectory
    length = int(best.lengths[0])
    weight = oracles.log_weight_of(problem, best.states[0, : length + 1].tolist(), best.actions[0, :length].tolist())
    assert_close(weight, exact.log_most_probable, 1e-12)


@hostile
def test_hostile_gaps_are_finite_and_right(options: dict) -> None:
    """Chances of dying of exp(-1000) must not round to zero inside a divergence."""
    problem = oracles.random_problem(
        120, **({"num_states": 4, "num_actions": 3, "horizon": 4, "reward": "sa"} | options)
    )
    graph = graph_of(problem)
    exact, soft = cai.infer(graph, cai.SumProduct()), cai.infer(graph, cai.SoftValueIteration())
    gap = many_digits(problem, "posterior").log_evidence - many_digits(problem, "fixed").log_evidence
    # The gap is a difference of evidences, so it is judged on their scale.
    scale = max(1.0, abs(float(exact.log_evidence)), abs(float(soft.log_evidence)))
    assert abs(float(soft.gap(exact).evidence_gap) - gap) <= 1e-10 * scale
    assert abs(float(soft.gap(exact).kl) - gap) <= 1e-9 * scale


@hostile
def test_log_prob_of_what_is_a_thousand_nats_away(options: dict) -> None:
    """Samples of the prior under both posteriors: their log probability is huge, negative and right, not -inf."""
    shape = {"num_states": 4, "num_actions": 3, "horizon": 4}
    problem = oracles.random_problem(119, **(shape | options | {"discount": 1.0}))
    graph = graph_of(problem)
    batch = cai.rollout(graph, policy_of(problem.prior), 50, seed=0)
    columns = batch.states.tolist(), batch.actions.tolist(), batch.lengths.tolist()
    records = [(states[: n + 1], actions[:n]) for states, actions, n in zip(*columns, strict=True)]
    weights = np.array([oracles.log_weight_of(problem, *record) for record in records])
    exact = many_digits(problem, "posterior")
    assert_close(cai.infer(graph, cai.SumProduct()).log_prob(batch), weights - exact.log_evidence, 1e-9)
    with np.errstate(divide="ignore"):
        log_mu, log_p = np.log(problem.prior), np.log(problem.dynamics)
    fixed = many_digits(problem, "fixed")
    log_policy = log_mu + (fixed.q - fixed.v[:-1, :, None]) / problem.temperature
    expected = [
        np.log(problem.initial[states[0]])
        + sum(log_policy[t, states[t], a] + log_p[states[t], a, states[t + 1]] for t, a in enumerate(actions))
        for states, actions in records
    ]
    assert_close(cai.infer(graph, cai.SoftValueIteration()).log_prob(batch), expected, 1e-9)


def test_a_death_of_tiny_probability_has_a_finite_logarithm() -> None:
    """Discount 0.5, reward 900 nats a step: dying early has log probability -900 and is not impossible."""
    one = oracles.Problem(
        initial=np.ones(1), dynamics=np.ones((1, 1, 1)), reward=np.array([900.0]), prior=np.ones((1, 1)), discount=0.5
    ).replace(horizon=2)
    posterior = cai.infer(graph_of(one), cai.SumProduct())
    dead, alive = (
        cai.Trajectories(
            states=torch.zeros(1, 3, dtype=torch.int64),
            actions=torch.zeros(1, 2, dtype=torch.int64),
            lengths=torch.tensor([length]),
            terminated=torch.tensor([length == 1]),
        )
        for length in (1, 2)
    )
    assert_close(posterior.log_prob(dead), -900.0)
    assert_close(posterior.log_prob(alive), np.log(0.5), 1e-12)


def test_tiny_probabilities_keep_their_logarithms() -> None:
    """Log pi = -900 is not log eps: the policy's logits are exact where its probabilities underflow."""
    problem = oracles.random_problem(124, reward="sa").replace(reward=np.array([[0.0, -900.0]] * 3), temperature=1.0)
    for reading, method in METHODS.items():
        policy = cai.infer(graph_of(problem), method()).policy(torch.arange(3), t=1)
        q = many_digits(problem, reading).q[1]
        log_odds = q[:, 1] - q[:, 0] + np.log(problem.prior[:, 1] / problem.prior[:, 0])
        assert (log_odds < -890).all()
        assert_close(policy.log_prob(torch.tensor(1)) - policy.log_prob(torch.tensor(0)), log_odds)


def test_unreachable_states_have_no_mass() -> None:
    """Zeros are -inf, not log eps: cold inference must not leak to a lucrative state that cannot be reached."""
    problem = oracles.Problem(
        initial=np.array([1.0, 0.0]),
        dynamics=np.array([[[1.0, 0.0]] * 2, [[0.5, 0.5]] * 2]),
        reward=np.array([0.0, 5.0]),
        prior=np.full((2, 2), 0.5),
        horizon=20,
        temperature=0.1,
    )
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert numpy_of(posterior.state_marginals)[:, 1].max() == 0.0
    assert_close(posterior.log_evidence, 0.0, 1e-14)


def test_the_only_way_costs_799_nats() -> None:
    """Evidence at the end leaves one path, 799 nats below the others: value and gradient of that path."""
    dynamics = np.zeros((3, 2, 3))
    dynamics[0, 0, 0] = dynamics[0, 1, 1] = dynamics[1, :, 2] = dynamics[2, :, 2] = 1.0
    reward = np.zeros((3, 2))
    reward[1, 0] = -799.0
    problem = oracles.Problem(
        initial=np.array([1.0, 0, 0]),
        dynamics=dynamics,
        reward=reward,
        prior=np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]),
        horizon=2,
        states={2: 2},
    )
    values = torch.tensor(reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), cai.SumProduct())
    assert_close(posterior.log_evidence, -799 + np.log(0.5))
    (gradient,) = torch.autograd.grad(posterior.log_evidence, values)
    assert_close(gradient, [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], 1e-12)


def long_problem(**options: Any) -> oracles.Problem:
    shape = {"num_states": 4, "horizon": 10_000, "reward": "sa", "prior": "restricted"}
    return oracles.random_problem(125, **(shape | options))


@readings
def test_ten_thousand_steps(reading: str) -> None:
    problem = long_problem()
    expected = oracles.backward_long(problem, reading)
    posterior, gradients = infer_with_gradients(problem, reading)
    assert_right(posterior, expected)
    assert_close(tables_of(posterior).policy, expected.policy, 1e-8)
    assert_close(problem.temperature * gradients["reward"].sum(), problem.horizon, 1e-9)


@pytest.mark.slow
@readings
@pytest.mark.parametrize(
    "options", [{"num_terminal": 1, "density": 0.5}, {"discount": 0.999}, {"scale": 900.0, "temperature": 1.0}]
)
def test_marginals_of_ten_thousand_steps(reading: str, options: dict) -> None:
    problem = long_problem(**options)
    expected = oracles.backward_long(problem, reading)
    posterior, gradients = infer_with_gradients(problem, reading)
    assert_right(posterior, expected)
    totals = numpy_of(posterior.state_marginals).sum(-1)
    if reading == "fixed" or problem.discount == 1:
        assert_close(totals, 1.0, 1e-9)
    else:
        assert (np.diff(totals) <= 1e-12).all()
    assert_close(problem.temperature * gradients["reward"].sum(), numpy_of(posterior.occupancy).sum(), 1e-9)


# -- single precision -------------------------------------------------------------------------------------------------


def single(problem: oracles.Problem) -> cai.TrajectoryGraph:
    """The same graph in float32."""
    half = {"dtype": torch.float32}
    changes: dict[str, Any] = {
        "initial": cai.factors.Categorical(probs=problem.initial, **half),
        "dynamics": cai.factors.TabularDynamics(
            problem.dynamics, terminal=None if problem.terminal is None else torch.as_tensor(problem.terminal), **half
        ),
        "reward": cai.factors.TabularReward(problem.reward, **half),
        "action_prior": cai.factors.TabularPolicy(problem.prior, **half),
    }
    if problem.terminal_reward is not None:
        changes["terminal_reward"] = cai.factors.TabularReward(problem.terminal_reward, **half)
    return graph_of(problem, **changes)


@readings
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 900.0, "temperature": 1.0, "density": 0.4, "prior": "restricted"},
        {"temperature": 1e-3, "num_terminal": 1, "terminal_reward": True},
        {"temperature": 1e3},
        {"horizon": 50},
    ],
    ids=["plain", "900 nats", "cold", "hot", "longer"],
)
def test_single_precision(reading: str, options: dict) -> None:
    problem = oracles.random_problem(127, **({"horizon": 6, "num_states": 4, "num_actions": 3} | options))
    expected = oracles.backward(problem, reading)
    posterior = cai.infer(single(problem), METHODS[reading]())
    assert posterior.log_evidence.dtype == torch.float32
    assert posterior.state_marginals.dtype == torch.float32
    eps, scale = np.finfo(np.float32).eps, max(1, np.abs(expected.v).max())
    assert np.abs(tables_of(posterior).v - expected.v).max() <= 4 * eps * problem.horizon * max(
        scale, problem.temperature
    )
    assert_close(posterior.log_evidence, expected.log_evidence, 2e-5)
    rounding = 4 * eps * problem.horizon * max(1, scale / problem.temperature)
    assert_close(numpy_of(posterior.state_marginals).sum(-1), 1.0, rounding)
    assert torch.isfinite(posterior.state_action_marginals).all()


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
def test_single_precision_without_horizon(method: cai.AbstractMethod) -> None:
    """Rounding keeps float32 from 1e-10; the answer is as good as its precision, and certified honestly."""
    problem = oracles.random_problem(128, num_states=6, horizon=None, discount=0.9)
    rounded = {k: getattr(problem, k).astype(np.float32).astype(float) for k in ("dynamics", "reward", "prior")}
    _, v, _ = oracles.solve_fixed(problem.replace(**rounded))
    posterior = cai.infer(single(problem), method)
    assert_close(tables_of(posterior).v, v, 1e-5)
    assert np.abs(tables_of(posterior).v - v).max() <= posterior.stats.certified_error


# -- without a horizon ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-6},
        {"temperature": 1e6},
        {"scale": 900.0, "temperature": 1.0, "prior": "restricted", "density": 0.4},
        {"temperature": 1e-6, "discount": 0.9999},
        {"temperature": 1e6, "discount": 0.9999},
        {"scale": 900.0, "temperature": 1.0, "discount": 0.9999},
    ],
    ids=["frozen", "molten", "900 nats", "frozen and far", "molten and far", "900 nats and far"],
)
def test_hostile_numbers_without_horizon(method: cai.AbstractMethod, options: dict) -> None:
    problem = oracles.random_problem(
        129, **({"num_states": 6, "num_actions": 3, "horizon": None, "discount": 0.9} | options)
    )
    problem = problem.replace(reward=problem.reward.mean(-1))
    _, v, policy = oracles.solve_fixed(problem)
    values = torch.tensor(problem.reward, requires_grad=True)
    posterior = cai.infer(graph_of(problem, reward=cai.factors.TabularReward(values)), method)
    assert_close(tables_of(posterior).v, v, 1e-9)
    (gradient,) = torch.autograd.grad(problem.temperature * posterior.log_evidence, values)
    assert torch.isfinite(gradient).all()
    # One unit of rounding in V is eps |V| / alpha in log pi; the occupancy answers to that within 1 / (1 - discount).
    rounding = 4 * np.finfo(float).eps * np.abs(v).max() / problem.temperature / (1 - problem.discount)
    assert_close(gradient, oracles.discounted_occupancy(problem, policy), max(1e-6, rounding))


@pytest.mark.parametrize("scale", [300.0, 900.0])
def test_discounted_posterior_of_rewards_that_underflow(scale: float) -> None:
    """Rewards down to -scale nats: exp(V / alpha) is below the smallest double, the answer is not."""
    problem = oracles.random_problem(130, num_states=5, horizon=None, reward="sa", discount=0.9, temperature=1.0)
    problem = problem.replace(reward=-scale * np.random.default_rng(0).random((5, 2)))
    with mpmath.workdps(50):
        v = oracles.solve_posterior_mp(problem, mpmath.mp)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(tables_of(posterior).v, v, 1e-9)


@pytest.mark.parametrize("scale", [300.0, 900.0])
def test_first_exit_posterior_of_goals_that_overflow(scale: float) -> None:
    """A goal worth `scale` nats: exp(V / alpha) is above the largest double, the answer is not."""
    problem = oracles.random_problem(131, num_states=5, horizon=None, discount=1.0, temperature=1.0, num_terminal=2)
    problem = oracles.with_radius(problem, 0.7).replace(terminal_reward=np.array([0.0, 0, 0, scale, -scale]))
    with mpmath.workdps(50):
        v = oracles.solve_posterior_mp(problem, mpmath.mp)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(tables_of(posterior).v, v, 1e-9)


@pytest.mark.parametrize("temperature", [1e-3, 1e6])
def test_frozen_lake_at_extreme_temperatures(temperature: float) -> None:
    problem = problem_of_env("FrozenLake-v1", temperature=temperature, horizon=None)
    with mpmath.workdps(50):
        v = oracles.solve_posterior_mp(problem, mpmath.mp)
    posterior = cai.infer(cai.from_gym("FrozenLake-v1", temperature=temperature), cai.SumProduct())
    assert_close(tables_of(posterior).v, v, 1e-9)


@pytest.mark.parametrize(
    "field, bad",
    [
        ("reward", np.nan),
        ("reward", np.inf),
        ("dynamics", np.nan),
        ("initial", -0.1),
        ("dynamics", -0.1),
        ("prior", np.nan),
    ],
)
def test_bad_numbers_are_refused_at_construction(field: str, bad: float) -> None:
    problem = oracles.random_problem(132, reward="sa")
    table = getattr(problem, field).copy()
    table[(0,) * table.ndim] = bad
    with pytest.raises(ValueError):
        graph_of(problem.replace(**{field: table}))


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": np.nan}, {"discount": 1.1}, {"discount": -0.1}]
)
def test_bad_settings_are_refused_at_construction(options: dict) -> None:
    with pytest.raises(ValueError):
        graph_of(oracles.random_problem(133).replace(**options))


def test_posterior_at_temperature_zero_is_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph_of(oracles.random_problem(134).replace(temperature=0.0)), cai.SumProduct())
