"""The grid world against shortest paths, a textbook's table, and the closed form of the corridor."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

import cai
from tests.laws.build import assert_close, numpy_of

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
FOUR_BY_THREE = {"layout": ["...G", ".#..", "S..."], "goals": {(1, 3): -1.0}, "goal_reward": 1.0, "step_cost": 0.04}


def values(posterior: cai.Posterior) -> np.ndarray:
    return numpy_of(posterior.v(torch.arange(posterior.graph.state_space.n)))


def shortest_path_values(layout: list[str], worth: dict[tuple[int, int], float], cost: float) -> dict:
    """Best goal less the way to it, by Dijkstra from a sink behind the goals; cells that reach none are missing."""
    free = {(r, c) for r, row in enumerate(layout) for c, letter in enumerate(row) if letter != "#"}
    best, ways = max(worth.values()), nx.DiGraph()
    for r, c in free - set(worth):
        ways.add_weighted_edges_from(((r + dr, c + dc), (r, c), cost) for dr, dc in MOVES if (r + dr, c + dc) in free)
    ways.add_weighted_edges_from(("sink", goal, best - reward) for goal, reward in worth.items())
    return {cell: best - way for cell, way in nx.single_source_dijkstra_path_length(ways, "sink").items()}


@pytest.mark.parametrize("cost", [1.0, 0.25, 3.0])
@pytest.mark.parametrize(
    "layout",
    [
        ["S..#...", ".#.#.#.", ".#...#G", "...#...", "#4.#..."],
        ["G.S.3", ".###.", ".0...", "S###9"],
        ["SG"],
        ["S......7", ".######.", "5......."],
    ],
)
def test_temperature_zero_is_the_shortest_path(layout: list[str], cost: float) -> None:
    graph = cai.load_model("gridworld", layout=layout, step_cost=cost, temperature=0.0)
    letters = {(r, c): letter for r, row in enumerate(layout) for c, letter in enumerate(row)}
    worth = {cell: 10.0 if x == "G" else float(x) for cell, x in letters.items() if x in "G0123456789"}
    expected = shortest_path_values(layout, worth, cost)
    cells = [divmod(cell, len(layout[0])) for cell in graph.state_space.cells]
    answer = values(cai.infer(graph, cai.SoftValueIteration()))
    assert_close(answer, [expected[cell] for cell in cells])


def test_default_map_is_torn_between_its_goals() -> None:
    graph = cai.load_model("gridworld", temperature=0.0)
    hard = cai.infer(graph, cai.SoftValueIteration())
    assert_close(hard.v(0), 0.0)
    near_only = cai.infer(cai.load_model("gridworld", goal_reward=-100.0, temperature=0.0), cai.SoftValueIteration())
    assert_close(near_only.v(0), -1.0)


@pytest.mark.parametrize(("alpha", "printed"), [(0.1, 0.956), (0.3, 0.028), (1.0, 0.005)])
def test_how_often_the_soft_policy_goes_far(alpha: float, printed: float) -> None:
    graph = cai.load_model("gridworld", temperature=alpha)
    soft = cai.infer(graph, cai.SoftValueIteration())
    near_or_nothing = cai.load_model("gridworld", goal_reward=-1000.0, temperature=alpha)
    far_or_nothing = cai.load_model("gridworld", goals={(4, 1): -1000.0}, temperature=alpha)
    values = [cai.infer(g, cai.SoftValueIteration()).v(0) for g in (far_or_nothing, near_or_nothing)]
    far, near = (torch.exp((v - soft.v(0)) / alpha) for v in values)
    assert_close(far + near, 1.0)
    # The occupancy of a goal's neighbours knows nothing of the identity: what enters the goal is counted from visits.
    policy = soft.policy(torch.arange(graph.state_space.n)).probs
    goal = graph.state_space.labels.index("G")
    moves = policy[:, :, None] * graph.dynamics.dense() * ~graph.dynamics.terminal_mask[:, None, None]
    visits = torch.linalg.solve(torch.eye(len(moves), dtype=moves.dtype) - moves.sum(1).T, graph.initial.probs)
    assert_close(visits[goal], far)
    assert round(float(far), 3) == printed


@pytest.mark.parametrize("size", [2, 4, 5, 8, 21])
def test_four_rooms(size: int) -> None:
    graph = cai.load_model("gridworld", size=size, temperature=0.0)
    assert_close(cai.infer(graph, cai.SoftValueIteration()).v(0), 10.0 - 2 * (size - 1))


def test_large_grid_stays_sparse() -> None:
    graph = cai.load_model("gridworld", size=300, slip=0.1)
    probs = graph.dynamics.probs
    assert graph.state_space.n == 300 * 300 - 2 * 300 + 1 + 4
    assert probs.layout is not torch.strided
    assert probs.values().numel() <= 12 * graph.state_space.n


def test_four_by_three_world_of_the_textbook() -> None:
    """Russell and Norvig (2010), figure 17.3, three decimals."""
    graph = cai.load_model("gridworld", **FOUR_BY_THREE, slip=0.2, temperature=0.0)
    expected = [0.812, 0.868, 0.918, 1.0, 0.762, 0.660, -1.0, 0.705, 0.655, 0.611, 0.388]
    assert np.abs(values(cai.infer(graph, cai.SoftValueIteration())) - expected).max() <= 0.0005 + 1e-9


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SoftPolicyIteration(), cai.SumProduct()])
@pytest.mark.parametrize(("cost", "alpha"), [(1.0, 1.0), (0.3, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_corridor(length: int, cost: float, alpha: float, method: cai.AbstractMethod) -> None:
    options = {"layout": ["S" + "." * (length - 1) + "G"], "goal_reward": 3.0, "step_cost": cost, "temperature": alpha}
    theta = np.arccosh(2 * np.exp(cost / alpha) - 1)
    rise = np.cosh((np.arange(length + 1) + 0.5) * theta) / np.cosh((length + 0.5) * theta)
    answer = values(cai.infer(cai.load_model("gridworld", **options), method))
    # Iterating stops within its own tolerance of the fixed point; a linear solve does not.
    assert_close(answer, 3.0 + alpha * np.log(rise))


def test_slip_moves_the_soft_answer_and_not_the_posterior_messages() -> None:
    dry, wet = (cai.load_model("gridworld", slip=slip, horizon=25) for slip in (0.0, 0.4))
    states = torch.arange(dry.state_space.n)
    exact, exact_wet = (cai.infer(graph, cai.SumProduct()) for graph in (dry, wet))
    for t in (0, 12, 25):
        assert_close(exact.v(states, t=t), exact_wet.v(states, t=t))
    assert_close(exact.log_evidence, exact_wet.log_evidence)
    soft, soft_wet = (cai.infer(graph, cai.SoftValueIteration()) for graph in (dry, wet))
    assert_close(soft.log_evidence, exact.log_evidence)
    assert soft_wet.log_evidence < soft.log_evidence - 0.1


def test_slip_goes_to_either_side() -> None:
    probs = cai.load_model("gridworld", layout=["...", ".S.", "..G"], slip=0.3).dynamics.dense()[4]
    left, down, right, up = 3, 7, 5, 1
    intended = ((left, up, down), (down, left, right), (right, up, down), (up, left, right))
    for action, (ahead, *sides) in enumerate(intended):
        assert_close(probs[action, ahead], 0.7)
        assert_close(probs[action, sides], 0.15)


def test_options_reach_the_graph() -> None:
    graph = cai.load_model("gridworld", layout=["S.S", "#.G"], horizon=7, discount=0.9, temperature=0.5)
    assert (graph.horizon, graph.discount, graph.temperature) == (7, 0.9, 0.5)
    assert_close(graph.initial.probs, [0.5, 0, 0.5, 0, 0])
    assert graph.state_space.cells == (0, 1, 2, 4, 5)
    assert graph.state_space.labels == ("S", "", "S", "", "G")
    assert graph.state_space.moves == MOVES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": ["S.G"], "size": 4}, "not both"),
        ({"size": 1}, "size must be at least 2"),
        ({"layout": []}, "rows of one length"),
        ({"layout": ["S.", "G"]}, r"lengths \[2, 1\]"),
        ({"layout": ["S.", "xG"]}, r"'x' at \(1, 0\)"),
        ({"layout": ["..", ".G"]}, "no start"),
        ({"layout": ["S.", ".."]}, "no goal"),
        ({"goals": {(9, 0): 1.0}}, r"\(9, 0\) is off the map"),
        ({"goals": {(0, 3): 1.0}}, "'#', a wall or a start"),
        ({"goals": {(0, 0): 1.0}}, "'S', a wall or a start"),
        ({"goals": {(0, 1): float("nan")}}, "must be finite"),
        ({"goal_reward": float("inf")}, "must be finite"),
        ({"step_cost": float("nan")}, "step_cost must be finite"),
        ({"slip": 1.5}, r"slip is a probability in \[0, 1\], got 1.5"),
        ({"slip": float("nan")}, "slip is a probability"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("gridworld", **options)
