"""The table of numbers that every report begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from rich.table import Table
from rich.text import Text

from cai.cli.answer import Missing, Numbers

if TYPE_CHECKING:
    from cai.graph import TrajectoryGraph
    from cai.inference import Posterior, Stats

_PRIORS = {
    "FlatPrior": "flat prior",
    "TabularPolicy": "tabular prior",
    "Gaussian": "Gaussian prior",
    "LinearGaussianPolicy": "Gaussian prior",
}


def summary_table(
    title: str,
    posterior: Posterior,
    numbers: Numbers,
    world: str,
    more: Mapping[str, str],
    *,
    rounds: str = "backup",
) -> Table:
    """Makes the table of numbers, each with its unit.

    Args:
        title: The problem's name.
        posterior: The answer.
        numbers: What was read from it.
        world: What the graph is about, in a few words.
        more: Further rows, by their names.
        rounds: What one step of the method is called.
    """
    graph, stats = posterior.graph, posterior.stats
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    horizon = "infinite horizon" if graph.horizon is None else f"horizon {graph.horizon}"
    table.add_row("world", f"{world}, {horizon}")
    table.add_row(
        "question", f"temperature {float(graph.temperature):g}, discount {graph.discount:g}, {prior_text(graph)}"
    )
    table.add_row("method", f"{type(posterior.method).__name__}, {_steps(stats, rounds)}")
    if isinstance(numbers.gain, Missing):
        table.add_row("log evidence", _evidence(numbers, "log_evidence" in stats.estimates))
        table.add_row("expected return", number_text(numbers.expected_return, "reward units"))
        table.add_row("policy entropy", number_text(numbers.entropy, "nats, summed over time"))
    else:
        table.add_row("gain", number_text(numbers.gain, "reward units a step"))
    for name, text in more.items():
        table.add_row(name, text)
    table.add_row("time", f"{stats.seconds:.3g} s")
    return table


def accuracy(stats: Stats) -> dict[str, str]:
    """Writes how good the values are, as rows of the table."""
    error = stats.certified_error
    certified = f"{error:.2g} reward units" if np.isfinite(error) else "none: nothing is proved about v"
    return {"residual": f"{stats.residual:.2g} reward units", "certified error": certified}


def number_text(value: float | Missing, unit: str) -> str:
    """Writes a number with its unit, or why there is none."""
    return f"unavailable: {value.reason}" if isinstance(value, Missing) else f"{value:.6g} {unit}"


def prior_text(graph: TrajectoryGraph) -> str:
    """Names a graph's action prior."""
    if graph.action_prior is not None:
        name = type(graph.action_prior).__name__
        return _PRIORS.get(name, name)
    space = graph.action_space
    unbounded = isinstance(space, gymnasium.spaces.Box) and not (space.bounded_below | space.bounded_above).any()
    return "flat prior" if unbounded else "uniform prior"


def _steps(stats: Stats, rounds: str) -> str:
    many = "" if stats.num_steps == 1 else "s"
    return f"{stats.num_steps} {rounds}{many}, {'converged' if stats.converged else 'NOT converged'}"


def _evidence(numbers: Numbers, estimate: bool) -> str:
    if isinstance(numbers.log_evidence, Missing):
        return number_text(numbers.log_evidence, "")
    sign, kind = (">=", "lower bound") if numbers.is_bound else ("=", "exact")
    if estimate:
        sign, kind = "~", "estimate"
    return f"log p(O) {sign} {numbers.log_evidence:.6g} nats ({kind})"
