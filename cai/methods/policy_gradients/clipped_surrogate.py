"""Proximal policy optimisation: several epochs on a rollout, with nothing to gain from going far.

maximise  mean_t min(rho_t A_t, clip(rho_t, 1 - c, 1 + c) A_t),     rho_t = pi(a_t|s_t) / pi_old(a_t|s_t)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.critics import need_counts
from cai.methods.policy_gradients.updates import AbstractUpdate
from cai.methods.sampling.annealing import Annealed, at_share

if TYPE_CHECKING:
    from cai.methods.policy_gradients.experience import Experience
    from cai.methods.policy_gradients.learner import PolicyGradientLearner

#: Epochs end when the mean divergence of a minibatch exceeds the target by this factor.
_SLACK = 1.5


@serializable
@dataclass(frozen=True)
class ClippedSurrogate(AbstractUpdate):
    """Steps on minibatches, up to where the ratio leaves [1 - clip, 1 + clip]: PPO.

    Attributes:
        clip: c.
        num_epochs: Passes over a rollout.
        batch_size: Rows of a step.
        target_kl: Nats; the epochs end early once a minibatch's estimate of KL(old || new) is beyond 1.5 times this.
            None never ends them early.

    Source: Schulman, Wolski, Dhariwal, Radford and Klimov (2017).
    """

    clip: float | Annealed = 0.2
    num_epochs: int = 10
    batch_size: int = 64
    target_kl: float | None = None

    def __post_init__(self) -> None:
        need_counts(self, "num_epochs", "batch_size")
        for end in (at_share(self.clip, 0.0), at_share(self.clip, 1.0)):
            if not end >= 0.0:
                raise ValueError(f"ClippedSurrogate: clip must be at least 0, got {self.clip!r}")

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the steps."""
        batch, clip = learner.batch(experience), at_share(self.clip, learner.share)
        count = self._climbed(learner, batch, clip)
        ratios = learner.moved(batch).ratios
        learner.metrics.add("clip_fraction", ((ratios - 1.0).abs() > clip).to(torch.float32).mean())
        return count + learner.fit(batch)

    def _climbed(self, learner: PolicyGradientLearner, batch: Batch, clip: float) -> int:
        count = 0
        for _ in range(self.num_epochs):
            for part in batch.minibatches(self.batch_size):
                outputs = learner.outputs(part)
                log_ratios = learner.density.log_prob(outputs.policy, part.actions) - part.log_probs
                if self.target_kl is not None and _divergence(log_ratios.detach()) > _SLACK * self.target_kl:
                    return count
                ratios = log_ratios.exp()
                clipped = ratios.clamp(1.0 - clip, 1.0 + clip)
                gain = torch.minimum(ratios * part.advantages, clipped * part.advantages).mean()
                learner.ascend(gain, part, outputs)
                count += 1
        return count


def _divergence(log_ratios: Tensor) -> float:
    """Estimates KL(old || new) of rows drawn from the old policy: mean of rho - 1 - log rho, none of which is negative.

    Source: Schulman (2020).
    """
    return float((log_ratios.expm1() - log_ratios).mean())
