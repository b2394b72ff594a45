"""How far the work is, on the terminal."""

from __future__ import annotations

import math
from typing import Any

from cai.inference.callbacks.base import AbstractCallback
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior

#: What a learning method shows of what it logs.
_SHOWN = {"return": "return", "evaluation_return": "evaluation", "entropy": "entropy"}


class ProgressBar(AbstractCallback):
    """Shows how far the work is on the terminal (standard error); silent where that is not a terminal.

    Of a method that learns: the share done, environment steps, the mean return of the last episodes in reward units,
    that of the last evaluation, the policy's entropy in nats, and the time left. Of any other: steps, residual, error,
    time so far.

    Args:
        delay: Seconds of work before anything shows.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self._bar: Any = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Remembers what is running; the bar appears with the first step after the delay."""
        self._name, self._learns = type(method).__name__, method.is_anytime
        self._bar, self._numbers = None, dict[str, float]()

    def on_step(self, progress: Progress) -> None:
        """Updates the line."""
        self._numbers |= {name: value for name, value in progress.metrics.items() if name in _SHOWN}
        if progress.seconds < self.delay:
            return
        if self._bar is None:
            self._bar = _started_bar(self._name, _columns(self._learns), progress)
        detail = _numbers_text(self._numbers) if self._learns else _residual_text(progress)
        self._bar.update(self._bar.task_ids[0], completed=progress.num_steps, detail=detail)

    def on_end(self, posterior: Posterior | None) -> None:
        """Takes the line away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _numbers_text(numbers: dict[str, float]) -> str:
    return "  ".join(f"{label} {numbers[name]:.4g}" for name, label in _SHOWN.items() if name in numbers)


def _residual_text(progress: Progress) -> str:
    error = progress.certified_error
    bound = "" if math.isnan(error) else f"  error <= {error:.2e}"
    return f"step {progress.num_steps}  residual {progress.residual:.2e}{bound}"


def _columns(learns: bool) -> tuple[Any, ...]:
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name, detail = TextColumn("{task.description}"), TextColumn("{task.fields[detail]}")
    if not learns:
        return SpinnerColumn(), name, detail, TimeElapsedColumn()
    steps = TextColumn("{task.completed:,.0f} steps")
    return name, BarColumn(bar_width=20), TaskProgressColumn(), steps, detail, TimeRemainingColumn()


def _started_bar(name: str, columns: tuple[Any, ...], progress: Progress) -> Any:
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(name, total=progress.total_steps, completed=progress.num_steps, detail="")
    bar.start()
    return bar
