"""`cai train`: a learning method at work in a folder, from which it can go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import cai
from cai.cli.errors import INTERRUPTED, CommandError, complain, one_line
from cai.cli.options import parse_options
from cai.cli.problem import build_graph, is_model
from cai.cli.progress import DELAY_SECONDS, watched
from cai.cli.run_folder import Config, RunFolder
from cai.cli.settings import made, parse_settings
from cai.cli.training_report import print_training

#: The methods that learn, by their names on the command line.
METHODS = {
    "soft-q-learning": "SoftQLearning",
    "soft-actor-critic": "SoftActorCritic",
    "policy-gradient": "PolicyGradient",
    "path-consistency": "PathConsistency",
    "cross-entropy-policy-search": "CrossEntropyPolicySearch",
}
#: gamma of environments, which have none of their own.
ENVIRONMENT_DISCOUNT = 0.99


def train(folder: RunFolder, config: Config) -> None:
    """Runs, or goes on with, what a configuration asks for; prints a summary.

    Raises:
        CommandError: The problem cannot be built, the method refuses it, or the numbers were not finite.
        typer.Exit: With code 130 after an interrupt, everything saved.
    """
    with watched(Console(stderr=True)) as work:
        work.enter(f"building {config.problem}")
        graph = graph_of(config)
    method = method_of(config)
    watch = _Watch(folder, config)
    with _logged_in_one_line():
        posterior = _learned(graph, method, folder, config, watch)
    posterior.save(folder.last)
    print_training(Console(), folder, config, posterior, watch.reason)
    if posterior.stats.num_steps < method.num_steps and watch.reason is None:  # type: ignore[attr-defined]
        complain(f"interrupted; go on with: cai train --resume --out {folder.path}")
        raise typer.Exit(INTERRUPTED)


def graph_of(config: Config) -> cai.TrajectoryGraph:
    """Builds the graph that a run is on.

    Raises:
        CommandError: It cannot be built.
    """
    graph = build_graph(config.problem, parse_options(config.options), config.changes)
    if config.discount is None and not is_model(config.problem):
        return graph.replace(discount=ENVIRONMENT_DISCOUNT)
    return graph


def method_of(config: Config) -> cai.AbstractMethod:
    """Makes the method that a run is by.

    Raises:
        CommandError: There is no such method or hyper-parameter, or it cannot have this value.
    """
    cls = getattr(cai, METHODS[config.method])
    numbers = {name: getattr(config, name) for name in ("num_steps", "num_envs")}
    given = {name: number for name, number in numbers.items() if number is not None}
    return made(cls, "--set", (), given | parse_settings(config.settings, cls))


def _learned(
    graph: cai.TrajectoryGraph, method: cai.AbstractMethod, folder: RunFolder, config: Config, watch: _Watch
) -> cai.LearnedPosterior:
    resume = folder.checkpoint if folder.checkpoint.exists() else None
    try:
        return cai.infer(graph, method, seed=config.seed, callbacks=watch.callbacks, resume=resume)  # type: ignore[return-value]
    except Exception as error:
        saved = _saved(error, folder.last)
        if isinstance(error, ValueError | cai.NonFinite | OSError):  # IncompatibleMethod is a ValueError
            notes = [note for note in getattr(error, "__notes__", []) if "`posterior`" not in note]
            raise CommandError("; ".join([one_line(error), *map(one_line, notes), *saved])) from error
        for line in saved:
            complain(line)
        raise


def _saved(error: Exception, path: Path) -> list[str]:
    """Saves what was learned before an error, and says so."""
    posterior = getattr(error, "posterior", None)
    if posterior is None:
        return []
    posterior.save(path)
    return [f"what was learned before is in {path}"]


class _Watch:
    """The callbacks of a run.

    Args:
        folder: Where they write.
        config: What was asked.
    """

    def __init__(self, folder: RunFolder, config: Config) -> None:
        evaluation = cai.Evaluation(config.eval_episodes, config.eval_every, path=folder.best)
        self._stops: list[Any] = []
        if config.stop_at is not None:
            self._stops.append(cai.EarlyStopping(threshold=config.stop_at))
        if config.time_limit is not None:
            self._stops.append(cai.TimeLimit(config.time_limit))
        self.callbacks: list[cai.AbstractCallback] = [
            evaluation,
            *self._stops,
            cai.JSONLLogger(folder.metrics),
            cai.Checkpoint(folder.checkpoint, interval=config.checkpoint_every),
            cai.ProgressBar(delay=DELAY_SECONDS),
            _WrittenConfig(folder, config),
        ]

    @property
    def reason(self) -> str | None:
        """Why the run was ended early; None where it was not, or by an interrupt."""
        return next((stop.reason for stop in self._stops if stop.reason is not None), None)


class _WrittenConfig(cai.AbstractCallback):
    """Writes down what is asked, once nothing refuses it any more."""

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self._folder, self._config = folder, config

    def on_start(self, graph: Any, method: cai.AbstractMethod) -> None:
        numbers = {"discount": graph.discount, "temperature": float(graph.temperature), "horizon": graph.horizon}
        self._folder.write_config(self._config, {"used": {"method": repr(method)} | numbers})


@contextmanager
def _logged_in_one_line() -> Iterator[None]:
    """Shows what the library logs as one line each."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complain(record.getMessage())

    logger, handler = logging.getLogger("cai"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
