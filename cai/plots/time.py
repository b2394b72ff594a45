"""State marginals over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.plots import paint
from cai.plots.maps import draw_states
from cai.plots.world import Array, World, long_run, marginals_of, world_of

if TYPE_CHECKING:
    from cai.inference import Posterior

MARGINAL_LABEL = "probability p(s$_t$)"
_NUM_PANELS = 6


def marginals_over_time(posterior: Posterior, times: Sequence[int] | None = None, ax: Axes | None = None) -> Figure:
    """Draws where the agent is: p(s_t) of every state over time.

    On a grid, one small map for each of a few times, in shared colours; otherwise one heat map of states by times.
    With an infinite horizon there is one panel, the occupancy. The colour scale is a square root, so that rare states
    show.

    Args:
        posterior: What to draw; its states must be finite.
        times: The times to draw, by default six from 0 to T that crowd towards the start; grids only.
        ax: Where to draw when there is one panel (no grid, an infinite horizon, or one time).

    Returns:
        The figure. The image of each panel holds its marginal: `[rows, columns]` on a grid, `[S, T + 1]` otherwise.

    Raises:
        ValueError: A time outside 0..T, times for what has no panels, or `ax` for more than one panel.
        Unavailable: The states are not finite, or the posterior has no marginals.
    """
    world, marginals = world_of(posterior), marginals_of(posterior)
    if world.grid is None and world.horizon is not None:
        return _heat_map(world, marginals, times, ax)
    chosen = _check_times(times, world)
    if ax is not None and len(chosen) > 1:
        raise ValueError(f"marginals_over_time: {len(chosen)} panels do not fit into one ax; choose one time")
    axes = [ax] if ax is not None else _panels(world, len(chosen))
    norm = paint.probability_scale(marginals[chosen])
    name, label = long_run(posterior) if world.horizon is None else ("", MARGINAL_LABEL)
    for panel, t in zip(axes, chosen, strict=True):
        draw_states(panel, world, marginals[t], paint.PROBABILITY_COLORS, norm, label, colorbar=False)
        panel.set_title(name.capitalize() if world.horizon is None else f"t = {t}")
    if world.grid is not None:
        paint.draw_colorbar(axes, axes[0].get_images()[0], label)
    return paint.figure_of(axes[0])


def default_times(horizon: int) -> list[int]:
    """Chooses at most six times from 0 to the horizon, evenly spaced in log(1 + t)."""
    spread = np.expm1(np.linspace(0.0, np.log1p(horizon), _NUM_PANELS))
    return sorted({int(t) for t in np.rint(spread)})


def _check_times(times: Sequence[int] | None, world: World) -> list[int]:
    if world.horizon is None:
        if times is not None:
            raise ValueError("marginals_over_time: with an infinite horizon there is one occupancy and no times")
        return [0]
    chosen = default_times(world.horizon) if times is None else [int(t) for t in times]
    outside = [t for t in chosen if not 0 <= t <= world.horizon]
    if outside or not chosen:
        raise ValueError(f"marginals_over_time: times must be in 0..{world.horizon}, got {outside or 'none'}")
    return chosen


def _panels(world: World, num: int) -> list[Axes]:
    if world.grid is None:
        return [paint.own_axes(float(np.clip(0.35 * world.num_states, 3.5, 9.0)), 3.0)]
    num_columns = _best_columns(num, world.grid.num_columns / world.grid.num_rows)
    num_rows = -(-num // num_columns)
    width, height = paint.grid_size(world.grid, largest=3.2 if num > 1 else 5.6)
    size = (num_columns * (width + 0.35) + 1.2, num_rows * (height + 0.75))
    panels = Figure(figsize=size, layout="compressed").subplots(num_rows, num_columns, squeeze=False).ravel()
    for unused in panels[num:]:
        unused.remove()
    return list(panels[:num])


def _best_columns(num: int, shape: float) -> int:
    """Chooses how many panels stand beside each other: three, two when the grid is wide, all when they are few."""
    return min(num, 2 if shape > 1.7 else 3)


def _heat_map(world: World, marginals: Array, times: Sequence[int] | None, ax: Axes | None) -> Figure:
    if times is not None:
        raise ValueError("marginals_over_time: only grids have panels to choose times for; all times are drawn")
    if ax is None:
        height = float(np.clip(0.28 * world.num_states, 1.8, 6.0))
        ax = paint.own_axes(float(np.clip(0.2 * len(marginals), 4.0, 8.0)), height)
    norm = paint.probability_scale(marginals)
    image = paint.draw_matrix(ax, marginals.T, norm)
    ax.set(xlabel="time t", ylabel="state", title="State marginals")
    paint.draw_colorbar(ax, image, MARGINAL_LABEL)
    return paint.figure_of(ax)
