"""Quadratic programmes in boxes, many small ones at once, by projected Newton steps.

    minimise u'Hu/2 + g'u,  low <= u <= high,  H positive definite

A control is clamped where it stands at a bound and the gradient g + Hu pushes outward. Newton's step is taken in the
free controls alone, projected onto the box, with a backtracking line search along the projection; the clamped set settles
after a few steps, and then one step is exact. Elements of the batch go their own ways, all in the same calls.

Source: Tassa, Mansard and Todorov (2014), section III and algorithm 1; Bertsekas (1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Newton steps; a dozen controls settle in about as many.
_MAX_STEPS = 100
#: Share of the predicted decrease that a step must bring.
_SUFFICIENT = 0.1
#: Step sizes of the line search: 0.6^i, down to 1e-5.
_NUM_SIZES, _SHRINK = 24, 0.6


@dataclass(frozen=True, eq=False)
class BoxSolution:
    """Solutions of box-constrained quadratic programmes.

    Attributes:
        solution: u, within the bounds, `[*batch, m]`.
        free: Which controls are not clamped, `[*batch, m]`, bool.
    """

    solution: Tensor
    free: Tensor


def box_qp(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor, *, start: Tensor | None = None) -> BoxSolution:
    """Solves a batch of box-constrained quadratic programmes.

    Elements whose H is not positive definite, or not finite, keep some point of the box.

    Args:
        hessian: H, `[*batch, m, m]`.
        gradient: g, `[*batch, m]`.
        low: `[*batch, m]`; may be -inf.
        high: `[*batch, m]`; may be inf.
        start: A first guess, `[*batch, m]`; the point of the box next to zero by default.
    """
    if hessian.shape[-1] <= 2:
        solution = (_single if hessian.shape[-1] == 1 else _pair)(hessian, gradient, low, high)
        return BoxSolution(solution, _free(solution, gradient + _times(hessian, solution), low, high))
    point = (torch.zeros_like(gradient) if start is None else torch.nan_to_num(start)).clamp(low, high)
    running = torch.linalg.cholesky_ex(hessian).info == 0
    noise = 8 * torch.finfo(hessian.dtype).eps * hessian.shape[-1]
    for _ in range(_MAX_STEPS):
        slope = gradient + _times(hessian, point)
        free = _free(point, slope, low, high)
        aim = -solve_free(hessian, (gradient + _times(hessian, torch.where(free, 0.0, point)))[..., None], free)
        direction = torch.where(free, aim[..., 0] - point, 0.0)
        decrease = -(direction * slope).sum(-1)
        scale = (point * slope).abs().sum(-1) + (point * gradient).abs().sum(-1)
        running = running & (decrease > noise * scale)
        if not running.any():
            break
        moved = _searched(hessian, gradient, point, direction, slope, low, high)
        running = running & (moved != point).any(-1)
        point = torch.where(running[..., None], moved, point)
    return BoxSolution(point, _free(point, gradient + _times(hessian, point), low, high))


def _single(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The best point of an interval, `[*batch, 1]`."""
    return torch.nan_to_num(-gradient / hessian[..., 0]).clamp(low, high)


def _pair(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The best point of a rectangle, `[*batch, 2]`: the free one where it lies inside, else the best of four edges."""
    (a, b), (_, d) = (row.unbind(-1) for row in hessian.unbind(-2))
    g, bottom, top = (part.unbind(-1) for part in (gradient, low, high))
    first = torch.stack([bottom[0], top[0]])
    second = torch.stack([bottom[1], top[1]])
    across_second = (-(g[1] + b * first) / d).clamp(bottom[1], top[1])
    across_first = (-(g[0] + b * second) / a).clamp(bottom[0], top[0])
    ratio = b / a
    free_second = -(g[1] - ratio * g[0]) / (d - ratio * b)
    free_first = -(g[0] + b * free_second) / a
    inside = (free_first >= bottom[0]) & (free_first <= top[0]) & (free_second >= bottom[1]) & (free_second <= top[1])
    x, y = torch.cat([first, across_first]), torch.cat([across_second, second])
    values = x * (0.5 * a * x + b * y + g[0]) + y * (0.5 * d * y + g[1])
    best = torch.where(torch.isnan(values), torch.inf, values).argmin(0, keepdim=True)  # an infinite edge is NaN
    edge = torch.stack([x.gather(0, best)[0], y.gather(0, best)[0]], -1)
    return torch.where(inside[..., None], torch.stack([free_first, free_second], -1), edge).clamp(low, high)


def solve_free(hessian: Tensor, sides: Tensor, free: Tensor) -> Tensor:
    """Solves H_ff X_f = S_f for the free controls f, and gives X with zero rows for the others: `[*batch, m, k]`.

    Args:
        hessian: H, `[*batch, m, m]`.
        sides: S, `[*batch, m, k]`.
        free: `[*batch, m]`, bool.
    """
    pairs = free[..., :, None] & free[..., None, :]
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    kept = torch.where(free[..., None], sides, 0.0)
    return torch.linalg.solve_ex(torch.where(pairs, hessian, identity), kept).result


def _free(point: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ~(((point <= low) & (slope > 0)) | ((point >= high) & (slope < 0)))


def _searched(
    hessian: Tensor, gradient: Tensor, point: Tensor, direction: Tensor, slope: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Takes the longest step along the projection that brings a share of what its slope promises."""
    powers = torch.arange(_NUM_SIZES, dtype=point.dtype, device=point.device)
    sizes = (_SHRINK**powers).reshape(-1, *[1] * point.dim())
    points = (point + sizes * direction).clamp(low, high)
    steps = points - point
    change = (steps * (slope + 0.5 * _times(hessian, steps))).sum(-1)
    good = change <= _SUFFICIENT * (steps * slope).sum(-1)
    first = good.to(torch.uint8).argmax(0)
    chosen = points.gather(0, first[None, ..., None].expand(1, *point.shape))[0]
    return torch.where(good.any(0)[..., None], chosen, point)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None]).squeeze(-1)
