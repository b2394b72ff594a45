"""Reasons to end a run before its last step."""

from __future__ import annotations

import logging
import math
import operator
from typing import Any, Literal

from cai.inference.callbacks.base import AbstractCallback, StopInference, earlier_rows, need_answers
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior

_LOG = logging.getLogger(__name__)


class EarlyStopping(AbstractCallback):
    """Ends the run when a metric is good enough, or no longer gets better; `infer` gives what was learned.

    Reports without the metric do not count. What a run that this one goes on from reported counts.

    Args:
        monitor: The metric; those that callbacks add are there if they stand before this one in the list.
        threshold: Good enough; None never is.
        patience: How many reports running may bring nothing better; None is any number.
        minimum_change: By how much a report must be better to count as better, in the units of the metric.
        consecutive: How many reports running must reach the threshold.
        goal: "max" where more is better, "min" where less is.

    Attributes:
        reason: Why the run was ended; None where it was not.

    Raises:
        ValueError: Neither threshold nor patience, or a number out of range.
    """

    def __init__(
        self,
        monitor: str = "evaluation_return",
        *,
        threshold: float | None = None,
        patience: int | None = None,
        minimum_change: float = 0.0,
        consecutive: int = 1,
        goal: Literal["max", "min"] = "max",
    ) -> None:
        if threshold is None and patience is None:
            raise ValueError("EarlyStopping: give threshold, patience or both; without them it never stops")
        for name, number in (("patience", 1 if patience is None else patience), ("consecutive", consecutive)):
            if operator.index(number) < 1:
                raise ValueError(f"EarlyStopping: {name} must be at least 1, got {number}")
        if goal not in ("max", "min"):
            raise ValueError(f"EarlyStopping: goal must be 'max' or 'min', got {goal!r}")
        if not 0.0 <= minimum_change < math.inf:
            raise ValueError(f"EarlyStopping: minimum_change must be a number of at least 0, got {minimum_change}")
        self.monitor, self.threshold, self.patience = monitor, threshold, patience
        self.minimum_change, self.consecutive, self.goal = minimum_change, consecutive, goal
        self.reason: str | None = None
        self._best, self._num_idle, self._num_reached, self._recalled = math.nan, 0, 0, False

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Starts counting.

        Raises:
            IncompatibleMethod: The method has no answer before it is done.
        """
        need_answers(self, method)
        self.reason = None
        self._best, self._num_idle, self._num_reached, self._recalled = math.nan, 0, 0, False

    def on_step(self, progress: Progress) -> None:
        """Stops if it is time.

        Raises:
            StopInference: It is.
        """
        if not self._recalled:
            self._recalled = True
            for row in earlier_rows(progress):
                self._count(row.get(self.monitor))
        if not self._count(progress.metrics.get(self.monitor)):
            return
        if self.threshold is not None and self._num_reached >= self.consecutive:
            times = f" {self.consecutive} times running" if self.consecutive > 1 else ""
            self._stop(f"{self.monitor} reached {self.threshold:g}{times}, at step {progress.num_steps}")
        if self.patience is not None and self._num_idle >= self.patience:
            self._stop(f"{self.monitor} is no better than {self._best:g} since {self._num_idle} reports")

    def on_end(self, posterior: Posterior | None) -> None:
        """Says so if there was nothing to go by."""
        if self._recalled and math.isnan(self._best):
            _LOG.warning("EarlyStopping: no %r was ever logged", self.monitor)

    def _count(self, value: float | None) -> bool:
        """Takes note of a report; says whether it has the metric."""
        if value is None or math.isnan(value):
            return False
        sign = 1.0 if self.goal == "max" else -1.0
        if math.isnan(self._best) or sign * (value - self._best) > self.minimum_change:
            self._best, self._num_idle = value, 0
        else:
            self._num_idle += 1
        reached = self.threshold is not None and sign * (value - self.threshold) >= 0.0
        self._num_reached = self._num_reached + 1 if reached else 0
        return True

    def _stop(self, reason: str) -> None:
        self.reason = reason
        raise StopInference(reason)


class TimeLimit(AbstractCallback):
    """Ends the run after some wall-clock time, at the next report; `infer` gives what was learned.

    A run that goes on from a checkpoint has the whole time again.

    Args:
        seconds: How long, from the call of `infer`.

    Attributes:
        reason: Why the run was ended; None where it was not.

    Raises:
        ValueError: Not a positive number.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0.0:
            raise ValueError(f"TimeLimit: seconds must be positive, got {seconds}")
        self.seconds = seconds
        self.reason: str | None = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Checks that there is an answer to give.

        Raises:
            IncompatibleMethod: The method has none before it is done.
        """
        need_answers(self, method)
        self.reason = None

    def on_step(self, progress: Progress) -> None:
        """Stops if it is time.

        Raises:
            StopInference: It is.
        """
        if progress.seconds >= self.seconds:
            self.reason = f"the time limit of {self.seconds:g} seconds is reached"
            raise StopInference(self.reason)
