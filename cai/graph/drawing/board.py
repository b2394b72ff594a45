"""A page on which nodes and lines are put one after the other, each new node where it is in nobody's way.

A variable is an ellipse with half axes (w, `RADIUS`), a factor counts as a circle. How near two nodes are is

    |(dx / (w_1 + w_2), dy / (h_1 + h_2))|,

so 1 is touching, and at least `GAP` is kept: 2.5 radii between two round variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Node = tuple[str, Any]
Array = NDArray[np.float64]

#: Half the height of a variable, the radius that a factor counts for (its square is smaller), and how far nodes keep.
RADIUS, FACTOR_RADIUS, GAP = 0.28, 0.2, 1.25
#: Lines keep so far from nodes that they do not tie, in half axes, and squares so far from lines that are not theirs.
CLEAR, _ASIDE = 1.3, 0.4
_FRACTIONS = np.array([0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73])
_RADII = np.array([0.35, 0.55, 0.75, 0.95, 1.2, 1.5, 1.9, 2.4, 3.2, 4.5, 6.5])
_ANGLES = np.arange(24) * np.pi / 12
_RINGS = (_RADII[:, None, None] * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)).reshape(-1, 2)


class Board:
    """Nodes with their places, and the lines of each factor.

    Args:
        half_widths: Half the width of each variable; a node that is not in it is as wide as high.
    """

    def __init__(self, half_widths: Mapping[Node, float]) -> None:
        self.half_widths = half_widths
        self._index: dict[Node, int] = {}
        self._nodes = np.zeros((16, 2, 2))  # centre and half axes of each, and room for more
        self._lines: dict[Node, Array] = {}

    def __getitem__(self, node: Node) -> Array:
        return self._nodes[self._index[node], 0]

    def __contains__(self, node: object) -> bool:
        return node in self._index

    def places(self) -> dict[Node, Array]:
        """Gives the place of every node, `[2]`."""
        return {node: self._nodes[index, 0] for node, index in self._index.items()}

    def add(self, node: Node, place: Array) -> None:
        """Puts a node at a place, `[2]`, with no line."""
        if len(self._index) == len(self._nodes):
            self._nodes = np.concatenate([self._nodes, np.zeros_like(self._nodes)])
        radius = RADIUS if node[0] == "variable" else FACTOR_RADIUS
        self._nodes[len(self._index)] = place, (self.half_widths.get(node, radius), radius)
        self._index[node] = len(self._index)

    def put(self, factor: Node, ends: Sequence[Node], place: Array) -> None:
        """Puts a factor at a place, `[2]`, with its lines to the nodes that it ties."""
        if factor not in self:
            self.add(factor, place)
        self._lines[factor] = np.array([(place, self[end]) for end in ends]).reshape(-1, 2, 2)

    def put_all(self, scopes: Mapping[Node, Sequence[Node]]) -> None:
        """Puts factors near what they tie, those on many variables first: the others have more freedom."""
        for factor, ends in scopes.items():
            if len(ends) == 2:  # until it is put, its line is where others should not be
                self._lines[factor] = np.array([[self[end] for end in ends]])
        for factor in sorted(scopes, key=lambda factor: -len(scopes[factor])):
            self._lines.pop(factor, None)
            self.put(factor, scopes[factor], self._best_spot(scopes[factor]))

    def is_free(self, place: Array) -> bool:
        """Says whether a factor at the place, `[2]`, would keep its distance from all nodes."""
        return bool(_are_free(place[None], self._nodes[: len(self._index)])[0])

    def box(self) -> tuple[Array, Array]:
        """Computes the lower left and the upper right corner of all nodes, `[2]` each; zero for an empty board."""
        centres, halves = self._nodes[: len(self._index)].transpose(1, 0, 2)
        return ((centres - halves).min(0), (centres + halves).max(0)) if len(centres) else (np.zeros(2), np.zeros(2))

    def _around(self, points: Array) -> Array:
        """Gives centres and half axes, `[N, 2, 2]`, of the nodes that a factor in the box of the points may touch."""
        nodes = self._nodes[: len(self._index)]
        reach = CLEAR * (nodes[:, 1] + FACTOR_RADIUS)
        low, high = points.min(0), points.max(0)
        return nodes[((nodes[:, 0] + reach > low) & (nodes[:, 0] - reach < high)).all(1)]

    def _best_spot(self, ends: Sequence[Node]) -> Array:
        """Finds where a factor stands best: along its line if it ties two, or on rings around the middle of all."""
        tied = np.array([self[end] for end in ends]).reshape(-1, 2)
        middle = tied.mean(0) if ends else self.box()[0]
        along = tied[0] + _FRACTIONS[:, None] * (tied[1] - tied[0]) if len(ends) == 2 else middle[None]
        spots = np.concatenate([along, middle + _RINGS])
        while not _are_free(spots, self._around(spots)).any():
            spots = middle + 1.5 * (spots - middle)
        return spots[self._costs(spots, tied).argmin()]

    def _costs(self, spots: Array, tied: Array) -> Array:
        """Weighs spots, `[K]`: no overlap first, then lines that pass nodes, crossings, and length."""
        reach = np.concatenate([spots, tied])
        nodes = self._around(reach)
        lines = np.concatenate([np.zeros((0, 2, 2)), *self._lines.values()])
        lines = lines[((lines.max(1) > reach.min(0) - _ASIDE) & (lines.min(1) < reach.max(0) + _ASIDE)).all(1)]
        cost = 1e4 * np.clip(GAP - _nearness(spots, nodes), 0.0, None).sum(1)
        cost += 40.0 * np.clip(1.0 - distance(spots[:, None], lines[:, 0], lines[:, 1]) / _ASIDE, 0.0, None).sum(1)
        if not len(tied):
            return cost
        starts = spots[:, None, None]
        cost += 1.2 * crossing(starts, tied[:, None], lines[:, 0], lines[:, 1]).sum((1, 2))
        near = distance(nodes[:, 0] / nodes[:, 1], starts / nodes[:, 1], tied[:, None] / nodes[:, 1])
        own = (tied[:, None] == nodes[:, 0]).all(2)
        cost += 60.0 * np.where(own, 0.0, np.clip(1.0 - near / CLEAR, 0.0, None)).sum((1, 2))
        lengths = np.linalg.norm(spots[:, None] - tied, axis=-1)
        return cost + lengths.sum(1) + 0.5 * np.ptp(lengths, axis=1)


def _nearness(spots: Array, nodes: Array) -> Array:
    """Measures how near factors at the spots would be to nodes `[N, 2, 2]`, `[K, N]`."""
    return np.linalg.norm((spots[:, None] - nodes[:, 0]) / (nodes[:, 1] + FACTOR_RADIUS), axis=-1)


def _are_free(spots: Array, nodes: Array) -> NDArray[np.bool_]:
    return np.all(_nearness(spots, nodes) >= GAP, axis=1)


def distance(points: Array, starts: Array, ends: Array) -> Array:
    """Computes the distance of points from line segments, `[..., 2]` each, broadcast."""
    along = ends - starts
    square = np.maximum((along**2).sum(-1), 1e-12)
    fraction = np.clip(((points - starts) * along).sum(-1) / square, 0.0, 1.0)
    return np.linalg.norm(points - starts - fraction[..., None] * along, axis=-1)


def crossing(starts: Array, ends: Array, other_starts: Array, other_ends: Array) -> NDArray[np.bool_]:
    """Says which segments cross properly, `[..., 2]` each, broadcast; a common end is no crossing."""

    def sides(a: Array, b: Array, c: Array, d: Array) -> NDArray[np.bool_]:
        return _turn(a, b, c) * _turn(a, b, d) < -1e-9

    return sides(starts, ends, other_starts, other_ends) & sides(other_starts, other_ends, starts, ends)


def _turn(a: Array, b: Array, c: Array) -> Array:
    return (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
