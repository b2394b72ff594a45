"""ILQR: the optimum of linear-quadratic problems, constrained optimisers, batches, failures, files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import cai
from cai.errors import IncompatibleMethod, NonFinite, NotConverged, Unavailable
from cai.graph.shooting import shooting_graph
from cai.inference.laplace import LaplacePosterior
from cai.methods.ilqr import ILQRState

F = cai.factors
N, M = 3, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def asked(graph: cai.TrajectoryGraph, *, seed: int | None = None, **options: Any) -> LaplacePosterior:
    posterior = cai.infer(graph, cai.ILQR(**options), seed=seed)
    assert isinstance(posterior, LaplacePosterior)
    return posterior


def stepped(graph: cai.TrajectoryGraph, method: cai.ILQR, num_steps: int) -> ILQRState:
    """The state after so many iterations."""
    state = method.init(graph, 0)
    for _ in range(num_steps):
        state = method.step(graph, state)
    return state


# -- linear-quadratic graphs ------------------------------------------------------------------------------------------


def linear_quadratic(seed: int = 0, horizon: int = 6, **options: Any) -> cai.TrajectoryGraph:
    """Everything at once: cross and linear terms, offsets, noise, rewards that change with time."""
    root = normal(horizon, N + M, N + M, seed=seed)
    form = root @ root.mT + torch.eye(N + M)
    reward = F.QuadraticReward.per_step(
        form[:, :N, :N],
        form[:, N:, N:],
        form[:, N:, :N],
        normal(horizon, N, seed=seed + 1),
        normal(horizon, M, seed=seed + 2),
        torch.full((horizon,), 0.3, dtype=torch.float64),
    )
    end = normal(N, N, seed=seed + 3)
    dynamics = F.LinearGaussianDynamics(
        torch.eye(N) + 0.2 * normal(N, N, seed=seed + 4),
        normal(N, M, seed=seed + 5),
        0.1 * torch.eye(N, dtype=torch.float64),
        normal(N, seed=seed + 6),
    )
    settings = {"horizon": horizon, "temperature": 0.3, "terminal_reward": F.QuadraticReward(end @ end.T)} | options
    return cai.TrajectoryGraph(F.Delta(normal(N, seed=seed + 7)), dynamics, reward, **settings)


def as_functions(graph: cai.TrajectoryGraph) -> cai.TrajectoryGraph:
    """The same graph with factors that have to be differentiated."""
    dynamics, reward, end = graph.dynamics, graph.reward, graph.terminal_reward
    return graph.replace(
        dynamics=F.DifferentiableDynamics(dynamics.mean, dynamics.covariance, state_size=N, action_size=M),
        reward=F.FunctionReward(lambda x, u, t: reward(x, u, t=t), time_varying=True),
        terminal_reward=F.FunctionReward(lambda x: end(x)),
    )


def kkt_plan(graph: cai.TrajectoryGraph) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of the optimum, by one dense system of optimality conditions over the whole trajectory."""
    horizon, gamma = graph.horizon, graph.discount
    n, m = N, M
    size = horizon * (n + m)  # u_0, x_1, u_1, x_2 ...
    hessian, gradient = np.zeros((size, size)), np.zeros(size)
    reward, end, x0 = graph.reward, graph.terminal_reward, graph.initial.value.numpy()

    def at(part: Tensor, t: int) -> np.ndarray:
        return part[t].numpy()

    for t in range(horizon):
        weight, u = gamma**t, slice(t * (n + m), t * (n + m) + m)
        hessian[u, u] += weight * at(reward.R, t)
        gradient[u] += weight * at(reward.r, t)
        if t == 0:
            gradient[u] += weight * at(reward.cross, 0) @ x0
            continue
        x = slice(u.start - n, u.start)
        hessian[x, x] += weight * at(reward.Q, t)
        hessian[u, x] += weight * at(reward.cross, t)
        hessian[x, u] += weight * at(reward.cross, t).T
        gradient[x] += weight * at(reward.q, t)
    hessian[-n:, -n:] += gamma**horizon * end.Q.numpy()
    a, b, c = (part.numpy() for part in (graph.dynamics.a, graph.dynamics.b, graph.dynamics.offset))
    rows, right = np.zeros((horizon * n, size)), np.zeros(horizon * n)
    for t in range(horizon):
        row, u = slice(t * n, (t + 1) * n), slice(t * (n + m), t * (n + m) + m)
        rows[row, u] = b
        rows[row, u.stop : u.stop + n] = -np.eye(n)
        if t:
            rows[row, u.start - n : u.start] = a
        right[row] = -c - (a @ x0 if t == 0 else 0.0)
    system = np.block([[hessian, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    solution = np.linalg.solve(system, np.concatenate([-gradient, right]))[:size].reshape(horizon, n + m)
    return np.concatenate([x0[None], solution[:, m:]]), solution[:, :m]


EXPANSIONS = [cai.methods.GaussNewton(), cai.methods.SecondOrder()]


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=["iLQR", "DDP"])
@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("functions", [False, True])
def test_linear_quadratic_problems_take_one_step(expansion: Any, discount: float, *, functions: bool) -> None:
    for seed in range(3):
        graph = linear_quadratic(seed, discount=discount)
        states, actions = kkt_plan(graph)
        asking = as_functions(graph) if functions else graph
        after_one = stepped(asking, cai.ILQR(expansion=expansion), 1).iterate
        np.testing.assert_allclose(after_one.actions[:, 0], actions, rtol=0, atol=1e-8)
        posterior = asked(asking, expansion=expansion)
        best = posterior.most_probable_trajectory
        np.testing.assert_allclose(best.states[0], states, rtol=0, atol=1e-8)
        np.testing.assert_allclose(best.actions[0], actions, rtol=0, atol=1e-8)
        assert posterior.stats.converged
        assert posterior.stats.num_steps == 2, "the second finds nothing left to do"


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"discount": 0.8},
        {"action_prior": F.LinearGaussianPolicy(normal(M, N), normal(M), 2 * torch.eye(M, dtype=torch.float64))},
        {"action_prior": F.FlatPrior(), "terminal_reward": None},
        {"temperature": 0.0},
    ],
    ids=["plain", "discount", "prior", "no end", "hard"],
)
def test_on_linear_quadratic_graphs_it_is_soft_value_iteration(options: dict[str, Any], *, functions: bool) -> None:
    graph = linear_quadratic(5, **options)
    exact = cai.infer(graph, cai.SoftValueIteration())
    if functions and graph.terminal_reward is not None:
        graph = as_functions(graph)
    local = asked(graph)
    states, actions = normal(4, N, seed=1), normal(4, M, seed=2)
    close = {"rtol": 1e-10, "atol": 1e-9}
    for t in (0, 2, 5):
        torch.testing.assert_close(local.q(states, actions, t), exact.q(states, actions, t), **close)
        torch.testing.assert_close(local.v(states, t), exact.v(states, t), **close)
        torch.testing.assert_close(local.advantage(states, actions, t), exact.advantage(states, actions, t), **close)
        torch.testing.assert_close(local.policy(states, t).mean, exact.policy(states, t).mean, **close)
        covariances = [p.policy(states, t).covariance_matrix for p in (local, exact)]
        torch.testing.assert_close(*covariances, **close)
    for name in ("state_marginals", "state_action_marginals"):
        a, b = getattr(local, name), getattr(exact, name)
        torch.testing.assert_close(a.mean, b.mean, **close)
        torch.testing.assert_close(a.covariance_matrix, b.covariance_matrix, **close)
    torch.testing.assert_close(local.expected_return, exact.expected_return, **close)
    if graph.temperature:
        torch.testing.assert_close(local.log_evidence, exact.log_evidence, **close)
        torch.testing.assert_close(local.entropy, exact.entropy, **close)
    else:
        with pytest.raises(Unavailable):
            _ = local.log_evidence
    exactly = not functions or graph.terminal_reward is None
    assert (local.stats.estimates == ()) == exactly
    assert local.is_bound == exactly


