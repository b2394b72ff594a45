"""Progress on standard error: only after two seconds of work, and only on a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cai.inference import AbstractCallback

DELAY_SECONDS = 2.0


@dataclass
class Work(AbstractCallback):
    """What is being done, for whoever watches; also a callback of `cai.infer`.

    Attributes:
        phase: What is being done now.
        detail: How far it is.
        started: When the work began, on the monotonic clock.
    """

    phase: str = "starting"
    detail: str = ""
    started: float = field(default_factory=time.monotonic)
    _listeners: list[Progress] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        """Goes on to another phase."""
        self.phase, self.detail = phase, ""
        self._tell()

    def on_start(self, graph: Any, method: Any) -> None:
        """Is told that an inference starts."""
        self.enter(f"inferring by {type(method).__name__}")

    def on_step(self, progress: Any) -> None:
        """Is told of a step of an inference."""
        residual = float(progress.residual)
        self.detail = f"step {progress.num_steps}" + ("" if residual != residual else f", residual {residual:.2g}")
        self._tell()

    def on_end(self, posterior: Any) -> None:
        """Is told that an inference ended."""
        self.detail = ""

    def show_on(self, display: Progress) -> None:
        """Shows the work on a display, from now on."""
        task = display.add_task(self.phase, detail=self.detail, total=None)
        display.tasks[display.task_ids.index(task)].start_time = self.started
        self._listeners.append(display)

    def _tell(self) -> None:
        for display in self._listeners:
            for task in display.task_ids:
                display.update(task, description=self.phase, detail=self.detail)


@contextmanager
def watched(console: Console, delay: float = DELAY_SECONDS) -> Iterator[Work]:
    """Watches work: phase, detail and elapsed time appear after a delay, and go when the work is done.

    Args:
        console: Where to; nothing is written unless it is a terminal that a person watches.
        delay: Seconds.
    """
    work = Work()
    if not console.is_interactive:
        yield work
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    display = Progress(*columns, console=console, transient=True, get_time=time.monotonic)
    starting = threading.Lock()

    def show() -> None:
        with starting:
            if not timer.finished.is_set():
                work.show_on(display)
                display.start()

    timer = threading.Timer(delay, show)
    timer.daemon = True
    timer.start()
    try:
        yield work
    finally:
        with starting:
            timer.cancel()
        display.stop()
