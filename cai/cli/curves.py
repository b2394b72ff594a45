"""`cai plot`: learning curves of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

import cai
from cai.cli.errors import CommandError, complain, one_line
from cai.cli.run_folder import Config, RunFolder
from cai.inference import read_jsonl

_DPI = 150
#: What is drawn unless another metric is asked for: the first of these that all runs have.
_USUAL = ("evaluation_return", "return")


def plot(folders: Sequence[RunFolder], metric: str | None, out: Path) -> None:
    """Draws a metric of runs; those that differ in nothing but seed and length are one curve with a band.

    Args:
        folders: The runs.
        metric: What to draw.
        out: The file.

    Raises:
        CommandError: No such run or metric, no matplotlib, or a file that cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise CommandError("no pictures without matplotlib: pip install cai[plots]")
    from cai import plots

    histories = [_history(folder) for folder in folders]
    labels = labels_of([folder.read_config() for folder in folders])
    metric = _chosen(histories) if metric is None else metric
    try:
        ax = plots.learning_curves(histories, metric=metric, labels=labels)
        plots.paint.figure_of(ax).canvas.print_figure(out, dpi=_DPI)
    except OSError as error:
        raise CommandError(f"--out {out}: cannot write there ({error.strerror or one_line(error)})") from error
    except ValueError as error:  # of the metric, or of a kind of picture that is none
        raise CommandError(one_line(error)) from error
    Console().print(f"wrote {out}: {metric} of {len(folders)} run{'' if len(folders) == 1 else 's'}", soft_wrap=True)


def labels_of(configs: Sequence[Config]) -> list[str]:
    """Names the curves that runs belong to: by method and problem, and by what else differs among the runs."""
    names = ("method", "problem", "options", "settings", "num_envs", "discount", "temperature", "prior")
    differing = [name for name in names[2:] if len({getattr(config, name) for config in configs}) > 1]
    problems = {config.problem for config in configs}
    return [_label(config, differing, with_problem=len(problems) > 1) for config in configs]


def _label(config: Config, differing: Sequence[str], *, with_problem: bool) -> str:
    parts = [config.method, *([config.problem] if with_problem else [])]
    for name in differing:
        value = getattr(config, name)
        if isinstance(value, tuple):
            parts += value
        elif value is not None:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _history(folder: RunFolder) -> cai.History:
    try:
        return read_jsonl(folder.metrics)
    except FileNotFoundError:
        raise CommandError(f"{folder.path}: no training run is here (no {folder.metrics.name})") from None
    except cai.CorruptFile as error:
        raise CommandError(one_line(error)) from error


def _chosen(histories: Sequence[cai.History]) -> str:
    for name in _USUAL:
        if all(name in history.names for history in histories):
            if name != _USUAL[0]:
                complain(f"not all runs have an {_USUAL[0]}; drawing {name}")
            return name
    raise CommandError(f"these runs have neither {' nor '.join(_USUAL)} in common; name another by --metric")
