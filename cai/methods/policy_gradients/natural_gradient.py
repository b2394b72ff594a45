"""Steps that are measured by how far the policy moves: natural gradients and trust regions.

    natural gradient    theta <- theta + step F^-1 grad L,      F the Hessian of mean KL(pi_old || pi) at pi_old
    trust region        maximise L subject to KL(pi_old || pi) <= radius: the direction F^-1 grad L at the length
                        sqrt(2 radius / s'Fs), shortened until KL is within the radius and L has risen

L is the mean over the states seen, so that its gradient is that of (1 - gamma) J. For a tabular softmax policy and
exact advantages F^-1 grad L is the soft advantage itself, and a step of 1 / alpha along it is soft policy iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from cai.data.serialization import serializable
from cai.errors import NonFinite
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.critics import need_counts
from cai.methods.policy_gradients.updates import AbstractUpdate
from cai.methods.sampling.annealing import Annealed, at_share
from cai.ops.natural_gradient import assign_flat, conjugate_gradients, fisher_product, flat_gradient

if TYPE_CHECKING:
    from cai.methods.policy_gradients.experience import Experience
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


@serializable
@dataclass(frozen=True)
class NaturalGradient(AbstractUpdate):
    """One step along the natural gradient, of a given size or to a given distance.

    Attributes:
        radius: Nats: how far the step goes, to second order.
        step: The size of the step in its place, 1 / reward units. Give one of the two; none is a radius of 0.01.
        damping: Added to the diagonal of the Fisher matrix.
        num_cg_steps: Of conjugate gradients.

    Source: Kakade (2002).
    """

    radius: float | Annealed | None = None
    step: float | Annealed | None = None
    damping: float = 1e-3
    num_cg_steps: int = 10

    by_gradient_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_common(self)
        if self.radius is not None and self.step is not None:
            raise ValueError("NaturalGradient: give a radius or a step, not both")

    def check(self, method: Any) -> None:
        """Raises ValueError for a step in reward units where advantages have none."""
        super().check(method)
        if self.step is not None and method.standardised_advantages:
            raise ValueError(
                "NaturalGradient: a step is in units of 1 / reward, and standardised advantages have none; take "
                "standardised_advantages=False, or a radius"
            )

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the step."""
        batch = learner.batch(experience)
        slope = slope_of(learner, batch, damping=self.damping, num_cg_steps=self.num_cg_steps)
        if slope.is_level:
            return learner.fit(batch)
        if self.step is None:
            radius = at_share(_RADIUS if self.radius is None else self.radius, learner.share)
            slope.move(slope.scale(radius))
        else:
            slope.move(at_share(self.step, learner.share))
        learner.moved(batch)
        return 1 + learner.fit(batch)


@serializable
@dataclass(frozen=True)
class TrustRegion(AbstractUpdate):
    """The best step within a distance: TRPO.

    The step is inside its radius: it is shortened, by `shrinkage` at a time, until KL(old || new) in the states seen is
    at most the radius and the surrogate has risen; where that never happens the policy stays as it was.

    Attributes:
        radius: Of KL(old || new), nats.
        damping: Added to the diagonal of the Fisher matrix.
        num_cg_steps: Of conjugate gradients.
        num_backtracks: How often the step may be shortened.
        shrinkage: By which factor.

    Source: Schulman, Levine, Moritz, Jordan and Abbeel (2015).
    """

    radius: float | Annealed = 0.01
    damping: float = 1e-3
    num_cg_steps: int = 10
    num_backtracks: int = 10
    shrinkage: float = 0.8

    by_gradient_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_common(self)
        need_counts(self, "num_backtracks")
        if not 0.0 < self.shrinkage < 1.0:
            raise ValueError(f"TrustRegion: shrinkage must be in (0, 1), got {self.shrinkage!r}")

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the step, if there is one."""
        batch = learner.batch(experience)
        slope = slope_of(learner, batch, damping=self.damping, num_cg_steps=self.num_cg_steps)
        count = 0 if slope.is_level else self._searched(slope, at_share(self.radius, learner.share))
        learner.moved(batch)
        return count + learner.fit(batch)

    def _searched(self, slope: Slope, radius: float) -> int:
        length = slope.scale(radius)
        for _ in range(self.num_backtracks + 1):
            slope.move(length)
            if slope.divergence() <= radius and slope.height() > slope.start:
                return 1
            length *= self.shrinkage
        slope.move(0.0)
        return 0


@dataclass(frozen=True, eq=False)
class Slope:
    """The way up from where the policy stands.

    Attributes:
        learner: Whose policy it is.
        batch: What happened.
        origin: The parameters of the policy, `[n]`.
        direction: F^-1 grad L, `[n]`.
        curvature: s'Fs of the direction.
        start: L at the origin.
    """

    learner: PolicyGradientLearner
    batch: Batch
    origin: Tensor
    direction: Tensor
    curvature: float
    start: float

    @property
    def is_level(self) -> bool:
        """Whether there is no way up."""
        return not self.curvature > 0.0

    def scale(self, radius: float) -> float:
        """Gives the length at which KL is the radius, to second order."""
        return math.sqrt(2.0 * radius / self.curvature)

    def move(self, length: float) -> None:
        """Puts the policy so far up from the origin."""
        assign_flat(self.learner.policy_module.parameters(), self.origin + length * self.direction)

    @torch.no_grad()
    def divergence(self) -> float:
        """Gives the mean of KL(old || new), nats."""
        batch, learner = self.batch, self.learner
        outputs = learner.policy_outputs(batch.inputs, batch.offsets)
        return float(learner.density.divergence(batch.old, batch.outputs, outputs).mean())

    @torch.no_grad()
    def height(self) -> float:
        """Gives L where the policy stands."""
        return float(self.learner.objective(self.batch, self.learner.outputs(self.batch).policy))


def slope_of(learner: PolicyGradientLearner, batch: Batch, *, damping: float, num_cg_steps: int) -> Slope:
    """Finds the direction of the natural gradient.

    Args:
        learner: Whose policy it is.
        batch: What happened.
        damping: Added to the diagonal of the Fisher matrix.
        num_cg_steps: Of conjugate gradients.

    Raises:
        NonFinite: The surrogate or its gradient is NaN or infinite.
    """
    parameters = list(learner.policy_module.parameters())
    outputs = learner.outputs(batch).policy
    height = learner.objective(batch, outputs)
    gradient = flat_gradient(height, parameters)
    norm = float(gradient.norm())
    start = float(height.detach())
    if not (math.isfinite(norm) and math.isfinite(start)):
        raise NonFinite(f"the surrogate is {start:g} and the norm of its gradient {norm:g}")
    learner.metrics.add("gradient_norm", norm)
    learner.metrics.add("policy_loss", -start)
    divergence = learner.density.divergence(batch.old, batch.outputs, learner.outputs(batch).policy).mean()
    product = fisher_product(divergence, parameters, damping=damping)
    direction = conjugate_gradients(product, gradient, num_steps=num_cg_steps).solution
    origin = parameters_to_vector(parameters).detach()
    return Slope(learner, batch, origin, direction, float(direction @ product(direction)), start)


#: How far a natural gradient goes where neither distance nor step was given, nats.
_RADIUS = 0.01


def _check_common(update: NaturalGradient | TrustRegion) -> None:
    name = type(update).__name__
    need_counts(update, "num_cg_steps")
    if not update.damping >= 0.0:
        raise ValueError(f"{name}: damping must be at least 0, got {update.damping!r}")
    if update.radius is not None and not at_share(update.radius, 0.0) > 0.0:
        raise ValueError(f"{name}: radius must be positive, got {update.radius!r}")
