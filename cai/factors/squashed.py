"""Distributions of actions in a box: a normal, squashed by tanh.

    u ~ N(mean, diag std^2),     a = center + scale tanh(u),     center = (low + high) / 2,   scale = (high - low) / 2
    log p(a) = log N(u) - sum_i [2 (log 2 - u_i - softplus(-2 u_i)) + log scale_i]

The bracket is log da/du: log(1 - tanh^2 u) without its cancellation. The common log(1 - a^2 + 1e-6) is -13.8 at u = 10
for a true -18.6, and has no gradient there. What is drawn keeps its u; of an action given, u is found from its
distances to the edges, u = (log(a - low) - log(high - a)) / 2, which lose no digits, and log da/du is
log(a - low) + log(high - a) - log scale.

Source: Haarnoja, Zhou, Abbeel and Levine (2018), appendix C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import softplus

from cai.factors.diagonal_normal import HALF_LOG_2PI, kl_of_normals, log_normal, standard_noise

LOG_2 = math.log(2.0)


class Bounds:
    """A bounded box, and what squashing into it needs.

    Args:
        low: Lower limits, `[m]`.
        high: Upper limits, `[m]`, above `low`.

    Attributes:
        center: `[m]`.
        half_size: `[m]`.
        log_scale: Sum of the logarithms of `half_size`, nats.
        rounding: Half a spacing of the floating type at the limits, `[m]`.

    Raises:
        ValueError: A limit that is not finite, or low that is not below high.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        if not (torch.isfinite(low) & torch.isfinite(high) & (low < high)).all():
            raise ValueError(f"SquashedNormal: a box must be bounded, low below high, got {low} and {high}")
        self.low, self.high = low, high
        self.center, self.half_size = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
        self.log_scale = float(self.half_size.double().log().sum())
        self.rounding = 0.25 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())


class SquashedNormal(Distribution):
    """A normal squashed into a box by tanh, coordinate by coordinate.

    In finite precision tanh(u) reaches the edge: an action on it, or off it by rounding, is read as one half a spacing
    of its floating type inside (at u of about 9 in float32), so that its density is finite. What is drawn by
    `rsample_with_log_prob` keeps its own u, and its own density. Farther off the box the density is zero.

    Neither mean nor mode nor entropy is a closed form; the median is. `-log_prob` of draws estimates the entropy.

    Args:
        mean: Of u, `[*batch, m]`.
        log_std: Of u, `[*batch, m]`, or what broadcasts to it.
        low: Lower limits, `[m]`.
        high: Upper limits, `[m]`, above `low`.

    Raises:
        ValueError: A limit that is not finite, or low that is not below high.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, mean: Tensor, log_std: Tensor, low: Tensor, high: Tensor) -> None:
        self._set(mean, log_std, Bounds(low, high))

    @classmethod
    def within(cls, mean: Tensor, log_std: Tensor, bounds: Bounds) -> SquashedNormal:
        """Makes one in a box that is known already, which saves some time; mean and log_std are `[*batch, m]`."""
        made = cls.__new__(cls)
        made._set(mean, log_std, bounds)
        return made

    def _set(self, mean: Tensor, log_std: Tensor, bounds: Bounds) -> None:
        self.inner_mean, self.log_std, self.bounds = mean, log_std, bounds
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """The box, edges included."""
        return constraints.independent(constraints.interval(self.bounds.low, self.bounds.high), 1)

    @property
    def median(self) -> Tensor:
        """The median of each coordinate, `[*batch, m]`: the squashed mean, which is how such a policy acts greedily."""
        return self._squashed(self.inner_mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SquashedNormal:
        """Gives the distribution with a larger batch; see torch."""
        shape = (*batch_shape, *self.event_shape)
        return SquashedNormal.within(self.inner_mean.expand(shape), self.log_std.expand(shape), self.bounds)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, differentiably: `[*sample, *batch, m]`."""
        noise = standard_noise(self.inner_mean, self._extended_shape(torch.Size(sample_shape)))
        return self._squashed(torch.addcmul(self.inner_mean, self.log_std.exp(), noise))

    def rsample_with_log_prob(self) -> tuple[Tensor, Tensor]:
        """Draws once: actions `[*batch, m]` and their log-density `[*batch]`, both differentiable and exact."""
        noise = torch.randn_like(self.inner_mean)
        u = torch.addcmul(self.inner_mean, self.log_std.exp(), noise)
        # -softplus(-2u) / 2: beyond the threshold, in beta u, torch takes softplus for linear
        softening = softplus(u, beta=-2.0, threshold=40.0)
        # eps^2 / 2 + log std - 2 (u + softplus(-2u)), the constants left out
        terms = torch.addcmul(self.log_std, noise, noise, value=0.5)
        total = (terms - 2.0 * torch.sub(u, softening, alpha=2.0)).sum(-1)
        constant = self.bounds.log_scale + self.event_shape[0] * (HALF_LOG_2PI + 2.0 * LOG_2)
        return self._squashed(u), -constant - total

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-density of actions: `[*sample, *batch]`, nats; `-inf` off the box.

        Args:
            value: `[*sample, *batch, m]`, in the box.
        """
        low, high, rounding = self.bounds.low, self.bounds.high, self.bounds.rounding
        log_below = torch.maximum(value - low, rounding).log()
        log_above = torch.maximum(high - value, rounding).log()
        u = 0.5 * (log_below - log_above)
        log_slope = (log_below + log_above).sum(-1) - self.bounds.log_scale
        density = log_normal((u - self.inner_mean) * (-self.log_std).exp(), self.log_std) - log_slope
        off = ((value < low - 16.0 * rounding) | (value > high + 16.0 * rounding)).any(-1)
        return torch.where(off, -torch.inf, density)

    def _squashed(self, u: Tensor) -> Tensor:
        return torch.addcmul(self.bounds.center, self.bounds.half_size, torch.tanh(u))


@register_kl(SquashedNormal, SquashedNormal)
def _kl_squashed(p: SquashedNormal, q: SquashedNormal) -> Tensor:
    """Squashing is one-to-one, so that in one box it changes no divergence."""
    ours, theirs = p.bounds, q.bounds
    if ours is not theirs and not (torch.equal(ours.low, theirs.low) and torch.equal(ours.high, theirs.high)):
        raise NotImplementedError("kl_divergence: squashed normals in different boxes have none in closed form")
    return kl_of_normals(p.inner_mean, p.log_std, q.inner_mean, q.log_std)
