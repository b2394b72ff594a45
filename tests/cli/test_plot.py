"""`cai plot`: which runs are one curve, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from typer.testing import Result

import cai.plots
from cai.cli.curves import labels_of
from cai.cli.run_folder import Config, RunFolder

Program = Callable[..., Result]
Refused = Callable[..., str]


def write_run(path: Path, *, names: tuple[str, ...] = ("return", "evaluation_return"), **options: Any) -> Path:
    path.mkdir()
    config = Config(**{"problem": "Pendulum-v1", "method": "soft-actor-critic", **options})
    RunFolder(path).write_config(config, {})
    rows = [{"num_steps": 100 * k} | dict.fromkeys(names, -1000.0 / k - config.seed) for k in range(1, 20)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the picture was asked for."""
    asked: dict[str, Any] = {}
    draw = cai.plots.learning_curves

    def spy(runs: Any, **options: Any) -> Any:
        asked.update(options, runs=runs)
        return draw(runs, **options)

    monkeypatch.setattr(cai.plots, "learning_curves", spy)
    return asked


def test_seeds_are_one_curve(tmp_path: Path, cai_program: Program, drawn: dict[str, Any]) -> None:
    folders = [write_run(tmp_path / f"{seed}", seed=seed) for seed in range(3)]
    folders.append(write_run(tmp_path / "other", method="soft-q-learning"))
    result = cai_program("plot", *folders, "--out", tmp_path / "curves.png")
    assert result.exit_code == 0 and result.stderr == ""
    assert f"wrote {tmp_path / 'curves.png'}: evaluation_return of 4 runs" in result.stdout
    assert matplotlib.image.imread(tmp_path / "curves.png").std() > 0.01
    assert drawn["metric"] == "evaluation_return"
    assert drawn["labels"] == [*["soft-actor-critic"] * 3, "soft-q-learning"]


def test_the_picture_stands_here_by_default(
    tmp_path: Path, cai_program: Program, monkeypatch: pytest.MonkeyPatch, drawn: dict[str, Any]
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run"))
    assert cai_program("plot", ".", "--metric", "return").exit_code == 0
    assert (tmp_path / "run" / "learning_curves.png").exists() and drawn["metric"] == "return"


def test_the_return_stands_in_for_evaluations(tmp_path: Path, cai_program: Program, drawn: dict[str, Any]) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", names=("return",))]
    result = cai_program("plot", *folders, "--out", tmp_path / "curves.svg")
    assert result.exit_code == 0 and drawn["metric"] == "return"
    assert result.stderr == "cai: not all runs have an evaluation_return; drawing return\n"


@pytest.mark.parametrize(
    ("configs", "labels"),
    [
        ([{}, {"seed": 1}, {"num_steps": 7, "eval_every": 3}], ["sac", "sac", "sac"]),
        ([{}, {"problem": "Hopper-v5"}], ["sac, Pendulum-v1", "sac, Hopper-v5"]),
        ([{}, {"temperature": 0.5}], ["sac", "sac, temperature 0.5"]),
        (
            [{"settings": ("a=1", "b=2")}, {"settings": ("a=1",), "num_envs": 4}],
            ["sac, a=1, b=2", "sac, a=1, num envs 4"],
        ),
    ],
)
def test_labels(configs: list[dict[str, Any]], labels: list[str]) -> None:
    made = [Config(**{"problem": "Pendulum-v1", "method": "sac", **config}) for config in configs]
    assert labels_of(made) == labels


def test_plot_refuses(tmp_path: Path, refused: Refused) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert "no training run is here (no metrics.jsonl)" in refused("plot", tmp_path / "empty")
    assert "no 'loss' was logged; there are num_steps, return" in refused("plot", run, "--metric", "loss")
    assert "there is no folder" in refused("plot", run, "--out", tmp_path / "missing" / "a.png")
    assert "xyz" in refused("plot", run, "--out", tmp_path / "a.xyz")
    assert "DIR..." in refused("plot")
    bare = write_run(tmp_path / "bare", names=("kl",))
    assert "neither evaluation_return nor return in common" in refused("plot", bare)
    (run / "metrics.jsonl").write_text("hello\n")
    assert "line 1 is no row of a log" in refused("plot", run)


def test_plot_needs_matplotlib(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.cli.curves.find_spec", lambda name: None)
    assert "pip install cai[plots]" in refused("plot", write_run(tmp_path / "run"))
