"""Where the nodes of a drawn factor graph stand.

An unrolled trajectory runs in time, see `cai.graph.drawing.timeline`. Any other graph is laid out part by part: its
variables, and its factors on three or more, by their distances along lines (of several starts the one with the fewest
crossings), turned so that lines run along the page. The remaining factors are put in last, each near what it ties, see
`cai.graph.drawing.board`.

Source: Kamada and Kawai 1989, An algorithm for drawing general undirected graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import networkx
import numpy as np

from cai.graph.drawing.board import CLEAR, FACTOR_RADIUS, GAP, RADIUS, Array, Board, Node, crossing, distance
from cai.graph.drawing.timeline import lay_out_in_time, read_timeline

if TYPE_CHECKING:
    from cai.graph.factor_graph import FactorGraph

#: Length of a line between two variables with a factor in the middle, and of one to a factor on three or more.
_PAIR, _SPOKE = 1.9, 1.3
#: A layout is made larger by so much for every crossing, up to half.
_LOOSER = 0.02
#: Parts of more nodes are laid out from one start only, and roughly.
_FEW = 80
#: Between parts.
_APART = 0.8


def lay_out(graph: FactorGraph, half_widths: Mapping[Node, float]) -> dict[Node, tuple[float, float]]:
    """Computes a place for every node of `graph.to_networkx()`; no two of them overlap.

    Args:
        graph: Any factor graph.
        half_widths: Half the width of the ellipse of each variable.
    """
    scopes = {("factor", i): tuple(("variable", name) for name in f.variables) for i, f in enumerate(graph.factors)}
    timeline = read_timeline(variable.name for variable in graph.variables)
    if timeline is None:
        places = _packed(graph, half_widths, scopes)
    else:
        places = lay_out_in_time(graph, timeline, half_widths, scopes).places()
    nodes: list[Node] = [*(("variable", variable.name) for variable in graph.variables), *scopes]
    return {node: (float(places[node][0]), float(places[node][1])) for node in nodes}


def _packed(
    graph: FactorGraph, half_widths: Mapping[Node, float], scopes: Mapping[Node, tuple[Node, ...]]
) -> dict[Node, Array]:
    """Lays out each connected part, and puts the parts side by side, in rows of about the page's width."""
    view = graph.to_networkx()
    order = {node: index for index, node in enumerate(view)}
    parts = [sorted(part, key=order.__getitem__) for part in networkx.connected_components(view)]
    boards = [_part(part, half_widths, scopes) for part in parts]
    sizes = [high - low + _APART for low, high in (board.box() for board in boards)]
    page = max([1.6 * sum(width * height for width, height in sizes) ** 0.5, *(width for width, _ in sizes)])
    places: dict[Node, Array] = {}
    corner, deepest = np.zeros(2), 0.0
    for board, size in zip(boards, sizes, strict=True):
        if corner[0] + size[0] > page + 1e-9:
            corner = np.array([0.0, deepest])
        low, high = board.box()
        shift = corner - np.array([low[0], high[1]])
        places |= {node: place + shift for node, place in board.places().items()}
        corner, deepest = corner + [size[0], 0.0], min(deepest, corner[1] - size[1])
    return places


def _part(nodes: list[Node], half_widths: Mapping[Node, float], scopes: Mapping[Node, tuple[Node, ...]]) -> Board:
    core = networkx.Graph()
    core.add_nodes_from(node for node in nodes if node[0] == "variable" or len(scopes[node]) > 2)
    inner = {node: scopes[node] for node in nodes if node[0] == "factor" and node not in core}
    core.add_edges_from((node, end, {"length": _SPOKE}) for node in core if node in scopes for end in scopes[node])
    core.add_edges_from((*scope, {"length": _PAIR}) for scope in inner.values() if len(scope) == 2)
    board = Board(half_widths)
    points = _by_distance(core, np.array([half_widths.get(node, RADIUS) for node in core]))
    for node, point in zip(core, points, strict=True):
        board.add(node, point)
    for node in core:
        if node in scopes:
            board.put(node, scopes[node], board[node])
    board.put_all(inner)
    return board


