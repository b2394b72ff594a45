"""Normal distributions of any rank: against scipy, against products of blocks, and under differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from cai.factors.distributions import DegenerateNormal


def of_rank(seed: int, size: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean and a root G of a covariance G G' of this rank."""
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.normal(size=size)), torch.as_tensor(rng.normal(size=(size, rank)))


RANKS = [(1, 0), (1, 1), (2, 1), (3, 1), (3, 2), (4, 0), (4, 3), (4, 4), (6, 2)]


@pytest.mark.parametrize(("size", "rank"), RANKS)
@pytest.mark.parametrize("seed", range(5))
def test_density_is_scipys(size: int, rank: int, seed: int) -> None:
    mean, root = of_rank(seed, size, rank)
    made = DegenerateNormal(mean, root @ root.mT)
    values = mean + torch.as_tensor(np.random.default_rng(seed + 99).normal(size=(7, rank))) @ root.mT
    assert made.rank == rank
    if rank == 0:
        assert made.log_prob(values).tolist() == [0.0] * 7
        assert made.entropy() == 0.0
        assert torch.equal(made.sample((3,)), mean.expand(3, size))
        return
    oracle = scipy.stats.multivariate_normal(mean.numpy(), (root @ root.mT).numpy(), allow_singular=True)
    np.testing.assert_allclose(made.log_prob(values), oracle.logpdf(values.numpy()), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.entropy(), oracle.entropy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (2, 1), (4, 0), (4, 3)])
def test_density_off_the_support_is_zero(size: int, rank: int) -> None:
    mean, root = of_rank(3, size, rank)
    made = DegenerateNormal(mean, root @ root.mT)
    across = torch.linalg.svd(root).U[:, -1] if rank else torch.eye(size).double()[0]
    for distance in (1e-3, 1.0, 1e3):
        assert made.log_prob(mean + distance * across) == -torch.inf
    assert made.log_prob(mean + 1e-14 * across).isfinite()


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e6])
def test_units_do_not_matter(unit: float) -> None:
    """A singular block in other units, beside a regular one: the density is the product of the two."""
    mean, root = of_rank(5, 3, 2)
    small = (unit * root) @ (unit * root).mT
    covariance = torch.block_diag(small, torch.tensor([[2.0, 0.3], [0.3, 1.0]]).double())
    made = DegenerateNormal(torch.cat([unit * mean, torch.tensor([1.0, 2.0])]), covariance)
    assert made.rank == 4
    value = torch.cat([unit * (mean + root @ torch.tensor([0.3, -1.2]).double()), torch.tensor([0.0, 0.5])])
    singular = DegenerateNormal(mean, root @ root.mT).log_prob(value[:3] / unit) - 2 * np.log(unit)
    regular = scipy.stats.multivariate_normal([1.0, 2.0], [[2.0, 0.3], [0.3, 1.0]]).logpdf([0.0, 0.5])
    assert float(made.log_prob(value)) == pytest.approx(float(singular) + regular, rel=1e-7)


def test_rounding_beside_a_zero_variance_is_taken_for_zero() -> None:
    covariance = torch.tensor([[1.0, 1e-17, 0.5], [1e-17, 1e-35, 1e-17], [0.5, 1e-17, 1.0]], dtype=torch.float64)
    made = DegenerateNormal(torch.zeros(3).double(), covariance)
    assert made.rank == 2
    oracle = scipy.stats.multivariate_normal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]]).logpdf([0.3, 0.4])
    assert float(made.log_prob(torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64))) == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (3, 3), (4, 2)])
def test_draws(size: int, rank: int) -> None:
    """Moments within five standard errors; every draw is on the support."""
    mean, root = of_rank(8, size, rank)
    covariance = root @ root.mT
    made, num = DegenerateNormal(mean, covariance), 20_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = made.sample((num,))
    assert made.log_prob(draws).isfinite().all()
    spread = covariance.diagonal()
    assert ((draws.mean(0) - mean).abs() <= 5 * (spread / num).sqrt()).all()
    error = ((spread[:, None] * spread + covariance**2) / num).sqrt()
    assert ((draws.mT.cov() - covariance).abs() <= 5 * error).all()


def test_moments_and_shapes() -> None:
    mean, root = of_rank(0, 3, 2)
    covariance = root @ root.mT
    made = DegenerateNormal(mean.expand(5, 4, 3), covariance)
    assert (made.batch_shape, made.event_shape) == ((5, 4), (3,))
    assert made.covariance_matrix.shape == (5, 4, 3, 3)
    assert torch.equal(made.mean, made.mode)
    torch.testing.assert_close(made.stddev**2, made.variance)
    assert made.rsample((2,)).shape == (2, 5, 4, 3)
    assert made.log_prob(mean).shape == made.entropy().shape == made.rank.shape == (5, 4)
    assert made.expand((7, 5, 4)).log_prob(mean).shape == (7, 5, 4)
    assert DegenerateNormal(mean, torch.zeros(3, 3)).stddev.tolist() == [0.0] * 3
    with pytest.raises(ValueError, match=r"mean \[3\] needs a covariance \[\*batch, 3, 3\], got \[2, 2\]"):
        DegenerateNormal(mean, torch.eye(2))
    with pytest.raises(ValueError, match="event_shape"):
        made.log_prob(torch.zeros(1))


