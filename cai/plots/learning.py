"""What was logged while learning, against environment steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from cai.inference import History, LearnedPosterior
from cai.plots import paint
from cai.plots.world import Array, name_of

#: Told apart by the colour-blind (Okabe and Ito), and in print by the style of the line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
#: Points of a common grid.
_NUM_POINTS = 200
#: Panels beside each other.
_NUM_COLUMNS = 3
_UNITS = {
    "return": "reward\u00a0units",
    "evaluation_return": "reward\u00a0units",
    "bellman_residual": "reward\u00a0units",
    "temperature": "reward\u00a0units",
    "q_error": "reward\u00a0units",
    "v_error": "reward\u00a0units",
    "entropy": "nats",
    "kl": "nats",
    "policy_kl": "nats",
    "evidence_gap": "nats",
    "episode_length": "actions",
    "evaluation_length": "actions",
}
_DISTANCES = ("q_error", "v_error", "policy_kl", "marginal_distance", "evidence_gap")


def learning_curves(
    runs: Sequence[History | LearnedPosterior],
    *,
    metric: str = "return",
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
    band: float = 0.95,
) -> Axes:
    """Draws a logged quantity against environment steps; runs of one label are seeds of one thing.

    Several runs of a label are shown as their mean with a band, the t-interval for it,

        mean +- t_{n-1} s / sqrt(n),

    on a common grid: as far as all of them go, and linearly between reports. One run is a line.

    Args:
        runs: Histories, or posteriors that have one.
        metric: What to draw, such as "evaluation_return" or "policy_kl".
        labels: One a run; by default the name of a posterior's method, "run" of a history.
        ax: Where to draw; a new figure by default.
        band: The confidence of the band, in (0, 1).

    Returns:
        The ax, with one line a label.

    Raises:
        ValueError: No runs, another number of labels, a band out of range, a metric that a run has not logged, or runs
            of a label that have no steps in common.
    """
    if not runs or not 0.0 < band < 1.0:
        raise ValueError(f"learning_curves: expected runs, and a band in (0, 1), got {len(runs)} and {band}")
    labels = [_name(run) for run in runs] if labels is None else list(labels)
    if len(labels) != len(runs):
        raise ValueError(f"learning_curves: {len(runs)} runs and {len(labels)} labels")
    ax = paint.own_axes(5.2, 3.4) if ax is None else ax
    groups = {label: [run for run, of in zip(runs, labels, strict=True) if of == label] for label in labels}
    for k, (label, group) in enumerate(groups.items()):
        curves = [_curve_of(run, metric) for run in group]
        color, line = _COLORS[k % len(_COLORS)], _LINES[k // len(_COLORS) % len(_LINES)]
        _draw_group(ax, curves, band, color=color, line=line, label=label)
    _finish(ax, metric)
    if len(groups) > 1 or any(len(group) > 1 for group in groups.values()):
        ax.legend(frameon=False, fontsize="small")
    return ax


def exact_comparison(run: History | LearnedPosterior) -> Figure:
    """Draws what `cai.ExactComparison` logged: the distances to the exact answer, on logarithmic scales.

    Args:
        run: A history, or a posterior that has one.

    Returns:
        The figure, one ax a distance that was logged.

    Raises:
        ValueError: None was logged.
    """
    history = _history_of(run)
    names = [name for name in _DISTANCES if name in history.names]
    if not names:
        raise ValueError("exact_comparison: nothing was logged by cai.ExactComparison")
    num_columns = min(_NUM_COLUMNS, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(3.4 * num_columns, 2.6 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for unused in panels[len(names) :]:
        unused.remove()
    for ax, name, color in zip(panels, names, _COLORS, strict=False):
        curve = _curve_of(history, name)
        ax.plot(curve.steps, curve.values, color=color)
        if (curve.values > 0).all():
            ax.set_yscale("log")
        _finish(ax, name)
    return figure


@dataclass(frozen=True, eq=False)
class _Curve:
    """A quantity over steps, `[n]` each."""

    steps: Array
    values: Array


def _history_of(run: History | LearnedPosterior) -> History:
    return run if isinstance(run, History) else run.history


def _name(run: History | LearnedPosterior) -> str:
    return "run" if isinstance(run, History) else name_of(run)


def _curve_of(run: History | LearnedPosterior, metric: str) -> _Curve:
    curve = _history_of(run).curve(metric)
    return _Curve(curve.steps.numpy().astype(float), curve.values.numpy())


def _draw_group(ax: Axes, curves: list[_Curve], band: float, *, color: str, line: str, label: str) -> None:
    num = len(curves)
    if num == 1:
        ax.plot(curves[0].steps, curves[0].values, line, color=color, linewidth=1.5, label=label)
        return
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if first > last:
        raise ValueError(f"learning_curves: runs of {label!r} have no steps in common, one begins after another ends")
    grid = np.linspace(first, last, _NUM_POINTS if first < last else 1)
    values = np.stack([np.interp(grid, curve.steps, curve.values) for curve in curves])
    mean = values.mean(0)
    half = scipy.stats.t.ppf(0.5 + 0.5 * band, num - 1) * values.std(0, ddof=1) / np.sqrt(num)
    ax.plot(grid, mean, line, color=color, linewidth=1.5, label=f"{label}, {num} runs")
    ax.fill_between(grid, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def _finish(ax: Axes, metric: str) -> None:
    unit = f" [{_UNITS[metric]}]" if metric in _UNITS else ""
    name = metric.replace("_", " ").replace("kl", "KL")
    ax.set(xlabel="environment steps", ylabel=name + unit)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.margins(x=0.02)
