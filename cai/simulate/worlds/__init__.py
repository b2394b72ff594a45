"""Worlds: several copies of a problem, stepped together, where learners collect transitions."""

from __future__ import annotations

from cai.factors.protocols import Stepped, TabulatedDynamics
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.worlds.callables import CallableWorld
from cai.simulate.worlds.environments import EnvironmentWorld
from cai.simulate.worlds.tabular import TabularWorld
from cai.simulate.worlds.world import AbstractWorld, Episode, Step

__all__ = ["AbstractWorld", "CallableWorld", "Episode", "EnvironmentWorld", "Step", "TabularWorld", "world_of"]


def world_of(graph: TrajectoryGraph, num_envs: int, *, vectorization_mode: str | None = None) -> AbstractWorld:
    """Makes copies of a graph's world to collect transitions in: environments, tables or callable dynamics.

    Args:
        graph: The graph; its horizon truncates episodes.
        num_envs: Number of copies E.
        vectorization_mode: How environments are run: "sync", "async" (in processes), "vector_entry_point" (their own
            vector form) or None, which takes the last where there is one, else "sync". Of no effect on other worlds.

    Returns:
        The world; reset it before its first step.

    Raises:
        ValueError: Dynamics that cannot be sampled, factors that change with time, or options out of range.
    """
    if isinstance(graph.dynamics, Stepped):
        return EnvironmentWorld(graph, num_envs, vectorization_mode=vectorization_mode)
    if isinstance(graph.dynamics, TabulatedDynamics):
        return TabularWorld(graph, num_envs)
    if not callable(graph.dynamics):
        raise ValueError(
            f"dynamics: cannot sample {type(graph.dynamics).__name__}; it has neither tables nor an environment, and "
            "is no callable that gives a distribution"
        )
    return CallableWorld(graph, num_envs)
