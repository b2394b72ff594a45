"""Progress: late, on terminals only, and gone at the end."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console
from rich.progress import Progress

import cai
from cai.cli.progress import DELAY_SECONDS, Work, watched


def terminal(*, kind: str = "xterm", is_terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, _environ={"TERM": kind})


def wait_for(text: str, console: Console, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if text in console.file.getvalue():  # type: ignore[attr-defined]
            return True
        time.sleep(0.01)
    return False


def test_long_work_shows_its_phase_and_steps() -> None:
    console = terminal()
    with watched(console, delay=0.0) as work:
        work.enter("building a world")
        assert wait_for("building a world", console)
        graph = cai.load_model("gridworld", slip=0.1)
        posterior = cai.infer(graph, cai.SoftValueIteration(), callbacks=[work])
        work.enter("thinking it over")
        assert wait_for("thinking it over", console)
    assert posterior.stats.converged


def test_steps_and_residual_are_shown() -> None:
    console = terminal()
    record = type("Record", (), {"num_steps": 41, "residual": 0.125})
    with watched(console, delay=0.0) as work:
        work.on_start(None, cai.SumProduct())
        work.on_step(record)
        assert wait_for("inferring by SumProduct step 41, residual 0.12", console)
        record.residual = float("nan")
        work.on_step(record)
        assert wait_for("step 41 ", console)


def test_elapsed_time_counts_from_the_start() -> None:
    display = Progress(console=terminal(), get_time=time.monotonic)
    Work(started=time.monotonic() - 3600.0).show_on(display)
    assert display.tasks[0].elapsed == pytest.approx(3600.0, abs=60.0)


@pytest.mark.parametrize(
    ("console", "delay"),
    [(terminal(), 60.0), (terminal(is_terminal=False), 0.0), (terminal(kind="dumb"), 0.0)],
    ids=["short work", "no terminal", "dumb terminal"],
)
def test_nothing_is_shown(console: Console, delay: float) -> None:
    with watched(console, delay) as work:
        work.enter("building")
        time.sleep(0.1)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_threads_end_with_the_work() -> None:
    before = threading.active_count()
    with watched(terminal(), delay=60.0):
        assert threading.active_count() == before + 1
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_errors_pass_through_and_the_display_goes() -> None:
    console = terminal()
    with pytest.raises(ValueError, match="broken"), watched(console, delay=0.0):
        assert wait_for("starting", console)
        raise ValueError("broken")
    assert console.file.getvalue().rstrip().endswith("\x1b[2K")  # type: ignore[attr-defined]


def test_the_delay_is_two_seconds() -> None:
    assert DELAY_SECONDS == 2.0
