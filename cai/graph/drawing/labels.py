"""Text in drawings of factor graphs: how large it is, and where the names of factors stand.

Lengths are in units of the page, of which one is `INCHES` wide. A name is put beside its square where it covers no
node, no other name and as little of the lines as may be.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cai.graph.drawing.board import RADIUS, Array, Node

#: Width of a unit of the page, and half the side of a factor's square in units.
INCHES, SQUARE = 0.8, 0.11
#: Sizes of text in points: of variables, of the smallest of them, and of factors.
_VARIABLE, _SMALLEST, FONT = 9.0, 6.0, 7.5
#: A wider text of a variable, in points, is made smaller; a factor's name of more characters is wrapped.
_WIDE, _LONG = 62.0, 22
#: How much wider a text can be on the screen, where letters are whole pixels wide.
_ROUNDING = 1.1
#: Height of a line in sizes of the font.
_HEIGHT = 1.25
_SIDES = np.array(
    [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1), (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1)]
)
#: How far from the square a name may stand; the nearest is taken if it is as free.
_PADS = np.array([0.08, 0.18, 0.35])
#: Nearer than this to another square a name could be taken for that one's.
_DOUBT = 0.35
_DOT = 0.05


@dataclass(frozen=True)
class Box:
    """A text with its centre and half its width and height, `[2]` each."""

    text: str
    centre: Array
    half: Array


def variable_size(text: str) -> float:
    """Computes the size of a variable's text, in points."""
    return float(np.clip(_VARIABLE * _WIDE / max(_points(text, _VARIABLE), 1.0), _SMALLEST, _VARIABLE))


def half_width(text: str) -> float:
    """Computes half the width of the ellipse that a variable's text fits in."""
    return max(RADIUS, 0.1 + 0.54 * _units(_points(text, variable_size(text))))


def is_telling(name: str) -> bool:
    """Says whether the name of a factor is worth showing: neither empty nor "factor" with a number."""
    return bool(name.strip()) and re.fullmatch(r"factor[ _]?\d*", name.strip()) is None


def place_labels(
    names: Mapping[Node, str],
    places: Mapping[Node, tuple[float, float]],
    half_widths: Mapping[Node, float],
    lines: Iterable[tuple[Node, Node]],
) -> dict[Node, Box]:
    """Finds where the name of each factor stands.

    Args:
        names: What is to be written, by factor.
        places: The place of every node.
        half_widths: Half the width of each variable.
        lines: Which nodes are tied by a line.
    """
    dots = _dots(np.array([(places[first], places[second]) for first, second in lines]).reshape(-1, 2, 2))
    centres = np.array(list(places.values())).reshape(-1, 2)
    halves = np.array([(half_widths[n], RADIUS) if n in half_widths else (SQUARE, SQUARE) for n in places])
    boxes: dict[Node, Box] = {}
    for node, name in names.items():
        text = textwrap.fill(name, _LONG)
        half = _half_size(text)
        spots = np.concatenate([places[node] + _SIDES * (SQUARE + pad + half) for pad in _PADS])
        beyond = np.maximum(np.abs(spots[:, None] - centres) - half, 0.0)
        covered = (np.linalg.norm(beyond / (halves + 0.04), axis=2) < 1.0).sum(1)
        taken = np.array([(box.centre, box.half) for box in boxes.values()]).reshape(-1, 2, 2)
        covered += (np.abs(spots[:, None] - taken[:, 0]) < half + taken[:, 1]).all(2).sum(1)
        close = dots[(np.abs(dots - places[node]) < 2.0 * half + 0.5).all(1)]
        hidden = _DOT * (np.abs(spots[:, None] - close) < half + 0.02).all(2).sum(1)
        others = [other[0] == "factor" and other != node for other in places]
        doubt = np.clip(1.0 - (np.linalg.norm(beyond[:, others], axis=2) - SQUARE) / _DOUBT, 0.0, 1.0).sum(1)
        cost = np.repeat(_PADS, len(_SIDES)) + 10.0 * covered + 6.0 * hidden + 2.0 * doubt
        boxes[node] = Box(text, spots[cost.argmin()], half)
    return boxes


def _half_size(text: str) -> Array:
    """Computes half the width and half the height of a factor's name, `[2]`."""
    rows = text.split("\n")
    width, height = max(_points(row, FONT) for row in rows), FONT * _HEIGHT * len(rows)
    return 0.5 * np.array([_units(width), _units(height)])


def _dots(lines: Array) -> Array:
    """Takes points along lines `[L, 2, 2]`, `_DOT` apart."""
    numbers = [max(2, int(np.hypot(*(end - start)) / _DOT)) for start, end in lines]
    dots = [
        start + np.linspace(0.0, 1.0, n)[:, None] * (end - start)
        for (start, end), n in zip(lines, numbers, strict=True)
    ]
    return np.concatenate(dots) if dots else np.zeros((0, 2))


def _points(text: str, size: float) -> float:
    """Measures the width of a text, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    measured = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return _ROUNDING * float(measured[0])


def _units(points: float) -> float:
    return points / 72.0 / INCHES