# -- a pendulum -------------------------------------------------------------------------------------------------------


def pendulum(
    start: Any = (math.pi, 0.0), *, limit: float = 2.0, horizon: int = 20, temperature: float = 0.1, **options: Any
) -> cai.TrajectoryGraph:
    """Angle from upright and speed; the torque has to swing it up."""

    def move(x: Tensor, u: Tensor) -> Tensor:
        speed = x[..., 1] + 0.1 * (5.0 * torch.sin(x[..., 0]) + 3.0 * u[..., 0])
        return torch.stack([x[..., 0] + 0.1 * speed, speed], -1)

    def reward(x: Tensor, u: Tensor) -> Tensor:
        return -(0.1 * (1 - torch.cos(x[..., 0])) + 0.01 * x[..., 1] ** 2 + 0.01 * u[..., 0] ** 2)

    space = gymnasium.spaces.Box(-limit, limit, (1,), np.float64) if math.isfinite(limit) else None
    return cai.TrajectoryGraph(
        F.Delta(torch.as_tensor(np.asarray(start, dtype=float))),
        F.DifferentiableDynamics(move, state_size=2, action_size=1),
        F.FunctionReward(reward),
        terminal_reward=F.FunctionReward(lambda x: -5.0 * (1 - torch.cos(x[..., 0])) - 0.5 * x[..., 1] ** 2),
        horizon=horizon,
        temperature=temperature,
        action_space=space,
        **options,
    )


