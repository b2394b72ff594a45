"""Risk-sensitive control on finite horizons: the recursion, its two ends, and what a certainty equivalent must do.

Oracles: loops over states, actions and successors; enumeration of chains; the other player's choice of a dynamics,
any choice of which bounds the value from its side; a one-dimensional search.
"""

from __future__ import annotations

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops import RiskSensitive, backward_messages
from cai.ops.messages import optimal_backup
from tests import oracles, risk_oracles
from tests.laws.build import assert_close, graph_of, numpy_of, tables_of
from tests.laws.cases import cases

ETAS = (-20.0, -0.8, -1e-12, 0.3)
etas = pytest.mark.parametrize("eta", ETAS)


def infer(graph: cai.TrajectoryGraph, eta: float) -> cai.Posterior:
    return cai.infer(graph, cai.RiskSensitiveControl(eta))


@cases
@etas
def test_messages_equal_the_loops(options: dict, eta: float) -> None:
    problem = oracles.random_problem(401, **options)
    with mpmath.workdps(40):
        q, v = risk_oracles.backward(problem, eta, mpmath.mp)
    posterior = infer(graph_of(problem), eta)
    alive = ~problem.is_terminal
    assert_close(tables_of(posterior).v, v)
    assert_close(tables_of(posterior).q[:, alive], q[:, alive])
    assert_close(tables_of(posterior).policy, risk_oracles.policy_of(problem, q, v), 1e-9)
    if abs(eta) > 1e-6 and eta * problem.temperature <= 1:
        start = risk_oracles.certainty_equivalent(list(zip(problem.initial, v[0], strict=True)), eta)
        assert_close(problem.temperature * posterior.log_evidence, start)


@cases
def test_at_one_over_temperature_it_is_the_posterior(options: dict) -> None:
    problem = oracles.random_problem(402, **options)
    graph = graph_of(problem)
    risky, exact = infer(graph, 1 / problem.temperature), cai.infer(graph, cai.SumProduct())
    for name in ("q", "v", "policy"):
        assert_close(getattr(tables_of(risky), name), getattr(tables_of(exact), name))
    for name in (
        "log_evidence",
        "state_marginals",
        "state_action_marginals",
        "occupancy",
        "expected_return",
        "entropy",
    ):
        assert_close(getattr(risky, name), getattr(exact, name))
    samples = exact.sample(20, seed=0)
    assert_close(risky.log_prob(samples), exact.log_prob(samples))
    assert_close(risky.gap(exact).kl, 0.0)
    assert risky.is_bound


@cases
def test_it_tends_to_fixed_dynamics_at_the_rate_of_half_the_variance(options: dict) -> None:
    """As log E exp(eta x) / eta = E x + eta Var x / 2 + O(eta^2): half of eta, half of the distance."""
    graph = graph_of(oracles.random_problem(403, **options))
    soft = tables_of(cai.infer(graph, cai.SoftValueIteration()))
    assert np.array_equal(tables_of(infer(graph, 0.0)).v, soft.v)
    for sign in (-1.0, 1.0):
        far, near = (tables_of(infer(graph, sign * eta)).v - soft.v for eta in (2e-5, 1e-5))
        assert (sign * near >= -1e-12).all()
        assert_close(far, 2 * near, 1e-3 * np.abs(near).max() + 1e-12)
        assert_close(tables_of(infer(graph, sign * 1e-12)).v, soft.v)
        assert_close(infer(graph, sign * 1e-12).occupancy, cai.infer(graph, cai.SoftValueIteration()).occupancy)


@cases
def test_values_and_evidence_rise_with_eta(options: dict) -> None:
    problem = oracles.random_problem(404, **options)
    graph = graph_of(problem)
    most = 1 / problem.temperature
    answers = [infer(graph, eta) for eta in (-1e30, -30.0, -1.0, -0.1, 0.0, 0.3 * most, most)]
    for lower, upper in zip(answers, answers[1:], strict=False):
        assert (tables_of(lower).v <= tables_of(upper).v + 1e-12 * np.abs(tables_of(upper).v)).all()
        assert lower.log_evidence <= upper.log_evidence + 1e-12 * abs(upper.log_evidence)
        assert lower.is_bound
    exact = cai.infer(graph, cai.SumProduct())
    assert all(float(answer.gap(exact).evidence_gap) >= -1e-10 for answer in answers)


