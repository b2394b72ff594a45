"""The director's half of an interleaved benchmark: workers take turns, so that a busy machine is busy for all."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence


def director_options(
    description: str,
    workers: Mapping[str, Callable[..., None]],
    *,
    peer: str,
    rounds: int,
    flags: Mapping[str, str] | None = None,
) -> argparse.Namespace | None:
    """Reads a director's command line, or serves as the worker that it names.

    Args:
        description: What the benchmark is, for `--help`.
        workers: The workers of this script, by the name that follows `--worker`.
        peer: What the environment of `--peer-python` must hold.
        rounds: How often each worker takes its turn, by default.
        flags: Further switches of the script and what they do.

    Returns:
        The options; None once a worker has served.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer-python", help=f"the Python of an environment with {peer}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    for flag, what in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=what)
    options = parser.parse_args()
    if not options.worker:
        return options
    workers[options.worker[0]](*options.worker[1:])
    return None


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


def report(times: Mapping[str, list[float]], against: str, *, digits: int = 1) -> str:
    """Writes a table: median, least, and the median ratio, round by round, of `against` to each, to some digits."""
    lines = [f"{'':34}{'median ms':>12}{'least ms':>12}{'times faster than ' + against:>34}"]
    for name, seconds in times.items():
        ratio = statistics.median(other / own for other, own in zip(times[against], seconds, strict=True))
        lines.append(f"{name:34}{1e3 * statistics.median(seconds):12.2f}{1e3 * min(seconds):12.2f}{ratio:34.{digits}f}")
    return "\n".join(lines)
