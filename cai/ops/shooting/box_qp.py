"""Quadratic programmes in boxes, many small ones at once, by projected Newton steps.

    minimise u'Hu/2 + g'u,  low <= u <= high,  H positive definite

A control is clamped where it stands at a bound and the gradient g + Hu pushes outward. Newton's step is taken in the
free controls alone, projected onto the box, with a backtracking line search along the projection; the clamped set
settles after a few steps, and then one step is exact. Elements of the batch go their own ways, all in the same calls.
One or two controls have closed forms.

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
    point = (torch.zeros_like(gradient) if start is None else torch.nan_to_num(start)).clamp(low, high)
    running = torch.linalg.cholesky_ex(hessian).info == 0
    noise = 8 * torch.finfo(hessian.dtype).eps * hessian.shape[-1]
    for _ in range(_MAX_STEPS):
        slope = gradient + _times(hessian, point)
        free = free_controls(point, slope, low, high)
        aim = -_solve_free(hessian, (gradient + _times(hessian, torch.where(free, 0.0, point)))[..., None], free)
        direction = torch.where(free, aim[..., 0] - point, 0.0)
        decrease = -(direction * slope).sum(-1)
        scale = (point * slope).abs().sum(-1) + (point * gradient).abs().sum(-1)
        running = running & (decrease > noise * scale)
        if not running.any():
            break
        moved = _searched(hessian, gradient, point, direction, slope, low, high)
        running = running & (moved != point).any(-1)
        point = torch.where(running[..., None], moved, point)
    return BoxSolution(point, free_controls(point, gradient + _times(hessian, point), low, high))


def clamped_gains(hessian: Tensor, sides: Tensor, gains: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Keeps affine feedback u = G [x; 1] within limits at x = 0: rows of clamped controls are constant.

    The constants are the solution of the quadratic programme; the rows of the free controls minimise given those. Here
    the batch comes last.

    Args:
        hessian: H, `[m, m, *batch]`.
        sides: S, `[m, k, *batch]`, its last column the gradient of the programme.
        gains: -H^-1 S, `[m, k, *batch]`.
        low: `[m, *batch]`.
        high: `[m, *batch]`.
    """
    if len(hessian) == 2:
        return _clamped_pair(hessian, sides, gains, low, high)
    matrices = (hessian.movedim((0, 1), (-2, -1)), sides.movedim((0, 1), (-2, -1)))
    answer = box_qp(matrices[0], matrices[1][..., -1], low.movedim(0, -1), high.movedim(0, -1))
    clamped = -_solve_free(*matrices, answer.free)
    clamped[..., -1] = answer.solution
    return clamped.movedim((-2, -1), (0, 1))


def _clamped_pair(hessian: Tensor, sides: Tensor, gains: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Two controls: the solution lies on an edge of the rectangle that faces the free minimum.

    Either one control is at the bound next to its free value, and the other the best given that, or the other way
    round; where the free minimum is inside, both ways give it.
    """
    gradient, free = sides[:, -1], gains[:, -1]
    diagonal = torch.stack([hessian[0, 0], hessian[1, 1]])
    first = free.clamp(low, high)
    slope = torch.addcmul(gradient, hessian[0, 1], first.flip(0))
    wanted = -slope / diagonal
    second = wanted.clamp(low, high)
    values = first * (gradient + 0.5 * diagonal * first) + (second * (slope + 0.5 * diagonal * second)).flip(0)
    better = values[0] <= values[1]
    is_first = torch.stack([better, ~better])
    is_free = torch.where(is_first, first == free, second == wanted)[:, None]
    alone = -sides / diagonal[:, None]
    clamped = torch.where(is_free, torch.where(is_free.flip(0), gains, alone), 0.0)
    clamped[:, -1] = torch.where(is_first, first, second)
    return clamped


def clamped_at_zero(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Says which controls would leave the box at once if they went downhill from zero: `[*batch, m]`, bool.

    Args:
        slope: The gradient at zero, `[*batch, m]`.
        low: `[*batch, m]`, at most zero.
        high: `[*batch, m]`, at least zero.
    """
    return ((low >= 0) & (slope > 0)) | ((high <= 0) & (slope < 0))


def without(held: Tensor, hessian: Tensor) -> Tensor:
    """Puts the identity into the rows and columns of controls: H, `[*batch, m, m]`, held `[*batch, m]`, bool."""
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    return torch.where(held[..., :, None] | held[..., None, :], identity, hessian)


def is_definite(matrices: Tensor) -> Tensor:
    """Says which symmetric matrices `[..., m, m]` are positive definite: `[...]`, bool."""
    if matrices.shape[-1] == 1:
        return matrices[..., 0, 0] > 0
    return torch.linalg.cholesky_ex(matrices).info == 0


def _solve_free(hessian: Tensor, sides: Tensor, free: Tensor) -> Tensor:
    """Solves H_ff X_f = S_f for the free controls f, and gives X with zero rows for the others: `[*batch, m, k]`."""
    return torch.linalg.solve_ex(without(~free, hessian), torch.where(free[..., None], sides, 0.0)).result


def free_controls(point: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Says which controls are not clamped: `[*batch, m]`, bool.

    Args:
        point: `[*batch, m]`.
        slope: The gradient there, `[*batch, m]`.
        low: `[*batch, m]`.
        high: `[*batch, m]`.
    """
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
