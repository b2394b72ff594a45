"""Bad input: one line, exit code 2, never a traceback, and nothing done before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["FrozenLak-v1"], "did you mean FrozenLake-v1"),
        (["gridwrld"], "did you mean gridworld?"),
        (["frozenlake"], "frozen_lake"),
        (["qqqqqq"], "`cai models` lists the models"),
        (["two words"], "no environment, model or model file 'two words'"),
        ([""], "no environment, model or model file ''"),
        (["nobody:Nothing-v0"], "no environment"),
        (["FrozenLake-v99"], "FrozenLake"),
        (["Taxi-v3"], "Taxi-v4"),
        (["CartPole-v1"], "tables"),
        (["FrozenLake-v1", "--temperature", "-1"], "--temperature must be a finite number of at least 0, got -1"),
        (["FrozenLake-v1", "--temperature", "nan"], "--temperature"),
        (["FrozenLake-v1", "--temperature", "inf"], "--temperature"),
        (["FrozenLake-v1", "--temperature", "warm"], "'--temperature'"),
        (["FrozenLake-v1", "--discount", "1.01"], "--discount must be in [0, 1], got 1.01"),
        (["FrozenLake-v1", "--discount", "-0.1"], "--discount must be in [0, 1]"),
        (["FrozenLake-v1", "--discount", "nan"], "--discount must be in [0, 1]"),
        (["FrozenLake-v1", "--horizon", "0"], "--horizon must be at least 1, got 0"),
        (["FrozenLake-v1", "--horizon", "many"], "'--horizon'"),
        (["FrozenLake-v1", "--horizon", "9", "--infinite"], "exclude each other"),
        (["FrozenLake-v1", "--horizon", "100000000000"], "GB"),
        (["FrozenLake-v1", "--method", "guess"], "soft-value-iteration"),
        (["FrozenLake-v1", "--prior", "odd"], "uniform"),
        (["FrozenLake-v1", "--seed", "x"], "'--seed'"),
        (["FrozenLake-v1", "--no-such"], "--no-such"),
        (["FrozenLake-v1", "extra"], "extra"),
        ([], "ENV_OR_MODEL"),
        (["FrozenLake-v1", "--method", "sum-product", "--temperature", "0"], "temperature"),
        (["FrozenLake-v1", "--method", "max-product", "--infinite"], "horizon"),
        (["CliffWalking-v1", "--prior", "flat", "--temperature", "1"], "does not exist"),
        (["FrozenLake-v1", "--option", "is_slippry=false"], "did you mean is_slippery?"),
        (["FrozenLake-v1", "--option", "zzz=1"], "its options are"),
        (["FrozenLake-v1", "--option", "map_name=9x9"], "cannot make 'FrozenLake-v1': KeyError"),
        (["FrozenLake-v1", "--option", "is_slippery"], "key=value"),
        (["FrozenLake-v1", "--option", "=1"], "key=value"),
        (["FrozenLake-v1", "--option", "map_name=4x4", "--option", "map_name=8x8"], "given twice"),
        (["gridworld", "--option", "sze=4"], "no option 'sze'"),
        (["gridworld", "--option", "size=-3"], "size"),
        (["gridworld", "--option", "size=wide"], "cannot be built: TypeError"),
    ],
)
def test_solve_refuses(refused: Refused, args: list[str], message: str) -> None:
    assert message in refused("solve", *args)


def test_unknown_command(refused: Refused) -> None:
    assert "No such command 'slove'" in refused("slove")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no function build"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def build(:", "SyntaxError"),
        ("def build(**options): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def build(**options): return 3", "build returned int, not a TrajectoryGraph"),
        ("def build(**options): raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def build(size=3): return None", "no option 'horizon'"),
    ],
)
def test_broken_model_files(refused: Refused, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert message in refused("solve", path, "--option", "horizon=3")


def test_missing_model_file(refused: Refused, tmp_path: Path) -> None:
    assert "no model file" in refused("solve", tmp_path / "missing.py")


def test_paths_that_are_no_model_files(refused: Refused, tmp_path: Path) -> None:
    assert "is not a model file" in refused("solve", tmp_path)


def test_availability_that_changes_with_time_keeps_its_prior(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text(
        "import torch, cai\n"
        "def build():\n"
        "    prior = cai.factors.TabularPolicy.per_step(torch.eye(2, dtype=torch.float64)[:, None])\n"
        "    return cai.TrajectoryGraph(cai.factors.Categorical(probs=torch.ones(1)),\n"
        "        cai.factors.TabularDynamics(torch.ones(1, 2, 1)), cai.factors.TabularReward(torch.zeros(1)),\n"
        "        horizon=2, action_prior=prior)\n"
    )
    assert "change with time" in refused("solve", path, "--prior", "flat")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_out_must_be_a_directory(refused: Refused, tmp_path: Path, model_file: Callable[..., Path], place: str) -> None:
    (tmp_path / "file").write_text("mine")
    built = tmp_path / "built"
    path = model_file(f"open({str(built)!r}, 'w').close()")
    message = refused("solve", path, "--option", "horizon=2", "--out", tmp_path / place)
    assert "cannot write there" in message
    assert not built.exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_out_must_be_writable(refused: Refused, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "cannot write there" in refused("solve", "two_state", "--out", tmp_path)


def test_failed_work_leaves_no_new_directory(refused: Refused, tmp_path: Path) -> None:
    refused("solve", "FrozenLake-v1", "--method", "max-product", "--infinite", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    refused("solve", "FrozenLake-v1", "--method", "max-product", "--infinite", "--out", tmp_path)
    assert tmp_path.exists()


def test_bugs_are_not_hidden(cai_program: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(posterior: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("cai.cli.reports.read_answer", broken)
    result = cai_program("solve", "two_state")
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("error", [MemoryError("too much"), RuntimeError("can't allocate memory: you tried")])
def test_too_little_memory(refused: Refused, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("cai.infer", fail)
    assert "not enough memory" in refused("solve", "two_state")