def _by_distance(core: networkx.Graph, half_widths: Array) -> Array:
    """Places nodes `[N, 2]` so that their distances on the page are those along the edges, as far as that goes."""
    number = len(core)
    if number < 2:
        return np.zeros((number, 2))
    index = {node: i for i, node in enumerate(core)}
    edges = np.array([(index[first], index[second]) for first, second in core.edges])
    lengths = np.array([length for *_, length in core.edges.data("length")])
    best, least = np.zeros((number, 2)), np.inf
    for start in _starts(core):
        placed = networkx.kamada_kawai_layout(core, pos=start, weight="length")
        points = np.array([placed[node] for node in core])
        along = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
        points = _spread(_turned(points * lengths.sum() / along.sum(), edges), half_widths, edges[lengths == _PAIR])
        tangles = _tangles(points, edges) if number <= _FEW else 0.0
        if tangles < least:
            best, least = points, tangles
    return best * (1.0 + min(_LOOSER * least, 0.5))


def _starts(core: networkx.Graph) -> Iterable[dict[Node, Array]]:
    """Gives layouts to start from: the plane one if there is one, one by eigenvectors, a circle."""
    number = len(core)
    turns = np.arange(1.0, number + 1.0)
    spiral = 0.02 * np.stack([np.cos(turns), np.sin(turns)], -1) * np.sqrt(turns)[:, None]
    makers: list[Callable[[networkx.Graph], dict[Node, Array]]] = [networkx.spectral_layout]
    if number <= _FEW:
        makers.append(networkx.circular_layout)
        if networkx.check_planarity(core)[0]:
            makers.append(networkx.planar_layout)
    for make in makers:  # what falls together in one of them is pulled apart, or it would stay together
        yield {node: place + shift for (node, place), shift in zip(make(core).items(), spiral, strict=True)}


def _turned(points: Array, edges: Array) -> Array:
    """Turns the layout so that most edges run along or across the page, and it is wider than high."""
    along = points[edges[:, 1]] - points[edges[:, 0]]
    fourfold = np.sum(np.linalg.norm(along, axis=1) * np.exp(4j * np.arctan2(along[:, 1], along[:, 0])))
    turned = points @ _rotation(-np.angle(fourfold) / 4)
    width, height = np.ptp(turned, axis=0)
    return turned if width >= height else turned @ _rotation(np.pi / 2)


def _spread(points: Array, half_widths: Array, pairs: Array) -> Array:
    """Pushes nodes apart that are too near, with room for a factor between pairs; what is left is scaled up."""
    room = half_widths[:, None] + half_widths
    need = GAP * np.stack([room, np.full_like(room, 2 * RADIUS)], -1)
    wider = np.maximum(half_widths[pairs[:, 0]], half_widths[pairs[:, 1]])
    need[pairs[:, 0], pairs[:, 1]] = (
        2 * GAP * np.stack([wider + FACTOR_RADIUS, np.full_like(wider, RADIUS + FACTOR_RADIUS)], -1)
    )
    need = np.maximum(need, need.transpose(1, 0, 2))
    points = points.copy()
    for _ in range(200 if len(points) <= _FEW else 20):
        apart = points[:, None] - points
        near = np.linalg.norm(apart / need, axis=-1) + 2.0 * np.eye(len(points))
        if near.min() >= 1.0:
            return points
        push = np.where(near < 1.0, 0.55 * (1.0 / np.maximum(near, 0.05) - 1.0), 0.0)
        points += (push[..., None] * apart).sum(1)
    near = np.linalg.norm((points[:, None] - points) / need, axis=-1) + 2.0 * np.eye(len(points))
    return points / min(near.min(), 1.0)


def _tangles(points: Array, edges: Array) -> float:
    """Counts edges that cross and, twice, nodes on which an edge lies that does not end there."""
    starts, ends = points[edges[:, 0]], points[edges[:, 1]]
    crossings = crossing(starts[:, None], ends[:, None], starts, ends).sum() / 2
    near = distance(points[:, None], starts, ends) < CLEAR * RADIUS
    near[edges.T, np.arange(len(edges))] = False
    return float(crossings + 2.0 * near.sum())


def _rotation(angle: float) -> Array:
    """Gives the matrix that turns row vectors by the angle, `[2, 2]`."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
