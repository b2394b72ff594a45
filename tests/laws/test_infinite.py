"""Infinite horizons: fixed points, certified errors, first exit, occupancies, and questions without an answer.

Laws: discount as a chance of dying, the linear system in exp(V / alpha) of the discounted posterior, existence tests.
Oracles: Newton's method in numpy with residuals in long doubles, dense linear solves, chains run for many steps.
"""

from __future__ import annotations

import re
import warnings

import mpmath
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of
from tests.laws.gym_tables import problem_of_env

SOLVERS = {
    "SoftValueIteration": cai.SoftValueIteration(),
    "value iteration": cai.SoftValueIteration(solver=cai.methods.ValueIteration()),
    "Newton": cai.SoftValueIteration(solver=cai.methods.Newton()),
    "SoftPolicyIteration": cai.SoftPolicyIteration(),
}
solvers = pytest.mark.parametrize("method", SOLVERS.values(), ids=SOLVERS)

CASES = {
    "plain": {},
    "reward s": {"reward": "s"},
    "flat prior": {"prior": "flat", "reward": "sa"},
    "action sets": {"prior": "flat-available", "num_actions": 4},
    "zeros": {"prior": "restricted", "density": 0.3},
    "terminal": {"num_terminal": 2, "terminal_reward": True},
    "terminal, zeros, flat": {"num_terminal": 1, "prior": "flat", "density": 0.4},
    "deterministic": {"deterministic": True},
    "cold": {"temperature": 0.01},
    "hot": {"temperature": 100.0},
    "myopic": {"discount": 0.0},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def infinite_problem(seed: int, **options: object) -> oracles.Problem:
    defaults = {"num_states": 7, "num_actions": 3, "horizon": None, "discount": 0.9}
    return oracles.random_problem(seed, **(defaults | options))


def v_error(posterior: cai.Posterior, v: np.ndarray) -> float:
    return float(np.abs(tables_of(posterior).v - v).max())


@cases
@solvers
def test_fixed_point_equals_newton_in_numpy(options: dict, method: cai.AbstractMethod) -> None:
    problem = infinite_problem(101, **options)
    q, v, policy = oracles.solve_fixed(problem)
    posterior = cai.infer(graph_of(problem), method)
    tables = tables_of(posterior)
    assert_close(tables.v, v, 1e-9)
    assert_close(tables.q, q, 1e-9)
    assert_close(tables.policy, policy, 1e-9 / problem.temperature + 1e-12)
    assert_close(problem.temperature * posterior.log_evidence, problem.initial @ v, 1e-9)
    assert posterior.is_bound
    assert posterior.stats.converged
    assert v_error(posterior, v) <= posterior.stats.certified_error + 1e-15 * np.abs(v).max()


@cases
def test_occupancies_are_truncated_sums(options: dict) -> None:
    problem = infinite_problem(102, **options)
    _, _, policy = oracles.solve_fixed(problem)
    posterior = cai.infer(graph_of(problem), cai.SoftValueIteration())
    assert_close(posterior.occupancy, oracles.discounted_occupancy(problem, policy), 1e-8)
    assert_close(posterior.state_marginals, oracles.truncated_state_marginals(problem, policy, 400), 1e-8)
    assert_close(posterior.state_marginals.sum(), 1.0)
    pairs = (1 - problem.discount) * oracles.discounted_occupancy(problem, policy)
    assert_close(posterior.state_action_marginals, pairs, 1e-8)
    returns, entropies = oracles.policy_matrices(problem, policy)[1], -(policy * np.log(policy + (policy == 0))).sum(-1)
    visits = oracles.discounted_occupancy(problem, policy).sum(-1)
    _, plain = oracles.solve_evaluation(problem, policy, temperature=0.0)
    assert_close(posterior.expected_return, problem.initial @ plain, 1e-8)
    assert_close(posterior.entropy, visits @ entropies, 1e-8)
    if problem.terminal is None:
        assert_close(visits @ returns, problem.initial @ plain, 1e-8)


@cases
@pytest.mark.parametrize("temperature", [None, 0.0, 2.0])
def test_policy_evaluation_is_a_linear_solve(options: dict, temperature: float | None) -> None:
    problem = infinite_problem(103, **options)
    policy = oracles.random_policy(problem, 104)
    q, v = oracles.solve_evaluation(problem, policy, temperature)
    method = cai.PolicyEvaluation(policy_of(policy), temperature=temperature)
    posterior = cai.infer(graph_of(problem), method)
    assert_close(tables_of(posterior).q, q)
    assert_close(tables_of(posterior).v, v)
    assert_close(posterior.occupancy, oracles.discounted_occupancy(problem, policy))
    assert_close(posterior.expected_return, problem.initial @ oracles.solve_evaluation(problem, policy, 0.0)[1])


@solvers
@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("num_terminal", [0, 1])
def test_far_sighted(method: cai.AbstractMethod, temperature: float, num_terminal: int) -> None:
    """Discount 0.9999: values of thousands, right to 1e-9 of their size."""
    if method == SOLVERS["value iteration"]:
        pytest.skip("plain sweeps need some 300,000 steps here; the other solvers exist for this")
    problem = infinite_problem(
        105, num_states=40, density=0.1, discount=0.9999, temperature=temperature, num_terminal=num_terminal
    )
    _, v, _ = oracles.solve_fixed(problem)
    posterior = cai.infer(graph_of(problem), method)
    assert_close(tables_of(posterior).v, v, 1e-9)
    assert posterior.stats.num_steps < 200
    assert v_error(posterior, v) <= posterior.stats.certified_error <= 1e-5 * np.abs(v).max()


@pytest.mark.parametrize("solver", ["value iteration", "Newton"])
def test_certified_error_is_never_below_the_true_error(solver: str) -> None:
    """200 random problems, loose and tight tolerances, few and many steps; what stops early is certified too."""
    rng = np.random.default_rng(106)
    for _ in range(100):
        problem = infinite_problem(
            int(rng.integers(1 << 30)),
            num_states=int(rng.integers(1, 9)),
            num_actions=int(rng.integers(1, 4)),
            discount=float(rng.choice([0.0, 0.5, 0.9, 0.99])),
            temperature=float(10 ** rng.uniform(-2, 2)),
            scale=float(10 ** rng.uniform(-2, 2)),
            density=float(rng.uniform(0.2, 1)),
            num_terminal=int(rng.integers(0, 2)),
            prior=str(rng.choice(["uniform", "flat", "tabular", "restricted"])),
        )
        _, v, _ = oracles.solve_fixed(problem)
        method = cai.SoftValueIteration(
            solver=cai.methods.ValueIteration() if solver == "value iteration" else cai.methods.Newton(),
            tolerance=float(10 ** rng.uniform(-12, 1)),
            max_steps=int(rng.choice([1, 3, 10, 5000])),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cai.NotConverged)
            posterior = cai.infer(graph_of(problem), method)
        assert v_error(posterior, v) <= posterior.stats.certified_error + 4e-16 * max(1, np.abs(v).max())
        if not posterior.stats.converged:
            assert posterior.stats.num_steps <= method.max_steps


@pytest.mark.parametrize("num_states", [900, 3000])
@pytest.mark.parametrize("discount", [0.95, 0.9999])
def test_large_and_sparse(num_states: int, discount: float) -> None:
    """Thousands of states, three successors each: policy, values and occupancy satisfy their own sparse equations."""
    nexts, probs = oracles.random_successors(123, num_states, 2, 3)
    rng = np.random.default_rng(124)
    reward, initial = rng.normal(size=(num_states, 2)), oracles.random_rows(rng, (num_states,))
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=initial),
        dynamics=cai.factors.TabularDynamics.from_successors(torch.as_tensor(nexts), torch.as_tensor(probs)),
        reward=cai.factors.TabularReward(reward),
        discount=discount,
        temperature=0.5,
    )
    posterior = cai.infer(graph, cai.SoftValueIteration())
    v = tables_of(posterior).v
    q = reward + discount * (probs * v[nexts]).sum(-1)
    top = q.max(-1)
    backed_up = top + 0.5 * np.log(np.exp((q - top[:, None]) / 0.5).mean(-1))
    assert np.abs(backed_up - v).max() <= (1 - discount) * posterior.stats.certified_error + 1e-14 * np.abs(v).max()
    assert posterior.stats.certified_error <= 1e-10 * np.abs(v).max() / (1 - discount) ** 0.5
    policy = tables_of(posterior).policy
    moves = [probs[:, a] * policy[:, a, None] for a in range(2)]
    rows = np.repeat(np.arange(num_states), 3)
    chain = sum(
        scipy.sparse.csr_matrix((moves[a].ravel(), (rows, nexts[:, a].ravel())), shape=(num_states, num_states))
        for a in range(2)
    )
    system = scipy.sparse.identity(num_states, format="csc") - discount * chain.T.tocsc()
    visits = scipy.sparse.linalg.spsolve(system, initial)
    assert_close(posterior.occupancy.sum(-1), visits, 1e-8)
    judged = cai.infer(graph, cai.PolicyEvaluation(policy))
    assert_close(judged.v(torch.arange(num_states)), v, 1e-9)


