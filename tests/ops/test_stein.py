"""Stein directions: against sums written out, and where particles end up, against samples of the target."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cai.ops import log_tanh_slope, median_bandwidth, stein_direction


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction_by_sums(particles: np.ndarray, scores: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Sums up phi of one set of particles, `[L, m]`, pair by pair; the kernel's gradient by differences."""
    num = len(particles)
    distances = [((particles[i] - particles[j]) ** 2).sum() for i in range(num) for j in range(i)]
    width = sorted(distances)[(len(distances) - 1) // 2] / math.log(num) if num > 1 else 1.0

    def kernel(u: np.ndarray, x: np.ndarray) -> float:
        return math.exp(-((u - x) ** 2).sum() / width)

    moves, found = 1e-5 * np.eye(particles.shape[1]), np.zeros(points.shape)
    for i, x in enumerate(points):
        for u, score in zip(particles, scores, strict=True):
            slope = [(kernel(u + move, x) - kernel(u - move, x)) / 2e-5 for move in moves]
            found[i] += (kernel(u, x) * score + np.array(slope)) / num
    return found


@pytest.mark.parametrize("num, size", [(1, 1), (2, 1), (5, 3), (8, 2)])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=lambda batch: "x".join(map(str, batch)) or "single")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["at particles", "elsewhere"])
def test_direction(num: int, size: int, batch: tuple[int, ...], elsewhere: bool) -> None:
    particles, scores = normal(*batch, num, size), normal(*batch, num, size, seed=1)
    points = normal(*batch, 3, size, seed=2) if elsewhere else particles
    found = stein_direction(particles, scores, at=points if elsewhere else None)
    for index in np.ndindex(*batch):
        expected = direction_by_sums(particles[index].numpy(), scores[index].numpy(), points[index].numpy())
        np.testing.assert_allclose(found[index], expected, atol=1e-8)


def test_one_particle_climbs() -> None:
    score = normal(7, 1, 3)
    torch.testing.assert_close(stein_direction(normal(7, 1, 3, seed=1), score), score)


def test_particles_in_one_place_go_together() -> None:
    scores = normal(2, 4, 3)
    found = stein_direction(torch.zeros(2, 4, 3, dtype=torch.float64), scores)
    torch.testing.assert_close(found, scores.mean(1, keepdim=True).expand(2, 4, 3))


def test_width_weighs_neighbours_as_much_as_a_particle_itself() -> None:
    particles = normal(50, 9, 4)
    width = median_bandwidth(particles)
    distances = torch.cdist(particles, particles).square()
    assert width.shape == (50,)
    assert (9 * torch.exp(-distances[distances > 0].reshape(50, -1).median(-1).values / width)).mean() == pytest.approx(
        1.0
    )


def test_float32_and_refusals() -> None:
    particles = normal(4, 2).float()
    assert stein_direction(particles.requires_grad_(), particles).dtype == torch.float32
    assert not stein_direction(particles, particles).requires_grad
    with pytest.raises(ValueError, match=r"must both be \[..., K, m\], got \[4, 2\] and \[4, 1\]"):
        stein_direction(particles, particles[:, :1])
    with pytest.raises(ValueError, match=r"at must be \[..., L, m\] with particles \[4, 2\], got \[3\]"):
        stein_direction(particles, particles, at=torch.zeros(3))


# -- where particles end up -------------------------------------------------------------------------------------------


def settled(q: Callable[[Tensor], Tensor], shape: tuple[int, ...], num_steps: int = 1000) -> Tensor:
    """Actions tanh(u) after moving particles u along Stein directions, target exp(q(tanh u)) d tanh(u)."""
    particles, second_moment = normal(*shape), torch.zeros(shape, dtype=torch.float64)
    for step in range(1, num_steps + 1):
        u = particles.clone().requires_grad_()
        (score,) = torch.autograd.grad((q(torch.tanh(u)) + log_tanh_slope(u).sum(-1)).sum(), u)
        direction = stein_direction(particles, score)
        second_moment = 0.95 * second_moment + 0.05 * direction**2
        particles = particles + 0.1 * (1 - step / num_steps) * direction / (
            second_moment / (1 - 0.95**step)
        ).sqrt().clamp(min=1e-3)
    return torch.tanh(particles)


def test_squashed_linear_energy() -> None:
    """Q = 3a on [-1, 1] has the mean coth 3 - 1/3 = 0.672; mixing a and u converges to (1 - a^2) exp(3a), 0.487."""
    for seed_batch in settled(lambda a: 3 * a[..., 0], (3, 60, 1)):
        assert float(seed_batch.mean()) == pytest.approx(1 / math.tanh(3) - 1 / 3, abs=0.02)


def bimodal(a: Tensor) -> Tensor:
    """Two peaks of different heights on [-1, 1]^2, around (-0.5, 0.3) and (0.5, -0.2)."""

    def peak(x: float, y: float, width: float) -> Tensor:
        return -((a[..., 0] - x) ** 2 + (a[..., 1] - y) ** 2) / (2 * width**2)

    return torch.logaddexp(peak(-0.5, 0.3, 0.2) + math.log(1.5), peak(0.5, -0.2, 0.25))


def rejection_samples(num: int) -> np.ndarray:
    """Samples of exp(bimodal) on the square; the energy is at most log 2.5."""
    rng = np.random.default_rng(0)
    proposals = rng.uniform(-1, 1, size=(20 * num, 2))
    kept = np.log(rng.random(20 * num)) < bimodal(torch.as_tensor(proposals)).numpy() - math.log(2.5)
    return proposals[kept][:num]


def test_bimodal_energy_has_the_moments_of_rejection_samples() -> None:
    """The shares of the peaks settle last, within 0.03 here; inside a peak 150 particles do as well as thousands."""
    samples, found = rejection_samples(20_000), settled(bimodal, (2, 150, 2)).numpy()
    assert len(samples) == 20_000
    for particles in found:
        assert (particles[:, 0] < 0).mean() == pytest.approx((samples[:, 0] < 0).mean(), abs=0.05)
        for side in (-1, 1):
            inside, true = (points[side * points[:, 0] > 0] for points in (particles, samples))
            assert (np.abs(inside.mean(0) - true.mean(0)) < 0.1 * true.std(0)).all()
            np.testing.assert_allclose(inside.std(0), true.std(0), rtol=0.1)
