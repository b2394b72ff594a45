"""Means and covariances of an affine chain forward in time, by a loop or by a scan.

    x_{t+1} = Phi_t x_t + phi_t + N(0, Omega_t):     m_{t+1} = Phi m_t + phi,     C_{t+1} = Phi C_t Phi' + Omega

Both are affine maps, of vectors and of matrices, whose products are again of their kind: after (Phi, phi, Omega),

    (Psi, psi, Pi) * (Phi, phi, Omega) = (Psi Phi, Psi phi + psi, Psi Omega Psi' + Pi)

As in `cai.ops.gaussian.control_scan` time is cut into blocks that are multiplied out side by side, the products are put
together by odd-even recursion, and from the moments at the ends of blocks all blocks are passed through once more.

Means and covariances go apart: many trajectories may share one chain of covariances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.gaussian.lanes import Blocks, lanes, matmul, stack
from cai.ops.gaussian.marginals import ClosedLoop, Moments, covariances_forward
from cai.ops.gaussian.problem import symmetric
from cai.ops.scans.scan import suffix_actions


@dataclass(frozen=True, eq=False)
class _Map:
    """x -> Phi x + phi, or C -> Phi C Phi' + Omega, of matrices `[..., n, 1]` or `[..., n, n]`."""

    factor: Tensor
    added: Tensor


def looped_moments(chain: ClosedLoop, start: Moments, horizon: int) -> Moments:
    """Computes means `[T + 1, *batch, n]` and covariances `[T + 1, *batch, n, n]`, one step after the other.

    Args:
        chain: The chain; means and covariances may have different batches.
        start: The moments of x_0.
        horizon: T.
    """
    means = looped_means(chain.transition, chain.offset, start.means, horizon)
    return Moments(means, covariances_forward(chain, start.covariances, horizon))


def scanned_moments(chain: ClosedLoop, start: Moments, horizon: int) -> Moments:
    """Computes what `looped_moments` does, by scans; differentiable by autograd."""
    means = scanned_means(chain.transition, chain.offset, start.means, horizon)
    return Moments(means, scanned_covariances(chain.transition, chain.noise, start.covariances, horizon))


def looped_means(transition: Tensor, offset: Tensor, start: Tensor, horizon: int) -> Tensor:
    """Computes m_{t+1} = Phi m_t + phi: `[T + 1, *batch, n]`.

    Args:
        transition: Phi, `[T or 1, *batch, n, n]`.
        offset: phi, `[T or 1, *batch, n]`.
        start: m_0, `[*batch, n]`.
        horizon: T.
    """
    batch = torch.broadcast_shapes(transition.shape[1:-2], offset.shape[1:-1], start.shape[:-1])
    now = start.expand(*batch, start.shape[-1])[..., None]
    means, factors, offsets = [now], transition.unbind(0), offset[..., None].unbind(0)
    for t in range(horizon):
        now = factors[t if len(factors) > 1 else 0] @ now + offsets[t if len(offsets) > 1 else 0]
        means.append(now)
    return torch.stack(means).squeeze(-1)


def scanned_means(transition: Tensor, offset: Tensor, start: Tensor, horizon: int) -> Tensor:
    """Computes what `looped_means` does, by a scan."""
    batch = torch.broadcast_shapes(transition.shape[1:-2], offset.shape[1:-1], start.shape[:-1])
    start = start.expand(*batch, start.shape[-1])[..., None]
    return _scanned(transition, offset[..., None], start, horizon, _VECTORS).squeeze(-1)


def scanned_covariances(transition: Tensor, noise: Tensor, start: Tensor, horizon: int) -> Tensor:
    """Computes C_{t+1} = Phi C_t Phi' + Omega: `[T + 1, *batch, n, n]`.

    Args:
        transition: Phi, `[T or 1, *batch, n, n]`.
        noise: Omega, `[T or 1, *batch, n, n]`.
        start: C_0, `[*batch, n, n]`.
        horizon: T.
    """
    batch = torch.broadcast_shapes(transition.shape[1:-2], noise.shape[1:-2], start.shape[:-2])
    start = start.expand(*batch, *start.shape[-2:])
    return symmetric(_scanned(transition, noise, start, horizon, _COVARIANCES))


@dataclass(frozen=True)
class _Kind:
    """How Phi acts: on stacks `[..., n, n]`, and on lanes `[n, n, ...]`."""

    on_stacks: Callable[[Tensor, Tensor], Tensor]
    on_lanes: Callable[[Tensor, Tensor], Tensor]


_VECTORS = _Kind(torch.matmul, matmul)
_COVARIANCES = _Kind(lambda phi, c: phi @ c @ phi.mT, lambda phi, c: matmul(matmul(phi, c), phi.transpose(0, 1)))


def _scanned(factor: Tensor, added: Tensor, start: Tensor, horizon: int, kind: _Kind) -> Tensor:
    """Computes all x_t, as the suffixes of the chain with time reversed."""
    factor, added = (part.flip(0) if len(part) > 1 else part for part in (factor, added))
    blocks = Blocks.of(horizon, start.dim() - 2)
    tail, body = (list(zip(cut(factor), cut(added), strict=True)) for cut in (blocks.tail, blocks.body))
    after = _passed(tail, lanes(start[None], blocks.num_batch), kind)
    first = stack(after[0])
    at_starts = suffix_actions(
        lambda second, one: _Map(second.factor @ one.factor, kind.on_stacks(second.factor, one.added) + second.added),
        lambda one, value: kind.on_stacks(one.factor, value) + one.added,
        _block_map(body, kind),
        first[0],
        blocks.count,
    )
    beyond = lanes(torch.cat([at_starts[1:], first]), blocks.num_batch)
    within = _passed(body, beyond, kind)
    return blocks.joined(within[:-1], after).flip(0)


def _passed(steps: list[tuple[Tensor, Tensor]], value: Tensor, kind: _Kind) -> list[Tensor]:
    """Takes steps, the last first, from a value: the values before each step and the given one."""
    values = [value]
    for factor, added in reversed(steps):
        values.append(kind.on_lanes(factor, values[-1]) + added)
    return values[::-1]


def _block_map(steps: list[tuple[Tensor, Tensor]], kind: _Kind) -> _Map:
    """Multiplies out the steps of each block: `[K, ...]`, or `[1, ...]` where all blocks are alike."""
    factor, added = steps[-1]
    for own_factor, own_added in reversed(steps[:-1]):
        factor, added = matmul(own_factor, factor), kind.on_lanes(own_factor, added) + own_added
    num_lanes = max(factor.shape[2], added.shape[2])
    return _Map(*(stack(x).expand(num_lanes, *stack(x).shape[1:]) for x in (factor, added)))
