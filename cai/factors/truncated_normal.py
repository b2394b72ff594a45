"""A normal distribution cut off at the edges of a box, coordinate by coordinate.

    p(a) = prod_i N(a_i; mean_i, std_i^2) / Z_i,   Z_i = Phi((high_i - mean_i) / std_i) - Phi((low_i - mean_i) / std_i)

It is the soft-optimal policy of a Q that is quadratic in the action, on a box. Z is a difference in one tail where it
would lose its digits in the other: both ends are mirrored where the box lies above the mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from cai.factors.diagonal_normal import HALF_LOG_2PI

#: Standard deviations below which the cumulative distribution has lost too many digits to be inverted.
_FAR = -30.0


class TruncatedNormal(Distribution):
    """N(mean, diag std^2) given that the vector lies in a box.

    Args:
        mean: Of the whole normal, `[*batch, m]`; usually in the box.
        std: Of the whole normal, `[*batch, m]`, positive.
        low: Lower limits, `[m]`.
        high: Upper limits, `[m]`.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> None:
        self.inner_mean, self.std = mean, std
        self.low, self.high = (limit.to(mean).expand_as(mean) for limit in (low, high))
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """The box."""
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    @property
    def mode(self) -> Tensor:
        """The point of the box nearest to the mean, `[*batch, m]`."""
        return torch.minimum(torch.maximum(self.inner_mean, self.low), self.high)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        """Gives the distribution with a larger batch; see torch."""
        shape = (*batch_shape, *self.event_shape)
        row = tuple(0 for _ in self.batch_shape)  # the limits are the same in every row
        return TruncatedNormal(self.inner_mean.expand(shape), self.std.expand(shape), self.low[row], self.high[row])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the inverse of the cumulative distribution, `[*sample, *batch, m]`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            mean, std = self.inner_mean.double(), self.std.double()
            low, high = (self.low.double() - mean) / std, (self.high.double() - mean) / std
            mirrored = low > 0.0
            near, far = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
            below, above = torch.special.ndtr(near), torch.special.ndtr(far)
            share = torch.rand(shape, dtype=torch.float64, device=mean.device)
            # So far out that the masses are zero in float64 the tail falls like exp(-|far| distance).
            distant = far + share.log() / far.abs().clamp(min=1.0)
            drawn = torch.where(far < _FAR, distant, torch.special.ndtri(below + share * (above - below)))
            drawn = torch.minimum(torch.maximum(drawn, near), far)
            drawn = mean + std * torch.where(mirrored, -drawn, drawn)
            return torch.minimum(torch.maximum(drawn.to(self.inner_mean), self.low), self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-density, `[*sample, *batch]`, nats; `-inf` off the box.

        Args:
            value: `[*sample, *batch, m]`.
        """
        noise = (value - self.inner_mean) / self.std
        inside = ((value >= self.low) & (value <= self.high)).all(-1)
        density = -(0.5 * noise.square() + self.std.log() + HALF_LOG_2PI + self.log_mass).sum(-1)
        return torch.where(inside, density, -torch.inf)

    @property
    def log_mass(self) -> Tensor:
        """Log Z, `[*batch, m]`, nats: how much of the whole normal each coordinate's interval holds."""
        return log_normal_mass((self.low - self.inner_mean) / self.std, (self.high - self.inner_mean) / self.std)


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Computes log(Phi(high) - Phi(low)) for low < high, any shape, nats."""
    mirrored = low > 0.0
    near, far = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_far = torch.special.log_ndtr(far)
    return log_far + torch.log1p(-torch.exp(torch.special.log_ndtr(near) - log_far))
