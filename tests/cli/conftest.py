"""Running the program, in this process and in one of its own."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cai.cli import app

MODEL = """
'''{summary}'''
import torch
import cai

def build(**options):
    {body}
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=torch.tensor([1.0, 0.0])),
        dynamics=cai.factors.TabularDynamics(torch.tensor([[[0.5, 0.5]] * 3, [[0.0, 1.0]] * 3])),
        reward=cai.factors.TabularReward(torch.tensor([0.0, 1.0])),
        **options,
    )
"""


@pytest.fixture
def cai_program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the program in this process, on a terminal 100 characters wide."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    # Older versions mix the two streams unless told not to.
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return lambda *args: CliRunner(**separate).invoke(app, [str(arg) for arg in args])


@pytest.fixture
def refused(cai_program: Callable[..., Result]) -> Callable[..., str]:
    """Runs the program on bad input; gives its one line."""

    def run(*args: object) -> str:
        result = cai_program(*args)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("cai: ")
        assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
        return result.stderr

    return run


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of two states and three actions; `body` runs when it is built."""

    def write(body: str = "pass", summary: str = "Two states.") -> Path:
        path = tmp_path / "my_model.py"
        path.write_text(MODEL.format(body=body, summary=summary))
        return path

    return write


@pytest.fixture
def own_process() -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m cai` in a process of its own."""

    def run(*args: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "cai", *[str(arg) for arg in args]]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run
