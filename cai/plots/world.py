"""What a picture needs from a posterior, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.spaces import GridSpace
from cai.errors import Unavailable
from cai.factors.protocols import TabulatedDynamics
from cai.graph.factor_graph import FactorGraph

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph
    from cai.inference import Posterior

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class World:
    """The finite world of a posterior.

    Attributes:
        num_states: S.
        num_actions: A.
        horizon: T, None when infinite.
        terminal: `[S]`, bool.
        grid: How to lay the states out, None when they are no grid.
    """

    num_states: int
    num_actions: int
    horizon: int | None
    terminal: NDArray[np.bool_]
    grid: GridSpace | None

    @property
    def states(self) -> Tensor:
        """All states, `[S]`."""
        return torch.arange(self.num_states)

    @property
    def last_time(self) -> int:
        """The last time that has a marginal: T, and 0 when the horizon is infinite."""
        return self.horizon or 0


def world_of(posterior: Posterior) -> World:
    """Reads the world of a posterior.

    Raises:
        Unavailable: The states or actions are not finite.
    """
    graph = trajectory_of(posterior)
    dynamics = graph.dynamics
    if not isinstance(dynamics, TabulatedDynamics):
        raise Unavailable(
            f"maps are drawn of finite worlds, with tables; this one's dynamics is {type(dynamics).__name__}; "
            "cai.plots.tubes draws Gaussian marginals"
        )
    terminal = to_numpy(dynamics.terminal_mask).astype(bool)
    grid = graph.state_space if isinstance(graph.state_space, GridSpace) else None
    return World(dynamics.num_states, dynamics.num_actions, graph.horizon, terminal, grid)


def trajectory_of(posterior: Posterior) -> TrajectoryGraph:
    """Gives the trajectory graph of a posterior, or the one that was unrolled into its factor graph.

    Raises:
        Unavailable: A factor graph that was not unrolled.
    """
    graph = posterior.graph
    if isinstance(graph, FactorGraph):
        if graph.trajectory is None:
            raise Unavailable("maps are drawn of trajectories; this factor graph was not unrolled from one")
        return graph.trajectory
    return graph


def to_numpy(values: Tensor) -> NDArray:
    """Leaves torch: detached, on the CPU."""
    return values.detach().cpu().numpy()


def values_at(posterior: Posterior, t: int) -> Array:
    """Reads v(s) at time t: `[S]`, reward units."""
    return to_numpy(posterior.v(world_of(posterior).states, t=t)).astype(float)


def policy_at(posterior: Posterior, t: int) -> Array:
    """Reads pi(a|s) at time t: `[S, A]`."""
    return to_numpy(posterior.policy(world_of(posterior).states, t=t).probs).astype(float)  # type: ignore[attr-defined]


def marginals_of(posterior: Posterior) -> Array:
    """Reads p(s_t): `[T + 1, S]`; the occupancy as `[1, S]` when the horizon is infinite."""
    return np.atleast_2d(to_numpy(posterior.state_marginals).astype(float))


def name_of(posterior: Posterior) -> str:
    """Names a posterior by its method."""
    return type(posterior.method).__name__


def long_run(posterior: Posterior) -> tuple[str, str]:
    """Names the marginal of an infinite horizon, and its axis: what it is depends on the discount."""
    if trajectory_of(posterior).discount == 1.0:
        return "long-run distribution", "long-run probability p(s)"
    return "occupancy", "occupancy d(s), normalised"


def when(world: World, t: int) -> str:
    """Says the time in a title; nothing when the horizon is infinite, where t is ignored."""
    return "" if world.horizon is None else f", t = {t}"
