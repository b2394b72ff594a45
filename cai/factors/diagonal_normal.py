"""Distributions of actions that are vectors: normal with independent coordinates, or certain.

    log N(x) = -sum_i [(x_i - mean_i)^2 / (2 std_i^2) + log std_i + log(2 pi) / 2]

Both know `rsample_with_log_prob`, which learners call once an update, and which builds nothing that it needs not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalNormal(Distribution):
    """N(mean, diag std^2) on vectors.

    Args:
        mean: `[*batch, m]`.
        log_std: `[*batch, m]`, or what broadcasts to it.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self.log_std = mean, log_std
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, `[*batch, m]`."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean: `[*batch, m]`."""
        return self._mean

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each coordinate, `[*batch, m]`."""
        return self.log_std.exp().expand_as(self._mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, `[*batch, m]`."""
        return self.stddev.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalNormal:
        """Gives the distribution with a larger batch; see torch."""
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self._mean.expand(shape), self.log_std.expand(shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, differentiably: `[*sample, *batch, m]`."""
        noise = standard_noise(self._mean, self._extended_shape(torch.Size(sample_shape)))
        return torch.addcmul(self._mean, self.log_std.exp(), noise)

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """Draws once: actions `[*batch, m]` and their log-density `[*batch]`, both differentiable."""
        noise = torch.randn_like(self._mean)
        action = torch.addcmul(self._mean, self.log_std.exp(), noise)
        return action, log_normal(noise, self.log_std)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-density of `[*sample, *batch, m]`: `[*sample, *batch]`, nats."""
        return log_normal((value - self._mean) * (-self.log_std).exp(), self.log_std)

    def entropy(self) -> Tensor:
        """Computes the differential entropy, `[*batch]`, nats."""
        return (self.log_std + (HALF_LOG_2PI + 0.5)).expand_as(self._mean).sum(-1)


class PointMass(Distribution):
    """A vector that is certain: a deterministic policy.

    Args:
        value: `[*batch, m]`.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The value, `[*batch, m]`."""
        return self.value

    @property
    def mode(self) -> Tensor:
        """The value, `[*batch, m]`."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero, `[*batch, m]`."""
        return torch.zeros_like(self.value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """Gives the distribution with a larger batch; see torch."""
        return PointMass(self.value.expand(*batch_shape, *self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Gives the value, `[*sample, *batch, m]`."""
        return self.value.expand(self._extended_shape(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Gives the value as a constant, `[*sample, *batch, m]`."""
        return self.rsample(sample_shape).detach()

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """Gives the value `[*batch, m]`, and the logarithm of its mass, zero, `[*batch]`."""
        return self.value, self.value.new_zeros(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-mass of `[*sample, *batch, m]`: zero at the value, `-inf` elsewhere."""
        same = (value == self.value).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(self.value.dtype)

    def entropy(self) -> Tensor:
        """Zero, `[*batch]`: that of the counting measure."""
        return self.value.new_zeros(self.batch_shape)


def standard_noise(like: Tensor, shape: torch.Size) -> Tensor:
    """Draws N(0, 1) of a shape, with type and device of a tensor of any shape."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def log_normal(noise: Tensor, log_std: Tensor) -> Tensor:
    """Computes log N of a draw mean + std noise, `[*batch, m]` to `[*batch]`."""
    return -(0.5 * noise.square() + log_std + HALF_LOG_2PI).sum(-1)


def kl_of_normals(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """Computes KL(p || q) of normals with independent coordinates, `[*batch, m]` to `[*batch]`, nats."""
    shift, ratio = (mean_p - mean_q) * (-log_std_q).exp(), log_std_p - log_std_q
    # expm1 keeps the digits of two that are close: (exp 2r - 1 - 2r) / 2
    return (0.5 * (shift.square() + (2.0 * ratio).expm1()) - ratio).sum(-1)


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_normal(p: DiagonalNormal, q: DiagonalNormal) -> Tensor:
    return kl_of_normals(p.mean, p.log_std, q.mean, q.log_std)
