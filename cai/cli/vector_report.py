"""The printed report of a graph on vectors: a table of numbers, the policy's gains, and marginals at a few times."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from cai.cli.answer import Array, Missing
from cai.cli.summary import number_text, summary_table
from cai.cli.vectors import Tube, VectorAnswer

_NUM_COORDINATES_SHOWN = 8
_NUM_TIMES_SHOWN = 5
_WIDTH_OF_A_GAIN = 11
_WIDTH_OF_THE_REST = 37
_WIDTH_OF_A_NAME = 8


def print_vector_report(console: Console, title: str, answer: VectorAnswer) -> None:
    """Prints everything that there is to say of an answer.

    Args:
        console: Where to.
        title: The problem's name.
        answer: The answer.
    """
    n, m = answer.sizes
    world = f"{n} state and {m} action coordinates"
    rows = {"value at the start": _value(answer)}
    if answer.posterior.graph.horizon is None:  # a finite horizon is one pass, exact but for rounding
        rows["residual"] = f"{answer.posterior.stats.residual:.2g} reward units"
    rounds = "backup" if answer.feedbacks else "iteration"
    console.print(summary_table(title, answer.posterior, answer.numbers, world, rows, rounds=rounds))
    if answer.feedbacks:
        shown = min(n, _NUM_COORDINATES_SHOWN, max((console.width - _WIDTH_OF_THE_REST) // _WIDTH_OF_A_GAIN, 1))
        console.print("\npolicy: gain on each coordinate of the state", highlight=False)
        console.print(policy_table(answer, shown))
        _print_left_out(console, answer, shown)
    if isinstance(answer.tube, Missing):
        console.print(f"\nmarginals unavailable: {answer.tube.reason}", highlight=False)
    else:
        console.print("\nmarginals: mean and standard deviation", highlight=False)
        console.print(marginal_table(answer, console.width))
        _print_left_out(console, answer, _NUM_COORDINATES_SHOWN)


def policy_table(answer: VectorAnswer, shown: int) -> Table:
    """Tables the policy u ~ N(K x + k, S) at the first and the last time.

    Args:
        answer: The answer.
        shown: How many coordinates of the state have room.
    """
    _, m = answer.sizes
    times = () if answer.posterior.graph.horizon is None else ("t",)
    table = Table()
    for heading in (*times, "action", *(f"x[{k}]" for k in range(shown)), "offset", "std dev"):
        table.add_column(heading, justify="right")
    for feedback in answer.feedbacks:
        time = (str(feedback.t),) if times else ()
        for k in range(min(m, _NUM_COORDINATES_SHOWN)):
            row = (*feedback.gain[k, :shown], feedback.offset[k], feedback.deviation[k])
            table.add_row(*time, f"u[{k}]", *(_short(value) for value in row))
    return table


def marginal_table(answer: VectorAnswer, width: int) -> Table:
    """Tables mean and standard deviation of each coordinate at a few times, or in the long run.

    Args:
        answer: The answer.
        width: Characters at hand, which decide how many times there are.
    """
    tube = answer.tube
    assert not isinstance(tube, Missing)
    for num in range(_NUM_TIMES_SHOWN, 1, -1):
        times = np.unique(np.rint(np.linspace(0, len(tube.means) - 1, num)).astype(int))
        columns = [_marginal_column(answer, tube, t) for t in times]
        if sum(max(len(text) for text in column) + 3 for column in columns) + _WIDTH_OF_A_NAME <= width:
            break
    table = Table("")
    for heading, *_ in columns:
        table.add_column(heading, justify="right")
    n, m = answer.sizes
    names = [f"x[{k}]" for k in range(min(n, _NUM_COORDINATES_SHOWN))]
    names += [f"u[{k}]" for k in range(min(m, _NUM_COORDINATES_SHOWN))]
    for name, *cells in zip(names, *(column[1:] for column in columns), strict=True):
        table.add_row(name, *cells)
    return table


def _marginal_column(answer: VectorAnswer, tube: Tube, t: int) -> list[str]:
    """Writes the marginals of one time, below its heading."""
    n, m = answer.sizes
    shown = [*range(min(n, _NUM_COORDINATES_SHOWN)), *(n + k for k in range(min(m, _NUM_COORDINATES_SHOWN)))]
    heading = "in the long run" if answer.posterior.graph.horizon is None else f"t = {t}"
    return [heading, *(_spread(tube.means[t, k], tube.deviations[t, k]) for k in shown)]


def _value(answer: VectorAnswer) -> str:
    text = number_text(answer.value, "reward units")
    if isinstance(answer.value, Missing) or isinstance(answer.start, Missing):
        return text
    relative = "" if isinstance(answer.numbers.gain, Missing) else ", relative"
    return f"{text}{relative}, at {_vector(answer.start)}"


def _vector(values: Array) -> str:
    shown = ", ".join(_short(value) for value in values[:_NUM_COORDINATES_SHOWN])
    return f"x = ({shown}{', ...' if len(values) > _NUM_COORDINATES_SHOWN else ''})"


def _short(value: float) -> str:
    """Writes three digits; what is nothing but rounding is 0."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


def _spread(mean: float, deviation: float) -> str:
    return "" if np.isnan(mean) else f"{_short(mean)} +- {_short(deviation)}"


def _print_left_out(console: Console, answer: VectorAnswer, shown: int) -> None:
    """Says what the table above has no room for."""
    n, m = answer.sizes
    parts = [f"{shown} of {n} state coordinates"] if n > shown else []
    if m > _NUM_COORDINATES_SHOWN:
        parts.append(f"{_NUM_COORDINATES_SHOWN} of {m} action coordinates")
    if parts:
        console.print(f"the first {' and '.join(parts)}", style="dim", highlight=False)
