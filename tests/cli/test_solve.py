"""What `cai solve` prints is what the library answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import cai

Program = Callable[..., Result]

METHODS = {
    "soft-value-iteration": cai.SoftValueIteration,
    "soft-policy-iteration": cai.SoftPolicyIteration,
    "sum-product": cai.SumProduct,
    "max-product": cai.MaxProduct,
}


def row(text: str, name: str) -> str:
    """The text of one row of the summary table."""
    (found,) = re.findall(rf"^│ {name} +│ (.*?) +│$", text, flags=re.MULTILINE)
    return found


def number(text: str, name: str) -> float:
    """The first number in a row of the summary table that stands by itself."""
    return float(re.search(r"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?(?![\w)])", row(text, name)).group())  # type: ignore[union-attr]


def test_frozen_lake_by_default(cai_program: Program) -> None:
    result = cai_program("solve", "FrozenLake-v1")
    assert result.exit_code == 0 and result.stderr == ""
    graph = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01)
    soft = cai.infer(graph, cai.SoftValueIteration())
    assert row(result.stdout, "world") == "16 states, 4 actions, horizon 100"
    assert row(result.stdout, "question") == "temperature 0.01, discount 1, uniform prior"
    assert row(result.stdout, "log evidence") == f"log p(O) >= {float(soft.log_evidence):.6g} nats (lower bound)"
    assert number(result.stdout, "expected return") == pytest.approx(float(soft.expected_return), rel=1e-5)
    assert number(result.stdout, "policy entropy") == pytest.approx(float(soft.entropy), rel=1e-5)
    assert row(result.stdout, "residual").endswith("reward units")
    assert number(result.stdout, "certified error") == pytest.approx(soft.stats.certified_error, rel=0.1)
    assert re.fullmatch(r"[\d.e-]+ s", row(result.stdout, "time"))


def test_frozen_lake_at_temperature_zero_reaches_the_known_success_rate(cai_program: Program) -> None:
    result = cai_program("solve", "FrozenLake-v1", "--temperature", "0")
    assert number(result.stdout, "expected return") == pytest.approx(0.7441902878292697, rel=1e-5)
    assert row(result.stdout, "log evidence").startswith("unavailable: ")


def test_maps_of_the_frozen_lake(cai_program: Program) -> None:
    lines = cai_program("solve", "FrozenLake-v1", "--temperature", "0.01").stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("value v(s), t = 0"))
    assert "policy, t = 0" in lines[start]
    cells = [re.split(r" {2,}(?=\S)", line.strip()) for line in lines[start + 1 : start + 5]]
    soft = cai.infer(cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01), cai.SoftValueIteration())
    bottom = [f"{float(soft.v(state)):.3f}" for state in (13, 14)]
    assert cells[3][:4] == ["H", *bottom, "G"]
    assert cells[3][4:8] == ["H", "→", "↓", "G"]
    ends = float(soft.state_marginals[100, 15])
    assert f"G {100 * ends:.1f}" in "\n".join(lines)


@pytest.mark.parametrize("name", METHODS)
def test_methods(cai_program: Program, name: str) -> None:
    changes = ["--horizon", "30"] if name == "max-product" else ["--infinite", "--discount", "0.9"]
    result = cai_program("solve", "gridworld", "--method", name, "--temperature", "5", *changes)
    assert result.exit_code == 0, result.stderr
    horizon, discount = (30, 1.0) if name == "max-product" else (None, 0.9)
    graph = cai.load_model("gridworld").replace(horizon=horizon, discount=discount, temperature=5.0)
    posterior = cai.infer(graph, METHODS[name]())
    assert row(result.stdout, "method").startswith(type(posterior.method).__name__)
    assert number(result.stdout, "log evidence") == pytest.approx(float(posterior.log_evidence), rel=1e-5)
    sign = ">=" if posterior.is_bound else "="
    assert f"log p(O) {sign} " in row(result.stdout, "log evidence")
    assert ("(lower bound)" in result.stdout) == posterior.is_bound


@pytest.mark.parametrize("name", ["soft-value-iteration", "sum-product"])
def test_the_gain_stands_where_the_evidence_would(cai_program: Program, name: str) -> None:
    result = cai_program("solve", "two_state", "--infinite", "--discount", "1", "--method", name)
    assert result.exit_code == 0, result.stderr
    posterior = cai.infer(cai.load_model("two_state", horizon=None), METHODS[name]())
    assert row(result.stdout, "gain") == f"{float(posterior.gain):.6g} reward units a step"
    assert "log evidence" not in result.stdout and "expected return" not in result.stdout
    assert "relative value v(s)" in result.stdout and "in the long run" in result.stdout


def test_most_probable_path(cai_program: Program) -> None:
    result = cai_program("solve", "gridworld", "--method", "max-product", "--horizon", "20")
    graph = cai.load_model("gridworld", horizon=20)
    path = cai.infer(graph, cai.MaxProduct()).most_probable_trajectory
    length = int(path.lengths[0])
    states = " ".join(str(int(state)) for state in path.states[0, : length + 1])
    assert row(result.stdout, "most probable path") == f"states {states} ({length} actions)"


def test_step_limit_is_the_horizon(cai_program: Program) -> None:
    assert "horizon 200" in cai_program("solve", "FrozenLake8x8-v1").stdout
    assert "horizon 7" in cai_program("solve", "FrozenLake-v1", "--option", "max_episode_steps=7").stdout
    assert "horizon 9" in cai_program("solve", "FrozenLake-v1", "--horizon", "9").stdout
    assert "infinite horizon" in cai_program("solve", "FrozenLake-v1", "--infinite", "--discount", "0.9").stdout
    assert "infinite horizon" in cai_program("solve", "CliffWalking-v1").stdout


def test_options_reach_the_environment(cai_program: Program) -> None:
    dry = cai_program("solve", "FrozenLake-v1", "--option", "is_slippery=false", "--option", "map_name=8x8")
    assert number(dry.stdout, "world") == 64
    assert number(dry.stdout, "expected return") == pytest.approx(1.0, abs=1e-3)


def test_priors(cai_program: Program) -> None:
    uniform = cai_program("solve", "FrozenLake-v1", "--prior", "uniform", "--horizon", "5").stdout
    flat = cai_program("solve", "FrozenLake-v1", "--prior", "flat", "--horizon", "5").stdout
    assert row(uniform, "question").endswith("uniform prior") and row(flat, "question").endswith("flat prior")
    graph = cai.from_gym("FrozenLake-v1", horizon=5, temperature=0.01).replace(action_prior=cai.factors.FlatPrior())
    expected = float(cai.infer(graph, cai.SoftValueIteration()).log_evidence)
    assert number(flat, "log evidence") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prior", ["uniform", "flat"])
def test_priors_keep_unavailable_actions_unavailable(cai_program: Program, prior: str) -> None:
    text = cai_program("solve", "inventory", "--prior", prior).stdout
    full = next(line for line in text.splitlines() if line.startswith("│     3 │"))
    assert full.split("│")[3].split() == ["1.00", "0.00", "0.00", "0.00"]


def test_uniform_prior_of_a_model_with_its_own(cai_program: Program) -> None:
    own = cai_program("solve", "inventory").stdout
    uniform = cai_program("solve", "inventory", "--prior", "uniform").stdout
    assert row(own, "log evidence") == row(uniform, "log evidence")


def test_worlds_that_are_no_grid_have_a_table(cai_program: Program) -> None:
    lines = cai_program("solve", "inventory").stdout.splitlines()
    posterior = cai.infer(cai.load_model("inventory"), cai.SoftValueIteration())
    for state in range(4):
        (cells,) = (line.split("│")[1:-1] for line in lines if line.startswith(f"│     {state} │"))
        assert float(cells[1]) == pytest.approx(float(posterior.v(state)), rel=1e-3)
        probs = [float(text) for text in cells[2].split()]
        assert probs == pytest.approx(posterior.policy(state).probs.tolist(), abs=5e-3)
        assert float(cells[3]) == pytest.approx(100 * float(posterior.state_marginals[-1, state]), abs=0.05)


def test_many_states_are_cut_to_the_most_visited(cai_program: Program) -> None:
    text = cai_program("solve", "Taxi-v4").stdout
    assert "the 12 most visited of 500 states" in text
    rows = [line for line in text.splitlines() if re.match(r"│ +\d+ │", line)]
    assert len(rows) == 12
    assert "terminal" in text


def test_model_file(cai_program: Program, model_file: Callable[..., Path]) -> None:
    result = cai_program("solve", model_file(), "--option", "horizon=3", "--option", "temperature=2.0")
    assert result.exit_code == 0, result.stderr
    assert row(result.stdout, "world") == "2 states, 3 actions, horizon 3"
    assert row(result.stdout, "question") == "temperature 2, discount 1, uniform prior"


def test_command_line_wins_over_the_model(cai_program: Program, model_file: Callable[..., Path]) -> None:
    args = ("--option", "horizon=3", "--horizon", "4", "--temperature", "3", "--discount", "0.5")
    result = cai_program("solve", model_file(), *args)
    assert row(result.stdout, "world").endswith("horizon 4")
    assert row(result.stdout, "question").startswith("temperature 3, discount 0.5")


def test_warnings_are_one_line(cai_program: Program, model_file: Callable[..., Path]) -> None:
    path = model_file("import warnings; warnings.warn('look\\nout')")
    result = cai_program("solve", path, "--option", "horizon=1")
    assert result.exit_code == 0
    assert result.stderr == "cai: warning: look out\n"


def test_narrow_terminals_stack_the_maps(cai_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = cai_program("solve", "FrozenLake-v1").stdout.splitlines()
    assert max(len(line) for line in lines) <= 40
    titles = [line for line in lines if line.startswith(("value v(s)", "policy"))]
    assert "value v(s), t = 0" in titles and "policy, t = 0" in titles


def test_terminals_too_narrow_for_a_grid_say_so(cai_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = cai_program("solve", "gridworld", "--option", "size=70")
    assert result.exit_code == 0
    assert "70 x 70 cells are too many" in result.stdout


def test_models_are_listed_with_their_summaries(cai_program: Program) -> None:
    result = cai_program("models")
    assert result.exit_code == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    for name, summary in cai.models().items():
        assert f"{name} {summary}" in text
