"""Scans of linear-quadratic control against a Riccati loop in numpy, and against the library's own loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import cai
from cai.methods import AssociativeScan, Sequential
from cai.ops import associative_scan
from cai.ops.gaussian.control_scan import pays_to_scan, scanned_values, solve_by_scan
from cai.ops.gaussian.problem import LinearQuadratic, homogeneous_dynamics, homogeneous_form
from cai.ops.gaussian.riccati import solve
from cai.ops.gaussian.riccati_scan import Element, act, combine

HORIZONS = [1, 2, 3, 4, 5, 7, 16, 17, 33, 100, 257]


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.as_tensor(rng.normal(size=shape))


def problem(
    horizon: int,
    *,
    batch: tuple[int, ...] = (),
    sizes: tuple[int, int] = (3, 2),
    varies: bool = True,
    noise: float = 0.0,
    discount: float = 1.0,
    radius: float = 0.98,
    seed: int = 0,
) -> LinearQuadratic:
    """A random problem with linear and mixed terms."""
    rng, (n, m), t = np.random.default_rng(seed), sizes, horizon if varies else 1
    rotation = torch.linalg.qr(normal(rng, n, n))[0]
    a = radius * rotation + 0.05 * normal(rng, t, *batch, n, n)
    root = 0.4 * normal(rng, t, *batch, n + m, n + m)
    joint = root @ root.mT + 0.5 * torch.eye(n + m)
    cost = torch.zeros(t, *batch, n + m + 1, n + m + 1, dtype=torch.float64)
    places = [*range(n), *range(n + 1, n + m + 1)]
    cost[..., np.ix_(places, places)[0], np.ix_(places, places)[1]] = joint
    linear = 0.3 * normal(rng, t, *batch, n + m + 1)
    cost[..., n, :] += linear
    cost[..., :, n] += linear
    spread = normal(rng, 1, *batch, n, 2)
    return LinearQuadratic(
        dynamics=homogeneous_dynamics(a, 0.5 * normal(rng, t, *batch, n, m), 0.2 * normal(rng, t, *batch, n)),
        noise=noise * spread @ spread.mT if noise else None,  # singular where n > 2
        cost=cost,
        reward=cost,
        end=homogeneous_form(joint[-1, ..., :n, :n], 0.1 * normal(rng, *batch, n), torch.zeros(batch).double()),
        initial_mean=torch.zeros(*batch, n, dtype=torch.float64),
        initial_covariance=None,
        temperature=0.7,
        discount=discount,
        horizon=horizon,
    )


def numpy_values(lq: LinearQuadratic, eta: float) -> np.ndarray:
    """P_t with the corner zero, of one problem, with the parts of value and cost written out."""
    n = lq.num_states

    def at(part: Tensor, t: int) -> np.ndarray:
        return part[t if len(part) > 1 else 0].numpy()

    quadratic, linear = lq.end[:n, :n].numpy(), lq.end[:n, n].numpy()
    found = [(quadratic, linear)]
    for t in range(lq.horizon - 1, -1, -1):
        if lq.noise is not None:
            turn = np.linalg.inv(np.eye(n) + eta * quadratic @ at(lq.noise, t))
            quadratic, linear = turn @ quadratic, turn @ linear
            quadratic = 0.5 * (quadratic + quadratic.T)
        d, m, g = at(lq.dynamics, t)[:n], at(lq.cost, t), lq.discount
        a, c, b = d[:, :n], d[:, n], d[:, n + 1 :]
        uu = m[n + 1 :, n + 1 :] + g * b.T @ quadratic @ b
        ux = m[n + 1 :, :n] + g * b.T @ quadratic @ a
        u = m[n + 1 :, n] + g * b.T @ (linear + quadratic @ c)
        gain, feed = -np.linalg.solve(uu, ux), -np.linalg.solve(uu, u)
        linear = m[:n, n] + g * a.T @ (linear + quadratic @ c) + ux.T @ feed
        quadratic = m[:n, :n] + g * a.T @ quadratic @ a + ux.T @ gain
        quadratic = 0.5 * (quadratic + quadratic.T)
        found.append((quadratic, linear))
    out = np.zeros((lq.horizon + 1, n + 1, n + 1))
    for t, (quadratic, linear) in enumerate(found[::-1]):
        out[t, :n, :n], out[t, :n, n], out[t, n, :n] = quadratic, linear, linear
    return out


def relative(found: Tensor, expected: Tensor | np.ndarray) -> float:
    expected = torch.as_tensor(expected)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


CASES = {
    "plain": {},
    "constant": {"varies": False},
    "discount": {"discount": 0.9},
    "noise": {"noise": 0.2},
    "noise, constant": {"noise": 0.2, "varies": False},
    "noise and discount": {"noise": 0.2, "discount": 0.95},
    "one state, three actions": {"sizes": (1, 3), "noise": 0.2},
    "unstable": {"radius": 1.3},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("horizon", HORIZONS)
def test_values_are_those_of_a_loop_in_numpy(horizon: int, options: dict) -> None:
    lq = problem(horizon, **options)
    for eta in (0.0, 0.8, -0.02) if lq.noise is not None else (0.0,):
        assert relative(scanned_values(lq, eta), numpy_values(lq, eta)) < 1e-11, eta


@cases
@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_messages_are_those_of_the_loop(batch: tuple[int, ...], options: dict) -> None:
    lq = problem(50, batch=batch, **options)
    eta = 0.3 if lq.noise is not None else 0.0
    loop, scan = solve(lq, eta), solve_by_scan(lq, eta)
    for name in ("values", "constants", "gains", "covariances", "factors"):
        expected, found = getattr(loop, name), getattr(scan, name)
        assert found.shape == expected.shape, name
        assert relative(found, expected) < 1e-11, name


def test_parts_of_one_batch_and_of_none_broadcast() -> None:
    wide, narrow = problem(40, batch=(3,)), problem(40)
    mixed = replace(wide, cost=narrow.cost[:, None], end=narrow.end[None])
    for i in range(3):
        alone = replace(narrow, dynamics=wide.dynamics[:, i])
        assert relative(scanned_values(mixed, 0.0)[:, i], scanned_values(alone, 0.0)) < 1e-12


def leaves(lq: LinearQuadratic, eta: float) -> Element:
    """The elements of single steps, by their formulas; the last is the end."""
    k = lq.num_states + 1
    d, m = lq.dynamics, lq.cost
    solved = torch.linalg.solve(m[..., k:, k:], torch.cat([m[..., k:, :k], d[..., k:].mT], -1))
    reach = d[..., k:] @ solved[..., k:]
    if lq.noise is not None:
        reach[..., :-1, :-1] += eta * lq.noise
    steps = Element(d[..., :k] - d[..., k:] @ solved[..., :k], reach, m[..., :k, :k] - m[..., :k, k:] @ solved[..., :k])
    nothing = torch.zeros_like(lq.end)[None]
    return Element(
        torch.cat([steps.transition, nothing]),
        torch.cat([steps.reach, nothing]),
        torch.cat([steps.cost, lq.end[None]]),
    )


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_any_grouping_of_elements_gives_the_values(eta: float) -> None:
    lq = problem(37, noise=0.3)
    elements = leaves(lq, eta)
    products = associative_scan(combine, elements, reverse=True)
    expected = torch.as_tensor(numpy_values(lq, eta))
    assert relative(products.cost[:, :-1], expected[:, :-1]) < 1e-11
    pick = [Element(*(part[i : i + 1] for part in vars(elements).values())) for i in (3, 4, 5)]
    one = combine(combine(pick[0], pick[1]), pick[2])
    other = combine(pick[0], combine(pick[1], pick[2]))
    for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
        assert relative(a, b) < 1e-12
    after = expected[6:7]
    assert relative(act(one, after), act(pick[0], act(pick[1], act(pick[2], after)))) < 1e-12


def test_gradients_by_finite_differences() -> None:
    lq = problem(6, sizes=(2, 1), noise=0.3)  # a block of four steps, and two more
    assert lq.noise is not None

    def values(top: Tensor, noise: Tensor, cost: Tensor, end: Tensor, eta: Tensor) -> tuple[Tensor, ...]:
        dynamics = torch.cat([top, lq.dynamics[:, 2:]], -2)
        parts = {"noise": noise + noise.mT, "cost": cost + cost.mT, "end": end + end.mT}
        messages = solve_by_scan(replace(lq, dynamics=dynamics, **parts), eta)
        return messages.values, messages.constants, messages.gains, messages.covariances

    halves = [0.5 * part for part in (lq.noise, lq.cost, lq.end)]
    eta = torch.tensor(0.7, dtype=torch.float64)
    assert gradcheck(values, [x.clone().requires_grad_() for x in (lq.dynamics[:, :2], *halves, eta)])


def test_gradients_are_those_of_the_loops_adjoint() -> None:
    lq = problem(60, noise=0.2, discount=0.97)
    parts = {name: getattr(lq, name).clone().requires_grad_() for name in ("dynamics", "noise", "cost", "end")}
    rng = np.random.default_rng(1)
    weights = {name: normal(rng, *getattr(solve(lq, 0.4), name).shape) for name in ("values", "constants", "gains")}
    gradients = []
    for way in (solve, solve_by_scan):
        messages = way(replace(lq, **parts), 0.4)
        total = sum((getattr(messages, name) * weight).sum() for name, weight in weights.items())
        gradients.append(torch.autograd.grad(total, list(parts.values())))
    for name, loop, scan in zip(parts, *gradients, strict=True):
        if name == "dynamics":
            loop, scan = loop[..., :-1, :], scan[..., :-1, :]  # its last row is no parameter
        else:
            loop, scan = loop + loop.mT, scan + scan.mT
        assert relative(scan, loop) < 1e-11, name


@pytest.mark.parametrize("varies", [True, False])
def test_a_hundred_thousand_steps_in_both_types(varies: bool) -> None:
    lq = problem(100_000, sizes=(2, 1), noise=0.1, varies=varies)
    assert lq.noise is not None
    values = scanned_values(lq, 0.2)
    tail = {"horizon": 2_000}
    if varies:
        tail |= {"dynamics": lq.dynamics[-2_000:], "cost": lq.cost[-2_000:]}
    assert relative(values[-2_001:], numpy_values(replace(lq, **tail), 0.2)) < 1e-11
    if not varies:
        assert relative(values[0], values[1000]) < 1e-13
    single = {name: getattr(lq, name).float() for name in ("dynamics", "noise", "cost", "end", "initial_mean")}
    assert relative(scanned_values(replace(lq, **single), 0.2), values) < 1e-5


def test_hostile_problems_are_right_or_refused() -> None:
    rng, refused = np.random.default_rng(0), 0
    for case in range(80):
        horizon, sizes = int(rng.choice([5, 40, 300])), (int(rng.integers(1, 5)), int(rng.integers(1, 4)))
        radius = float(rng.choice([0.5, 1.0, 1.5, 2.0]))
        lq = problem(horizon, sizes=sizes, radius=radius, varies=case % 2 == 0, seed=case)
        scale = torch.ones(sum(sizes) + 1, dtype=torch.float64)
        scale[: sizes[0]], scale[sizes[0] + 1 :] = 10.0 ** rng.integers(-3, 3), 10.0 ** rng.integers(-3, 3)
        cost = lq.cost * scale[:, None] * scale
        if case % 4 == 1:  # nothing running sees the states
            cost[..., : sizes[0] + 1, :] = 0.0
            cost[..., :, : sizes[0] + 1] = 0.0
        lq = replace(lq, cost=cost)
        loop = solve(lq, 0.0)
        try:
            scan = solve_by_scan(lq, 0.0)
        except cai.IncompatibleMethod as error:
            assert "Sequential" in str(error)
            refused += 1
            continue
        size = loop.values.abs().amax((-2, -1), keepdim=True)
        assert ((scan.values - loop.values).abs() <= 1e-8 * size).all(), case
    assert 0 < refused < 30


def graph(control: list[list[list[float]]]) -> cai.TrajectoryGraph:
    """A double integrator with R given for each step."""
    reward = cai.factors.QuadraticReward.per_step(torch.eye(2).expand(len(control), 2, 2), control)
    return cai.TrajectoryGraph(
        cai.factors.Gaussian([1.0, 0.0], torch.eye(2)),
        cai.factors.LinearGaussianDynamics([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], 0.1 * torch.eye(2)),
        reward,
        horizon=len(control),
        terminal_reward=cai.factors.QuadraticReward(torch.eye(2)),
    )


def test_free_actions_are_refused_by_the_scan_alone() -> None:
    free = graph([[[1.0]]] * 3 + [[[0.0]]] + [[[1.0]]] * 4)
    with pytest.raises(cai.IncompatibleMethod, match=r"of time 3 is not \(QuadraticReward: R\); schedule=Sequential"):
        cai.infer(free, cai.SoftValueIteration(schedule=AssociativeScan()))
    loop = cai.infer(free, cai.SoftValueIteration(schedule=Sequential()))
    assert torch.isfinite(loop.log_evidence)


@pytest.mark.parametrize("method", [cai.SoftValueIteration, cai.SumProduct])
def test_methods_give_one_answer_either_way(method: type) -> None:
    plain = graph([[[1.0 + 0.1 * t]] for t in range(30)])
    loop, scan = (cai.infer(plain, method(schedule=schedule)) for schedule in (Sequential(), AssociativeScan()))
    assert relative(scan.log_evidence, loop.log_evidence) < 1e-12
    assert relative(scan.state_marginals.mean, loop.state_marginals.mean) < 1e-12
    assert relative(scan.state_marginals.covariance_matrix, loop.state_marginals.covariance_matrix) < 1e-12


def test_unbearable_risk_is_refused_both_ways() -> None:
    lq = problem(20, noise=0.5)
    for way in (solve, solve_by_scan):
        assert torch.isfinite(way(lq, -0.01).constants).all()
        with pytest.raises(cai.IncompatibleMethod, match="at time|before time"):
            way(lq, -3.0)


def test_it_pays_for_long_horizons_of_few_small_problems() -> None:
    assert pays_to_scan(1, 10_000, 4)
    assert not pays_to_scan(1, 10, 4)
    assert not pays_to_scan(4096, 1000, 8)
