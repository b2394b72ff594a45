"""Log-space reductions that are right in value and in gradient.

    logsumexp(x)_i          = log sum_j exp(x_ij)          d/dx_ij = exp(x_ij - y_i)
    log_expectation(x, w)_i = log sum_j w_ij exp(x_ij)     d/dx_ij = w_ij exp(x_ij - y_i),  d/dw_ij = exp(x_ij - y_i)

Entries may be `-inf` (forbidden), whole rows may be, and entries may lie thousands of nats apart. `torch.logsumexp` has
the right value but NaN gradients where a whole slice is `-inf`; the logarithm of a weight has an infinite derivative at
zero. Here weights stay linear and are never logged: a weight of zero is a structural zero, with gradient zero.

Where all x are small (a high temperature), log sum w exp(x) is the logarithm of a number next to one. It is computed as
`log1p(sum w expm1(x))`, so that alpha log E exp(V / alpha) keeps its digits at alpha = 1e6. Weights that sum to one up
to rounding are taken to sum to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

NEG_INF = -math.inf
#: Up to so many terms, actions most of all, a sum is taken by a product with ones.
_FEW = 32


class Reducer(Protocol):
    """How entries are grouped: along one dimension, or by the rows of a sparse matrix."""

    def sum(self, entries: Tensor) -> Tensor:
        """Adds the entries of each group."""

    def max(self, entries: Tensor) -> Tensor:
        """Takes the greatest entry of each group, `-inf` for an empty one."""

    def spread(self, groups: Tensor) -> Tensor:
        """Gives each entry the value of its group."""


@dataclass(frozen=True)
class AlongDim:
    """Groups entries along dimension `dim` of a dense tensor."""

    dim: int = -1

    def sum(self, entries: Tensor) -> Tensor:
        """Adds along `dim`."""
        return entries.sum(self.dim)

    def max(self, entries: Tensor) -> Tensor:
        """Takes the maximum along `dim`."""
        return entries.amax(self.dim)

    def spread(self, groups: Tensor) -> Tensor:
        """Puts `dim` back, with size one."""
        return groups.unsqueeze(self.dim)


def logsumexp(x: Tensor, dim: int = -1) -> Tensor:
    """Computes log sum exp(x) along `dim`; a slice of `-inf` gives `-inf`, with gradient zero.

    Args:
        x: `[..., n, ...]`, in nats.
        dim: The dimension to reduce.

    Returns:
        `[...]`, in nats.
    """
    return _LogSumExp.apply(x, dim) if x.requires_grad and torch.is_grad_enabled() else _logsumexp(x, dim)


def log_expectation(
    x: Tensor, weights: Tensor, reducer: Reducer | None = None, *, all_positive: bool = False
) -> Tensor:
    """Computes log sum_j w_j exp(x_j) over each group of entries.

    Args:
        x: Entries in nats, broadcastable against `weights`.
        weights: Weights at least zero; they need not sum to one. A zero is structural: what stands in `x` there is
            never read, and its gradient is zero.
        reducer: How entries are grouped; the last dimension by default.
        all_positive: What the caller knows of the weights: none of them is zero, so that none need be masked.

    Returns:
        One value a group, in nats; `-inf` where no entry has both a positive weight and a finite x.
    """
    reducer = AlongDim() if reducer is None else reducer
    if x.shape != weights.shape:
        x, weights = torch.broadcast_tensors(x, weights)
    if torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad):
        return _LogExpectation.apply(x, weights, reducer, all_positive)
    return _log_expectation(x, weights, reducer, all_positive)


def max_over_support(x: Tensor, weights: Tensor, dim: int = -1) -> Tensor:
    """Takes the maximum of `x` over the entries of positive weight along `dim`; `-inf` where there is none.

    Args:
        x: `[..., n, ...]`.
        weights: `[..., n, ...]`, at least zero.
        dim: The dimension to reduce.
    """
    return torch.where(weights > 0, x, NEG_INF).amax(dim)


def safe_log(x: Tensor) -> Tensor:
    """Computes log x for x >= 0, `[...]`, with `-inf` at zero, and gradient zero there."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return x.log()
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).log(), NEG_INF)


