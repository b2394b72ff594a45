"""The brush: figures of the right size, images on a grid, arrows, colour bars, small text that does not collide."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection, PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from cai.data.spaces import GridSpace
from cai.plots.world import Array, World

VALUE_COLORS = "viridis"
PROBABILITY_COLORS = "magma_r"
DIFFERENCE_COLORS = "RdBu_r"
#: Cells off the grid, and values of minus infinity.
NOWHERE = "0.7"
#: In points; what is smaller cannot be read and is left out.
_SMALLEST_TEXT = 3.5
_SMALLEST_NUMBER = 6.0
_LABEL_SIZE = 9.5
#: So many labels may be larger than their cells.
_FEW_LABELS = 6
_BAR_WIDTH = 13.0
_SMALLEST_PROBABILITY = 0.01
_POINTS_PER_INCH = 72.0
#: Width of a character in heights of it, for the font that matplotlib brings.
_CHARACTER_WIDTH = 0.62
#: An arrow of length 1 along the first axis: tail, head, tip. Padded with the tail to the corners of a disc.
_ARROW = np.array(
    [(0.0, -0.09), (0.55, -0.09), (0.55, -0.3), (1.0, 0.0), (0.55, 0.3), (0.55, 0.09), (0.0, 0.09), *[(0.0, 0.09)] * 9]
)


def colors(name: str) -> Colormap:
    """Takes a colour map, with a colour of its own for what has no value."""
    return colormaps[name].with_extremes(bad=NOWHERE)


def grid_size(grid: GridSpace, largest: float = 5.6) -> tuple[float, float]:
    """Computes width and height, in inches, of one map of a grid that takes about `largest` squared inches."""
    rows, columns = grid.num_rows, grid.num_columns
    cell = min(largest / np.sqrt(rows * columns), 1.5 * largest / max(rows, columns), 0.95)
    return max(grid.num_columns * cell, 1.5), max(grid.num_rows * cell, 1.0)


def own_axes(width: float, height: float) -> Axes:
    """Makes a figure without pyplot, and its only axes; the sizes are of the axes, in inches."""
    return Figure(figsize=(width + 1.5, height + 0.9), layout="compressed").add_subplot()


def figure_of(ax: Axes) -> Figure:
    """Finds the whole figure that the axes are in."""
    figure = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def linear_scale(*arrays: Array) -> Normalize:
    """Makes the linear scale that all arrays share; infinite and masked entries do not count."""
    values = np.concatenate([np.ravel(array) for array in arrays])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0)


def probability_scale(*arrays: Array) -> Normalize:
    """Makes the scale of probabilities, from 0 to the largest; by the square root, so that rare states show."""
    highest = max(float(array.max()) for array in arrays)
    return PowerNorm(0.5, vmin=0.0, vmax=highest if highest > 0.0 else 1.0)


def difference_scale(array: Array) -> Normalize:
    """Makes the scale of differences, with zero in the middle."""
    finite = np.abs(array[np.isfinite(array)])
    largest = float(finite.max()) if finite.size else 0.0
    return Normalize(-largest, largest) if largest > 0.0 else Normalize(-1.0, 1.0)


def draw_grid(ax: Axes, grid: GridSpace, values: Array, cmap: str, norm: Normalize) -> AxesImage:
    """Draws values of states `[S]` on the grid; cells off the grid and infinite values are masked."""
    array = np.ma.masked_invalid(grid.to_grid(values))
    image = ax.imshow(array, cmap=colors(cmap), norm=norm, interpolation="nearest", aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set(xlabel="column", ylabel="row")
    ax.tick_params(labelsize="small")
    return image


def draw_matrix(ax: Axes, probabilities: Array, norm: Normalize) -> AxesImage:
    """Draws probabilities of two finite variables, the first downwards."""
    image = ax.imshow(probabilities, cmap=colors(PROBABILITY_COLORS), norm=norm, aspect="auto", interpolation="nearest")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    return image


def draw_lines(ax: Axes, grid: GridSpace, color: str) -> None:
    """Draws the lines between cells, unless the cells are too small for them."""
    if cell_points(ax, grid) < 12.0:
        return
    ax.set_xticks(np.arange(grid.num_columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(grid.num_rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=color, linewidth=0.5)
    ax.tick_params(which="minor", length=0)


def cell_points(ax: Axes, grid: GridSpace) -> float:
    """Measures the side of a cell in points."""
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    return _POINTS_PER_INCH * min(box.width / grid.num_columns, box.height / grid.num_rows)


def centers(grid: GridSpace) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Finds where the states are: the states on the grid, their columns, their rows."""
    cells = np.asarray(grid.cells)
    states = np.flatnonzero(cells >= 0).astype(np.int64)
    return states, cells[states] % grid.num_columns, cells[states] // grid.num_columns


def draw_marks(ax: Axes, world: World, grid: GridSpace, image: AxesImage) -> None:
    """Frames terminal cells and writes the label of each state small into the corner of its cell."""
    points = cell_points(ax, grid)
    states, columns, rows = centers(grid)
    frames = [
        Rectangle((column - 0.46, row - 0.46), 0.92, 0.92)
        for state, column, row in zip(states, columns, rows, strict=True)
        if world.terminal[state]
    ]
    if frames:
        width = min(1.2, 0.06 * points)
        ax.add_collection(PatchCollection(frames, facecolor="none", edgecolor="0.45", linewidth=width))
    _draw_labels(ax, grid, image, points)


