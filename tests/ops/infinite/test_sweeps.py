"""One backup in blocks is the backup in one piece, for any threads; a priority bounds what it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.csgraph
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops.infinite import sweeps
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.infinite.occupancy import policy_costs
from cai.ops.infinite.priorities import PriorityQueue
from cai.ops.infinite.shortest_paths import ways_to
from cai.ops.infinite.sweeps import Swept, sweep_of
from cai.ops.messages import evaluation_backup, optimal_backup
from cai.ops.readings import FixedDynamics
from cai.ops.tables import Tables
from tests import oracles

READING = FixedDynamics()


def world(seed: int, *, num_states: int = 40, terminal: int = 0, temperature: float = 0.3) -> Tables:
    rng = np.random.default_rng(seed)
    nexts, probs = oracles.random_successors(seed, num_states, 3, 4)
    prior = oracles.random_rows(rng, (num_states, 3), 0.7)
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(np.full(num_states, 1 / num_states)),
        cai.factors.TabularDynamics.from_successors(nexts, probs, terminal=np.arange(num_states) < terminal),
        cai.factors.TabularReward(rng.normal(size=(num_states, 3)) - 1.0),
        terminal_reward=cai.factors.TabularReward(rng.normal(size=num_states)),
        action_prior=cai.factors.TabularPolicy(prior),
        discount=0.9,
        temperature=temperature,
    )
    return tabulate(graph)


def start(tables: Tables) -> torch.Tensor:
    v = torch.linspace(-3.0, 4.0, tables.num_states, dtype=torch.float64)
    return torch.where(tables.terminal, tables.terminal_values, v)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "SMALL", 0)
    monkeypatch.setattr(sweeps, "BLOCK_ROWS", 21)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("terminal", [0, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 100.0])
@pytest.mark.parametrize("evaluates", [False, True])
def test_blocks_are_the_whole(terminal: int, temperature: float, evaluates: bool) -> None:
    tables = world(1, terminal=terminal, temperature=temperature)
    policy = tables.default_policies if evaluates else None
    costs = policy_costs(tables, policy) if policy is not None else None
    backup = optimal_backup(READING) if policy is None else evaluation_backup(READING, policy, costs)
    blocked = sweep_of(tables, READING, policy, costs)
    assert isinstance(blocked, sweeps._BlockedSweep)
    v = start(tables)
    whole, parts = sweeps._WholeSweep(tables, backup)(v), blocked(v)
    torch.testing.assert_close(parts.v, whole.v, rtol=1e-14, atol=1e-14)
    change = (whole.v - v).numpy()
    for swept in (whole, parts):
        assert swept.low == pytest.approx(change.min())
        assert swept.high == pytest.approx(change.max())
        assert swept.largest == pytest.approx(float(whole.v.abs().max()))
        assert swept.residual == pytest.approx(np.abs(change).max())


@pytest.mark.usefixtures("small_blocks")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    tables = world(2, num_states=200)
    sweep, before, answers = sweep_of(tables, READING, None, None), torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            answers.append(sweep(start(tables)).v)
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.usefixtures("small_blocks")
def test_threads_take_part_in_inference_mode() -> None:
    tables, before = world(2), torch.get_num_threads()
    expected = sweep_of(tables, READING, None, None)(start(tables)).v
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            assert torch.equal(sweep_of(tables, READING, None, None)(start(tables)).v, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad: float) -> None:
    tables = world(3)
    v = start(tables)
    v[7] = bad
    with pytest.raises(cai.NonFinite, match="state"):
        sweep_of(tables, READING, None, None)(v)


@pytest.mark.usefixtures("small_blocks")
def test_forbidden_states_do_not_count() -> None:
    tables = world(4)
    v = start(tables)
    v[5] = -torch.inf
    swept = sweep_of(tables, READING, None, None)(v)
    reached = torch.isfinite(swept.v) & torch.isfinite(v)
    assert swept.low == float((swept.v - v)[reached].min())


def test_what_learns_is_not_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "SMALL", 0)
    tables = world(5)
    values = tables.steps[0].transitions.values.clone().requires_grad_()
    step = sweeps.replace(tables.steps[0], transitions=tables.steps[0].transitions.reweighted(values))
    learning = sweeps.replace(tables, steps=(step,))
    assert isinstance(sweep_of(learning, READING, None, None), sweeps._WholeSweep)


@pytest.mark.parametrize("terminal", [0, 2])
@pytest.mark.parametrize("block_size", [1, 7, 100])
def test_a_priority_bounds_the_residual_of_its_block(terminal: int, block_size: int) -> None:
    tables = world(6, num_states=60, terminal=terminal)
    queue, v = PriorityQueue(tables, READING, block_size=block_size), start(tables)
    stationary = Stationary(tables, READING)
    priorities = queue.first_priorities(v)
    for _ in range(6):
        residuals = (stationary.sweep_once(v).v - v).abs()[queue._order].split(block_size)
        for bound, residual in zip(priorities, residuals, strict=True):
            assert float(residual.max()) <= float(bound) * (1 + 1e-12) + 1e-13
        v, priorities = queue.passed(v, priorities, least=0.0)


def test_ways_lead_to_the_exits() -> None:
    graph = cai.load_model("gridworld", size=20, slip=0.3)
    tables = tabulate(graph)
    transitions = tables.step(0).transitions
    ways = ways_to(transitions, tables.terminal, tables.default_policies[0])
    chain = transitions.state_matrix(ways.policy * tables.alive[:, None])
    meant = scipy.sparse.csr_matrix(chain)
    meant.data = np.where(meant.data > 0.5, 1.0, 0.0)
    meant.eliminate_zeros()
    distance = scipy.sparse.csgraph.shortest_path(meant, unweighted=True)[:, tables.terminal.numpy()].min(1)
    assert np.isfinite(distance).all()
    by_rank = distance[np.argsort(ways.rank)]
    assert (np.diff(by_rank) >= 0).all()


def test_states_without_a_way_keep_their_policy() -> None:
    nexts = np.array([[[0], [0]], [[0], [1]], [[2], [2]]])
    dynamics = cai.factors.TabularDynamics.from_successors(
        nexts, np.ones((3, 2, 1)), terminal=np.array([True, False, False])
    )
    otherwise = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    ways = ways_to(dynamics.transition_tables()[0], dynamics.terminal_mask, otherwise)
    assert ways.policy[1].tolist() == [1.0, 0.0]
    assert ways.policy[2].tolist() == [0.25, 0.75]
    closed = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.25, 0.75]], dtype=torch.float64)
    assert ways_to(dynamics.transition_tables()[0], dynamics.terminal_mask, closed).policy[1].tolist() == [0.0, 1.0]


def test_residual_of_nothing() -> None:
    assert Swept(torch.zeros(1), -1.0, 0.5, 2.0).residual == 1.0
