"""Model files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cai

GOOD = '''
"""A single state."""
from dataclasses import dataclass
import cai

@dataclass
class Size:
    n: int

def build(num_actions: int = 2) -> cai.TrajectoryGraph:
    dynamics = cai.factors.TabularDynamics([[[1.0]] * Size(num_actions).n])
    return cai.TrajectoryGraph(cai.factors.Delta(0), dynamics, cai.factors.TabularReward([0.0]), horizon=3)
'''


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_the_users_own(kind: Any, tmp_path: Path) -> None:
    graph = cai.load_model(kind(written(tmp_path, GOOD)), num_actions=3)
    assert graph.action_space.n == 3


def test_a_file_beside_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert cai.load_model("mine.py").horizon == 3


BAD = {
    "no build": ("x = 1", {}, ValueError, r"model 'mine': .* has no function build"),
    "build is no function": ("build = 3", {}, ValueError, "has no function build"),
    "syntax": ("def build(:", {}, ValueError, "running .* failed: SyntaxError"),
    "error": ("import nowhere_to_be_found", {}, ValueError, "failed: ModuleNotFoundError"),
    "option": (GOOD, {"size": 3}, ValueError, "model 'mine' has no option 'size'; its options are num_actions"),
    "required": ("def build(size): return size", {}, ValueError, "model 'mine'.*size"),
    "result": ("def build(): return 7", {}, ValueError, "build returned int, not a TrajectoryGraph"),
}


@pytest.mark.parametrize("text, options, error, message", BAD.values(), ids=BAD)
def test_files_that_are_no_models(text: str, options: dict, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        cai.load_model(written(tmp_path, text), **options)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model 'nope'; the models are .*gridworld"):
        cai.load_model("nope")
    for name in ("nope.py", tmp_path / "nope.py", f"{tmp_path}/nope"):
        with pytest.raises(FileNotFoundError, match="no model file"):
            cai.load_model(name)
