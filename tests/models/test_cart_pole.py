"""The cart and its pole are gymnasium's at a force of 10 newtons either way."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import cai
from tests.models.smoothness import check_batches, check_derivatives


def states_and_actions(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (num, 4)) * [2.0, 3.0, 2 * np.pi, 5.0]
    return torch.as_tensor(states), torch.as_tensor(rng.uniform(-9.0, 9.0, (num, 1)))


def energy(state: np.ndarray) -> float:
    """Kinetic and potential energy of a cart and a uniform rod, joules."""
    _, x_dot, theta, theta_dot = state
    kinetic = 1.1 * x_dot**2 / 2 + 0.05 * x_dot * theta_dot * np.cos(theta) + 2 / 3 * 0.1 * 0.25 * theta_dot**2
    return kinetic + 0.1 * 9.8 * 0.5 * np.cos(theta)


def test_a_step_is_that_of_the_environment() -> None:
    graph = cai.load_model("cart_pole")
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    states, _ = states_and_actions(200, 0)
    for force, theirs in ((-10.0, 0), (10.0, 1)):
        following = graph.dynamics.mean(states, torch.full((200, 1), force, dtype=torch.float64))
        for state, expected in zip(states, following, strict=True):
            env.state, env.steps_beyond_terminated = state.numpy(), None
            env.step(theirs)
            np.testing.assert_allclose(env.state, expected, rtol=1e-13, atol=1e-13)


def test_derivatives() -> None:
    graph = cai.load_model("cart_pole")
    states, actions = states_and_actions(20, 1)
    check_derivatives(graph, states, actions)
    check_batches(graph, states, 2 * actions)


def test_rates_keep_the_energy() -> None:
    """A step is x + dt f(x): f, integrated finely without force, keeps the energy; with force it takes in F x_dot."""
    graph = cai.load_model("cart_pole")
    still = torch.zeros(1, dtype=torch.float64)

    def rate(_: float, state: np.ndarray) -> np.ndarray:
        state = torch.as_tensor(state)
        return ((graph.dynamics.mean(state, still) - state) / 0.02).numpy()

    path = solve_ivp(rate, (0.0, 3.0), [0.0, 0.5, 2.0, -1.0], rtol=1e-10, atol=1e-10)
    energies = [energy(state) for state in path.y.T]
    assert np.ptp(path.y[2]) > 1.0 and np.ptp(energies) < 1e-7
    state, force = torch.tensor([0.3, -0.8, 1.1, 2.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    change = ((graph.dynamics.mean(state, force) - state) / 0.02).numpy()
    tiny = 1e-6
    power = (energy(state.numpy() + tiny * change) - energy(state.numpy() - tiny * change)) / (2 * tiny)
    assert math.isclose(power, 4.0 * -0.8, rel_tol=1e-7)


def test_equilibria_and_the_unstable_eigenvalue() -> None:
    graph = cai.load_model("cart_pole")
    states = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, math.pi, 0.0]], dtype=torch.float64)
    still = torch.zeros(2, 1, dtype=torch.float64)
    torch.testing.assert_close(graph.dynamics.mean(states, still), states, rtol=0, atol=1e-15)
    origin = torch.zeros(4, dtype=torch.float64)
    slopes = torch.func.jacfwd(graph.dynamics.mean)(origin, still[0])
    largest = torch.linalg.eigvals(slopes).abs().max()
    assert math.isclose(largest, 1 + 0.02 * math.sqrt(9.8 / (0.5 * (4 / 3 - 0.1 / 1.1))), rel_tol=1e-12)
    assert round(float(largest), 4) == 1.0794
    rewards = graph.reward(states, still)
    np.testing.assert_allclose(rewards, [-0.02 * 0.25, -0.02 * 2 * math.pi**2], rtol=1e-12)
    np.testing.assert_allclose(graph.terminal_reward(states), [-2.0 * 0.25, -2.0 * 2 * math.pi**2], rtol=1e-12)


def test_forces_beyond_the_limit_are_clipped() -> None:
    graph = cai.load_model("cart_pole", max_force=3.0)
    states, _ = states_and_actions(10, 4)
    strong, limit = (torch.full((10, 1), force, dtype=torch.float64) for force in (7.0, 3.0))
    assert graph.dynamics.mean(states, strong).equal(graph.dynamics.mean(states, limit))
    assert graph.reward(states, strong).equal(graph.reward(states, limit))
    assert graph.action_space.high.tolist() == [3.0]


def test_options() -> None:
    graph = cai.load_model("cart_pole", start=torch.zeros(5, 4), noise=0.2, end=0.0)
    assert graph.initial.value.shape == (5, 4) and graph.terminal_reward is None
    origin, still = torch.zeros(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    np.testing.assert_allclose(graph.dynamics(origin, still).variance, [0.0, 0.04, 0.0, 0.04])


def test_swings_up_from_any_first_guess() -> None:
    """The angle as it is has one way up: no force and random forces lead to the same plan."""
    graph = cai.load_model("cart_pole", temperature=0.0)
    plans = [cai.infer(graph, cai.ILQR(initial_noise=noise), seed=seed) for noise, seed in ((0.0, 0), (2.0, 1))]
    for plan in plans:
        last = plan.most_probable_trajectory.states[0, -1]
        assert last[2].cos() > 0.995 and last.abs().max() < 1.0
        assert plan.plan.abs().max() == 10.0, "it takes all the force there is"
    assert math.isclose(plans[0].best_return, plans[1].best_return, rel_tol=1e-6)
    assert math.isclose(plans[0].best_return, -22.41, abs_tol=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (1.0, 2.0)}, r"\[4\] or \[N, 4\], got \[2\]"),
        ({"max_force": 0.0}, "max_force"),
        ({"noise": -0.1}, "standard deviation"),
        ({"end": -1.0}, "number of seconds"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.load_model("cart_pole", **options)
