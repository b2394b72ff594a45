"""Moments of affine chains: loop and scan against the stacked linear system, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cai.ops.gaussian.affine_scan import looped_means, looped_moments, scanned_means, scanned_moments
from cai.ops.gaussian.marginals import ClosedLoop, Moments
from cai.ops.scans.scan import suffix_actions

HORIZONS = [1, 2, 3, 5, 16, 31, 100]


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.as_tensor(rng.normal(size=shape))


def chain(horizon: int, batch: tuple[int, ...] = (), varies: str = "tpn") -> tuple[ClosedLoop, Moments]:
    """A stable chain; the parts named change with time: transition, push, noise."""
    rng, n = np.random.default_rng(horizon), 3
    lengths = [horizon if part in varies else 1 for part in "tpn"]
    root = normal(rng, lengths[2], *batch, n, 2)
    transition = 0.5 * normal(rng, lengths[0], *batch, n, n)
    start = normal(rng, *batch, n, 1)
    parts = ClosedLoop(transition, normal(rng, lengths[1], *batch, n), root @ root.mT)
    return parts, Moments(normal(rng, *batch, n), start @ start.mT)


def stacked(parts: ClosedLoop, start: Moments, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances from x = G (source), all times at once."""
    n = start.means.shape[-1]
    size = n * (horizon + 1)
    system, source, noise = np.eye(size), np.zeros(size), np.zeros((size, size))
    source[:n], noise[:n, :n] = start.means.numpy(), start.covariances.numpy()
    for t in range(horizon):
        here, there = slice(n * t, n * t + n), slice(n * t + n, n * t + 2 * n)
        phi, push, omega = (part[t if len(part) > 1 else 0].numpy() for part in vars(parts).values())
        system[there, here], source[there], noise[there, there] = -phi, push, omega
    inverse = np.linalg.inv(system)
    covariance = inverse @ noise @ inverse.T
    blocks = [covariance[n * t : n * t + n, n * t : n * t + n] for t in range(horizon + 1)]
    return (inverse @ source).reshape(-1, n), np.stack(blocks)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("varies", ["tpn", "pn", "t", "n", ""])
def test_moments_are_those_of_the_stacked_system(horizon: int, varies: str) -> None:
    parts, start = chain(horizon, varies=varies)
    means, covariances = stacked(parts, start, horizon)
    for way in (looped_moments, scanned_moments):
        found = way(parts, start, horizon)
        np.testing.assert_allclose(found.means.numpy(), means, atol=1e-11 * max(1.0, np.abs(means).max()))
        np.testing.assert_allclose(
            found.covariances.numpy(), covariances, atol=1e-11 * max(1.0, np.abs(covariances).max())
        )


@pytest.mark.parametrize("batch", [(4,), (3, 2)], ids=str)
def test_batches(batch: tuple[int, ...]) -> None:
    parts, start = chain(50, batch)
    loop, scan = (way(parts, start, 50) for way in (looped_moments, scanned_moments))
    torch.testing.assert_close(scan.means, loop.means, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(scan.covariances, loop.covariances, rtol=1e-11, atol=1e-11)


def test_many_trajectories_share_one_chain() -> None:
    parts, start = chain(20)
    pushes = normal(np.random.default_rng(1), 20, 7, 3)
    many = scanned_means(parts.transition[:, None], pushes, start.means[None], 20)
    assert many.shape == (21, 7, 3)
    for i in range(7):
        alone = looped_means(parts.transition, pushes[:, i], start.means, 20)
        torch.testing.assert_close(many[:, i], alone, rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    parts, start = chain(11)
    leaves = [x.clone().requires_grad_() for x in (*vars(parts).values(), start.means, start.covariances)]
    gradients = []
    for way in (looped_moments, scanned_moments):
        found = way(ClosedLoop(*leaves[:3]), Moments(*leaves[3:]), 11)
        total = found.means.square().sum() + found.covariances.square().sum()
        gradients.append(torch.autograd.grad(total, leaves))
    for loop, scan in zip(*gradients, strict=True):
        torch.testing.assert_close(scan, loop, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 3, 6, 13, 64])
def test_actions_of_equal_elements_need_one_element(length: int) -> None:
    matrix, end = 0.5 * normal(np.random.default_rng(0), 1, 3, 3), torch.ones(3, 1, dtype=torch.float64)
    one = suffix_actions(torch.matmul, torch.matmul, matrix, end, length)
    all_of_them = suffix_actions(torch.matmul, torch.matmul, matrix.expand(length, 3, 3), end, length)
    torch.testing.assert_close(one, all_of_them, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(one[0], torch.linalg.matrix_power(matrix[0], length) @ end, rtol=1e-12, atol=1e-12)
