"""Factors: what stands in a graph.

A factor is a callable: `dynamics(state, action)` gives a distribution, `reward(state, action, next_state=None)` a
tensor, `action_prior(state)` a distribution. What a factor can do beyond that it declares by a Protocol of
`cai.factors.protocols`.
"""

from cai.factors.diagonal_normal import DiagonalNormal, PointMass
from cai.factors.differentiable import DifferentiableDynamics, FunctionReward
from cai.factors.distributions import DegenerateNormal
from cai.factors.dynamics import TabularDynamics
from cai.factors.environment import Environment
from cai.factors.gaussian import Gaussian, LinearGaussianPolicy
from cai.factors.heads import (
    CategoricalHead,
    DeterministicHead,
    GaussianHead,
    MultiCategoricalHead,
    SquashedGaussianHead,
    StateGaussianHead,
    default_head,
    greedy_action,
)
from cai.factors.initial import Categorical, Delta
from cai.factors.joint_categorical import JointCategorical
from cai.factors.linear_gaussian import LinearGaussianDynamics
from cai.factors.multi_categorical import MultiCategorical
from cai.factors.networks import MLP, MLPBody, OrthogonalInitialisation, StackedMLP
from cai.factors.neural_policies import NeuralPolicy, Standardisation
from cai.factors.observation import LinearGaussianObservation
from cai.factors.policy import FlatPrior, TabularPolicy, UniformPolicy
from cai.factors.quadratic_reward import QuadraticReward
from cai.factors.recorded import RecordedDynamics
from cai.factors.reward import LinearReward, TabularReward
from cai.factors.squashed import SquashedNormal

__all__ = [
    "RecordedDynamics",
    "MLP",
    "Categorical",
    "CategoricalHead",
    "DegenerateNormal",
    "Delta",
    "DeterministicHead",
    "DiagonalNormal",
    "DifferentiableDynamics",
    "Environment",
    "FlatPrior",
    "FunctionReward",
    "Gaussian",
    "GaussianHead",
    "JointCategorical",
    "LinearGaussianDynamics",
    "LinearGaussianObservation",
    "LinearGaussianPolicy",
    "LinearReward",
    "MLPBody",
    "MultiCategorical",
    "MultiCategoricalHead",
    "NeuralPolicy",
    "OrthogonalInitialisation",
    "PointMass",
    "QuadraticReward",
    "SquashedGaussianHead",
    "SquashedNormal",
    "StackedMLP",
    "Standardisation",
    "StateGaussianHead",
    "TabularDynamics",
    "TabularPolicy",
    "TabularReward",
    "UniformPolicy",
    "default_head",
    "greedy_action",
]
