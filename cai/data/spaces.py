"""Spaces that know more than gymnasium's: a discrete space whose states are cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class GridSpace(gymnasium.spaces.Discrete):
    """The states of a grid world, and how to draw them.

    Attributes:
        num_rows: Rows of the grid.
        num_columns: Columns of the grid.
        cells: The row-major cell of each state, -1 for a state off the grid (an absorbing one).
        moves: (row, column) displacement that each action intends; (0, 0) for none.
        labels: One short label a state ("S", "G", ...; "" for none).
    """

    def __init__(
        self,
        num_rows: int,
        num_columns: int,
        cells: Sequence[int],
        moves: Sequence[tuple[int, int]],
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(len(cells))
        self.num_rows, self.num_columns = int(num_rows), int(num_columns)
        self.cells = tuple(int(cell) for cell in cells)
        self.moves = tuple((int(row), int(column)) for row, column in moves)
        self.labels = tuple(labels) if labels is not None else ("",) * len(self.cells)
        limit = self.num_rows * self.num_columns
        for state, cell in enumerate(self.cells):
            if not -1 <= cell < limit:
                raise ValueError(f"GridSpace: state {state} is at cell {cell}, outside -1..{limit - 1}")
        if len(self.labels) != len(self.cells):
            raise ValueError(f"GridSpace: {len(self.cells)} states need as many labels, got {len(self.labels)}")

    def to_grid(self, values: Tensor | NDArray | Sequence[float]) -> NDArray[np.float64]:
        """Lays values of the states out on the grid: `[S]` to `[rows, columns]`, NaN where no state is."""
        values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        grid = np.full(self.num_rows * self.num_columns, np.nan)
        cells = np.asarray(self.cells)
        grid[cells[cells >= 0]] = values[cells >= 0]
        return grid.reshape(self.num_rows, self.num_columns)

    def extended(self, num: int) -> GridSpace:
        """Adds states off the grid, at the end."""
        return GridSpace(
            self.num_rows, self.num_columns, (*self.cells, *[-1] * num), self.moves, (*self.labels, *[""] * num)
        )
