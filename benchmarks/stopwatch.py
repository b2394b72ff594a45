"""A watch for training runs that pause while they are evaluated: standard library only, so that a peer can use it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence


class Stopwatch:
    """Wall-clock and CPU time between `start` and `stop`, and the evaluations noted meanwhile.

    Attributes:
        curve: (steps, mean return) of each evaluation.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        """Goes on."""
        self._started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Stands still."""
        assert self._started is not None
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]
        self._started = None

    def note(self, num_steps: int, returns: Sequence[float]) -> None:
        """Takes an evaluation down."""
        self.curve.append((num_steps, statistics.mean(returns)))

    @property
    def latest(self) -> float:
        """The mean return of the last evaluation."""
        return self.curve[-1][1]

    def report(self) -> None:
        """Prints a line of JSON."""
        if self._started is not None:
            self.stop()
        times = {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3)}
        print(json.dumps(times | {"curve": self.curve}), flush=True)
