"""What `--out` writes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest
import torch
from typer.testing import Result

import cai

Program = Callable[..., Result]

FILES = {"marginals.png", "policy.png", "posterior.safetensors", "summary.json", "value.png"}


def test_everything_is_written(cai_program: Program, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er"
    result = cai_program("solve", "FrozenLake-v1", "--out", out, "--option", "is_slippery=false", "--seed", "3")
    assert result.exit_code == 0 and result.stderr == ""
    assert {path.name for path in out.iterdir()} == FILES
    assert all(name in result.stdout for name in FILES)
    graph = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01, is_slippery=False)
    posterior = cai.infer(graph, cai.SoftValueIteration())
    loaded = cai.load(out / "posterior.safetensors")
    states = torch.arange(16)
    assert torch.equal(loaded.v(states), posterior.v(states))
    summary = json.loads((out / "summary.json").read_text())
    expected = {
        "cai_version": cai.__version__,
        "problem": "FrozenLake-v1",
        "options": ["is_slippery=false"],
        "method": "soft-value-iteration",
        "prior": None,
        "seed": 3,
        "num_states": 16,
        "num_actions": 4,
        "horizon": 100,
        "discount": 1.0,
        "temperature": 0.01,
        "log_evidence_nats": float(posterior.log_evidence),
        "is_bound": True,
        "expected_return": float(posterior.expected_return),
        "entropy_nats": float(posterior.entropy),
    }
    assert {key: summary[key] for key in expected} == expected
    assert set(summary["files"]) == FILES
    assert summary["stats"]["converged"] is True and summary["stats"]["num_steps"] == 100
    for name in FILES:
        if name.endswith(".png"):
            assert matplotlib.image.imread(out / name).std() > 0.01


@pytest.mark.parametrize(
    "args",
    [
        ["inventory", "--method", "sum-product"],
        ["random_walk", "--infinite"],
        ["gridworld", "--method", "max-product", "--horizon", "12"],
        ["two_state", "--infinite", "--discount", "0.9"],
        ["two_state", "--infinite", "--discount", "1"],
    ],
)
def test_other_worlds(cai_program: Program, tmp_path: Path, args: list[str]) -> None:
    result = cai_program("solve", *args, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_missing_numbers_are_null(cai_program: Program, tmp_path: Path) -> None:
    cai_program("solve", "two_state", "--temperature", "0", "--out", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["log_evidence_nats"] is None and summary["is_bound"] is False
    assert summary["expected_return"] is not None and summary["gain"] is None
    cai_program("solve", "two_state", "--infinite", "--out", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gain"] == float(cai.load(tmp_path / "posterior.safetensors").gain)
    assert summary["log_evidence_nats"] is summary["expected_return"] is summary["entropy_nats"] is None


def test_old_files_are_replaced_and_others_left(cai_program: Program, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for horizon in (3, 4):
        assert cai_program("solve", "two_state", "--horizon", horizon, "--out", tmp_path).exit_code == 0
        assert json.loads((tmp_path / "summary.json").read_text())["horizon"] == horizon
        assert cai.load(tmp_path / "posterior.safetensors").graph.horizon == horizon
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_the_summary_is_readable_for_whom_the_umask_says(cai_program: Program, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        cai_program("solve", "two_state", "--out", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "summary.json").stat().st_mode) == 0o644


def test_without_matplotlib_there_are_no_pictures(
    cai_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.cli.output.find_spec", lambda name: None)
    result = cai_program("solve", "two_state", "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stderr == "cai: no pictures without matplotlib: pip install cai[plots]\n"
    assert {path.name for path in tmp_path.iterdir()} == {"posterior.safetensors", "summary.json"}


def test_a_full_disk_is_one_line(
    refused: Callable[..., str], cai_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cai.Posterior, "save", full)
    result = cai_program("solve", "two_state", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"cai: --out {tmp_path}: writing failed (No space left on device)\n"