def total(graph: cai.TrajectoryGraph) -> Callable[[Tensor], Tensor]:
    """The return of a plan `[T * m]` from the graph's start."""

    def value(plan: Tensor) -> Tensor:
        actions = plan.reshape(graph.horizon, -1)
        state, result = graph.initial.value, torch.zeros((), dtype=torch.float64)
        for t, action in enumerate(actions):
            result = result + graph.discount**t * graph.reward(state, action)
            state = graph.dynamics.mean(state, action)
        return result + graph.discount**graph.horizon * graph.terminal_reward(state)

    return value


def starts(number: int) -> Tensor:
    return torch.tensor([1.5, 0.0]) + normal(number, 2, seed=3) * torch.tensor([0.8, 0.5])


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=["iLQR", "DDP"])
def test_limits_against_a_constrained_optimiser(expansion: Any) -> None:
    for start in starts(2):
        graph = pendulum(start, limit=0.7, discount=0.95)
        posterior = asked(graph, expansion=expansion)
        plan = posterior.plan.flatten()
        assert (plan.abs() <= 0.7).all()
        assert (plan.abs() == 0.7).any(), "some action is at its limit"
        value = total(graph)
        slope = torch.func.grad(lambda u, value=value: -value(u))
        found = scipy.optimize.minimize(
            lambda u, value=value: -float(value(torch.as_tensor(u))),
            plan.numpy() + 0.01 * normal(20, seed=4).numpy(),
            jac=lambda u, slope=slope: slope(torch.as_tensor(u)).numpy(),
            bounds=[(-0.7, 0.7)] * 20,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
        )
        assert float(posterior.best_return) >= -found.fun - 1e-8
        np.testing.assert_allclose(plan.numpy(), found.x, rtol=0, atol=1e-4)
        assert float(posterior.best_return) == pytest.approx(float(value(plan)), abs=1e-12)


def test_several_limited_actions_against_a_constrained_optimiser() -> None:
    graph = as_functions(linear_quadratic(2)).replace(
        action_space=gymnasium.spaces.Box(np.array([-0.2, -np.inf]), np.array([0.3, 0.1]), dtype=np.float64)
    )

    def value(plan: np.ndarray) -> tuple[float, np.ndarray]:
        actions = torch.as_tensor(plan).reshape(6, M).requires_grad_()
        state, result = graph.initial.value, torch.zeros((), dtype=torch.float64)
        for t, action in enumerate(actions.unbind(0)):
            result, state = result + graph.reward(state, action, t=t), graph.dynamics.mean(state, action)
        result = -(result + graph.terminal_reward(state))
        (slope,) = torch.autograd.grad(result, actions)
        return float(result.detach()), slope.flatten().numpy()

    bounds = [(-0.2, 0.3), (-np.inf, 0.1)] * 6
    found = scipy.optimize.minimize(
        value, np.zeros(12), jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}
    )
    posterior = asked(graph)
    np.testing.assert_allclose(posterior.plan.flatten().numpy(), found.x, rtol=0, atol=1e-5)
    assert float(posterior.best_return) == pytest.approx(-found.fun, abs=1e-9)


def test_explicit_limits_join_those_of_the_space() -> None:
    graph = pendulum((1.0, 0.0), limit=2.0)
    inner = asked(graph, limits=(-0.5, np.array([0.4])))
    assert float(inner.plan.min()) >= -0.5
    assert float(inner.plan.max()) <= 0.4
    assert torch.equal(inner.plan, asked(pendulum((1.0, 0.0), limit=math.inf), limits=(-0.5, 0.4)).plan)
    for limits, message in (((1.0, -1.0), "no action coordinate 0"), ((-1.0,), "pair"), ((-1.0, [1.0, 2.0]), r"\[1\]")):
        with pytest.raises(ValueError, match=message):
            asked(graph, limits=limits)