def test_stopping_early_warns() -> None:
    method = cai.SoftValueIteration(solver=cai.methods.ValueIteration(), max_steps=3)
    with pytest.warns(cai.NotConverged):
        posterior = cai.infer(graph_of(infinite_problem(107)), method)
    assert not posterior.stats.converged
    assert posterior.stats.residual > 0


def test_tolerance_is_kept() -> None:
    problem = infinite_problem(108, discount=0.99)
    _, v, _ = oracles.solve_fixed(problem)
    for tolerance in (1e-2, 1e-5, 1e-8):
        method = cai.SoftValueIteration(solver=cai.methods.ValueIteration(), tolerance=tolerance)
        posterior = cai.infer(graph_of(problem), method)
        assert posterior.stats.converged
        assert posterior.stats.residual <= tolerance * max(1, np.abs(v).max())


def test_time_is_ignored() -> None:
    posterior = cai.infer(graph_of(infinite_problem(109)), cai.SoftValueIteration())
    assert_close(posterior.v(torch.arange(7), t=5), posterior.v(torch.arange(7)), 0)
    assert_close(posterior.policy(2, t=99).probs, posterior.policy(2).probs, 0)


# -- the discounted posterior -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.1, 0.9, 0.9999])
@pytest.mark.parametrize("num_terminal", [0, 2])
@pytest.mark.parametrize("discount", [0.5, 0.95])
@pytest.mark.parametrize("prior", ["tabular", "restricted", "flat"])
def test_discounted_posterior_is_linear(target: float, num_terminal: int, discount: float, prior: str) -> None:
    problem = infinite_problem(
        110, discount=discount, num_terminal=num_terminal, terminal_reward=num_terminal > 0, prior=prior, density=0.6
    )
    problem = oracles.with_radius(problem, target)
    q, v = oracles.solve_posterior(problem)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(tables_of(posterior).v, v, 1e-9)
    assert_close(tables_of(posterior).q, q, 1e-9)
    log_evidence = oracles.log_sum_exp(
        np.log(problem.initial, where=problem.initial > 0, out=np.full(7, -np.inf)) + v / problem.temperature
    )
    assert_close(posterior.log_evidence, log_evidence, 1e-9)
    assert not posterior.is_bound
    expected = problem.mu() * np.exp((q - v[:, None]) / problem.temperature)
    alive = ~problem.is_terminal
    assert_close(tables_of(posterior).policy[alive], expected[alive], 1e-8)


