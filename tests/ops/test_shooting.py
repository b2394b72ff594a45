"""Shooting kernels: derivatives, box programmes, backward passes, rollouts, against finite differences and numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.ops.shooting.backward_pass import BackwardPass, LocalModel, backward_pass
from cai.ops.shooting.box_qp import box_qp, clamped_gains
from cai.ops.shooting.convexity import semidefinite
from cai.ops.shooting.expansions import curvature, jacobians, second_derivatives
from cai.ops.shooting.gaps import with_gaps
from cai.ops.shooting.layouts import AbstractLayout, BatchFirst, BatchLast, layout_of
from cai.ops.shooting.local_models import GaussNewton, SecondOrder, local_model
from cai.ops.shooting.parts import FunctionCost, FunctionDynamics, LinearDynamics, QuadraticCost
from cai.ops.shooting.problem import Limits, ShootingProblem, SumOfCosts, Trajectory, need_finite
from cai.ops.shooting.rollouts import closed_loop, open_loop
from cai.ops.shooting.schedules import LineSearch, RegularisationSchedule

N, M = 3, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def swing(state: Tensor, action: Tensor, t: int | Tensor = 0) -> Tensor:
    """Dynamics with second derivatives everywhere, mixed ones too; any batch."""
    x, y, z = state.unbind(-1)
    u, v = action.unbind(-1)
    moved = [x + 0.1 * y, y + 0.1 * (torch.sin(x) + u * torch.cos(z)), z + 0.1 * v * y + 0.05 * u**2]
    return torch.stack(moved, -1) + 0.01 * (t[..., None] if isinstance(t, Tensor) else t)


def price(state: Tensor, action: Tensor, t: int | Tensor = 0) -> Tensor:
    return (
        (state**4).sum(-1) / 4 + torch.exp(0.3 * action[..., 0]) + (action**2).sum(-1) + state[..., 0] * action[..., 1]
    )


def end_price(state: Tensor, action: Tensor, t: int | Tensor = 0) -> Tensor:
    return 2 * (state**2).sum(-1) + torch.cos(state[..., 0])


def differences(fn: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of fn by the last axis, which goes last: `[*batch, ..., k]`."""
    moves = step * torch.eye(point.shape[-1], dtype=point.dtype)
    return torch.stack([(fn(point + move) - fn(point - move)) / (2 * step) for move in moves], -1)


# -- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (4, 3)])
def test_jacobians_are_differences(batch: tuple[int, ...]) -> None:
    states, actions = normal(*batch, N), normal(*batch, M, seed=1)
    found = jacobians(swing, states, actions)
    torch.testing.assert_close(found.of_states, differences(lambda x: swing(x, actions), states), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.of_actions, differences(lambda u: swing(states, u), actions), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (4, 3)])
def test_curvature_is_differences_of_the_gradient(batch: tuple[int, ...]) -> None:
    states, actions = normal(*batch, N), normal(*batch, M, seed=1)
    joint = torch.cat([actions, states], -1)
    found = curvature(price, states, actions)

    def gradient(w: Tensor) -> Tensor:
        return curvature(price, w[..., M:], w[..., :M]).gradient

    values = differences(lambda w: price(w[..., M:], w[..., :M]), joint)
    torch.testing.assert_close(found.gradient, values, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.hessian, differences(gradient, joint), rtol=0, atol=1e-8)


def test_curvature_of_a_state_alone() -> None:
    states = normal(4, N)
    found = curvature(end_price, states, states[..., :0])
    assert found.hessian.shape == (4, N, N)
    expected = torch.diag_embed(torch.full((4, N), 4.0, dtype=torch.float64))
    expected[:, 0, 0] -= torch.cos(states[:, 0])
    torch.testing.assert_close(found.hessian, expected)