def test_beyond_the_posterior_there_is_no_bound() -> None:
    posterior = infer(graph_of(oracles.random_problem(405, temperature=0.5)), 2.1)
    for read in (lambda: posterior.log_evidence, lambda: posterior.is_bound):
        with pytest.raises(cai.Unavailable, match=r"eta = 2.1 above 1 / temperature = 2 .* SumProduct"):
            read()
    assert tables_of(posterior).v.shape == (4, 3)
    with pytest.raises(cai.Unavailable, match="temperature 0"):
        _ = infer(graph_of(oracles.random_problem(405, temperature=0.0)), 2.1).log_evidence


@cases
def test_nothing_to_fear_in_deterministic_dynamics(options: dict) -> None:
    problem = oracles.random_problem(406, **(options | {"deterministic": True, "density": 0.0, "discount": 1.0}))
    graph = graph_of(problem)
    soft = tables_of(cai.infer(graph, cai.SoftValueIteration()))
    for eta in ETAS:
        for name in ("q", "v", "policy"):
            assert_close(getattr(tables_of(infer(graph, eta)), name), getattr(soft, name))


@etas
@pytest.mark.parametrize("options", [{}, {"discount": 0.8}, {"num_terminal": 1, "terminal_reward": True}], ids=str)
def test_a_chain_is_worth_the_certainty_equivalent_of_its_return(options: dict, eta: float) -> None:
    problem = oracles.random_problem(407, **({"num_actions": 1, "prior": "uniform", "num_states": 4} | options))
    v = tables_of(infer(graph_of(problem), eta)).v[0]
    if abs(eta) < 1e-6:
        return  # the enumeration has no digits there; the loops have
    assert_close(v, [risk_oracles.risk_of_chain(problem, eta, s) for s in range(4)])


@pytest.mark.parametrize("eta", [-3.0, -0.5, 0.5, 3.0])
@pytest.mark.parametrize("options", [{}, {"num_terminal": 1, "terminal_reward": True, "density": 0.6}], ids=str)
def test_another_player_chooses_the_dynamics_at_the_price_of_a_divergence(options: dict, eta: float) -> None:
    """Against every other choice the value is better (eta < 0) or worse (eta > 0); against the tilted one it is it."""
    problem = oracles.random_problem(408, **options)
    v = tables_of(infer(graph_of(problem), eta)).v
    tilted = np.array([risk_oracles.tilted(problem, eta, v[t + 1], t) for t in range(problem.horizon)])
    assert_close(risk_oracles.value_in(problem, eta, tilted), v)
    rng = np.random.default_rng(0)
    for spread in (0.01, 0.1, 1.0, 5.0):
        for _ in range(25):
            other = tilted * np.exp(spread * rng.normal(size=tilted.shape))
            other /= other.sum(-1, keepdims=True)
            assert (np.sign(eta) * (v - risk_oracles.value_in(problem, eta, other)) >= -1e-10).all()


@pytest.mark.parametrize("eta", [-3.0, -0.5, 0.5, 3.0])
def test_the_other_players_best_chance_by_search(eta: float) -> None:
    """One gamble: the worst (best) chance of winning, paid for, is the certainty equivalent of the gamble."""
    branch = cai.load_model("risky_branch", probability=0.3)

    def worth(log_odds: float) -> float:
        q = 1 / (1 + math.exp(-log_odds))
        divergence = q * math.log(q / 0.3) + (1 - q) * math.log((1 - q) / 0.7)
        return math.copysign(1.0, -eta) * (4 * q - divergence / eta)

    found = scipy.optimize.minimize_scalar(worth, bounds=(-25, 25), method="bounded", options={"xatol": 1e-9})
    posterior = infer(branch, eta)
    assert_close(posterior.q(0, 1), math.copysign(1.0, -eta) * found.fun, 1e-9)
    wins = posterior.state_marginals[1, 2] / posterior.state_action_marginals[0, 0, 1]
    assert_close(wins, 1 / (1 + math.exp(-found.x)), 1e-6)


