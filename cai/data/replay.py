"""Replay buffers: what was experienced, drawn again uniformly or by priority.

    uniform        p_i = 1 / N
    prioritised    p_i = w_i / sum_j w_j,  w_i = (|priority_i| + 1e-6)^exponent;  weights (N p_i)^-correction

With correction 1 the weighted mean of a batch is an unbiased mean over the buffer; weights are divided by the greatest
one of the batch. n-step rewards are summed when a batch is drawn, from the rows as they follow one another, and stop
where an episode ends and where nothing has been written yet; see `cai/data/rows.py`. Log-ratios are those of the policy
that acted: it is not corrected that the present one would act otherwise in the n - 1 later steps.

Source: Schaul, Quan, Antonoglou and Silver (2016).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cai.data.abstract_replay import AbstractReplayBuffer
from cai.data.rows import RowSpec
from cai.data.sum_tree import SumTree
from cai.data.transitions import SteppedCopies, Transitions
from cai.errors import NonFinite

#: Added to priorities, so that an error of exactly zero can be drawn again.
_LEAST_PRIORITY = 1e-6


class ReplayBuffer(AbstractReplayBuffer):
    """A replay buffer from which every transition is drawn equally often.

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

    def add(self, step: SteppedCopies, log_ratios: NDArray | None = None) -> None:
        """Adds the transitions of one step of all copies."""
        self._rows.write(step, log_ratios)

    def sample(self, batch_size: int) -> Transitions:
        """Draws transitions uniformly with replacement, by numbers from torch's global generator.

        Raises:
            ValueError: The buffer is empty.
        """
        self._need_rows()
        return self._rows.read(torch.randint(self._rows.size, (batch_size,)))

    def memory(self) -> dict[str, Tensor]:
        """Copies the filled rows, and where writing stands."""
        return self._rows.memory()

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Puts back what `memory` gave, bit by bit."""
        self._rows.remember(memory)


class PrioritisedReplayBuffer(AbstractReplayBuffer):
    """A replay buffer from which transitions are drawn the more often the greater their priority, such as |TD error|.

    What is added has the greatest priority so far, until `update` says otherwise.

    Args:
        capacity: The most transitions held.
        num_envs: E, the number of copies of the world that are stepped together.
        states: Shape and numpy dtype of one state.
        actions: Shape and numpy dtype of one action.
        discount: gamma.
        n_step: n, the number of steps of a sampled transition.
        dtype: Of rewards, discounts, log-ratios and weights.
        exponent: How much priorities count: 0 is uniform, 1 in proportion.
        correction: Exponent of the importance weights: 0 leaves the bias, 1 removes it. An attribute, to be raised as
            the run goes on.

    Raises:
        ValueError: A negative exponent or correction, a capacity below n steps of all copies, or beyond the memory of
            the machine.
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
        exponent: float = 0.6,
        correction: float = 0.4,
    ):
        if exponent < 0 or correction < 0:
            raise ValueError(
                f"PrioritisedReplayBuffer: exponent and correction must be at least 0, got {exponent} and {correction}"
            )
        super().__init__(
            capacity,
            num_envs=num_envs,
            states=states,
            actions=actions,
            discount=discount,
            n_step=n_step,
            dtype=dtype,
        )
        self.correction = correction
        self._exponent, self._dtype = exponent, dtype
        self._tree, self._greatest = SumTree(capacity), 1.0

    def add(self, step: SteppedCopies, log_ratios: NDArray | None = None) -> None:
        """Adds the transitions of one step of all copies, with the greatest priority so far."""
        where = self._rows.write(step, log_ratios)
        if not isinstance(where, slice):
            self._tree.set(where, self._greatest)
        elif where.stop == where.start + 1:
            self._tree.set_one(where.start, self._greatest)
        elif where.stop > where.start:
            self._tree.set(np.arange(where.start, where.stop), self._greatest)

    def sample(self, batch_size: int) -> Transitions:
        """Draws transitions by priority, one from each of `batch_size` equal parts of the sum of priorities.

        Raises:
            ValueError: The buffer is empty.
        """
        self._need_rows()
        total = self._tree.total
        places = torch.rand(batch_size, dtype=torch.float64).numpy()
        places += np.arange(batch_size)
        indices = self._tree.find(places * (total / batch_size))
        weights = (self._tree.weights(indices) * (len(self) / total)) ** -self.correction
        weights /= weights.max()
        return self._rows.read(torch.from_numpy(indices), torch.from_numpy(weights).to(self._dtype))

    def update(self, indices: Tensor, priorities: ArrayLike | Tensor) -> None:
        """Sets the priorities of sampled transitions.

        Args:
            indices: `[B]`, `Transitions.indices`.
            priorities: `[B]`, such as TD errors; signs do not count.

        Raises:
            NonFinite: A priority is NaN or infinite; none is set.
        """
        given = priorities.detach().cpu().double().numpy() if isinstance(priorities, Tensor) else np.asarray(priorities)
        weights = (np.abs(given) + _LEAST_PRIORITY) ** self._exponent
        greatest = float(weights.max(initial=0.0))
        if not np.isfinite(greatest):
            first = int(np.flatnonzero(~np.isfinite(weights))[0])
            raise NonFinite(f"PrioritisedReplayBuffer: the priority of row {int(indices[first])} is {given[first]}")
        self._greatest = max(self._greatest, greatest)
        self._tree.set(indices.cpu().numpy(), weights)

    def memory(self) -> dict[str, Tensor]:
        """Copies the filled rows and their priorities, and where writing stands."""
        weights = torch.from_numpy(self._tree.weights(slice(len(self))))
        greatest = torch.tensor(self._greatest, dtype=torch.float64)
        return self._rows.memory() | {"weights": weights, "greatest_weight": greatest}

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Puts back what `memory` gave, bit by bit."""
        self._rows.remember(memory)
        self._tree = SumTree(self.capacity)
        self._tree.set(np.arange(len(self)), memory["weights"].numpy())
        self._greatest = float(memory["greatest_weight"])
