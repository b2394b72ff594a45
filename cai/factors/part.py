"""A part of a Gaussian factor: a matrix, a vector or a number, in the factor's type and with a time axis."""

from __future__ import annotations

import torch
from torch import Tensor


class Part:
    """A tensor `[T or 1, *batch, *event]`, of which one that learns is read anew each time.

    A tensor that requires a gradient is kept as the user gave it, in its own type, and cast where it is read: a factor
    kept while an optimiser changes it in place follows it, and its gradient arrives there.

    Args:
        given: `[*batch, *event]`, or `[T or 1, *batch, *event]` if `time_varying`.
        dtype: The factor's floating type.
        time_varying: Whether there is a time axis.
    """

    def __init__(self, given: Tensor, dtype: torch.dtype, *, time_varying: bool) -> None:
        self._given, self._dtype, self._time_varying = given, dtype, time_varying
        self.shape = given.shape if time_varying else torch.Size([1, *given.shape])
        self._fixed = None if given.requires_grad else self._read()

    @property
    def learns(self) -> bool:
        """Whether the tensor given requires a gradient, whatever `torch.no_grad` makes of what is computed of it."""
        return self._fixed is None

    @property
    def value(self) -> Tensor:
        """The tensor, `[T or 1, *batch, *event]`."""
        return self._read() if self._fixed is None else self._fixed

    @property
    def shown(self) -> Tensor:
        """The tensor as it was given: without a time axis where it has none."""
        return self.value if self._time_varying else self.value[0]

    @property
    def num_steps(self) -> int:
        """The length of the time axis; 1 serves all steps."""
        return self.shape[0]

    def batch_shape(self, event_dims: int) -> torch.Size:
        """Gives the batch, of a tensor whose events have so many dimensions."""
        return self.shape[1 : len(self.shape) - event_dims]

    def _read(self) -> Tensor:
        part = self._given.to(self._dtype)
        return part if self._time_varying else part[None]


def keeps_answers(parts: list[Part]) -> bool:
    """Whether what is made of these parts may be kept for the next question.

    Not where one learns, whether or not gradients are on just now; nor what is made in `torch.inference_mode`, since no
    gradient passes through such tensors later.
    """
    return not torch.is_inference_mode_enabled() and not any(part.learns for part in parts)
