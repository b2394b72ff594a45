"""Grid worlds as text."""

from __future__ import annotations

import numpy as np
import pytest

from cai.cli.text_maps import TextMap, arrow_map, number_map, shown_labels
from cai.data.spaces import GridSpace

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))


def square(labels: tuple[str, ...] = ("S", "", "", "G")) -> GridSpace:
    """Two by three cells, the top right and the bottom left of which hold no state."""
    return GridSpace(2, 3, cells=(0, 1, 4, 5), moves=MOVES, labels=labels)


TERMINAL = np.array([False, False, False, True])


def numbers(values: list[float], width: int = 80) -> TextMap:
    return number_map("v", square(), TERMINAL, np.array(values), width)


def arrows(rows: list[list[float]], width: int = 80, ascii_only: bool = False) -> TextMap:
    return arrow_map("pi", square(), TERMINAL, np.array(rows), width, ascii_only=ascii_only)


def test_numbers_stand_where_the_states_are() -> None:
    assert numbers([1.2, -0.5, 10.0, 0.0]).lines == ("S  1.2   -0.5      #", "     #   10.0      G")


def test_terminal_values_stand_beside_their_labels() -> None:
    assert numbers([1.0, 2.0, 3.0, 4.0]).lines == ("S 1.00   2.00      #", "     #   3.00 G 4.00")


def test_zero_is_short_and_minus_infinity_is_said() -> None:
    assert numbers([0.0, -np.inf, 0.5, 0.0]).lines == ("S     0    -inf       #", "      #   0.500       G")


def test_numbers_lose_digits_before_the_map_loses_its_place() -> None:
    values = [1.234, 2.345, 3.456, 0.0]
    assert numbers(values).lines[0] == numbers(values, width=20).lines[0] == "S 1.23   2.35      #"
    assert numbers(values, width=19).lines[0] == numbers(values, width=17).lines[0] == "S 1.2   2.3     #"
    assert numbers(values, width=16).lines[0] == "36#"


def test_the_last_resort_is_a_digit_a_cell() -> None:
    shortest = numbers([-5.0, 0.0, 4.9, 5.0], width=5)
    assert shortest.lines == ("05#", "#99")
    assert shortest.note == "v: digits are tenths of the range -5 to 5"
    assert numbers([0.0, 0.5, 1.0, 0.0], width=5).lines == (".5#", "#9.")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([1.0, 0.0, 0.0, 0.0], "←"),
        ([0.0, 1.0, 0.0, 0.0], "↓"),
        ([0.0, 0.0, 1.0, 0.0], "→"),
        ([0.0, 0.0, 0.0, 1.0], "↑"),
        ([0.5, 0.0, 0.5, 0.0], "←→"),
        ([0.48, 0.04, 0.48, 0.0], "←→"),
        ([0.51, 0.0, 0.49, 0.0], "←→"),
        ([0.55, 0.0, 0.45, 0.0], "←"),
        ([0.32, 0.34, 0.33, 0.01], "←↓→"),
        ([0.25, 0.25, 0.25, 0.25], "·"),
        ([0.26, 0.24, 0.25, 0.25], "·"),
    ],
)
def test_arrows(row: list[float], text: str) -> None:
    still = [0.25] * 4
    drawn = arrows([still, row, still, still])
    assert drawn.lines[0].split() == ["S", "·", text, "#"]
    assert drawn.lines[1].split() == ["#", "·", "G"]
    assert len(set(map(len, drawn.lines))) == 1


def test_notes_say_what_signs_mean() -> None:
    one, two, all_alike = [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4
    assert arrows([one] * 4).note == ""
    assert arrows([one, two, one, one]).note == "several arrows: about equally probable"
    assert arrows([one, all_alike, one, one]).note == "· all actions about equally probable"
    narrow = arrows([one, two, all_alike, one], width=4)
    assert narrow.lines == ("←+#", "#·G")
    assert narrow.note.startswith("+ several about equally probable")


def test_terminals_without_unicode() -> None:
    row = [0.0, 0.0, 0.5, 0.5]
    drawn = arrows([row, [0.25] * 4, [1.0, 0, 0, 0], row], ascii_only=True)
    assert drawn.lines[0].split() == ["S", ">^", ".", "#"]
    assert all(line.isascii() for line in drawn.lines)


def test_moves_without_an_arrow_are_numbers() -> None:
    grid = GridSpace(1, 2, cells=(0, 1), moves=((0, 0), (0, 5)))
    drawn = arrow_map("pi", grid, np.zeros(2, dtype=bool), np.eye(2), 80)
    assert drawn.lines == ("o 1",)


def test_common_labels_are_left_out_and_terminal_states_always_marked() -> None:
    grid = GridSpace(1, 6, cells=range(6), moves=MOVES, labels=("S", "F", "F", "F", "", "F"))
    terminal = np.array([False, False, False, False, True, True])
    assert shown_labels(grid, terminal) == ["S", "", "", "", "T", "F"]
