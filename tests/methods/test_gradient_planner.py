"""Direct shooting against exact answers, against a constrained solver, and against itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import cai
from cai import factors as F
from cai.methods import GradientPlanner

HORIZON = 8


def linear_graph(*, noise: float = 0.0, start: Any = (1.0, -0.5), **options: Any) -> cai.TrajectoryGraph:
    a, b = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.5]])
    return cai.TrajectoryGraph(
        F.Delta(np.asarray(start)),
        F.LinearGaussianDynamics(a, b, noise * np.eye(2) if noise else None, [0.05, 0.0]),
        F.QuadraticReward(np.eye(2), [[0.3]], q=[0.1, 0.0]),
        **{"terminal_reward": F.QuadraticReward(3.0 * np.eye(2)), "horizon": HORIZON, "temperature": 0.0, **options},
    )


def curved_graph(**options: Any) -> cai.TrajectoryGraph:
    def moved(state: Tensor, action: Tensor) -> Tensor:
        position, speed = state[..., :1], state[..., 1:]
        return torch.cat([position + 0.2 * speed, speed + 0.2 * (action - torch.sin(position))], -1)

    def reward(state: Tensor, action: Tensor) -> Tensor:
        return -((state[..., 0] - 1.0) ** 2) - 0.1 * state[..., 1] ** 2 - 0.05 * action[..., 0] ** 2

    return cai.TrajectoryGraph(
        F.Delta([0.0, 0.0]),
        F.DifferentiableDynamics(moved, state_size=2, action_size=1),
        F.FunctionReward(reward),
        **{"horizon": HORIZON, **options},
    )


LONG = {"num_steps": 1000, "learning_rate": 0.02}


def test_the_optimum_of_a_linear_quadratic_problem() -> None:
    exact = cai.infer(linear_graph(), cai.SoftValueIteration())
    plan = cai.infer(linear_graph(), GradientPlanner(**LONG))
    assert float(plan.expected_return) == pytest.approx(float(exact.expected_return), rel=1e-8)
    torch.testing.assert_close(plan.most_probable_trajectory.actions, exact.mean_trajectory.actions, rtol=0, atol=1e-3)
    torch.testing.assert_close(plan.most_probable_trajectory.states, exact.mean_trajectory.states, rtol=0, atol=1e-3)
    assert float(plan.most_probable_trajectory.rewards.sum()) > float(
        plan.expected_return
    )  # which has the terminal reward too


def test_discount_and_prior_are_part_of_the_optimum() -> None:
    options = {"discount": 0.8, "temperature": 0.5, "action_prior": F.Gaussian([0.4], [[0.2]])}
    exact = cai.infer(linear_graph(**options), cai.SoftValueIteration())
    plan = cai.infer(linear_graph(**options), GradientPlanner(**LONG))
    torch.testing.assert_close(plan.most_probable_trajectory.actions, exact.mean_trajectory.actions, rtol=0, atol=1e-3)
    hard = cai.infer(linear_graph(discount=0.8), cai.SoftValueIteration()).expected_return
    assert float(plan.expected_return) < float(hard)  # the reward alone, without the prior's share


def test_noise_moves_the_return_and_not_the_plan() -> None:
    """Of a linear-quadratic problem: the best open loop under noise is that without, its return lower by a constant."""
    calm = cai.infer(linear_graph(), GradientPlanner(**LONG))
    rough = cai.infer(
        linear_graph(noise=0.01), GradientPlanner(num_samples=1000, num_steps=400, learning_rate=0.02), seed=1
    )
    assert float((rough.plan - calm.plan).abs().max()) < 0.1
    runs = rough.sample(20_000, seed=2)
    ends = -1.5 * (runs.states[:, -1] ** 2).sum(-1)
    returns = runs.returns() + ends
    error = 4.0 * float(returns.std()) * (1 / 20_000 + 1 / 1000) ** 0.5
    assert abs(float(rough.expected_return) - float(returns.mean())) < error
    assert float(rough.expected_return) < float(calm.expected_return)


def test_limits_against_a_constrained_solver() -> None:
    graph = curved_graph(action_space=_box(0.8))
    plan = cai.infer(graph, GradientPlanner(**LONG))

    def cost(actions: np.ndarray) -> float:
        x, total = np.zeros(2), 0.0
        for u in actions:
            total += (x[0] - 1.0) ** 2 + 0.1 * x[1] ** 2 + 0.05 * u**2
            x = np.array([x[0] + 0.2 * x[1], x[1] + 0.2 * (u - np.sin(x[0]))])
        return total

    found = scipy.optimize.minimize(cost, np.zeros(HORIZON), bounds=[(-0.8, 0.8)] * HORIZON, method="L-BFGS-B")
    assert float(plan.plan.abs().max()) <= 0.8
    assert -float(plan.expected_return) == pytest.approx(found.fun, abs=1e-5)


def _box(limit: float) -> Any:
    import gymnasium

    return gymnasium.spaces.Box(-limit, limit, (1,), np.float64)


def test_a_batch_of_starts_is_planned_as_each_alone() -> None:
    starts = np.array([[1.0, -0.5], [0.0, 2.0], [-3.0, 0.1]])
    method = GradientPlanner(num_steps=60)
    together = cai.infer(linear_graph(start=starts), method)
    assert together.expected_return.shape == (3,)
    for i, start in enumerate(starts):
        alone = cai.infer(linear_graph(start=start), method)
        torch.testing.assert_close(
            together.most_probable_trajectory.actions[i],
            alone.most_probable_trajectory.actions[0],
            rtol=1e-10,
            atol=1e-12,
        )
        torch.testing.assert_close(together.expected_return[i], alone.expected_return)


def test_restarts_never_hurt_and_the_seed_decides() -> None:
    graph = cai.load_model("pendulum", horizon=30)
    one = cai.infer(graph, GradientPlanner(num_steps=80), seed=0)
    many = cai.infer(graph, GradientPlanner(num_steps=80, num_restarts=6), seed=0)
    again = cai.infer(graph, GradientPlanner(num_steps=80, num_restarts=6), seed=0)
    assert float(many.expected_return) >= float(one.expected_return)
    assert torch.equal(many.plan, again.plan)


def test_warm_start_begins_where_the_shifted_plan_is() -> None:
    first = cai.infer(linear_graph(), GradientPlanner(num_steps=50))
    method = first.method.warm_started(first, shift=2)
    actions = first.plan
    assert torch.equal(method.initial_actions, actions[2:])
    begun = cai.infer(linear_graph(), cai.GradientPlanner(num_steps=1, learning_rate=0.0, initial_actions=actions[2:]))
    assert torch.equal(begun.plan, torch.cat([actions[2:], actions[-1:].expand(2, -1)]))


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    graph, method = linear_graph(noise=0.1), GradientPlanner(num_steps=40, num_restarts=3, num_samples=4)
    whole = cai.infer(graph, method, seed=3)

    class Stop(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps == 17:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cai.infer(graph, method, seed=3, callbacks=[cai.Checkpoint(tmp_path / "at", interval=0.0), Stop()])
    resumed = cai.infer(graph, method, seed=99, resume=tmp_path / "at")
    assert torch.equal(whole.plan, resumed.plan)


def test_save_and_load(tmp_path: Path) -> None:
    plan = cai.infer(linear_graph(), GradientPlanner(num_steps=20))
    plan.save(tmp_path / "plan")
    again = cai.load(tmp_path / "plan")
    assert torch.equal(again.plan, plan.plan)
    assert torch.equal(again.policy([1.0, -0.5], t=3).mean, plan.policy([1.0, -0.5], t=3).mean)


def test_the_policy_is_the_plan() -> None:
    plan = cai.infer(linear_graph(), GradientPlanner(num_steps=20))
    for t in range(HORIZON):
        assert torch.equal(plan.policy(torch.zeros(5, 2), t).sample(), plan.plan[t].expand(5, 1))
    with pytest.raises(ValueError, match="t"):
        plan.policy([0.0, 0.0], t=HORIZON)
    batch = cai.infer(linear_graph(start=np.zeros((3, 2))), GradientPlanner(num_steps=2))
    with pytest.raises(ValueError, match="does not fit a plan for starts"):
        batch.policy(torch.zeros(4, 2))
    with pytest.raises(cai.Unavailable):
        plan.v([0.0, 0.0])
    with pytest.raises(cai.Unavailable):
        _ = plan.log_evidence


def test_a_model_that_blows_up_is_an_error_and_a_restart_that_does_is_not() -> None:
    def moved(state: Tensor, action: Tensor) -> Tensor:
        return state + torch.sqrt(1.0 - action)  # NaN from an action above 1

    graph = cai.TrajectoryGraph(
        F.Delta([0.0]),
        F.DifferentiableDynamics(moved, state_size=1, action_size=1),
        F.FunctionReward(lambda state, action: -((state[..., 0] - 1.0) ** 2)),
        horizon=4,
    )
    planned = cai.infer(graph, GradientPlanner(num_steps=100, num_restarts=4, restart_scale=1.0), seed=0)
    assert torch.isfinite(planned.expected_return)
    with pytest.raises(cai.NonFinite, match="batch element 0"):
        cai.infer(graph, GradientPlanner(initial_actions=torch.full((4, 1), 2.0)))


def test_a_tolerance_is_reached_or_warned_about() -> None:
    plan = cai.infer(linear_graph(), GradientPlanner(num_steps=5000, learning_rate=0.01, tolerance=1e-4))
    assert plan.stats.converged
    assert plan.stats.num_steps < 5000
    with pytest.warns(cai.NotConverged, match="5 steps"):
        cai.infer(linear_graph(), GradientPlanner(num_steps=5, tolerance=1e-4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cai.infer(linear_graph(), GradientPlanner(num_steps=5))


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 0}, {"num_restarts": 0}, {"num_samples": -1}, {"learning_rate": -1.0}, {"tolerance": float("nan")}],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GradientPlanner"):
        GradientPlanner(**options)


def test_bad_graphs_and_first_plans_are_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="finite horizon"):
        cai.infer(linear_graph(horizon=None), GradientPlanner())
    with pytest.raises(cai.IncompatibleMethod, match="differentiated"):
        cai.infer(cai.load_model("gridworld", horizon=5), GradientPlanner())
    with pytest.raises(ValueError, match="initial_actions: expected \\[8, 1\\], or what broadcasts to it"):
        cai.infer(linear_graph(), GradientPlanner(initial_actions=torch.zeros(3, 2)))


def test_bad_questions_to_a_plan() -> None:
    plan = cai.infer(linear_graph(), GradientPlanner(num_steps=2))
    for ask, message in (
        (lambda: plan.policy(None), "state"),
        (lambda: plan.policy(3), r"state: expected \[..., 2\]"),
        (lambda: plan.policy(torch.zeros(4, 3)), r"state: expected \[..., 2\], got \[4, 3\]"),
        (lambda: plan.policy([0.0, 0.0], t=np.arange(3)), r"one time, got \[3\]"),
        (lambda: plan.policy([0.0, 0.0], t=HORIZON), "t 8 is outside 0..7"),
        (lambda: plan.policy([0.0, 0.0], t=None), "t must be whole numbers"),
        (lambda: plan.sample(3, length=HORIZON + 1), "length must be within 1..8"),
        (lambda: plan.sample(0), "num must be"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    both = cai.infer(linear_graph(start=np.ones((2, 2))), GradientPlanner(num_steps=2))
    with pytest.raises(ValueError, match=r"batch of starts \[2\]"):
        both.sample(3)
    with pytest.raises(ValueError, match=r"batch \[3\] does not fit a plan for starts \[2\]"):
        both.policy(torch.zeros(3, 2))


def test_bad_warm_starts_are_refused() -> None:
    plan, method = cai.infer(linear_graph(), GradientPlanner(num_steps=2)), GradientPlanner()
    assert torch.equal(method.warm_started(plan, shift=2.0).initial_actions, plan.plan[2:])
    assert torch.equal(method.warm_started(plan, shift=99).initial_actions, plan.plan[-1:])
    for shift in (-1, 0.5, None, "a", [1, 2]):
        with pytest.raises(ValueError, match="shift"):
            method.warm_started(plan, shift=shift)
    with pytest.raises(ValueError, match="GaussianPosterior has no plan"):
        method.warm_started(cai.infer(linear_graph(), cai.SoftValueIteration()))


@pytest.mark.parametrize("make", [lambda: linear_graph(noise=0.1), curved_graph], ids=["linear", "curved"])
@pytest.mark.parametrize("inside", [True, False])
def test_planning_goes_on_in_inference_mode(make: Any, inside: bool, tmp_path: Path) -> None:
    method, graph = GradientPlanner(num_steps=5, num_restarts=2, num_samples=2), make()
    plain = cai.infer(make(), method, seed=1)
    with torch.inference_mode():
        plan = cai.infer(make() if inside else graph, method, seed=1)
        cai.infer(graph, method, seed=1, callbacks=[cai.Checkpoint(tmp_path / "at", interval=0.0)])
        resumed = cai.infer(graph, method, resume=tmp_path / "at")
    for other in (plan, resumed):
        torch.testing.assert_close(other.plan, plain.plan, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(cai.infer(graph, method, seed=1).plan, plain.plan, rtol=1e-10, atol=1e-12)


def test_limits_are_kept_in_inference_mode() -> None:
    with torch.inference_mode():
        plan = cai.infer(curved_graph(action_space=_box(0.1)), GradientPlanner(num_steps=5))
    assert float(plan.plan.abs().max()) <= 0.1
