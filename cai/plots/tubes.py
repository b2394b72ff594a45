"""Gaussian marginals: means in tubes over time, and paths with ellipses in a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from cai.errors import Unavailable
from cai.factors.checks import whole_numbers
from cai.factors.distributions import DegenerateNormal
from cai.plots import paint
from cai.plots.world import Array, name_of, to_numpy

if TYPE_CHECKING:
    from cai.inference import Posterior

#: Blue, vermilion, green, purple: told apart by the colour-blind, and in print by the style of the line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_LINES = ("-", "--", "-.", ":")
#: The tubes: how many standard deviations, how opaque.
_SHADES = ((2.0, 0.14), (1.0, 0.22))
_NUM_COLUMNS = 3
_NUM_ELLIPSES = 9


@dataclass(frozen=True, eq=False)
class _Marginals:
    """Moments over time of one posterior.

    Attributes:
        states: Means of the state, `[T + 1, n]`.
        covariances: `[T + 1, n, n]`.
        actions: Means of the action, `[T, m]`, m = 0 where there are none.
        deviations: Standard deviations of the action, `[T, m]`.
    """

    states: Array
    covariances: Array
    actions: Array
    deviations: Array

    @property
    def horizon(self) -> int:
        """T."""
        return len(self.states) - 1

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of coordinates n and m."""
        return self.states.shape[1], self.actions.shape[1]


def tubes(*posteriors: Posterior, labels: Sequence[str] | None = None, names: Sequence[str] | None = None) -> Figure:
    """Draws Gaussian marginals over time: means, in tubes of one and of two standard deviations.

    One panel for each coordinate of the state, then of the action, which holds from a time to the next.

    Args:
        posteriors: One or more on linear-Gaussian graphs of the same size and finite horizon, to be drawn over each
            other, such as that of fixed dynamics and the trajectory posterior.
        labels: Their names, by default those of their methods.
        names: The names of the coordinates, n of the state, then m of the action; with units, if there are any.

    Returns:
        The figure, one ax a coordinate. In each ax the line of a posterior is its mean.

    Raises:
        ValueError: No posterior, or several that do not fit each other; batches; labels or names of another number.
        Unavailable: No Gaussian marginals, or an infinite horizon.
    """
    several = _read(posteriors, "tubes")
    labels = _labels(posteriors, labels, "tubes")
    names = _names(names, several[0].sizes, "tubes")
    num_columns = min(_NUM_COLUMNS, len(names)) if len(names) != 4 else 2
    num_rows = -(-len(names) // num_columns)
    size = (3.3 * num_columns + 0.3, 2.1 * num_rows + (0.6 if len(several) > 1 else 0.2))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True).ravel()
    for unused in panels[len(names) :]:
        unused.remove()
    for k, (ax, name) in enumerate(zip(panels, names, strict=False)):
        for one, label, color, line in zip(several, labels, _COLORS, _LINES, strict=False):
            _draw_tube(ax, one, k, color, line, label)
        ax.set_ylabel(name)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.margins(x=0.02)
        if k + num_columns >= len(names):
            ax.set_xlabel("time t")
            ax.tick_params(labelbottom=True)
    if len(several) > 1:
        handles, texts = panels[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=len(several), frameon=False)
    return figure