def finite(top: Tensor) -> Tensor:
    """Raises `-inf` to the least finite number, `[...]`, so that -inf - top is `-inf` and not NaN."""
    return top.clamp(min=torch.finfo(top.dtype).min)


def largest_finite(v: Tensor) -> float:
    """Gives max |v| over the finite entries; zero where there are none."""
    low, high = (float(bound) for bound in v.detach().aminmax())
    if not math.isfinite(low - high):
        return float(torch.where(torch.isfinite(v.detach()), v.detach(), 0.0).abs().max())
    return max(-low, high)


def _log_expectation(x: Tensor, weights: Tensor, reducer: Reducer, all_positive: bool) -> Tensor:
    supported = x if all_positive else torch.where(weights > 0, x, NEG_INF)
    top = finite(reducer.max(supported))
    below = supported - reducer.spread(top)
    if not _are_close(below if all_positive else torch.where(weights > 0, below, 0.0)):
        return top + reducer.sum(weights * below.exp()).log()
    excess = reducer.sum(weights * below.expm1())
    return top + (excess - lack_to_one(reducer.sum(weights))).log1p()


def lack_to_one(sums: Tensor) -> Tensor:
    """Computes 1 - sum, zero where rounding alone can have made it: the temperature would multiply that.

    Args:
        sums: `[...]`, sums of weights.

    Returns:
        `[...]`; the gradient is that of 1 - sum everywhere.
    """
    lack = 1.0 - sums
    return torch.where(lack.abs() < 64 * torch.finfo(sums.dtype).eps, lack - lack.detach(), lack)


def _are_close(below: Tensor) -> bool:
    """Says whether all x lie within a nat of the greatest.

    Where they do not, values span a temperature or more, and the plain logarithm's error of some eps times the
    temperature is one of some eps times the values.
    """
    return below.numel() > 0 and bool(below.amin() > -1.0)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """Computes log sum exp with one shift for all slices where that loses nothing: twice as fast as torch's."""
    if x.numel():
        low, high = (float(bound) for bound in x.detach().aminmax())
        if high - low < -0.8 * math.log(torch.finfo(x.dtype).tiny):
            return _summed((x - high).exp_(), dim).log_().add_(high)
        if x.shape[dim] <= _FEW and high < math.inf:
            top = finite(x.amax(dim, keepdim=True))
            return _summed((x - top).exp_(), dim).log_().add_(top.squeeze(dim))
    return torch.logsumexp(x, dim)


def _summed(x: Tensor, dim: int) -> Tensor:
    """Adds along a dimension; along a short last one by a product, which is quicker than a reduction."""
    if dim in (-1, x.dim() - 1) and x.shape[-1] <= _FEW and x.is_contiguous():
        return x @ x.new_ones(x.shape[-1])
    return x.sum(dim)


class _LogSumExp(torch.autograd.Function):
    """`torch.logsumexp` with a gradient that is zero, not NaN, on slices that are `-inf` throughout."""

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return _logsumexp(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.dim = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        dead = torch.isneginf(y).unsqueeze(ctx.dim)
        # Not exp(x - y): where y is large its rounding would make the weights of a slice not sum to one.
        weights = torch.softmax(torch.where(dead, 0.0, x), ctx.dim)
        return grads[0].unsqueeze(ctx.dim) * torch.where(dead, 0.0, weights), None


class _LogExpectation(torch.autograd.Function):
    """`log_expectation` with its analytic gradient, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, reducer: Reducer, all_positive: bool) -> Tensor:
        y = _log_expectation(x, weights, reducer, all_positive)
        ctx.reducer = reducer
        ctx.save_for_backward(x, weights, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weights, y = ctx.saved_tensors
        y = torch.where(torch.isneginf(y), 0.0, y)
        supported = torch.where(weights > 0, x, NEG_INF)
        raised = (supported - ctx.reducer.spread(y)).exp()
        total = ctx.reducer.sum(weights * raised)  # one, but for the rounding of y
        raised = raised / ctx.reducer.spread(torch.where(total > 0, total, 1.0))
        grad_weights = ctx.reducer.spread(grads[0]) * raised
        return weights * grad_weights, grad_weights, None, None