def test_second_derivatives_are_differences_of_jacobians() -> None:
    states, actions = normal(4, 2, N), normal(4, 2, M, seed=1)
    joint = torch.cat([actions, states], -1)
    expected = differences(lambda w: jacobians(swing, w[..., M:], w[..., :M]).joint, joint)
    torch.testing.assert_close(second_derivatives(swing, states, actions), expected, rtol=0, atol=1e-8)


def test_functions_of_constants_have_derivatives_of_zero() -> None:
    states, actions = normal(4, N), normal(4, M)
    found = jacobians(lambda x, u: torch.ones_like(x), states, actions)
    assert (found.joint == 0).all()
    flat = curvature(lambda x, u: x.sum(-1), states, actions)
    assert (flat.hessian == 0).all()
    assert (second_derivatives(lambda x, u: x, states, actions) == 0).all()


def test_branches_on_values_are_no_obstacle() -> None:
    def fn(state: Tensor, action: Tensor) -> Tensor:
        return 2.0 * state if bool((state > -100).all()) else state

    states = normal(4, N)
    expected = 2 * torch.eye(N, dtype=torch.float64).expand(4, N, N)
    torch.testing.assert_close(jacobians(fn, states, normal(4, M)).of_states, expected)


class Untransformed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, u: torch.as_tensor(np.asarray(x)),
        lambda x, u: Untransformed.apply(x),
    ],
    ids=["numpy", "autograd.Function"],
)
def test_what_torch_func_cannot_do_says_what_to_change(fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(
        cai.IncompatibleMethod, match="my model cannot be differentiated by torch.func.*torch operations"
    ):
        jacobians(fn, normal(4, N), normal(4, M), name="my model")


# -- quadratic programmes in boxes ------------------------------------------------------------------------------------


def random_programme(m: int, *, batch: int = 300, seed: int = 0) -> tuple[Tensor, ...]:
    root = normal(batch, m, m, seed=seed)
    hessian = root @ root.mT + 0.05 * torch.eye(m)
    low, high = -2 * normal(batch, m, seed=seed + 1).abs(), 2 * normal(batch, m, seed=seed + 2).abs()
    low[::5, 0], high[::7, -1] = -torch.inf, torch.inf
    return hessian, 3 * normal(batch, m, seed=seed + 3), low, high


def enumerated(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The best point and the free controls of one programme, of all active sets."""
    h, g, bounds = hessian.numpy(), gradient.numpy(), np.stack([low.numpy(), high.numpy()])
    m, best = len(g), (np.inf, np.zeros(len(g)), np.zeros(len(g), bool))
    for active in itertools.product((0, 1, -1), repeat=m):
        held = np.array(active) >= 0
        u = np.array([bounds[side, i] if side >= 0 else 0.0 for i, side in enumerate(active)])
        if not np.isfinite(u).all():
            continue
        free = ~held
        if free.any():
            u[free] = np.linalg.solve(h[np.ix_(free, free)], -(g[free] + h[np.ix_(free, held)] @ u[held]))
        if (u >= bounds[0] - 1e-12).all() and (u <= bounds[1] + 1e-12).all():
            value = u @ h @ u / 2 + g @ u
            if value < best[0] - 1e-14:
                best = (value, u, free)
    return best[1], best[2]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_box_programmes_are_those_of_the_best_active_set(m: int) -> None:
    hessian, gradient, low, high = random_programme(m)
    found = box_qp(hessian, gradient, low, high)
    assert ((found.solution >= low) & (found.solution <= high)).all()
    for i in range(len(gradient)):
        point, free = enumerated(hessian[i], gradient[i], low[i], high[i])
        np.testing.assert_allclose(found.solution[i].numpy(), point, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.free[i].numpy(), free)


@pytest.mark.parametrize("m", [2, 3])
def test_clamped_gains_are_constant_rows_and_the_best_rest(m: int) -> None:
    hessian, gradient, low, high = random_programme(m, batch=100, seed=9)
    sides = torch.cat([normal(100, m, 2, seed=5), gradient[..., None]], -1)
    gains = -torch.linalg.solve(hessian, sides)
    turned = [part.movedim(0, -1) for part in (hessian, sides, gains, low, high)]
    found = clamped_gains(*turned).movedim(-1, 0).numpy()
    for i in range(100):
        point, free = enumerated(hessian[i], gradient[i], low[i], high[i])
        expected = np.zeros((m, 3))
        h, s = hessian[i].numpy(), sides[i].numpy()
        if free.any():
            expected[free] = -np.linalg.solve(h[np.ix_(free, free)], s[free])
        expected[:, -1] = point
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_programme_without_a_minimum_does_not_spoil_the_others(m: int) -> None:
    hessian, gradient, low, high = random_programme(m, batch=20)
    low, high = low.clamp(min=-3.0), high.clamp(max=3.0)
    alone = box_qp(hessian, gradient, low, high)
    hessian[3] = -hessian[3]
    gradient[4] = torch.nan
    found = box_qp(hessian, gradient, low, high)
    kept = [i for i in range(20) if i not in (3, 4)]
    torch.testing.assert_close(found.solution[kept], alone.solution[kept])
    assert ((found.solution[3] >= low[3]) & (found.solution[3] <= high[3])).all()


# -- backward passes --------------------------------------------------------------------------------------------------


def random_model(layout: AbstractLayout, *, n: int = N, m: int = M, batch: int = 4, num_steps: int = 5) -> LocalModel:
    moves = torch.zeros(num_steps, batch, n + 1, n + m + 1, dtype=torch.float64)
    moves[..., :n, :-1] = 0.5 * normal(num_steps, batch, n, n + m)
    moves[..., :n, m : m + n] += torch.eye(n)
    moves[..., n, -1] = 1.0
    root = normal(num_steps, batch, n + m, n + m, seed=3)
    slopes = torch.cat([root @ root.mT + torch.eye(n + m), normal(num_steps, batch, n + m, 1, seed=4)], -1)
    end_root = normal(batch, n, n, seed=5)
    end = torch.cat([end_root @ end_root.mT, normal(batch, n, 1, seed=6)], -1)
    stored = [layout.empty(*part.shape, like=part).copy_(part) for part in (moves, slopes)]
    return LocalModel(layout, *stored, end, discount=0.9)


def reference(
    model: LocalModel, regularisation: Tensor, element: int
) -> tuple[list[np.ndarray], list[np.ndarray], float, float]:
    """Tassa, Erez and Todorov's equations 5, 10 and 11 for one element, written out."""
    n, m = model.num_states, model.num_actions
    value, slope = model.end[element, :, :n].numpy(), model.end[element, :, n].numpy()
    gains, values, linear, quadratic = [], [(value, slope)], 0.0, 0.0
    for t in reversed(range(len(model.moves))):
        move = model.moves[t, element, :n].numpy()
        b, f, gap = move[:, :m], move[:, m:-1], move[:, -1]
        h, g = model.slopes[t, element, :, :-1].numpy(), model.slopes[t, element, :, -1].numpy()
        ahead = slope + value @ gap
        qx, qu = g[m:] + model.discount * f.T @ ahead, g[:m] + model.discount * b.T @ ahead
        qxx = h[m:, m:] + model.discount * f.T @ value @ f
        quu = h[:m, :m] + model.discount * b.T @ value @ b
        qux = h[:m, m:] + model.discount * b.T @ value @ f
        mu = float(regularisation[element])
        inverse = np.linalg.inv(quu + mu * b.T @ b)
        k, feedback = -inverse @ qu, -inverse @ (qux + mu * b.T @ f)
        slope = qx + feedback.T @ quu @ k + feedback.T @ qu + qux.T @ k
        value = qxx + feedback.T @ quu @ feedback + feedback.T @ qux + qux.T @ feedback
        linear += model.discount**t * k @ qu
        quadratic += model.discount**t * k @ quu @ k
        gains.append(np.concatenate([feedback, k[:, None]], 1))
        values.append((value, slope))
    return gains[::-1], [np.concatenate([v, s[:, None]], 1) for v, s in values[::-1]], linear, quadratic


@pytest.mark.parametrize("layout", [BatchFirst(), BatchLast()], ids=["first", "last"])
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("regularised", [False, True])
def test_backward_pass_is_tassas(layout: AbstractLayout, m: int, *, regularised: bool) -> None:
    model = random_model(layout, m=m)
    model.moves[..., :N, -1] = 0.1 * normal(*model.moves.shape[:2], N, seed=8)  # gaps
    regularisation = torch.tensor([0.0, 0.5, 3.0, 100.0], dtype=torch.float64) * regularised
    found = backward_pass(model, regularisation)
    assert found.definite.all()
    for element in range(4):
        gains, values, linear, quadratic = reference(model, regularisation, element)
        np.testing.assert_allclose(found.gains[:, element], np.stack(gains), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.values[:, element], np.stack(values), rtol=0, atol=1e-8)
        assert float(found.slope[element]) == pytest.approx(linear, rel=1e-10)
        assert float(found.bend[element]) == pytest.approx(quadratic, rel=1e-10)


def test_an_indefinite_element_is_marked_and_leaves_the_others_alone() -> None:
    model = random_model(BatchLast())
    before = backward_pass(model, torch.zeros(4, dtype=torch.float64))
    model.slopes[3, 2, :M, :M] = -100 * torch.eye(M)
    model.slopes[1, 1, 0, 0] = torch.nan
    after = backward_pass(model, torch.zeros(4, dtype=torch.float64))
    assert after.definite.tolist() == [True, False, False, True]
    kept = torch.tensor([0, 3])
    assert torch.equal(after.gains[:, kept], before.gains[:, kept])


def test_layouts_by_size() -> None:
    assert isinstance(layout_of(3, 1), BatchLast)
    assert isinstance(layout_of(12, 4), BatchFirst)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("layout", [BatchFirst(), BatchLast()], ids=["first", "last"])
def test_limits_clamp_each_step(layout: AbstractLayout, m: int) -> None:
    free = random_model(layout, m=m)
    shape = (*free.moves.shape[:2], m)
    low, high = -0.3 * normal(*shape, seed=1).abs(), 0.3 * normal(*shape, seed=2).abs()
    model = LocalModel(layout, free.moves, free.slopes, free.end, free.discount, None, low, high)
    found = backward_pass(model, torch.zeros(4, dtype=torch.float64))
    offsets = found.gains[..., -1]
    assert ((offsets >= low) & (offsets <= high)).all()
    at_bound = (offsets == low) | (offsets == high)
    assert at_bound.any()
    assert (found.gains[..., :-1][at_bound] == 0).all()
    rows = found.rows
    programme = box_qp(rows[..., :m].contiguous(), rows[..., -1], low, high)
    torch.testing.assert_close(offsets, programme.solution, rtol=0, atol=1e-9)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("layout", [BatchFirst(), BatchLast()], ids=["first", "last"])
def test_curvature_does_not_matter_where_a_control_is_clamped_already(layout: AbstractLayout, m: int) -> None:
    """Control 0 of element 1 stands at its limit at time 2 and pushes against it: the others are solved without it."""
    free = random_model(layout, m=m)
    free.slopes[2, 1, 0, 0] = -100.0
    wide = torch.full((*free.moves.shape[:2], m), 50.0, dtype=torch.float64)
    low, high = -wide, wide.clone()
    zero = torch.zeros(4, dtype=torch.float64)
    indefinite = LocalModel(layout, free.moves, free.slopes, free.end, free.discount, None, low, high)
    assert backward_pass(indefinite, zero).definite.tolist() == [True, False, True, True]
    free.slopes[2, 1, 0, -1] = 1e3
    low[2, 1, 0] = 0.0
    held = backward_pass(LocalModel(layout, free.moves, free.slopes, free.end, free.discount, None, low, high), zero)
    assert held.definite.all()
    assert (held.gains[2, 1, 0] == 0).all()
    rows = held.rows[2, 1]
    expected = -torch.linalg.solve(rows[1:, 1:m], rows[1:, m:])
    torch.testing.assert_close(held.gains[2, 1, 1:], expected, rtol=0, atol=1e-9)


# -- rollouts and what is promised of them ----------------------------------------------------------------------------


def swinging(batch: int = 4, horizon: int = 6, **options: object) -> ShootingProblem:
    parts = {"dynamics": FunctionDynamics(swing), "cost": FunctionCost(price), "end": FunctionCost(end_price)}
    return ShootingProblem(**parts, start=normal(batch, N), num_actions=M, horizon=horizon, **options)


def passed(
    problem: ShootingProblem, *, gaps: bool = False, second_order: bool = False
) -> tuple[Trajectory, BackwardPass]:
    actions = 0.3 * normal(problem.horizon, len(problem.start), M, seed=7)
    states = open_loop(problem, actions)
    found = None
    if gaps:
        states = states + torch.cat([torch.zeros_like(states[:1]), 0.1 * normal(*states[1:].shape, seed=8)])
        found = torch.stack([swing(states[t], actions[t], t) for t in range(problem.horizon)]) - states[1:]
    trajectory = Trajectory(states, actions, problem.total_cost(states, actions), found)
    model = local_model(problem, trajectory, SecondOrder() if second_order else GaussNewton())
    backward = backward_pass(model, torch.full((len(problem.start),), 0.1 * gaps, dtype=torch.float64))
    return trajectory, with_gaps(model, backward) if gaps else backward


def sizes(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_the_promised_slope_is_that_of_the_cost(discount: float, *, gaps: bool) -> None:
    problem = swinging(discount=discount)
    old, backward = passed(problem, gaps=gaps)
    step = 1e-5
    up, down = closed_loop(problem, old.states, old.actions, backward.gains, sizes(step, -step), old.gaps).costs
    torch.testing.assert_close((up - down) / (2 * step), backward.slope, rtol=1e-6, atol=1e-7)


def test_the_promised_bend_is_that_of_a_linear_quadratic_cost() -> None:
    root = normal(N + M + 1, N + M + 1)
    form = (root @ root.mT + torch.eye(N + M + 1))[None, None]
    linear = LinearDynamics(0.4 * normal(1, 1, N, N + M + 1, seed=2))
    end = QuadraticCost(torch.eye(N + 1, dtype=torch.float64)[None, None])
    problem = ShootingProblem(linear, QuadraticCost(form), end, normal(4, N), M, 6, discount=0.9)
    actions = normal(6, 4, M, seed=7)
    states = open_loop(problem, actions)
    for gaps in (None, 0.3 * normal(6, 4, N, seed=9)):
        moved = states if gaps is None else states.clone()
        if gaps is not None:
            for t in range(6):
                moved[t + 1] = linear(moved[t], actions[t], t) - gaps[t]
        costs = problem.total_cost(moved, actions)
        model = local_model(problem, Trajectory(moved, actions, costs, gaps), GaussNewton())
        backward = backward_pass(model, torch.zeros(4, dtype=torch.float64))
        backward = backward if gaps is None else with_gaps(model, backward)
        tried = sizes(1.0, 0.5, 0.1)
        found = closed_loop(problem, moved, actions, backward.gains, tried, gaps).costs
        torch.testing.assert_close(found, costs + backward.predicted(tried[:, None]), rtol=1e-10, atol=1e-10)


def test_step_sizes_together_are_those_alone() -> None:
    problem = swinging(limits=Limits(sizes(-0.3, -0.4), sizes(0.2, torch.inf)))
    old, backward = passed(problem)
    together = closed_loop(problem, old.states, old.actions, backward.gains, sizes(1.0, 0.3, 0.1), None)
    for i, size in enumerate((1.0, 0.3, 0.1)):
        alone = closed_loop(problem, old.states, old.actions, backward.gains, sizes(size), None)
        torch.testing.assert_close(together.states[:, i], alone.states[:, 0], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(together.costs[i], alone.costs[0], rtol=1e-13, atol=1e-13)
    assert ((together.actions >= problem.limits.low) & (together.actions <= problem.limits.high)).all()


def test_no_step_stays_on_the_trajectory_and_a_full_one_closes_gaps() -> None:
    problem = swinging()
    old, backward = passed(problem, gaps=True)
    stay, move = closed_loop(problem, old.states, old.actions, backward.gains, sizes(0.0, 1.0), old.gaps).states.unbind(
        1
    )
    torch.testing.assert_close(stay, old.states, rtol=0, atol=1e-12)
    moved = closed_loop(problem, old.states, old.actions, backward.gains, sizes(1.0), old.gaps)
    rolled = open_loop(problem, moved.actions[:, 0])
    torch.testing.assert_close(move, rolled, rtol=0, atol=1e-12)


def test_second_order_passes_are_newtons_on_the_actions() -> None:
    """Around a stationary trajectory the pass with all second derivatives has the curvature of the total cost."""
    problem = swinging(batch=1, horizon=3)
    actions = normal(3, 1, M, seed=7) * 0.1

    def total(flat: Tensor) -> Tensor:
        plan = flat.reshape(3, 1, M)
        state, cost = problem.start, torch.zeros((), dtype=torch.float64)
        for t in range(3):
            cost = cost + price(state, plan[t], t).sum()
            state = swing(state, plan[t], t)
        return cost + end_price(state, plan[0, :, :0]).sum()

    flat = actions.flatten()
    for _ in range(30):  # Newton's method, to a stationary point
        gradient, hessian = torch.func.grad(total)(flat), torch.func.hessian(total)(flat)
        flat = flat - torch.linalg.solve(hessian, gradient)
    assert float(torch.func.grad(total)(flat).abs().max()) < 1e-12
    plan = flat.reshape(3, 1, M)
    states = open_loop(problem, plan)
    trajectory = Trajectory(states, plan, problem.total_cost(states, plan))
    backward = backward_pass(local_model(problem, trajectory, SecondOrder()), torch.zeros(1, dtype=torch.float64))
    found = torch.linalg.slogdet(backward.rows[:, 0, :, :M]).logabsdet.sum()
    expected = torch.linalg.slogdet(torch.func.hessian(total)(flat)).logabsdet
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps, batch", [(1, 1), (1, 4), (5, 1), (5, 4)])
def test_closed_forms_are_their_functions(num_steps: int, batch: int) -> None:
    """Linear and quadratic parts, alike or not over time and batch, have the values and derivatives of functions."""
    states, actions = normal(5, 4, N), normal(5, 4, M, seed=1)
    times = torch.arange(5)[:, None]
    root = normal(num_steps, batch, N + M + 1, N + M + 1, seed=2)
    form, matrix = root + root.mT, normal(num_steps, batch, N, N + M + 1, seed=3)

    def at(part: Tensor, t: int | Tensor) -> Tensor:
        return part[0] if len(part) == 1 else part[t] if isinstance(t, int) else part

    def joint(x: Tensor, u: Tensor) -> Tensor:
        return torch.cat([u, x, torch.ones_like(x[..., :1])], -1)

    def cost(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return 0.5 * torch.einsum("...i,...ij,...j->...", joint(x, u), at(form, t), joint(x, u))

    def move(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", at(matrix, t), joint(x, u))

    pairs = ((QuadraticCost(form), FunctionCost(cost)), (SumOfCosts((QuadraticCost(form),) * 2), None))
    for closed, function in pairs:
        function = SumOfCosts((FunctionCost(cost),) * 2) if function is None else function
        torch.testing.assert_close(closed(states, actions, times), function(states, actions, times))
        a, b = closed.curvature(states, actions, times), function.curvature(states, actions, times)
        torch.testing.assert_close(a.gradient, b.gradient)
        torch.testing.assert_close(a.hessian.expand_as(b.hessian), b.hessian)
        wide = torch.stack([states, 2 * states], 1), torch.stack([actions, -actions], 1)
        apart = torch.stack([function(2 * states, -actions, times)], 1)
        torch.testing.assert_close(closed(*wide, times[:, None])[:, 1:], apart)
    closed, function = LinearDynamics(matrix), FunctionDynamics(move)
    torch.testing.assert_close(closed(states[2], actions[2], 2), function(states[2], actions[2], 2))
    a, b = closed.jacobians(states, actions, times), function.jacobians(states, actions, times)
    torch.testing.assert_close(a.joint.expand_as(b.joint), b.joint)


def test_semidefinite_is_the_nearest_one() -> None:
    root = normal(50, 4, 4)
    matrices = root + root.mT
    matrices[0] = root[0] @ root[0].mT
    matrices[1] = torch.outer(root[1, 0], root[1, 0])
    found = semidefinite(matrices)
    values, vectors = np.linalg.eigh(matrices.numpy())
    expected = vectors * values.clip(min=0)[:, None, :] @ vectors.swapaxes(-1, -2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert torch.equal(found[:2], matrices[:2]), "those that are semi-definite stay as they are"


def test_what_is_not_finite_is_named() -> None:
    value = torch.zeros(4, 3, 2, dtype=torch.float64)
    need_finite(value, "it")
    value[2, 1, 0] = torch.inf
    with pytest.raises(cai.NonFinite, match="it is NaN or infinite at time 12, batch element 1"):
        need_finite(value, "it", first=10)
    need_finite(torch.tensor([[1e308, 1e308]], dtype=torch.float64), "a sum that overflows")


# -- schedules --------------------------------------------------------------------------------------------------------


def test_second_derivatives_of_some_elements() -> None:
    problem = swinging()
    old, _ = passed(problem)
    straight = torch.tensor([True, False, True, False])
    for divisible in (True, False):
        asked = replace(problem, divisible=divisible)
        bends = local_model(asked, old, SecondOrder(), straight=straight).bends
        everywhere = local_model(asked, old, SecondOrder()).bends
        assert bends is not None and everywhere is not None
        for t in (5, 2, 0):
            assert (bends(t)[straight] == 0).all()
            torch.testing.assert_close(bends(t)[~straight], everywhere(t)[~straight])
        assert local_model(asked, old, SecondOrder(), straight=torch.ones_like(straight)).bends is None


def test_regularisation_grows_and_shrinks_at_a_growing_rate() -> None:
    schedule = RegularisationSchedule(initial=0.0, factor=2.0, minimum=1e-3, maximum=1e6)
    now, up = schedule.start(1, torch.device("cpu")), []
    for _ in range(5):
        now = schedule.raised(now)
        up.append(float(now.size))
    assert up == pytest.approx([1e-3, 4e-3, 32e-3, 512e-3, 16.384])
    now = schedule.lowered(now)
    assert float(now.size) < up[-1] * 32.1
    for _ in range(10):
        now = schedule.lowered(now)
    assert float(now.size) == 0.0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RegularisationSchedule(factor=1.0), "factor"),
        (lambda: RegularisationSchedule(minimum=0.0), "minimum"),
        (lambda: RegularisationSchedule(minimum=2.0, maximum=1.0), "minimum"),
        (lambda: RegularisationSchedule(initial=-1.0), "initial"),
        (lambda: LineSearch(step_sizes=()), "step_sizes"),
        (lambda: LineSearch(step_sizes=(0.5, 1.0)), "step_sizes"),
        (lambda: LineSearch(step_sizes=(1.0, 0.0)), "step_sizes"),
        (lambda: LineSearch(step_sizes=(0.5,)), "step_sizes"),
        (lambda: LineSearch(acceptance=1.0), "acceptance"),
    ],
)
def test_schedules_refuse_what_makes_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
