"""Linear-Gaussian factors: what they compute, the parts that methods read, gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions
import pytest
import torch
from torch import Tensor

import cai
from cai.factors import protocols
from cai.factors.distributions import DegenerateNormal

F = cai.factors
N, M, T = 3, 2, 4
#: Leading axes of the parts: a time axis comes first where there is one.
LAYOUTS = {"one": (None, ()), "batch": (None, (5,)), "batches": (None, (2, 5)), "steps": (T, ()), "both": (T, (2, 5))}
layouts = pytest.mark.parametrize(("steps", "batch"), LAYOUTS.values(), ids=LAYOUTS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.as_tensor(rng(seed).normal(size=shape))


def covariance(seed: int, *shape: int, rank: int | None = None) -> Tensor:
    root = drawn(seed, *shape, shape[-1])[..., : rank if rank is not None else shape[-1]]
    return root @ root.mT


def make(cls: Any, steps: int | None, *parts: Tensor | None, **named: Tensor | None) -> Any:
    return (cls if steps is None else cls.per_step)(*parts, **named)


def lead(steps: int | None, batch: tuple[int, ...]) -> tuple[int, ...]:
    return batch if steps is None else (steps, *batch)


# -- what they compute ------------------------------------------------------------------------------------------------


@layouts
def test_dynamics(steps: int | None, batch: tuple[int, ...]) -> None:
    axes = lead(steps, batch)
    a, b, c = drawn(0, *axes, N, N), drawn(1, *axes, N, M), drawn(2, *axes, N)
    w = covariance(3, *axes, N)
    dynamics = make(F.LinearGaussianDynamics, steps, a, b, covariance=w, offset=c)
    x, u = drawn(4, 7, *batch, N), drawn(5, 7, *batch, M)
    assert (dynamics.state_size, dynamics.action_size, dynamics.num_steps) == (N, M, steps)
    assert dynamics.batch_shape == batch
    assert dynamics.time_varying == (steps is not None)
    for t in range(steps or 1):
        at = (t,) if steps else ()
        expected = np.einsum("...ij,...j->...i", a[at], x) + np.einsum("...ij,...j->...i", b[at], u) + c[at].numpy()
        made = dynamics(x, u, t)
        np.testing.assert_allclose(dynamics.mean(x, u, t), expected, rtol=1e-12)
        np.testing.assert_allclose(made.mean, expected, rtol=1e-12)
        torch.testing.assert_close(made.covariance_matrix, w[at].expand(7, *batch, N, N))
        reference = torch.distributions.MultivariateNormal(torch.as_tensor(expected), w[at])
        torch.testing.assert_close(made.log_prob(x), reference.log_prob(x))


@layouts
def test_parts_of_dynamics(steps: int | None, batch: tuple[int, ...]) -> None:
    axes = lead(steps, batch)
    a, b, c, w = drawn(0, *axes, N, N), drawn(1, *axes, N, M), drawn(2, *axes, N), covariance(3, *axes, N)
    parts = make(F.LinearGaussianDynamics, steps, a, b, w, c).linear_parts()
    for part, given in ((parts.a, a), (parts.b, b), (parts.offset, c), (parts.covariance, w)):
        assert torch.equal(part, given if steps else given[None])
    bare = make(F.LinearGaussianDynamics, steps, a, b)
    assert bare.linear_parts().covariance is bare.noise(N) is bare.covariance is bare.offset is None
    assert not bare.linear_parts().offset.any()
    assert isinstance(bare, protocols.LinearDynamics)
    assert isinstance(bare, protocols.DifferentiableFactor)


def test_parts_of_mixed_batches_and_steps_broadcast() -> None:
    """One A for all steps and a batch of B for each: parts have equally many batch dimensions."""
    a, b, c = drawn(0, 1, N, N), drawn(1, T, 5, N, M), drawn(2, 1, 6, 1, N)
    dynamics = F.LinearGaussianDynamics.per_step(a, b, offset=c)
    parts = dynamics.linear_parts()
    assert dynamics.batch_shape == (6, 5)
    assert parts.a.shape == (1, 1, 1, N, N)
    assert parts.b.shape == (T, 1, 5, N, M)
    assert parts.offset.shape == (1, 6, 1, N)
    x, u = drawn(3, N), drawn(4, M)
    together = (parts.a @ x[:, None] + parts.b @ u[:, None]).squeeze(-1) + parts.offset
    for t in range(T):
        torch.testing.assert_close(dynamics.mean(x, u, t), together[t])


@layouts
def test_a_tensor_of_times_broadcasts(steps: int | None, batch: tuple[int, ...]) -> None:
    axes = lead(steps, batch)
    dynamics = make(F.LinearGaussianDynamics, steps, drawn(0, *axes, N, N), drawn(1, *axes, N, M))
    reward = make(F.QuadraticReward, steps, drawn(2, *axes, N, N), drawn(3, *axes, M, M))
    policy = make(F.LinearGaussianPolicy, steps, drawn(4, *axes, M, N), drawn(5, *axes, M), covariance(6, *axes, M))
    times = torch.tensor([3, 0, 2]).reshape(3, *[1] * len(batch))
    x, u = drawn(7, 3, *batch, N), drawn(8, 3, *batch, M)
    for i, t in enumerate([3, 0, 2]):
        torch.testing.assert_close(dynamics.mean(x, u, times)[i], dynamics.mean(x[i], u[i], t))
        torch.testing.assert_close(reward(x, u, t=times)[i], reward(x[i], u[i], t=t))
        torch.testing.assert_close(policy(x, times).log_prob(u)[i], policy(x[i], t).log_prob(u[i]))


def test_times_of_every_kind() -> None:
    dynamics = F.LinearGaussianDynamics.per_step(drawn(0, T, N, N), drawn(1, 1, N, M), covariance(2, T, N))
    x, u = drawn(3, 2, N), drawn(4, 2, M)
    several = torch.stack([dynamics.mean(x[0], u[0], 3), dynamics.mean(x[1], u[1], 1)])
    for t in ([3, 1], np.array([3, 1]), np.array([3.0, 1.0]), torch.tensor([3, 1]), torch.tensor([3.0, 1.0])):
        assert torch.equal(dynamics.mean(x, u, t), several)
        torch.testing.assert_close(dynamics(x, u, t).mean, several)
    for t in (3, 3.0, np.int64(3), torch.tensor(3), np.array(3)):
        assert torch.equal(dynamics.mean(x, u, t), dynamics.mean(x, u, 3))
        assert torch.equal(dynamics(x, u, t).covariance_matrix, dynamics(x, u, 3).covariance_matrix)


def test_a_time_axis_of_one_serves_all_steps() -> None:
    dynamics = F.LinearGaussianDynamics.per_step(drawn(0, 1, N, N), drawn(1, 1, N, M), covariance(2, 1, N))
    reward = F.QuadraticReward.per_step(covariance(3, 1, N), covariance(4, 1, M))
    policy = F.LinearGaussianPolicy.per_step(drawn(5, 1, M, N), covariance=covariance(6, 1, M))
    observation = F.LinearGaussianObservation.per_step(drawn(5, 1, M, N), covariance(6, 1, M))
    assert dynamics.num_steps is reward.num_steps is policy.num_steps is observation.num_times is None
    assert dynamics.time_varying
    assert dynamics.a.shape == (1, N, N)
    x, u = drawn(7, N), drawn(8, M)
    assert torch.equal(dynamics(x, u, 9).mean, dynamics(x, u).mean)
    assert torch.equal(reward(x, u, t=9), reward(x, u))
    assert torch.equal(policy(x, 9).mean, policy(x).mean)
    end = F.QuadraticReward(covariance(3, 1, N)[0])
    assert torch.equal(F.QuadraticReward.per_step(covariance(3, 1, N)).terminal_form(N), end.terminal_form(N))


def test_times_under_vmap() -> None:
    dynamics = F.LinearGaussianDynamics.per_step(drawn(0, T, N, N), drawn(1, T, N, M))
    x, u = drawn(2, T, N), drawn(3, T, M)
    jacobians = torch.func.vmap(torch.func.jacrev(dynamics.mean))(x, u, torch.arange(T))
    torch.testing.assert_close(jacobians, dynamics.a)


@layouts
@pytest.mark.parametrize("kind", ["full", "quadratic", "state"])
def test_reward_and_its_form(steps: int | None, batch: tuple[int, ...], kind: str) -> None:
    """The form over z = [x; 1; u] says what the call says, and is symmetric where Q and R are not."""
    axes = lead(steps, batch)
    parts = {"Q": drawn(0, *axes, N, N)}
    if kind != "state":
        parts["R"] = drawn(1, *axes, M, M)
    if kind == "full":
        parts |= {"cross": drawn(2, *axes, M, N), "q": drawn(3, *axes, N), "r": drawn(4, *axes, M)}
        parts["constant"] = drawn(5, *axes)
    reward = make(F.QuadraticReward, steps, **parts)
    form = reward.quadratic_parts(N, M).form
    assert form.shape == (steps or 1, *batch, N + 1 + M, N + 1 + M)
    assert torch.equal(form, form.mT)
    assert (reward.num_steps, reward.batch_shape) == (steps, batch)
    assert isinstance(reward, protocols.QuadraticFactor)
    x, u = drawn(6, 7, *batch, N), drawn(7, 7, *batch, M)
    z = torch.cat([x, torch.ones_like(x[..., :1]), u], -1).numpy()
    for t in range(steps or 1):
        expected = -0.5 * np.einsum("...i,...ij,...j->...", z, form[t], z)
        np.testing.assert_allclose(reward(x, u, t=t), expected, rtol=1e-11, atol=1e-11)
        q = parts["Q"][t] if steps else parts["Q"]
        if kind == "state":
            np.testing.assert_allclose(reward(x, t=t), -0.5 * np.einsum("...i,...ij,...j->...", x, q, x), rtol=1e-11)


def test_reward_by_hand() -> None:
    reward = F.QuadraticReward([[2.0]], [[3.0]], cross=[[0.5]], q=[0.25], r=[-1.0], constant=7.0)
    x, u = 1.5, -2.0
    by_hand = -(2 * x**2 + 2 * u * 0.5 * x + 3 * u**2) / 2 - 0.25 * x + 1.0 * u + 7.0
    assert float(reward(torch.tensor([x]), torch.tensor([u]))) == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_terminal_form(batch: tuple[int, ...]) -> None:
    reward = F.QuadraticReward(drawn(0, *batch, N, N), q=drawn(1, *batch, N), constant=drawn(2, *batch))
    x = drawn(3, 7, *batch, N)
    y = torch.cat([x, torch.ones_like(x[..., :1])], -1).numpy()
    form = reward.terminal_form(N)
    assert form.shape == (*batch, N + 1, N + 1)
    np.testing.assert_allclose(reward(x), -0.5 * np.einsum("...i,...ij,...j->...", y, form, y), rtol=1e-11)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_reward_around_a_point(batch: tuple[int, ...]) -> None:
    q, r = drawn(0, N, N), drawn(1, M, M)
    goal, aim, x, u = drawn(2, *batch, N), drawn(3, *batch, M), drawn(4, *batch, N), drawn(5, *batch, M)

    def squared(matrix: Tensor, vector: Tensor) -> np.ndarray:
        return np.einsum("...i,...ij,...j->...", vector, matrix, vector)

    full = F.QuadraticReward.around(goal, q, r, action=aim)
    np.testing.assert_allclose(full(x, u), -0.5 * (squared(q, x - goal) + squared(r, u - aim)), rtol=1e-11, atol=1e-11)
    plain = F.QuadraticReward.around(goal, q, r)
    np.testing.assert_allclose(plain(x, u), -0.5 * (squared(q, x - goal) + squared(r, u)), rtol=1e-11, atol=1e-11)
    end = F.QuadraticReward.around(goal, q)
    np.testing.assert_allclose(end(x), -0.5 * squared(q, x - goal), rtol=1e-11, atol=1e-11)
    assert end.action_size is None


@layouts
def test_policy_and_prior(steps: int | None, batch: tuple[int, ...]) -> None:
    axes = lead(steps, batch)
    gain, offset, spread = drawn(0, *axes, M, N), drawn(1, *axes, M), covariance(2, *axes, M)
    policy = make(F.LinearGaussianPolicy, steps, gain, offset, spread)
    parts = policy.prior_parts(N, M)
    x, u = drawn(3, 7, *batch, N), drawn(4, 7, *batch, M)
    for t in range(steps or 1):
        mean = (parts.gain[t] @ x[..., None]).squeeze(-1) + parts.offset[t]
        expected = torch.distributions.MultivariateNormal(mean, parts.covariance[t]).log_prob(u)
        torch.testing.assert_close(policy(x, t).log_prob(u), expected)
    certain = make(F.LinearGaussianPolicy, steps, gain, offset)
    assert torch.equal(certain(x).sample(), certain.mean(x))
    assert isinstance(policy, protocols.GaussianPrior)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_gaussian(batch: tuple[int, ...]) -> None:
    mean, spread = drawn(0, *batch, M), covariance(1, M)
    gaussian = F.Gaussian(mean, spread)
    reference = torch.distributions.MultivariateNormal(mean, spread)
    u = drawn(2, 7, *batch, M)
    torch.testing.assert_close(gaussian().log_prob(u), reference.log_prob(u))
    moments = gaussian.initial_moments(M)
    assert torch.equal(moments.mean, mean)
    assert torch.equal(moments.covariance, spread)
    parts = gaussian.prior_parts(N, M)
    assert parts.gain.shape[-2:] == (M, N)
    assert not parts.gain.any()
    assert torch.equal(parts.offset, mean[None])
    assert gaussian(torch.zeros(7, *batch, N), t=3).batch_shape == (7, *batch)
    assert isinstance(gaussian, protocols.GaussianInitial)
    assert isinstance(gaussian, protocols.GaussianPrior)


@pytest.mark.parametrize(("of_mean", "of_spread"), [((), (3,)), ((3,), ()), ((2, 1), (3,)), ((1,), (2, 3))])
def test_the_first_state_has_the_batch_of_mean_and_covariance(of_mean: Any, of_spread: Any) -> None:
    gaussian = F.Gaussian(drawn(0, *of_mean, N), covariance(1, *of_spread, N))
    batch = torch.broadcast_shapes(of_mean, of_spread)
    moments = gaussian.initial_moments(N)
    assert gaussian.batch_shape == batch
    assert moments.mean.shape == (*batch, N)
    assert torch.equal(moments.mean, gaussian().mean.expand(*batch, N))
    assert torch.equal(moments.covariance.expand(*batch, N, N), gaussian.covariance.expand(*batch, N, N))


def test_delta_as_a_vector() -> None:
    for value in ([1.0, 2.0, 3.0], np.array([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)):
        moments = F.Delta(value).initial_moments(3)
        assert moments.mean.dtype == torch.float64
        assert moments.mean.tolist() == [1.0, 2.0, 3.0]
        assert moments.covariance is None
    assert F.Delta(torch.zeros(3)).initial_moments(3).mean.dtype == torch.float32
    batch = F.Delta(drawn(0, 5, 3))
    assert batch.batch_shape == (5,)
    assert (batch().batch_shape, batch().event_shape) == ((5,), (3,))
    for value, size in ((3, 3), ([1.0, 2.0], 3), (0.0, 1)):
        with pytest.raises(ValueError, match=f"initial: Delta of shape .* is not a state of {size} coordinates"):
            F.Delta(value).initial_moments(size)


@pytest.mark.parametrize("make_one", ["dynamics", "policy", "gaussian", "reward"])
def test_a_batch_is_a_loop(make_one: str) -> None:
    a, w, x = drawn(0, 5, N, N), covariance(1, 5, N), drawn(2, 5, N)
    build: dict[str, Callable[[Any], Tensor]] = {
        "dynamics": lambda i: F.LinearGaussianDynamics(a[i], a[i], w[i])(x[i], x[i]).log_prob(x[i]),
        "policy": lambda i: F.LinearGaussianPolicy(a[i], covariance=w[i])(x[i]).log_prob(x[i]),
        "gaussian": lambda i: F.Gaussian(x[i], w[i])().log_prob(x[i] + 1),
        "reward": lambda i: F.QuadraticReward(a[i], w[i], cross=a[i])(x[i], x[i]),
    }
    one = build[make_one]
    torch.testing.assert_close(one(slice(None)), torch.stack([one(i) for i in range(5)]))


# -- the kind of distribution -----------------------------------------------------------------------------------------


def test_the_rank_of_the_noise_decides_the_distribution() -> None:
    x, u = drawn(0, 7, N), drawn(1, 7, M)

    def kind(noise: Any) -> torch.distributions.Distribution:
        return F.LinearGaussianDynamics(np.eye(N), np.ones((N, M)), covariance=noise)(x, u)

    for certain in (kind(None), kind(np.zeros((N, N)))):
        assert isinstance(certain, pyro.distributions.Delta)
        assert torch.equal(certain.sample(), certain.mean)
        assert certain.log_prob(certain.mean).tolist() == [0.0] * 7
    assert isinstance(kind(covariance(2, N)), torch.distributions.MultivariateNormal)
    singular = kind(covariance(2, N, rank=2))
    assert isinstance(singular, DegenerateNormal)
    assert singular.log_prob(singular.sample()).isfinite().all()
    for small in (1e-18, 1e-9):  # other units are no reason to lose a coordinate
        assert isinstance(kind(np.diag([1.0, small, 1.0])), torch.distributions.MultivariateNormal)


def test_the_kind_is_that_of_each_step() -> None:
    noise = torch.stack([torch.zeros(N, N).double(), covariance(0, N, rank=1), covariance(1, N)])
    dynamics = F.LinearGaussianDynamics.per_step(drawn(2, 1, N, N), drawn(3, 1, N, M), noise)
    kinds = [pyro.distributions.Delta, DegenerateNormal, torch.distributions.MultivariateNormal]
    for t, expected in enumerate(kinds):
        assert isinstance(dynamics(drawn(4, N), drawn(5, M), t), expected)
    assert isinstance(dynamics(drawn(4, 3, N), drawn(5, 3, M), torch.arange(3)), DegenerateNormal)


def test_a_mean_that_is_not_finite_is_left_to_whoever_draws() -> None:
    made = F.LinearGaussianDynamics(np.eye(N), np.ones((N, M)), np.eye(N))(torch.full((N,), torch.nan), torch.zeros(M))
    assert made.sample().isnan().all()
    with pytest.raises(ValueError, match="event_shape"):  # values are looked at all the same
        made.log_prob(torch.zeros(1))


# -- types ------------------------------------------------------------------------------------------------------------


def test_numbers_of_every_kind() -> None:
    lists = F.LinearGaussianDynamics([[1, 1], [0, 1]], [[0], [1]], covariance=[[1, 0], [0, 0]])
    assert lists.a.dtype == lists.covariance.dtype == torch.float64
    assert lists.mean([1, 2], [3]).tolist() == [3.0, 5.0]
    assert lists.mean(np.float32([1, 2]), torch.tensor([3.0])).dtype == torch.float64
    small = F.LinearGaussianDynamics(lists.a, lists.b, lists.covariance, dtype=torch.float32)
    assert small(np.zeros(2), np.zeros(1)).sample().dtype == torch.float32
    assert small.linear_parts().offset.dtype == torch.float32
    assert F.QuadraticReward([[1]], dtype=torch.float32)(torch.ones(1).double()).dtype == torch.float32
    assert F.Gaussian([0], [[1]], dtype=torch.float32)().sample().dtype == torch.float32
    assert F.LinearGaussianPolicy([[1]], dtype=torch.float32)(np.ones(1)).sample().dtype == torch.float32


def test_what_a_user_changes_later_does_not_matter() -> None:
    a, w = np.eye(2), torch.eye(2).double()
    dynamics = F.LinearGaussianDynamics(a, a, w)
    a[:], w[:] = 0.0, 0.0
    assert dynamics.mean([1.0, 2.0], [0.0, 0.0]).tolist() == [1.0, 2.0]
    assert dynamics.covariance.tolist() == [[1.0, 0.0], [0.0, 1.0]]


# -- gradients --------------------------------------------------------------------------------------------------------


def learned(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def spread_of(root: Tensor) -> Tensor:
    """A positive definite covariance of any square matrix, so that differences keep it one."""
    return root @ root.mT + torch.eye(root.shape[-1])


@pytest.mark.parametrize("steps", [None, 2])
def test_gradients_of_dynamics(steps: int | None) -> None:
    axes = lead(steps, ())
    tensors = learned(drawn(0, *axes, N, N), drawn(1, *axes, N, M), drawn(2, *axes, N, N), drawn(3, *axes, N))
    x, u = drawn(4, N), drawn(5, M)

    def read(a: Tensor, b: Tensor, root: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        dynamics = make(F.LinearGaussianDynamics, steps, a, b, spread_of(root), c)
        parts = dynamics.linear_parts()
        t = (steps or 1) - 1
        return dynamics(x, u, t).log_prob(x), dynamics.mean(x, u, t), parts.a, parts.b, parts.offset, parts.covariance

    assert torch.autograd.gradcheck(read, tensors)


def test_gradients_of_rewards() -> None:
    shapes = {"Q": (N, N), "R": (M, M), "cross": (M, N), "q": (N,), "r": (M,), "constant": ()}
    tensors = learned(*(drawn(i, *shape) for i, shape in enumerate(shapes.values())))
    x, u = drawn(7, N), drawn(8, M)

    def read(*parts: Tensor) -> tuple[Tensor, ...]:
        reward = F.QuadraticReward(*parts)
        return reward(x, u), reward.quadratic_parts(N, M).form, F.QuadraticReward(parts[0], q=parts[3]).terminal_form(N)

    def around(goal: Tensor, aim: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return F.QuadraticReward.around(goal, q, r, action=aim).quadratic_parts(N, M).form

    assert torch.autograd.gradcheck(read, tensors)
    assert torch.autograd.gradcheck(around, learned(x, u, drawn(0, N, N), drawn(1, M, M)))


def test_gradients_of_gaussians_and_policies() -> None:
    x, u = drawn(0, N), drawn(1, M)

    def read(mean: Tensor, root: Tensor, gain: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
        gaussian = F.Gaussian(mean, spread_of(root))
        policy = F.LinearGaussianPolicy(gain, offset, spread_of(root))
        moments, parts = gaussian.initial_moments(M), policy.prior_parts(N, M)
        flat = gaussian.prior_parts(N, M)
        return (
            gaussian().log_prob(u),
            policy(x).log_prob(u),
            moments.mean,
            moments.covariance,
            parts.gain,
            parts.offset,
            parts.covariance,
            flat.offset,
            flat.covariance,
        )

    assert torch.autograd.gradcheck(read, learned(drawn(2, M), drawn(3, M, M), drawn(4, M, N), drawn(5, M)))


def test_a_leaf_is_read_each_time() -> None:
    """An optimiser changes a leaf in place: the factor follows, its covariance included, and backward runs again."""
    (a, w) = learned(torch.eye(2).double(), torch.eye(2).double())
    dynamics = F.LinearGaussianDynamics(a, torch.eye(2), w)
    for _ in range(2):
        dynamics(torch.ones(2), torch.ones(2)).log_prob(torch.zeros(2)).backward()
    assert a.grad.any()
    assert torch.equal(w.grad, w.grad.mT)
    with torch.no_grad():
        a.mul_(2.0)
        w.mul_(4.0)
    assert dynamics.mean([1.0, 1.0], [0.0, 0.0]).tolist() == [2.0, 2.0]
    assert dynamics([0.0, 0.0], [0.0, 0.0]).covariance_matrix.tolist() == [[4.0, 0.0], [0.0, 4.0]]


# -- what is refused --------------------------------------------------------------------------------------------------

EYE, D = np.eye(3), F.LinearGaussianDynamics
SKEW, NEGATIVE = np.array([[1.0, 0.5], [0.0, 1.0]]), np.diag([1.0, -0.25])
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "A vector": (lambda: D(np.ones(3), EYE), r"LinearGaussianDynamics A: expected \[\*batch, n, n\], got \[3\]"),
    "A oblong": (lambda: D(np.ones((3, 2)), EYE), r"A must be square, got \[3, 2\]"),
    "B rows": (lambda: D(EYE, np.ones((4, 2))), r"LinearGaussianDynamics B is \[4, 2\], A \[3, 3\] needs \[3, m\]"),
    "no actions": (lambda: D(EYE, np.ones((3, 0))), r"B: expected \[\*batch, n, m\], got \[3, 0\]"),
    "offset": (lambda: D(EYE, EYE, offset=np.ones(2)), r"offset has 2 coordinates, A \[3, 3\] needs 3"),
    "covariance size": (
        lambda: D(EYE, EYE, np.eye(2)),
        r"LinearGaussianDynamics covariance is \[2, 2\], A \[3, 3\] needs \[3, 3\]",
    ),
    "nan": (lambda: D(EYE * np.nan, EYE), r"LinearGaussianDynamics A: \(row 0, column 0\) is nan"),
    "nan in a batch": (
        lambda: D(np.stack([EYE, np.full((3, 3), np.inf)]), EYE),
        r"A: \(batch 1, row 0, column 0\) is inf",
    ),
    "nan in a step": (
        lambda: D.per_step(EYE[None], EYE[None], offset=[[0.0] * 3, [0.0, np.nan, 0.0]]),
        r"offset: \(time 1, coordinate 1\) is nan",
    ),
    "text": (lambda: D([["a"]], EYE), "A: cannot be read as an array of numbers"),
    "complex": (lambda: D(EYE * 1j, EYE), "complex numbers"),
    "dtype": (lambda: D(EYE, EYE, dtype=torch.int64), "dtype must be a floating type"),
    "skew": (lambda: F.Gaussian([0, 0], SKEW), "Gaussian covariance is not symmetric: .* differ by 0.5"),
    "negative": (
        lambda: F.Gaussian([0, 0], NEGATIVE),
        "Gaussian covariance is not positive semi-definite: least eigenvalue -0.25",
    ),
    "negative in a batch": (
        lambda: F.Gaussian([0, 0], np.stack([np.eye(2)] * 4 + [NEGATIVE])),
        r"covariance at \(batch 4\) is not positive semi-definite: least eigenvalue -0.25",
    ),
    "negative at a step": (
        lambda: D.per_step(EYE[None, :2, :2], EYE[None, :2], np.stack([np.eye(2), NEGATIVE])),
        r"covariance at \(time 1\) is not positive semi-definite",
    ),
    "skew at a step of a batch": (
        lambda: F.LinearGaussianPolicy.per_step(
            np.ones((2, 1, 2, 2)), covariance=np.stack([np.stack([np.eye(2), SKEW])] * 2)
        ),
        r"covariance at \(time 0, batch 1\) is not symmetric",
    ),
    "batches": (
        lambda: D(np.stack([EYE] * 5), np.stack([EYE] * 4)),
        r"LinearGaussianDynamics: the batch \[4\] of B does not broadcast with \[5\] of A",
    ),
    "steps": (
        lambda: D.per_step(np.stack([EYE] * 7), np.stack([EYE] * 5)),
        "LinearGaussianDynamics: B is for 5 steps, A for 7",
    ),
    "no time axis": (lambda: D.per_step(EYE, EYE), r"A: expected \[T, \*batch, n, n\], got \[3, 3\]"),
    "state": (lambda: D(EYE, EYE).mean(np.ones(2), np.ones(3)), r"state: expected \[\.\.\., 3\], got \[2\]"),
    "action": (lambda: D(EYE, EYE[:, :2])(np.ones(3), np.ones(3)), r"action: expected \[\.\.\., 2\], got \[3\]"),
    "scalar state": (lambda: D([[1]], [[1]])(0.0, [0.0]), r"state: expected \[\.\.\., 1\], got \[\]"),
    "t": (lambda: D.per_step(np.stack([EYE] * 2), EYE[None])(np.ones(3), np.ones(3), t=2), r"t 2 is outside 0\.\.1"),
    "t tensor": (
        lambda: D.per_step(np.stack([EYE] * 2), EYE[None]).mean(np.ones(3), np.ones(3), torch.tensor([-1, 0])),
        r"t is outside 0\.\.1",
    ),
    "t that does not broadcast": (
        lambda: D.per_step(np.ones((2, 3, 3, 3)), EYE[None]).mean(np.ones((2, 3)), np.ones(3), torch.tensor([0, 1])),
        r"LinearGaussianDynamics: t, \[2\], does not broadcast with the batch \[3\]",
    ),
    "t array": (
        lambda: D.per_step(np.stack([EYE] * 2), EYE[None]).mean(np.ones(3), np.ones(3), np.array([0, 2])),
        r"t is outside 0\.\.1",
    ),
    "t fraction": (
        lambda: D.per_step(np.stack([EYE] * 2), EYE[None]).mean(np.ones(3), np.ones(3), 0.5),
        "LinearGaussianDynamics: t must be whole numbers, got 0.5",
    ),
    "t fractions": (
        lambda: F.QuadraticReward.per_step(np.stack([EYE] * 2))(np.ones(3), t=torch.tensor([0.0, 0.5])),
        "QuadraticReward: t must be whole numbers, got 0.5",
    ),
    "t None": (
        lambda: D.per_step(EYE[None], EYE[None], np.stack([EYE] * 2))(np.ones(3), np.ones(3), None),
        "LinearGaussianDynamics: t must be whole numbers, got None",
    ),
    "t ragged": (
        lambda: D.per_step(np.stack([EYE] * 2), EYE[None]).mean(np.ones(3), np.ones(3), [[0], [0, 1]]),
        "LinearGaussianDynamics: t must be whole numbers",
    ),
    "asked for another size": (lambda: D(EYE, EYE).noise(2), "has 3 state coordinates, asked for 2"),
    "mean": (lambda: F.Gaussian(0.0, [[1.0]]), r"Gaussian mean: expected \[\*batch, n\], got \[\]"),
    "gaussian size": (lambda: F.Gaussian([0, 0], [[1]]), r"covariance is \[1, 1\], mean \[2\] needs \[2, 2\]"),
    "initial size": (
        lambda: F.Gaussian([0, 0], np.eye(2)).initial_moments(3),
        "initial: Gaussian has 2 coordinates, the dynamics 3",
    ),
    "prior size": (
        lambda: F.Gaussian([0, 0], np.eye(2)).prior_parts(3, 1),
        "action_prior: Gaussian has 2 coordinates, the dynamics 1",
    ),
    "prior without density": (
        lambda: F.Gaussian([0, 0], np.diag([1.0, 0.0])).prior_parts(3, 2),
        "action_prior: Gaussian has a singular covariance; a prior on actions needs a positive definite one",
    ),
    "policy without density": (lambda: F.LinearGaussianPolicy(EYE).prior_parts(3, 3), "has a zero covariance"),
    "policy size": (
        lambda: F.LinearGaussianPolicy(EYE).prior_parts(2, 3),
        "LinearGaussianPolicy is for 3 state and 3 action coordinates, the dynamics has 2 and 3",
    ),
    "policy offset": (lambda: F.LinearGaussianPolicy(EYE[:2], [0.0]), r"offset has 1 coordinates, gain \[2, 3\] needs"),
    "policy state": (lambda: F.LinearGaussianPolicy(EYE[:2])(np.ones(2)), r"state: expected \[\.\.\., 3\], got \[2\]"),
    "Q oblong": (lambda: F.QuadraticReward(np.ones((2, 3))), r"QuadraticReward Q is \[2, 3\], and must be square"),
    "R oblong": (lambda: F.QuadraticReward(EYE, np.ones((2, 3))), r"R is \[2, 3\], and must be square"),
    "cross": (
        lambda: F.QuadraticReward(EYE, EYE[:2, :2], cross=np.ones((3, 2))),
        r"cross is \[3, 2\], R \[2, 2\] and Q \[3, 3\] need \[2, 3\]",
    ),
    "q": (lambda: F.QuadraticReward(EYE, q=[1.0]), r"q is \[1\], Q \[3, 3\] needs \[3\]"),
    "r": (lambda: F.QuadraticReward(EYE, EYE, r=[1.0]), r"r is \[1\], R \[3, 3\] needs \[3\]"),
    "r without R": (lambda: F.QuadraticReward(EYE, r=[1.0] * 3), "r is given without R"),
    "cross without R": (lambda: F.QuadraticReward(EYE, cross=EYE), "cross is given without R"),
    "aim without R": (lambda: F.QuadraticReward.around([0] * 3, EYE, action=[1.0]), "an action is given without R"),
    "goal": (lambda: F.QuadraticReward.around([0, 0], EYE), r"around: state: expected \[\.\.\., 3\], got \[2\]"),
    "no action": (lambda: F.QuadraticReward(EYE, EYE)(np.ones(3)), "needs action"),
    "reward size": (
        lambda: F.QuadraticReward(EYE, EYE).quadratic_parts(3, 2),
        "reward: QuadraticReward is for 3 state and 3 action coordinates, the dynamics has 3 and 2",
    ),
    "terminal of actions": (lambda: F.QuadraticReward(EYE, EYE).terminal_form(3), "terminal_reward: expected a reward"),
    "terminal size": (lambda: F.QuadraticReward(EYE).terminal_form(2), "is for 3 state coordinates, not 2"),
    "terminal of time": (lambda: F.QuadraticReward.per_step(np.stack([EYE] * 2)).terminal_form(3), "of one time"),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_rounding_is_not_refused(scale: float) -> None:
    """What float32 loses: a product of factors, not quite symmetric and with eigenvalues below zero."""
    for seed in range(20):
        root = drawn(seed, N, 1).float()
        spread = (root @ root.mT + 1e-8 * drawn(seed + 50, N, N).float()).double() * scale
        assert F.Gaussian(np.zeros(N), spread)().sample().isfinite().all()
