"""The worker's half of an interleaved benchmark: standard library only, so that a peer's environment can import it.

A worker sets its problem up, prints `ready`, and takes a turn for every line it reads: one call to warm the caches that
the other workers have taken, then some timed calls in a row, as an optimiser makes them. It prints the seconds of one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any


def serve(
    run: Callable[[], Any], calls: int = 5, *, steps: int = 1, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Answers each line of standard input with the mean seconds of a step.

    Args:
        run: What is timed.
        calls: How often it is called in a turn.
        steps: How many steps one call takes.
        clock: Seconds; `time.process_time` counts those of this process alone.
    """
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        run()
        started = clock()
        for _ in range(calls):
            run()
        print((clock() - started) / (calls * steps), flush=True)
