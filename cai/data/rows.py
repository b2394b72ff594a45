"""Where a replay buffer keeps transitions: rows of numpy for writing, views of the same memory in torch for reading.

Rows stand in the order in which they were written, in a ring: when it is full, the newest takes the place of the
oldest. For n > 1 every row knows the row of its copy's next step, -1 where its episode ended or the next step is yet to
come. A transition of n steps follows these links and stops where there is none, so that it never joins two episodes: it
then has the steps there are, and leads to the last true successor. Since a row is overwritten before those that follow
it, a link never leads to another transition than its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.transitions import SteppedCopies, Transitions
from cai.ops.memory import available_bytes, need_memory

#: The shape of one row, and its numpy dtype.
RowSpec = tuple[tuple[int, ...], Any]

_NAMES = ("states", "actions", "rewards", "next_states", "terminated", "log_ratios", "following")


@dataclass(frozen=True, eq=False)
class NumSteps:
    """How many steps a sampled transition has, and what a step costs.

    Attributes:
        count: n.
        discount: gamma.
    """

    count: int
    discount: float


class Rows:
    """A ring of transitions of E copies of a world.

    Args:
        capacity: The most transitions held; at least one step of all copies, and n of them.
        num_envs: E.
        states: Shape and dtype of one state.
        actions: Shape and dtype of one action.
        steps: How many steps a transition has when it is read.
        dtype: Of rewards, log-ratios and discounts.
        name: What an error calls it.

    Raises:
        ValueError: A capacity that is too small, or that the memory of the machine will not hold.
    """

    def __init__(
        self,
        capacity: int,
        *,
        num_envs: int,
        states: RowSpec,
        actions: RowSpec,
        steps: NumSteps,
        dtype: torch.dtype,
        name: str,
    ):
        if steps.count < 1 or num_envs < 1:
            raise ValueError(f"{name}: n_step and num_envs must be at least 1, got {steps.count} and {num_envs}")
        if capacity < num_envs * steps.count:
            raise ValueError(
                f"{name}: a capacity of {capacity} does not hold {steps.count} step(s) of {num_envs} copies; "
                f"it must be at least {num_envs * steps.count}"
            )
        number = torch.empty((), dtype=dtype).numpy().dtype
        specs: dict[str, RowSpec] = {
            "states": states,
            "actions": actions,
            "rewards": ((), number),
            "next_states": states,
            "terminated": ((), np.bool_),
        }
        if steps.count > 1:
            specs |= {"log_ratios": ((), number), "following": ((), np.int64)}
        need_memory(
            capacity * sum(prod(shape) * np.dtype(kind).itemsize for shape, kind in specs.values()),
            available_bytes(),
            f"{name}: {capacity} transitions",
            "a smaller capacity, or states of a smaller dtype, would fit",
        )
        self.capacity, self.num_envs, self.steps, self.name = capacity, num_envs, steps, name
        self._columns = {key: np.zeros((capacity, *shape), kind) for key, (shape, kind) in specs.items()}
        self.tensors = {key: _as_tensor(column, f"{name}: {key}") for key, column in self._columns.items()}
        self._written = [self._columns[key] for key in ("states", "actions", "next_states", "rewards", "terminated")]
        self._shapes = [(num_envs, *specs[key][0]) for key in ("states", "actions", "next_states")]
        self._one, self._zero = torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)
        self._powers = torch.full((), steps.discount, dtype=torch.float64).pow(torch.arange(steps.count + 1)).to(dtype)
        self._last = np.full(num_envs, -1)  # the row that each copy wrote last, if its episode goes on
        self._next = 0  # the row to be written next
        self.size = 0

    def write(self, step: SteppedCopies, log_ratios: NDArray | None) -> slice | NDArray:
        """Writes the valid rows of a step, in the place of the oldest where the ring is full; says where they stand.

        Raises:
            ValueError: Something has another shape than was said, or log-ratios are wanted and not given.
        """
        parts, valid = (step.states, step.actions, step.next_states, step.rewards, step.terminated), step.valid
        if [part.shape for part in parts[:3]] != self._shapes:
            self._refuse(step)
        if log_ratios is None and self.steps.count > 1:
            raise ValueError(f"{self.name}: n_step={self.steps.count} needs the log_ratios of the actions, [E]")
        count, start = int(np.count_nonzero(valid)), self._next
        stop = start + count
        where: slice | NDArray = slice(start, stop)
        if stop > self.capacity:
            where = np.arange(start, stop) % self.capacity
        if count < self.num_envs:
            parts = tuple(part[valid] for part in parts)
        for column, part in zip(self._written, parts, strict=True):
            column[where] = part
        if log_ratios is not None and self.steps.count > 1:
            self._link(step, log_ratios, where)
        self._next = stop % self.capacity
        if self.size < self.capacity:
            self.size = min(stop, self.capacity)
        return where

    def _link(self, step: SteppedCopies, log_ratios: NDArray, where: slice | NDArray) -> None:
        """Writes the log-ratios, and joins the rows to those before them in their episodes."""
        valid = step.valid
        self._columns["log_ratios"][where] = log_ratios[valid]
        following, before = self._columns["following"], self._last[valid]
        rows = np.arange(where.start, where.stop) if isinstance(where, slice) else where
        following[rows] = -1
        joined = before >= 0
        following[before[joined]] = rows[joined]
        self._last[:] = -1
        self._last[valid] = np.where((step.terminated | step.truncated)[valid], -1, rows)

    def cut(self) -> None:
        """Forgets where the copies stand: what is written next follows nothing."""
        self._last[:] = -1

    def read(self, indices: Tensor, weights: Tensor | None = None) -> Transitions:
        """Gathers transitions of n steps.

        Args:
            indices: `[B]`, int64, rows.
            weights: `[B]`, importance weights; ones by default.
        """
        num, columns = len(indices), self.tensors
        rewards = columns["rewards"].index_select(0, indices)
        discounts, log_ratios, last = self._powers[1].expand(num), self._zero.expand(num), indices
        for k in range(1, self.steps.count):
            following = columns["following"].index_select(0, last)
            goes_on = following >= 0
            last = torch.where(goes_on, following, last)
            scale = goes_on * self._powers[k]
            rewards.addcmul_(scale, columns["rewards"].index_select(0, last))
            log_ratios = log_ratios.addcmul(scale, columns["log_ratios"].index_select(0, last))
            discounts = torch.where(goes_on, self._powers[k + 1], discounts)
        return Transitions(
            states=columns["states"].index_select(0, indices),
            actions=columns["actions"].index_select(0, indices),
            rewards=rewards,
            next_states=columns["next_states"].index_select(0, last),
            terminated=columns["terminated"].index_select(0, last),
            discounts=discounts,
            log_ratios=log_ratios,
            weights=self._one.expand(num) if weights is None else weights,
            indices=indices,
        )

    def memory(self) -> dict[str, Tensor]:
        """Copies what the ring holds: the filled rows of every column, where writing stands, where copies stand."""
        rows = {key: tensor[: self.size].clone() for key, tensor in self.tensors.items()}
        return rows | {"next_row": torch.tensor(self._next), "last_rows": torch.from_numpy(self._last.copy())}

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Puts back what `memory` gave, bit by bit.

        Raises:
            ValueError: It is of a ring with other columns, another capacity or another number of copies.
        """
        size, next_row = len(memory["rewards"]), int(memory["next_row"])
        expected = {key: (tensor.shape[1:], tensor.dtype) for key, tensor in self.tensors.items()}
        given = {key: (memory[key].shape[1:], memory[key].dtype) for key in _NAMES if key in memory}
        if given != expected or len(memory["last_rows"]) != self.num_envs:
            raise ValueError(
                f"{self.name}: remembers rows {given} of {len(memory['last_rows'])} copies, "
                f"this one holds {expected} of {self.num_envs}"
            )
        if size > self.capacity or next_row != size % self.capacity and size < self.capacity:
            raise ValueError(f"{self.name}: remembers {size} transitions of another capacity than {self.capacity}")
        for key, tensor in self.tensors.items():
            tensor[:size] = memory[key]
        self._last[:] = memory["last_rows"].numpy()
        self._next, self.size = next_row, size

    def _refuse(self, step: SteppedCopies) -> None:
        parts = ("states", "actions", "next_states")
        for part, expected in zip(parts, self._shapes, strict=True):
            given = getattr(step, part).shape
            if given != expected:
                raise ValueError(f"{self.name}: {part} of a step must be {list(expected)}, got {list(given)}")


def _as_tensor(column: NDArray, what: str) -> Tensor:
    try:
        return torch.from_numpy(column)
    except TypeError as error:
        raise ValueError(f"{what} cannot have the dtype {column.dtype}, which torch does not know") from error
