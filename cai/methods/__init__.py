"""Inference routines, one a file. Each says which posterior it gives, what it needs and what it costs."""

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
from cai.methods.policy_evaluation import PolicyEvaluation
from cai.methods.risk_sensitive_control import RiskSensitiveControl
from cai.methods.schedules import AssociativeScan, Flooding, Residual, Sequential
from cai.methods.soft_policy_iteration import SoftPolicyIteration
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
    "SoftPolicyIteration",
    "SoftValueIteration",
    "SumProduct",
    "ValueIteration",
]
