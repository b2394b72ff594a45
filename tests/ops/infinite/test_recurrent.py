"""Chains, cycles, and the certificate of gain and relative values, against dense numpy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops.infinite.chain_structure import closed_classes, period
from cai.ops.infinite.cycles import Cycles, LongRun, cycles_of, mixed_rows, stochastic
from cai.ops.infinite.fixed_point import Iterate, Stationary
from cai.ops.infinite.occupancy import policy_costs
from cai.ops.infinite.recurrent import Recurrent
from cai.ops.readings import FixedDynamics, PosteriorDynamics
from tests import oracles, recurrent_oracles
from tests.laws.build import assert_close, graph_of


def chains(num: int, *, seed: int = 0) -> list[np.ndarray]:
    """Random chains: dense, sparse, deterministic, some with several closed classes."""
    rng = np.random.default_rng(seed)
    return [
        oracles.random_rows(rng, (size, size), float(rng.uniform(0.0, 0.7)))
        for size in rng.integers(1, 9, num).tolist()
    ]


def both(chain: np.ndarray) -> tuple[np.ndarray, scipy.sparse.csr_matrix]:
    return chain, scipy.sparse.csr_matrix(chain)


# -- graphs -----------------------------------------------------------------------------------------------------------


def test_closed_classes_are_those_of_the_powers_of_the_graph() -> None:
    several = 0
    for chain in chains(200):
        reach = recurrent_oracles.reachable(chain > 0)
        for matrix in both(chain):
            classes = closed_classes(matrix)
            recurrent = np.array([reach[row][:, s].all() for s, row in enumerate(reach)])
            np.testing.assert_array_equal(classes >= 0, recurrent)
            for s in np.flatnonzero(recurrent):
                np.testing.assert_array_equal((classes == classes[s])[recurrent], reach[s][recurrent])
            assert classes.max() + 1 == recurrent_oracles.num_closed_classes(chain > 0)
        several += classes.max() > 0
    assert several >= 10


def test_small_weights_are_no_edges() -> None:
    chain = np.array([[1 - 1e-9, 1e-9], [0.5, 0.5]])
    assert (closed_classes(chain) == 0).all()
    np.testing.assert_array_equal(closed_classes(chain, negligible=1e-8), [0, -1])


def test_period_is_the_divisor_of_the_ways_back() -> None:
    seen = set()
    for chain in chains(300, seed=1):
        if recurrent_oracles.is_irreducible(chain > 0):
            seen.add(recurrent_oracles.period_of(chain > 0))
            for matrix in both(chain):
                assert period(matrix) == recurrent_oracles.period_of(chain > 0)
    assert {1, 2} <= seen


@pytest.mark.parametrize("length, extra, expected", [(12, 0, 12), (12, 4, 4), (12, 5, 1), (1, 0, 1), (30, 21, 3)])
def test_period_of_a_cycle_with_a_short_cut(length: int, extra: int, expected: int) -> None:
    """A cycle of some length, and another one of length `extra` through its first state."""
    chain = np.roll(np.eye(length), 1, axis=1)
    if extra:
        chain[extra - 1, 0] = 1.0
    assert period(chain) == period(scipy.sparse.csr_matrix(chain)) == expected == math.gcd(length, extra)


# -- cycles -----------------------------------------------------------------------------------------------------------


def unichain(num: int, seed: int) -> list[np.ndarray]:
    return [c for c in chains(3 * num, seed=seed) if recurrent_oracles.num_closed_classes(c > 0) == 1][:num]


def test_gain_bias_and_visits_of_one_class() -> None:
    rng = np.random.default_rng(2)
    for chain in unichain(40, seed=3):
        earned = rng.normal(size=len(chain))
        gain, bias = recurrent_oracles.poisson(chain, earned)
        for matrix in both(chain):
            cycles = cycles_of(matrix)
            (end,) = cycles.ends
            assert_close(cycles.gains(earned), gain)
            assert_close(cycles.bias(earned), bias - bias[end])
            marginals = recurrent_oracles.stationary(chain)
            assert_close(cycles.visits(), marginals)
            assert_close(cycles.time[end], 1 / marginals[end])  # the mean time of return
            assert cycles.time.max() <= cycles.longest <= cycles.time.max() * (1 + 1e-9)


def test_gains_of_several_classes() -> None:
    rng = np.random.default_rng(4)
    several = [c for c in chains(200, seed=5) if recurrent_oracles.num_closed_classes(c > 0) > 1]
    for chain in several[:20]:
        earned = rng.normal(size=len(chain))
        classes, cycles = closed_classes(chain), cycles_of(chain)
        for number, (end, gain) in enumerate(zip(cycles.ends, cycles.gains(earned), strict=True)):
            assert classes[end] == number
            members = np.flatnonzero(classes == number)
            alone = chain[np.ix_(members, members)]
            assert_close(gain, recurrent_oracles.stationary(alone) @ earned[members])


def test_the_landmark_is_where_a_slow_chain_is_most() -> None:
    """Two wells, left once in 1e6 and once in 1e9 steps: the way to the landmark must be the shorter one."""
    chain = np.array([[0.5, 0.5, 0, 0], [0.5 - 1e-6, 0.5, 1e-6, 0], [0, 1e-9, 0.5, 0.5 - 1e-9], [0, 0, 0.5, 0.5]])
    cycles = cycles_of(chain)
    assert cycles.ends[0] in (2, 3)
    assert cycles.longest < 1e7
    earned = np.array([0.0, 0.0, 1.0, 1.0])
    best, leads = LongRun(chain).best_class(earned, np.ones(4, dtype=bool))
    assert best in (2, 3) and leads.all()
    worse, leads = LongRun(chain).best_class(-earned, np.array([True, True, False, False]))
    assert worse in (0, 1)
    np.testing.assert_array_equal(leads, [True, True, False, False])


def test_a_chain_that_never_returns_has_no_short_cycles() -> None:
    assert not Cycles(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0])).are_short


def test_rows_mixed_and_divided() -> None:
    one, other = np.full((3, 3), 1 / 3), np.eye(3)
    mask = np.array([True, False, True])
    expected = np.where(mask[:, None], one, other)
    np.testing.assert_array_equal(mixed_rows(mask, one, other), expected)
    sparse = mixed_rows(mask, scipy.sparse.csr_matrix(one), scipy.sparse.csr_matrix(other))
    np.testing.assert_array_equal(sparse.toarray(), expected)
    for matrix in both(2.0 * expected):
        assert_close(stochastic(matrix).sum(1), 1.0)


# -- the certificate --------------------------------------------------------------------------------------------------


def random_world(rng: np.random.Generator) -> oracles.Problem:
    return oracles.random_problem(
        int(rng.integers(1 << 30)),
        horizon=None,
        num_states=int(rng.integers(1, 7)),
        num_actions=int(rng.integers(1, 4)),
        temperature=float(10 ** rng.uniform(-1.5, 1.5)),
        density=float(rng.uniform(0.3, 1)),
        prior=str(rng.choice(["uniform", "flat", "tabular", "restricted"])),
        reward=str(rng.choice(["s", "sa", "sas"])),
    )


def recurrent(problem: oracles.Problem, kind: str, policy: np.ndarray | None = None) -> Recurrent:
    tables = tabulate(graph_of(problem))
    if policy is None:
        return Recurrent(Stationary(tables, PosteriorDynamics() if kind == "posterior" else FixedDynamics()))
    given = torch.as_tensor(policy)[None]
    return Recurrent(Stationary(tables, FixedDynamics(), given, policy_costs(tables, given)))


KINDS = {
    "fixed": recurrent_oracles.solve_fixed,
    "posterior": recurrent_oracles.solve_posterior,
    "policy": None,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["sweep", "newton_step"])
def test_certified_errors_are_never_below_the_true_ones(kind: str, step: str) -> None:
    """Random problems: from a disturbed answer, any step's bound of V (up to a constant) and of the gain hold."""
    rng = np.random.default_rng(6)
    num_proved = 0
    for _ in range(80):
        problem = random_world(rng)
        edges = recurrent_oracles.support(problem)
        if not recurrent_oracles.is_irreducible(edges) or recurrent_oracles.period_of(edges) > 1:
            continue
        policy = oracles.random_policy(problem, 7) if kind == "policy" else None
        exact = KINDS[kind](problem) if policy is None else recurrent_oracles.evaluate(problem, policy)
        world = recurrent(problem, kind, policy)
        disturbance = 10 ** rng.uniform(-9, 0) * problem.temperature * rng.uniform(-1, 1, problem.num_states)
        before = Iterate(torch.as_tensor(exact.v + disturbance), residual=math.inf)
        tolerance = 1e3 if step == "sweep" else 1e-300  # a sweep looks where it may be done
        after = getattr(world, step)(before, tolerance=tolerance)
        q, once = world.given.backup(before.v)
        excess = (once - before.v).numpy()
        rounding = 1e-13 * max(1.0, problem.temperature, float(q.abs().max()))
        assert excess.min() - rounding <= exact.gain <= excess.max() + rounding
        assert after.residual == pytest.approx(0.5 * np.ptp(excess), abs=1e-300)
        for v in (before.v, once) if math.isfinite(after.certified_error) else ():
            difference = v.numpy() - exact.v
            assert 0.5 * np.ptp(difference) <= after.certified_error + rounding
            num_proved += 1
            if np.abs(disturbance).max() < 1e-5 * problem.temperature:  # useful, and not only true
                assert after.certified_error <= 1e6 * max(np.abs(disturbance).max(), rounding)
    assert num_proved > 50


