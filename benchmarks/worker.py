"""The worker's half of an interleaved benchmark: standard library only, so that a peer's environment can import it.

A worker sets its problem up, prints `ready`, and then does one timed run for every line it reads, printing seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[], Any]) -> None:
    """Answers each line of standard input with the seconds that one run took."""
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started, flush=True)
