"""How a policy moves, given advantages.

    surrogate   L(pi) = mean_t [pi(a_t|s_t) / pi_old(a_t|s_t)] A_t,     grad L = mean_t grad log pi A_t at pi = pi_old

Every update climbs this surrogate (less the regulariser's penalty, plus what a control variate puts back); they differ
in how far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cai.data.serialization import serializable
from cai.methods.policy_gradients.critics import AbstractCritic

if TYPE_CHECKING:
    from cai.methods.policy_gradients.experience import Experience
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


class AbstractUpdate(ABC):
    """Says how a policy moves.

    Attributes:
        by_gradient_steps: Whether it takes steps of the policy's optimiser on one rollout, in whose loss a critic may
            have its part.
    """

    by_gradient_steps: ClassVar[bool] = True

    def check(self, method: Any) -> None:
        """Raises ValueError for other options of a `PolicyGradient` that do not go together with this one."""
        critic: AbstractCritic | None = method.critic
        if not self.by_gradient_steps and critic is not None and critic.coefficient:
            raise ValueError(
                f"PolicyGradient: {type(self).__name__} moves the policy alone, and a {type(critic).__name__} moves "
                "with it; take critic=SeparateCritic()"
            )

    def build(self, learner: PolicyGradientLearner) -> None:  # noqa: B027  (most have nothing that learns)
        """Adds what the update itself learns to a learner."""

    @abstractmethod
    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Moves the policy of a learner; gives the number of updates."""


@serializable
@dataclass(frozen=True)
class GradientStep(AbstractUpdate):
    """One step of the optimiser on the whole rollout: REINFORCE, A2C.

    Source: Williams (1992); Mnih et al. (2016).
    """

    def __call__(self, learner: PolicyGradientLearner, experience: Experience) -> int:
        """Takes the step."""
        batch = learner.batch(experience)
        outputs = learner.outputs(batch)
        learner.ascend(learner.surrogate(batch, outputs.policy), batch, outputs)
        return 1 + learner.fit(batch)
