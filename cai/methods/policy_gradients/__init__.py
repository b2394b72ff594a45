"""The parts of `PolicyGradient`: what estimates the advantage, what regularises, and how a step is taken."""

from cai.methods.policy_gradients.advantages import GAE, AbstractAdvantage, MonteCarlo, RewardToGo
from cai.methods.policy_gradients.clipped_surrogate import ClippedSurrogate
from cai.methods.policy_gradients.control_variates import FittedAdvantage
from cai.methods.policy_gradients.critics import AbstractCritic, JointCritic, SeparateCritic, SharedCritic
from cai.methods.policy_gradients.expectations import LinearInAction, Reparameterised, SumOverActions
from cai.methods.policy_gradients.importance_weighted import ImportanceWeighted
from cai.methods.policy_gradients.kl_penalty import KLPenalty
from cai.methods.policy_gradients.natural_gradient import NaturalGradient, TrustRegion
from cai.methods.policy_gradients.regularisers import AbstractRegulariser, Bonus, InReward
from cai.methods.policy_gradients.updates import AbstractUpdate, GradientStep

__all__ = [
    "GAE",
    "AbstractAdvantage",
    "AbstractCritic",
    "AbstractRegulariser",
    "AbstractUpdate",
    "Bonus",
    "ClippedSurrogate",
    "FittedAdvantage",
    "GradientStep",
    "ImportanceWeighted",
    "InReward",
    "JointCritic",
    "KLPenalty",
    "LinearInAction",
    "MonteCarlo",
    "NaturalGradient",
    "Reparameterised",
    "RewardToGo",
    "SeparateCritic",
    "SharedCritic",
    "SumOverActions",
    "TrustRegion",
]
