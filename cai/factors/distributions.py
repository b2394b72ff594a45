"""A normal distribution whose covariance may be singular."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, constraints
from torch.distributions.utils import _standard_normal

#: How far a covariance may be from symmetric, and below zero, relative to its greatest entry: what float32 loses.
TOLERANCE = 1e-6


class RegularNormal(MultivariateNormal):
    """A multivariate normal that does not look at its parameters: the factor that makes it has checked its own.

    A mean may be NaN where a user's function is: whoever draws from it can say at which time step.
    """

    arg_constraints: dict[str, Any] = {}


class DegenerateNormal(Distribution):
    """N(mean, covariance), of any rank from a point mass to a density everywhere.

    The density is with respect to the Lebesgue measure on the support, mean + range(covariance), and -inf off it; where
    the covariance is zero that is the counting measure, and the log-density at the mean is 0. With V an orthonormal
    basis of the range of the correlations C = D^-1 S D^-1 (D the standard deviations),

        x = mean + D V y,   y ~ N(0, V' C V),   log p(x) = log N(y) - logdet(V' D D V) / 2

    Scaled so, coordinates of very different units keep their digits. V is held constant under differentiation:
    gradients are those of changes that keep the support.

    Indexing takes elements of the leading batch axis: of marginals over time, `marginals[t]` is that of one step.

    Args:
        mean: `[*batch, n]`.
        covariance: `[*batch, n, n]`, symmetric, positive semi-definite up to rounding.
        validate_args: As in torch.

    Raises:
        ValueError: Shapes that do not fit.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, covariance: Tensor, validate_args: bool | None = None) -> None:
        size = mean.shape[-1] if mean.dim() else 0
        if covariance.shape[-2:] != (size, size):
            raise ValueError(
                f"DegenerateNormal: mean {list(mean.shape)} needs a covariance [*batch, {size}, {size}], got "
                f"{list(covariance.shape)}"
            )
        batch = torch.broadcast_shapes(mean.shape[:-1], covariance.shape[:-2])
        self._mean = mean.expand(*batch, size)
        self._covariance = covariance  # of a batch of its own: many means may share one
        super().__init__(batch, torch.Size([size]), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, `[*batch, n]`."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean: `[*batch, n]`."""
        return self._mean

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, `[*batch, n, n]`."""
        return self._covariance.expand(*self.batch_shape, *self._covariance.shape[-2:])

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, `[*batch, n]`."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0.0)

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each coordinate, `[*batch, n]`; its gradient is zero where it is zero."""
        known = self.variance == 0
        return torch.where(known, 0.0, torch.where(known, 1.0, self.variance).sqrt())

    @property
    def rank(self) -> Tensor:
        """The dimension of the support, `[*batch]`, int64."""
        return self._support().live.sum(-1).expand(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DegenerateNormal:
        """Gives the distribution with a larger batch; see torch."""
        return DegenerateNormal(self._mean.expand(*batch_shape, *self.event_shape), self._covariance)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, differentiably: `[*sample, *batch, n]`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _standard_normal(shape, dtype=self._mean.dtype, device=self._mean.device)
        on = self._support()
        inner = torch.where(on.live, (on.root(self._covariance) @ noise[..., None]).squeeze(-1), 0.0)
        return self._mean + on.scale * (on.basis @ inner[..., None]).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-density on the support, -inf off it: `[*sample, *batch]`, nats.

        Off is what lies farther from the support than the square root of the precision, relative to value and mean.

        Args:
            value: `[*sample, *batch, n]`.
        """
        if self._validate_args:
            self._validate_sample(value)
        on = self._support()
        inner = (on.basis.mT @ ((value - self._mean) / on.scale)[..., None]).squeeze(-1)
        root = on.root(self._covariance)
        known = torch.where(on.live, inner, 0.0)[..., None]
        white = torch.linalg.solve_triangular(root, known, upper=False).squeeze(-1)
        squares = white.square().sum(-1) + on.live.sum(-1).to(white) * math.log(2 * math.pi)
        size = ((value.abs() + self._mean.abs()) / on.scale).sum(-1, keepdim=True) + 1.0
        off = (torch.where(on.live, 0.0, inner).abs() > math.sqrt(torch.finfo(inner.dtype).eps) * size).any(-1)
        return torch.where(off, -torch.inf, -0.5 * squares - on.log_volume(root))

    def entropy(self) -> Tensor:
        """Computes the entropy on the support, `[*batch]`, nats; zero for a point mass."""
        on = self._support()
        volume = on.log_volume(on.root(self._covariance))
        return (0.5 * on.live.sum(-1).to(volume) * (1.0 + math.log(2 * math.pi)) + volume).expand(self.batch_shape)

    def _support(self) -> Support:
        """Found anew each time: what is kept from inside a transform of `torch.func` would escape it."""
        return support_of(self._covariance.detach())

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("DegenerateNormal: a single distribution has no length")
        return self.batch_shape[0]

    def __getitem__(self, index: int | slice) -> DegenerateNormal:
        """Picks elements of the leading batch axis."""
        if not self.batch_shape:
            raise IndexError("DegenerateNormal: a single distribution cannot be indexed")
        return DegenerateNormal(self._mean[index], self.covariance_matrix[index])


@dataclass(frozen=True, eq=False)
class Support:
    """The range of a covariance S, in units that make its correlations; constant under differentiation.

    Attributes:
        scale: D, what each coordinate is divided by, `[*batch, n]`.
        basis: V, orthonormal, `[*batch, n, n]`; columns are eigenvectors of the correlations D^-1 S D^-1.
        live: Which columns span the range, `[*batch, n]`, bool.
    """

    scale: Tensor
    basis: Tensor
    live: Tensor

    def root(self, covariance: Tensor) -> Tensor:
        """Computes the Cholesky factor of V' D^-1 S D^-1 V, with ones off the support: `[*batch, n, n]`."""
        correlations = covariance / (self.scale[..., :, None] * self.scale[..., None, :])
        return torch.linalg.cholesky(self._kept(self.basis.mT @ correlations @ self.basis))

    def log_volume(self, root: Tensor) -> Tensor:
        """Computes half the logarithm of the product of the eigenvalues of S that are not zero, `[*batch]`."""
        wide = self.scale[..., None] * self.basis
        stretch = torch.linalg.cholesky(self._kept(wide.mT @ wide))
        return (root.diagonal(dim1=-2, dim2=-1) * stretch.diagonal(dim1=-2, dim2=-1)).log().sum(-1)

    def _kept(self, matrix: Tensor) -> Tensor:
        pairs = self.live[..., :, None] & self.live[..., None, :]
        return torch.where(pairs, matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))


def support_of(covariance: Tensor) -> Support:
    """Finds the range of covariances `[*batch, n, n]`."""
    scale = scales(covariance)
    eigen = torch.linalg.eigh(covariance / (scale[..., :, None] * scale[..., None, :]))
    live = eigen.eigenvalues > rank_tolerance(covariance.shape[-1], covariance.dtype)
    return Support(scale, eigen.eigenvectors, live)


def rank_tolerance(size: int, dtype: torch.dtype) -> float:
    """The least eigenvalue of a matrix of correlations that is not taken for rounding."""
    return 1e3 * size * torch.finfo(dtype).eps


def scales(covariance: Tensor) -> Tensor:
    """Gives what to divide each coordinate by, `[..., n]`: its standard deviation, so that correlations remain.

    Where a variance is zero, or the correlations are not those of any distribution (a variance that is rounding alone),
    it is the greatest standard deviation.

    Args:
        covariance: `[..., n, n]`.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    greatest = variance.amax(-1, keepdim=True).clamp(min=0.0).sqrt()
    greatest = torch.where(greatest > 0, greatest, 1.0)
    scale = torch.where(variance > 0, variance.clamp(min=0.0).sqrt(), greatest)
    correlations = covariance / (scale[..., :, None] * scale[..., None, :])
    return torch.where(is_definite(correlations, -TOLERANCE)[..., None], scale, greatest)


def is_definite(matrix: Tensor, least: float) -> Tensor:
    """Says whether all eigenvalues of symmetric matrices `[..., n, n]` are above a number: `[...]`, bool."""
    shift = least * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky_ex(matrix - shift).info == 0
