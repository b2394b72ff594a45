"""What watches an inference: progress bars, checkpoints, and whatever a user writes."""

from __future__ import annotations

import os
import time
from typing import Any

from cai.data import serialization
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior


class AbstractCallback:
    """Is told of the start, of each step and of the end; override what you need."""

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Called once, before the first step."""

    def on_step(self, progress: Progress) -> None:
        """Called after each step."""

    def on_end(self, posterior: Posterior | None) -> None:
        """Called once, with the answer, or with None where an error or an interrupt ended the work."""


class ProgressBar(AbstractCallback):
    """Shows steps, residual and time on the terminal (standard error); silent where that is not a terminal.

    Args:
        delay: Seconds of work before anything shows.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self._bar: Any = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Remembers what is running; the bar appears with the first step after the delay."""
        self._name = type(method).__name__
        self._bar = None

    def on_step(self, progress: Progress) -> None:
        """Updates the line."""
        if progress.seconds < self.delay:
            return
        if self._bar is None:
            self._bar = _started_bar(self._name)
        self._bar.update(
            self._bar.task_ids[0], steps=progress.num_steps, residual=progress.residual, error=progress.certified_error
        )

    def on_end(self, posterior: Posterior | None) -> None:
        """Takes the line away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Checkpoint(AbstractCallback):
    """Writes where the work stands to a file, atomically, so that `infer(..., resume=path)` goes on from there.

    A run of an exact method that is resumed is bit-identical to one that was not interrupted.

    Args:
        path: The file; an old one is replaced.
        interval: Seconds between two writes: what an interrupted run loses at most. The end is always written.
    """

    def __init__(self, path: str | os.PathLike, interval: float = 60.0) -> None:
        self.path, self.interval = path, interval

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Starts the clock.

        Raises:
            FileNotFoundError: There is no directory to write the file to.
        """
        serialization.need_directory(self.path)
        self._run = {"method": serialization.fingerprint(method), "graph": serialization.fingerprint(graph)}
        self._last = time.monotonic()
        self._pending: Progress | None = None

    def on_step(self, progress: Progress) -> None:
        """Writes if it is time."""
        self._pending = progress
        if time.monotonic() - self._last >= self.interval:
            self._write()

    def on_end(self, posterior: Posterior | None) -> None:
        """Writes what is not written yet, after an interrupt too."""
        if self._pending is not None:
            self._write()

    def _write(self) -> None:
        assert self._pending is not None
        serialization.save(self.path, "checkpoint", self._run | {"state": self._pending.checkpoint})
        self._last, self._pending = time.monotonic(), None


def read_checkpoint(path: str | os.PathLike, graph: Any, method: AbstractMethod) -> Any:
    """Reads what `Checkpoint` wrote in a run of this method on this graph.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: The file is truncated or foreign.
        ValueError: It is of another method, of other hyper-parameters or of another graph.
    """

    def refuse(hole: str) -> Any:
        raise serialization.UnfilledHole(f"resume: {str(path)!r} has a hole {hole!r}")

    content = serialization.load(path, "checkpoint", refuse)
    if content["method"] != serialization.fingerprint(method):
        raise ValueError(f"resume: {str(path)!r} was written by another method or other settings than {method!r}")
    if content["graph"] != serialization.fingerprint(graph):
        raise ValueError(f"resume: {str(path)!r} was written in a run on another graph")
    return content["state"]


def _started_bar(name: str) -> Any:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn(name),
        TextColumn(
            "step {task.fields[steps]}  residual {task.fields[residual]:.2e}  error <= {task.fields[error]:.2e}"
        ),
        TimeElapsedColumn(),
    )
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(name, total=None, steps=0, residual=float("nan"), error=float("nan"))
    bar.start()
    return bar
