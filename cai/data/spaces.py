"""Spaces that know more than gymnasium's: a discrete space whose states are cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class GridSpace(gymnasium.spaces.Discrete):
    """The states of a grid world, and how to draw them.

    Args:
        num_rows: Rows of the grid.
        num_columns: Columns of the grid.
        cells: `[S]`, the row-major cell of each state, -1 for one off the grid (an absorbing one): a sequence or an
            array. Millions of states want an array.
        moves: (row, column) displacement that each action intends; (0, 0) for none.
        labels: `[S]`, one short label a state ("S", "G", ...; "" for none), a sequence or an array; none by default.

    Attributes:
        num_rows: Rows of the grid.
        num_columns: Columns of the grid.
        moves: (row, column) displacement that each action intends.
    """

    def __init__(
        self,
        num_rows: int,
        num_columns: int,
        cells: Sequence[int] | NDArray | Tensor,
        moves: Sequence[tuple[int, int]],
        labels: Sequence[str] | NDArray[np.str_] | None = None,
    ) -> None:
        super().__init__(len(cells))
        self.num_rows, self.num_columns = int(num_rows), int(num_columns)
        self.moves = tuple((int(row), int(column)) for row, column in moves)
        self._cells = np.array(cells, dtype=np.int64)
        self._labels = np.array(labels) if isinstance(labels, np.ndarray) else None if labels is None else tuple(labels)
        limit = self.num_rows * self.num_columns
        outside = np.flatnonzero((self._cells < -1) | (self._cells >= limit))
        if len(outside):
            state = int(outside[0])
            raise ValueError(f"GridSpace: state {state} is at cell {self._cells[state]}, outside -1..{limit - 1}")
        if self._labels is not None and len(self._labels) != len(self._cells):
            raise ValueError(f"GridSpace: {len(self._cells)} states need as many labels, got {len(self._labels)}")

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """The row-major cell of each state, -1 for a state off the grid."""
        return tuple(self._cells.tolist())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One short label a state, "" for none."""
        if self._labels is None:
            return ("",) * len(self._cells)
        return self._labels if isinstance(self._labels, tuple) else tuple(self._labels.tolist())

    def to_grid(self, values: Tensor | NDArray | Sequence[float]) -> NDArray[np.float64]:
        """Lays values of the states out on the grid: `[S]` to `[rows, columns]`, NaN where no state is."""
        values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        grid = np.full(self.num_rows * self.num_columns, np.nan)
        cells = self._cells
        grid[cells[cells >= 0]] = values[cells >= 0]
        return grid.reshape(self.num_rows, self.num_columns)

    def extended(self, num: int) -> GridSpace:
        """Adds states off the grid, at the end."""
        return GridSpace(
            self.num_rows, self.num_columns, (*self.cells, *[-1] * num), self.moves, (*self.labels, *[""] * num)
        )