def test_clamped_actions_have_no_feedback_and_no_spread() -> None:
    graph = pendulum((1.5, 0.0), limit=0.7)
    posterior = asked(graph)
    at_limit = posterior.plan.abs()[:, 0] == 0.7
    assert at_limit.any() and not at_limit.all()
    for t in range(20):
        states = normal(5, 2, seed=t)
        policy = posterior.policy(states, t)
        assert (policy.mean.abs() <= 0.7).all()
        spread = policy.covariance_matrix[:, 0, 0]
        if at_limit[t]:
            assert (policy.mean == posterior.plan[t]).all()
            assert (spread == 0).all()
        else:
            assert (spread > 0).all()
    here = posterior.most_probable_trajectory.states[0, :-1]
    on_it = torch.stack([posterior.policy(here[t], t).mean for t in range(20)])
    torch.testing.assert_close(on_it, posterior.plan, rtol=0, atol=1e-9)
    drawn = posterior.sample(50, seed=1)
    assert (drawn.actions.abs() <= 0.7).all()
    assert torch.equal(drawn.actions, posterior.sample(50, seed=1).actions)


def test_it_swings_a_pendulum_up() -> None:
    graph = pendulum(horizon=50, limit=1.0)
    posterior = asked(graph, initial_noise=0.1, seed=0)
    last = posterior.most_probable_trajectory.states[0, -1]
    assert posterior.stats.converged
    assert float(torch.cos(last[0])) > 0.999
    assert float(last[1].abs()) < 0.1
    hanging = float(total(graph)(torch.zeros(50, dtype=torch.float64)))
    assert float(posterior.best_return) > hanging + 10


def test_second_derivatives_from_near_the_optimum_on() -> None:
    graph = pendulum(starts(4), limit=math.inf)
    near = cai.ILQR(tolerance=1e-13, expansion=cai.methods.SecondOrder(below=0.1))
    first = [stepped(graph, method, 1).iterate.actions for method in (near, cai.ILQR())]
    assert torch.equal(*first), "far from it they are left out"
    late, never = cai.infer(graph, near), asked(graph, tolerance=1e-13)
    assert late.stats.converged
    assert late.stats.num_steps < never.stats.num_steps
    for element, start in enumerate(starts(4)):
        value = total(pendulum(start, limit=math.inf))
        slope = torch.func.grad(value)(late.plan[element].flatten())
        assert float(slope.abs().max()) < 1e-5
    with pytest.raises(ValueError, match="below"):
        cai.methods.SecondOrder(below=0.0)


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=["iLQR", "DDP"])
@pytest.mark.parametrize("limit", [0.7, math.inf])
def test_a_batch_is_a_loop(expansion: Any, limit: float) -> None:
    many = starts(6)
    method = cai.ILQR(expansion=expansion)
    together = stepped(pendulum(many, limit=limit), method, 4).iterate
    posterior = asked(pendulum(many, limit=limit), expansion=expansion)
    assert posterior.plan.shape == (6, 20, 1)
    for i, start in enumerate(many):
        alone = stepped(pendulum(start, limit=limit), method, 4).iterate
        torch.testing.assert_close(together.actions[:, i], alone.actions[:, 0], rtol=0, atol=1e-9)
        assert together.num_steps[i] == alone.num_steps[0]
        assert together.done[i] == alone.done[0]
        one = asked(pendulum(start, limit=limit), expansion=expansion)
        torch.testing.assert_close(posterior.plan[i], one.plan, rtol=0, atol=1e-6)
        torch.testing.assert_close(posterior.log_evidence[i], one.log_evidence, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(posterior.state_marginals.mean[:, i], one.state_marginals.mean, rtol=0, atol=1e-5)


def test_batch_dimensions_stay_as_they_are() -> None:
    many = starts(6)
    flat, shaped = asked(pendulum(many)), asked(pendulum(many.reshape(2, 3, 2)))
    assert shaped.plan.shape == (2, 3, 20, 1)
    assert shaped.best_return.shape == (2, 3)
    assert shaped.most_probable_trajectory.states.shape == (6, 21, 2)
    assert shaped.state_marginals.mean.shape == (21, 2, 3, 2)
    assert shaped.policy(many.reshape(2, 3, 2)).mean.shape == (2, 3, 1)
    torch.testing.assert_close(shaped.plan.reshape(6, 20, 1), flat.plan)
    with pytest.raises(ValueError, match="batch of starts"):
        shaped.sample(3)


@pytest.mark.parametrize("expansion", [*EXPANSIONS, cai.methods.SecondOrder(below=0.1)], ids=["iLQR", "DDP", "late"])
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_functions_that_refer_to_the_whole_batch(shape: tuple[int, ...], expansion: Any) -> None:
    """Each element has a mass of its own, which the user's function knows as a tensor of the batch's shape."""
    masses = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)

    def graph(mass: Tensor, start: Tensor) -> cai.TrajectoryGraph:
        def move(x: Tensor, u: Tensor) -> Tensor:
            speed = x[..., 1] + 0.1 * (torch.sin(x[..., 0]) + u[..., 0] / mass)
            return torch.stack([x[..., 0] + 0.1 * speed, speed], -1)

        return pendulum(start, limit=1.0).replace(dynamics=F.DifferentiableDynamics(move, state_size=2, action_size=1))

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    together = asked(graph(masses.reshape(shape), start.expand(*shape, 2)), expansion=expansion)
    assert not shooting_graph(graph(masses.reshape(shape), start.expand(*shape, 2))).problem.divisible
    for i, mass in enumerate(masses):
        alone = asked(graph(mass, start), expansion=expansion).plan
        torch.testing.assert_close(together.plan.reshape(4, 20, 1)[i], alone, rtol=0, atol=1e-7)


