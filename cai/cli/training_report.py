"""The summary of a training run, and of an evaluation."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

import cai
from cai.cli.run_folder import Config, RunFolder
from cai.cli.summary import prior_text
from cai.errors import CorruptFile
from cai.inference import read_jsonl
from cai.simulate.returns import Returns


def print_training(
    console: Console, folder: RunFolder, config: Config, posterior: cai.LearnedPosterior, reason: str | None
) -> None:
    """Prints what a run came to.

    Args:
        console: Where to.
        folder: Where its files are.
        config: What was asked.
        posterior: What was learned.
        reason: Why it was ended early, if a callback did.
    """
    stats, history = posterior.stats, posterior.history
    done = f"{stats.num_steps:,} of {posterior.method.num_steps:,} steps"
    table = _table(config.problem)
    table.add_row("question", question_text(posterior))
    table.add_row("method", f"{type(posterior.method).__name__}, {done}")
    if reason is not None:
        table.add_row("stopped", reason)
    table.add_row("return", _last(history, "return", "reward units, mean of the last episodes"))
    if "evaluation_return" in history.names:
        for name, text in _evaluations(history, config.eval_episodes).items():
            table.add_row(name, text)
    table.add_row("policy entropy", _last(history, "entropy", "nats"))
    table.add_row("time", _time_text(folder, stats))
    console.print(table)
    files = [file.name for file in (folder.config, folder.metrics, folder.checkpoint, folder.best, folder.last)]
    there = [name for name in files if (folder.path / name).exists()]
    console.print(f"\nfiles: {', '.join(there)} in {folder.path}", highlight=False, soft_wrap=True)


def print_evaluation(console: Console, title: str, posterior: cai.Posterior, returns: Returns, file: str) -> None:
    """Prints what episodes of a policy paid.

    Args:
        console: Where to.
        title: The problem's name.
        posterior: What was run.
        returns: What the episodes paid.
        file: Where the posterior was read from.
    """
    table = _table(title)
    table.add_row("question", question_text(posterior))
    table.add_row("policy", f"{type(posterior.method).__name__}, {posterior.stats.num_steps:,} steps, from {file}")
    table.add_row("episodes", f"{len(returns.totals)}, of {returns.mean_length:.4g} actions on average")
    table.add_row("return", _mean_text(returns.mean, returns.standard_error))
    table.add_row(
        "least, greatest", f"{float(returns.totals.min()):.6g}, {float(returns.totals.max()):.6g} reward units"
    )
    console.print(table)


def question_text(posterior: cai.Posterior) -> str:
    """Writes what a graph asks for."""
    graph = posterior.graph
    return f"temperature {float(graph.temperature):.4g}, discount {graph.discount:g}, {prior_text(graph)}"


def _table(title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _last(history: cai.History, name: str, unit: str) -> str:
    if name not in history.names:
        return "none logged"
    return f"{float(history.curve(name).values[-1]):.6g} {unit}"


def _evaluations(history: cai.History, num_episodes: int) -> dict[str, str]:
    means = history.curve("evaluation_return")
    best = int(means.values.argmax())
    rows = [row for row in history.rows if "evaluation_return" in row]
    return {
        "evaluation": _evaluation_text(rows[-1]) + f", {num_episodes} episodes",
        "best": _evaluation_text(rows[best]),
    }


def _evaluation_text(row: dict[str, float]) -> str:
    error = row.get("evaluation_standard_error", math.nan)
    return f"{_mean_text(row['evaluation_return'], error)} at step {int(row['num_steps']):,}"


def _mean_text(mean: float, standard_error: float) -> str:
    spread = "" if math.isnan(standard_error) else f" +- {standard_error:.2g}"
    return f"{mean:.6g}{spread} reward units"


def _time_text(folder: RunFolder, stats: cai.Stats) -> str:
    """Writes the time of the whole run, its earlier parts included."""
    try:
        seconds = read_jsonl(folder.metrics).curve("seconds").values[-1].item()
    except (ValueError, CorruptFile):  # no report yet
        seconds = stats.seconds
    speed = f", {stats.num_steps / seconds:,.0f} steps a second" if seconds > 0.0 and stats.num_steps else ""
    return f"{seconds:.3g} s{speed}"
