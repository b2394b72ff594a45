"""The planar quadrotor against its equations, solved by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.integrate import solve_ivp

import cai
from tests.models.smoothness import check_batches, check_derivatives

MASS, INERTIA, ARM, GRAVITY = 0.486, 0.00383, 0.25, 9.81
HOVER = MASS * GRAVITY / 2


def states_and_actions(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (num, 6)) * [2.0, 2.0, np.pi, 2.0, 2.0, 4.0]
    return torch.as_tensor(states), torch.as_tensor(rng.uniform(0.1, 4.6, (num, 2)))


def rate(_: float, state: np.ndarray, thrusts: np.ndarray) -> np.ndarray:
    """The equations of motion, written out again."""
    _, _, theta, x_dot, y_dot, theta_dot = state
    force = thrusts.sum()
    return np.array(
        [
            x_dot,
            y_dot,
            theta_dot,
            -force * np.sin(theta) / MASS,
            force * np.cos(theta) / MASS - GRAVITY,
            ARM * (thrusts[1] - thrusts[0]) / INERTIA,
        ]
    )


def test_a_step_solves_the_equations() -> None:
    """With nearly equal thrusts, as in flight; the turn by a full difference, 312 rad / s^2, is resolved less well."""
    graph = cai.load_model("quadrotor")
    states, actions = states_and_actions(50, 0)
    actions = actions.mean(-1, keepdim=True) + torch.tensor([-0.05, 0.05], dtype=torch.float64)
    following = graph.dynamics.mean(states, actions)
    for state, action, expected in zip(states.numpy(), actions.numpy(), following, strict=True):
        path = solve_ivp(rate, (0.0, 0.025), state, args=(action,), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(path.y[:, -1], expected, atol=1e-6)


def test_hover_and_free_fall() -> None:
    graph = cai.load_model("quadrotor")
    upright = torch.tensor([0.3, -0.7, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    hover = torch.full((2,), HOVER, dtype=torch.float64)
    torch.testing.assert_close(graph.dynamics.mean(upright, hover), upright, rtol=0, atol=1e-14)
    origin = torch.zeros(6, dtype=torch.float64)
    assert graph.reward(origin, hover) == 0.0 and graph.terminal_reward(origin) == 0.0
    state = torch.tensor([0.0, 0.0, 0.0, 0.4, 1.0, 0.0], dtype=torch.float64)
    for _ in range(10):
        state = graph.dynamics.mean(state, torch.full((2,), 1.5, dtype=torch.float64))
    lift = 3.0 / MASS - GRAVITY
    expected = [0.1, 0.25 + lift * 0.25**2 / 2, 0.0, 0.4, 1.0 + lift * 0.25, 0.0]
    np.testing.assert_allclose(state, expected, atol=1e-13)


def test_hover_can_be_controlled_and_its_gain_is_that_of_the_riccati_equation() -> None:
    """Newton's value of the linear model at hover exists (scipy), which takes controllability."""
    graph = cai.load_model("quadrotor")
    origin, hover = torch.zeros(6, dtype=torch.float64), torch.full((2,), HOVER, dtype=torch.float64)
    a, b = (part.numpy() for part in torch.func.jacfwd(graph.dynamics.mean, argnums=(0, 1))(origin, hover))
    controllability = np.hstack([np.linalg.matrix_power(a, k) @ b for k in range(6)])
    assert np.linalg.matrix_rank(controllability) == 6
    cost = -torch.func.hessian(graph.reward, argnums=0)(origin, hover).numpy()
    effort = -torch.func.hessian(lambda u: graph.reward(origin, u))(hover).numpy()
    np.testing.assert_allclose(cost, 0.025 * np.diag([2.0, 2.0, 2.0, 0.2, 0.2, 0.2]), atol=1e-15)
    np.testing.assert_allclose(effort, 0.025 * 0.1 * np.eye(2), atol=1e-15)
    value = scipy.linalg.solve_discrete_are(a, b, cost, effort)
    gain = np.linalg.solve(effort + b.T @ value @ b, b.T @ value @ a)
    assert np.abs(np.linalg.eigvals(a - b @ gain)).max() < 1


def test_derivatives() -> None:
    graph = cai.load_model("quadrotor")
    states, actions = states_and_actions(8, 1)
    check_derivatives(graph, states, actions)
    check_batches(graph, states, 2 * actions - 1)


def test_thrusts_are_clipped() -> None:
    graph = cai.load_model("quadrotor", goal=(1.0, -1.0), max_thrust=4.0)
    states, _ = states_and_actions(10, 2)
    strong = torch.tensor([9.0, -1.0], dtype=torch.float64)
    limit = torch.tensor([4.0, 0.0], dtype=torch.float64)
    assert graph.dynamics.mean(states, strong).equal(graph.dynamics.mean(states, limit))
    assert graph.reward(states, strong).equal(graph.reward(states, limit))
    assert graph.action_space.low.tolist() == [0.0, 0.0] and graph.action_space.high.tolist() == [4.0, 4.0]


def test_options() -> None:
    graph = cai.load_model("quadrotor", start=torch.zeros(5, 6), noise=0.2, end=0.0)
    assert graph.initial.value.shape == (5, 6) and graph.terminal_reward is None
    variance = graph.dynamics(torch.zeros(6, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)).variance
    np.testing.assert_allclose(variance, [0.0, 0.0, 0.0, 0.04, 0.04, 0.04])


def test_all_ways_lead_to_the_goal() -> None:
    """Up to nearly upside down, a batch in one call, and as well as the linear feedback at hover where that holds."""
    tilts = torch.linspace(-2.6, 2.6, 5, dtype=torch.float64)
    start = torch.zeros(5, 6, dtype=torch.float64)
    start[:, 0], start[:, 2] = 1.0 - tilts.abs() / 2, tilts
    graph = cai.load_model("quadrotor", start=start, goal=(0.5, 0.5), horizon=80, temperature=0.0)
    plan = cai.infer(graph, cai.ILQR(tolerance=1e-6))
    last = plan.most_probable_trajectory.states[:, -1]
    assert (last[:, :2] - 0.5).norm(dim=-1).max() < 0.03 and last[:, 2].abs().max() < 0.05
    assert plan.plan.min() >= 0.0 and plan.plan.max() <= graph.action_space.high[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (1.0, 2.0)}, r"\[6\] or \[N, 6\], got \[2\]"),
        ({"goal": (1.0, math.nan)}, "two finite numbers"),
        ({"max_thrust": 2.0}, "or it falls"),
        ({"noise": -0.1}, "standard deviation"),
        ({"end": -1.0}, "number of seconds"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("quadrotor", **options)
