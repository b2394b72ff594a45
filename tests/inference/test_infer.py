"""`infer`: what it refuses before any work, whom it tells, and how it goes on after an interrupt."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.inference.callbacks import checkpoint as checkpoint_module
from tests import oracles
from tests.laws.build import graph_of

F = cai.factors
SOLVER = cai.SoftValueIteration(solver=cai.methods.ValueIteration(), tolerance=1e-12)


def graph(**options: Any) -> cai.TrajectoryGraph:
    """A world with an exit, so that sweeps are many: without one their span would be small after a dozen."""
    common = {"num_states": 5, "num_terminal": 1, "horizon": None, "discount": 0.97}
    return graph_of(oracles.random_problem(3, **(common | options)))


class Recorder(cai.AbstractCallback):
    """Remembers what it is told, and raises at a given step."""

    def __init__(self, error: BaseException | None = None, step: int = 2) -> None:
        self.told: list[Any] = []
        self.error, self.step = error, step

    def on_start(self, graph: Any, method: Any) -> None:
        self.told.append(("start", graph, method))

    def on_step(self, progress: Any) -> None:
        self.told.append(("step", progress))
        if self.error is not None and sum(what[0] == "step" for what in self.told) == self.step:
            raise self.error

    def on_end(self, posterior: Any) -> None:
        self.told.append(("end", posterior))


# -- what is refused --------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "class": (lambda: cai.infer(graph(), cai.SumProduct), r"got <class .*did you mean SumProduct\(\)\?"),
    "text": (lambda: cai.infer(graph(), "sum-product"), "expected a method such as .* got 'sum-product'"),
    "none": (lambda: cai.infer(graph(), None), "expected a method"),
    "swapped": (lambda: cai.infer(cai.SumProduct(), graph()), "expected a method"),
    "callback": (lambda: cai.infer(graph(), SOLVER, callbacks=cai.ProgressBar()), "callbacks must be a list"),
    "callback class": (lambda: cai.infer(graph(), SOLVER, callbacks=[cai.ProgressBar]), "callbacks must be a list"),
}


@pytest.mark.parametrize("ask, message", WRONG.values(), ids=WRONG)
def test_what_is_no_question(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


def test_refusals_come_before_callbacks() -> None:
    recorder = Recorder()
    with pytest.raises(cai.IncompatibleMethod):
        cai.infer(graph(temperature=0.0), cai.SumProduct(), callbacks=[recorder])
    assert recorder.told == []


# -- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [None, 4])
def test_callbacks_are_told_in_order(horizon: int | None) -> None:
    recorder, asked = Recorder(), graph(horizon=horizon)
    posterior = cai.infer(asked, SOLVER, callbacks=[recorder])
    kinds = [what[0] for what in recorder.told]
    assert kinds == ["start", *["step"] * (len(kinds) - 2), "end"]
    assert recorder.told[0] == ("start", asked, SOLVER)
    assert recorder.told[-1] == ("end", posterior)
    steps = [what[1] for what in recorder.told[1:-1]]
    assert steps
    assert [step.num_steps for step in steps] == sorted({step.num_steps for step in steps})
    assert steps[-1].num_steps == posterior.stats.num_steps
    assert steps[-1].residual == posterior.stats.residual
    assert all(a.seconds <= b.seconds for a, b in zip(steps, steps[1:], strict=False))


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_error_ends_every_callback(error: BaseException) -> None:
    breaking, other = Recorder(error), Recorder()
    with pytest.raises(type(error)):
        cai.infer(graph(), SOLVER, callbacks=[other, breaking])
    for recorder in (breaking, other):
        assert recorder.told[-1] == ("end", None)
        assert [what[0] for what in recorder.told].count("end") == 1


# -- progress ---------------------------------------------------------------------------------------------------------


def test_progress_bar_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cai.infer(graph(), SOLVER, callbacks=[cai.ProgressBar()])
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("delay, shows", [(0.0, True), (1e6, False)])
def test_progress_bar_on_a_terminal(delay: float, shows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    cai.infer(graph(), SOLVER, callbacks=[cai.ProgressBar(delay)])
    assert ("SoftValueIteration" in stream.getvalue()) == shows


# -- checkpoints ------------------------------------------------------------------------------------------------------

METHODS: dict[str, Any] = {
    "value iteration": SOLVER,
    "newton": cai.SoftValueIteration(solver=cai.methods.Newton()),
    "policy iteration": cai.SoftPolicyIteration(),
    "evaluation": cai.PolicyEvaluation(F.TabularPolicy(np.full((5, 2), 0.5))),
}


def same(a: cai.Posterior, b: cai.Posterior) -> bool:
    states = torch.arange(5)
    return (
        torch.equal(a.v(states), b.v(states))
        and torch.equal(a.policy(states).logits, b.policy(states).logits)
        and torch.equal(a.state_marginals, b.state_marginals)
        and (a.stats.num_steps, a.stats.residual) == (b.stats.num_steps, b.stats.residual)
        and a.stats.certified_error == b.stats.certified_error
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("step", [1, 2])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(method: Any, step: int, tmp_path: Path) -> None:
    file, whole = tmp_path / "checkpoint", cai.infer(graph(), method)
    breaking = Recorder(KeyboardInterrupt(), step)
    with contextlib.suppress(KeyboardInterrupt):  # Newton may be done by then
        cai.infer(graph(), method, callbacks=[cai.Checkpoint(file), breaking])
    after = Recorder()
    assert same(cai.infer(graph(), method, callbacks=[after], resume=file), whole)
    assert len(after.told) - 2 == 0 or after.told[1][1].num_steps > breaking.told[-2][1].num_steps


def test_value_iteration_is_interrupted_in_the_middle(tmp_path: Path) -> None:
    """The test above would say nothing of a run that was over before the interrupt."""
    breaking = Recorder(KeyboardInterrupt(), 2)
    with pytest.raises(KeyboardInterrupt):
        cai.infer(graph(), SOLVER, callbacks=[breaking])
    assert breaking.told[-2][1].num_steps < cai.infer(graph(), SOLVER).stats.num_steps


def test_checkpoint_of_a_finished_run_gives_the_answer_at_once(tmp_path: Path) -> None:
    whole = cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(tmp_path / "file")])
    recorder = Recorder()
    assert same(cai.infer(graph(), SOLVER, callbacks=[recorder], resume=tmp_path / "file"), whole)
    assert [what[0] for what in recorder.told] == ["start", "end"]


def test_checkpoint_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Any] = []
    monkeypatch.setattr(checkpoint_module.serialization, "save", lambda *content: writes.append(content))
    recorder = Recorder()
    cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(tmp_path / "file", interval=0.0), recorder])
    assert len(writes) == len(recorder.told) - 2
    writes.clear()
    cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(tmp_path / "file", interval=1e6)])
    assert len(writes) == 1


def test_finite_horizon_with_checkpoint(tmp_path: Path) -> None:
    finite, file = graph(horizon=6), tmp_path / "file"
    whole = cai.infer(finite, cai.SumProduct(), callbacks=[cai.Checkpoint(file)])
    resumed = cai.infer(finite, cai.SumProduct(), resume=file)
    assert torch.equal(resumed.log_evidence, whole.log_evidence)
    assert torch.equal(resumed.state_marginals, whole.state_marginals)


def test_resume_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="no file"):
        cai.infer(graph(), SOLVER, resume=file)
    posterior = cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(file)])
    with pytest.raises(ValueError, match="another method"):
        cai.infer(graph(), cai.SoftPolicyIteration(), resume=file)
    with pytest.raises(ValueError, match="another method or other settings"):
        cai.infer(graph(), cai.SoftValueIteration(solver=cai.methods.ValueIteration(), tolerance=1e-3), resume=file)
    with pytest.raises(ValueError, match="another graph"):
        cai.infer(graph(num_states=4), SOLVER, resume=file)
    posterior.save(file)
    with pytest.raises(cai.CorruptFile, match="holds a posterior, not a checkpoint"):
        cai.infer(graph(), SOLVER, resume=file)
    file.write_bytes(b"junk")
    with pytest.raises(cai.CorruptFile):
        cai.infer(graph(), SOLVER, resume=file)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"reward": F.TabularReward(np.full((5, 2), 7.0))},
        {"temperature": 9.0},
        {"discount": 0.5},
        {"action_prior": F.FlatPrior()},
        {"dynamics": F.TabularDynamics(np.full((5, 2, 5), 0.2))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_resume_on_another_graph_is_refused(finished: bool, change: dict, tmp_path: Path) -> None:
    stop = [] if finished else [Recorder(KeyboardInterrupt(), 2)]
    with contextlib.suppress(KeyboardInterrupt):
        cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(tmp_path / "file"), *stop])
    with pytest.raises(ValueError, match="resume: .*graph"):
        cai.infer(graph().replace(**change), SOLVER, resume=tmp_path / "file")


def test_a_folder_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(FileNotFoundError, match="missing"):
        cai.infer(graph(), SOLVER, callbacks=[cai.Checkpoint(tmp_path / "missing" / "file"), recorder])
    assert [what for what in recorder.told if what[0] == "step"] == []


def test_evaluations_of_other_policies_do_not_share_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "file"
    half, lazy = np.full((5, 2), 0.5), np.tile([0.9, 0.1], (5, 1))
    first = cai.infer(graph(), cai.PolicyEvaluation(F.TabularPolicy(half)), callbacks=[cai.Checkpoint(file)])
    again = cai.infer(graph(), cai.PolicyEvaluation(F.TabularPolicy(half.copy())), resume=file)
    assert same(first, again)
    with pytest.raises(ValueError, match="another method or other settings"):
        cai.infer(graph(), cai.PolicyEvaluation(F.TabularPolicy(lazy)), resume=file)
