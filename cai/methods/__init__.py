"""Inference routines, one a file. Each says which posterior it gives, what it needs and what it costs."""

from cai.methods.actor_critic.options import DeterministicLimit, TargetDivergence, TargetEntropy
from cai.methods.cross_entropy_policy_search import CrossEntropyPolicySearch
from cai.methods.evaluation.estimators import EveryVisitMonteCarlo, FirstVisitMonteCarlo, TemporalDifference
from cai.methods.evaluation.sampled import SampledEvaluation
from cai.methods.evaluation.values import NetworkValues, TableValues
from cai.methods.gradient_planner import GradientPlanner
from cai.methods.guides import FixedDynamicsGuide, MeanFieldGuide
from cai.methods.ilqr import (
    ILQR,
    GaussNewton,
    LineSearch,
    MultipleShooting,
    RegularisationSchedule,
    SecondOrder,
    SingleShooting,
)
from cai.methods.kalman import KalmanFilter, KalmanSmoother
from cai.methods.loopy_belief_propagation import LoopyBeliefPropagation
from cai.methods.max_product import MaxProduct
from cai.methods.path_consistency import PathConsistency
from cai.methods.paths.models import SeparateModels, TableBody, UnifiedModel
from cai.methods.paths.replays import ReturnRolloutReplay, UniformRolloutReplay
from cai.methods.paths.residuals import DoubleSampledResidual, SquaredResidual
from cai.methods.policy_evaluation import PolicyEvaluation
from cai.methods.policy_gradient import PolicyGradient
from cai.methods.policy_gradients import (
    GAE,
    AbstractAdvantage,
    AbstractCritic,
    AbstractRegulariser,
    AbstractUpdate,
    Bonus,
    ClippedSurrogate,
    FittedAdvantage,
    GradientStep,
    ImportanceWeighted,
    InReward,
    JointCritic,
    KLPenalty,
    LinearInAction,
    MonteCarlo,
    NaturalGradient,
    Reparameterised,
    RewardToGo,
    SeparateCritic,
    SharedCritic,
    SumOverActions,
    TrustRegion,
)
from cai.methods.risk_sensitive_control import RiskSensitiveControl
from cai.methods.sampling.annealing import Annealed
from cai.methods.sampling.exploration import (
    AbstractExploration,
    Boltzmann,
    EpsilonGreedy,
    EpsilonSoft,
    SoftPolicy,
)
from cai.methods.sampling.losses import HuberLoss, SquaredLoss
from cai.methods.sampling.replays import NoReplay, PrioritisedReplay, UniformReplay
from cai.methods.sampling.targets import PeriodicTarget, PolyakTarget
from cai.methods.schedules import AssociativeScan, Flooding, Residual, Sequential
from cai.methods.soft_actor_critic import SoftActorCritic
from cai.methods.soft_policy_iteration import SoftPolicyIteration
from cai.methods.soft_q.backups import DoubleBackup, SoftBackup, TwinBackup
from cai.methods.soft_q.dueling import Dueling
from cai.methods.soft_q.network import Network
from cai.methods.soft_q.proposals import SamplerProposal, UniformProposal
from cai.methods.soft_q.quadratic import LinearQuadraticBody, Quadratic
from cai.methods.soft_q.stein import Stein
from cai.methods.soft_q.step_sizes import HarmonicSteps, PolynomialSteps
from cai.methods.soft_q.tabular import Tabular
from cai.methods.soft_q_learning import SoftQLearning
from cai.methods.soft_value_iteration import SoftValueIteration
from cai.methods.solvers import (
    AbstractSolver,
    Anderson,
    ModifiedPolicyIteration,
    Newton,
    NewtonKrylov,
    PrioritisedSweeps,
    ValueIteration,
)
from cai.methods.sum_product import SumProduct
from cai.methods.svi import SVI

__all__ = [
    "EveryVisitMonteCarlo",
    "FirstVisitMonteCarlo",
    "TemporalDifference",
    "SampledEvaluation",
    "NetworkValues",
    "TableValues",
    "CrossEntropyPolicySearch",
    "PathConsistency",
    "SeparateModels",
    "TableBody",
    "UnifiedModel",
    "ReturnRolloutReplay",
    "UniformRolloutReplay",
    "DoubleSampledResidual",
    "SquaredResidual",
    "SoftQLearning",
    "LinearQuadraticBody",
    "Quadratic",
    "SamplerProposal",
    "Stein",
    "UniformProposal",
    "Tabular",
    "PolynomialSteps",
    "HarmonicSteps",
    "Network",
    "Dueling",
    "TwinBackup",
    "SoftBackup",
    "DoubleBackup",
    "PolyakTarget",
    "PeriodicTarget",
    "UniformReplay",
    "PrioritisedReplay",
    "NoReplay",
    "SquaredLoss",
    "HuberLoss",
    "SoftPolicy",
    "EpsilonSoft",
    "EpsilonGreedy",
    "Boltzmann",
    "AbstractExploration",
    "Annealed",
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
    "PolicyGradient",
    "SingleShooting",
    "SecondOrder",
    "RegularisationSchedule",
    "MultipleShooting",
    "LineSearch",
    "ILQR",
    "GaussNewton",
    "SVI",
    "AbstractSolver",
    "Anderson",
    "AssociativeScan",
    "DeterministicLimit",
    "FixedDynamicsGuide",
    "Flooding",
    "GradientPlanner",
    "KalmanFilter",
    "KalmanSmoother",
    "LoopyBeliefPropagation",
    "MaxProduct",
    "MeanFieldGuide",
    "ModifiedPolicyIteration",
    "Newton",
    "NewtonKrylov",
    "PolicyEvaluation",
    "PrioritisedSweeps",
    "Residual",
    "RiskSensitiveControl",
    "Sequential",
    "SoftActorCritic",
    "SoftPolicyIteration",
    "SoftValueIteration",
    "SumProduct",
    "TargetDivergence",
    "TargetEntropy",
    "ValueIteration",
]
