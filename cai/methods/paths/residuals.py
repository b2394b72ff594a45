"""What path consistency minimises, as option objects.

    squared           (1/2) mean C^2
    double sampled    (1/2) mean C C',     C' with a second, independent successor of the same state and action

The mean of C over successors is zero at the soft-optimal answer; C itself is not where the world is noisy. E C^2 =
(E C)^2 + Var C, and the variance pulls the values of possible successors together. E C C' = (E C)^2 has no such bias.

Source: Baird (1995), section 4 (double sampling); Nachum, Norouzi, Xu and Schuurmans (2017), equation 17.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.protocols import TabulatedDynamics
from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.on_policy import Rollout
from cai.ops.tables import Tables
from cai.simulate.chains import reward_of_step
from cai.simulate.seeding import global_generator

#: From a rollout to the residuals of its paths, `[N]`, reward units.
Residuals = Callable[[Rollout], Tensor]
#: From that function and a rollout to the loss, 0-dim, squared reward units.
Loss = Callable[[Residuals, Rollout], Tensor]


class AbstractResidual(ABC):
    """Says how residuals become a loss."""

    def accepts(self, graph: TrajectoryGraph, path_length: int) -> None:  # noqa: B027  (most serve all)
        """Raises `IncompatibleMethod` or ValueError where the loss cannot be had."""

    @abstractmethod
    def loss_on(self, graph: TrajectoryGraph) -> Loss:
        """Gives the loss in a graph's world."""


@serializable
@dataclass(frozen=True)
class SquaredResidual(AbstractResidual):
    """Half the mean square: exact where the world is deterministic, biased by its noise where it is not."""

    def loss_on(self, graph: TrajectoryGraph) -> Loss:
        """Gives (1/2) mean C^2."""
        return lambda residuals, rollout: 0.5 * residuals(rollout).square().mean()


@serializable
@dataclass(frozen=True)
class DoubleSampledResidual(AbstractResidual):
    """Half the mean product of two residuals with successors of their own: unbiased in noisy worlds too.

    Needs paths of one step, and a world that can be asked again what an action leads to: tables.
    """

    def accepts(self, graph: TrajectoryGraph, path_length: int) -> None:
        """Raises `IncompatibleMethod` unless there are tables, ValueError for longer paths."""
        if path_length != 1:
            raise ValueError(f"DoubleSampledResidual: it is of one step, so path_length must be 1, got {path_length}")
        if not isinstance(graph.dynamics, TabulatedDynamics):
            raise IncompatibleMethod(
                "DoubleSampledResidual draws a second successor of the same state and action, which needs tables; use "
                "cai.methods.SquaredResidual(), biased where the world is noisy, or SoftQLearning, which is not"
            )

    def loss_on(self, graph: TrajectoryGraph) -> Loss:
        """Gives (1/2) mean C C'."""
        tables = tabulate(graph.replace(action_prior=None)).detached()
        return lambda residuals, rollout: 0.5 * (residuals(rollout) * residuals(redrawn(rollout, tables))).mean()


def redrawn(rollout: Rollout, tables: Tables) -> Rollout:
    """Draws the successors of a rollout in tables anew, with their rewards, by torch's generator."""
    states, actions = rollout.states.flatten(), rollout.actions.flatten()
    following = tables.step(0).transitions.sample(states, actions, global_generator(states.device))
    shape = rollout.rewards.shape
    return replace(
        rollout,
        rewards=reward_of_step(tables, 0, states, actions, following).to(rollout.rewards).reshape(shape),
        next_states=following.reshape(shape),
        terminated=tables.terminal[following].reshape(shape),
        truncated=torch.zeros_like(rollout.truncated),
    )