def test_discounted_posterior_agrees_with_a_long_horizon() -> None:
    problem = oracles.with_radius(infinite_problem(111, discount=0.8), 0.6)
    forever = cai.infer(graph_of(problem), cai.SumProduct())
    long = cai.infer(graph_of(problem.replace(horizon=120)), cai.SumProduct())
    assert_close(tables_of(forever).v, tables_of(long).v[0], 1e-10)
    assert_close(forever.log_evidence, long.log_evidence)
    assert_close(forever.occupancy, numpy_of(long.occupancy).sum(0), 1e-9)
    assert_close(forever.expected_return, long.expected_return, 1e-9)
    alive = numpy_of(forever.occupancy).sum(-1)
    assert_close(forever.state_marginals, alive / alive.sum(), 1e-9)


def numbers_in(message: str) -> list[float]:
    return [float(x) for x in re.findall(r"\d+\.\d+(?:e[+-]?\d+)?|\d+", message)]


@pytest.mark.parametrize("target", [1.05, 3.0])
def test_posterior_beyond_the_radius_is_refused_with_it(target: float) -> None:
    problem = oracles.with_radius(infinite_problem(112), target)
    with pytest.raises(cai.IncompatibleMethod) as refusal:
        cai.infer(graph_of(problem), cai.SumProduct())
    radius = oracles.spectral_radius(oracles.posterior_matrix(problem))
    shown = numbers_in(str(refusal.value))
    assert any(abs(x - radius) <= 0.01 * radius for x in shown), refusal.value


