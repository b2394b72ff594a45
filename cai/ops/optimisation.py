"""What learning by gradients does to parameters, as functions of tensors.

    polyak    y <- y + rate (x - y),      rate the weight of the new parameters x
    Adam      m <- b1 m + (1 - b1) g,     v <- b2 v + (1 - b2) g^2,
              x <- x - learning_rate (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps)

Each does all its tensors in a call or two: at the sizes of reinforcement learning a loop over them in Python would cost
as much as the arithmetic.

Sources: Polyak and Juditsky (1992); Kingma and Ba (2015).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: Where torch does Adam's update of all parameters in one kernel.
_FUSED = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Takes parameters for constants in the block: no gradient is computed for them, while it passes through them.

    Args:
        parameters: Leaf tensors of any shape, such as a critic's while the actor learns; each is left as it was found.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@torch.no_grad()
def polyak(target: list[Tensor] | tuple[Tensor, ...], source: list[Tensor] | tuple[Tensor, ...], rate: float) -> None:
    """Moves target parameters towards the learned ones, in place: target <- (1 - rate) target + rate source.

    Args:
        target: What moves, tensors of any shape.
        source: What it follows, of the same shapes.
        rate: The weight of the new parameters, in [0, 1]; 1 copies them. (Some of the literature calls 1 - rate tau.)

    Raises:
        ValueError: A rate outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"polyak: rate is the weight of the new parameters, in [0, 1], got {rate}")
    torch._foreach_lerp_(target, source, rate)


def fused_adam(
    parameters: Iterable[Tensor],
    learning_rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Makes an Adam that updates all parameters in one kernel, where their device and type have one.

    Args:
        parameters: Leaf tensors of any shape.
        learning_rate: Step size, at least 0.
        betas: Decay of the two moments.
        eps: What is added to the root of the second moment.
        weight_decay: Coefficient of the squared norm.
    """
    learned = list(parameters)
    fused = all(parameter.device.type in _FUSED and parameter.is_floating_point() for parameter in learned)
    make = _GatheredAdam if fused and len({(p.device, p.dtype) for p in learned}) == 1 else torch.optim.Adam
    return make(learned, learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True if fused else None)


class _GatheredAdam(torch.optim.Adam):
    """A fused Adam that gathers what its kernel takes once, not at each step.

    With the networks of reinforcement learning, gathering takes torch as long as the kernel itself. Hooks of steps are
    not called.
    """

    _gathered: list[tuple[list[Tensor], ...]] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Takes a step; the first one, and the one after a state was loaded, as torch does it."""
        gradients = [[parameter.grad for parameter in group["params"]] for group in self.param_groups]
        if self._gathered is None or closure is not None or any(g is None for row in gradients for g in row):
            loss = super().step(closure)
            self._gather()
            return loss
        for group, row, (learned, means, squares, counts) in zip(
            self.param_groups, gradients, self._gathered, strict=True
        ):
            torch._foreach_add_(counts, 1)
            torch._fused_adam_(
                learned,
                row,
                means,
                squares,
                [],
                counts,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return None

    # else torch wraps it for its profiler
    step.hooked = True  # type: ignore[attr-defined]

    def _gather(self) -> None:
        states = [[self.state[parameter] for parameter in group["params"]] for group in self.param_groups]
        if all(state for row in states for state in row):
            self._gathered = [
                (list(group["params"]), *([state[key] for state in row] for key in ("exp_avg", "exp_avg_sq", "step")))
                for group, row in zip(self.param_groups, states, strict=True)
            ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._gathered = None


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Rounds numbers below the least normal one to zero in the block, by the calling thread, and undoes it afterwards.

    Old gradients in Adam's moments decay into this range, where the processor is many times slower. The switch belongs
    to the thread and reaches everything that it computes, environments and numpy included (numpy even warns if it first
    looks at a floating type meanwhile): let the block hold the updates alone. To flip it takes a microsecond or two.
    torch has no way to ask how the switch stands, so an operation is tried. Does nothing where the processor has none.
    """
    if _flushes_denormals():
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _flushes_denormals() -> bool:
    """Whether half of the least normal number is zero to this thread."""
    return sys.float_info.min * 0.5 == 0.0
