"""Pyro's optimisation of a variational family, one checked step at a time."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pyro
import pyro.infer
import pyro.optim
import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.methods.guides.family import AbstractFamily


class Climber:
    """`pyro.infer.SVI` on a family, which refuses a step that is not finite before it is taken.

    Args:
        family: The family.
        rate: Adam's learning rate at the first step.
        decay: What a step multiplies it by.
        small: The slope at which no step is taken any more, nats.
    """

    def __init__(self, family: AbstractFamily, *, rate: float, decay: float, small: float) -> None:
        self._family, self._small = family, small
        self._num_steps, self._bound, self._residual = 0, -math.inf, math.inf
        self._adam = pyro.optim.ClippedAdam({"lr": rate, "lrd": decay})
        program = (lambda: family.model(), lambda: family.guide())  # exact families need neither
        self._svi = pyro.infer.SVI(*program, self._adam, self._loss, loss_and_grads=self._loss_and_grads)

    def climb(self, num_steps: int) -> tuple[float, float]:
        """Takes a step with the family's store open, unless the slope is small already.

        Returns:
            The bound, and the greatest entry of its gradient, before the step, nats.

        Raises:
            NonFinite: The bound or its gradient is NaN or infinite; the parameters are as before.
        """
        self._num_steps = num_steps
        with contextlib.suppress(_AtRest):  # there Adam would go on for a while, by what it remembers
            self._svi.step()
        return self._bound, self._residual

    def memory(self) -> dict[str, Any]:
        """Copies what Adam remembers of each parameter."""
        with self._family.store.opened():
            return copy.deepcopy(self._adam.get_state())

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave."""
        self._adam.set_state(memory)

    def _loss(self, model: Any, guide: Any) -> Tensor:
        try:
            return self._family.loss()
        except ValueError as error:
            if "nan" not in str(error):
                raise
            raise self._not_finite(" ".join(str(error).split())) from error

    def _loss_and_grads(self, model: Any, guide: Any) -> Tensor:
        """Computes the loss, and sets the gradient of the parameters, but of no tensor in a user's factors."""
        loss = self._loss(model, guide)
        self._bound = -float(loss.detach())
        if not math.isfinite(self._bound):
            raise self._not_finite(f"the bound is {self._bound}")
        params = [param for _, param in pyro.get_param_store().named_parameters()]
        slopes = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True) if params else ()
        self._residual = max((float(slope.abs().max()) for slope in slopes if slope.numel()), default=0.0)
        if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
            raise self._not_finite("the gradient has entries that are nan or infinite")
        if self._residual <= self._small:
            raise _AtRest
        for param, slope in zip(params, slopes, strict=True):
            param.grad = slope
        return loss.detach()

    def _not_finite(self, what: str) -> NonFinite:
        return NonFinite(f"SVI: at step {self._num_steps} {what}; the parameters are those before it")


class _AtRest(Exception):
    """The gradient is small enough: no step is to be taken."""