def test_a_bad_element_does_not_hold_up_the_others() -> None:
    """The reward of one element has a gradient of the wrong sign; the others end where they would without it."""
    good = pendulum(starts(3))
    wrong = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)

    def reward(x: Tensor, u: Tensor) -> Tensor:
        value = good.reward(x, u)
        return value + 2 * wrong * (value.detach() - value)

    together = good.replace(
        initial=F.Delta(torch.cat([starts(3), starts(3)[:1]])), reward=F.FunctionReward(reward), terminal_reward=None
    )
    with pytest.warns(NotConverged, match="1 of 4 trajectories have not converged: 0 at the limit.*1 where no step"):
        found = asked(together)
    alone = asked(good.replace(terminal_reward=None))
    torch.testing.assert_close(found.plan[:3], alone.plan, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.log_evidence[:3], alone.log_evidence, rtol=1e-6, atol=1e-6)


# -- first guesses ----------------------------------------------------------------------------------------------------


def test_warm_starts_shift_the_plan() -> None:
    graph = pendulum((1.5, 0.0))
    first = asked(graph)
    method = cai.ILQR().warm_started(first, shift=3)
    later = cai.factors.Delta(first.most_probable_trajectory.states[0, 3])
    given = method.init(graph.replace(initial=later), None).iterate.actions[:, 0]
    torch.testing.assert_close(given[:17], first.plan[3:], rtol=1e-7, atol=1e-7)
    assert (given[17:] == given[16]).all()
    again = cai.infer(graph, cai.ILQR().warm_started(first, shift=0))
    assert again.stats.num_steps == 1
    torch.testing.assert_close(again.plan, first.plan)
    shorter = cai.infer(graph.replace(horizon=8), cai.ILQR().warm_started(first))
    assert shorter.plan.shape == (8, 1)
    with pytest.raises(ValueError, match="shift"):
        cai.ILQR().warm_started(first, shift=-1)


def test_a_warm_start_follows_the_feedback_of_the_plan() -> None:
    """Balanced where it falls over: from a state off the plan the plan's actions let it fall, its feedback does not."""
    graph = pendulum((0.3, 0.0), horizon=40, temperature=0.0)
    first = asked(graph)
    off = graph.replace(initial=F.Delta(first.most_probable_trajectory.states[0, 2] + 0.02))
    warm = cai.ILQR().warm_started(first, shift=2)
    followed = warm.init(off, None).iterate
    alone = cai.ILQR(initial_actions=first.plan[2:]).init(off, None).iterate
    best = -float(asked(off).best_return)
    assert best <= float(followed.costs) < best + 0.2 * (float(alone.costs) - best)
    state = off.initial.value
    for t in range(38):
        state = graph.dynamics.mean(state, first.policy(state, t + 2).mean)
        torch.testing.assert_close(followed.states[t + 1, 0], state, rtol=0, atol=1e-12)


def test_the_best_of_restarts_answers_for_each_start() -> None:
    graph = pendulum(starts(3), limit=1.0)
    many = graph.replace(initial=F.Delta(starts(3).expand(8, 3, 2)))
    best = asked(graph, initial_noise=1.0, num_restarts=8, seed=3)
    each = asked(many, initial_noise=1.0, seed=3)
    torch.testing.assert_close(best.best_return, each.best_return.amax(0), rtol=1e-13, atol=0)
    chosen = each.plan.gather(0, each.best_return.argmax(0).reshape(1, 3, 1, 1).expand(1, 3, 20, 1))[0]
    assert torch.equal(best.plan, chosen)
    assert (each.best_return.amax(0) - each.best_return.amin(0)).max() > 0.1, "they differ"
    assert best.method.warm_started(best).num_restarts == 1


