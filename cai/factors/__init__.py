"""Factors: what stands in a graph.

A factor is a callable: `dynamics(state, action)` gives a distribution, `reward(state, action, next_state=None)` a
tensor, `action_prior(state)` a distribution. What a factor can do beyond that it declares by a Protocol of
`cai.factors.protocols`.
"""

from cai.factors.differentiable import DifferentiableDynamics, FunctionReward
from cai.factors.distributions import DegenerateNormal
from cai.factors.dynamics import TabularDynamics
from cai.factors.environment import Environment
from cai.factors.gaussian import Gaussian, LinearGaussianPolicy
from cai.factors.initial import Categorical, Delta
from cai.factors.linear_gaussian import LinearGaussianDynamics
from cai.factors.observation import LinearGaussianObservation
from cai.factors.policy import FlatPrior, TabularPolicy, UniformPolicy
from cai.factors.quadratic_reward import QuadraticReward
from cai.factors.reward import LinearReward, TabularReward

__all__ = [
    "Categorical",
    "DegenerateNormal",
    "Delta",
    "DifferentiableDynamics",
    "Environment",
    "FlatPrior",
    "FunctionReward",
    "Gaussian",
    "LinearGaussianDynamics",
    "LinearGaussianObservation",
    "LinearGaussianPolicy",
    "LinearReward",
    "QuadraticReward",
    "TabularDynamics",
    "TabularPolicy",
    "TabularReward",
    "UniformPolicy",
]
