"""How good a policy is: what episodes of it pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.factors.environment import Environment
from cai.factors.protocols import Stepped
from cai.graph.environments import make_environment
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.threads import one_thread
from cai.simulate.seeding import seeded
from cai.simulate.worlds import AbstractWorld, world_of
from cai.simulate.worlds.copies import maker_of


@dataclass(frozen=True, eq=False)
class Returns:
    """What episodes paid.

    Attributes:
        totals: Sum of the rewards of each, undiscounted, with the terminal reward where it terminated: `[N]`, float64,
            reward units.
        lengths: Actions taken in each: `[N]`, int64.
    """

    totals: Tensor
    lengths: Tensor

    @property
    def mean(self) -> float:
        """The mean of the totals, reward units."""
        return float(self.totals.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, reward units; NaN for one episode."""
        num = len(self.totals)
        return float(self.totals.std()) / math.sqrt(num) if num > 1 else math.nan

    @property
    def mean_length(self) -> float:
        """The mean of the lengths."""
        return float(self.lengths.to(torch.float64).mean())


def world_for_episodes(graph_or_env: TrajectoryGraph | gymnasium.Env | str, num_episodes: int) -> AbstractWorld:
    """Makes copies of a world to run episodes in, if possible one for each.

    An environment that cannot be copied is run itself, one episode after another.

    Args:
        graph_or_env: A graph, an environment, or an environment's id.
        num_episodes: How many episodes are to be run.

    Raises:
        ValueError: There is nothing to be run.
    """
    if not isinstance(graph_or_env, TrajectoryGraph):
        factor = Environment(make_environment(graph_or_env, {}))
        graph_or_env = TrajectoryGraph(factor, factor, factor)
    if isinstance(graph_or_env.dynamics, Stepped):
        num_episodes = num_episodes if why_no_copies(graph_or_env) is None else 1
    return world_of(graph_or_env, num_episodes, vectorization_mode="sync")


def why_no_copies(graph: TrajectoryGraph) -> str | None:
    """Says why a graph's environment cannot be copied, if it has one and it cannot."""
    if not isinstance(graph.dynamics, Stepped):
        return None
    try:
        maker_of(graph.dynamics.env, 2)
    except ValueError as error:
        return str(error)
    return None


def run_episodes(
    world: AbstractWorld,
    act: Callable[[Tensor], Tensor],
    num_episodes: int,
    *,
    seed: int,
    length: int,
    terminal_reward: Callable[[Tensor], Any] | None = None,
) -> Returns:
    """Runs episodes, as many at once as the world has copies.

    Copies of an environment begin episode i with the seed `seed + i`, one episode after each reset; what draws from
    torch's generator draws from one seeded with `seed`, and the generator is left as it was.

    Args:
        world: Where.
        act: From states `[E, ...]` to actions `[E, ...]`, both in the environment's form.
        num_episodes: N.
        seed: The seed.
        length: After how many actions an episode is cut off, if it has not ended before.
        terminal_reward: Of states `[n, ...]` that ended an episode: `[n]`, reward units.
    """
    totals, lengths = np.zeros(0), np.zeros(0, dtype=np.int64)
    with seeded(seed), torch.no_grad(), one_thread():
        while len(totals) < num_episodes:
            world.reset(seed + len(totals))
            more_totals, more_lengths = _one_episode_each(
                world, act, num_episodes - len(totals), length, terminal_reward
            )
            totals, lengths = np.append(totals, more_totals), np.append(lengths, more_lengths)
    return Returns(torch.from_numpy(totals[:num_episodes]), torch.from_numpy(lengths[:num_episodes]))


def _one_episode_each(
    world: AbstractWorld,
    act: Callable[[Tensor], Tensor],
    num: int,
    length: int,
    terminal_reward: Callable[[Tensor], Any] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Runs every copy until the first `num` of them have ended their first episode."""
    totals, lengths = np.zeros(world.num_envs), np.zeros(world.num_envs, dtype=np.int64)
    going = np.arange(world.num_envs) < num
    shape = (world.num_envs, *(world.action_space.shape or ()))
    while going.any():
        actions = act(torch.from_numpy(np.array(world.states)))
        step = world.step(actions.cpu().numpy().reshape(shape))
        counted = going & step.valid
        totals += np.where(counted, step.rewards, 0.0)
        lengths += counted
        ended = counted & step.terminated
        if terminal_reward is not None and ended.any():
            worth = terminal_reward(torch.from_numpy(step.next_states[ended]))
            totals[ended] += torch.as_tensor(worth).detach().cpu().numpy()
        going &= ~step.done & (lengths < length)
    return totals, lengths
