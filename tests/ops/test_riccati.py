"""The Riccati recursion and its adjoints, against plain loops written here and finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.ops.gaussian.marginals import optimal_path
from cai.ops.gaussian.problem import LinearQuadratic, homogeneous_dynamics, symmetric
from cai.ops.gaussian.riccati import discounted_sums, solve
from cai.ops.gaussian.risk import scaled_logdet
from cai.ops.gaussian.stationary import lyapunov, solve_stationary

HORIZON, BATCH, N, M = 5, 2, 3, 2


def parts_of(seed: int, *, num_steps: int, horizon: int = HORIZON) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root, end, noise = draw(num_steps, BATCH, 6, 6), draw(BATCH, 4, 4), draw(num_steps, BATCH, N, 5)
    return {
        "dynamics": homogeneous_dynamics(
            torch.eye(N) + 0.2 * draw(num_steps, BATCH, N, N), draw(num_steps, BATCH, N, M), draw(num_steps, BATCH, N)
        ),
        "cost": root @ root.mT + 0.5 * torch.eye(6),
        "end": end @ end.mT,
        "noise": 0.02 * noise @ noise.mT,
        "start": draw(BATCH, N),
    }


def problem_of(parts: dict[str, Tensor], **changes: Any) -> LinearQuadratic:
    """Makes a problem of which only the parts that are free depend on the tensors given."""
    free = torch.ones(parts["dynamics"].shape[-2:], dtype=torch.float64)
    free[-1] = 0.0
    fixed = torch.zeros_like(free)
    fixed[-1, N] = 1.0
    problem = LinearQuadratic(
        dynamics=parts["dynamics"] * free + fixed,
        noise=symmetric(parts["noise"]),
        cost=symmetric(parts["cost"]),
        reward=symmetric(parts["cost"]),
        end=symmetric(parts["end"]),
        initial_mean=parts["start"],
        initial_covariance=None,
        temperature=0.7,
        discount=1.0,
        horizon=HORIZON,
    )
    return replace(problem, **changes)


def backward_in_numpy(problem: LinearQuadratic, eta: float, b: int) -> dict[str, list[np.ndarray]]:
    """The recursion of one batch element on plain blocks F, B, c, Q, N, R, q, r."""
    end = problem.end[b].numpy()
    p, linear, constant = end[:N, :N], end[:N, N], -0.5 * end[N, N]
    alpha, gamma = float(problem.temperature), problem.discount
    found: dict[str, list[np.ndarray]] = {"p": [p], "linear": [linear], "constant": [constant], "gain": [], "cov": []}
    for t in range(HORIZON - 1, -1, -1):
        parts = (problem.dynamics, problem.cost, problem.noise)
        d, m, w = (part[t if len(part) > 1 else 0, b].numpy() for part in parts)
        f, c, act = d[:N, :N], d[:N, N], d[:N, N + 1 :]
        if eta:
            turn = np.linalg.inv(np.eye(N) + eta * p @ w)
            constant = constant - 0.5 / eta * np.linalg.slogdet(np.eye(N) + eta * p @ w)[1]
            constant = constant + 0.5 * eta * linear @ w @ turn @ linear
            p, linear = turn @ p, turn @ linear
        else:
            constant = constant - 0.5 * np.trace(p @ w)
        quu = m[N + 1 :, N + 1 :] + gamma * act.T @ p @ act
        qux = m[N + 1 :, :N] + gamma * act.T @ p @ f
        qu = m[N + 1 :, N] + gamma * act.T @ (linear + p @ c)
        gain, feed = -np.linalg.solve(quu, qux), -np.linalg.solve(quu, qu)
        logdet = np.linalg.slogdet(quu)[1]
        constant = (
            gamma * (constant - 0.5 * c @ p @ c - linear @ c)
            - 0.5 * m[N, N]
            - 0.5 * qu @ feed
            + 0.5 * alpha * (M * np.log(2 * np.pi * alpha) - logdet)
        )
        linear = m[:N, N] + gamma * f.T @ (linear + p @ c) + qux.T @ feed
        p = m[:N, :N] + gamma * f.T @ p @ f + qux.T @ gain
        found["p"].insert(0, p)
        found["linear"].insert(0, linear)
        found["constant"].insert(0, constant)
        found["gain"].insert(0, np.column_stack([gain, feed]))
        found["cov"].insert(0, alpha * np.linalg.inv(quu))
    return found


@pytest.mark.parametrize("num_steps", [1, HORIZON])
@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("eta", [0.0, 1.3, -0.02])
def test_messages_are_those_of_plain_blocks(eta: float, discount: float, num_steps: int) -> None:
    for seed in range(3):
        problem = problem_of(parts_of(seed, num_steps=num_steps), discount=discount)
        messages = solve(problem, eta)
        for b in range(BATCH):
            plain = backward_in_numpy(problem, eta, b)
            for got, expected in (
                (messages.values[:, b, :N, :N], plain["p"]),
                (messages.values[:, b, :N, N], plain["linear"]),
                (messages.constants[:, b], plain["constant"]),
                (messages.gains[:, b], plain["gain"]),
                (messages.covariances[:, b], plain["cov"]),
            ):
                np.testing.assert_allclose(got.numpy(), np.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, HORIZON])
@pytest.mark.parametrize(("eta", "discount"), [(0.0, 1.0), (0.0, 0.8), (1.3, 1.0), (-0.02, 1.0), (1.3, 0.9)])
def test_adjoint_of_the_messages(eta: float, discount: float, num_steps: int) -> None:
    parts = parts_of(1, num_steps=num_steps)
    names = ("dynamics", "cost", "end", "noise")

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed = {**parts, **dict(zip(names, tensors, strict=True))}
        messages = solve(problem_of(changed, discount=discount), eta)
        return messages.values, messages.constants, messages.gains, messages.covariances

    inputs = [parts[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, inputs, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("num_steps", [1, HORIZON])
@pytest.mark.parametrize("eta", [0.0, 1.3])
def test_adjoint_of_the_mean_trajectory(eta: float, num_steps: int) -> None:
    parts = parts_of(2, num_steps=num_steps)
    names = ("dynamics", "cost", "end", "noise", "start")

    def path(*tensors: Tensor) -> Tensor:
        problem = problem_of({**parts, **dict(zip(names, tensors, strict=True))})
        return optimal_path(problem, solve(problem, eta), eta, problem.initial_mean)

    inputs = [parts[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(path, inputs, atol=1e-7)


def test_the_two_adjoints_agree_to_rounding() -> None:
    """The mean trajectory by its own adjoint, and by that of the gains and autograd through the rollout."""
    parts = parts_of(3, num_steps=HORIZON)
    leaves = [parts[name].clone().requires_grad_() for name in ("dynamics", "cost", "end")]
    problem = problem_of({**parts, **dict(zip(("dynamics", "cost", "end"), leaves, strict=True))})
    weights = torch.randn(HORIZON + 1, BATCH, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    messages = solve(problem, 0.0)
    quick = torch.autograd.grad(
        (weights * optimal_path(problem, messages, 0.0, parts["start"])).sum(), leaves, retain_graph=True
    )
    y, path = torch.cat([parts["start"], torch.ones(BATCH, 1)], -1)[..., None], []
    for t in range(HORIZON):
        z = torch.cat([y, messages.gains[t] @ y], 1)
        path.append(z)
        y = problem.dynamics[t] @ z
    path.append(torch.cat([y, torch.zeros(BATCH, M, 1)], 1))
    slow = torch.autograd.grad((weights * torch.stack(path)[..., 0]).sum(), leaves)
    for a, b in zip(quick, slow, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()


def test_discounted_sums() -> None:
    steps, end = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor(10.0, dtype=torch.float64)
    assert discounted_sums(steps, end, 1.0).tolist() == [16.0, 15.0, 13.0, 10.0]
    assert discounted_sums(steps, end, 0.5).tolist() == pytest.approx([1 + 1 + 0.75 + 1.25, 2 + 1.5 + 2.5, 8.0, 10.0])


def test_lyapunov_solves_its_equation_and_its_gradient_is_right() -> None:
    g = torch.Generator().manual_seed(0)
    phi = 0.2 * torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
    source = torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
    source = source @ source.mT
    answer = lyapunov(phi, source)
    torch.testing.assert_close(phi @ answer @ phi.mT + source, answer, rtol=1e-12, atol=1e-12)
    inputs = (phi.requires_grad_(), source.requires_grad_())
    assert torch.autograd.gradcheck(lambda f, s: lyapunov(f, symmetric(s)), inputs, atol=1e-7)


@pytest.mark.parametrize(("eta", "discount"), [(0.0, 1.0), (0.0, 0.9), (0.8, 1.0), (-0.004, 1.0)])
def test_stationary_messages_are_the_limit_of_long_horizons(eta: float, discount: float) -> None:
    parts = parts_of(4, num_steps=1)
    answer = solve_stationary(problem_of(parts, discount=discount, horizon=None), eta)
    long = solve(problem_of(parts, discount=discount, horizon=400), eta)
    torch.testing.assert_close(answer.messages.values[0], long.values[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(answer.messages.gains[0], long.gains[0], rtol=1e-10, atol=1e-10)
    if answer.messages.gain is None:
        torch.testing.assert_close(answer.messages.constants[0], long.constants[0], rtol=1e-10, atol=1e-10)
    else:
        torch.testing.assert_close(answer.messages.gain, long.constants[0] - long.constants[1], rtol=1e-9, atol=1e-9)


def test_stationary_messages_where_actions_cost_nothing() -> None:
    """R = 0 with R + B'PB positive definite: nothing can be doubled, single steps get there."""
    parts = parts_of(5, num_steps=1)
    cost = parts["cost"].clone()
    cost[..., N + 1 :, :] = 0.0
    cost[..., :, N + 1 :] = 0.0
    parts = {**parts, "cost": cost}
    answer = solve_stationary(problem_of(parts, horizon=None), 0.0)
    long = solve(problem_of(parts, horizon=300), 0.0)
    torch.testing.assert_close(answer.messages.values[0], long.values[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("eta", "discount"), [(0.0, 1.0), (0.0, 0.9), (0.8, 1.0), (-0.004, 1.0)])
def test_gradients_of_stationary_messages(eta: float, discount: float) -> None:
    parts = parts_of(6, num_steps=1)
    names = ("dynamics", "cost", "noise")

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        problem = problem_of({**parts, **dict(zip(names, tensors, strict=True))}, discount=discount, horizon=None)
        messages = solve_stationary(problem, eta).messages
        level = messages.constants if messages.gain is None else messages.gain
        return messages.values, messages.constants, messages.gains, messages.covariances, level

    inputs = [parts[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, inputs, atol=1e-6, fast_mode=True)


def test_a_reward_that_is_not_concave_names_the_time() -> None:
    parts = parts_of(7, num_steps=HORIZON)
    parts["cost"][2, 1, N + 1 :, N + 1 :] -= 1e3 * torch.eye(M)
    with pytest.raises(cai.IncompatibleMethod, match="at time 2: H_uu"):
        solve(problem_of(parts), 0.0)


def test_too_much_aversion_names_the_time() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="at time 5: I \\+ eta P W is not positive definite"):
        solve(problem_of(parts_of(8, num_steps=HORIZON)), -50.0)


@pytest.mark.parametrize("eta", [-0.02, -0.05, -0.3])
def test_too_much_aversion_for_ever_is_refused(eta: float) -> None:
    """Doubling alone would pass through infinity to a fixed point that no finite horizon leads to."""
    with pytest.raises(cai.IncompatibleMethod, match=f"no value of this infinite horizon at eta = {eta}"):
        solve_stationary(problem_of(parts_of(4, num_steps=1), horizon=None), eta)


def test_overflow_names_the_time() -> None:
    parts = parts_of(9, num_steps=1)
    parts["dynamics"] = parts["dynamics"] * 1e200
    parts["dynamics"][..., N + 1 :] = 0.0
    with pytest.raises(cai.NonFinite, match="not finite at time 4"):
        solve(problem_of(parts), 0.0)


def test_no_fixed_point_is_refused() -> None:
    parts = parts_of(10, num_steps=1)
    dynamics = homogeneous_dynamics(
        2.0 * torch.eye(N, dtype=torch.float64), torch.zeros(N, M, dtype=torch.float64), torch.zeros(N)
    )
    unreachable = {**parts, "dynamics": dynamics.expand(1, BATCH, *dynamics.shape)}
    with pytest.raises(cai.IncompatibleMethod, match="unbounded"):
        solve_stationary(problem_of(unreachable, horizon=None), 0.0)
    unseen = {**unreachable, "cost": torch.eye(6, dtype=torch.float64).expand(1, BATCH, 6, 6).clone()}
    unseen["cost"][..., : N + 1, : N + 1] = 0.0
    with pytest.raises(cai.IncompatibleMethod, match="closed loop is not stable"):
        solve_stationary(problem_of(unseen, horizon=None), 0.0)


# -- digits, units and refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [1e-30, 1e-12, 1e-6, 1e-4, 1e-3, -1e-9])
def test_the_logdet_of_a_little_risk_keeps_its_digits(eta: float) -> None:
    """Against 50 digits: logdet(I + eta X) / eta, whose plain form is zero or noise."""
    with mpmath.workdps(50):
        for size in (1, 3):
            g = torch.Generator().manual_seed(size)
            x = torch.randn(4, size, size, generator=g, dtype=torch.float64)
            for got, one in zip(scaled_logdet(x, eta), x, strict=True):
                exact = mpmath.log(mpmath.det(mpmath.eye(size) + eta * mpmath.matrix(one.tolist()))) / eta
                assert abs(float(got) - float(exact)) <= 1e-12 * max(1.0, abs(float(exact)))
    single = scaled_logdet(x.float(), eta)
    torch.testing.assert_close(single.double(), scaled_logdet(x, eta), rtol=1e-4, atol=1e-4)


def test_the_logdet_of_a_little_risk_has_its_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1e-3, 1e-6])[:, None, None]
    eta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scaled_logdet, (x.double().requires_grad_(), eta), atol=1e-6)