def test_one_distribution_per_step() -> None:
    means, roots = zip(*(of_rank(seed, 3, rank) for seed, rank in enumerate([0, 2, 3])), strict=True)
    covariances = torch.stack([root @ root.mT for root in roots])
    steps = DegenerateNormal(torch.stack(means), covariances)
    assert len(steps) == 3
    assert steps.rank.tolist() == [0, 2, 3]
    for t, step in enumerate(steps):
        alone = DegenerateNormal(means[t], covariances[t])
        assert step.batch_shape == ()
        assert torch.equal(step.mean, means[t])
        torch.testing.assert_close(step.log_prob(means[t]), alone.log_prob(means[t]))
        torch.testing.assert_close(steps.entropy()[t], alone.entropy())
    assert torch.equal(steps[-1].mean, means[2])
    assert torch.equal(steps[1:].mean, torch.stack(means[1:]))
    with pytest.raises(TypeError, match="no length"):
        len(steps[0])
    with pytest.raises(IndexError, match="cannot be indexed"):
        steps[0][0]
    with pytest.raises(IndexError):
        steps[3]


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (3, 2), (3, 3)])
def test_gradients_of_changes_that_keep_the_support(size: int, rank: int) -> None:
    mean, root = of_rank(2, size, rank)
    inner = torch.eye(rank).double() + 0.2
    value = mean + root @ torch.linspace(-1, 1, rank).double()

    def log_prob(shift: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        made = DegenerateNormal(mean + root @ shift, root @ (inner @ inner.mT) @ root.mT)
        return torch.stack([made.log_prob(value), made.entropy()])

    arguments = (torch.zeros(rank).double().requires_grad_(), inner.requires_grad_())
    assert torch.autograd.gradcheck(log_prob, arguments)


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (3, 2), (3, 3)])
def test_draws_bear_the_gradients_of_their_moments(size: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise at the sigma points gives mean and covariance exactly, and so it must their gradients."""
    points = size**0.5 * torch.cat([torch.eye(size), -torch.eye(size)]).double()
    monkeypatch.setattr("cai.factors.distributions._standard_normal", lambda *_, **__: points)
    mean, root = of_rank(2, size, rank)
    inner = (torch.eye(rank).double() + 0.2).requires_grad_()
    covariance = root @ (inner @ inner.mT) @ root.mT
    draws = DegenerateNormal(mean, covariance).rsample((len(points),))
    found = (draws - mean).mT @ (draws - mean) / len(points)
    torch.testing.assert_close(found, covariance)
    weights = torch.as_tensor(np.random.default_rng(0).normal(size=(size, size)))
    (gradient,) = torch.autograd.grad((weights * found).sum(), inner, retain_graph=True)
    (expected,) = torch.autograd.grad((weights * covariance).sum(), inner)
    torch.testing.assert_close(gradient, expected)


def test_gradients_where_eigenvalues_are_equal_or_zero() -> None:
    for matrix in (torch.eye(3), torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1.0, 0.0]))):
        mean, covariance = torch.zeros(3).double().requires_grad_(), matrix.double().requires_grad_()
        made = DegenerateNormal(mean, covariance)
        (made.log_prob(torch.zeros(3)) + made.rsample().sum() + made.stddev.sum()).backward()
        assert mean.grad.isfinite().all()
        assert covariance.grad.isfinite().all()


def test_a_draw_without_gradient_takes_none_from_later_reads() -> None:
    covariance = torch.eye(2).double().requires_grad_()
    made = DegenerateNormal(torch.zeros(2).double(), covariance)
    made.sample()
    assert made.log_prob(torch.ones(2)).requires_grad
    assert made.rsample().requires_grad


def test_float32() -> None:
    mean, root = of_rank(4, 4, 2)
    made = DegenerateNormal(mean.float(), (root @ root.mT).float())
    exact = DegenerateNormal(mean, root @ root.mT)
    value = mean + root @ torch.tensor([0.5, -0.4]).double()
    assert made.rank == 2
    assert made.sample().dtype == made.log_prob(value.float()).dtype == torch.float32
    assert float(made.log_prob(value.float())) == pytest.approx(float(exact.log_prob(value)), rel=1e-4)
