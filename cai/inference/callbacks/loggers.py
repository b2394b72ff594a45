"""Logs of a run: one row a report, in files that other programs read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from cai.data import serialization
from cai.errors import CorruptFile
from cai.inference.callbacks.base import AbstractCallback
from cai.inference.history import History
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior

Row = dict[str, float]


class AbstractLogger(AbstractCallback):
    """Writes a row a report: `num_steps`, `seconds` of work so far, and what the method logs.

    Methods that log nothing of their own have `residual` and `certified_error`. What other callbacks log is there if
    they stand before the logger in the list.

    Where a run goes on from a checkpoint the log goes on too: rows of steps that the run takes again are dropped, and
    the seconds count on. Any other run starts its log anew.
    """

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Checks that the log can be written, before any work."""
        self._resumed, self._begun, self._earlier = False, False, 0.0

    def on_resume(self) -> None:
        """Notes that a log is to be gone on with."""
        self._resumed = True

    def on_step(self, progress: Progress) -> None:
        """Writes a row."""
        if not self._begun:
            self._earlier, self._begun = self._begin(progress.num_steps if self._resumed else None), True
        row: Row = {"num_steps": progress.num_steps, "seconds": self._earlier + progress.seconds}
        work = {"residual": progress.residual, "certified_error": progress.certified_error}
        self._write(row | (progress.metrics or work))

    @abstractmethod
    def _begin(self, first_step: int | None) -> float:
        """Opens the log, anew or (where a step is given) with the rows before it; gives the seconds in these."""

    @abstractmethod
    def _write(self, row: Row) -> None:
        """Adds a row."""


class AbstractFileLogger(AbstractLogger):
    """A log in one text file, which is whole up to its last line whatever ends the process.

    Args:
        path: The file; unless the run is resumed, an old one is replaced.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Checks that the file can be written.

        Raises:
            OSError: It cannot, or there is no directory for it.
        """
        super().on_start(graph, method)
        serialization.remove_leftovers(serialization.need_directory(self.path))
        with open(self.path, "a"):
            pass

    def on_end(self, posterior: Posterior | None) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, first_step: int | None) -> float:
        kept = [] if first_step is None else [row for row in self._read() if row["num_steps"] < first_step]
        self._rewrite(kept)
        return kept[-1].get("seconds", 0.0) if kept else 0.0

    def _rewrite(self, rows: Sequence[Row]) -> None:
        """Replaces the file, and opens it to be added to."""
        self.on_end(None)
        serialization.write_atomically(self.path, self._text(rows).encode())
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115  (closed by `on_end`)

    def _append(self, text: str) -> None:
        assert self._file is not None
        self._file.write(text)
        self._file.flush()

    @abstractmethod
    def _read(self) -> list[Row]:
        """Reads the file; a last line that is not whole does not count."""

    @abstractmethod
    def _text(self, rows: Sequence[Row]) -> str:
        """Writes rows as a whole file."""


class JSONLLogger(AbstractFileLogger):
    """Writes a line of JSON a report, such as `{"num_steps": 100, "seconds": 0.2, "return": -1204.5}`.

    A number that is NaN or infinite, which JSON cannot say, is null. `read_jsonl` reads the file.

    Args:
        path: The file; unless the run is resumed, an old one is replaced.
    """

    def _write(self, row: Row) -> None:
        self._append(_json_line(row))

    def _read(self) -> list[Row]:
        return read_jsonl(self.path).rows

    def _text(self, rows: Sequence[Row]) -> str:
        return "".join(map(_json_line, rows))


class CSVLogger(AbstractFileLogger):
    """Writes a table, one line a report, the first with the names.

    A quantity that is logged for the first time later on, such as the return of an evaluation, becomes a further
    column: the file is then written anew, atomically. A cell is empty where nothing was logged.

    Args:
        path: The file; unless the run is resumed, an old one is replaced.
    """

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Checks that the file can be written."""
        super().on_start(graph, method)
        self._names: list[str] = []

    def _write(self, row: Row) -> None:
        if new := [name for name in row if name not in self._names]:
            earlier = self._read() if self._names else []
            self._names += new
            self._rewrite(earlier)
        self._append(self._table([row]))

    def _read(self) -> list[Row]:
        table = list(csv.reader(_whole_lines(self.path)))
        try:
            return [_numbers(zip(table[0], cells, strict=True)) for cells in table[1:]]
        except (ValueError, KeyError) as error:
            raise CorruptFile(f"{str(self.path)!r} is no table of such a log ({error})") from None

    def _text(self, rows: Sequence[Row]) -> str:
        self._names = list(dict.fromkeys([*self._names, *(name for row in rows for name in row)]))
        header = _csv_text([self._names]) if self._names else ""
        return header + self._table(rows)

    def _table(self, rows: Sequence[Row]) -> str:
        return _csv_text([[row.get(name, "") for name in self._names] for row in rows])


def read_jsonl(path: str | os.PathLike) -> History:
    """Reads what `JSONLLogger` wrote, as a history; a last line that is not whole does not count.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: A line is none of such a log: which.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            row = {name: _number(value) for name, value in json.loads(line).items() if value is not None}
            rows.append(row | {"num_steps": int(row["num_steps"])})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptFile(
                f"{str(path)!r}: line {number} is no row of a log ({type(error).__name__} {error})"
            ) from None
    return History(rows)


def _whole_lines(path: str | os.PathLike) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{str(path)!r} is no text ({error})") from None
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _json_line(row: Row) -> str:
    return json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()}) + "\n"


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _numbers(cells: Iterable[tuple[str, str]]) -> Row:
    row = {name: _number(int(text) if text.isdecimal() else text) for name, text in cells if text}
    return row | {"num_steps": int(row["num_steps"])}


def _number(value: Any) -> float:
    """Reads a number; whole ones stay as they are, so that a log that goes on looks the same."""
    return value if isinstance(value, int) else float(value)
