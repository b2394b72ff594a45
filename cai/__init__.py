"""cai: control as inference. A trajectory is a graphical model; everything else is a question put to it.

Build a graph, ask it by a method, read the posterior:

    graph = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.1)
    posterior = cai.infer(graph, cai.SoftValueIteration())
    posterior.policy(0).probs, posterior.state_marginals, posterior.log_evidence
"""

import importlib
from typing import Any

from cai import factors, methods, ops, plan
from cai.data import GridSpace, Trajectories
from cai.errors import (
    CorruptFile,
    EstimatedInitial,
    IncompatibleMethod,
    NonFinite,
    NotConverged,
    Unavailable,
)
from cai.factors import UniformPolicy
from cai.graph import Evidence, Factor, FactorGraph, TrajectoryGraph, Variable, from_gym, from_pyro, load_model, models
from cai.inference import (
    AbstractCallback,
    AbstractMethod,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    Evaluation,
    ExactComparison,
    FactorGraphPosterior,
    Gap,
    History,
    JSONLLogger,
    LearnedPosterior,
    Posterior,
    ProgressBar,
    Stats,
    StopInference,
    TensorBoardLogger,
    TimeLimit,
    infer,
    load,
)
from cai.methods import (
    ILQR,
    SVI,
    CrossEntropyPolicySearch,
    GradientPlanner,
    KalmanFilter,
    KalmanSmoother,
    LoopyBeliefPropagation,
    MaxProduct,
    PathConsistency,
    PolicyEvaluation,
    PolicyGradient,
    RiskSensitiveControl,
    SoftActorCritic,
    SoftPolicyIteration,
    SoftQLearning,
    SoftValueIteration,
    SumProduct,
)
from cai.simulate import rollout

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads `cai.plots` when it is first used, since it needs matplotlib, which is an extra."""
    if name == "plots":
        return importlib.import_module("cai.plots")
    raise AttributeError(f"module 'cai' has no attribute {name!r}")


__all__ = [
    "ILQR",
    "SVI",
    "AbstractCallback",
    "AbstractMethod",
    "CSVLogger",
    "Checkpoint",
    "CorruptFile",
    "CrossEntropyPolicySearch",
    "EarlyStopping",
    "EstimatedInitial",
    "Evaluation",
    "Evidence",
    "ExactComparison",
    "Factor",
    "FactorGraph",
    "FactorGraphPosterior",
    "Gap",
    "GradientPlanner",
    "GridSpace",
    "History",
    "IncompatibleMethod",
    "JSONLLogger",
    "KalmanFilter",
    "KalmanSmoother",
    "LearnedPosterior",
    "LoopyBeliefPropagation",
    "MaxProduct",
    "NonFinite",
    "NotConverged",
    "PathConsistency",
    "PolicyEvaluation",
    "PolicyGradient",
    "Posterior",
    "ProgressBar",
    "RiskSensitiveControl",
    "SoftActorCritic",
    "SoftPolicyIteration",
    "SoftQLearning",
    "SoftValueIteration",
    "Stats",
    "StopInference",
    "SumProduct",
    "TensorBoardLogger",
    "TimeLimit",
    "Trajectories",
    "TrajectoryGraph",
    "Unavailable",
    "UniformPolicy",
    "Variable",
    "factors",
    "from_gym",
    "from_pyro",
    "infer",
    "load",
    "load_model",
    "methods",
    "models",
    "ops",
    "plan",
    "rollout",
]
