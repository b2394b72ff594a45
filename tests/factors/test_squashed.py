"""Distributions of actions: densities against quadrature, torch's own and mpmath; gradients; edges; divergences."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import AffineTransform, TanhTransform

from cai.factors import DiagonalNormal, MultiCategorical, PointMass, SquashedNormal, greedy_action
from cai.ops.squashing import log_tanh_slope

BOXES = [(-1.0, 1.0), (-2.0, 2.0), (0.0, 1.0), (3.0, 3.5)]
SIGMAS = 5.0


def squashed(mean: float, std: float, low: float, high: float, dtype: torch.dtype = torch.float64) -> SquashedNormal:
    parts = [torch.tensor([x], dtype=dtype) for x in (mean, math.log(std), low, high)]
    return SquashedNormal(*parts)


def random_squashed(seed: int, batch: tuple[int, ...] = (5,), size: int = 3) -> SquashedNormal:
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = (torch.randn(*batch, size, dtype=torch.float64, generator=generator) for _ in range(2))
    low = torch.randn(size, dtype=torch.float64, generator=generator)
    width = torch.rand(size, dtype=torch.float64, generator=generator) + 0.1
    return SquashedNormal(mean, 0.5 * log_std, low, low + width)


# -- the squashed normal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", BOXES)
@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.5, 1.0), (-1.5, 0.7), (0.0, 3.0)])
def test_density_integrates_to_one(mean: float, std: float, low: float, high: float) -> None:
    policy = squashed(mean, std, low, high)
    u = torch.linspace(mean - 9 * std, mean + 9 * std, 20_001, dtype=torch.float64)
    u = u[u.abs() < 12.0]  # beyond, a float64 next to the edge cannot tell where it is
    a = 0.5 * (low + high) + 0.5 * (high - low) * torch.tanh(u)
    mass = torch.trapezoid(policy.log_prob(a[:, None]).exp(), a)
    lost = 1.0 - (Normal(mean, std).cdf(u[-1]) - Normal(mean, std).cdf(u[0]))
    assert mass + lost == pytest.approx(1.0, abs=1e-5)  # what the trapezoidal rule leaves is 3e-6


@pytest.mark.parametrize("seed", range(5))
def test_density_is_that_of_transformed_normals(seed: int) -> None:
    policy = random_squashed(seed)
    low, high = policy.bounds.low, policy.bounds.high
    transforms = [TanhTransform(), AffineTransform((low + high) / 2, (high - low) / 2)]
    normal = Normal(policy.inner_mean, policy.log_std.exp())
    peer = Independent(TransformedDistribution(normal, transforms), 1)
    a = low + (high - low) * (0.02 + 0.96 * torch.rand(7, 5, 3, dtype=torch.float64))
    assert torch.allclose(policy.log_prob(a), peer.log_prob(a), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_density_of_a_draw_is_that_of_the_action(seed: int) -> None:
    torch.manual_seed(seed)
    policy = random_squashed(seed, (200,))
    action, log_prob = policy.rsample_with_log_prob()
    assert action.shape == (200, 3) and log_prob.shape == (200,)
    assert torch.allclose(log_prob, policy.log_prob(action), rtol=1e-7, atol=1e-7)


def test_slope_far_out_is_the_true_one_and_has_a_gradient() -> None:
    with mpmath.workdps(60):
        truth = float(mpmath.log(1 - mpmath.tanh(10) ** 2))
    assert truth == pytest.approx(-18.6, abs=0.02)
    for dtype in (torch.float32, torch.float64):
        mean = torch.tensor([10.0], dtype=dtype, requires_grad=True)
        log_std = torch.tensor([-30.0], dtype=dtype)  # what is drawn is u = 10
        policy = SquashedNormal(mean, log_std, torch.tensor([-1.0], dtype=dtype), torch.tensor([1.0], dtype=dtype))
        torch.manual_seed(0)
        _, log_prob = policy.rsample_with_log_prob()
        torch.manual_seed(0)
        noise = torch.randn(1, dtype=dtype)
        inner = -0.5 * float(noise) ** 2 + 30.0 - 0.5 * math.log(2 * math.pi)
        assert inner - log_prob.item() == pytest.approx(truth, rel=1e-6)
        (slope,) = torch.autograd.grad(log_prob, mean)
        assert slope.item() == pytest.approx(2.0 * math.tanh(10.0), rel=1e-6)


def test_draws_use_the_slope_of_ops() -> None:
    u = torch.linspace(-60.0, 60.0, 241, dtype=torch.float64)
    policy = SquashedNormal(
        u[:, None], torch.full((241, 1), -40.0, dtype=torch.float64), *torch.tensor([[-1.0], [1.0]])
    )
    torch.manual_seed(1)
    _, log_prob = policy.rsample_with_log_prob()
    torch.manual_seed(1)
    noise = torch.randn(241, 1, dtype=torch.float64)[:, 0]
    expected = -0.5 * noise**2 + 40.0 - 0.5 * math.log(2 * math.pi) - log_tanh_slope(u)
    assert torch.allclose(log_prob, expected, rtol=1e-12, atol=1e-10)


def test_gradients_by_finite_differences() -> None:
    def drawn(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return SquashedNormal(mean, log_std, low, high).rsample_with_log_prob()

    def given(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        return SquashedNormal(mean, log_std, low, high).log_prob(action)

    low, high = torch.tensor([[-1.0, 0.5], [2.0, 0.75]], dtype=torch.float64)
    policy = random_squashed(0, (4,), 2)
    mean, log_std = (x.clone().requires_grad_() for x in (policy.inner_mean, policy.log_std))
    action = (low + (high - low) * torch.rand(4, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(drawn, (mean, log_std))
    assert torch.autograd.gradcheck(given, (mean, log_std, action))
    assert torch.autograd.gradgradcheck(given, (mean, log_std, action))


@pytest.mark.parametrize("low, high", [*BOXES, (-300.0, -299.0), (1e-3, 2e4)])
def test_edges_in_float32(low: float, high: float) -> None:
    policy = squashed(0.3, 2.0, low, high, torch.float32)
    edges = torch.tensor([[low], [high]], dtype=torch.float32)
    at_edge = policy.log_prob(edges)
    assert torch.isfinite(at_edge).all()
    size = torch.tensor(max(abs(low), abs(high)), dtype=torch.float32)
    outside = edges + torch.tensor([[-1.0], [1.0]]) * torch.finfo(torch.float32).eps * size
    assert torch.allclose(policy.log_prob(outside), at_edge, atol=1e-3)  # off by rounding is on the edge
    assert torch.isneginf(policy.log_prob(edges + torch.tensor([[-1.0], [1.0]]) * 1e-3 * size)).all()
    if low == -high:
        exact = squashed(0.3, 2.0, low, high)
        inside = torch.tensor([[high * (1.0 - 2.0**-25)]], dtype=torch.float64)  # half a spacing of float32
        assert at_edge[1].item() == pytest.approx(exact.log_prob(inside).item(), rel=1e-5)


def test_density_near_an_edge_keeps_its_digits() -> None:
    single, double = squashed(4.0, 1.0, 0.0, 1.0, torch.float32), squashed(4.0, 1.0, 0.0, 1.0)
    a = torch.tensor([[1e-6], [1e-4], [0.5], [1.0 - 2.0**-20], [1.0 - 2.0**-23]], dtype=torch.float32)
    assert torch.allclose(single.log_prob(a).double(), double.log_prob(a.double()), rtol=1e-5)


def test_far_draws_in_float32_are_finite_and_inside() -> None:
    mean = torch.tensor([[-50.0], [-9.2], [0.0], [9.2], [50.0]])
    policy = SquashedNormal(mean, torch.full((5, 1), 2.0), torch.tensor([-2.0]), torch.tensor([2.0]))
    action, log_prob = policy.rsample_with_log_prob()
    assert torch.isfinite(log_prob).all() and torch.isfinite(policy.log_prob(action)).all()
    assert (action.abs() <= 2.0).all()


def test_draws_have_the_moments_of_the_density() -> None:
    torch.manual_seed(0)
    policy, num = squashed(0.4, 0.8, -1.0, 3.0), 40_000
    draws = policy.sample((num,))[:, 0]
    u = torch.linspace(0.4 - 8.0, 0.4 + 8.0, 4001, dtype=torch.float64)
    weights, values = Normal(0.4, 0.8).log_prob(u).exp(), 1.0 + 2.0 * torch.tanh(u)
    mean = torch.trapezoid(weights * values, u)
    variance = torch.trapezoid(weights * (values - mean).square(), u)
    assert (draws.mean() - mean).abs() < SIGMAS * (variance / num).sqrt()
    assert (draws < policy.median).double().mean() == pytest.approx(0.5, abs=SIGMAS * 0.5 / math.sqrt(num))


@pytest.mark.parametrize("low, high", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_no_box(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="must be bounded, low below high"):
        squashed(0.0, 1.0, low, high)


def test_entropy_is_left_to_estimates() -> None:
    with pytest.raises(NotImplementedError):
        squashed(0.0, 1.0, -1.0, 1.0).entropy()


def test_larger_batches_and_the_support() -> None:
    policy = random_squashed(2, (4,))
    wide = policy.expand((6, 4))
    assert wide.batch_shape == (6, 4) and wide.event_shape == (3,)
    action = wide.sample((2,))
    assert action.shape == (2, 6, 4, 3) and policy.support.check(action).all()
    assert policy.support.event_dim == 1 and torch.equal(wide.log_prob(action), policy.log_prob(action))
    assert torch.allclose(greedy_action(policy), policy.median)
    single = SquashedNormal(torch.zeros(3), torch.zeros(3), -torch.ones(3), torch.ones(3))
    assert single.batch_shape == () and single.rsample_with_log_prob()[1].shape == ()


@pytest.mark.parametrize("seed", range(3))
def test_divergence_in_one_box_is_that_of_the_normals(seed: int) -> None:
    p, other = random_squashed(seed), random_squashed(seed + 100)
    q = SquashedNormal(other.inner_mean, other.log_std, p.bounds.low.clone(), p.bounds.high.clone())
    normals = [Independent(Normal(x.inner_mean, x.log_std.exp()), 1) for x in (p, q)]
    exact = kl_divergence(p, q)
    assert torch.allclose(exact, kl_divergence(*normals), rtol=1e-10)
    torch.manual_seed(seed)
    draws = p.sample((20_000,))
    ratios = p.log_prob(draws) - q.log_prob(draws)
    assert ((ratios.mean(0) - exact).abs() < SIGMAS * ratios.std(0) / math.sqrt(len(ratios))).all()


def test_divergence_between_boxes_is_not_closed() -> None:
    with pytest.raises(NotImplementedError, match="different boxes"):
        kl_divergence(squashed(0.0, 1.0, -1.0, 1.0), squashed(0.0, 1.0, -2.0, 1.0))


# -- normal and certain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["own std", "shared std"])
def test_diagonal_normal_is_torch_s(shared: bool) -> None:
    torch.manual_seed(0)
    mean = torch.randn(5, 3, dtype=torch.float64)
    log_std = torch.randn(*(() if shared else (5,)), 3, dtype=torch.float64)
    ours, theirs = DiagonalNormal(mean, log_std), Independent(Normal(mean, log_std.exp().expand(5, 3)), 1)
    other = DiagonalNormal(mean + 1.0, log_std * 0.5)
    peer = Independent(Normal(other.mean, other.stddev), 1)
    value = torch.randn(7, 5, 3, dtype=torch.float64)
    assert torch.allclose(ours.log_prob(value), theirs.log_prob(value))
    assert torch.allclose(ours.entropy(), theirs.entropy())
    assert torch.allclose(ours.variance, theirs.variance) and torch.equal(ours.mode, mean)
    assert torch.allclose(kl_divergence(ours, other), kl_divergence(theirs, peer))
    assert torch.equal(ours.expand((2, 5)).log_prob(value[:2]), ours.log_prob(value[:2]))
    action, log_prob = ours.rsample_with_log_prob()
    assert torch.allclose(log_prob, theirs.log_prob(action))
    draws = ours.sample((20_000,))
    assert ((draws.mean(0) - mean).abs() < SIGMAS * theirs.base_dist.stddev / math.sqrt(20_000)).all()


def test_divergence_of_close_normals_keeps_its_digits() -> None:
    mean, log_std = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    close = kl_divergence(DiagonalNormal(mean, log_std), DiagonalNormal(mean, log_std + 1e-7))
    assert close.item() == pytest.approx(1e-14, rel=1e-2)  # of second order; the plain formula's rounding is 1e-16


def test_point_mass() -> None:
    value = torch.randn(4, 2, requires_grad=True)
    certain = PointMass(value)
    action, log_prob = certain.rsample_with_log_prob()
    assert action is value and torch.equal(log_prob, torch.zeros(4))
    assert certain.sample((3,)).shape == (3, 4, 2) and not certain.sample().requires_grad
    assert torch.equal(
        certain.log_prob(value + torch.tensor([[0.0]] * 3 + [[1.0]])), torch.tensor([0, 0, 0, -torch.inf])
    )
    assert torch.equal(certain.entropy(), torch.zeros(4)) and torch.equal(certain.variance, torch.zeros(4, 2))
    assert torch.equal(greedy_action(certain.expand((3, 4))), value.expand(3, 4, 2))


# -- several choices --------------------------------------------------------------------------------------------------


def choices(seed: int, sizes: tuple[int, ...], batch: tuple[int, ...] = (4,)) -> tuple[Tensor, list[Categorical]]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*batch, sum(sizes), dtype=torch.float64, generator=generator)
    return logits, [Categorical(logits=part) for part in logits.split(list(sizes), -1)]


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (4, 2, 3)], ids=str)
@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_choices_are_independent(sizes: tuple[int, ...], batch: tuple[int, ...]) -> None:
    logits, parts = choices(0, sizes, batch)
    policy = MultiCategorical.split(logits, sizes)
    assert policy.batch_shape == batch and policy.event_shape == (len(sizes),)
    joint = torch.tensor(list(itertools.product(*map(range, sizes))))
    joint = joint.reshape(len(joint), *[1] * len(batch), len(sizes))
    log_probs = policy.log_prob(joint)
    assert torch.allclose(log_probs, sum(part.log_prob(joint[..., i]) for i, part in enumerate(parts)))
    assert torch.allclose(log_probs.exp().sum(0), torch.ones(batch, dtype=torch.float64))
    assert torch.allclose(policy.entropy(), -(log_probs.exp() * log_probs).sum(0))
    best = joint.expand(len(joint), *batch, len(sizes)).movedim(0, -2)
    best = best.gather(-2, log_probs.argmax(0)[..., None, None].expand(*batch, 1, len(sizes))).squeeze(-2)
    assert torch.equal(policy.mode, best) and torch.equal(greedy_action(policy), best)
    other_logits, _ = choices(1, sizes, batch)
    other = MultiCategorical.split(other_logits, sizes)
    expected = (log_probs.exp() * (log_probs - other.log_prob(joint))).sum(0)
    assert torch.allclose(kl_divergence(policy, other), expected)


def test_draws_of_choices() -> None:
    torch.manual_seed(0)
    sizes, num = (4, 2, 3), 20_000
    logits, parts = choices(0, sizes)
    policy = MultiCategorical.split(logits, sizes)
    draws = policy.sample((num,))
    assert draws.shape == (num, 4, 3) and draws.dtype == torch.int64 and policy.sample().shape == (4, 3)
    assert policy.sample((2, 5)).shape == (2, 5, 4, 3) and policy.support.check(draws).all()
    for i, part in enumerate(parts):
        rates = torch.nn.functional.one_hot(draws[..., i], sizes[i]).double().mean(0)
        error = (part.probs * (1 - part.probs) / num).sqrt()
        assert ((rates - part.probs).abs() < SIGMAS * error).all()
    assert policy.expand((6, 4)).sample().shape == (6, 4, 3)


def test_forbidden_values_leave_gradients_finite() -> None:
    logits = torch.tensor([[[0.0, 1.0, -torch.inf], [0.5, -torch.inf, -torch.inf]]], requires_grad=True)
    policy = MultiCategorical(logits)
    other = MultiCategorical(torch.tensor([[[1.0, 0.0, -torch.inf], [0.5, 0.0, -torch.inf]]]))
    loss = policy.entropy().sum() + kl_divergence(policy, other).sum() + policy.log_prob(torch.tensor([1, 0])).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert torch.isposinf(kl_divergence(other, policy)).all()
    assert (policy.sample((200,))[..., 1] == 0).all()