@cases
@pytest.mark.parametrize("eta", [-2.0, 0.7])
def test_scaling_and_shift(options: dict, eta: float) -> None:
    problem = oracles.random_problem(409, **options)
    plain = tables_of(infer(graph_of(problem), eta))
    scale = 3.7
    end = None if problem.terminal_reward is None else scale * problem.terminal_reward
    scaled = problem.replace(
        reward=scale * problem.reward, temperature=scale * problem.temperature, terminal_reward=end
    )
    scaled_tables = tables_of(infer(graph_of(scaled), eta / scale))
    assert_close(scaled_tables.v, scale * plain.v)
    assert_close(scaled_tables.policy, plain.policy)
    if problem.terminal is None and problem.discount == 1:
        moved = tables_of(infer(graph_of(problem.replace(reward=problem.reward + 2.0)), eta))
        steps_left = np.arange(problem.horizon, -1, -1)[:, None]
        assert_close(moved.v, plain.v + 2.0 * steps_left)
        assert_close(moved.policy, plain.policy)


@pytest.mark.parametrize("eta", [-2.0, 1.1])
@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_dense_equals_sparse_and_batch_equals_loop(eta: float, discount: float) -> None:
    problem = oracles.random_problem(410, num_states=6, density=0.4, num_terminal=1, discount=discount, reward="sa")
    rows = scipy.sparse.csr_matrix(problem.dynamics.reshape(-1, 6))
    sparse = cai.factors.TabularDynamics(rows, terminal=torch.as_tensor(problem.terminal))
    dense, thin = infer(graph_of(problem), eta), infer(graph_of(problem, dynamics=sparse), eta)
    for name in ("state_marginals", "state_action_marginals", "occupancy"):
        assert_close(getattr(thin, name), getattr(dense, name))
    assert_close(tables_of(thin).v, tables_of(dense).v)
    tables = tabulate(graph_of(problem))
    step = tables.steps[0]
    rewards = step.rewards + torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def messages(rewards: torch.Tensor) -> torch.Tensor:
        batch = replace(tables, steps=(replace(step, rewards=rewards),))
        return backward_messages(batch, optimal_backup(RiskSensitive(eta))).v

    assert_close(messages(rewards), torch.stack([messages(one) for one in rewards]))


# -- evidence, and what is refused ------------------------------------------------------------------------------------


def limit_of(eta: float) -> cai.RiskSensitiveControl:
    """The least of this sign that has any effect."""
    return cai.RiskSensitiveControl(math.copysign(1e-12, eta))


