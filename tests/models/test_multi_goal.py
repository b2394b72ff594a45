"""The point among four goals: its moves, its symmetry, and its answer by soft value iteration on a lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import cai
from cai.simulate.worlds import world_of

CENTRE = 28  # of a lattice of 57 positions a side, 1/4 apart
SHIFTS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def some_states_and_actions(num: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    states, actions = rng.uniform(-7, 7, (num, 2)), rng.uniform(-1, 1, (num, 2))
    return torch.as_tensor(states), torch.as_tensor(actions)


def test_a_step_by_hand() -> None:
    graph = cai.load_model("multi_goal")
    state, action = torch.tensor([3.5, 0.0]), torch.tensor([0.5, 0.0])
    assert graph.dynamics(state, action).sample().tolist() == [4.0, 0.0]
    assert float(graph.reward(state, action)) == -(30 * 0.25 + 1.0)  # at distance 1: not there yet
    there = torch.tensor([0.75, 0.0])
    assert float(graph.reward(state, there)) == 10.0 - (30 * 0.5625 + 0.5625)
    for following, over in (([4.0, 0.0], False), ([4.25, 0.0], True), ([0.0, -5.5], True), ([6.9, 6.9], False)):
        assert bool(graph.dynamics.terminal(state, action, torch.tensor(following))) is over


def test_walls_and_the_limit_of_speed_hold() -> None:
    graph = cai.load_model("multi_goal")
    moved = graph.dynamics(torch.tensor([6.5, -6.5]), torch.tensor([3.0, -3.0])).sample()
    assert moved.tolist() == [7.0, -7.0]
    same = (
        graph.reward(torch.zeros(2), torch.tensor([2.0, 0.0])),
        graph.reward(torch.zeros(2), torch.tensor([1.0, 0.0])),
    )
    assert torch.equal(*same)


@pytest.mark.parametrize("turn", [[[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]], ids=["turn", "reflection"])
def test_turns_and_reflections_change_nothing(turn: list[list[float]]) -> None:
    graph, (states, actions) = cai.load_model("multi_goal"), some_states_and_actions()
    matrix = torch.tensor(turn, dtype=torch.float64)
    moved, turned = (graph.dynamics(s, a).mean for s, a in ((states, actions), (states @ matrix, actions @ matrix)))
    torch.testing.assert_close(turned, moved @ matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        graph.reward(states @ matrix, actions @ matrix), graph.reward(states, actions), rtol=1e-12, atol=1e-12
    )


def lattice_q(temperature: float) -> tuple[np.ndarray, float]:
    """Q(0, a), `[9, 9]`, and V(0), by soft value iteration on a lattice of 1/4, on which moves fall exactly."""
    graph = cai.load_model("multi_goal", horizon=None)
    grid, speeds = np.arange(57) * 0.25 - 7.0, np.arange(9) * 0.25 - 1.0
    states = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 1, 2)
    actions = np.stack(np.meshgrid(speeds, speeds, indexing="ij"), -1).reshape(1, -1, 2)
    state, action = (torch.as_tensor(x).expand(57 * 57, 81, 2) for x in (states, actions))
    following = graph.dynamics(state, action).mean
    reward, over = graph.reward(state, action).numpy(), graph.dynamics.terminal(state, action, following).numpy()
    index = ((following + 7.0) * 4).round().long()
    index = (index[..., 0] * 57 + index[..., 1]).numpy()
    ends = np.array([0.5] + [1.0] * 7 + [0.5])  # the trapezoidal rule on the box of velocities
    log_prior = np.log(np.outer(ends, ends).ravel() / ends.sum() ** 2)
    v = np.zeros(57 * 57)
    for _ in range(60):
        q = reward + graph.discount * np.where(over, 0.0, v[index])
        v = temperature * logsumexp(q / temperature + log_prior, axis=1) if temperature else q.max(1)
    return q[CENTRE * 57 + CENTRE].reshape(9, 9), v[CENTRE * 57 + CENTRE]


def test_the_soft_policy_at_the_origin_has_four_modes() -> None:
    q, v = lattice_q(10.0)
    assert np.isclose(v, -229.04, atol=0.01)
    for image in (q.T, q[::-1], q[:, ::-1]):
        np.testing.assert_allclose(image, q, rtol=1e-5)
    inner = np.pad(q, 1, constant_values=-np.inf)
    neighbours = np.stack([np.roll(inner, shift, (0, 1)) for shift in SHIFTS]).max(0)[1:-1, 1:-1]
    assert np.argwhere(q > neighbours).tolist() == [[0, 4], [4, 0], [4, 8], [8, 4]]
    assert np.isclose(np.exp((q.max() - q[4, 4]) / 10.0), 30.8, atol=0.05)
    assert np.isclose(np.exp((q.max() - np.diag(q).max()) / 10.0), 5.75, atol=0.01)


def test_hard_optimum() -> None:
    q, v = lattice_q(0.0)
    assert np.isclose(v, -111.86, atol=0.01)
    assert np.argwhere(q > q.max() - 1e-3).tolist() == [[1, 4], [4, 1], [4, 7], [7, 4]]


def test_it_can_be_run_as_a_world() -> None:
    graph = cai.load_model("multi_goal")
    world = world_of(graph, 4)
    world.reset(0)
    assert world.states.dtype == np.float32 and np.abs(world.states).max() < 1.0
    steps = [world.step(np.tile(np.float32([1.0, 0.0]), (4, 1))) for _ in range(5)]
    assert any(step.terminated.any() for step in steps)
    run = cai.rollout(graph, cai.UniformPolicy(graph.action_space), 3, seed=0)
    assert run.states.shape[0] == 3 and run.states.shape[2] == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"spread": -1.0}, "spread must be"),
        ({"effort": float("inf")}, "effort"),
        ({"goal_reward": float("nan")}, "goal_reward"),
    ],
    ids=["spread", "effort", "reward"],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("multi_goal", **options)
