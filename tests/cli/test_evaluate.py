"""`cai evaluate`: the same numbers as in the library, and windows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from typer.testing import Result

import cai
from cai.inference import read_jsonl

Program = Callable[..., Result]
Refused = Callable[..., str]

QUICK = (
    *("--method", "soft-actor-critic", "--set", "body=MLPBody(hidden=(8,))", "--set", "updates_per_step=0.05"),
    *("--num-steps", "400", "--eval-every", "200", "--eval-episodes", "4", "--seed", "1", "--temperature", "1"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: `pendulum` and `lake`."""
    from typer.testing import CliRunner

    from cai.cli import app

    folder = tmp_path_factory.mktemp("runs")
    for name, problem in (("pendulum", "Pendulum-v1"), ("lake", "FrozenLake-v1")):
        done = CliRunner().invoke(app, ["train", problem, *QUICK, "--out", str(folder / name)])
        assert done.exit_code == 0, done.output
    return folder


def numbers(text: str, row: str) -> list[float]:
    line = next(line for line in text.splitlines() if row in line)
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)]


def test_it_repeats_the_evaluation_of_the_run(runs: Path, cai_program: Program) -> None:
    curve = read_jsonl(runs / "pendulum" / "metrics.jsonl").curve("evaluation_return")
    for which, index in (("best", int(curve.values.argmax())), ("last", -1)):
        result = cai_program("evaluate", runs / "pendulum", "--episodes", "4", "--which", which)
        assert result.exit_code == 0, result.stderr
        mean, error = numbers(result.stdout, " return ")[:2]
        assert mean == pytest.approx(float(curve.values[index]), rel=1e-5)
        least, greatest = numbers(result.stdout, "least")
        assert least <= mean <= greatest and 0.0 < error < greatest - least
        assert "4, of 200 actions" in result.stdout


def test_it_is_what_gymnasium_pays(runs: Path, cai_program: Program) -> None:
    """Against a plain loop over a plain environment."""
    graph = cai.from_gym("Pendulum-v1", horizon=200, discount=0.99)
    posterior = cai.load(runs / "pendulum" / "best.safetensors", graph=graph)
    env, returns = gymnasium.make("Pendulum-v1"), []
    for seed in (7, 8, 9):
        state, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            policy = posterior.policy(state)
            state, reward, terminated, truncated, _ = env.step(policy.median.numpy())  # type: ignore[attr-defined]
            total, over = total + reward, terminated or truncated
        returns.append(total)
    result = cai_program("evaluate", runs / "pendulum", "--episodes", "3", "--seed", "7")
    assert numbers(result.stdout, " return ")[0] == pytest.approx(np.mean(returns), rel=1e-4)
    assert numbers(result.stdout, "least") == pytest.approx([min(returns), max(returns)], rel=1e-4)


def test_actions_are_drawn_on_request(runs: Path, cai_program: Program) -> None:
    first, second, sure = (
        cai_program("evaluate", runs / "pendulum", "--episodes", "3", *more).stdout
        for more in (["--sample"], ["--sample"], [])
    )
    assert first == second != sure


def test_the_best_is_taken_where_there_is_one(runs: Path, cai_program: Program, tmp_path: Path) -> None:
    assert "from best.safetensors" in cai_program("evaluate", runs / "lake", "--episodes", "2").stdout
    for name in ("config.json", "posterior.safetensors"):
        (tmp_path / name).write_bytes((runs / "lake" / name).read_bytes())
    assert "from posterior.safetensors" in cai_program("evaluate", tmp_path, "--episodes", "2").stdout


def test_episodes_are_shown_in_a_window(runs: Path, cai_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    frames: list[int] = []
    monkeypatch.setattr(
        gymnasium.envs.toy_text.FrozenLakeEnv, "_render_gui", lambda env, mode: frames.append(mode == "human")
    )
    plain = cai_program("evaluate", runs / "lake", "--episodes", "3")
    assert plain.exit_code == 0 and frames == []
    result = cai_program("evaluate", runs / "lake", "--episodes", "3", "--render")
    assert result.exit_code == 0, result.stderr
    assert len(frames) > 3 and all(frames)
    assert numbers(result.stdout, "episodes")[0] == 3


def test_what_cannot_be_shown(runs: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def screenless(env: object) -> None:
        raise RuntimeError("No available video device")

    monkeypatch.setattr(gymnasium.envs.classic_control.PendulumEnv, "render", screenless)
    message = refused("evaluate", runs / "pendulum", "--episodes", "1", "--render")
    assert "cannot show Pendulum-v1: RuntimeError: No available video device" in message
    monkeypatch.setitem(gymnasium.envs.classic_control.PendulumEnv.metadata, "render_modes", ["rgb_array"])
    message = refused("evaluate", runs / "pendulum", "--episodes", "1", "--render")
    assert "Pendulum-v1 has no window; its render modes are rgb_array" in message


def test_evaluate_refuses(runs: Path, refused: Refused, tmp_path: Path) -> None:
    assert "no training run is here (no config.json)" in refused("evaluate", tmp_path)
    assert "no training run is here" in refused("evaluate", tmp_path / "missing")
    (tmp_path / "config.json").write_bytes((runs / "lake" / "config.json").read_bytes())
    assert "no best.safetensors or posterior.safetensors is here yet" in refused("evaluate", tmp_path)
    assert "no best.safetensors is here yet" in refused("evaluate", tmp_path, "--which", "best")
    (tmp_path / "best.safetensors").write_bytes(b"junk")
    assert "truncated or not a file of this library" in refused("evaluate", tmp_path)
    assert "--episodes" in refused("evaluate", runs / "lake", "--episodes", "0")
    config = json.loads((runs / "lake" / "config.json").read_text()) | {"problem": "two_state"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "best.safetensors").write_bytes((runs / "lake" / "best.safetensors").read_bytes())
    assert "two_state is a model, which nothing draws" in refused("evaluate", tmp_path, "--render")
