"""The entry `infer`, what a method is, and what an answer is. The core never imports a method."""

from cai.inference.callbacks import (
    AbstractCallback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    Evaluation,
    ExactComparison,
    JSONLLogger,
    ProgressBar,
    StopInference,
    TensorBoardLogger,
    TimeLimit,
    read_jsonl,
)
from cai.inference.engine import infer
from cai.inference.factor_graph import FactorGraphPosterior
from cai.inference.gaussian import GaussianPosterior
from cai.inference.history import Curve, History
from cai.inference.junction_tree import JunctionTreePosterior
from cai.inference.kalman import KalmanPosterior
from cai.inference.laplace import LaplacePosterior
from cai.inference.learned import Estimate, LearnedPosterior
from cai.inference.loopy import LoopyPosterior
from cai.inference.method import AbstractMethod, Progress
from cai.inference.open_loop import OpenLoopPosterior
from cai.inference.posterior import Gap, Posterior, load
from cai.inference.stats import Stats
from cai.inference.tabular import TabularPosterior

__all__ = [
    "AbstractCallback",
    "AbstractMethod",
    "CSVLogger",
    "Checkpoint",
    "Curve",
    "EarlyStopping",
    "Estimate",
    "Evaluation",
    "ExactComparison",
    "FactorGraphPosterior",
    "Gap",
    "GaussianPosterior",
    "History",
    "JSONLLogger",
    "JunctionTreePosterior",
    "KalmanPosterior",
    "LaplacePosterior",
    "LearnedPosterior",
    "LoopyPosterior",
    "OpenLoopPosterior",
    "Posterior",
    "Progress",
    "ProgressBar",
    "Stats",
    "StopInference",
    "TabularPosterior",
    "TensorBoardLogger",
    "TimeLimit",
    "infer",
    "load",
    "read_jsonl",
]
