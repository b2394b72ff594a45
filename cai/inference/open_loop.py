"""The posterior of an open-loop planner: a sequence of actions for the graph's own start, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.factors.checks import state_index
from cai.factors.distributions import DegenerateNormal
from cai.inference.gaussian_paths import checked_length, finite_vector
from cai.inference.posterior import Posterior


@serializable
@dataclass(frozen=True, eq=False)
class OpenLoopPosterior(Posterior):
    """The best sequence of actions found, a point in the space of plans.

    `policy(state, t)` is the planned action, for the graph's own start only: a plan does not wait for the states that
    come. To act in a world with noise wrap the method in `cai.plan.ReplanningPolicy`.

    Args:
        graph: See `Posterior`.
        method: See `Posterior`.
        stats: See `Posterior`.
        _trajectory: What `most_probable_trajectory` gives.
        _returns: What `expected_return` gives, `[*batch]`.
    """

    _trajectory: Trajectories
    _returns: Tensor

    def policy(self, state: Any, t: Any = 0) -> DegenerateNormal:
        """Gives the planned action of time t as a point mass.

        Args:
            state: A state or any batch of states, `[*batch, n]`; what is asked for is the plan made for the start.
            t: Time, one number in 0..T-1.

        Raises:
            ValueError: What is no state, several times or one outside the horizon, or a batch that is not the plan's.
        """
        states = self._trajectory.states
        batch = finite_vector(state, states.shape[-1], states, "state").shape[:-1]
        time = state_index(t, self._trajectory.actions.shape[1], "t")
        if time.dim():
            raise ValueError(f"t: a plan is asked for one time, got {list(time.shape)} of them")
        action = self.plan[..., int(time), :]
        try:
            mean = action.expand(*torch.broadcast_shapes(batch, action.shape[:-1]), action.shape[-1])
        except RuntimeError:
            raise ValueError(
                f"state: a batch {list(batch)} does not fit a plan for starts {list(self._returns.shape)}"
            ) from None
        return DegenerateNormal(mean, mean.new_zeros(mean.shape[-1], mean.shape[-1]))

    @property
    def expected_return(self) -> Tensor:
        """What the plan was judged by: discounted rewards, terminal reward included, `[*batch]`, reward units."""
        return self._returns

    @property
    def plan(self) -> Tensor:
        """The actions, `[*batch, T, m]`."""
        actions = self._trajectory.actions
        return actions.reshape(*self._returns.shape, *actions.shape[1:])

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The plan and the states it leads to without noise, one for each graph of the batch, with rewards."""
        return self._trajectory

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Runs the plan in the graph's own dynamics, noise included; see `Posterior.sample`."""
        from cai.simulate import rollout

        length = checked_length(num, length, self.graph.horizon)
        if self._returns.numel() != 1:
            raise ValueError(
                f"sample: this posterior plans for a batch of starts {list(self._returns.shape)} at once; ask for one "
                "of them"
            )
        return rollout(self.graph, self, int(num), seed=seed, length=length)
