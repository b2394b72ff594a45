"""The entry `infer`, what a method is, and what an answer is. The core never imports a method."""

from cai.inference.callbacks import AbstractCallback, Checkpoint, ProgressBar
from cai.inference.engine import infer
from cai.inference.factor_graph import FactorGraphPosterior
from cai.inference.gaussian import GaussianPosterior
from cai.inference.junction_tree import JunctionTreePosterior
from cai.inference.kalman import KalmanPosterior
from cai.inference.laplace import LaplacePosterior
from cai.inference.loopy import LoopyPosterior
from cai.inference.method import AbstractMethod, Progress
from cai.inference.open_loop import OpenLoopPosterior
from cai.inference.posterior import Gap, Posterior, load
from cai.inference.stats import Stats
from cai.inference.tabular import TabularPosterior

__all__ = [
    "AbstractCallback",
    "AbstractMethod",
    "Checkpoint",
    "FactorGraphPosterior",
    "Gap",
    "GaussianPosterior",
    "JunctionTreePosterior",
    "KalmanPosterior",
    "LaplacePosterior",
    "LoopyPosterior",
    "OpenLoopPosterior",
    "Posterior",
    "Progress",
    "ProgressBar",
    "Stats",
    "TabularPosterior",
    "infer",
    "load",
]
