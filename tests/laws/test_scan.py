"""Scan = loop: the same numbers from all time steps at once as from one after the other, to 1e-10 max(1, |x|).

The loop is held against enumeration and many digits elsewhere; where an oracle is cheap, the scan is held against it
too. What a scan refuses, and what `schedule=None` takes, is at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.methods import AssociativeScan, Sequential
from cai.ops import FixedDynamics
from cai.ops.scans import time_scan, time_schedules
from cai.ops.scans.step_matrices import step_matrices
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of
from tests.laws.cases import CASES

SCHEDULES = (Sequential(), AssociativeScan())
METHODS = ("SumProduct", "MaxProduct", "PolicyEvaluation")
methods = pytest.mark.parametrize("name", METHODS)


def method(name: str, graph: cai.TrajectoryGraph, schedule: Any, *, per_step: bool = True) -> cai.AbstractMethod:
    if name != "PolicyEvaluation":
        return getattr(cai, name)(schedule=schedule)
    tables = tabulate(graph.replace(evidence=cai.Evidence()))
    support = tables.priors[: None if per_step else 1].detach() > 0
    lead = tables.horizon if per_step else 1
    weights = np.random.default_rng(0).uniform(0.2, 1, (lead, *support.shape[1:])) * numpy_of(support)
    policy = weights / weights.sum(-1, keepdims=True)
    return cai.PolicyEvaluation(policy_of(policy if per_step else policy[0]), schedule=schedule)


def accepts(name: str, graph: cai.TrajectoryGraph) -> bool:
    if name == "MaxProduct":
        return graph.discount == 1.0
    return name == "SumProduct" or not graph.evidence


def both(name: str, graph: cai.TrajectoryGraph, **options: Any) -> list[cai.Posterior]:
    """The posterior by the loop, and by scans."""
    return [cai.infer(graph, method(name, graph, schedule, **options)) for schedule in SCHEDULES]


def assert_same(loop: cai.Posterior, scan: cai.Posterior, *, digits: float = 1e-10) -> None:
    """Every number of two posteriors.

    Marginals are exponentials of messages: where those are a million nats, their last digits are 1e-10 nats. Of most
    probable trajectories many are equally good (a detour may be made now or later), and rounding chooses: see
    `assert_as_probable`.
    """
    assert isinstance(scan.schedule, AssociativeScan) and isinstance(loop.schedule, Sequential)
    expected, got = tables_of(loop), tables_of(scan)
    for part in ("v", "q"):
        assert_close(getattr(got, part), getattr(expected, part), digits)
    if not loop.tables.is_hard:
        assert_close(scan.log_evidence, loop.log_evidence, digits)
    if isinstance(loop.method, cai.MaxProduct):
        return assert_as_probable(loop, scan)
    nats = np.abs(expected.v[np.isfinite(expected.v)]).max() / (float(loop.tables.temperature) or 1.0)
    looser = max(digits, 64 * np.finfo(float).eps * nats)
    assert_close(got.policy, expected.policy, looser)
    for part in ("state_marginals", "state_action_marginals", "occupancy", "expected_return"):
        assert_close(getattr(scan, part), getattr(loop, part), looser)


def assert_as_probable(loop: cai.Posterior, scan: cai.Posterior) -> None:
    """The trajectory of the scan has the value that the loop claims for its own, and the marginals are its own."""
    path = scan.most_probable_trajectory
    states, actions, length = path.states[0], path.actions[0], int(path.lengths[0])
    temperature, value = float(loop.tables.temperature), loop.tables.terminal_values[states[length]]
    for t in range(length):
        step, here = loop.tables.step(t), (states[t], actions[t], states[t + 1])
        entry = step.transitions.dense(step.transitions.values)[here]
        assert entry * step.prior[here[:2]] > 0
        value = value + step.rewards[here[:2]] + temperature * (entry.log() + step.log_prior[here[:2]])
        if step.entry_rewards is not None:
            value = value + step.transitions.dense(step.entry_rewards)[here]
    value = value + temperature * loop.tables.initial[states[0]].log()
    best = loop.reading.value_of_start(loop.tables, loop.messages.v[0])
    assert_close(value, best, 1e-10)
    expected = torch.zeros_like(scan.state_marginals)
    times = torch.arange(len(expected))
    expected[times, states[times.clamp(max=length)]] = 1.0
    assert torch.equal(scan.state_marginals, expected)


# -- the same numbers -------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_kind_of_world(name: str, options: dict) -> None:
    for horizon in (1, 2, 3, 7, 33):
        graph = graph_of(oracles.random_problem(301, **(options | {"horizon": horizon})))
        if accepts(name, graph):
            assert_same(*both(name, graph))
            if name == "PolicyEvaluation":
                assert_same(*both(name, graph, per_step=False))


@methods
@pytest.mark.parametrize(
    "num_states, horizon", [(1, 64), (2, 64), (5, 64), (20, 64), (1, 100), (5, 100), (2, 1000), (20, 1000)]
)
def test_long_horizons(name: str, num_states: int, horizon: int) -> None:
    shape = {"num_states": num_states, "horizon": horizon, "reward": "sa"}
    varying = ("reward",) if horizon == 1000 else ("dynamics", "reward", "prior")
    for per_step in ((), varying):
        graph = graph_of(oracles.random_problem(302, per_step=per_step, **shape))
        assert_same(*both(name, graph))


HOSTILE = {
    "900 nats": {"scale": 900.0, "temperature": 1.0},
    "900 nats, forbidden": {"scale": 900.0, "temperature": 1.0, "density": 0.4, "prior": "restricted"},
    "900 nats, deterministic": {"scale": 900.0, "temperature": 1.0, "deterministic": True, "num_terminal": 1},
    "900 nats, discount": {"scale": 900.0, "temperature": 1.0, "discount": 0.9},
    "900 nats, per step": {"scale": 900.0, "temperature": 1.0, "density": 0.4, "per_step": ("dynamics", "reward")},
    "frozen, forbidden": {"temperature": 1e-6, "density": 0.4, "prior": "restricted", "num_terminal": 1},
    "warm": {"temperature": 900.0, "density": 0.4},
    "huge units": {"scale": 1e150, "temperature": 1e150},
    "tiny rewards": {"scale": 1e-200},
}


@methods
@pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("seed", [303, 304])
def test_hostile_numbers(name: str, options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **({"num_states": 5, "num_actions": 3, "horizon": 40} | options))
    if accepts(name, graph_of(problem)):
        assert_same(*both(name, graph_of(problem)))


@pytest.mark.parametrize("options", [*HOSTILE.values(), {}, {"discount": 0.8}], ids=[*HOSTILE, "plain", "discount"])
def test_scan_is_right_to_many_digits_and_certifies_it(options: dict) -> None:
    problem = oracles.random_problem(305, **({"num_states": 4, "num_actions": 3, "horizon": 24} | options))
    with mpmath.workdps(40):
        exact = oracles.backward(problem, "posterior", mpmath.mp)
    posterior = cai.infer(graph_of(problem), cai.SumProduct(schedule=AssociativeScan()))
    assert_close(posterior.log_evidence, exact.log_evidence)
    assert_close(tables_of(posterior).v, exact.v)
    assert np.abs(tables_of(posterior).v - exact.v).max() <= posterior.stats.certified_error


def test_random_worlds() -> None:
    rng = np.random.default_rng(306)
    for seed in range(40):
        options = {
            "num_states": int(rng.integers(1, 7)),
            "num_actions": int(rng.integers(1, 4)),
            "horizon": int(rng.integers(1, 50)),
            "reward": str(rng.choice(["s", "sa", "sas"])),
            "prior": str(rng.choice(["uniform", "flat", "tabular"])),
            "density": float(rng.choice([1.0, 0.5])),
            "temperature": float(rng.choice([0.05, 1.0, 20.0])),
            "discount": float(rng.choice([1.0, 0.9])),
            "per_step": [(), ("reward",), ("dynamics", "prior")][rng.integers(3)],
        }
        options["num_terminal"] = int(rng.integers(0, options["num_states"]))
        graph = graph_of(oracles.random_problem(seed, **options))
        for name in METHODS:
            if accepts(name, graph):
                assert_same(*both(name, graph))


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("density", [1.0, 0.6])
@pytest.mark.parametrize("num_terminal", [0, 1])
def test_known_states_and_actions(discount: float, density: float, num_terminal: int) -> None:
    """Few known states cut runs of equal tables; many make a stack of them; a last one ends what may die."""
    shape = {"num_states": 5, "horizon": 90, "density": density, "discount": discount, "num_terminal": num_terminal}
    problem = oracles.random_problem(307, **shape)
    walk = cai.rollout(graph_of(problem), policy_of(problem.mu_normalised()), 1, seed=0)
    states, actions, length = walk.states[0].tolist(), walk.actions[0].tolist(), int(walk.lengths[0])
    for times in ([length], [0, length // 3, length], range(0, length, 4)):
        graph = graph_of(problem).condition(
            states={t: states[t] for t in times}, actions={t: actions[t] for t in [*times][1:] if t < length}
        )
        for name in ("SumProduct", "MaxProduct"):
            if accepts(name, graph):
                loop, scan = both(name, graph)
                assert_same(loop, scan)
                assert_close(scan.state_marginals.sum(-1)[list(times)], 1.0)
                assert_close(torch.stack([scan.state_marginals[t, states[t]] for t in times]), 1.0)


def test_impossible_evidence_is_refused() -> None:
    graph = graph_of(oracles.random_problem(308, deterministic=True, num_actions=1, num_states=4, horizon=30))
    reached = int(cai.infer(graph, cai.MaxProduct()).most_probable_trajectory.states[0, -1])
    impossible = graph.condition(states={30: (reached + 1) % 4})
    with pytest.raises(cai.IncompatibleMethod, match="probability zero"):
        cai.infer(impossible, cai.SumProduct(schedule=AssociativeScan()))


# -- the most probable trajectory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [("reward",), ("dynamics", "reward", "prior")])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_most_probable_trajectory_where_there_is_one(per_step: tuple[str, ...], temperature: float) -> None:
    for seed in range(5):
        shape = {"num_states": 5, "num_actions": 3, "horizon": 50, "density": 0.6, "num_terminal": seed % 2}
        graph = graph_of(oracles.random_problem(seed, per_step=per_step, temperature=temperature, **shape))
        loop, scan = both("MaxProduct", graph)
        paths = [posterior.most_probable_trajectory for posterior in (loop, scan)]
        assert torch.equal(paths[0].states, paths[1].states)
        assert torch.equal(paths[0].actions, paths[1].actions)
        assert torch.equal(loop.state_marginals, scan.state_marginals)


def test_ties_give_a_trajectory_of_the_same_probability() -> None:
    """On a grid many shortest paths are equally good; rounding may choose another, but never a worse one."""
    grid = cai.load_model("gridworld", size=4).replace(horizon=12, discount=1.0, temperature=0.5)
    assert_same(*both("MaxProduct", grid))


# -- gradients --------------------------------------------------------------------------------------------------------


def learned(problem: oracles.Problem, name: str, schedule: Any) -> tuple[torch.Tensor, ...]:
    """Gradients of the evidence, and of a function of the marginals, with respect to every table; on its support."""
    fields = ("initial", "dynamics", "reward", "prior", "terminal_reward", "temperature")
    leaves = {k: torch.tensor(getattr(problem, k), dtype=torch.float64, requires_grad=True) for k in fields}
    terminal = None if problem.terminal is None else torch.as_tensor(problem.terminal)
    build = {k: "per_step" if k in problem.per_step else None for k in fields}

    def factor(kind: Any, field: str, **options: Any) -> Any:
        make = kind.per_step if build[field] else kind
        return make(leaves[field], **options)

    graph = graph_of(
        problem,
        initial=cai.factors.Categorical(probs=leaves["initial"]),
        dynamics=factor(cai.factors.TabularDynamics, "dynamics", terminal=terminal),
        reward=factor(cai.factors.TabularReward, "reward"),
        action_prior=factor(cai.factors.TabularPolicy, "prior"),
        terminal_reward=factor(cai.factors.TabularReward, "terminal_reward"),
        temperature=leaves["temperature"],
    )
    posterior = cai.infer(graph, method(name, graph, schedule))
    total = posterior.log_evidence
    if name != "MaxProduct":
        pairs = posterior.state_action_marginals
        weights = torch.as_tensor(np.random.default_rng(0).normal(size=pairs.shape))
        total = total + (weights * pairs).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    # A table's zeros are structural: what a derivative there would be, neither way promises.
    support = [torch.ones_like(x) if k in ("reward", "temperature") else x != 0 for k, x in leaves.items()]
    return tuple(torch.where(mask.bool(), g, 0.0) for mask, g in zip(support, gradients, strict=True))


GRADIENTS = {
    "plain": {},
    "forbidden, terminal": {"density": 0.5, "num_terminal": 1, "num_states": 4},
    "discount": {"discount": 0.8},
    "per step": {"per_step": ("dynamics", "reward", "prior")},
    "reward per step": {"per_step": ("reward",), "reward": "sa"},
    "900 nats": {"scale": 900.0, "temperature": 1.0, "density": 0.5, "num_states": 4},
}


@methods
@pytest.mark.parametrize("options", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("horizon", [3, 37])
def test_gradients(name: str, options: dict, horizon: int) -> None:
    problem = oracles.random_problem(309, **({"horizon": horizon, "terminal_reward": True} | options))
    if not accepts(name, graph_of(problem)):
        return
    loop, scan = (learned(problem, name, schedule) for schedule in SCHEDULES)
    for expected, got in zip(loop, scan, strict=True):
        assert torch.isfinite(expected).all()
        assert_close(got, expected, 1e-9 if "scale" in options else 1e-10)


@pytest.mark.parametrize("per_step", [(), ("reward",)])
def test_second_derivatives(per_step: tuple[str, ...]) -> None:
    problem = oracles.random_problem(310, horizon=20, reward="sa", per_step=per_step)
    products = []
    for schedule in SCHEDULES:
        values = torch.tensor(problem.reward, requires_grad=True)
        make = cai.factors.TabularReward.per_step if per_step else cai.factors.TabularReward
        graph = graph_of(problem, reward=make(values))
        evidence = cai.infer(graph, cai.SumProduct(schedule=schedule)).log_evidence
        (first,) = torch.autograd.grad(evidence, values, create_graph=True)
        products.append(torch.autograd.grad(first.square().sum(), values)[0])
    assert_close(products[1], products[0])


def test_a_temperature_that_learns_meets_dead_states() -> None:
    graph = graph_of(oracles.random_problem(311, horizon=30)).condition(states={12: 1})
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    evidence = cai.infer(
        graph.replace(temperature=temperature), cai.SumProduct(schedule=AssociativeScan())
    ).log_evidence
    (gradient,) = torch.autograd.grad(evidence, temperature)
    step = 1e-5
    low, high = (cai.infer(graph.replace(temperature=0.7 + d), cai.SumProduct()).log_evidence for d in (-step, step))
    assert_close(gradient, (high - low) / (2 * step), 1e-7)


# -- tables of other kinds --------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("per_step", [False, True])
def test_sparse_tables_on_request(name: str, per_step: bool) -> None:
    problem = oracles.random_problem(312, num_states=9, density=0.3, horizon=20, num_terminal=1)
    rows = torch.as_tensor(problem.dynamics.reshape(-1, 9)).to_sparse_coo()
    terminal = torch.as_tensor(problem.terminal)
    tables = [rows] * 20 if per_step else rows
    make = cai.factors.TabularDynamics.per_step if per_step else cai.factors.TabularDynamics
    graph = graph_of(problem, dynamics=make(tables, terminal=terminal))
    assert_same(*both(name, graph))
    assert isinstance(cai.infer(graph, method(name, graph, None)).schedule, Sequential)


@methods
def test_single_precision_stays(name: str) -> None:
    problem = oracles.random_problem(313, horizon=30, reward="sa")
    parts = {"dynamics": cai.factors.TabularDynamics, "reward": cai.factors.TabularReward}
    parts = {key: factor(getattr(problem, key), dtype=torch.float32) for key, factor in parts.items()}
    loop, scan = both(name, graph_of(problem, **parts))
    for part in ("q", "v"):
        assert getattr(scan.messages, part).dtype == torch.float32
        assert_close(getattr(scan.messages, part), getattr(loop.messages, part), 1e-4)
    assert scan.state_marginals.dtype == torch.float32
    assert_close(scan.state_action_marginals, loop.state_action_marginals, 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@methods
@pytest.mark.parametrize("per_step", [(), ("reward",)])
def test_the_same_numbers_on_a_device(name: str, per_step: tuple[str, ...]) -> None:
    problem = oracles.random_problem(314, horizon=100, reward="sa", per_step=per_step)
    make = cai.factors.TabularReward.per_step if per_step else cai.factors.TabularReward
    graph = graph_of(
        problem,
        initial=cai.factors.Categorical(torch.as_tensor(problem.initial, device="cuda")),
        dynamics=cai.factors.TabularDynamics(torch.as_tensor(problem.dynamics, device="cuda")),
        reward=make(torch.as_tensor(problem.reward, device="cuda")),
    )
    there = cai.infer(graph, method(name, graph_of(problem), AssociativeScan()))
    here = cai.infer(graph_of(problem), method(name, graph_of(problem), Sequential()))
    assert there.messages.v.device.type == "cuda"
    assert_close(there.messages.v.cpu(), here.messages.v)
    assert_close(there.state_action_marginals.cpu(), here.state_action_marginals)


def test_long_stretches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = oracles.random_problem(315, horizon=300, reward="sa", per_step=("reward",))
    graph = graph_of(problem)
    whole = cai.infer(graph, cai.SumProduct(schedule=AssociativeScan()))
    monkeypatch.setattr("cai.ops.scans.stretches._IN_CACHE", 100)
    pieces = cai.infer(graph, cai.SumProduct(schedule=AssociativeScan()))
    assert_close(pieces.messages.v, whole.messages.v)
    assert_close(pieces.state_marginals, whole.state_marginals)


def test_overflow_is_named() -> None:
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0]),
        cai.factors.TabularDynamics(np.eye(2)[:, None]),
        cai.factors.TabularReward([0.0, 1e308]),
        horizon=20,
    )
    with pytest.raises(cai.NonFinite, match="the backward message of state"):
        cai.infer(graph, cai.SumProduct(schedule=AssociativeScan()))


def test_a_saved_posterior_keeps_its_schedule(tmp_path: Path) -> None:
    graph = graph_of(oracles.random_problem(316, horizon=20))
    posterior = cai.infer(graph, cai.SumProduct(schedule=AssociativeScan()))
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    assert again.schedule == AssociativeScan()
    assert again.method == cai.SumProduct(schedule=AssociativeScan())
    assert torch.equal(again.state_action_marginals, posterior.state_action_marginals)


# -- refusals, and what None takes ------------------------------------------------------------------------------------


def test_a_fixed_dynamics_has_no_scan() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="soft backup of tables is linear in nothing"):
        cai.infer(graph_of(oracles.random_problem(317)), cai.SoftValueIteration(schedule=AssociativeScan()))
    with pytest.raises(ValueError, match="FixedDynamics is nonlinear in V .*no associative product"):
        step_matrices(tabulate(graph_of(oracles.random_problem(317))), FixedDynamics())


@methods
def test_an_infinite_horizon_has_no_time_to_scan(name: str) -> None:
    graph = graph_of(oracles.random_problem(318, horizon=None, discount=0.5))
    chosen = getattr(cai, name)
    ask = chosen(schedule=AssociativeScan()) if name != "PolicyEvaluation" else chosen(None, schedule=AssociativeScan())
    with pytest.raises(cai.IncompatibleMethod, match="needs a finite horizon"):
        cai.infer(graph, ask)
    if name == "SumProduct":
        assert_close(cai.infer(graph, chosen(schedule=Sequential())).v(0), cai.infer(graph, chosen()).v(0))


@pytest.mark.parametrize("name", ["SumProduct", "MaxProduct"])
def test_a_factor_graph_has_no_time(name: str) -> None:
    unrolled = graph_of(oracles.random_problem(319)).unroll()
    with pytest.raises(cai.IncompatibleMethod, match="a factor graph has none"):
        cai.infer(unrolled, getattr(cai, name)(schedule=AssociativeScan()))
    assert cai.infer(unrolled, getattr(cai, name)(schedule=Sequential())).log_evidence < torch.inf


@methods
@pytest.mark.parametrize("schedule", ["scan", AssociativeScan, cai.methods.Flooding()])
def test_what_is_no_schedule_is_refused(name: str, schedule: Any) -> None:
    graph = graph_of(oracles.random_problem(320))
    with pytest.raises(ValueError, match=r"expected schedule=Sequential\(\), AssociativeScan\(\) or None, got"):
        cai.infer(graph, method(name, graph, schedule))


@pytest.mark.parametrize("max_memory", [None, 0.001])
def test_too_little_memory_is_refused_with_the_figure(
    max_memory: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if max_memory is None:
        monkeypatch.setattr(time_schedules, "available_bytes", lambda device: 10**6)
    values = torch.zeros(500, 20, 2, dtype=torch.float64, requires_grad=True)
    problem = oracles.random_problem(321, num_states=20, horizon=500)
    graph = graph_of(problem, reward=cai.factors.TabularReward.per_step(values))
    limit = r"0.001 may be used \(max_memory=\)" if max_memory else "0.000931 may be used"
    with pytest.raises(
        cai.IncompatibleMethod, match=rf"a scan of 20 states over 500 steps would need 0.0\d+ GiB.*{limit}"
    ):
        cai.infer(graph, cai.SumProduct(max_memory=max_memory, schedule=AssociativeScan()))


def test_the_memory_of_a_scan_grows_with_what_is_recorded() -> None:
    problem = oracles.random_problem(322, num_states=30, horizon=2000, reward="sa", per_step=("reward",))
    plain = tabulate(graph_of(problem))
    rewards = torch.tensor(problem.reward, requires_grad=True)
    learning = tabulate(graph_of(problem, reward=cai.factors.TabularReward.per_step(rewards)))
    of_plain, of_learning = (
        time_scan.scan_bytes(step_matrices(tables, cai.ops.PosteriorDynamics())) for tables in (plain, learning)
    )
    assert of_learning > max(2000 * 30 * 30 * 8, 4 * of_plain)
    with torch.no_grad():
        assert time_scan.scan_bytes(step_matrices(learning, cai.ops.PosteriorDynamics())) == of_plain


def test_a_hot_world_keeps_its_digits_by_the_loop() -> None:
    graph = graph_of(oracles.random_problem(323, temperature=1e6, horizon=50))
    with pytest.raises(cai.IncompatibleMethod, match=r"would lose digits.*schedule=Sequential\(\)"):
        cai.infer(graph, cai.SumProduct(schedule=AssociativeScan()))
    assert isinstance(cai.infer(graph, cai.SumProduct()).schedule, Sequential)
    assert_same(*both("MaxProduct", graph))
    assert_same(*both("PolicyEvaluation", graph))


@methods
def test_none_takes_what_was_measured_to_be_quicker(name: str) -> None:
    def taken(**options: Any) -> type:
        graph = graph_of(oracles.random_problem(324, reward="sa", **options))
        return type(cai.infer(graph, method(name, graph, None, per_step=False)).schedule)

    assert taken(horizon=10) is Sequential
    assert taken(horizon=100) is AssociativeScan
    assert taken(horizon=18, num_states=60) is Sequential
    assert taken(horizon=60, num_states=60) is AssociativeScan
    assert taken(horizon=100, per_step=("reward",)) is AssociativeScan
    assert taken(horizon=20, per_step=("reward",)) is Sequential
    assert taken(horizon=100, num_states=60, per_step=("reward",)) is Sequential
