"""Replanning in differentiable models: Bellman's principle, warm starts, batches, noise, gymnasium's own pendulum."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.plan import ReplanningPolicy

HANGING = torch.tensor([math.pi, 0.0], dtype=torch.float64)
THOROUGH = cai.ILQR(num_restarts=64, initial_noise=2.0, tolerance=1e-6)


class Notes(cai.AbstractCallback):
    """Takes down every plan."""

    def __init__(self) -> None:
        self.plans: list[cai.Posterior] = []

    def on_end(self, posterior: cai.Posterior | None) -> None:
        assert posterior is not None
        self.plans.append(posterior)

    @property
    def iterations(self) -> list[int]:
        return [plan.stats.num_steps for plan in self.plans]


class Angle:
    """(cos, sin, speed) to (angle, speed), within half a turn of the angle before."""

    last = torch.zeros((), dtype=torch.float64)

    def __call__(self, observation: Tensor) -> Tensor:
        cosine, sine, speed = observation.double().unbind(-1)
        angle = torch.atan2(sine, cosine)
        self.last = angle + 2 * math.pi * ((self.last - angle) / (2 * math.pi)).round()
        return torch.stack([self.last, speed], -1)


def flight(horizon: int = 25, **options: object) -> cai.TrajectoryGraph:
    return cai.load_model(
        "quadrotor", start=(-0.6, -0.3, 0.5, 0.0, 0.0, 0.0), horizon=horizon, temperature=0.0, **options
    )


@pytest.mark.parametrize("every", [1, 7])
def test_replanning_up_to_the_end_is_the_plan_where_nothing_is_left_to_chance(every: int) -> None:
    graph = flight()
    plan = cai.infer(graph, cai.ILQR())
    agent = ReplanningPolicy(graph, cai.ILQR(), end=25, replan_every=every)
    flown = cai.rollout(graph, agent, 1, seed=0)
    torch.testing.assert_close(flown.actions[0], plan.plan, rtol=0, atol=2e-4)
    returned = flown.returns() + graph.terminal_reward(flown.states[:, -1])
    torch.testing.assert_close(returned[0], plan.best_return, rtol=1e-7, atol=0)


def test_warm_starts_save_most_iterations() -> None:
    graph = flight()
    warm, cold = Notes(), Notes()
    cai.rollout(graph, ReplanningPolicy(graph, cai.ILQR(tolerance=1e-6), callbacks=[warm]), 1, seed=0, length=12)
    forgetful = ReplanningPolicy(graph, cai.ILQR(tolerance=1e-6), callbacks=[cold])
    cai.rollout(graph, lambda state, t: forgetful(state, t), 1, seed=0, length=12)
    assert len(warm.plans) == len(cold.plans) == 12 and warm.iterations[0] == cold.iterations[0]
    assert 2 * sum(warm.iterations[1:]) < sum(cold.iterations[1:])


def test_plans_cut_short_are_used_without_a_warning_where_the_next_goes_on_from_them() -> None:
    graph = flight()
    notes = Notes()
    hasty = ReplanningPolicy(graph, cai.ILQR(max_iterations=2, tolerance=1e-6), callbacks=[notes])
    flown = cai.rollout(graph, hasty, 1, seed=0, length=60)
    assert not notes.plans[0].stats.converged and notes.plans[-1].stats.converged
    assert flown.states[0, -1, :2].norm() < 0.1
    with pytest.warns(cai.NotConverged):
        cai.infer(graph, cai.ILQR(max_iterations=2))


def test_a_batch_of_episodes_is_a_loop() -> None:
    """Episodes of their own starts, planned for in one call a step, against each alone."""
    starts = torch.tensor([[-0.6, -0.3, 0.5], [0.4, 0.2, -1.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    starts = torch.cat([starts, torch.zeros(3, 3, dtype=torch.float64)], -1)
    agent = ReplanningPolicy(flight(), cai.ILQR(), replan_every=3)

    def flown(state: Tensor) -> Tensor:
        bound, actions = agent.bind(agent.graph), []
        for t in range(7):
            actions.append(bound(state, t))
            state = agent.graph.dynamics.mean(state, actions[-1])
        return torch.stack(actions, -2)

    together = flown(starts)
    for start, actions in zip(starts, together, strict=True):
        torch.testing.assert_close(flown(start), actions, rtol=0, atol=1e-5)


def test_open_loop_plans_are_closed_by_replanning() -> None:
    """A plan of actions alone does not see the noise; made again at each step it does."""
    world = cai.TrajectoryGraph(
        initial=cai.factors.Delta(torch.ones(1, dtype=torch.float64)),
        dynamics=cai.factors.LinearGaussianDynamics([[1.2]], [[1.0]], [[0.01]]),
        reward=cai.factors.QuadraticReward([[1.0]], [[0.01]]),
        horizon=12,
    )
    method = cai.GradientPlanner(num_steps=40, learning_rate=0.1)
    plan = cai.infer(world, cai.GradientPlanner(num_steps=300, learning_rate=0.1))
    blind = cai.rollout(world, plan, 20, seed=0)
    seeing = cai.rollout(world, ReplanningPolicy(world, method, horizon=3), 20, seed=0)
    assert seeing.states[:, -1].std() < 0.2 < 0.5 < blind.states[:, -1].std()  # 0.1 and 0.1 (1.2^24 - 1 / 0.44)^(1/2)


def test_the_swing_up_goes_on_in_the_model() -> None:
    model = cai.load_model("pendulum", smooth=True, horizon=40, temperature=0.0, start=(2.5, 0.0))
    agent = ReplanningPolicy(model, cai.ILQR(num_restarts=16, initial_noise=2.0, tolerance=1e-4), replan_every=10)
    swung = cai.rollout(model, agent, 1, seed=0, length=70)
    assert swung.states[0, -1, 0].cos() > 0.999 and swung.states[0, -1, 1].abs() < 0.05
    assert swung.actions.abs().max() <= 2.0


def least_cost(num: int) -> Callable[[Tensor], float]:
    """Dynamic programming over 200 steps on num angles and num + 1 speeds, linear in between, nine torques."""
    pendulum = cai.load_model("pendulum")
    angles = torch.arange(num, dtype=torch.float64) * 2 * math.pi / num - math.pi
    states = torch.cartesian_prod(angles, torch.linspace(-8.0, 8.0, num + 1, dtype=torch.float64))

    def corners(points: Tensor) -> tuple[Tensor, Tensor]:
        row, column = (points[:, 0] + math.pi) * num / (2 * math.pi), (points[:, 1] + 8.0) * num / 16.0
        i, j = row.floor(), column.floor().clamp(0, num - 1)
        pairs = [(a, b) for a in (0, 1) for b in (0, 1)]
        index = torch.stack([(i.long() + a) % num * (num + 1) + j.long() + b for a, b in pairs])
        weight = [((1 - a) + (2 * a - 1) * (row - i)) * ((1 - b) + (2 * b - 1) * (column - j)) for a, b in pairs]
        return index, torch.stack(weight)

    moves = []
    for torque in torch.linspace(-2.0, 2.0, 9, dtype=torch.float64):
        action = torque.expand(len(states), 1)
        moves.append((-pendulum.reward(states, action), *corners(pendulum.dynamics.mean(states, action))))
    cost = torch.zeros(len(states), dtype=torch.float64)
    for _ in range(200):
        cost = torch.stack([now + (cost[index] * weight).sum(0) for now, index, weight in moves]).amin(0)
    return lambda state: float((cost[corners(state[None])[0]] * corners(state[None])[1]).sum())


@pytest.mark.slow
def test_the_plan_from_hanging_is_that_of_dynamic_programming() -> None:
    """On grids the least cost is approached from above, with an error of first order in their width."""
    coarse, fine = least_cost(200)(HANGING), least_cost(400)(HANGING)
    assert 300.0 < fine < 303.0 < coarse < 309.0
    exact = -float(cai.infer(cai.load_model("pendulum", horizon=75), cai.ILQR(tolerance=1e-6)).best_return)
    assert 295.2 < exact < 295.4
    real = cai.load_model("pendulum", horizon=200).reward
    for seed in range(3):
        plan = cai.infer(cai.load_model("pendulum", smooth=True, horizon=100), THOROUGH, seed=seed)
        path = plan.most_probable_trajectory
        cost = -float(real(path.states[0, :-1], path.actions[0]).sum())
        assert exact < cost < exact + 0.4 < fine
        assert abs(2 * fine - coarse - cost) < 2.0  # extrapolated to a grid of no width


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_gymnasiums_pendulum_swings_up(seed: int) -> None:
    """Six starts of Pendulum-v1 each, 200 steps: the cost is that of dynamic programming, within its own error."""
    model = cai.load_model("pendulum", smooth=True, horizon=75, temperature=0.0)
    agent = ReplanningPolicy(model, THOROUGH, replan_every=10, state_of=Angle(), seed=seed)
    episodes = cai.rollout("Pendulum-v1", agent, 6, seed=seed)
    least = least_cost(200)
    costs = -episodes.returns().double()
    optimal = torch.tensor([least(Angle()(first)) for first in episodes.states[:, 0]])
    assert (episodes.states[:, -50:, 0] > 0.99).all(), "upright, and stays there"
    assert (costs < 1.05 * optimal + 5.0).all(), (costs, optimal)
    assert costs.mean() < 1.03 * optimal.mean() + 2.0


@pytest.mark.slow
def test_replanning_swings_up_in_noise_where_plan_and_feedback_fail() -> None:
    plan = cai.infer(cai.load_model("pendulum", smooth=True, horizon=100), THOROUGH, seed=0)
    model = cai.load_model("pendulum", smooth=True, horizon=50, temperature=0.0)
    world = cai.load_model("pendulum", smooth=True, horizon=100, noise=0.1)
    ways = [
        lambda state, t: plan.plan[t].expand(len(state), 1),
        lambda state, t: plan.policy(state, t).mean,
        ReplanningPolicy(model, THOROUGH, replan_every=5, seed=0),
    ]
    runs = [cai.rollout(world, way, 40, seed=1) for way in ways]
    upright = [float((run.states[:, -1, 0].cos() > 0.95).double().mean()) for run in runs]
    assert upright[0] < 0.3 < upright[1] < 0.8 < 0.9 < upright[2]
    returns = [run.returns() for run in runs]
    for worse, better in ((0, 1), (1, 2)):
        gain = returns[better] - returns[worse]
        assert gain.mean() > 3 * gain.std() / 40**0.5


@pytest.mark.slow
def test_quadrotors_hover_in_gusts() -> None:
    """The spread at hover is that of the linear feedback, within what noise allows, and the thrusts keep to bounds."""
    anywhere = cai.factors.Gaussian(torch.zeros(6), 0.5 * torch.eye(6))
    gusty = cai.load_model("quadrotor", noise=0.1).replace(initial=anywhere)
    model = cai.load_model("quadrotor", horizon=40, temperature=0.0)
    agent = ReplanningPolicy(model, cai.ILQR(tolerance=1e-4, max_iterations=20), replan_every=4)
    flights = cai.rollout(gusty, agent, 16, seed=0, length=160)
    away = flights.states[:, 120:, :2].norm(dim=-1)
    assert away.mean() < 0.15 and away.max() < 0.6
    assert flights.actions.min() >= 0.0 and flights.actions.max() <= gusty.action_space.high[0]
    calm = cai.rollout(gusty.replace(dynamics=model.dynamics), agent, 16, seed=0, length=160)
    assert calm.states[:, -1].abs().max() < 0.01, np.asarray(calm.states[:, -1])
