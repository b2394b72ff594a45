"""Checkpoints of runs that learn: written when it is time, whole whatever kills the writer, and gone on from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cai
from tests.inference.rehearsal import Rehearsal, StageMemory, StopAt

ROOT = Path(__file__).parents[2]
GRAPH = cai.load_model("two_state")

#: Children write a checkpoint of some megabytes after each step, and a log; each is killed at a random moment.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import cai
from cai.inference import read_jsonl
from cai.inference.callbacks import read_checkpoint
from tests.inference.rehearsal import Rehearsal

folder, graph, method = Path(sys.argv[1]), cai.load_model("two_state"), Rehearsal(10**9, interval=1, size=10**5)
checkpoint, draw = folder / "checkpoint", random.Random(0)
callbacks = [cai.JSONLLogger(folder / "log"), cai.CSVLogger(folder / "csv"), cai.Checkpoint(checkpoint, interval=0.0)]

def work():
    cai.infer(graph, method, seed=1, callbacks=callbacks, resume=checkpoint if checkpoint.exists() else None)

done = 0
for k in range(8):
    child = os.fork()
    if child == 0:
        work()
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == done):
        time.sleep(0.001)
    time.sleep(draw.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = checkpoint.stat().st_mtime_ns
    parts = read_checkpoint(checkpoint, graph, method).parts
    logged = read_jsonl(folder / "log").curve("entropy").steps.tolist()
    assert logged == list(range(1, len(logged) + 1)), logged
    assert parts["num_steps"] <= len(logged) <= parts["num_steps"] + 2, (parts["num_steps"], len(logged))
    print(parts["num_steps"], len(list(folder.glob(".checkpoint.*"))))
"""


def test_what_is_killed_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    steps, leftovers = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert len(steps) == 8 and list(steps) == sorted(steps) and steps[-1] >= 8
    assert max(leftovers) <= 1  # each start removes those of before
    method = Rehearsal(steps[-1] + 3, interval=1, size=10**5)
    resumed = cai.infer(
        GRAPH, method, callbacks=[cai.Checkpoint(tmp_path / "checkpoint")], resume=tmp_path / "checkpoint"
    )
    whole = cai.infer(GRAPH, method, seed=1)
    assert torch.equal(resumed.learner.logits, whole.learner.logits)
    assert [row["entropy"] for row in resumed.history.rows] == [row["entropy"] for row in whole.history.rows]
    assert list(tmp_path.glob(".checkpoint.*")) == []


def test_what_was_learned_is_copied_only_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    pack = StageMemory.pack

    def counted(memory: StageMemory) -> dict[str, Any]:
        packed.append(1)
        return pack(memory)

    monkeypatch.setitem(cai.data.serialization._CODECS, "StageMemory", (counted, StageMemory.unpack))
    cai.infer(GRAPH, Rehearsal(2000), callbacks=[cai.Checkpoint(tmp_path / "c", interval=1e6)])
    assert len(packed) == 1
    cai.infer(GRAPH, Rehearsal(2000), callbacks=[cai.Checkpoint(tmp_path / "c", interval=0.0)])
    assert len(packed) == 21


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = cai.infer(GRAPH, Rehearsal(1000), seed=4)
    cai.infer(GRAPH, Rehearsal(600), seed=4, callbacks=[cai.Checkpoint(tmp_path / "c")])
    resumed = cai.infer(GRAPH, Rehearsal(1000), callbacks=[cai.Checkpoint(tmp_path / "c")], resume=tmp_path / "c")
    assert torch.equal(resumed.learner.logits, whole.learner.logits)
    assert resumed.history.rows == whole.history.rows


@pytest.mark.parametrize("error", [KeyboardInterrupt(), cai.StopInference("enough")], ids=["Ctrl-C", "stop"])
def test_what_ends_a_run_early_is_written(error: BaseException, tmp_path: Path) -> None:
    posterior = cai.infer(GRAPH, Rehearsal(1000), callbacks=[cai.Checkpoint(tmp_path / "c"), StopAt(300, error)])
    again = cai.infer(GRAPH, Rehearsal(300), resume=tmp_path / "c")
    assert torch.equal(again.learner.logits, posterior.learner.logits)


def test_what_an_error_ends_is_written(tmp_path: Path) -> None:
    with pytest.raises(cai.NonFinite):
        cai.infer(GRAPH, Rehearsal(1000, error_at=400), callbacks=[cai.Checkpoint(tmp_path / "c")])
    assert cai.infer(GRAPH, Rehearsal(100, error_at=400), resume=tmp_path / "c").stats.num_steps == 400


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / f".c[1].{'a1' * 16}"
    others = [
        tmp_path / name for name in (f".cx.{'a1' * 16}", f".c1.{'a1' * 16}", ".c[1].backup", "c[1]", f"c.{'a1' * 16}")
    ]
    for file in (mine, *others):
        file.touch()
    cai.infer(GRAPH, Rehearsal(100), callbacks=[cai.Checkpoint(tmp_path / "c[1]")])
    assert not mine.exists() and all(file.exists() for file in others)


def test_the_end_is_written_before_anything_is_closed(tmp_path: Path) -> None:
    class Closing(Rehearsal):
        def close(self, state: Any) -> None:
            state.learner.logits = torch.full_like(state.learner.logits, torch.nan)

    cai.infer(GRAPH, Closing(300), callbacks=[cai.Checkpoint(tmp_path / "c", interval=1e6)])
    resumed = cai.infer(GRAPH, Closing(400), callbacks=[last := Last()], resume=tmp_path / "c")
    assert resumed.stats.num_steps == 400 and torch.isfinite(last.logits).all()


class Last(cai.AbstractCallback):
    """Keeps the table of the last step."""

    def on_step(self, progress: Any) -> None:
        self.logits = progress.posterior().learner.logits.clone()
