"""Where the entropy, or the divergence from the action prior, enters a policy gradient.

    in the reward    J = E sum_t gamma^t [r_t - alpha log(pi/mu)(a_t|s_t)], the objective of inference: what is paid
                     later for being certain counts now, and the critic is the soft value
    as a bonus       E sum_t gamma^t r_t for the advantages, and - c KL(pi(.|s) || mu(.|s)) in the states seen

At temperature 0 they are the same, nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.heads import GaussianHead, MultiCategoricalHead, SquashedGaussianHead, StateGaussianHead
from cai.factors.squashed import SquashedNormal
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.densities import LogitsDensity, expected_difference
from cai.methods.sampling.priors import ConstantPrior

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


class AbstractRegulariser(ABC):
    """Says where log(pi/mu) enters."""

    @abstractmethod
    def rewards(self, rewards: Tensor, log_ratios: Tensor, temperature: float) -> Tensor:
        """Gives what returns are made of, of rewards (reward units) and log(pi/mu) (nats), `[*batch]` each."""

    def penalty(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor | None:
        """Gives what is taken from the objective, reward units, 0-dim, as a function of the current outputs."""
        return None

    def charge(self, learner: PolicyGradientLearner, log_ratios: Tensor) -> Tensor | float:
        """Gives what is taken from advantages, by log(pi/mu) `[*batch]` of the actions, where `penalty` has no form."""
        return 0.0


@serializable
@dataclass(frozen=True)
class InReward(AbstractRegulariser):
    """alpha log(pi/mu) is paid with every reward: the objective of inference, and a soft critic.

    Source: Levine (2018), section 4.1; Schulman, Chen and Abbeel (2017).
    """

    def rewards(self, rewards: Tensor, log_ratios: Tensor, temperature: float) -> Tensor:
        """Takes alpha log(pi/mu) from each reward."""
        return rewards if temperature == 0.0 else rewards - temperature * log_ratios


@serializable
@dataclass(frozen=True)
class Bonus(AbstractRegulariser):
    """The divergence of the current policy in the states seen is taken from the objective; returns know nothing of it.

    Its maximum is not the posterior, but greedier: what is certain later costs nothing now. The critic is the value
    without entropy. (The usual entropy bonus is this with `FlatPrior()`, which differs by a constant.)

    Attributes:
        coefficient: Reward units; None is the graph's temperature.

    Source: Williams and Peng (1991); Mnih et al. (2016).
    """

    coefficient: float | None = None

    def __post_init__(self) -> None:
        if self.coefficient is not None and not 0.0 <= self.coefficient < math.inf:
            raise ValueError(f"Bonus: coefficient must be at least 0, got {self.coefficient!r}")

    def rewards(self, rewards: Tensor, log_ratios: Tensor, temperature: float) -> Tensor:
        """Leaves them alone."""
        return rewards

    def penalty(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor | None:
        """Computes c KL(pi || mu), in closed form, or by fresh actions of a squashed normal, differentiated through."""
        coefficient, density = self._coefficient(learner), learner.density
        if coefficient == 0.0 or not _has_form(learner):
            return None
        if isinstance(density, LogitsDensity):
            log_prior = learner.prior.log_probs(batch.inputs) if batch.offsets is None else batch.offsets
            return coefficient * expected_difference(outputs.log_softmax(-1), log_prior).mean()
        assert isinstance(learner.prior, ConstantPrior)
        policy = density.distribution(outputs)
        entropy = -policy.rsample_with_log_prob()[1] if isinstance(policy, SquashedNormal) else policy.entropy()
        return coefficient * (-entropy.mean() - learner.prior.log_density)

    def charge(self, learner: PolicyGradientLearner, log_ratios: Tensor) -> Tensor | float:
        """Computes c log(pi/mu): grad E_pi log(pi/mu) = E_pi grad log pi log(pi/mu), by the actions that were taken."""
        coefficient = self._coefficient(learner)
        return 0.0 if coefficient == 0.0 or _has_form(learner) else coefficient * log_ratios

    def _coefficient(self, learner: PolicyGradientLearner) -> float:
        return learner.temperature if self.coefficient is None else self.coefficient


def _has_form(learner: PolicyGradientLearner) -> bool:
    """Whether KL(pi || mu) can be differentiated as it stands."""
    if isinstance(learner.density, LogitsDensity):
        return True
    return isinstance(learner.prior, ConstantPrior) and isinstance(learner.policy_module.head, _WITH_FORM)


#: Heads whose entropy is a closed form, or a mean over actions that can be differentiated through.
_WITH_FORM = (MultiCategoricalHead, GaussianHead, StateGaussianHead, SquashedGaussianHead)
