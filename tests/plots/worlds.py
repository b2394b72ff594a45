"""Posteriors to draw, each inferred once."""

from __future__ import annotations

import functools

import torch

import cai
from cai.data.spaces import GridSpace


@functools.cache
def lake(method: str = "SoftValueIteration", temperature: float = 0.01) -> cai.Posterior:
    """FrozenLake, 4 x 4, 100 steps."""
    graph = cai.from_gym("FrozenLake-v1", horizon=100, temperature=temperature)
    return cai.infer(graph, getattr(cai, method)())


@functools.cache
def rooms(size: int = 5, horizon: int | None = None, discount: float = 1.0) -> cai.Posterior:
    """Four rooms: walls are off the grid, the goal is worth ten."""
    graph = cai.load_model("gridworld", size=size, slip=0.1, horizon=horizon, discount=discount)
    return cai.infer(graph, cai.SoftValueIteration())


@functools.cache
def inventory(method: str = "SoftValueIteration") -> cai.Posterior:
    """A world that is no grid."""
    return cai.infer(cai.load_model("inventory"), getattr(cai, method)())


@functools.cache
def walk(horizon: int | None = None) -> cai.Posterior:
    """A grid of one row, without labels."""
    return cai.infer(cai.load_model("random_walk", horizon=horizon), cai.SoftValueIteration())


def compass(probs: list[float]) -> cai.Posterior:
    """One cell in the middle of nine, four moves and staying, and a policy that is the prior by reward zero."""
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))
    graph = cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=torch.ones(1)),
        dynamics=cai.factors.TabularDynamics(torch.ones(1, 5, 1)),
        reward=cai.factors.TabularReward(torch.zeros(1)),
        horizon=1,
        action_prior=cai.factors.TabularPolicy(torch.tensor([probs], dtype=torch.float64)),
        state_space=GridSpace(3, 3, cells=(4,), moves=moves, labels=("S",)),
    )
    return cai.infer(graph, cai.SoftValueIteration())


def states_of(posterior: cai.Posterior) -> torch.Tensor:
    """All states."""
    return torch.arange(posterior.graph.dynamics.num_states)


def cell_of(posterior: cai.Posterior, state: int) -> tuple[int, int]:
    """Row and column of a state."""
    row, column = divmod(posterior.graph.state_space.cells[state], posterior.graph.state_space.num_columns)
    return row, column
