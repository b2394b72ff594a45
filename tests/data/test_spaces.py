"""States on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cai import GridSpace


def example() -> GridSpace:
    return GridSpace(2, 3, cells=(0, 2, 5, -1), moves=((0, 1), (1, 0)), labels=("S", "", "G", "end"))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_values_are_laid_out(kind: type) -> None:
    expected = [[1.0, np.nan, 2.0], [np.nan, np.nan, 3.0]]
    np.testing.assert_array_equal(example().to_grid(kind([1.0, 2.0, 3.0, 4.0])), expected)


def test_values_with_gradients_are_laid_out() -> None:
    assert example().to_grid(torch.ones(4, requires_grad=True))[0, 0] == 1.0


def test_is_a_discrete_space() -> None:
    grid = example()
    assert grid.n == 4
    assert grid.contains(np.int64(3))
    assert GridSpace(1, 2, (0, 1), ()).labels == ("", "")


def test_extra_states_are_off_the_grid() -> None:
    longer = example().extended(2)
    assert longer.n == 6
    assert longer.cells == (0, 2, 5, -1, -1, -1)
    assert longer.labels[-2:] == ("", "")
    assert longer.moves == example().moves


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((2, 3, (0, 6), ()), r"state 1 is at cell 6, outside -1..5"),
        ((2, 3, (-2,), ()), r"state 0 is at cell -2"),
        ((2, 3, (0, 1), (), ("a",)), r"2 states need as many labels, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridSpace(*arguments)
