"""The posterior of an open-loop planner: a sequence of actions for the graph's own start, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.factors.checks import state_index
from cai.factors.distributions import DegenerateNormal
from cai.inference.posterior import Posterior


@serializable
@dataclass(frozen=True, eq=False)
class OpenLoopPosterior(Posterior):
    """The best sequence of actions found, a point in the space of plans.

    `policy(state, t)` is the planned action, for the graph's own start only: a plan does not wait for the states that
    come. To act in a world with noise wrap the method in `cai.plan.ReplanningPolicy`.

    Attributes:
        trajectory: The plan and the states it leads to without noise, one for each graph of the batch: `[N, T + 1, n]`,
            `[N, T, m]`, and rewards.
        expected_returns: `[*batch]`, reward units: what the plan was judged by.
    """

    trajectory: Trajectories
    expected_returns: Tensor

    def policy(self, state: Any, t: Any = 0) -> DegenerateNormal:
        """Gives the planned action of time t as a point mass.

        Args:
            state: A state or any batch of states, `[*batch, n]`; what is asked for is the plan made for the start.
            t: Time, one number in 0..T-1.

        Raises:
            ValueError: A time outside the horizon, or a batch that is not the plan's.
        """
        shape = tuple(state.shape if isinstance(state, Tensor) else np.shape(state))
        action = self.plan[..., int(state_index(t, self.graph.horizon, "t")), :]
        try:
            mean = action.expand(*torch.broadcast_shapes(shape[:-1], action.shape[:-1]), action.shape[-1])
        except RuntimeError:
            raise ValueError(
                f"state: {list(shape)} does not fit a plan for starts {list(self.expected_returns.shape)}"
            ) from None
        return DegenerateNormal(mean, mean.new_zeros(mean.shape[-1], mean.shape[-1]))

    @property
    def expected_return(self) -> Tensor:
        """What the plan returns, discounted, terminal reward included: 0-dim (or `[*batch]`), reward units."""
        return self.expected_returns

    @property
    def plan(self) -> Tensor:
        """The actions, `[*batch, T, m]`."""
        return self.trajectory.actions.reshape(*self.expected_returns.shape, *self.trajectory.actions.shape[1:])

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The plan and the states it leads to without noise, one for each graph of the batch."""
        return self.trajectory

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Runs the plan in the graph's own dynamics, noise included; see `Posterior.sample`."""
        from cai.simulate import rollout

        return rollout(self.graph, self, num, seed=seed, length=length)
