"""Drawings of graphs in the usual notation: circles for variables, squares for factors, a box for what repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cai.graph.drawing.board import RADIUS, Node
from cai.graph.drawing.labels import FONT, INCHES, SQUARE, Box, half_width, is_telling, place_labels, variable_size
from cai.graph.drawing.layout import lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cai.graph.factor_graph import FactorGraph
    from cai.graph.trajectory_graph import TrajectoryGraph

_INK, _OBSERVED, _PAPER = "#222222", "#cfd8e3", "#ffffff"
#: In inches, of the longer side of a drawing, and of the shorter.
_LARGEST, _THINNEST = 48.0, 0.6
#: Text is never made smaller than this by a small page: fonts of less than a pixel are an error.
_LEAST = 0.2


def draw_slice(graph: TrajectoryGraph, ax: Axes | None = None) -> Axes:
    """Draws one slice of time: s_t, a_t and s_{t+1}, the factors between them, O_t observed, and the plate."""
    ax = _axes(ax, (6.4, 4.0))
    horizon = "t = 0, 1, 2, ..." if graph.horizon is None else f"t = 0, ..., {graph.horizon - 1}"
    state, action, following, optimality = (0.0, 0.0), (1.5, 1.5), (4.6, 0.0), (2.4, 2.7)
    prior, dynamics, reward = (0.6, 1.5), (2.4, 0.0), (2.4, 1.5)
    for start, end in [(state, prior), (prior, action), (state, dynamics), (action, dynamics)]:
        _line(ax, start, end)
    for start, end in [(dynamics, following), (state, reward), (action, reward), (reward, optimality)]:
        _line(ax, start, end)
    _line(ax, (-1.5, 0.0), state)
    names = {"initial": type(graph.initial).__name__, "dynamics": type(graph.dynamics).__name__}
    _factor(ax, (-1.5, 0.0), f"$p(s_0)$\n{names['initial']}", below=True)
    _factor(ax, prior, r"$\mu$")
    _factor(ax, dynamics, r"$p(s_{t+1}\mid s_t, a_t)$" + f"\n{names['dynamics']}", below=True)
    _factor(ax, reward, r"  $\exp(r/\alpha)$" + f"\n  {type(graph.reward).__name__}", right=True)
    _variable(ax, state, "$s_t$")
    _variable(ax, action, "$a_t$")
    _variable(ax, following, "$s_{t+1}$")
    _variable(ax, optimality, "$O_t$", observed=True)
    _plate(ax, (-0.75, -1.0), (4.75, 4.3), horizon)
    discount = "" if graph.discount == 1.0 else rf",  $\gamma$ = {graph.discount:g}"
    ax.set_title(rf"$\alpha$ = {float(graph.temperature):g}{discount}", fontsize=10, color=_INK)
    return ax


def draw_factor_graph(graph: FactorGraph, ax: Axes | None = None) -> Axes:
    """Draws variables and factors; an unrolled trajectory runs from left to right, any other graph by its distances.

    An observed variable is shaded and has its value beside its name, a factor has its name beside its square if that
    says more than "factor 3". A person can read it up to some forty nodes.
    """
    _need_matplotlib()
    view = graph.to_networkx()
    labels = {node: _label(data) for node, data in view.nodes(data=True)}
    half_widths = {node: half_width(label) for node, label in labels.items() if node[0] == "variable"}
    places = lay_out(graph, half_widths)
    names = {node: name for node, name in labels.items() if node[0] == "factor" and is_telling(name)}
    boxes = place_labels(names, places, half_widths, view.edges)
    ax, zoom = _page(ax, places, half_widths, boxes)
    for first, second in view.edges:
        _line(ax, places[first], places[second])
    for node, place in places.items():
        if node[0] == "factor":
            _factor(ax, place, "")
        else:
            size = zoom * variable_size(labels[node])
            observed = view.nodes[node]["observed"] is not None
            _variable(ax, place, labels[node], observed=observed, half_width=half_widths[node], size=size, math=False)
    for box in boxes.values():
        _name(ax, box, zoom)
    return ax


def _label(data: dict[str, Any]) -> str:
    return data["label"] if data.get("observed") is None else f"{data['label']} = {data['observed']}"


def _page(
    ax: Axes | None,
    places: dict[Node, tuple[float, float]],
    half_widths: dict[Node, float],
    boxes: dict[Node, Box],
) -> tuple[Axes, float]:
    """Makes a page that holds all nodes and names, and says by how much its text must be larger than planned."""
    centres = np.array([*places.values(), *(box.centre for box in boxes.values())]).reshape(-1, 2)
    halves = [(half_widths.get(node, RADIUS), RADIUS) for node in places] + [box.half for box in boxes.values()]
    edges = np.array(halves).reshape(-1, 2) + 0.1
    low = (centres - edges).min(0, initial=-0.5 if not places else np.inf)
    high = (centres + edges).max(0, initial=0.5 if not places else -np.inf)
    scale = float(np.minimum(INCHES, _LARGEST / (high - low)).min())
    if ax is not None:
        extent = ax.get_window_extent()
        scale = float((np.array([extent.width, extent.height]) / (high - low)).min()) / ax.figure.dpi
    width, height = np.maximum(scale * (high - low), _THINNEST)
    own = ax is None
    ax = _axes(ax, (float(width), float(height)))
    if own:  # the page is as large as what is on it, without margins
        ax.set_in_layout(False)
        ax.set_position((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return ax, max(scale / INCHES, _LEAST)


def _need_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install cai[plots]") from error


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        _need_matplotlib()
        from matplotlib.figure import Figure

        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.margins(0.08)
    return ax


def _line(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.plot([start[0], end[0]], [start[1], end[1]], color=_INK, linewidth=1.0, zorder=1)


def _variable(
    ax: Axes,
    at: tuple[float, float],
    label: str,
    *,
    observed: bool = False,
    half_width: float = RADIUS,
    size: float = 9.0,
    math: bool = True,
) -> None:
    from matplotlib.patches import Ellipse

    fill = _OBSERVED if observed else _PAPER
    ax.add_patch(Ellipse(at, 2 * half_width, 2 * RADIUS, facecolor=fill, edgecolor=_INK, linewidth=1.2, zorder=2))
    text = ax.text(*at, label, ha="center", va="center", fontsize=size, color=_INK, zorder=3)
    text.set_parse_math(math)


def _factor(ax: Axes, at: tuple[float, float], label: str, *, below: bool = False, right: bool = False) -> None:
    from matplotlib.patches import Rectangle

    corner = (at[0] - SQUARE, at[1] - SQUARE)
    ax.add_patch(Rectangle(corner, 2 * SQUARE, 2 * SQUARE, facecolor=_INK, edgecolor=_INK, zorder=2))
    if right:
        ax.text(at[0] + SQUARE, at[1], label, ha="left", va="center", fontsize=8, color=_INK, zorder=3)
    elif label:
        shift, alignment = (-0.2, "top") if below else (0.2, "bottom")
        ax.text(at[0], at[1] + shift, label, ha="center", va=alignment, fontsize=8, color=_INK, zorder=3)


def _name(ax: Axes, box: Box, zoom: float) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.0, foreground=_PAPER)]  # lines that it must cover stop short of it
    x, y = box.centre
    text = ax.text(x, y, box.text, ha="center", va="center", fontsize=zoom * FONT, color=_INK, zorder=3)
    text.set(path_effects=halo, parse_math=False)


def _plate(ax: Axes, corner: tuple[float, float], size: tuple[float, float], label: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(corner, *size, boxstyle="round,pad=0.05", facecolor="none", edgecolor="#777777", linewidth=1.0)
    ax.add_patch(box)
    ax.text(corner[0] + 0.1, corner[1] + size[1] - 0.1, label, ha="left", va="top", fontsize=8, color="#555555")
