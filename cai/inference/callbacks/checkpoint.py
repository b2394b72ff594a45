"""Files from which an interrupted run goes on."""

from __future__ import annotations

import os
import time
from typing import Any

from cai.data import serialization
from cai.inference.callbacks.base import AbstractCallback
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior


class Checkpoint(AbstractCallback):
    """Writes where the work stands to a file, atomically, so that `infer(..., resume=path)` goes on from there.

    A run of an exact method that is resumed is bit-identical to one that was not interrupted, and so is one that learns
    from tables or callables on one thread. Where it learns from a live environment, which cannot be written down, the
    continuation begins with new episodes: it is as good, but not the same.

    Whatever kills the process, a file that is there is whole: the one before or the new one. What a killed writer left
    behind is removed at the next start.

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
        serialization.remove_leftovers(serialization.need_directory(self.path))
        self._run = {"method": serialization.fingerprint(method.identity), "graph": serialization.fingerprint(graph)}
        self._last = time.monotonic()
        self._pending: Progress | None = None

    def on_step(self, progress: Progress) -> None:
        """Writes if it is time; only then is what was learned copied."""
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
    if content["method"] != serialization.fingerprint(method.identity):
        raise ValueError(f"resume: {str(path)!r} was written by another method or other settings than {method!r}")
    if content["graph"] != serialization.fingerprint(graph):
        raise ValueError(f"resume: {str(path)!r} was written in a run on another graph")
    return content["state"]
