"""`cai train`: what it writes, how a run goes on, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

import cai
from cai.cli.run_folder import Config
from cai.inference import read_jsonl

Program = Callable[..., Result]
Refused = Callable[..., str]

FILES = {"best.safetensors", "checkpoint.safetensors", "config.json", "metrics.jsonl", "posterior.safetensors"}
#: A run of a second or so.
QUICK = (
    *("--method", "soft-q-learning", "--temperature", "0.1", "--set", "learning_starts=20", "--set", "batch_size=8"),
    *("--eval-every", "200", "--eval-episodes", "3"),
)
#: An actor and critics of a few numbers.
SMALL = ("--method", "soft-actor-critic", "--set", "body=MLPBody(hidden=(4,))", "--set", "updates_per_step=0.1")


@pytest.fixture
def trained(cai_program: Program, tmp_path: Path) -> Callable[..., Result]:
    """Trains on the frozen lake, into the folder `run`."""

    def run(*args: object, num_steps: int = 400) -> Result:
        return cai_program("train", "FrozenLake-v1", *QUICK, "--num-steps", num_steps, "--out", tmp_path / "run", *args)

    return run


def graph() -> cai.TrajectoryGraph:
    return cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.1, discount=0.99)


def logits(file: Path) -> torch.Tensor:
    return cai.load(file, graph=graph()).policy(torch.arange(16)).logits  # type: ignore[attr-defined]


def steps(folder: Path) -> list[int]:
    return read_jsonl(folder / "metrics.jsonl").curve("num_updates").steps.tolist()


# -- a run ------------------------------------------------------------------------------------------------------------


def test_everything_is_written(trained: Program, tmp_path: Path) -> None:
    result = trained("--seed", "3")
    assert result.exit_code == 0 and result.stderr == ""
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(name in result.stdout for name in FILES)
    for part in ("400 of 400 steps", "temperature 0.1, discount 0.99", "3 episodes", "steps a second"):
        assert part in result.stdout, part
    assert steps(folder) == [100, 200, 300, 400]
    history = read_jsonl(folder / "metrics.jsonl")
    assert history.curve("evaluation_return").steps.tolist() == [200, 400]
    posterior = cai.load(folder / "posterior.safetensors", graph=graph())
    assert posterior.stats.num_steps == 400 and posterior.history.rows[0]["num_steps"] == 100
    best = cai.load(folder / "best.safetensors", graph=graph())
    evaluations = history.curve("evaluation_return")
    assert best.stats.num_steps == int(evaluations.steps[evaluations.values.argmax()])


def test_config_repeats_the_run(trained: Program, cai_program: Program, tmp_path: Path) -> None:
    trained("--seed", "5", "--prior", "flat", "--option", "is_slippery=false")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["versions"]["cai"] == cai.__version__ and config["versions"]["torch"] == torch.__version__
    assert config["used"] | {"method": None} == {"method": None, "discount": 0.99, "temperature": 0.1, "horizon": 100}
    assert "batch_size=8" in config["used"]["method"]
    words = shlex.split(config["command"])
    assert words[0] == "cai" and words[-2:] == ["--out", str(tmp_path / "run")]
    again = cai_program(*words[1:-1], tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    one, other = (logits(tmp_path / name / "posterior.safetensors") for name in ("run", "again"))
    assert torch.equal(one, other)


def test_the_same_seed_gives_what_the_library_gives(trained: Program, tmp_path: Path) -> None:
    trained("--seed", "7")
    method = cai.SoftQLearning(num_steps=400, learning_starts=20, batch_size=8)
    posterior = cai.infer(graph(), method, seed=7)
    assert torch.equal(logits(tmp_path / "run" / "posterior.safetensors"), posterior.policy(torch.arange(16)).logits)


def test_models_and_copies(cai_program: Program, tmp_path: Path) -> None:
    result = cai_program(
        *(
            "train",
            "two_state",
            "--method",
            "soft-actor-critic",
            "--num-steps",
            200,
            "--discount",
            0.9,
            "--num-envs",
            4,
        ),
        *("--set", "body=MLPBody(hidden=(4,))", "--set", "batch_size=4", "--out", tmp_path),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "config.json").read_text())["num_envs"] == 4


def test_a_run_stops_at_a_return_or_a_time(trained: Program, tmp_path: Path) -> None:
    result = trained("--stop-at", "-1")
    assert result.exit_code == 0 and "200 of 400 steps" in result.stdout
    assert "evaluation_return reached -1, at step 200" in result.stdout
    result = trained("--resume", "--stop-at", "2", "--time-limit", "0.0001", num_steps=100_000)
    assert result.exit_code == 0 and "the time limit of 0.0001 seconds is reached" in result.stdout
    assert "stopped early" in result.stderr


# -- going on ---------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_whole_one(trained: Program, cai_program: Program, tmp_path: Path) -> None:
    """On tables, bit for bit; options need not be repeated."""
    trained()
    result = cai_program("train", "--resume", "--out", tmp_path / "run", "--num-steps", "700")
    assert result.exit_code == 0, result.stderr
    assert "700 of 700 steps" in result.stdout
    cai_program("train", "FrozenLake-v1", *QUICK, "--num-steps", "700", "--out", tmp_path / "whole")
    one, other = (logits(tmp_path / name / "posterior.safetensors") for name in ("run", "whole"))
    assert torch.equal(one, other)
    assert steps(tmp_path / "run") == steps(tmp_path / "whole") == list(range(100, 800, 100))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_steps"] == 700


def test_resuming_a_finished_run_only_reports(trained: Program, tmp_path: Path) -> None:
    trained()
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.jsonl")}
    result = trained("--resume")
    assert result.exit_code == 0 and "400 of 400 steps" in result.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_resume_begins_where_there_is_nothing(trained: Program, tmp_path: Path) -> None:
    assert trained("--resume").exit_code == 0
    assert steps(tmp_path / "run") == [100, 200, 300, 400]


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(trained: Program, tmp_path: Path) -> None:
    trained()
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    assert trained("--resume").exit_code == 0
    assert steps(tmp_path / "run") == [100, 200, 300, 400]


def started(folder: Path) -> subprocess.Popen:
    words = [
        "train",
        "FrozenLake-v1",
        *QUICK,
        "--num-steps",
        "10000000",
        "--out",
        str(folder),
        "--checkpoint-every",
        "0.2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "cai", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100.0
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_control_c_saves_and_says_how_to_go_on(tmp_path: Path, own_process: Any) -> None:
    process = started(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=100)
    assert process.returncode == 130, complained
    assert f"interrupted; go on with: cai train --resume --out {tmp_path / 'run'}" in complained
    assert "Traceback" not in complained and "of 10,000,000 steps" in printed
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES - {"best.safetensors"}
    done = steps(tmp_path / "run")[-1]
    assert cai.load(tmp_path / "run" / "posterior.safetensors", graph=graph()).stats.num_steps == done
    resumed = own_process("train", "--resume", "--out", tmp_path / "run", "--num-steps", done + 100)
    assert resumed.returncode == 0, resumed.stderr
    assert steps(tmp_path / "run") == list(range(100, done + 200, 100))


def test_kill_leaves_a_run_that_goes_on(tmp_path: Path, own_process: Any) -> None:
    process = started(tmp_path / "run")
    process.kill()
    process.communicate()
    done = steps(tmp_path / "run")[-1]
    resumed = own_process("train", "--resume", "--out", tmp_path / "run", "--num-steps", done + 500)
    assert resumed.returncode == 0, resumed.stderr
    assert steps(tmp_path / "run") == list(range(100, done + 600, 100))


# -- errors -----------------------------------------------------------------------------------------------------------

BROKEN = """
import cai, gymnasium, numpy as np, torch

