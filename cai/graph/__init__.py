"""Graphs: the trajectory graph, the general factor graph, and how graphs are made, unrolled and drawn."""

from cai.graph.conversions import from_pyro
from cai.graph.environments import from_gym
from cai.graph.factor_graph import Factor, FactorGraph, Variable
from cai.graph.library import load_model, models
from cai.graph.trajectory_graph import Evidence, TrajectoryGraph

__all__ = [
    "Evidence",
    "Factor",
    "FactorGraph",
    "TrajectoryGraph",
    "Variable",
    "from_gym",
    "from_pyro",
    "load_model",
    "models",
]
