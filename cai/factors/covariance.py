"""Covariance matrices: what is checked of them, and the distributions around a mean that they make."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.factors.checks import index_of_first, place
from cai.factors.distributions import TOLERANCE, DegenerateNormal, RegularNormal, is_definite, rank_tolerance, scales
from cai.factors.linear_parts import part_at
from cai.ops.gaussian.problem import symmetric

_POINT, _SINGULAR, _DEFINITE = range(3)


def check_covariance(covariance: Tensor, name: str, axes: list[str]) -> None:
    """Raises ValueError at the first covariance `[..., n, n]` that is not symmetric and positive semi-definite.

    Args:
        covariance: Finite.
        name: What to call it.
        axes: Names of the dimensions before the last two.
    """
    covariance = covariance.detach()
    greatest = covariance.abs().amax((-2, -1))
    skew = (covariance - covariance.mT).abs().amax((-2, -1))
    if (bad := skew > TOLERANCE * greatest).any():
        index = index_of_first(bad)
        raise ValueError(
            f"{name}{_where(axes, index)} is not symmetric: entries across the diagonal differ by "
            f"{skew[tuple(index)].item():.3g}"
        )
    unit = torch.where(greatest > 0, greatest, 1.0)[..., None, None]
    if (bad := ~is_definite(symmetric(covariance) / unit, -TOLERANCE)).any():
        index = index_of_first(bad)
        least = torch.linalg.eigvalsh(symmetric(covariance[tuple(index)]))[0].item()
        raise ValueError(f"{name}{_where(axes, index)} is not positive semi-definite: least eigenvalue {least:.6g}")


class Covariance:
    """A covariance, checked, and the distributions that it makes around a mean.

    Args:
        value: `[T or 1, *batch, n, n]`, finite, symmetric and positive semi-definite up to rounding. One that learns is
            kept as it is, and made symmetric when it is read.
    """

    def __init__(self, value: Tensor) -> None:
        self._given = value if value.requires_grad else symmetric(value)
        self._kinds = _kinds(value.detach())
        self._known_root = None if value.requires_grad else _cholesky(self._given)

    @property
    def value(self) -> Tensor:
        """The matrices, symmetric, `[T or 1, *batch, n, n]`."""
        return symmetric(self._given) if self._given.requires_grad else self._given

    @property
    def is_definite(self) -> bool:
        """Whether all are positive definite."""
        return bool((self._kinds == _DEFINITE).all())

    def around(self, mean: Tensor, t: int | Tensor, name: str) -> torch.distributions.Distribution:
        """Gives N(mean, covariance of step t).

        Args:
            mean: `[..., n]`, of a batch that broadcasts with the covariance's.
            t: Time.
            name: What to call the factor in an error.

        Returns:
            A `torch.distributions.MultivariateNormal` where the covariance is positive definite, Pyro's Delta where it
            is zero, else a `DegenerateNormal`.
        """
        step = t if len(self._kinds) > 1 else 0
        kinds = part_at(self._kinds, step, 0, name)
        if (kinds == _POINT).all():
            return point_mass(mean)
        if (kinds == _DEFINITE).all():
            root = part_at(self._root, step, 2, name).to(mean)
            return RegularNormal(mean, scale_tril=root)
        return DegenerateNormal(mean, part_at(self.value, step, 2, name).to(mean))

    @property
    def _root(self) -> Tensor:
        return _cholesky(self.value) if self._known_root is None else self._known_root


def point_mass(value: Tensor) -> torch.distributions.Distribution:
    """Gives Pyro's Delta at vectors `[..., n]`."""
    from pyro.distributions import Delta

    return Delta(value, event_dim=1)


def _cholesky(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky_ex(covariance).L  # steps that are singular have none, and are not read


def _kinds(covariance: Tensor) -> Tensor:
    """Says of each step, `[T or 1]`, whether all of its batch are zero, or all positive definite beyond rounding."""
    flat = covariance.reshape(len(covariance), -1, *covariance.shape[-2:])
    scale = scales(flat)
    correlations = flat / (scale[..., :, None] * scale[..., None, :])
    definite = is_definite(correlations, rank_tolerance(flat.shape[-1], flat.dtype)).all(-1)
    zero = (flat == 0).flatten(1).all(-1)
    return torch.where(definite, _DEFINITE, torch.where(zero, _POINT, _SINGULAR))


def _where(axes: list[str], index: list[int]) -> str:
    return f" at ({place(axes, index)})" if axes else ""
