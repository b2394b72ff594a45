"""The unicycle: geometry, its obstacles, and crocoddyl's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import cai
from tests.models.smoothness import check_batches, check_derivatives


def states_and_actions(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (num, 3)) * [2.0, 2.0, np.pi]
    return torch.as_tensor(states), torch.as_tensor(rng.uniform(-1.4, 1.4, (num, 2)))


def test_without_obstacles_and_bounds_it_is_that_of_crocoddyl() -> None:
    """`ActionModelUnicycle` of crocoddyl 3.2.1 with its own weights, asked once: its next state and its cost."""
    graph = cai.load_model(
        "unicycle", obstacles=(), max_speed=None, max_turn=None, state_weight=100.0, action_weight=1.0
    )
    state = torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64)
    action = torch.tensor([1.2, -0.7], dtype=torch.float64)
    np.testing.assert_allclose(graph.dynamics.mean(state, action), [0.40530991, -0.34246894, 0.43], atol=5e-9)
    assert math.isclose(graph.reward(state, action), -25.965, rel_tol=1e-12)
    assert not graph.action_space.is_bounded("both")


def test_a_turn_closes() -> None:
    """Twelve steps of a twelfth of a turn each drive a regular polygon, back to the start."""
    graph = cai.load_model("unicycle", max_turn=10.0)
    state = start = torch.tensor([0.4, 0.2, 0.7], dtype=torch.float64)
    action = torch.tensor([1.0, 2 * math.pi / 12 / 0.1], dtype=torch.float64)
    corners = []
    for _ in range(12):
        corners.append(state[:2])
        state = graph.dynamics.mean(state, action)
    torch.testing.assert_close(
        state, start + torch.tensor([0.0, 0.0, 2 * math.pi], dtype=torch.float64), rtol=0, atol=1e-14
    )
    radius = 0.1 / (2 * math.sin(math.pi / 12))
    distances = (torch.stack(corners) - torch.stack(corners).mean(0)).norm(dim=-1)
    np.testing.assert_allclose(distances, radius, rtol=1e-12)


def test_it_cannot_move_sideways_and_the_goal_is_worth_nothing() -> None:
    graph = cai.load_model("unicycle", obstacles=())
    origin, still = torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    a, b = torch.func.jacfwd(graph.dynamics.mean, argnums=(0, 1))(origin, still)
    assert np.linalg.matrix_rank(np.hstack([np.linalg.matrix_power(a, k) @ b.numpy() for k in range(3)])) == 2
    assert graph.reward(origin, still) == 0.0 and graph.terminal_reward(origin) == 0.0


def test_penalty_is_smooth_high_inside_and_nothing_far_outside() -> None:
    graph = cai.load_model("unicycle", obstacles=[(1.0, 0.0, 0.5)], height=7.0, state_weight=0.0)
    still = torch.zeros(2, dtype=torch.float64)
    places = torch.tensor([[1.0, 0.0, 0.3], [1.5, 0.0, 0.0], [2.5, 0.0, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(graph.reward(places, still), [-7.0, -0.7 * math.log(2.0), 0.0], atol=5e-4)
    across = torch.stack([torch.linspace(0.0, 1.0, 50), torch.zeros(50), torch.zeros(50)], -1).double()
    assert (graph.reward(across, still).diff() < 0).all()  # ever deeper


def test_derivatives() -> None:
    graph = cai.load_model("unicycle")
    states, actions = states_and_actions(20, 1)
    check_derivatives(graph, states, actions)
    check_batches(graph, states, 3 * actions)


def test_speeds_are_clipped() -> None:
    graph = cai.load_model("unicycle", max_speed=1.0, max_turn=None)
    states, _ = states_and_actions(10, 2)
    fast, limit = (torch.tensor([speed, 5.0], dtype=torch.float64) for speed in (-3.0, -1.0))
    assert graph.dynamics.mean(states, fast).equal(graph.dynamics.mean(states, limit))
    assert graph.reward(states, fast).equal(graph.reward(states, limit))
    assert graph.action_space.high.tolist() == [1.0, math.inf]


def test_parks_without_touching_an_obstacle() -> None:
    graph = cai.load_model("unicycle", start=[(-2.0, -1.2, 0.0), (-2.0, 0.6, 0.0), (0.3, -2.0, 1.5)], temperature=0.0)
    plan = cai.infer(graph, cai.ILQR(tolerance=1e-6))
    path = plan.most_probable_trajectory.states
    assert path[:, -1].norm(dim=-1).max() < 0.05
    for x, y, radius in ((-1.2, -1.0, 0.45), (-0.6, 0.1, 0.35), (0.2, -0.9, 0.3)):
        distance = (path[..., :2] - torch.tensor([x, y])).norm(dim=-1)
        assert distance.min() > radius - 0.01
    assert plan.plan.abs().amax((0, 1)).le(torch.tensor([1.5, 3.0])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (1.0, 2.0)}, r"\[3\] or \[N, 3\], got \[2\]"),
        ({"goal": (1.0, 2.0)}, "three finite numbers"),
        ({"obstacles": [(0.0, 0.0, 0.1), (1.0, 1.0, 0.0)]}, "obstacle 1 must be"),
        ({"obstacles": [(0.0, 0.0)]}, "obstacle 0 must be"),
        ({"softness": 0.0}, "softness must be a positive number"),
        ({"max_speed": -1.0}, "max_speed must be a positive number"),
        ({"terminal_weight": -1.0}, "terminal weight"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("unicycle", **options)