def plane(
    *posteriors: Posterior,
    coordinates: tuple[int, int] = (0, 1),
    times: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    names: tuple[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws two coordinates of the state against each other: the path of the mean, and ellipses of two deviations.

    The start is a disc, the end a cross. Where a covariance is singular its ellipse is a line or nothing.

    Args:
        posteriors: As for `tubes`.
        coordinates: Which two coordinates of the state, across and up.
        times: The times that have an ellipse, by default nine, evenly spaced.
        labels: The names of the posteriors, by default those of their methods.
        names: The names of the two coordinates.
        ax: Where to draw; a new figure by default.

    Returns:
        The ax, with equal scales.

    Raises:
        ValueError: As of `tubes`; coordinates or times that there are none of; not two names.
        Unavailable: No Gaussian marginals, or an infinite horizon.
    """
    several = _read(posteriors, "plane")
    labels = _labels(posteriors, labels, "plane")
    horizon, pair = several[0].horizon, _checked_pair(coordinates, several[0].sizes[0])
    chosen, titles = _checked_times(times, horizon), _checked_pair_of_names(names, pair)
    ax = paint.own_axes(4.6, 3.8) if ax is None else ax
    for one, label, color, line in zip(several, labels, _COLORS, _LINES, strict=False):
        path = one.states[:, pair]
        ax.plot(*path.T, line, color=color, linewidth=1.4, label=label, zorder=3)
        ax.plot(*path[0], "o", color=color, markersize=5, zorder=4)
        ax.plot(*path[-1], "x", color=color, markersize=7, markeredgewidth=1.8, zorder=4)
        for t in chosen:
            ax.add_patch(_ellipse(path[t], one.covariances[t][np.ix_(pair, pair)], color))
    ax.set(xlabel=titles[0], ylabel=titles[1])
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    if len(several) > 1:
        ax.legend(frameon=False)
    return ax


def _read(posteriors: Sequence[Posterior], who: str) -> list[_Marginals]:
    if not posteriors:
        raise ValueError(f"{who}: give at least one posterior")
    if len(posteriors) > len(_COLORS):
        raise ValueError(f"{who}: at most {len(_COLORS)} posteriors in one picture, got {len(posteriors)}")
    several = [_marginals_of(posterior, who) for posterior in posteriors]
    for name in ("horizon", "sizes"):
        found = [getattr(one, name) for one in several]
        if len(set(found)) > 1:
            raise ValueError(f"{who}: the posteriors must share one world, but their {name} are {found}")
    return several


def _marginals_of(posterior: Posterior, who: str) -> _Marginals:
    if not hasattr(type(posterior), "state_marginals"):
        raise ValueError(f"{who} draws posteriors, one after the other, {who}(first, second); got {posterior!r:.60}")
    states = posterior.state_marginals
    if not isinstance(states, DegenerateNormal):
        raise Unavailable(f"{who} draws Gaussian marginals; marginals_over_time draws those of finite worlds")
    if posterior.graph.horizon is None:
        raise Unavailable(f"{who} draws marginals over time; with an infinite horizon there is one, of the long run")
    if len(states.batch_shape) > 1:
        batch = list(states.batch_shape[1:])
        raise ValueError(f"{who}: the posterior answers a batch of graphs {batch}; draw that of one graph")
    moments = [to_numpy(x).astype(float) for x in (states.mean, states.covariance_matrix)]
    n = moments[0].shape[1]
    try:
        pairs = posterior.state_action_marginals
    except Unavailable:
        return _Marginals(*moments, *[np.zeros((len(states) - 1, 0))] * 2)
    return _Marginals(*moments, *(to_numpy(x)[:, n:].astype(float) for x in (pairs.mean, pairs.stddev)))


def _labels(posteriors: Sequence[Posterior], labels: Sequence[str] | None, who: str) -> list[str]:
    if labels is None:
        return [name_of(posterior) for posterior in posteriors]
    if len(labels) != len(posteriors):
        raise ValueError(f"{who}: {len(labels)} labels for {len(posteriors)} posteriors")
    return list(labels)


def _names(names: Sequence[str] | None, sizes: tuple[int, int], who: str) -> list[str]:
    if names is None:
        return [f"{what} {k}" for what, size in zip(("state", "action"), sizes, strict=True) for k in range(size)]
    if len(names) != sum(sizes):
        raise ValueError(f"{who}: {len(names)} names for {sizes[0]} state and {sizes[1]} action coordinates")
    return list(names)


def _checked_pair(coordinates: tuple[int, int], size: int) -> list[int]:
    pair = whole_numbers(coordinates, "plane: coordinates")
    if pair.shape != (2,) or (pair < 0).any() or (pair >= size).any():
        raise ValueError(f"plane: coordinates must be two of 0..{size - 1}, got {coordinates}")
    return pair.tolist()


def _checked_times(times: Sequence[int] | None, horizon: int) -> list[int]:
    if times is None:
        return np.unique(np.rint(np.linspace(0, horizon, _NUM_ELLIPSES)).astype(int)).tolist()
    chosen = whole_numbers(times, "plane: times").flatten().tolist()
    if any(not 0 <= t <= horizon for t in chosen):
        raise ValueError(f"plane: times must be in 0..{horizon}, got {chosen}")
    return chosen


def _checked_pair_of_names(names: tuple[str, str] | None, pair: list[int]) -> list[str]:
    if names is None:
        return [f"state {k}" for k in pair]
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(f"plane: names must be two, of the coordinates {pair}, got {names!r}")
    return list(names)


def _draw_tube(ax: Axes, one: _Marginals, k: int, color: str, line: str, label: str) -> None:
    """Draws coordinate k of [x; u]; an action holds until the next time, so that its curve has steps."""
    n, _ = one.sizes
    times = np.arange(one.horizon + 1)
    style: Literal["default", "steps-post"] = "default" if k < n else "steps-post"
    step: Literal["post"] | None = None if k < n else "post"
    if k < n:
        mean, deviation = one.states[:, k], np.sqrt(np.clip(one.covariances[:, k, k], 0.0, None))
    else:
        mean, deviation = (np.append(x[:, k - n], x[-1, k - n]) for x in (one.actions, one.deviations))
    ax.plot(times, mean, line, color=color, linewidth=1.5, label=label, drawstyle=style, zorder=3)
    for width, opacity in _SHADES:
        low, high = mean - width * deviation, mean + width * deviation
        ax.fill_between(times, low, high, step=step, color=color, alpha=opacity, linewidth=0.0)
    for edge in (mean - _SHADES[0][0] * deviation, mean + _SHADES[0][0] * deviation):
        ax.plot(times, edge, line, color=color, linewidth=0.6, alpha=0.7, drawstyle=style)


def _ellipse(center: Array, covariance: Array, color: str) -> Ellipse:
    """Makes the ellipse of two standard deviations."""
    values, vectors = np.linalg.eigh(covariance)
    height, width = 4.0 * np.sqrt(np.clip(values, 0.0, None))  # eigenvalues rise
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    return Ellipse(tuple(center), width, height, angle=angle, facecolor=(color, 0.07), edgecolor=(color, 0.6))
