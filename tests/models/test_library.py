"""What every model of the library promises."""

from __future__ import annotations

import importlib.util
import inspect
import math
from pathlib import Path

import pytest

import cai

TABLES = ["frozen_lake", "gridworld", "inventory", "random_walk", "risky_branch", "two_state"]
LINEAR = ["double_integrator", "golden_ratio", "linear_quadratic"]
SMOOTH = ["cart_pole", "pendulum", "quadrotor", "unicycle"]
SAMPLED = ["multi_goal"]
NAMES = [*TABLES, *LINEAR, *SMOOTH, *SAMPLED]
MODELS = Path(__file__).parents[2] / "models"


def test_all_are_listed_with_a_summary() -> None:
    listed = cai.models()
    assert set(NAMES) == set(listed) == {path.stem for path in MODELS.glob("[!_]*.py")}
    assert all(summary.endswith(".") for summary in listed.values())


@pytest.mark.parametrize("name", NAMES)
def test_found_by_name_and_by_path(name: str) -> None:
    graph = cai.load_model(name)
    assert isinstance(graph, cai.TrajectoryGraph)
    same = cai.load_model(MODELS / f"{name}.py")
    assert (same.state_space, same.action_space) == (graph.state_space, graph.action_space)


@pytest.mark.parametrize("name", NAMES)
def test_says_its_answer_its_source_and_its_options(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"documented_{name}", MODELS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "Source:" in module.__doc__
    options = inspect.signature(module.build).parameters
    assert {"horizon", "discount", "temperature"} <= set(options)
    for option in options.values():
        assert option.kind is option.KEYWORD_ONLY
        assert f"        {option.name}: " in module.build.__doc__


@pytest.mark.parametrize("name", [*TABLES, *LINEAR])
def test_defaults_can_be_asked_in_both_readings(name: str) -> None:
    graph = cai.load_model(name)
    soft, exact = (cai.infer(graph, method) for method in (cai.SoftValueIteration(), cai.SumProduct()))
    assert math.isfinite(soft.log_evidence) and math.isfinite(exact.log_evidence)
    assert soft.log_evidence <= exact.log_evidence + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="has no option 'colour'"):
        cai.load_model(name, colour="blue")
