"""Value maps and policy maps of one posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from cai.plots import paint
from cai.plots.world import Array, World, policy_at, values_at, when, world_of

if TYPE_CHECKING:
    from cai.inference import Posterior

VALUE_LABEL = "value v(s) [reward\u00a0units]"
POLICY_LABEL = "probability π(a|s)"
#: Beyond this many states, ticks and bars give way to a filled line.
_MANY_STATES = 60


def value_map(posterior: Posterior, t: int = 0, ax: Axes | None = None) -> Axes:
    """Draws the soft value v(s) at time t: a map where the states are a grid, else one bar a state.

    Args:
        posterior: What to draw; its states must be finite.
        t: The time; ignored when the horizon is infinite.
        ax: Where to draw, by default into a figure of its own.

    Returns:
        The axes. On a grid the only image of it holds v, `[rows, columns]`, masked where there is no state.

    Raises:
        Unavailable: The states are not finite, or the posterior has no values.
    """
    world, values = world_of(posterior), values_at(posterior, t)
    ax = _axes_for(world, 3.0) if ax is None else ax
    draw_values(ax, world, values, paint.linear_scale(values))
    ax.set_title(f"Value{when(world, t)}")
    return ax


def policy_map(posterior: Posterior, t: int = 0, ax: Axes | None = None) -> Axes:
    """Draws the policy pi(a|s) at time t: arrows where the states are a grid, else a heat map of actions by states.

    The area and the colour of an arrow are the probability of the action; a disc stands for staying. States that
    are terminal have no arrows.

    Args:
        posterior: What to draw; states and actions must be finite.
        t: The time; ignored when the horizon is infinite.
        ax: Where to draw, by default into a figure of its own.

    Returns:
        The axes. Off a grid the only image of it holds pi transposed, `[A, S]`.

    Raises:
        Unavailable: The states or actions are not finite.
    """
    world, policy = world_of(posterior), policy_at(posterior, t)
    ax = _axes_for(world, 0.4 + 0.3 * world.num_actions) if ax is None else ax
    draw_policy(ax, world, policy)
    ax.set_title(f"Policy{when(world, t)}")
    return ax


def draw_values(ax: Axes, world: World, values: Array, norm: Normalize) -> None:
    """Draws values `[S]` in a given scale."""
    draw_states(ax, world, values, paint.VALUE_COLORS, norm, VALUE_LABEL)


def draw_states(
    ax: Axes,
    world: World,
    values: Array,
    cmap: str,
    norm: Normalize,
    label: str,
    *,
    colorbar: bool = True,
) -> None:
    """Draws one number a state: coloured cells on a grid, else bars; `label` says what it is and its unit."""
    if world.grid is None:
        _draw_bars(ax, world, values, norm, label)
        return
    image = paint.draw_grid(ax, world.grid, values, cmap, norm)
    paint.draw_lines(ax, world.grid, "white")
    paint.draw_marks(ax, world, world.grid, image)
    paint.draw_numbers(ax, world.grid, values, image)
    if colorbar:
        paint.draw_colorbar(ax, image, label)


def draw_policy(ax: Axes, world: World, policy: Array) -> None:
    """Draws a policy `[S, A]`; the scale of probabilities is always 0 to 1."""
    norm = Normalize(0.0, 1.0)
    if world.grid is None or len(world.grid.moves) != world.num_actions:
        shades: ScalarMappable = paint.draw_matrix(ax, policy.T, norm)
        ax.set(xlabel="state", ylabel="action")
    else:
        blank = np.zeros(world.num_states)
        image = paint.draw_grid(ax, world.grid, blank, "Greys", Normalize(0.0, 1.0))
        paint.draw_lines(ax, world.grid, "0.8")
        paint.draw_marks(ax, world, world.grid, image)
        shades = paint.draw_arrows(ax, world, world.grid, policy, norm)
    paint.draw_colorbar(ax, shades, POLICY_LABEL)


def _draw_bars(ax: Axes, world: World, values: Array, norm: Normalize, label: str) -> None:
    edges = np.arange(world.num_states + 1) - 0.5
    shown = np.where(np.isfinite(values), values, np.nan)
    if world.num_states <= _MANY_STATES:
        ax.bar(np.arange(world.num_states), shown, width=0.8, color="#31688e")
    else:
        ax.stairs(shown, edges, baseline=0.0, fill=True, color="#31688e")
    low, high = min(0.0, float(norm.vmin or 0.0)), max(0.0, float(norm.vmax or 0.0))
    margin = 0.05 * (high - low)
    ax.set_ylim(low - margin * (low < 0), high + margin * (high > 0))
    ax.axhline(0.0, color="0.3", linewidth=0.8)
    ax.set_ylabel(label)
    _number_states(ax, world)


def _number_states(ax: Axes, world: World) -> None:
    ax.set_xlabel("state")
    ax.set_xlim(-0.5, world.num_states - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))


def _axes_for(world: World, height: float) -> Axes:
    if world.grid is not None:
        return paint.own_axes(*paint.grid_size(world.grid))
    return paint.own_axes(float(np.clip(0.35 * world.num_states, 3.5, 9.0)), max(height, 1.4))