@etas
def test_evidence_on_actions_leaves_dead_states_to_avoid_or_to_fear(eta: float) -> None:
    """Where the known action is not available nothing is possible: luck avoids it, the worst case finds it."""
    problem = oracles.random_problem(411, num_states=4, prior="restricted", density=0.5, num_actions=2, horizon=3)
    prior = np.array([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    rewards = torch.tensor(problem.reward, requires_grad=True)
    known = graph_of(
        problem.replace(prior=prior), initial=cai.factors.Delta(1), reward=cai.factors.TabularReward(rewards)
    ).condition(actions={1: 0})
    reaches = problem.dynamics[..., 0] > 0
    assert reaches[1:].any()
    assert not reaches[1:].all()
    posterior = infer(known, eta)
    q, v = tables_of(posterior).q, tables_of(posterior).v
    assert np.isneginf(v[1, 0])
    assert np.isfinite(v[1, 1:]).all()
    if eta < 0:
        assert (np.isneginf(q[0]) == reaches).all()
    tilted = numpy_of(posterior.state_marginals)
    assert tilted[1, 0] == 0.0
    assert_close(tilted.sum(-1), 1.0)
    assert torch.isfinite(posterior.log_prob(posterior.sample(20, seed=0))).all()
    (gradient,) = torch.autograd.grad(posterior.v(1), rewards)
    assert_close(gradient.sum(-1), numpy_of(posterior.occupancy).sum(0), 1e-9 if abs(eta) > 1e-6 else 1e-3)
    limit, soft = (tables_of(cai.infer(known, method)) for method in (limit_of(eta), cai.SoftValueIteration()))
    assert_close(np.where(reaches, 0.0, limit.q[0]), np.where(reaches, 0.0, soft.q[0]))
    assert (
        limit.q[0][reaches] < -1e9
    ).all()  # on the side of luck, the little chance to escape is worth log(1 - p) / eta


@etas
def test_evidence_on_the_start_counts_its_probability(eta: float) -> None:
    graph = graph_of(oracles.random_problem(412, temperature=0.9))
    known = graph.condition(states={0: 1})
    posterior = infer(known, eta)
    chance = math.log(float(graph.initial.initial_table(3)[1]))
    assert_close(posterior.log_evidence, float(posterior.v(1)) / 0.9 + chance)
    assert_close(infer(known, 1 / 0.9).log_evidence, cai.infer(known, cai.SumProduct()).log_evidence)


def test_evidence_on_later_states_is_refused() -> None:
    for horizon in (3, None):
        problem = oracles.random_problem(413, horizon=horizon, discount=1.0 if horizon else 0.9)
        with pytest.raises(cai.IncompatibleMethod, match="SumProduct conditions on it"):
            infer(graph_of(problem, horizon=3).condition(states={2: 1}), -0.5)


@pytest.mark.parametrize("eta", [math.nan, math.inf, -math.inf, 1e31, -1e-31, "much", None])
def test_an_eta_that_is_none_is_refused(eta: object) -> None:
    with pytest.raises(ValueError, match="eta must be a number .* got"):
        infer(graph_of(oracles.random_problem(414)), eta)
    if isinstance(eta, float):
        with pytest.raises(ValueError, match="0 is FixedDynamics"):
            RiskSensitive(eta)


def test_what_is_no_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="solver must be Newton"):
        cai.infer(graph_of(oracles.random_problem(415)), cai.RiskSensitiveControl(1.0, solver="newton"))


@pytest.mark.parametrize("eta", [-1e30, -1e3, 1e3, 1e30])
def test_the_ends_of_the_dial_are_the_worst_and_the_best_that_can_happen(eta: float) -> None:
    problem = oracles.random_problem(416, density=0.6, num_states=4)
    v, extreme = problem.end_reward, np.max if eta > 0 else np.min
    for _ in range(problem.horizon):
        worth = np.where(problem.p() > 0, problem.r() + v, -np.inf if eta > 0 else np.inf)
        q = extreme(worth, -1)
        v = 0.7 * np.log((problem.mu() * np.exp(q / 0.7)).sum(-1))
    loss = problem.horizon * math.log(problem.p()[problem.p() > 0].min()) / abs(eta)
    assert_close(tables_of(infer(graph_of(problem), eta)).v[0], v, 1e-12 - loss)


def test_single_precision() -> None:
    problem = oracles.random_problem(417, reward="sa")
    for eta in (-1e-20, -2.0, 0.5):
        single = infer(
            graph_of(
                problem,
                initial=cai.factors.Categorical(probs=problem.initial, dtype=torch.float32),
                dynamics=cai.factors.TabularDynamics(problem.dynamics, dtype=torch.float32),
                reward=cai.factors.TabularReward(problem.reward, dtype=torch.float32),
                action_prior=cai.factors.TabularPolicy(problem.prior, dtype=torch.float32),
            ),
            eta,
        )
        assert single.messages.v.dtype == torch.float32
        assert_close(tables_of(single).v, tables_of(infer(graph_of(problem), eta)).v, 1e-5)
