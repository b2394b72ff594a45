"""Matrix products in logarithms, right in value and in gradient whatever the range of the entries.

    log_matmul(a, b)_ij      = log sum_k exp(a_ik + b_kj)      d/da_ik = sum_j g_ij w_ikj,  d/db_kj = sum_i g_ij w_ikj
    max_plus_matmul(a, b)_ij = max_k a_ik + b_kj               w_ikj = exp(a_ik + b_kj - y_ij), or 1 at the maximum

The quick way is one plain product: with row maxima A_i of a and column maxima B_j of b,

    y_ij = A_i + B_j + log s_ij,     s = exp(a - A) exp(b - B).

All terms of s are at most one, and those lost to underflow add up to less than n tiny, n the inner size and tiny the
least normal number. Where s_ij is above tiny^(2/3) nothing has been lost, and sums of positive terms keep their
relative precision, in the backward pass too. Elsewhere (the two maxima meet different k, and the best path lies some
470 nats below their sum, 58 in float32) the entry is computed term by term; a sum without a finite term is `-inf`.
Shifting by both maxima and clamping, as common codes do, would say -inf or log tiny for a true -799.

Leading dimensions are batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF, finite

#: Numbers that are held at a time where entries are computed term by term.
_CHUNK = 2**21
#: Up to so many terms of a maximum one call of torch's is the quickest way.
_FEW = 2**14


def log_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Computes log(exp(left) @ exp(right)); twice differentiable.

    Args:
        left: `[..., n, k]`, nats; `-inf` is a zero.
        right: `[..., k, m]`, nats.

    Returns:
        `[..., n, m]`, nats; `-inf` where no k is possible, with gradient zero.
    """
    return _batched(_log_matmul, _LogMatmul, left, right)


def max_plus_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Computes max_k left_ik + right_kj, the product of the tropical semiring; of equal terms one takes all.

    Args:
        left: `[..., n, k]`, in any unit; `-inf` is a zero.
        right: `[..., k, m]`, in the same unit.

    Returns:
        `[..., n, m]`; `-inf` where no k is possible.
    """
    return _batched(_max_plus_matmul, _MaxPlusMatmul, left, right)


def _batched(
    product: Callable[[Tensor, Tensor], Tensor], learned: type[torch.autograd.Function], left: Tensor, right: Tensor
) -> Tensor:
    """Applies a product of `[N, n, k]` and `[N, k, m]` to tables with any batch dimensions."""
    if left.dim() < 2 or right.dim() < 2 or left.shape[-1] != right.shape[-2]:
        shapes = f"{list(left.shape)} and {list(right.shape)}"
        raise ValueError(f"a matrix product takes [..., n, k] and [..., k, m], got {shapes}")
    learns = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    multiply = learned.apply if learns else product
    if left.dim() == right.dim() == 2:
        return multiply(left[None], right[None])[0]
    if left.dim() == right.dim() == 3 and len(left) == len(right):
        return multiply(left, right)
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (left, right))
    y = multiply(left, right)
    return y.view(*batch, *y.shape[-2:])


def _raised(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Gives exp(x - X) and X, the maximum along `dim`; the shift carries no gradient, since it cancels."""
    top = finite(x.detach().amax(dim, keepdim=True))
    return (x - top).exp_(), top


def _least(like: Tensor) -> float:
    """The sum from which on nothing has been lost."""
    return torch.finfo(like.dtype).tiny ** (2 / 3)


def _log_matmul(left: Tensor, right: Tensor) -> Tensor:
    (p, rows), (r, columns) = _raised(left, -1), _raised(right, -2)
    sums = p @ r
    lost = None
    if sums.numel() and not sums.amin() >= _least(sums):
        lost = (sums < _least(sums)) & _possible(left, right)
    y = sums.log_().add_(rows).add_(columns)
    if lost is None:
        return y
    for where in _pieces(lost, left.shape[-1]):
        y[where] = torch.logsumexp(_terms(left, right, where), -1)
    return y


def _possible(left: Tensor, right: Tensor) -> Tensor:
    """Whether entry (i, j) has a finite term: counted by a product of zeros and ones, exact in any dtype."""
    return (left > NEG_INF).to(left.dtype) @ (right > NEG_INF).to(left.dtype) > 0


def _pieces(entries: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gives the places of marked entries `[N, n, m]`, so many at a time that their terms fit into a chunk."""
    for piece in entries.nonzero().split(max(1, _CHUNK // width)):
        if len(piece):
            yield piece.unbind(1)


def _terms(left: Tensor, right: Tensor, where: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The terms of some entries, `[P, k]`."""
    batch, row, column = where
    return left[batch, row] + right.mT[batch, column]


class _LogMatmul(torch.autograd.Function):
    """`_log_matmul` with its analytic gradient, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        y = _log_matmul(left, right)
        ctx.save_for_backward(left, right, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        left, right, y = ctx.saved_tensors
        (p, _), (r, _) = _raised(left, -1), _raised(right, -2)
        # Not exp(top - y): where y is large its rounding would make the weights of an entry not sum to one.
        sums = p @ r
        quick = sums >= _least(sums)
        scaled = torch.where(quick, grads[0], 0.0) / torch.where(quick, sums, 1.0)
        grad_left, grad_right = p * (scaled @ r.mT), r * (p.mT @ scaled)
        for where in _pieces(~quick & ~torch.isneginf(y), left.shape[-1]):
            batch, row, column = where
            weights = torch.softmax(_terms(left, right, where), -1) * grads[0][where][:, None]
            grad_left = grad_left.index_put((batch, row), weights, accumulate=True)
            grad_right = grad_right.mT.index_put((batch, column), weights, accumulate=True).mT
        return grad_left, grad_right


def _max_plus_matmul(left: Tensor, right: Tensor) -> Tensor:
    if left.shape[-2] * right.numel() <= _FEW:
        return (left[..., None] + right[:, None]).amax(-2)
    y = left[..., 0, None] + right[:, None, 0]
    term = torch.empty_like(y)
    for k in range(1, left.shape[-1]):
        torch.maximum(y, torch.add(left[..., k, None], right[:, None, k], out=term), out=y)
    return y


class _MaxPlusMatmul(torch.autograd.Function):
    """`_max_plus_matmul` with the gradient of the first of the greatest terms."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        y = left[..., 0, None] + right[:, None, 0]
        best = torch.zeros_like(y, dtype=torch.int64)
        for k in range(1, left.shape[-1]):
            term = left[..., k, None] + right[:, None, k]
            best[term > y] = k
            torch.maximum(y, term, out=y)
        ctx.inner = left.shape[-1]
        ctx.save_for_backward(best, ~torch.isneginf(y))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        best, possible = ctx.saved_tensors
        grad = torch.where(possible, grads[0], 0.0)
        batch, rows, columns = grad.shape
        of_left = grad.new_zeros(batch, rows, ctx.inner).scatter_add(-1, best, grad)
        return of_left, grad.new_zeros(batch, ctx.inner, columns).scatter_add(-2, best, grad)