@pytest.mark.parametrize("num_terminal", [1, 2])
def test_first_exit_posterior_is_linear(num_terminal: int) -> None:
    problem = infinite_problem(113, discount=1.0, num_terminal=num_terminal, terminal_reward=True)
    problem = oracles.with_radius(problem, 0.95)
    q, v = oracles.solve_posterior(problem)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(tables_of(posterior).v, v, 1e-9)
    assert_close(tables_of(posterior).q, q, 1e-9)


def test_first_exit_posterior_beyond_the_radius_is_refused() -> None:
    problem = oracles.with_radius(infinite_problem(114, discount=1.0, num_terminal=1), 1.2)
    with pytest.raises(cai.IncompatibleMethod) as refusal:
        cai.infer(graph_of(problem), cai.SumProduct())
    assert any(abs(x - 1.2) < 0.012 for x in numbers_in(str(refusal.value)))


# -- first exit under fixed dynamics ----------------------------------------------------------------------------------


@solvers
@pytest.mark.parametrize("prior", ["tabular", "flat"])
def test_first_exit(method: cai.AbstractMethod, prior: str) -> None:
    """Dense dynamics leave at every step, so the answer exists whatever the rewards."""
    problem = infinite_problem(115, discount=1.0, num_terminal=2, terminal_reward=True, prior=prior)
    q, v, policy = oracles.solve_fixed(problem)
    posterior = cai.infer(graph_of(problem), method)
    assert_close(tables_of(posterior).v, v, 1e-8)
    assert_close(tables_of(posterior).q, q, 1e-8)
    assert v_error(posterior, v) <= posterior.stats.certified_error + 1e-15 * np.abs(v).max()
    assert_close(posterior.occupancy, oracles.discounted_occupancy(problem, policy), 1e-7)


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()])
def test_undiscounted_with_an_exit_out_of_reach_is_refused(method: cai.AbstractMethod) -> None:
    problem = infinite_problem(117, discount=1.0, num_terminal=1)
    dynamics = problem.dynamics.copy()
    dynamics[:2] = 0
    dynamics[:2, :, :2] = 0.5
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph_of(problem.replace(dynamics=dynamics)), method)


def test_max_product_needs_an_end() -> None:
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph_of(infinite_problem(118)), cai.MaxProduct())


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()])
def test_cliff_walking_with_the_entropy_bonus_is_refused(method: cai.AbstractMethod) -> None:
    """A step costs 1 and is worth log 4 = 1.39 nats of entropy: wandering for ever has no finite value."""
    graph = cai.from_gym("CliffWalking-v1", temperature=1.0).replace(action_prior=cai.factors.FlatPrior())
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph, method)


