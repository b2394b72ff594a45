"""What `cai solve` says of graphs on vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from typer.testing import Result

import cai
from tests.cli.test_solve import number, row
from tests.laws.build import numpy_of

Program = Callable[..., Result]
METHODS = {"soft-value-iteration": cai.SoftValueIteration, "sum-product": cai.SumProduct}


def cells(text: str, *start: str) -> list[str]:
    """The cells of the one table row that begins with these, without them."""
    pattern = "^│ +" + " +│ +".join(re.escape(word) for word in start) + r" +│(.*)│"
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return [cell.strip() for cell in found.split("│")]


@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_the_librarys(cai_program: Program, name: str) -> None:
    result = cai_program("solve", "linear_quadratic", "--method", name, "--option", "noise=0.5")
    assert result.exit_code == 0 and result.stderr == ""
    posterior = cai.infer(cai.load_model("linear_quadratic", noise=0.5), METHODS[name]())
    text = result.stdout
    assert row(text, "world") == "4 state and 2 action coordinates, horizon 50"
    assert row(text, "question") == "temperature 1, discount 1, flat prior"
    sign = ">= " if posterior.is_bound else "= "
    assert row(text, "log evidence").startswith(f"log p(O) {sign}{float(posterior.log_evidence):.6g} nats")
    assert number(text, "expected return") == pytest.approx(float(posterior.expected_return), rel=1e-5)
    assert number(text, "policy entropy") == pytest.approx(float(posterior.entropy), rel=1e-5)
    assert number(text, "value at the start") == pytest.approx(float(posterior.v(torch.zeros(4))), rel=1e-5)
    assert row(text, "value at the start").endswith("at x = (0, 0, 0, 0)")
    assert "certified error" not in text


@pytest.mark.parametrize("name", METHODS)
def test_gains_and_marginals(cai_program: Program, name: str) -> None:
    text = cai_program("solve", "double_integrator", "--method", name, "--option", "noise=0.5").stdout
    posterior = cai.infer(cai.load_model("double_integrator", noise=0.5), METHODS[name]())
    for t in (0, 29):
        shown = [float(cell) for cell in cells(text, str(t), "u[0]")]
        answer = posterior.policy(torch.cat([torch.eye(2), torch.zeros(1, 2)]), t=t)
        means = numpy_of(answer.mean)[:, 0]
        expected = [*(means[:2] - means[2]), means[2], float(answer.stddev[0, 0])]
        np.testing.assert_allclose(shown, expected, rtol=5e-3, atol=1e-9)
    for k in range(2):
        for cell, t in zip(cells(text, f"x[{k}]"), (0, 8, 15, 22, 30), strict=True):
            mean, deviation = (float(part) for part in cell.split("+-"))
            marginal = posterior.state_marginals[t]
            assert mean == pytest.approx(float(marginal.mean[k]), rel=5e-3, abs=1e-9)
            assert deviation == pytest.approx(float(marginal.stddev[k]), rel=5e-3, abs=1e-9)
    assert cells(text, "u[0]")[-1] == ""


def test_infinite_horizons_have_a_gain_and_a_long_run(cai_program: Program) -> None:
    text = cai_program("solve", "golden_ratio", "--infinite", "--option", "noise=0.5").stdout
    posterior = cai.infer(cai.load_model("golden_ratio", noise=0.5, horizon=None), cai.SoftValueIteration())
    assert row(text, "gain") == f"{float(posterior.gain):.6g} reward units a step"
    assert "relative" in row(text, "value at the start")
    assert "log evidence" not in text and "in the long run" in text
    assert cells(text, "u[0]", "-0.618")[0] == "0"
    deviation = float(cells(text, "x[0]")[0].split("+-")[1])
    assert deviation == pytest.approx(float(posterior.state_marginals.stddev), rel=5e-3)
    discounted = cai_program("solve", "golden_ratio", "--infinite", "--discount", "0.9", "--option", "noise=0.5").stdout
    assert "marginals unavailable" in discounted and "log p(O) >=" in discounted


def test_temperature_zero(cai_program: Program) -> None:
    text = cai_program("solve", "golden_ratio", "--temperature", "0").stdout
    assert row(text, "log evidence").startswith("unavailable: ")
    assert cells(text, "0", "u[0]") == ["-0.618", "0", "0"]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_many_coordinates_are_cut_to_the_width(
    cai_program: Program, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = cai_program("solve", "linear_quadratic", "--option", "num_states=11", "--option", "num_actions=9").stdout
    assert max(len(line) for line in text.splitlines()) <= width
    assert "of 11 state coordinates and 8 of 9 action coordinates" in " ".join(text.split())
    assert "…" not in text
    assert sum(" +- " in line for line in text.splitlines()) == 8 + 8, "no cell is broken into lines"


@pytest.mark.parametrize("name", METHODS)
def test_files(cai_program: Program, tmp_path: Path, name: str) -> None:
    result = cai_program("solve", "double_integrator", "--option", "noise=0.5", "--method", name, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"marginals.png", "posterior.safetensors", "summary.json"}
    posterior = cai.load(tmp_path / "posterior.safetensors")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["state_size"], summary["action_size"], summary["horizon"]) == (2, 1, 30)
    assert summary["log_evidence_nats"] == float(posterior.log_evidence)
    assert summary["is_bound"] is posterior.is_bound
    assert summary["start"] == [-1.0, 0.0]
    assert summary["value_at_start"] == float(posterior.v([-1.0, 0.0]))
    assert [policy["t"] for policy in summary["policies"]] == [0, 29]
    (gain,) = summary["policies"][0]["gain"]
    np.testing.assert_allclose(np.dot(gain, [-1.0, 0.0]), posterior.policy([-1.0, 0.0]).mean[0])
    assert matplotlib.image.imread(tmp_path / "marginals.png").std() > 0.01


def test_files_of_an_infinite_horizon(cai_program: Program, tmp_path: Path) -> None:
    result = cai_program("solve", "linear_quadratic", "--infinite", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"posterior.safetensors", "summary.json"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gain"] == float(cai.load(tmp_path / "posterior.safetensors").gain)
    assert summary["log_evidence_nats"] is None and len(summary["policies"]) == 1


def test_priors(cai_program: Program) -> None:
    flat = cai_program("solve", "golden_ratio", "--prior", "flat").stdout
    assert row(flat, "log evidence") == row(cai_program("solve", "golden_ratio").stdout, "log evidence")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["double_integrator", "--prior", "uniform"], "no uniform distribution"),
        (["double_integrator", "--method", "sum-product", "--discount", "0.9"], "discount"),
        (["double_integrator", "--method", "sum-product", "--temperature", "0"], "temperature"),
        (["double_integrator", "--method", "max-product"], "SumProduct"),
        (["double_integrator", "--method", "soft-policy-iteration"], "SoftPolicyIteration"),
        (["double_integrator", "--infinite"], "not stable"),
        (["double_integrator", "--option", "start=[[0, 0], [1, 0]]"], "a batch [2] of states"),
        (["double_integrator", "--option", "start=[0, 0, 0]"], "2 coordinates"),
        (["linear_quadratic", "--horizon", "100000000000"], "GB"),
        (["golden_ratio", "--method", "ilqrr"], "ilqr"),
    ],
)
def test_refusals(refused: Callable[..., str], args: list[str], message: str) -> None:
    assert message in refused("solve", *args)


class Bare(cai.Posterior):
    """A posterior that gives a policy and nothing else."""

    def policy(self, state: object, t: object = 0) -> torch.distributions.Distribution:
        return torch.distributions.Normal(torch.zeros(1), 1.0)

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> cai.Trajectories:
        return cai.rollout(self.graph, self.policy, num, seed=seed, length=length)


def test_what_a_posterior_does_not_give_is_said(cai_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(graph: cai.TrajectoryGraph, method: object, **options: object) -> cai.Posterior:
        return Bare(graph, method, cai.Stats())

    monkeypatch.setattr("cai.infer", bare)
    result = cai_program("solve", "pendulum")
    assert result.exit_code == 0, result.stderr
    assert row(result.stdout, "value at the start").startswith("unavailable: ")
    assert row(result.stdout, "log evidence").startswith("unavailable: ")
    assert "marginals unavailable: " in result.stdout and "policy:" not in result.stdout


@pytest.mark.parametrize("spelling", ["ilqr", "ILQR"])
def test_nonlinear_models_are_solved_by_ilqr(cai_program: Program, tmp_path: Path, spelling: str) -> None:
    result = cai_program("solve", "pendulum", "--method", spelling, "--horizon", "30", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert row(result.stdout, "world") == "2 state and 1 action coordinates, horizon 30"
    assert re.fullmatch(r"ILQR, \d+ iterations?, converged", row(result.stdout, "method"))
    assert "(estimate)" in row(result.stdout, "log evidence")
    assert {"posterior.safetensors", "summary.json"} <= {path.name for path in tmp_path.iterdir()}


def test_nonlinear_models_need_it(refused: Callable[..., str]) -> None:
    assert "DifferentiableDynamics" in refused("solve", "pendulum")
