"""Grid worlds as text: values, arrows and probabilities, a cell for a state, readable without colour."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cai.data.spaces import GridSpace

#: An action is worth an arrow if it is at least this much as probable as the best one.
NEARLY = 0.9
#: A label that more than this share of the states bears says nothing, and is left out.
_COMMON = 1 / 3
OFF_GRID = "#"
TERMINAL = "T"
_ARROWS = {
    (-1, 0): "↑", (1, 0): "↓", (0, -1): "←", (0, 1): "→",
    (-1, -1): "↖", (-1, 1): "↗", (1, -1): "↙", (1, 1): "↘", (0, 0): "o",
}  # fmt: skip
_ASCII_ARROWS = {(-1, 0): "^", (1, 0): "v", (0, -1): "<", (0, 1): ">", (0, 0): "o"}
_ALL_ALIKE = "·"
_ASCII_ALL_ALIKE = "."


@dataclass(frozen=True)
class TextMap:
    """A map: a title, and lines of equal width.

    Attributes:
        title: What it shows, at which time, in which unit.
        lines: One a row of the grid.
        note: What its signs mean, empty where they need no word.
    """

    title: str
    lines: tuple[str, ...]
    note: str = ""

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max(len(self.title), len(self.lines[0]))


def number_map(title: str, grid: GridSpace, terminal: NDArray[np.bool_], values: NDArray, width: int) -> TextMap:
    """Writes a number a state, with as many digits as the width allows: at worst one, the tenth of the range.

    Args:
        title: The title.
        grid: The layout.
        terminal: `[S]`; a terminal state shows its label, and its number if that is not zero.
        values: `[S]`.
        width: Characters at hand.
    """
    labels = shown_labels(grid, terminal)
    for decimals in _decimals(values):
        cells = [_number_cell(value, decimals, ends=ends) for value, ends in zip(values, terminal, strict=True)]
        lines = _laid_out(grid, cells, labels, " ")
        if len(lines[0]) <= width:
            return TextMap(title, lines)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    cells = [_digit(value, low, high) for value in values]
    note = f"{title}: digits are tenths of the range {low:.3g} to {high:.3g}"
    return TextMap(title, _laid_out(grid, cells, [""] * len(cells), ""), note)


def arrow_map(
    title: str, grid: GridSpace, terminal: NDArray[np.bool_], policy: NDArray, width: int, *, ascii_only: bool = False
) -> TextMap:
    """Writes the likely actions of each state as arrows.

    Args:
        title: The title.
        grid: The layout.
        terminal: `[S]`; a terminal state shows its label.
        policy: `[S, A]`.
        width: Characters at hand; where it is narrow, several arrows become a plus sign.
        ascii_only: Whether arrows must be ASCII.
    """
    labels = shown_labels(grid, terminal)
    alike = _ASCII_ALL_ALIKE if ascii_only else _ALL_ALIKE
    arrows = [_arrows_of(row, grid, alike, ascii_only) for row in policy]
    arrows = ["" if ends else text for text, ends in zip(arrows, terminal, strict=True)]
    lines = _laid_out(grid, arrows, labels, " ")
    if len(lines[0]) <= width:
        return TextMap(title, lines, _arrow_note(arrows, alike))
    single = [
        label if ends else text if len(text) == 1 else "+"
        for text, label, ends in zip(arrows, labels, terminal, strict=True)
    ]
    lines = _laid_out(grid, single, [""] * len(single), "")
    return TextMap(title, lines, _arrow_note(single, alike))


def shown_labels(grid: GridSpace, terminal: NDArray[np.bool_]) -> list[str]:
    """Chooses the labels worth showing: those of terminal states (`TERMINAL` if they have none), and rare ones."""
    counts = Counter(grid.labels)
    rare = {label for label, count in counts.items() if count <= _COMMON * len(grid.labels)}
    labels = zip(grid.labels, terminal, strict=True)
    return [(label or TERMINAL) if ends else label if label in rare else "" for label, ends in labels]


def _laid_out(grid: GridSpace, cells: list[str], labels: list[str], gap: str) -> tuple[str, ...]:
    """Puts the cells where the states are, columns of equal width, the label at the left of its cell."""
    beside = [len(label) + 1 for label, cell in zip(labels, cells, strict=True) if label and cell]
    label_width = max(beside, default=0)
    width = max(1, *(len(cell or label) for label, cell in zip(labels, cells, strict=True)))
    blank = OFF_GRID.rjust(label_width + width)
    rows = [[blank] * grid.num_columns for _ in range(grid.num_rows)]
    for cell, label, place in zip(cells, labels, grid.cells, strict=True):
        if place >= 0:
            row, column = divmod(place, grid.num_columns)
            text = label.ljust(label_width) + cell.rjust(width) if cell else label
            rows[row][column] = text.rjust(label_width + width)
    return tuple(gap.join(row) for row in rows)


def _decimals(values: NDArray) -> list[int]:
    """Chooses how many decimals to try: three significant digits of the largest, then fewer."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    most = int(np.clip(2 - np.floor(np.log10(largest)), 0, 9)) if largest > 0.0 else 0
    return list(range(most, max(most - 2, -1), -1))


def _number_cell(value: float, decimals: int, *, ends: bool) -> str:
    if ends and value == 0.0:
        return ""
    text = f"{value:.{decimals}f}"
    return "0" if float(text) == 0.0 else text


def _digit(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "-"
    digit = min(int(10 * (value - low) / (high - low)), 9) if high > low else 0
    return "." if digit == 0 and low == 0.0 else str(digit)


def _arrows_of(probabilities: NDArray, grid: GridSpace, alike: str, ascii_only: bool) -> str:
    likely = np.flatnonzero(probabilities >= NEARLY * probabilities.max())
    if len(likely) == len(probabilities) > 1:
        return alike
    names = _ASCII_ARROWS if ascii_only else _ARROWS
    return "".join(names.get(grid.moves[action], str(action)) for action in likely)


def _arrow_note(cells: list[str], alike: str) -> str:
    notes = []
    if any(len(cell) > 1 for cell in cells):
        notes.append("several arrows: about equally probable")
    if "+" in cells:
        notes.append("+ several about equally probable")
    if alike in cells:
        notes.append(f"{alike} all actions about equally probable")
    return "; ".join(notes)
