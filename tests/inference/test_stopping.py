"""Reasons to stop: when, what is handed back, what a resumed run remembers, and what is refused."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import cai
from tests.inference.rehearsal import Rehearsal, StopAt

GRAPH = cai.load_model("two_state")
RETURNS = (1.0, 5.0, 4.0, 5.5, 5.6, 2.0, 9.0, 9.0, 9.0, 8.0)


def stopped_at(stopping: cai.EarlyStopping, returns: tuple[float, ...] = RETURNS) -> int:
    posterior = cai.infer(GRAPH, Rehearsal(1000, returns=returns), callbacks=[stopping])
    assert (stopping.reason is None) == (posterior.stats.num_steps == 1000 and posterior.stats.converged)
    return posterior.stats.num_steps


@pytest.mark.parametrize(
    ("options", "step", "reason"),
    [
        ({"threshold": 5.0}, 200, "return reached 5, at step 200"),
        ({"threshold": 9.0, "consecutive": 3}, 900, "return reached 9 3 times running, at step 900"),
        ({"threshold": 10.0}, 1000, None),
        ({"patience": 1}, 300, "return is no better than 5 since 1 reports"),
        ({"patience": 2}, 900, "return is no better than 9 since 2 reports"),
        ({"patience": 4, "minimum_change": 1.0}, 600, "return is no better than 5 since 4 reports"),
        ({"threshold": 4.0, "goal": "min"}, 100, "return reached 4, at step 100"),
        ({"patience": 3, "goal": "min"}, 400, "return is no better than 1 since 3 reports"),
        ({"threshold": 9.0, "patience": 1}, 300, "return is no better than 5 since 1 reports"),
    ],
)
def test_when_it_stops(options: dict[str, Any], step: int, reason: str | None) -> None:
    stopping = cai.EarlyStopping("return", **options)
    assert stopped_at(stopping) == step
    assert stopping.reason == reason
    assert stopped_at(stopping) == step  # counts anew


def test_reports_without_the_metric_do_not_count() -> None:
    class Every(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps % 300 == 0:
                progress.metrics["sparse"] = 0.0

    stopping = cai.EarlyStopping("sparse", patience=1)
    posterior = cai.infer(GRAPH, Rehearsal(1000), callbacks=[Every(), stopping])
    assert posterior.stats.num_steps == 600


def test_a_resumed_run_remembers(tmp_path: Path) -> None:
    stopping, method = cai.EarlyStopping("return", patience=4, minimum_change=1.0), Rehearsal(1000, returns=RETURNS)
    cai.infer(GRAPH, method, callbacks=[stopping, cai.Checkpoint(tmp_path / "c"), StopAt(400)])
    posterior = cai.infer(GRAPH, method, callbacks=[stopping], resume=tmp_path / "c")
    assert posterior.stats.num_steps == 600


def test_a_metric_that_never_comes_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stopped_at(cai.EarlyStopping("profit", threshold=1.0)) == 1000
    assert "no 'profit' was ever logged" in caplog.text


def test_callbacks_after_the_one_that_stops_are_told_of_the_step(tmp_path: Path) -> None:
    stopping, log = cai.EarlyStopping("return", threshold=5.0), cai.JSONLLogger(tmp_path / "log")
    cai.infer(GRAPH, Rehearsal(1000, returns=RETURNS), callbacks=[stopping, log])
    assert cai.inference.read_jsonl(tmp_path / "log").curve("return").values.tolist() == [1.0, 5.0]


def test_the_time_limit_ends_a_run() -> None:
    limit = cai.TimeLimit(0.05)
    posterior = cai.infer(GRAPH, Rehearsal(10**9, interval=1), callbacks=[limit])
    assert 0.05 <= posterior.stats.seconds < 5.0 and not posterior.stats.converged
    assert limit.reason == "the time limit of 0.05 seconds is reached"
    cai.infer(GRAPH, Rehearsal(100), callbacks=[limit := cai.TimeLimit(1e6)])
    assert limit.reason is None


@pytest.mark.parametrize("callback", [cai.EarlyStopping(threshold=1.0), cai.TimeLimit(1.0)], ids=["early", "time"])
def test_exact_methods_are_refused(callback: cai.AbstractCallback) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="SoftValueIteration has no answer before it is done"):
        cai.infer(GRAPH, cai.SoftValueIteration(), callbacks=[callback])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cai.EarlyStopping(), "give threshold, patience or both"),
        (lambda: cai.EarlyStopping(patience=0), "patience must be at least 1"),
        (lambda: cai.EarlyStopping(threshold=1.0, consecutive=0), "consecutive must be at least 1"),
        (lambda: cai.EarlyStopping(threshold=1.0, goal="most"), "goal must be 'max' or 'min', got 'most'"),
        (lambda: cai.EarlyStopping(patience=1, minimum_change=-1.0), "minimum_change must be a number of at least 0"),
        (lambda: cai.TimeLimit(0.0), "seconds must be positive"),
        (lambda: cai.TimeLimit(float("nan")), "seconds must be positive"),
    ],
    ids=["nothing", "patience", "consecutive", "goal", "change", "no time", "nan"],
)
def test_numbers_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- interrupts -------------------------------------------------------------------------------------------------------


class Interrupting(Rehearsal):
    """Is interrupted in the middle of a step, once or twice."""

    times = 1

    def step(self, graph: Any, state: Any) -> Any:
        if state.num_steps == 300:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return super().step(graph, state)


class Impatient(Interrupting):
    """Is interrupted again before it is done."""

    times = 2


def test_an_interrupt_waits_for_the_end_of_the_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = cai.JSONLLogger(tmp_path / "log")
    with caplog.at_level(logging.WARNING):
        posterior = cai.infer(GRAPH, Interrupting(1000), callbacks=[log])
    assert posterior.stats.num_steps == 400 and not posterior.stats.converged
    assert cai.inference.read_jsonl(tmp_path / "log").curve("entropy").steps.tolist() == [100, 200, 300, 400]
    assert "stopping after this piece of work" in caplog.text and "stopped early: interrupted" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    posterior = cai.infer(GRAPH, Impatient(1000))
    assert posterior.stats.num_steps == 300
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        posterior = cai.infer(GRAPH, Interrupting(1000))
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [signal.SIGINT] and posterior.stats.converged


def test_errors_keep_what_was_learned() -> None:
    with pytest.raises(cai.NonFinite) as caught:
        cai.infer(GRAPH, Rehearsal(1000, error_at=400))
    assert caught.value.posterior.history.curve("entropy").steps.tolist() == [100, 200, 300]  # type: ignore[attr-defined]
