"""Changes of a problem that must not change the answer, or change it in a known way.

Laws: invariances of the soft Bellman backup. The oracle of each is the same method on the changed graph: shifts,
scales, potentials, other names, other storage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests import oracles
from tests.laws.build import Tables, assert_close, graph_of, numpy_of, tables_of
from tests.laws.cases import cases

SOFT = pytest.mark.parametrize("method", [cai.SumProduct(), cai.SoftValueIteration()], ids=["SumProduct", "Soft"])


def same_answer(a: cai.Posterior, b: cai.Posterior, tolerance: float = 1e-10) -> None:
    """All tables and numbers of two posteriors agree."""
    first, second = tables_of(a), tables_of(b)
    assert_close(first.q, second.q, tolerance)
    assert_close(first.v, second.v, tolerance)
    assert_close(first.policy, second.policy, tolerance)
    assert_close(a.log_evidence, b.log_evidence, tolerance)
    assert_close(a.state_marginals, b.state_marginals, tolerance)
    assert_close(a.state_action_marginals, b.state_action_marginals, tolerance)


@SOFT
def test_reward_shift(method: cai.AbstractMethod) -> None:
    """R + k without early ends: the same policy, and log evidence moves by T k / alpha."""
    problem, k = oracles.random_problem(41), 3.7
    base = cai.infer(graph_of(problem), method)
    moved = cai.infer(graph_of(problem.replace(reward=problem.reward + k)), method)
    assert_close(tables_of(moved).policy, tables_of(base).policy)
    assert_close(moved.log_evidence, numpy_of(base.log_evidence) + problem.horizon * k / problem.temperature)
    left = (problem.horizon - np.arange(problem.horizon + 1))[:, None]
    assert_close(tables_of(moved).v, tables_of(base).v + k * left)


def test_discounted_reward_shift() -> None:
    problem, k = oracles.random_problem(42, discount=0.8), -2.0
    base = cai.infer(graph_of(problem), cai.SoftValueIteration())
    moved = cai.infer(graph_of(problem.replace(reward=problem.reward + k)), cai.SoftValueIteration())
    assert_close(tables_of(moved).policy, tables_of(base).policy)
    total = k * (1 - 0.8**problem.horizon) / (1 - 0.8)
    assert_close(moved.log_evidence, numpy_of(base.log_evidence) + total / problem.temperature)


@SOFT
def test_reward_shift_moves_the_policy_where_episodes_can_end(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(43, num_terminal=1)
    base = cai.infer(graph_of(problem), method)
    moved = cai.infer(graph_of(problem.replace(reward=problem.reward + 2.0)), method)
    assert np.abs(tables_of(moved).policy - tables_of(base).policy)[0, :2].max() > 1e-3
    longer = numpy_of(moved.state_action_marginals).sum() - numpy_of(base.state_action_marginals).sum()
    assert longer > 1e-3, "a bonus on every step must lengthen the episodes"


@cases
@SOFT
@pytest.mark.parametrize("c", [1e-3, 250.0])
def test_scale(options: dict, method: cai.AbstractMethod, c: float) -> None:
    """(r, alpha) -> (c r, c alpha): the same distribution, values scaled."""
    problem = oracles.random_problem(44, **options)
    end = None if problem.terminal_reward is None else c * problem.terminal_reward
    changed = problem.replace(reward=c * problem.reward, temperature=c * problem.temperature, terminal_reward=end)
    base, scaled = cai.infer(graph_of(problem), method), cai.infer(graph_of(changed), method)
    assert_close(tables_of(scaled).v / c, tables_of(base).v)
    assert_close(tables_of(scaled).policy, tables_of(base).policy)
    assert_close(scaled.log_evidence, base.log_evidence)
    assert_close(scaled.state_marginals, base.state_marginals)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("num_terminal", [0, 1])
def test_potential_shaping(discount: float, num_terminal: int) -> None:
    """R + gamma Phi(s') - Phi(s), terminal value -Phi(s_H), Phi(terminal) = 0: the same policy, Q - Phi."""
    problem = oracles.random_problem(45, discount=discount, num_terminal=num_terminal)
    potential = np.random.default_rng(0).normal(size=problem.num_states) * ~problem.is_terminal
    shaped = problem.reward + discount * potential - potential[:, None, None]
    changed = problem.replace(reward=shaped, terminal_reward=-potential)
    base = cai.infer(graph_of(problem), cai.SoftValueIteration())
    other = cai.infer(graph_of(changed), cai.SoftValueIteration())
    assert_close(tables_of(other).policy, tables_of(base).policy)
    assert_close(tables_of(other).q, tables_of(base).q - potential[:, None])
    assert_close(other.state_marginals, base.state_marginals)


def test_potential_shaping_of_the_posterior() -> None:
    problem = oracles.random_problem(46)
    potential = np.random.default_rng(0).normal(size=problem.num_states)
    changed = problem.replace(reward=problem.reward + potential - potential[:, None, None], terminal_reward=-potential)
    base, other = cai.infer(graph_of(problem), cai.SumProduct()), cai.infer(graph_of(changed), cai.SumProduct())
    assert_close(tables_of(other).policy, tables_of(base).policy)
    assert_close(tables_of(other).v, tables_of(base).v - potential)


def test_potential_shaping_without_horizon() -> None:
    problem = oracles.random_problem(47, horizon=None, discount=0.95, num_terminal=1, num_states=5)
    potential = np.random.default_rng(0).normal(size=problem.num_states) * ~problem.is_terminal
    changed = problem.replace(reward=problem.reward + 0.95 * potential - potential[:, None, None])
    base = cai.infer(graph_of(problem), cai.SoftValueIteration())
    other = cai.infer(graph_of(changed), cai.SoftValueIteration())
    assert_close(tables_of(other).policy, tables_of(base).policy, 1e-9)
    assert_close(tables_of(other).v, tables_of(base).v - potential, 1e-9)


@cases
@SOFT
def test_other_names(options: dict, method: cai.AbstractMethod) -> None:
    """Permuted states and actions: the same answer, permuted."""
    problem = oracles.random_problem(48, **options)
    rng = np.random.default_rng(1)
    s, a = rng.permutation(problem.num_states), rng.permutation(problem.num_actions)
    lead = {name: (slice(None),) * (name in problem.per_step) for name in ("dynamics", "reward", "prior")}
    rank = problem.reward.ndim - len(lead["reward"])
    changed = problem.replace(
        initial=problem.initial[s],
        dynamics=problem.dynamics[(*lead["dynamics"], *np.ix_(s, a, s))],
        reward=problem.reward[(*lead["reward"], *np.ix_(*[s, a, s][:rank]))],
        prior=problem.prior[(*lead["prior"], *np.ix_(s, a))],
        terminal=None if problem.terminal is None else problem.terminal[s],
        terminal_reward=None if problem.terminal_reward is None else problem.terminal_reward[s],
    )
    base, other = cai.infer(graph_of(problem), method), cai.infer(graph_of(changed), method)
    assert_close(other.log_evidence, base.log_evidence)
    assert_close(tables_of(other).v, tables_of(base).v[:, s])
    assert_close(tables_of(other).q, tables_of(base).q[:, s][:, :, a])
    assert_close(other.state_action_marginals, numpy_of(base.state_action_marginals)[:, s][:, :, a])


@pytest.mark.parametrize("name", ["dynamics", "reward", "prior"])
@SOFT
def test_repeated_tables_are_the_homogeneous_ones(name: str, method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(49, num_terminal=1, terminal_reward=True, horizon=4)
    repeated = np.broadcast_to(getattr(problem, name), (4, *getattr(problem, name).shape)).copy()
    changed = problem.replace(**{name: repeated}, per_step=frozenset({name}))
    same_answer(cai.infer(graph_of(changed), method), cai.infer(graph_of(problem), method), 1e-12)


# -- storage ----------------------------------------------------------------------------------------------------------


def scipy_csr(table: np.ndarray) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(table.reshape(-1, table.shape[-1]))


def torch_csr(table: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(table.reshape(-1, table.shape[-1])).to_sparse_csr()


def torch_coo(table: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(table.reshape(-1, table.shape[-1])).to_sparse_coo()


def scipy_coo_with_duplicates(table: np.ndarray) -> scipy.sparse.coo_matrix:
    """Every entry stored twice, half each."""
    matrix = scipy.sparse.coo_matrix(table.reshape(-1, table.shape[-1]))
    rows, columns = np.tile(matrix.row, 2), np.tile(matrix.col, 2)
    return scipy.sparse.coo_matrix((np.tile(matrix.data / 2, 2), (rows, columns)), shape=matrix.shape)


STORAGE = pytest.mark.parametrize("store", [scipy_csr, torch_csr, torch_coo, scipy_coo_with_duplicates])


@STORAGE
@SOFT
@pytest.mark.parametrize("num_terminal", [0, 2])
@pytest.mark.parametrize("reward", ["s", "sa", "sas"])
def test_sparse_is_dense(store: Callable, method: cai.AbstractMethod, num_terminal: int, reward: str) -> None:
    options = {"num_states": 12, "num_actions": 3, "horizon": 7, "density": 0.2, "discount": 0.9}
    problem = oracles.random_problem(50, num_terminal=num_terminal, reward=reward, prior="restricted", **options)
    terminal = torch.as_tensor(problem.is_terminal)
    sparse = cai.factors.TabularDynamics(store(problem.dynamics), terminal=terminal)
    same_answer(cai.infer(graph_of(problem, dynamics=sparse), method), cai.infer(graph_of(problem), method), 1e-11)


@SOFT
def test_sparse_reward_is_dense(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(51, num_states=8, density=0.3)
    problem = problem.replace(reward=problem.reward * (problem.dynamics > 0))
    graph = graph_of(
        problem,
        dynamics=cai.factors.TabularDynamics(scipy_csr(problem.dynamics)),
        reward=cai.factors.TabularReward(scipy_csr(problem.reward)),
    )
    same_answer(cai.infer(graph, method), cai.infer(graph_of(problem), method), 1e-11)


@SOFT
@pytest.mark.parametrize("horizon", [6, None])
def test_successor_lists_with_padding_and_duplicates(method: cai.AbstractMethod, horizon: int | None) -> None:
    nexts, probs = oracles.random_successors(52, 9, 3, 4)
    problem = oracles.random_problem(52, num_states=9, num_actions=3, horizon=horizon, reward="sa", discount=0.8)
    problem = problem.replace(dynamics=oracles.dense_successors(nexts, probs))
    if horizon is None:
        problem = oracles.with_radius(problem, 0.9)
    listed = cai.factors.TabularDynamics.from_successors(torch.as_tensor(nexts), torch.as_tensor(probs))
    same_answer(cai.infer(graph_of(problem, dynamics=listed), method), cai.infer(graph_of(problem), method), 1e-9)


@STORAGE
@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration()], ids=["VI", "PI"])
def test_sparse_is_dense_without_horizon(store: Callable, method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(53, num_states=15, density=0.2, horizon=None, discount=0.95, num_terminal=1)
    sparse = cai.factors.TabularDynamics(store(problem.dynamics), terminal=torch.as_tensor(problem.terminal))
    same_answer(cai.infer(graph_of(problem, dynamics=sparse), method), cai.infer(graph_of(problem), method), 1e-8)


@SOFT
def test_numpy_tables_are_torch_tables(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(54)
    tensors = graph_of(
        problem,
        initial=cai.factors.Categorical(probs=torch.as_tensor(problem.initial)),
        dynamics=cai.factors.TabularDynamics(torch.as_tensor(problem.dynamics)),
        reward=cai.factors.TabularReward(torch.as_tensor(problem.reward)),
        action_prior=cai.factors.TabularPolicy(torch.as_tensor(problem.prior)),
    )
    same_answer(cai.infer(tensors, method), cai.infer(graph_of(problem), method), 0.0)


@SOFT
def test_logits_and_probs_of_the_start(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(55, num_states=4)
    initial = np.array([0.5, 0.0, 0.25, 0.25])
    logits = torch.log(torch.as_tensor(initial)) + 3.0
    by_logits = graph_of(problem, initial=cai.factors.Categorical(logits=logits))
    same_answer(cai.infer(by_logits, method), cai.infer(graph_of(problem.replace(initial=initial)), method), 1e-12)


@SOFT
def test_a_certain_start(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(56).replace(initial=np.array([0.0, 1.0, 0.0]))
    certain = graph_of(problem, initial=cai.factors.Delta(1))
    same_answer(cai.infer(certain, method), cai.infer(graph_of(problem), method), 1e-12)


@SOFT
def test_linear_reward_is_its_table(method: cai.AbstractMethod) -> None:
    problem = oracles.random_problem(57, reward="sa")
    rng = np.random.default_rng(2)
    features, weights = rng.normal(size=(3, 2, 4)), rng.normal(size=4)
    linear = cai.factors.LinearReward(torch.as_tensor(features), weights=torch.as_tensor(weights))
    changed = problem.replace(reward=features @ weights)
    same_answer(cai.infer(graph_of(problem, reward=linear), method), cai.infer(graph_of(changed), method), 1e-12)


def test_the_two_readings_of_the_prior_differ_by_a_constant() -> None:
    """Flat against uniform: alpha log |A| a step, when nothing ends early and all actions are always there."""
    problem = oracles.random_problem(58, prior="uniform", num_actions=3)
    flat = problem.replace(prior=np.ones_like(problem.prior), flat=True)
    base = cai.infer(graph_of(problem), cai.SoftValueIteration())
    other = cai.infer(graph_of(flat), cai.SoftValueIteration())
    assert_close(tables_of(other).policy, tables_of(base).policy)
    assert_close(other.log_evidence, numpy_of(base.log_evidence) + problem.horizon * np.log(3))


@cases
def test_inputs_are_left_alone(options: dict) -> None:
    problem = oracles.random_problem(59, **options)
    before: dict[str, np.ndarray] = {k: getattr(problem, k).copy() for k in ("initial", "dynamics", "reward", "prior")}
    graph = graph_of(problem)
    first: Tables = tables_of(cai.infer(graph, cai.SumProduct()))
    cai.infer(graph, cai.SoftValueIteration())
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(problem, name), value)
    np.testing.assert_array_equal(first.q, tables_of(cai.infer(graph, cai.SumProduct())).q)


@SOFT
@pytest.mark.parametrize("horizon, discount", [(5, 1.0), (None, 0.8)])
def test_sparse_stays_sparse(method: cai.AbstractMethod, horizon: int | None, discount: float) -> None:
    """100,000 states: a dense table would hold 2e10 numbers. Both backups are checked by gathering successors."""
    num_states, rng = 100_000, np.random.default_rng(60)
    steps = rng.integers(-3, 4, size=(num_states, 2, 2))
    nexts = np.clip(np.arange(num_states)[:, None, None] + steps, 0, num_states - 1)
    probs, reward = np.full(nexts.shape, 0.5), -rng.random((num_states, 2))
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=np.full(num_states, 1 / num_states)),
        dynamics=cai.factors.TabularDynamics.from_successors(torch.as_tensor(nexts), torch.as_tensor(probs)),
        reward=cai.factors.TabularReward(reward),
        horizon=horizon,
        discount=discount,
    )
    posterior = cai.infer(graph, method)
    states, now = torch.arange(num_states), numpy_of(posterior.v(torch.arange(num_states)))
    later = now[nexts] if horizon is None else numpy_of(posterior.v(states, t=1))[nexts]
    if isinstance(method, cai.SumProduct):
        q = reward + np.log((probs * (discount * np.exp(later) + 1 - discount)).sum(-1))
    else:
        q = reward + discount * (probs * later).sum(-1)
    assert_close(posterior.q(states[:, None], torch.arange(2)), q, 1e-9)
    assert_close(now, np.log(np.exp(q).mean(-1)), 1e-9)
    marginals = numpy_of(posterior.state_marginals)
    assert_close(marginals.sum(-1), 1.0)
