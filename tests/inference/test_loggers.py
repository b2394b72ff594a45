"""Logs: what stands in them, how they go on after an interrupt, and what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import cai
from cai.inference import read_jsonl
from tests.inference.rehearsal import Rehearsal, StopAt

GRAPH = cai.load_model("two_state")
FILE_LOGGERS = [cai.JSONLLogger, cai.CSVLogger]


class Late(cai.AbstractCallback):
    """Adds a metric from a step on."""

    def __init__(self, step: int, value: float = 7.0) -> None:
        self.step, self.value = step, value

    def on_step(self, progress: Any) -> None:
        if progress.num_steps >= self.step:
            progress.metrics["late"] = self.value


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of either kind of file, without the seconds."""
    if path.read_text().startswith("{"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        with open(path, newline="") as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file, strict=True)]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def texts(path: Path) -> list[str]:
    """The lines without their seconds."""
    return [re.sub(r'(?<="seconds": )[^,]*|(?<=\d00,)[^,]*', "", line) for line in path.read_text().splitlines()]


def seconds_of(path: Path) -> list[float]:
    if path.read_text().startswith("{"):
        return [json.loads(line)["seconds"] for line in path.read_text().splitlines()]
    with open(path, newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_rows_are_those_of_the_history(logger: Any, tmp_path: Path) -> None:
    method = Rehearsal(500, returns=(1.0, 2.5, -3.0))
    posterior = cai.infer(GRAPH, method, seed=1, callbacks=[Late(300), logger(tmp_path / "log")])
    assert rows_of(tmp_path / "log") == posterior.history.rows
    assert len(posterior.history.rows) == 5 and posterior.history.rows[2]["late"] == 7.0
    seconds = seconds_of(tmp_path / "log")
    assert seconds == sorted(seconds) and seconds[0] > 0.0


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_every_row_is_there_as_soon_as_it_is_told(logger: Any, tmp_path: Path) -> None:
    counts: list[int] = []

    class Reader(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            counts.append(len(rows_of(tmp_path / "log")))

    cai.infer(GRAPH, Rehearsal(400), callbacks=[Late(300), logger(tmp_path / "log"), Reader()])
    assert counts == [1, 2, 3, 4]


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_a_resumed_log_is_that_of_an_uninterrupted_run(logger: Any, tmp_path: Path) -> None:
    """The log is ahead of the checkpoint, as after a kill, its last line is torn, and rows of it are taken again."""
    method, late = Rehearsal(1200), Late(200, 7)
    cai.infer(GRAPH, method, seed=3, callbacks=[late, logger(tmp_path / "whole")])
    file, checkpoint = tmp_path / "log", tmp_path / "checkpoint"
    cai.infer(GRAPH, method, seed=3, callbacks=[late, cai.Checkpoint(checkpoint), StopAt(400)])
    cai.infer(GRAPH, method, seed=3, callbacks=[late, logger(file), StopAt(900)])
    earlier = seconds_of(file)
    with open(file, "a") as log:
        log.write('{"num_steps": 1000, "se' if logger is cai.JSONLLogger else "1000,0.1,")
    cai.infer(GRAPH, method, callbacks=[late, logger(file)], resume=checkpoint)
    assert rows_of(file) == rows_of(tmp_path / "whole")
    assert texts(file) == texts(tmp_path / "whole")  # whole numbers stay whole
    assert seconds_of(file)[:4] == earlier[:4]
    assert seconds_of(file) == sorted(seconds_of(file))


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_a_resumed_run_without_a_log_begins_one(logger: Any, tmp_path: Path) -> None:
    cai.infer(GRAPH, Rehearsal(600), callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(400)])
    cai.infer(GRAPH, Rehearsal(600), callbacks=[logger(tmp_path / "log")], resume=tmp_path / "c")
    assert [row["num_steps"] for row in rows_of(tmp_path / "log")] == [500, 600]


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_a_new_run_replaces_the_log_of_another(logger: Any, tmp_path: Path) -> None:
    log = logger(tmp_path / "log")
    cai.infer(GRAPH, Rehearsal(900, interval=10), callbacks=[log])
    cai.infer(GRAPH, Rehearsal(400), callbacks=[log])
    assert [row["num_steps"] for row in rows_of(tmp_path / "log")] == [100, 200, 300, 400]


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_a_finished_run_that_is_resumed_leaves_its_log(logger: Any, tmp_path: Path) -> None:
    callbacks = [logger(tmp_path / "log"), cai.Checkpoint(tmp_path / "c")]
    cai.infer(GRAPH, Rehearsal(400), callbacks=callbacks)
    before = (tmp_path / "log").read_bytes()
    cai.infer(GRAPH, Rehearsal(400), callbacks=callbacks, resume=tmp_path / "c")
    assert (tmp_path / "log").read_bytes() == before


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_exact_methods_log_their_residual(logger: Any, tmp_path: Path) -> None:
    graph = cai.load_model("gridworld", horizon=None, discount=0.9)
    posterior = cai.infer(graph, cai.SoftValueIteration(), callbacks=[logger(tmp_path / "log")])
    last = rows_of(tmp_path / "log")[-1]
    assert last == {
        "num_steps": posterior.stats.num_steps,
        "residual": posterior.stats.residual,
        "certified_error": posterior.stats.certified_error,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_say_are_null(value: float, tmp_path: Path) -> None:
    cai.infer(GRAPH, Rehearsal(200), callbacks=[Late(200, value), cai.JSONLLogger(tmp_path / "log")])
    first, second = rows_of(tmp_path / "log")
    assert "late" not in first and second["late"] is None
    assert "late" not in read_jsonl(tmp_path / "log").names


def test_read_jsonl_gives_the_history(tmp_path: Path) -> None:
    posterior = cai.infer(GRAPH, Rehearsal(500, returns=(1.0, 4.0)), callbacks=[cai.JSONLLogger(tmp_path / "log")])
    read, kept = read_jsonl(tmp_path / "log").curve("return"), posterior.history.curve("return")
    assert read.steps.equal(kept.steps) and read.values.equal(kept.values)


@pytest.mark.parametrize("text", ["hello\n", "[1]\n", '{"return": 1.0}\n', '{"num_steps": "x"}\n', "\x00\n"])
def test_what_is_no_log_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"num_steps": 1}\n' + text)
    with pytest.raises(cai.CorruptFile, match="line 2 is no row of a log"):
        read_jsonl(tmp_path / "log")


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_resuming_into_a_foreign_file_is_refused(logger: Any, tmp_path: Path) -> None:
    cai.infer(GRAPH, Rehearsal(600), callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(400)])
    (tmp_path / "log").write_bytes(b"a,b\n1,2,3\n\xff\n")
    with pytest.raises(cai.CorruptFile):
        cai.infer(GRAPH, Rehearsal(600), callbacks=[logger(tmp_path / "log")], resume=tmp_path / "c")
    assert (tmp_path / "log").read_bytes() == b"a,b\n1,2,3\n\xff\n"


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_a_log_that_cannot_be_written_is_refused_before_any_work(logger: Any, tmp_path: Path) -> None:
    steps: list[Any] = []

    class Recorder(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            steps.append(progress)

    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "log", tmp_path / "folder"):
        with pytest.raises(OSError, match="missing|folder"):
            cai.infer(GRAPH, Rehearsal(400), callbacks=[Recorder(), logger(path)])
    assert steps == []


