"""Memories of transitions as option objects: which transitions an off-policy method learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.replay import PrioritisedReplayBuffer, ReplayBuffer
from cai.data.serialization import serializable
from cai.data.transitions import Transitions
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.annealing import Annealed, at_share
from cai.simulate.worlds import Step


class AbstractReplay(ABC):
    """Says which transitions are kept, and how they are drawn.

    Attributes:
        kept: Whether checkpoints keep the transitions; a run resumed without them fills its memory anew.
    """

    kept: bool

    @abstractmethod
    def buffer(self, graph: TrajectoryGraph, num_envs: int, n_step: int) -> Any:
        """Makes the memory, empty."""

    def sample(self, buffer: Any, batch_size: int, share: float) -> Transitions:
        """Draws a batch.

        Args:
            buffer: The memory.
            batch_size: How many transitions.
            share: How much of the run is done, in [0, 1].
        """
        return buffer.sample(batch_size)

    def holding(self, num: int) -> AbstractReplay:
        """Gives the same memory for so many transitions, those of a record.

        Raises:
            ValueError: It holds no records.
        """
        raise ValueError(
            f"{type(self).__name__} does not hold recorded data; UniformReplay() and PrioritisedReplay() do"
        )

    def update(self, buffer: Any, batch: Transitions, errors: Tensor | None) -> None:  # noqa: B027  (most do not care)
        """Is told of the errors of a batch, `[B]`, reward units."""


@serializable
@dataclass(frozen=True)
class UniformReplay(AbstractReplay):
    """All of the last transitions, equally often.

    Attributes:
        capacity: The most transitions kept, all copies together.
        kept: Whether checkpoints keep them.
    """

    capacity: int = 1_000_000
    kept: bool = True

    def holding(self, num: int) -> UniformReplay:
        """Gives the same memory for so many transitions."""
        return replace(self, capacity=num)

    def buffer(self, graph: TrajectoryGraph, num_envs: int, n_step: int) -> ReplayBuffer:
        """Makes the memory, empty."""
        return ReplayBuffer(self.capacity, **_layout(graph, num_envs, n_step))


@serializable
@dataclass(frozen=True)
class PrioritisedReplay(AbstractReplay):
    """Transitions with great errors more often, weighted down accordingly.

    Attributes:
        capacity: The most transitions kept, all copies together.
        exponent: A transition is drawn in proportion to |error|^exponent.
        correction: The exponent of the importance weights; 1 corrects in full.
        kept: Whether checkpoints keep them.

    Source: Schaul et al. (2016).
    """

    capacity: int = 1_000_000
    exponent: float = 0.6
    correction: float | Annealed = Annealed(0.4, 1.0)
    kept: bool = True

    def holding(self, num: int) -> PrioritisedReplay:
        """Gives the same memory for so many transitions."""
        return replace(self, capacity=num)

    def buffer(self, graph: TrajectoryGraph, num_envs: int, n_step: int) -> PrioritisedReplayBuffer:
        """Makes the memory, empty."""
        return PrioritisedReplayBuffer(self.capacity, exponent=self.exponent, **_layout(graph, num_envs, n_step))

    def sample(self, buffer: PrioritisedReplayBuffer, batch_size: int, share: float) -> Transitions:
        """Draws a batch by priorities."""
        buffer.correction = at_share(self.correction, share)
        return buffer.sample(batch_size)

    def update(self, buffer: PrioritisedReplayBuffer, batch: Transitions, errors: Tensor | None) -> None:
        """Sets the priorities of the batch."""
        if errors is not None:
            buffer.update(batch.indices, errors.detach().abs())


@serializable
@dataclass(frozen=True)
class NoReplay(AbstractReplay):
    """Only the transitions of the last step, each learned from once: stochastic approximation on the spot."""

    kept = True

    def buffer(self, graph: TrajectoryGraph, num_envs: int, n_step: int) -> LatestStep:
        """Makes the memory, empty."""
        if n_step != 1:
            raise ValueError("NoReplay keeps one step, which has no returns of several steps; use UniformReplay()")
        return LatestStep(graph.discount)


class LatestStep:
    """The transitions of the last step.

    Args:
        discount: gamma.
    """

    def __init__(self, discount: float) -> None:
        self._discount = discount
        self._latest: Transitions | None = None

    def add(self, step: Step, log_ratios: Any) -> None:
        """Takes the place of what was there."""
        rows = torch.from_numpy(step.valid)
        states, actions, following = (
            torch.as_tensor(values)[rows] for values in (step.states, step.actions, step.next_states)
        )
        rewards = torch.as_tensor(step.rewards)[rows]
        num = len(rewards)
        self._latest = Transitions(
            states,
            actions,
            rewards,
            following,
            torch.as_tensor(step.terminated)[rows],
            torch.full((num,), self._discount, dtype=rewards.dtype),
            torch.zeros(num),
            torch.ones(num),
            torch.arange(num),
        )

    def __len__(self) -> int:
        return 0 if self._latest is None else len(self._latest.rewards)

    def sample(self, batch_size: int) -> Transitions:
        """Gives all of them."""
        assert self._latest is not None
        return self._latest

    def cut(self) -> None:
        """There is nothing that a next step could follow."""

    def memory(self) -> None:
        """Nothing of it is needed later."""
        return None

    def remember(self, memory: None) -> None:
        """Nothing was kept."""


def _layout(graph: TrajectoryGraph, num_envs: int, n_step: int) -> dict[str, Any]:
    states, actions = StateEncoding(graph.state_space), ActionEncoding(graph.action_space)
    return {
        "num_envs": num_envs,
        "states": (states.row_shape, states.row_dtype),
        "actions": (actions.row_shape, actions.row_dtype),
        "discount": graph.discount,
        "n_step": n_step,
    }
