"""Covariance matrices: what is checked of them, and the distributions around a mean that they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.factors.checks import check_finite, index_of_first, place
from cai.factors.distributions import TOLERANCE, DegenerateNormal, RegularNormal, is_definite, rank_tolerance, scales
from cai.factors.linear_parts import part_at
from cai.factors.part import Part
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
    skew = (covariance - covariance.mT).abs().amax((-2, -1))
    if (bad := skew > TOLERANCE * covariance.abs().amax((-2, -1))).any():
        index = index_of_first(bad)
        raise ValueError(
            f"{name}{_where(axes, index)} is not symmetric: entries across the diagonal differ by "
            f"{skew[tuple(index)].item():.3g}"
        )
    if (bad := ~_semi_definite(symmetric(covariance))).any():
        index = index_of_first(bad)
        least = torch.linalg.eigvalsh(symmetric(covariance[tuple(index)]))[0].item()
        raise ValueError(f"{name}{_where(axes, index)} is not positive semi-definite: least eigenvalue {least:.6g}")


class Covariance:
    """A covariance, checked, and the distributions that it makes around a mean.

    What is known of one that learns, its rank and that it is a covariance at all, is found anew each time it is read.

    Args:
        part: `[T or 1, *batch, n, n]`, finite, symmetric and positive semi-definite up to rounding.
        name: What to call it in an error.
        axes: Names of the dimensions before the last two, as it is shown.
    """

    def __init__(self, part: Part, name: str, axes: list[str]) -> None:
        self.part, self._name, self._axes = part, name, axes
        self._fixed = None if part.learns else _known(symmetric(part.value))

    @property
    def value(self) -> Tensor:
        """The matrices, symmetric, `[T or 1, *batch, n, n]`.

        Raises:
            ValueError: They learn, and are no covariances any more: where, and the least eigenvalue.
        """
        if self._fixed is not None:
            return self._fixed.value
        value = symmetric(self.part.value)
        self._check(value)
        return value

    @property
    def is_definite(self) -> bool:
        """Whether all are positive definite."""
        kinds = _kinds(self.value.detach()) if self._fixed is None else self._fixed.kinds
        return bool((kinds == _DEFINITE).all())

    def around(self, mean: Tensor, t: int | Tensor, name: str) -> torch.distributions.Distribution:
        """Gives N(mean, covariance of step t).

        Args:
            mean: `[..., n]`, of a batch that broadcasts with the covariance's.
            t: Time.
            name: What to call the factor in an error.

        Returns:
            A `torch.distributions.MultivariateNormal` where the covariance is positive definite, Pyro's Delta where it
            is zero, else a `DegenerateNormal`.

        Raises:
            ValueError: t is outside the steps; or the covariance learns, and is none any more.
        """
        known = self._at(t, name) if self._fixed is None else self._fixed
        kinds = part_at(known.kinds, t, 0, name)
        if (kinds == _POINT).all():
            return point_mass(mean)
        if (kinds == _DEFINITE).all():
            return RegularNormal(mean, scale_tril=part_at(known.root, t, 2, name).to(mean))
        return DegenerateNormal(mean, part_at(known.value, t, 2, name).to(mean))

    def _at(self, t: int | Tensor, name: str) -> _Known:
        """Gives what is known at present of step t of matrices that learn, as if it served all steps."""
        known = _known(symmetric(part_at(self.part.value, t, 2, name))[None])
        if (known.kinds != _DEFINITE).any():
            self._check(known.value)
        return known

    def _check(self, read: Tensor) -> None:
        """Raises ValueError where what was read of matrices that learn is not positive semi-definite any more."""
        if _semi_definite(read.detach()).all():
            return
        shown = self.part.shown.detach()
        check_finite(shown, self._name, [*self._axes, "row", "column"])
        try:
            check_covariance(symmetric(shown), self._name, self._axes)
        except ValueError as error:
            raise ValueError(
                f"{error}; it was changed since the factor was made: learn a root L, and make the factor of L @ L.mT "
                "anew at each step"
            ) from None


@dataclass(frozen=True, eq=False)
class _Known:
    """Covariances and what is found of them.

    Attributes:
        value: Symmetric, `[T or 1, *batch, n, n]`.
        kinds: Of each step, `[T or 1]`; see `_kinds`.
        root: Cholesky factors, `[T or 1, *batch, n, n]`; steps that are singular have none, and are not read.
    """

    value: Tensor
    kinds: Tensor
    root: Tensor


def _known(value: Tensor) -> _Known:
    return _Known(value, _kinds(value.detach()), torch.linalg.cholesky_ex(value).L)


def point_mass(value: Tensor) -> torch.distributions.Distribution:
    """Gives Pyro's Delta at vectors `[..., n]`."""
    from pyro.distributions import Delta

    return Delta(value, event_dim=1)


def _semi_definite(covariance: Tensor) -> Tensor:
    """Says which matrices `[..., n, n]`, symmetric, have no eigenvalue below zero beyond rounding: `[...]`, bool."""
    greatest = covariance.abs().amax((-2, -1))
    unit = torch.where(greatest > 0, greatest, 1.0)[..., None, None]
    return is_definite(covariance / unit, -TOLERANCE)


def _kinds(covariance: Tensor) -> Tensor:
    """Says of each step, `[T or 1]`, whether all of its batch are zero, or all positive definite beyond rounding."""
    covariance = covariance.reshape(len(covariance), -1, *covariance.shape[-2:])
    scale = scales(covariance)
    correlations = covariance / (scale[..., :, None] * scale[..., None, :])
    definite = is_definite(correlations, rank_tolerance(covariance.shape[-1], covariance.dtype)).all(-1)
    zero = (covariance == 0).flatten(1).all(-1)
    return torch.where(definite, _DEFINITE, torch.where(zero, _POINT, _SINGULAR))


def _where(axes: list[str], index: list[int]) -> str:
    return f" at ({place(axes, index)})" if axes else ""