@pytest.mark.parametrize("logger", FILE_LOGGERS)
def test_leftovers_of_killed_writers_are_removed(logger: Any, tmp_path: Path) -> None:
    leftover, other = tmp_path / f".log.{'0f' * 16}", tmp_path / ".log.backup"
    leftover.touch()
    other.touch()
    cai.infer(GRAPH, Rehearsal(100), callbacks=[logger(tmp_path / "log")])
    assert not leftover.exists() and other.exists()


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_that_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install cai\[tensorboard\]"):
        cai.TensorBoardLogger(tmp_path)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    method = Rehearsal(300, returns=(1.0, 2.0, 3.0))
    cai.infer(GRAPH, method, callbacks=[Late(300), cai.TensorBoardLogger(tmp_path / "deep" / "er")])
    assert scalars(tmp_path / "deep" / "er", "return") == [(100, 1.0), (200, 2.0), (300, 3.0)]
    assert scalars(tmp_path / "deep" / "er", "late") == [(300, 7.0)]


def test_tensorboard_drops_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder, method = tmp_path / "events", Rehearsal(500, returns=(1.0, 2.0, 3.0, 4.0, 5.0))
    cai.infer(GRAPH, method, callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(200)])
    cai.infer(GRAPH, method, callbacks=[cai.TensorBoardLogger(folder), StopAt(400)])
    cai.infer(GRAPH, method, callbacks=[cai.TensorBoardLogger(folder)], resume=tmp_path / "c")
    assert scalars(folder, "return") == [(100, 1.0), (200, 2.0), (300, 3.0), (400, 4.0), (500, 5.0)]
