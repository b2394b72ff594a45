"""What every replay buffer does: takes steps in, forgets the oldest, gives batches, can be put away and taken out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.rows import NumSteps, Rows, RowSpec
from cai.data.transitions import SteppedCopies, Transitions


class AbstractReplayBuffer(ABC):
    """A ring of transitions, the newest in the place of the oldest, from which batches are drawn.

    Args:
        capacity: The most transitions held.
        num_envs: E, the number of copies of the world that are stepped together.
        states: Shape and numpy dtype of one state.
        actions: Shape and numpy dtype of one action.
        discount: gamma.
        n_step: n, the number of steps of a sampled transition.
        dtype: Of rewards, discounts, log-ratios and weights.

    Raises:
        ValueError: A capacity below n steps of all copies, or beyond the memory of the machine.
    """

    def __init__(
        self,
        capacity: int,
        *,
        num_envs: int = 1,
        states: RowSpec,
        actions: RowSpec,
        discount: float,
        n_step: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        self._rows = Rows(
            capacity,
            num_envs=num_envs,
            states=states,
            actions=actions,
            steps=NumSteps(n_step, discount),
            dtype=dtype,
            name=type(self).__name__,
        )

    @property
    def capacity(self) -> int:
        """The most transitions held."""
        return self._rows.capacity

    def __len__(self) -> int:
        return self._rows.size

    @abstractmethod
    def add(self, step: SteppedCopies, log_ratios: NDArray | None = None) -> None:
        """Adds the transitions of one step of all copies; rows that are not valid are no transitions and are left out.

        Args:
            step: Arrays `[E, ...]`.
            log_ratios: `[E]`, log(pi/mu) of the actions, nats; needed for n > 1, else not read.

        Raises:
            ValueError: Something has another shape than was said.
        """

    def cut(self) -> None:
        """Says that the copies were set elsewhere: what is added next does not follow what was added last."""
        self._rows.cut()

    @abstractmethod
    def sample(self, batch_size: int) -> Transitions:
        """Draws transitions with replacement, by numbers from torch's global generator.

        Raises:
            ValueError: The buffer is empty.
        """

    @abstractmethod
    def memory(self) -> dict[str, Tensor]:
        """Copies what is needed to go on, filled rows only: tensors by name."""

    @abstractmethod
    def remember(self, memory: dict[str, Tensor]) -> None:
        """Puts back what `memory` gave, bit by bit; what was held before is forgotten.

        Args:
            memory: Columns `[len, ...]` and where writing stands, by name.

        Raises:
            ValueError: It is of a buffer that holds something else.
        """

    def _need_rows(self) -> None:
        if not self._rows.size:
            raise ValueError(f"{type(self).__name__}: it is empty, add transitions before sampling")