def test_the_certificate_holds_for_answers_of_all_tolerances() -> None:
    rng = np.random.default_rng(8)
    num_finite = 0
    for _ in range(100):
        problem = random_world(rng)
        if recurrent_oracles.num_closed_classes(recurrent_oracles.support(problem)) > 1:
            continue
        solver = cai.methods.Newton if rng.random() < 0.5 else cai.methods.ValueIteration
        method = cai.SoftValueIteration(
            solver=solver(), tolerance=float(10 ** rng.uniform(-12, 0)), max_steps=int(rng.choice([1, 3, 10, 5000]))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cai.NotConverged)
            try:
                posterior = cai.infer(graph_of(problem), method)
            except cai.IncompatibleMethod as refusal:
                assert "depends on the state" in str(refusal)
                continue
        exact = recurrent_oracles.solve_fixed(problem)
        difference = posterior.v(torch.arange(problem.num_states)).numpy() - exact.v
        rounding = 4e-16 * max(1.0, problem.temperature, np.abs(exact.v).max())
        assert 0.5 * np.ptp(difference) <= posterior.stats.certified_error + rounding
        assert abs(float(posterior.gain) - exact.gain) <= posterior.stats.residual + 40 * rounding
        num_finite += math.isfinite(posterior.stats.certified_error)
    assert num_finite > 50


