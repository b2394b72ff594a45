"""Logs for TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from cai.inference.callbacks.loggers import AbstractLogger, Row
from cai.inference.method import AbstractMethod
from cai.inference.posterior import Posterior


class TensorBoardLogger(AbstractLogger):
    """Writes scalars for TensorBoard, against environment steps; needs the extra `tensorboard`.

    Args:
        folder: A folder for this run's event files; made if need be. A new run does not remove those of older ones.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "TensorBoardLogger needs TensorBoard, which is not installed: pip install cai[tensorboard]"
            )
        self.folder = Path(folder)
        self._writer: Any = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Makes the folder.

        Raises:
            OSError: It cannot be made.
        """
        super().on_start(graph, method)
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_end(self, posterior: Posterior | None) -> None:
        """Writes what is left, and closes."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, first_step: int | None) -> float:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=first_step, flush_secs=10)
        return 0.0

    def _write(self, row: Row) -> None:
        for name, value in row.items():
            if name not in ("num_steps", "seconds"):  # it keeps a clock of its own
                self._writer.add_scalar(name, value, int(row["num_steps"]))
