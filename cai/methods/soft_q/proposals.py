"""From where actions are drawn that estimate a soft value: proposals with a density, as option objects.

    V(s) = alpha log E_{a ~ q} [mu(a) exp(Q(s, a) / alpha) / q(a)]

All is in units: the box is [-1, 1]^m, a = tanh(u).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.diagonal_normal import HALF_LOG_2PI
from cai.ops.squashing import inverse_tanh, log_tanh_slope


@dataclass(frozen=True, eq=False)
class Proposed:
    """Actions of a proposal.

    Attributes:
        units: `[K, *batch, m]`, in [-1, 1]^m.
        log_density: `[K, *batch]`, nats, with respect to the units.
    """

    units: Tensor
    log_density: Tensor


class AbstractProposal(ABC):
    """Draws actions of a known density."""

    @abstractmethod
    def draw(self, batch: torch.Size, size: int, sampler: Callable[[int], Tensor]) -> Proposed:
        """Draws K actions for each of a batch of states, by torch's generator.

        Args:
            batch: The batch of states.
            size: m, the number of action coordinates.
            sampler: Gives so many draws of the learned sampler, `[M, *batch, m]`, before squashing.
        """


@serializable
@dataclass(frozen=True)
class UniformProposal(AbstractProposal):
    """Uniform in the box: sound everywhere, wasteful where the policy is sharp.

    Attributes:
        num: K.
    """

    num: int = 64

    def draw(self, batch: torch.Size, size: int, sampler: Callable[[int], Tensor]) -> Proposed:
        """Draws uniformly in the box, `[K, *batch, m]`."""
        units = 2.0 * torch.rand(self.num, *batch, size) - 1.0
        return Proposed(units, torch.full(units.shape[:-1], -size * math.log(2.0)))


@serializable
@dataclass(frozen=True)
class SamplerProposal(AbstractProposal):
    """Around draws of the learned sampler, mixed with uniform ones.

    Each of M draws u_j of the sampler is the centre of a normal of standard deviation `bandwidth` (before squashing).
    The density of the mixture of all of them and the uniform distribution is known, so the weights are right however
    bad the sampler is, and never exceed 1 / `uniform_share` times those of uniform draws.

    Attributes:
        num: K.
        num_centres: M.
        bandwidth: Standard deviation, before squashing.
        uniform_share: The share of uniform draws, in (0, 1].
    """

    num: int = 32
    num_centres: int = 16
    bandwidth: float = 0.3
    uniform_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0.0 < self.uniform_share <= 1.0 or not self.bandwidth > 0.0:
            raise ValueError(
                "SamplerProposal: uniform_share must be in (0, 1] and bandwidth positive, got "
                f"{self.uniform_share!r} and {self.bandwidth!r}"
            )

    def draw(self, batch: torch.Size, size: int, sampler: Callable[[int], Tensor]) -> Proposed:
        """Draws a share of the actions uniformly, the rest around the sampler's."""
        num_uniform = max(1, round(self.num * self.uniform_share))
        centres = sampler(self.num_centres)
        chosen = centres[torch.randint(self.num_centres, (self.num - num_uniform,))]
        near = torch.tanh(chosen + self.bandwidth * torch.randn_like(chosen))
        units = torch.cat([2.0 * torch.rand(num_uniform, *batch, size) - 1.0, near])
        u = inverse_tanh(units)
        noise = (u[:, None] - centres) / self.bandwidth
        log_normals = -(0.5 * noise.square() + math.log(self.bandwidth) + HALF_LOG_2PI).sum(-1)
        log_near = torch.logsumexp(log_normals, 1) - math.log(self.num_centres) - log_tanh_slope(u).sum(-1)
        share = num_uniform / self.num
        log_uniform = torch.full_like(log_near, math.log(share) - size * math.log(2.0))
        log_rest = log_near + (math.log1p(-share) if share < 1.0 else -math.inf)
        return Proposed(units, torch.logaddexp(log_uniform, log_rest))