@pytest.mark.parametrize("kind", ["fixed", "posterior"])
def test_newton_raises_the_lower_bound_and_squares_the_error(kind: str) -> None:
    problem = oracles.random_problem(9, horizon=None, num_states=8, density=0.5, scale=3.0)
    world, exact = recurrent(problem, kind), KINDS[kind](problem)
    iterate, least, errors = Iterate(world.start()), -math.inf, []
    for _ in range(12):
        _, once = world.given.backup(iterate.v)
        excess = (once - iterate.v).numpy()
        assert excess.min() >= least - 1e-12
        least = excess.min()
        errors.append(0.5 * np.ptp(iterate.v.numpy() - exact.v))
        if iterate.done:
            break
        iterate = world.newton_step(iterate, tolerance=1e-12)
    assert iterate.done
    assert errors[-1] < 1e-12
    assert any(0 < late < 1e-3 and late < 10 * early**2 for early, late in zip(errors, errors[1:], strict=False))


def test_sweeps_bring_the_bounds_together() -> None:
    """Of a cycle, too, where undamped sweeps would turn for ever."""
    chain = np.roll(np.eye(4), 1, axis=1)[:, None, :]
    problem = oracles.random_problem(10, horizon=None, num_states=4, num_actions=1, reward="s").replace(dynamics=chain)
    world = recurrent(problem, "fixed")
    iterate, spans = Iterate(world.start()), []
    for _ in range(2000):
        iterate = world.sweep(iterate, tolerance=1e-10)
        spans.append(iterate.residual)
        if iterate.done:
            break
    assert iterate.done
    assert all(later <= earlier + 1e-14 for earlier, later in zip(spans, spans[1:], strict=False))
    assert iterate.certified_error < 1e-8


def test_a_step_depends_on_nothing_but_the_iterate() -> None:
    """So that a run resumed from a checkpoint is the same, bit by bit."""
    problem = oracles.random_problem(11, horizon=None, num_states=30, density=0.1, temperature=0.01)
    world, iterate = recurrent(problem, "fixed"), Iterate(torch.zeros(30, dtype=torch.float64))
    for _ in range(3):
        iterate = world.newton_step(iterate, tolerance=1e-10)
    again = recurrent(problem, "fixed")
    for _ in range(2):
        first, second = (one.newton_step(iterate, tolerance=1e-10) for one in (world, again))
        assert torch.equal(first.v, second.v)
        assert (first.residual, first.certified_error) == (second.residual, second.certified_error)
        iterate = first
