"""Stein variational gradient descent: how to move particles so that KL(particles || target) falls fastest.

    phi(x) = (1/K) sum_j [k(u_j, x) grad log p(u_j) + grad_{u_j} k(u_j, x)],   k(u, x) = exp(-|u - x|^2 / h)

The first term climbs log p, shared among neighbours; the second drives particles apart. With one particle it is
gradient ascent. The width h = med^2 / log K, med the median distance of two particles, makes the neighbours of a
particle weigh about as much as itself: sum_j k(u_i, u_j) is about K exp(-med^2 / h) = 1.

Particles and scores must live in the same space. For actions a = tanh(u) that is u, with
log p(u) = Q(tanh u) / alpha + sum log(1 - tanh(u)^2): a kernel or a gradient taken in a, and steps in u, converge to
something else.

Source: Liu and Wang (2016).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def median_bandwidth(particles: Tensor) -> Tensor:
    """Computes h = med^2 / log K from the median squared distance of two different particles.

    Args:
        particles: `[..., K, m]`.

    Returns:
        `[...]`; 1 where there is no distance to go by.
    """
    num = particles.shape[-2]
    if num < 2:
        return particles.new_ones(particles.shape[:-2])
    row, column = torch.triu_indices(num, num, offset=1, device=particles.device)
    median = _squared_distances(particles, particles)[..., row, column].median(-1).values
    return torch.where(median > 0, median / math.log(num), 1.0)


def stein_direction(particles: Tensor, scores: Tensor, *, at: Tensor | None = None) -> Tensor:
    """Computes phi, the direction of steepest descent of KL(particles || target), for every batch element by itself.

    Args:
        particles: u, `[..., K, m]`.
        scores: grad log p(u), `[..., K, m]`.
        at: Where to give the direction, `[..., L, m]`; at the particles by default.

    Returns:
        `[..., L, m]` without gradient: moving by a small step along it makes the particles more like the target; as the
        gradient of a sampler's outputs it trains the sampler.

    Raises:
        ValueError: Particles and scores differ in shape, or `at` in the number of coordinates.

    Source: Liu and Wang (2016), equation 8.
    """
    if particles.dim() < 2 or scores.shape != particles.shape:
        raise ValueError(
            f"particles and scores must both be [..., K, m], got {list(particles.shape)} and {list(scores.shape)}"
        )
    points = particles if at is None else at
    if points.shape[:-2] + points.shape[-1:] != particles.shape[:-2] + particles.shape[-1:]:
        raise ValueError(f"at must be [..., L, m] with particles {list(particles.shape)}, got {list(points.shape)}")
    particles, scores, points = particles.detach(), scores.detach(), points.detach()
    width = median_bandwidth(particles)[..., None, None]
    kernel = torch.exp(-_squared_distances(points, particles) / width)
    apart = kernel.sum(-1, keepdim=True) * points - kernel @ particles
    return (kernel @ scores + 2.0 / width * apart) / particles.shape[-2]


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """|x_i - y_j|^2, `[..., L, K]`; by differences, since products lose what is close."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square()
