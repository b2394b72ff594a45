"""Drawings of graphs in the usual notation: circles for variables, squares for factors, a box for what repeats."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import networkx

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cai.graph.factor_graph import FactorGraph
    from cai.graph.trajectory_graph import TrajectoryGraph

_INK, _OBSERVED, _PAPER = "#222222", "#cfd8e3", "#ffffff"
_RADIUS, _HALF = 0.28, 0.11


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
    """Draws variables and factors; an unrolled trajectory runs from left to right, any other graph by its distances."""
    view = graph.to_networkx()
    positions = _trajectory_layout(graph) or _general_layout(view)
    across = [x for x, _ in positions.values()] or [0.0]
    columns = max(across) - min(across)
    ax = _axes(ax, (min(max(4.0, 0.8 * columns + 1.5), 16.0), 4.2))
    for first, second in view.edges:
        _line(ax, positions[first], positions[second])
    for node, data in view.nodes(data=True):
        if data["kind"] == "factor":
            _factor(ax, positions[node], "")
        else:
            _variable(ax, positions[node], data["label"], observed=data["observed"] is not None)
    return ax


def _trajectory_layout(graph: FactorGraph) -> dict[Any, tuple[float, float]] | None:
    """Places s_t and a_t by time, and each factor between what it ties; None if the names are not those of `unroll`."""
    places: dict[Any, tuple[float, float]] = {}
    for variable in graph.variables:
        match = re.fullmatch(r"([sa])(\d+)", variable.name)
        if match is None:
            return None
        t = int(match[2])
        places["variable", variable.name] = (2.4 * t, 0.0) if match[1] == "s" else (2.4 * t + 0.55, 1.6)
    offsets = {"prior": (-0.45, 0.3), "dynamics": (0.15, -0.25), "reward": (1.05, 0.15), "initial": (-1.0, 0.0)}
    offsets["terminal"] = (1.0, 0.0)
    for index, factor in enumerate(graph.factors):
        around = [places["variable", name] for name in factor.variables]
        shift = offsets.get(factor.name.split()[0], (0.0, 0.6))
        x, y = (sum(axis) / len(axis) for axis in zip(*around, strict=True))
        if factor.name.startswith("reward"):
            x, y = around[1]  # beside its action, out of the way of the dynamics
        places["factor", index] = (x + shift[0], y + shift[1])
    return places


def _general_layout(view: networkx.Graph) -> dict[Any, tuple[float, float]]:
    if not view:
        return {}
    layout: dict[Any, tuple[float, float]] = {}
    corner = 0.0
    for part in networkx.connected_components(view):
        size = max(1.0, len(part) ** 0.5)
        alone = {next(iter(part)): (0.0, 0.0)}
        placed = networkx.kamada_kawai_layout(view.subgraph(part), scale=size) if len(part) > 1 else alone
        layout |= {node: (corner + size + x, y) for node, (x, y) in placed.items()}
        corner += 2 * size + 1.0
    return layout


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("drawing needs matplotlib: pip install cai[plots]") from error
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.margins(0.08)
    return ax


def _line(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.plot([start[0], end[0]], [start[1], end[1]], color=_INK, linewidth=1.0, zorder=1)


def _variable(ax: Axes, at: tuple[float, float], label: str, *, observed: bool = False) -> None:
    from matplotlib.patches import Circle

    fill = _OBSERVED if observed else _PAPER
    ax.add_patch(Circle(at, _RADIUS, facecolor=fill, edgecolor=_INK, linewidth=1.2, zorder=2))
    ax.text(*at, label, ha="center", va="center", fontsize=9, color=_INK, zorder=3)


def _factor(ax: Axes, at: tuple[float, float], label: str, *, below: bool = False, right: bool = False) -> None:
    from matplotlib.patches import Rectangle

    corner = (at[0] - _HALF, at[1] - _HALF)
    ax.add_patch(Rectangle(corner, 2 * _HALF, 2 * _HALF, facecolor=_INK, edgecolor=_INK, zorder=2))
    if right:
        ax.text(at[0] + _HALF, at[1], label, ha="left", va="center", fontsize=8, color=_INK, zorder=3)
    elif label:
        shift, alignment = (-0.2, "top") if below else (0.2, "bottom")
        ax.text(at[0], at[1] + shift, label, ha="center", va=alignment, fontsize=8, color=_INK, zorder=3)


def _plate(ax: Axes, corner: tuple[float, float], size: tuple[float, float], label: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(corner, *size, boxstyle="round,pad=0.05", facecolor="none", edgecolor="#777777", linewidth=1.0)
    ax.add_patch(box)
    ax.text(corner[0] + 0.1, corner[1] + size[1] - 0.1, label, ha="left", va="top", fontsize=8, color="#555555")