@solvers
@pytest.mark.parametrize("flat, temperature", [(False, 1.0), (True, 0.2)])
def test_cliff_walking_first_exit(method: cai.AbstractMethod, flat: bool, temperature: float) -> None:
    problem = problem_of_env("CliffWalking-v1", flat=flat, temperature=temperature, horizon=None)
    graph = cai.from_gym("CliffWalking-v1", temperature=temperature)
    if flat:
        graph = graph.replace(action_prior=cai.factors.FlatPrior())
    posterior = cai.infer(graph, method)
    v = tables_of(posterior).v
    _, backed_up, _ = oracles.soft_bellman(problem, v[: problem.num_states].astype(np.longdouble))
    assert_close(v[: problem.num_states], backed_up.astype(float), 1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_frozen_lake_first_exit_posterior(temperature: float) -> None:
    problem = problem_of_env("FrozenLake-v1", temperature=temperature, horizon=None)
    radius = oracles.spectral_radius(oracles.posterior_matrix(problem))
    if temperature == 1.0:
        assert radius == pytest.approx(0.82, abs=0.01)
    posterior = cai.infer(cai.from_gym("FrozenLake-v1", temperature=temperature), cai.SumProduct())
    q, v = oracles.solve_posterior(problem)
    assert_close(tables_of(posterior).v, v, 1e-9)
    assert_close(tables_of(posterior).q, q, 1e-9)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1"])
@pytest.mark.parametrize("reading", ["fixed", "posterior"])
def test_gymnasium_tables_over_a_finite_horizon(env_id: str, reading: oracles.Reading) -> None:
    problem = problem_of_env(env_id, temperature=0.5, horizon=12)
    method = cai.SumProduct() if reading == "posterior" else cai.SoftValueIteration()
    posterior = cai.infer(cai.from_gym(env_id, horizon=12, temperature=0.5), method)
    expected = oracles.backward(problem, reading)
    assert_close(tables_of(posterior).v, expected.v)
    assert_close(tables_of(posterior).q, expected.q)
    assert_close(posterior.log_evidence, expected.log_evidence)
    marginals = (
        oracles.rollout_marginals(problem, expected.policy)
        if reading == "fixed"
        else oracles.posterior_marginals(problem, expected)
    )
    assert_close(posterior.state_marginals, marginals[0])
    assert_close(posterior.state_action_marginals, marginals[1])


def test_tables_of_each_step_need_a_horizon() -> None:
    problem = oracles.random_problem(119, per_step=("reward",), discount=0.9)
    with pytest.raises(ValueError):
        cai.infer(graph_of(problem, horizon=None), cai.SoftValueIteration())


# -- both readings side by side ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_terminal, discount", [(0, 0.9), (1, 0.9), (1, 1.0)])
def test_gap_without_horizon(num_terminal: int, discount: float) -> None:
    """Evidence minus bound is KL(fixed || posterior); both directions against a horizon long enough."""
    problem = infinite_problem(120, num_terminal=num_terminal, discount=discount, terminal_reward=num_terminal > 0)
    problem = oracles.with_radius(problem, 0.7)
    graph, long = graph_of(problem), graph_of(problem.replace(horizon=400))
    gap = cai.infer(graph, cai.SoftValueIteration()).gap(cai.infer(graph, cai.SumProduct()))
    far = cai.infer(long, cai.SoftValueIteration()).gap(cai.infer(long, cai.SumProduct()))
    assert_close(gap.kl, gap.evidence_gap, 1e-9)
    assert float(gap.kl) > 1e-3
    assert_close(gap.kl, far.kl, 1e-8)
    assert_close(gap.reverse_kl, far.reverse_kl, 1e-8)


@pytest.mark.parametrize("method", [cai.SumProduct(), cai.SoftValueIteration()], ids=["SumProduct", "Soft"])
def test_first_exit_ends_where_long_horizons_end(method: cai.AbstractMethod) -> None:
    """Undiscounted, all mass is absorbed: the marginal is where, the expected return is what was earned on the way."""
    problem = infinite_problem(121, discount=1.0, num_terminal=2, terminal_reward=True)
    problem = oracles.with_radius(problem, 0.5)
    forever = cai.infer(graph_of(problem), method)
    long = cai.infer(graph_of(problem.replace(horizon=400)), method)
    assert_close(forever.state_marginals, numpy_of(long.state_marginals)[-1], 1e-9)
    assert_close(forever.occupancy, numpy_of(long.occupancy).sum(0), 1e-9)
    assert_close(forever.expected_return, long.expected_return, 1e-9)
    assert_close(forever.entropy, long.entropy, 1e-9)
    assert_close(forever.log_evidence, long.log_evidence, 1e-9)


def test_the_posterior_exists_exactly_where_its_radius_is_below_one() -> None:
    """Random problems on either side of the boundary; where it exists, against the linear system in 50 digits."""
    rng, answers = np.random.default_rng(122), 0
    for _ in range(60):
        num_terminal = int(rng.integers(0, 3))
        problem = oracles.random_problem(
            int(rng.integers(1 << 30)),
            num_states=int(rng.integers(num_terminal + 1, 6)),
            horizon=None,
            discount=float(rng.choice([0.5, 0.99] if num_terminal == 0 else [0.5, 0.99, 1.0])),
            temperature=float(rng.uniform(0.3, 3)),
            num_terminal=num_terminal,
            terminal_reward=True,
            prior=str(rng.choice(["uniform", "flat", "tabular"])),
        )
        target = float(rng.choice([0.3, 0.9, 0.999, 1.001, 1.5]))
        problem = oracles.with_radius(problem, target)
        if target > 1:
            with pytest.raises(cai.IncompatibleMethod):
                cai.infer(graph_of(problem), cai.SumProduct())
            continue
        posterior = cai.infer(graph_of(problem), cai.SumProduct())
        with mpmath.workdps(50):
            v = oracles.solve_posterior_mp(problem, mpmath.mp)
        assert_close(tables_of(posterior).v, v, 1e-9)
        assert v_error(posterior, v) <= posterior.stats.certified_error + 1e-15 * np.abs(v).max()
        answers += 1
    assert answers > 20
