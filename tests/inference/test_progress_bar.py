"""The progress bar of a run that learns."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

import cai
from tests.inference.rehearsal import Rehearsal, StopAt
from tests.inference.test_loggers import Late

GRAPH = cai.load_model("two_state")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes standard error a terminal; in the test itself, since pytest sets it anew after the fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def shown(stream: Terminal) -> str:
    """What was written, without colours; the last state of the bar is among it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_it_shows_share_steps_return_entropy_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    cai.infer(
        GRAPH, Rehearsal(10_000, interval=2500, returns=(-12.34567,), favourites=(0,)), callbacks=[cai.ProgressBar()]
    )
    text = shown(stream)
    for part in ("Rehearsal", "100%", "10,000 steps", "return -12.35", "entropy 0.1909", "0:00:00"):
        assert part in text, part


def test_an_evaluation_stays_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)

    class Once(Late):
        def on_step(self, progress: object) -> None:
            if progress.num_steps == 100:  # type: ignore[attr-defined]
                progress.metrics["evaluation_return"] = 4.25  # type: ignore[attr-defined]

    cai.infer(GRAPH, Rehearsal(300), callbacks=[Once(0), cai.ProgressBar()])
    assert "evaluation 4.25" in shown(stream).rpartition("300 steps")[2]


def test_a_resumed_run_begins_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = terminal(monkeypatch)
    cai.infer(GRAPH, Rehearsal(1000), callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(700)])
    cai.infer(GRAPH, Rehearsal(1000), callbacks=[cai.ProgressBar(), StopAt(800)], resume=tmp_path / "c")
    assert "80%" in shown(stream) and "800 steps" in shown(stream) and "10%" not in shown(stream)


def test_it_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cai.infer(GRAPH, Rehearsal(300), callbacks=[cai.ProgressBar()])
    assert capsys.readouterr() == ("", "")
