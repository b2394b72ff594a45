"""The last rollouts again, weighed by what the policy would do now.

    grad J = E_b sum_t (prod_{k<=t} rho_k) grad log pi(a_t|s_t) A_t,     rho_k = min(c, pi(a_k|s_k) / b(a_k|s_k))

A_t of `RewardToGo` weighs each later reward by the rho in between: exact without a truncation, and of a variance that
grows with the length of episodes. `GAE` weighs errors so, and leaves out the weights of what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.methods.policy_gradients.advantages import MonteCarlo
from cai.methods.policy_gradients.critics import need_counts
from cai.methods.policy_gradients.experience import Experience
from cai.methods.policy_gradients.updates import AbstractUpdate
from cai.ops.importance import effective_sample_size

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


@serializable
@dataclass(frozen=True)
class ImportanceWeighted(AbstractUpdate):
    """A step on the last rollouts together, each weighed by importance.

    A critic is fitted to the newest alone. The rollouts kept are no part of a checkpoint: a run that is resumed begins
    with the next one.

    Attributes:
        clip: c; infinite for no truncation, which leaves no bias and any variance. 1 counts no row more than once.
        num_reuses: In how many steps a rollout takes part.

    Source: Precup, Sutton and Singh (2000); Espeholt et al. (2018) for the truncation.
    """

    clip: float = 2.0
    num_reuses: int = 4

    by_gradient_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_counts(self, "num_reuses")
        if not self.clip > 0.0:
            raise ValueError(f"ImportanceWeighted: clip must be positive, got {self.clip!r}")

    def check(self, method: Any) -> None:
        """Raises ValueError for what has no weighted form."""
        super().check(method)
        if method.control_variate is not None:
            raise ValueError("PolicyGradient: control variates are for the policy that acted, not ImportanceWeighted")
        if isinstance(method.advantage, MonteCarlo):
            raise ValueError("PolicyGradient: MonteCarlo has no weights per decision; use RewardToGo() or GAE()")

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the step."""
        batch = learner.batch(experience)
        learner.past.append(experience)
        del learner.past[: -self.num_reuses]
        weighted = [weighted_gain(learner, past, self.clip) for past in learner.past]
        log_weights = torch.cat([one.log_weights for one in weighted])
        learner.metrics.add("effective_sample_size", effective_sample_size(log_weights) / len(log_weights))
        gain = torch.stack([one.gain for one in weighted]).sum() / len(log_weights)
        learner.ascend(gain, batch, learner.outputs(batch))
        learner.moved(batch)
        return 1 + learner.fit(batch)


@dataclass(frozen=True, eq=False)
class WeightedGain:
    """What a rollout adds to the surrogate.

    Attributes:
        gain: 0-dim, a sum over rows; its gradient is the estimate.
        log_weights: `[B]`, of the rows, nats.
    """

    gain: Tensor
    log_weights: Tensor


def weighted_gain(learner: PolicyGradientLearner, experience: Experience, clip: float) -> WeightedGain:
    """Weighs a rollout of an earlier policy.

    Args:
        learner: Whose policy is in question.
        experience: What happened.
        clip: What each factor pi / b is truncated at.
    """
    rows = experience.valid
    outputs = learner.policy_outputs(experience.inputs, experience.offsets)
    flat = learner.density.log_prob(outputs.flatten(0, 1), experience.actions.flatten(0, 1))
    log_probs = flat.reshape(rows.shape)
    now = log_probs.detach()
    log_ratios = now - experience.log_priors
    segment, charge = experience.segment(learner, log_ratios), learner.method.regulariser.charge(learner, log_ratios)
    estimates = learner.method.advantage.weigh(segment, now - experience.log_probs, clip)
    weights, advantages = estimates.weights[rows], (estimates.advantages - charge)[rows] / learner.reward_scale
    if learner.method.standardised_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + _LITTLE)
    return WeightedGain((weights * advantages * log_probs[rows]).sum(), weights.log())


#: Added to the standard deviation of advantages.
_LITTLE = 1e-8
