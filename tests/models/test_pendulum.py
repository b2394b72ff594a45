"""The differentiable pendulum is gymnasium's, step by step."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch

import cai
from tests.models.smoothness import check_batches, check_derivatives


def states_and_actions(num: int, seed: int, *, speed: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles over three turns, speeds up to the limit, torques up to twice the limit."""
    rng = np.random.default_rng(seed)
    states = np.stack([rng.uniform(-3 * np.pi, 3 * np.pi, num), rng.uniform(-speed, speed, num)], -1)
    return torch.as_tensor(states), torch.as_tensor(rng.uniform(-4.0, 4.0, (num, 1)))


@pytest.mark.parametrize("gravity", [10.0, 9.81])
def test_a_step_is_that_of_the_environment(gravity: float) -> None:
    graph = cai.load_model("pendulum", gravity=gravity)
    env = gymnasium.make("Pendulum-v1", g=gravity).unwrapped
    env.reset(seed=0)
    states, actions = states_and_actions(500, 0)
    following, rewards = graph.dynamics.mean(states, actions), graph.reward(states, actions)
    for state, action, expected, reward in zip(states, actions, following, rewards, strict=True):
        env.state = state.numpy()
        observation, theirs, terminated, _, _ = env.step(action.numpy())
        np.testing.assert_allclose(env.state, expected, rtol=1e-13, atol=1e-13)
        assert math.isclose(theirs, reward, rel_tol=1e-12, abs_tol=1e-12) and not terminated
        shown = [expected[0].cos(), expected[0].sin(), expected[1]]
        np.testing.assert_allclose(observation, shown, rtol=1e-6, atol=1e-6)


def test_an_episode_is_that_of_the_environment() -> None:
    graph = cai.load_model("pendulum")
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    env.state = np.array([3.0, 0.5])
    state, actions = torch.tensor([3.0, 0.5], dtype=torch.float64), np.random.default_rng(1).uniform(-2, 2, (200, 1))
    for action in actions:
        env.step(action)
        state = graph.dynamics.mean(state, torch.as_tensor(action))
    np.testing.assert_allclose(env.state, state, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("smooth", [False, True])
def test_derivatives(smooth: bool) -> None:
    graph = cai.load_model("pendulum", smooth=smooth)
    states, actions = states_and_actions(40, 2, speed=6.0)
    check_derivatives(graph, states, actions.clamp(-1.9, 1.9))
    check_batches(graph, states, actions)


def test_slopes_where_the_environment_clips() -> None:
    """The slope by the torque is 1 up to and including the limit, 0 beyond; by the speed it is 0 beyond the limit."""
    graph = cai.load_model("pendulum")
    slope = torch.func.vmap(torch.func.jacfwd(graph.dynamics.mean, argnums=(0, 1)))
    states = torch.tensor([[0.0, 0.0]] * 3 + [[0.5, 7.9]], dtype=torch.float64)
    by_state, by_action = slope(states, torch.tensor([[2.0], [-2.0], [2.1], [0.0]], dtype=torch.float64))
    np.testing.assert_allclose(by_action[:, 1, 0], [0.15, 0.15, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(by_state[3], [[1.0, 0.0], [0.0, 0.0]], atol=1e-15)


def test_smooth_reward_is_the_environments_to_fourth_order_when_upright_and_has_a_period() -> None:
    plain, smooth = cai.load_model("pendulum"), cai.load_model("pendulum", smooth=True)
    still = torch.zeros(1, dtype=torch.float64)
    for angle in (0.2, 0.1, 0.05):
        state = torch.tensor([angle, 1.0], dtype=torch.float64)
        difference = float(smooth.reward(state, still) - plain.reward(state, still))
        assert math.isclose(difference, angle**4 / 12, rel_tol=0.01)
    turn = torch.tensor([2 * math.pi, 0.0], dtype=torch.float64)
    states, actions = states_and_actions(50, 3)
    for graph in (plain, smooth):
        torch.testing.assert_close(graph.reward(states + turn, actions), graph.reward(states, actions))


def test_energy_stays_to_first_order() -> None:
    """Without torque the change of the energy over a fixed time is bounded by the step, and a push returns."""
    graph = cai.load_model("pendulum")
    state, still = torch.tensor([2.5, 0.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    energies = []
    for _ in range(400):
        energies.append(float(state[1] ** 2 / 2 + 15.0 * state[0].cos()))
        state = graph.dynamics.mean(state, still)
    assert np.ptp(energies[:200]) < 2.5 and abs(np.ptp(energies[200:]) - np.ptp(energies[:200])) < 0.25


def test_equilibria_and_the_steepest_angle_that_can_be_held() -> None:
    graph = cai.load_model("pendulum")
    angle = math.asin(0.4)
    states = torch.tensor([[0.0, 0.0], [math.pi, 0.0], [angle, 0.0]], dtype=torch.float64)
    torques = torch.tensor([[0.0], [0.0], [-2.0]], dtype=torch.float64)
    torch.testing.assert_close(graph.dynamics.mean(states, torques), states, rtol=0, atol=1e-15)
    steeper = torch.tensor([angle + 0.01, 0.0], dtype=torch.float64)
    assert graph.dynamics.mean(steeper, torch.tensor([-2.0], dtype=torch.float64))[1] > 0


def test_noise_pushes_the_speed_and_with_it_the_angle() -> None:
    graph = cai.load_model("pendulum", noise=0.3)
    state, action = torch.tensor([0.4, 1.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    following = graph.dynamics(state, action)
    np.testing.assert_allclose(following.covariance_matrix, 0.09 * np.outer([0.05, 1.0], [0.05, 1.0]), atol=1e-16)
    torch.testing.assert_close(following.mean, graph.dynamics.mean(state, action))


def test_spaces_and_start() -> None:
    graph = cai.load_model("pendulum", start=[[1.0, 0.0], [2.0, 0.5], [3.0, 0.0]], horizon=7)
    assert graph.state_space.shape == (2,) and graph.horizon == 7
    assert graph.action_space.low.tolist() == [-2.0] and graph.action_space.high.tolist() == [2.0]
    assert graph.initial.value.shape == (3, 2)
    assert cai.load_model("pendulum").initial.value.tolist() == [math.pi, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (1.0, 2.0, 3.0)}, r"\[2\] or \[N, 2\], got \[3\]"),
        ({"gravity": math.inf}, "gravity must be finite"),
        ({"noise": -0.1}, "standard deviation"),
        ({"noise": math.nan}, "standard deviation"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("pendulum", **options)