@pytest.mark.parametrize("unit", [1e-20, 1e-8, 1.0, 1e12])
def test_stationary_messages_do_not_depend_on_the_unit_of_reward(unit: float) -> None:
    parts = parts_of(4, num_steps=1)
    plain = solve_stationary(problem_of(parts, horizon=None, temperature=0.0), 0.0).messages
    scaled = {**parts, "cost": unit * parts["cost"]}
    messages = solve_stationary(problem_of(scaled, horizon=None, temperature=0.0), 0.0).messages
    torch.testing.assert_close(messages.values / unit, plain.values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(messages.gains, plain.gains, rtol=1e-10, atol=1e-10)


def test_each_batch_element_converges_by_its_own_measure() -> None:
    parts = parts_of(4, num_steps=1)
    cost = parts["cost"] * torch.tensor([1e12, 1e-6], dtype=torch.float64)[:, None, None]
    both = solve_stationary(problem_of({**parts, "cost": cost}, horizon=None, temperature=0.0), 0.0).messages
    plain = solve_stationary(problem_of(parts, horizon=None, temperature=0.0), 0.0).messages
    torch.testing.assert_close(both.gains, plain.gains, rtol=1e-9, atol=1e-9)


def test_a_reward_for_going_ever_further_is_refused() -> None:
    dynamics = homogeneous_dynamics(*(torch.tensor(x, dtype=torch.float64) for x in ([[0.5]], [[1.0]], [0.0])))
    cost = torch.diag(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    start = torch.zeros(1, dtype=torch.float64)
    problem = LinearQuadratic(dynamics[None], None, cost[None], cost[None], nothing, start, None, 1.0, 1.0, None)
    with pytest.raises(cai.IncompatibleMethod, match="infinite horizon|not concave|does not exist"):
        solve_stationary(problem, 0.0)


def test_overflow_under_risk_is_no_question_of_risk() -> None:
    f = cai.factors
    dynamics = f.LinearGaussianDynamics([[1e200]], [[0.0]], [[1.0]])
    graph = cai.TrajectoryGraph(f.Delta([1.0]), dynamics, f.QuadraticReward([[1.0]], [[1.0]]), horizon=9)
    with pytest.raises(cai.NonFinite, match="not finite at time"):
        cai.infer(graph, cai.SumProduct())


@pytest.mark.parametrize(("dtype", "temperature", "digits"), [(torch.float64, 1e12, 1e-9), (torch.float32, 1e8, 1e-4)])
def test_great_temperatures_with_a_prior(dtype: torch.dtype, temperature: float, digits: float) -> None:
    """As alpha grows the policy becomes the prior, and V the return of following it."""
    f = cai.factors
    follow = np.array([[-0.3, 0.1]])
    a, b, spread = np.array([[0.9, 0.2], [0.0, 0.8]]), np.array([[0.0], [1.0]]), 0.2
    graph = cai.TrajectoryGraph(
        f.Delta([1.0, -1.0]),
        f.LinearGaussianDynamics(a, b, dtype=dtype),
        f.QuadraticReward(np.eye(2), [[0.5]], dtype=dtype),
        action_prior=f.LinearGaussianPolicy(follow, covariance=[[spread]], dtype=dtype),
        horizon=6,
        temperature=temperature,
    )
    posterior = cai.infer(graph, cai.SoftValueIteration())
    x, c, expected = np.array([1.0, -1.0]), np.zeros((2, 2)), 0.0
    for _ in range(6):
        second = c + np.outer(x, x)
        expected -= 0.5 * np.trace(second) + 0.25 * (float((follow @ second @ follow.T)[0, 0]) + spread)
        x, c = (a + b @ follow) @ x, (a + b @ follow) @ c @ (a + b @ follow).T + spread * b @ b.T
    assert float(posterior.expected_return) == pytest.approx(expected, rel=digits)
    assert float(posterior.v([1.0, -1.0])) == pytest.approx(expected, rel=digits)
