"""The director's half of an interleaved benchmark: workers take turns, so that a busy machine is busy for all."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence


def interleaved(workers: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Times several programs in turns, each in a process of its own with one thread.

    Args:
        workers: The command line of each worker, by name; see `worker.serve`.
        rounds: How often each takes its turn.

    Returns:
        Seconds of each run, by name.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for name, command in workers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for name, process in running.items():
            while (line := process.stdout.readline()) != "ready\n":
                if not line:
                    raise RuntimeError(f"the worker {name!r} ended before it was ready")
        for _ in range(rounds):
            for name, process in running.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                times[name].append(float(process.stdout.readline()))
    finally:
        for process in running.values():
            process.stdin.close()
            process.wait()
    return times


def report(times: Mapping[str, list[float]], against: str) -> str:
    """Writes a table: median, least, and the median ratio, round by round, of `against` to each."""
    lines = [f"{'':34}{'median ms':>12}{'least ms':>12}{'times faster than ' + against:>34}"]
    for name, seconds in times.items():
        ratio = statistics.median(other / own for other, own in zip(times[against], seconds, strict=True))
        lines.append(f"{name:34}{1e3 * statistics.median(seconds):12.2f}{1e3 * min(seconds):12.2f}{ratio:34.1f}")
    return "\n".join(lines)
