"""What every callback is."""

from __future__ import annotations

from typing import Any

from cai.errors import IncompatibleMethod
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior


class StopInference(Exception):
    """Raised by a callback to end the work of a method that has an answer at any time; the message says why."""


class AbstractCallback:
    """Is told of the start, of each step and of the end; override what you need."""

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Called once, before the first step."""

    def on_resume(self) -> None:
        """Called after `on_start` where the work goes on from a checkpoint."""

    def on_step(self, progress: Progress) -> None:
        """Called after each step."""

    def on_end(self, posterior: Posterior | None) -> None:
        """Called once, with the answer, or with None where an error or an interrupt ended the work."""


def need_answers(callback: AbstractCallback, method: AbstractMethod) -> None:
    """Raises `IncompatibleMethod` unless the method has an answer after every step."""
    if not method.is_anytime:
        raise IncompatibleMethod(
            f"{type(callback).__name__}: {type(method).__name__} has no answer before it is done; methods that learn "
            "from samples do"
        )


def earlier_rows(progress: Progress) -> list[dict[str, float]]:
    """Gives what was logged before a step, by the run that this one goes on from too."""
    history = None if progress.posterior is None else getattr(progress.posterior(), "history", None)
    return [] if history is None else [row for row in history.rows if row is not progress.metrics]