def test_replanning_uses_warm_starts() -> None:
    graph = pendulum((0.5, 0.0), temperature=0.0)
    policy = cai.plan.ReplanningPolicy(graph, cai.ILQR(), end=20)
    replanned = cai.rollout(graph, policy, 1, seed=0)
    planned = asked(graph).most_probable_trajectory
    torch.testing.assert_close(replanned.actions, planned.actions, rtol=0, atol=1e-4)


def test_multiple_shooting_closes_the_gaps() -> None:
    graph = pendulum((1.5, 0.0), limit=math.inf)
    line = torch.linspace(1.5, 0.0, 21, dtype=torch.float64)
    guess = torch.stack([line, torch.full_like(line, -0.75)], -1)
    method = cai.ILQR(rollouts=cai.methods.MultipleShooting(guess))
    state = method.init(graph, None)
    assert float(state.iterate.gaps.abs().max()) > 0.01
    while not method.is_done(state):
        state = method.step(graph, state)
    assert (state.iterate.gaps == 0).all()
    posterior = cai.infer(graph, method)
    assert posterior.stats.converged
    again = asked(graph, initial_actions=posterior.plan)
    assert again.stats.num_steps == 1, "it is an optimum of the graph itself"
    assert float(posterior.best_return) == pytest.approx(float(total(graph)(posterior.plan)), abs=1e-10)
    states = posterior.most_probable_trajectory.states[0]
    following = graph.dynamics.mean(states[:-1], posterior.plan)
    torch.testing.assert_close(states[1:], following, rtol=0, atol=1e-12)


def test_multiple_shooting_of_a_linear_problem_takes_one_step() -> None:
    graph = linear_quadratic(4)
    method = cai.ILQR(rollouts=cai.methods.MultipleShooting(normal(7, N, seed=5)))
    iterate = stepped(graph, method, 1).iterate
    np.testing.assert_allclose(iterate.actions[:, 0], kkt_plan(graph)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"initial_actions": np.zeros((20, 2))}, r"initial_actions: expected \[20, 1\].*got \[20, 2\]"),
        ({"initial_actions": np.zeros((3, 20, 1))}, "initial_actions"),
        ({"initial_actions": np.zeros((0, 1))}, "initial_actions"),
        ({"initial_actions": np.full((20, 1), np.nan)}, "not finite"),
        ({"initial_feedback": np.zeros((20, 1))}, r"initial_feedback must be .*1, 3\], got \[20, 1\]"),
        ({"initial_feedback": np.zeros((20, 1, 2))}, r"initial_feedback must be .*1, 3\], got \[20, 1, 2\]"),
        ({"initial_feedback": np.zeros((4, 20, 1, 3))}, "initial_feedback"),
        ({"rollouts": cai.methods.MultipleShooting(np.zeros((20, 2)))}, r"initial_states: expected \[21, 2\]"),
    ],
)
def test_guesses_of_another_shape_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(pendulum(), **options)


# -- what has no answer -----------------------------------------------------------------------------------------------


def test_a_saddle_has_no_policy_but_a_plan_and_noise_leaves_it() -> None:
    """Hanging still with no torque is stationary, and no optimum."""
    graph = pendulum(limit=math.inf, temperature=0.1)
    with pytest.raises(IncompatibleMethod, match="at time .*H_uu is not positive definite.*initial_noise"):
        asked(graph)
    plan = asked(graph.replace(temperature=0.0))
    assert (plan.plan == 0).all()
    better = asked(graph, initial_noise=0.1, seed=1)
    assert float(better.best_return) > float(plan.best_return) + 0.1
    assert torch.equal(better.plan, asked(graph, initial_noise=0.1, seed=1).plan)


def test_a_limit_of_iterations_warns() -> None:
    with pytest.warns(NotConverged, match="limit of 2 iterations"):
        posterior = asked(pendulum((1.5, 0.0)), max_iterations=2)
    assert not posterior.stats.converged
    assert posterior.stats.num_steps == 2
    assert posterior.stats.residual > 0