def build():
    def reward(state, action, t=0):
        return torch.where(state[..., 0] > 0.2, torch.nan, 1.0)
    graph = cai.load_model("pendulum", horizon=20)
    return graph.replace(discount=0.9, reward=reward)
"""


def test_numbers_that_are_not_finite_lose_nothing(cai_program: Program, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    result = cai_program("train", tmp_path / "broken.py", *SMALL, "--num-steps", "4000", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "not finite" in result.stderr and "what was learned before is in" in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert (tmp_path / "run" / "posterior.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["FrozenLake-v1", "--method", "soft-actor-critic"], "--out"),
        (["FrozenLake-v1", "--out", "run"], "give --method"),
        (["--method", "soft-actor-critic", "--out", "run"], "give ENV_OR_MODEL"),
        (["--resume", "--out", "run"], "give ENV_OR_MODEL and --method; there is no run in run to go on with"),
        (["FrozenLak-v1", *QUICK, "--out", "run"], "did you mean FrozenLake-v1"),
        (["FrozenLake-v1", "--method", "dqn", "--out", "run"], "soft-q-learning"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--num-steps", "0"], "--num-steps must be at least 1, got 0"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--num-envs", "-1"], "--num-envs must be at least 1"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--eval-episodes", "0"], "--eval-episodes must be at least 1"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--eval-every", "0"], "--eval-every must be at least 1"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--time-limit", "0"], "--time-limit must be a positive number"),
        (
            ["FrozenLake-v1", *QUICK, "--out", "run", "--checkpoint-every", "nan"],
            "--checkpoint-every must be a positive",
        ),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--discount", "2"], "--discount must be in [0, 1], got 2"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--set", "batch_siz=1"], "did you mean batch_size"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--set", "n_step=0"], "n_step must be a whole number of at least 1"),
        (["FrozenLake-v1", *QUICK, "--out", "run", "--option", "zzz=1"], "its options are"),
        (
            ["golden_ratio", *SMALL, "--out", "run", "--prior", "uniform"],
            "no uniform distribution on unbounded actions",
        ),
        (["pendulum", *QUICK, "--out", "run"], "need a head that is named, or SoftActorCritic"),
    ],
)
def test_train_refuses(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("train", *args)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten(trained: Program, refused: Refused, tmp_path: Path) -> None:
    trained()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    message = refused("train", "FrozenLake-v1", *QUICK, "--out", tmp_path / "run")
    assert "holds a run already; --resume goes on with it" in message
    for change in (["--seed", "4"], ["--set", "batch_size=9"], ["--discount", "0.5"], ["--method", "policy-gradient"]):
        message = refused("train", "--resume", "--out", tmp_path / "run", *change)
        assert f"{change[0]} {change[1]}: the run in" in message and "goes on with what it began with" in message
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_damaged_runs(trained: Program, refused: Refused, tmp_path: Path) -> None:
    trained()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"junk")
    assert "truncated or not a file of this library" in refused("train", "--resume", "--out", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    assert "config.json cannot be read" in refused("train", "--resume", "--out", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"method": "dqn"}')
    assert "config.json cannot be read" in refused("train", "--resume", "--out", tmp_path / "run")


def test_the_command_has_what_is_not_usual() -> None:
    config = Config("a b.py", "soft-q-learning", options=("x=1", "y=it's"), seed=3, stop_at=-1.5)
    words = shlex.split(config.command(Path("my run")))
    assert words == [
        *("cai", "train", "a b.py", "--method", "soft-q-learning", "--option", "x=1", "--option", "y=it's"),
        *("--seed", "3", "--stop-at", "-1.5", "--out", "my run"),
    ]