def _draw_labels(ax: Axes, grid: GridSpace, image: AxesImage, points: float) -> None:
    """Writes labels in proportion to the cells; where that is too small, only if they are few, and readable."""
    labelled = [(state, column, row) for state, column, row in zip(*centers(grid), strict=True) if grid.labels[state]]
    size = min(8.0, 0.3 * points)
    if size < _SMALLEST_TEXT:
        if len(labelled) > _FEW_LABELS or points < _SMALLEST_NUMBER:
            return
        size = _SMALLEST_NUMBER
    for state, column, row in labelled:
        color = _readable(image, state, grid)
        ax.text(column - 0.42, row - 0.42, grid.labels[state], ha="left", va="top", fontsize=size, color=color)


def draw_numbers(ax: Axes, grid: GridSpace, values: Array, image: AxesImage) -> None:
    """Writes the value into each cell, below its label, with as many digits as fit; nothing where cells are small."""
    states, columns, rows = centers(grid)
    points = cell_points(ax, grid)
    for digits in (3, 2):
        texts = short_numbers(values, digits)
        longest = max((len(texts[state]) for state in states), default=1)
        size = min(11.0, 0.9 * points / (longest * _CHARACTER_WIDTH), 0.36 * points)
        if size >= _SMALLEST_NUMBER:
            break
    else:
        return
    for state, column, row in zip(states, columns, rows, strict=True):
        color = _readable(image, state, grid)
        ax.text(column, row + 0.14, texts[state], ha="center", va="center", fontsize=size, color=color)


def short_numbers(values: Array, digits: int) -> list[str]:
    """Writes numbers with equally many decimals, by which the largest has about `digits` digits; zero is just 0."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    if largest > 0.0 and not 1e-3 <= largest < 1e5:
        texts = [f"{value:.{digits - 2}e}" for value in values]
    else:
        decimals = int(np.clip(digits - 1 - np.floor(np.log10(largest)), 0, digits)) if largest > 0.0 else 0
        texts = [f"{value:.{decimals}f}" for value in values]
    return ["0" if float(text) == 0.0 else text for text in texts]


def _readable(image: AxesImage, state: int, grid: GridSpace) -> str:
    """Chooses black or white text for the cell of a state, by the luminance of its colour."""
    row, column = divmod(grid.cells[state], grid.num_columns)
    shown: Array = np.ma.asarray(image.get_array())[row, column : column + 1]
    red, green, blue, _ = np.asarray(image.to_rgba(shown))[0]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def draw_arrows(ax: Axes, world: World, grid: GridSpace, policy: Array, norm: Normalize) -> ScalarMappable:
    """Draws an arrow for each action of each state that is not terminal; its area and colour are the probability.

    An action that moves nowhere is a disc. Below one per cent nothing is drawn.
    """
    states, columns, rows = centers(grid)
    moves = np.asarray(grid.moves, dtype=float)[:, ::-1]
    moves /= np.linalg.norm(moves, axis=1).clip(1.0)[:, None]
    drawn = (policy[states] >= _SMALLEST_PROBABILITY) & ~world.terminal[states][:, None]
    which, action = np.nonzero(drawn)
    probability = policy[states[which], action]
    order = np.argsort(probability, kind="stable")
    which, action, probability = which[order], action[order], probability[order]
    shapes = _arrow_shapes(moves[action], 0.46 * np.sqrt(probability))
    shapes += np.stack([columns[which], rows[which]], 1)[:, None]
    shades = PolyCollection(list(shapes), cmap=colormaps[PROBABILITY_COLORS], norm=norm, linewidths=0.0, zorder=2)
    shades.set_array(probability)
    ax.add_collection(shades)
    return shades


def _arrow_shapes(directions: Array, lengths: Array) -> Array:
    """Makes polygons `[N, 16, 2]` about the origin: arrows, and discs where the direction is zero."""
    turn = np.linspace(0.0, 2.0 * np.pi, _ARROW.shape[0], endpoint=False)
    disc = 0.4 * np.stack([np.cos(turn), np.sin(turn)], 1)
    across = np.stack([-directions[:, 1], directions[:, 0]], 1)
    arrows = _ARROW[:, 0, None] * directions[:, None] + _ARROW[:, 1, None] * across[:, None]
    still = ~np.any(directions, axis=1, keepdims=True)
    return np.where(still[:, None], disc, arrows) * lengths[:, None, None]


def draw_colorbar(axes: Axes | list[Axes], shades: ScalarMappable, label: str) -> Colorbar:
    """Puts one colour bar to the right of the axes; a long label of a short bar is broken into lines."""
    several = axes if isinstance(axes, list) else [axes]
    figure = several[0].figure
    extent = Bbox.union([ax.get_window_extent() for ax in several])
    height = _POINTS_PER_INCH * extent.height / figure.dpi
    bar = figure.colorbar(shades, ax=several, aspect=max(20.0, height / _BAR_WIDTH), fraction=0.08, pad=0.02)
    fitting = int(height / (_LABEL_SIZE * _CHARACTER_WIDTH))
    bar.set_label(textwrap.fill(label, max(fitting, 12)), fontsize=_LABEL_SIZE)
    bar.ax.tick_params(labelsize="small")
    return bar