def nan_at(which: str) -> cai.TrajectoryGraph:
    """A pendulum whose factor is NaN, or has a derivative that is, at time 3 of batch element 1."""
    graph = pendulum(starts(3))
    bad = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    def spoiled(value: Tensor, t: int | Tensor) -> Tensor:
        where = torch.as_tensor(t == 3) & (bad > 0)
        where = where[..., None] if value.dim() > where.dim() else where
        return torch.where(where, torch.nan, value)

    def rooted(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        bent = torch.as_tensor(t == 3) & (bad > 0)
        return graph.reward(x, u) - torch.where(bent, u[..., 0].abs(), 1.0).sqrt()

    if which == "dynamics":
        fn = lambda x, u, t: spoiled(graph.dynamics.mean(x, u), t)  # noqa: E731
        dynamics = F.DifferentiableDynamics(fn, state_size=2, action_size=1, time_varying=True)
        return graph.replace(dynamics=dynamics)
    fn = rooted if which == "derivative" else lambda x, u, t: spoiled(graph.reward(x, u), t)
    return graph.replace(reward=F.FunctionReward(fn, time_varying=True))


@pytest.mark.parametrize(
    "which, message",
    [
        ("dynamics", "state.*at time 4, batch element 1"),
        ("reward", "reward of the first guess.*at time 3, batch element 1"),
        ("derivative", "derivative of the reward.*at time 3, batch element 1"),
    ],
)
def test_nan_is_named(which: str, message: str) -> None:
    with pytest.raises(NonFinite, match=message):
        asked(nan_at(which))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"horizon": None, "discount": 0.9}, "finite horizon.*ReplanningPolicy"),
        ({"initial": None}, "initial, which is None"),
        ({"reward": None}, "reward, which is None"),
        ({"initial": lambda: torch.distributions.Normal(0.0, 1.0)}, "Delta or Gaussian"),
        ({"action_prior": lambda state: torch.distributions.Normal(0.0, 1.0)}, "action prior"),
        (
            {"dynamics": F.DifferentiableDynamics(lambda x, u: x), "state_space": None, "action_space": None},
            "state_size=, action_size=",
        ),
    ],
)
def test_graphs_that_lack_something_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleMethod, match=message):
        asked(pendulum().replace(**changes))


def test_other_graphs_are_refused() -> None:
    lake = cai.from_gym("FrozenLake-v1", horizon=5)
    for graph in (lake, lake.unroll()):
        with pytest.raises(IncompatibleMethod, match="ILQR"):
            cai.infer(graph, cai.ILQR())


def test_functions_of_another_shape_are_refused() -> None:
    graph = pendulum(starts(3))
    with pytest.raises(ValueError, match="next state"):
        asked(graph.replace(dynamics=F.DifferentiableDynamics(lambda x, u: x[..., :1], state_size=2, action_size=1)))
    with pytest.raises(ValueError, match=r"reward: expected one reward for each of the batch, \[3\]"):
        asked(graph.replace(reward=lambda x, u: x.sum()))


