"""A price on moving, and the price that keeps the movement at a target.

maximise over pi     L(pi) - lambda (KL(pi_old || pi) - target)
ascend in lambda     log lambda <- log lambda + rate (KL / target - 1),     the ascent of the dual in log lambda
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.methods.policy_gradients.critics import need_counts
from cai.methods.policy_gradients.updates import AbstractUpdate

if TYPE_CHECKING:
    from cai.methods.policy_gradients.experience import Experience
    from cai.methods.policy_gradients.learner import PolicyGradientLearner

#: The most that log lambda moves after a rollout.
_STRIDE = math.log(2.0)


@serializable
@dataclass(frozen=True)
class KLPenalty(AbstractUpdate):
    """Steps on minibatches with a price on KL(old || new), which dual ascent brings to a target.

    Attributes:
        target: Nats.
        num_epochs: Passes over a rollout.
        batch_size: Rows of a step.
        rate: Of the ascent; log lambda moves by at most log 2 after a rollout.
        initial: lambda at first, in the units of advantages.

    Source: Schulman, Wolski, Dhariwal, Radford and Klimov (2017), section 4; Boyd and Vandenberghe (2004), section 5.
    """

    target: float = 0.01
    num_epochs: int = 10
    batch_size: int = 64
    rate: float = 0.5
    initial: float = 1.0

    def __post_init__(self) -> None:
        need_counts(self, "num_epochs", "batch_size")
        for name in ("target", "rate", "initial"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"KLPenalty: {name} must be positive, got {getattr(self, name)!r}")

    def build(self, learner: PolicyGradientLearner) -> None:
        """Adds log lambda."""
        learner.modules["kl_penalty"] = _Price(math.log(self.initial))

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the steps, then moves the price."""
        batch, count = learner.batch(experience), 0
        kept: _Price = learner.modules["kl_penalty"]  # type: ignore[assignment]
        price = float(kept.log_price.exp())
        for _ in range(self.num_epochs):
            for part in batch.minibatches(self.batch_size):
                outputs = learner.outputs(part)
                divergence = learner.density.divergence(part.old, part.outputs, outputs.policy).mean()
                learner.ascend(learner.surrogate(part, outputs.policy) - price * divergence, part, outputs)
                count += 1
        excess = learner.moved(batch).divergence / self.target - 1.0
        kept.log_price += max(-_STRIDE, min(_STRIDE, self.rate * excess))
        learner.metrics.add("kl_price", price)
        return count + learner.fit(batch)


class _Price(nn.Module):
    """log lambda, as a buffer: a checkpoint takes it along."""

    log_price: Tensor

    def __init__(self, log_price: float) -> None:
        super().__init__()
        self.register_buffer("log_price", torch.tensor(log_price, dtype=torch.float64))