def test_functions_that_cannot_be_differentiated_are_refused() -> None:
    def move(x: Tensor, u: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(x.detach()))

    graph = pendulum().replace(dynamics=F.DifferentiableDynamics(move, state_size=2, action_size=1))
    with pytest.raises(IncompatibleMethod, match="the dynamics cannot be differentiated"):
        asked(graph)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_iterations": 0}, "max_iterations"),
        ({"max_iterations": 2.5}, "max_iterations"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"initial_noise": math.nan}, "initial_noise"),
        ({"num_restarts": 0}, "num_restarts must be at least 1"),
        ({"num_restarts": 4}, "restarts differ by initial_noise"),
        ({"initial_actions": [[0.0]], "initial_feedback": [[[0.0, 0.0, 0.0]]]}, "not both"),
        ({"expansion": "ddp"}, "expansion"),
        ({"regularisation": 1.0}, "regularisation"),
        ({"line_search": (1.0,)}, "line_search"),
        ({"rollouts": None}, "rollouts"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(pendulum(), **options)


# -- times, types, files ----------------------------------------------------------------------------------------------


def test_functions_of_time_that_take_tensors_or_do_not() -> None:
    targets = torch.linspace(0, 1, 20, dtype=torch.float64)
    graph = pendulum((1.0, 0.0))

    def by_index(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return graph.reward(x, u) - (x[..., 0] - targets[t]) ** 2

    def by_number(x: Tensor, u: Tensor, t: int) -> Tensor:
        return graph.reward(x, u) - (x[..., 0] - targets[math.floor(float(t))]) ** 2

    plans = [asked(graph.replace(reward=F.FunctionReward(fn, time_varying=True))).plan for fn in (by_index, by_number)]
    torch.testing.assert_close(*plans, rtol=0, atol=1e-12)
    assert float((plans[0] - asked(graph).plan).abs().max()) > 0.01


def test_single_precision_stays_single() -> None:
    graph = pendulum(torch.tensor([1.5, 0.0]))
    graph = graph.replace(initial=F.Delta(torch.tensor([1.5, 0.0], dtype=torch.float32)))
    posterior = asked(graph)
    assert posterior.plan.dtype == torch.float32
    assert posterior.stats.converged
    torch.testing.assert_close(posterior.plan.double(), asked(pendulum((1.5, 0.0))).plan, rtol=0, atol=2e-2)


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    class Interrupt(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps == 3:
                raise KeyboardInterrupt

    graph, method = pendulum(starts(3), limit=1.0), cai.ILQR(initial_noise=0.1)
    whole = cai.infer(graph, method, seed=4)
    assert whole.stats.num_steps > 3
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        cai.infer(graph, method, seed=4, callbacks=[cai.Checkpoint(path, interval=0.0), Interrupt()])
    resumed = cai.infer(graph, method, seed=99, resume=path)
    assert torch.equal(resumed.plan, whole.plan)
    assert torch.equal(resumed.log_evidence, whole.log_evidence)
    assert resumed.stats.num_steps == whole.stats.num_steps


def test_save_and_load(tmp_path: Path) -> None:
    graph = pendulum(starts(3), limit=0.7)
    posterior = asked(graph, expansion=cai.methods.SecondOrder(), limits=(-0.5, 0.5))
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file", graph=graph)
    assert torch.equal(again.plan, posterior.plan)
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    assert torch.equal(again.policy(starts(3), 4).mean, posterior.policy(starts(3), 4).mean)
    assert again.method.expansion == posterior.method.expansion
    assert again.stats == posterior.stats


def test_what_is_missing_says_so() -> None:
    posterior = asked(pendulum((1.0, 0.0)))
    with pytest.raises(Unavailable, match="local model"):
        posterior.log_prob(posterior.most_probable_trajectory)
    with pytest.raises(Unavailable, match="local model"):
        posterior.gap(posterior)
    with pytest.raises(Unavailable):
        _ = posterior.gain


# -- Laplace's approximation ------------------------------------------------------------------------------------------


def integrated(graph: cai.TrajectoryGraph, bounds: list[tuple[float, float]], cells: int = 900) -> float:
    """Log of the integral of exp(return / temperature) over the plans of two steps in a rectangle, on a grid."""
    edges = [torch.linspace(low, high, cells + 1, dtype=torch.float64) for low, high in bounds]
    first, second = torch.meshgrid(*(0.5 * (edge[1:] + edge[:-1]) for edge in edges), indexing="ij")
    state = graph.initial.value.expand(cells, cells, 2)
    value = graph.reward(state, first[..., None])
    state = graph.dynamics.mean(state, first[..., None])
    value = value + graph.reward(state, second[..., None])
    value = value + graph.terminal_reward(graph.dynamics.mean(state, second[..., None]))
    cell = sum(math.log((high - low) / cells) for low, high in bounds)
    return float(torch.logsumexp((value / graph.temperature).flatten(), 0)) + cell


def test_laplace_evidence_is_the_integral_at_low_temperature() -> None:
    """The error of Laplace's method is of the order of the temperature: a tenth of it, a tenth of the error."""
    errors = []
    for temperature in (0.1, 0.01):
        graph = pendulum((1.0, 0.0), limit=math.inf, horizon=2, temperature=temperature)
        posterior = asked(graph, expansion=cai.methods.SecondOrder(), tolerance=1e-14)
        reach = 70 * math.sqrt(temperature)
        bounds = [(float(action) - reach, float(action) + reach) for action in posterior.plan]
        errors.append(abs(float(posterior.log_evidence) - integrated(graph, bounds)))
    assert errors[0] < 1e-3
    assert errors[1] < 0.15 * errors[0]


def test_laplace_evidence_at_a_limit_is_the_integral_over_the_box() -> None:
    """Both actions stand at their limits; the prior is uniform on the box."""
    errors = []
    for temperature in (1e-2, 1e-3):
        graph = pendulum((1.0, 0.5), limit=0.1, horizon=2, temperature=temperature)
        posterior = asked(graph)
        assert (posterior.plan == -0.1).all()
        slopes = torch.func.grad(total(graph))(posterior.plan.flatten())
        reaches = [min(0.2, 60 * temperature / abs(float(slope))) for slope in slopes]
        exact = integrated(graph, [(-0.1, -0.1 + reach) for reach in reaches]) - 2 * math.log(0.2)
        errors.append(abs(float(posterior.log_evidence) - exact))
    assert errors[0] < 0.02
    assert errors[1] < 0.15 * errors[0]
