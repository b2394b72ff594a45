"""Files: what comes back, what stays out, what is refused, and what an interrupted write leaves."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import cai
from cai.data import serialization
from cai.graph.recording import Recording
from cai.methods.loopy_belief_propagation import LoopyIterate
from cai.methods.svi import SVIIterate
from cai.ops.infinite.fixed_point import Iterate

F = cai.factors
HALF = np.full((2, 2, 2), 0.5)


def no_holes(name: str) -> Any:
    raise ValueError(f"hole {name}")


def round_trip(value: Any, folder: Path, holes: Callable[[str], Any] = no_holes) -> Any:
    serialization.save(folder / "file", "thing", value)
    return serialization.load(folder / "file", "thing", holes)


def same(a: Any, b: Any) -> bool:
    """Deep equality of what was saved and what came back."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if type(a).__name__ in serialization._CODECS:
        pack = serialization._CODECS[type(a).__name__][0]
        return type(a) is type(b) and same(pack(a), pack(b))
    return type(a) is type(b) and a == b


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.1,
        float("inf"),
        "text",
        (1, "two", [3.0, None]),
        {3: torch.arange(3), "x": (torch.zeros(0), torch.tensor(True))},
        torch.tensor(1.5, requires_grad=True),
        torch.ones(2, 3, dtype=torch.float32)[:, ::2],
    ],
    ids=str,
)
def test_plain_values(value: Any, tmp_path: Path) -> None:
    assert same(value, round_trip(value, tmp_path))


def test_arrays_come_back_as_tensors(tmp_path: Path) -> None:
    assert torch.equal(round_trip(np.arange(4), tmp_path), torch.arange(4))


@pytest.mark.parametrize("value", [np.int64(5), np.float32(0.5), np.float64(0.1), np.bool_(True)], ids=repr)
def test_numpy_scalars_are_numbers(value: Any, tmp_path: Path) -> None:
    assert round_trip(value, tmp_path) == value


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(4, start=2),
        gymnasium.spaces.MultiDiscrete([2, 5]),
        gymnasium.spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, np.inf]), dtype=np.float64),
        gymnasium.spaces.Box(0, 255, (2, 2), dtype=np.uint8),
    ],
    ids=str,
)
def test_spaces(space: gymnasium.Space, tmp_path: Path) -> None:
    assert round_trip(space, tmp_path) == space


def test_grid_space(tmp_path: Path) -> None:
    grid = cai.GridSpace(2, 2, (0, 3, -1), ((0, 1), (-1, 0)), ("S", "G", ""))
    again = round_trip(grid, tmp_path)
    assert type(again) is cai.GridSpace
    for part in ("n", "num_rows", "num_columns", "cells", "moves", "labels"):
        assert getattr(again, part) == getattr(grid, part), part


OBJECTS = {
    "Categorical": F.Categorical([0.25, 0.75], dtype=torch.float32),
    "Categorical learned": F.Categorical(torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True)),
    "Delta": F.Delta(3),
    "Delta vector": F.Delta([0.5, 1.5]),
    "Trajectories": cai.Trajectories(torch.zeros(2, 4, 3), torch.ones(2, 3), lengths=torch.tensor([1, 3])),
    "Gaussian": F.Gaussian([0.5, 1.5], np.diag([1.0, 0.0])),
    "Gaussian batch": F.Gaussian(np.ones((3, 2)), np.eye(2), dtype=torch.float32),
    "LinearGaussianDynamics": F.LinearGaussianDynamics(np.eye(2), np.ones((2, 1)), np.eye(2), [0.0, 1.0]),
    "LinearGaussianDynamics learned": F.LinearGaussianDynamics(torch.eye(2).requires_grad_(), np.ones((2, 1))),
    "LinearGaussianDynamics per step": F.LinearGaussianDynamics.per_step(np.ones((3, 2, 2)), np.ones((1, 5, 2, 1))),
    "LinearGaussianPolicy": F.LinearGaussianPolicy([[1.0, 2.0]], [3.0], [[4.0]]),
    "LinearGaussianPolicy per step": F.LinearGaussianPolicy.per_step(np.ones((3, 1, 2))),
    "QuadraticReward": F.QuadraticReward(np.eye(2), [[1.0]], [[0.0, 1.0]], [1.0, 2.0], [3.0], 4.0),
    "QuadraticReward per step": F.QuadraticReward.per_step(np.ones((3, 2, 2)), dtype=torch.float32),
    "TabularDynamics": F.TabularDynamics(HALF, terminal=[False, True]),
    "TabularDynamics per step": F.TabularDynamics.per_step([HALF, HALF]),
    "TabularDynamics sparse": F.TabularDynamics.from_successors(np.ones((2, 2, 1), int), np.ones((2, 2, 1))),
    "TabularReward": F.TabularReward(HALF),
    "TabularReward per step": F.TabularReward.per_step([[0.0, 1.0], [2.0, 3.0]]),
    "TabularReward sparse": F.TabularReward(torch.eye(2).repeat(2, 1).to_sparse()),
    "LinearReward": F.LinearReward(np.eye(2), [1.0, 2.0]),
    "LinearReward to fit": F.LinearReward(np.eye(2)),
    "TabularPolicy": F.TabularPolicy(HALF[0]),
    "TabularPolicy per step": F.TabularPolicy.per_step(HALF),
    "FlatPrior": F.FlatPrior(),
    "FlatPrior sets": F.FlatPrior([[True, False], [True, True]]),
    "UniformPolicy": cai.UniformPolicy(gymnasium.spaces.Discrete(3)),
    "NeuralPolicy": F.NeuralPolicy(gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(3), body=F.MLPBody((4,))),
    "MLPBody": F.MLPBody((4, 3), "tanh", F.OrthogonalInitialisation(output_gain=0.01)),
    "OrthogonalInitialisation": F.OrthogonalInitialisation(),
    "Standardisation": F.Standardisation(limit=5.0),
    "CategoricalHead": F.CategoricalHead(),
    "MultiCategoricalHead": F.MultiCategoricalHead(),
    "GaussianHead": F.GaussianHead(-0.5),
    "StateGaussianHead": F.StateGaussianHead((-5.0, 1.0)),
    "SquashedGaussianHead": F.SquashedGaussianHead((-5.0, 1.0)),
    "DeterministicHead": F.DeterministicHead(),
    "Variable": cai.Variable("x", 3),
    "FactorGraph": cai.FactorGraph((cai.Variable("x", 2),), (cai.Factor(("x",), torch.zeros(2), "f"),), {"x": 1}),
    "Evidence": cai.Evidence({0: 1}, {2: 0}),
    "Recording": Recording(np.zeros((2, 4, 1)), np.zeros((3, 2))),
    "LinearGaussianObservation": F.LinearGaussianObservation([[1.0, 0.0]], [[0.1]]),
    "LinearGaussianObservation per step": F.LinearGaussianObservation.per_step(np.ones((3, 1, 2)), [[[0.1]]], [[0.5]]),
    "KalmanFilter": cai.KalmanFilter(),
    "KalmanSmoother": cai.KalmanSmoother(schedule=cai.methods.AssociativeScan()),
    "PathConsistency": cai.PathConsistency(path_length=3, replay=None),
    "SeparateModels": cai.methods.SeparateModels(F.MLPBody((3,)), cai.methods.TableBody(), F.CategoricalHead()),
    "UnifiedModel": cai.methods.UnifiedModel(learning_rate=cai.methods.Annealed(0.1, 0.01)),
    "TableBody": cai.methods.TableBody(),
    "UniformRolloutReplay": cai.methods.UniformRolloutReplay(10),
    "ReturnRolloutReplay": cai.methods.ReturnRolloutReplay(10, scale=2.0),
    "SquaredResidual": cai.methods.SquaredResidual(),
    "DoubleSampledResidual": cai.methods.DoubleSampledResidual(),
    "CrossEntropyPolicySearch": cai.CrossEntropyPolicySearch(population=7, body=F.MLPBody((3,))),
    "TemporalDifference": cai.methods.TemporalDifference(0.5, cai.methods.HarmonicSteps(3.0)),
    "EveryVisitMonteCarlo": cai.methods.EveryVisitMonteCarlo(),
    "FirstVisitMonteCarlo": cai.methods.FirstVisitMonteCarlo(),
    "TableValues": cai.methods.TableValues(),
    "NetworkValues": cai.methods.NetworkValues(F.MLPBody((3,)), num_epochs=2),
    "SampledEvaluation": cai.methods.SampledEvaluation(policy=F.TabularPolicy(HALF[0]), temperature=0.0),
    "PolicyGradient": cai.PolicyGradient.a2c(learning_rate=cai.methods.Annealed(0.1, 0.01), num_steps=7),
    "MonteCarlo": cai.methods.MonteCarlo(),
    "RewardToGo": cai.methods.RewardToGo(),
    "GAE": cai.methods.GAE(0.5),
    "GradientStep": cai.methods.GradientStep(),
    "ClippedSurrogate": cai.methods.ClippedSurrogate(cai.methods.Annealed(0.2, 0.1), target_kl=0.1),
    "KLPenalty": cai.methods.KLPenalty(0.5, rate=0.1),
    "NaturalGradient": cai.methods.NaturalGradient(step=0.5),
    "TrustRegion": cai.methods.TrustRegion(0.5, shrinkage=0.5),
    "ImportanceWeighted": cai.methods.ImportanceWeighted(float("inf"), 3),
    "InReward": cai.methods.InReward(),
    "Bonus": cai.methods.Bonus(0.5),
    "SeparateCritic": cai.methods.SeparateCritic(F.MLPBody((3,)), num_epochs=2),
    "JointCritic": cai.methods.JointCritic(0.25, F.MLPBody((3,))),
    "SharedCritic": cai.methods.SharedCritic(0.25),
    "FittedAdvantage": cai.methods.FittedAdvantage(expectation=cai.methods.Reparameterised(3)),
    "SumOverActions": cai.methods.SumOverActions(),
    "Reparameterised": cai.methods.Reparameterised(2),
    "LinearInAction": cai.methods.LinearInAction(),
    "SoftActorCritic": cai.SoftActorCritic(7, temperature=cai.methods.TargetEntropy(-2.0), body=F.MLPBody((3,))),
    "TargetEntropy": cai.methods.TargetEntropy(initial=0.5, learning_rate=cai.methods.Annealed(0.1, 0.01)),
    "TargetDivergence": cai.methods.TargetDivergence(0.5),
    "DeterministicLimit": cai.methods.DeterministicLimit(0.3, policy_delay=1),
    "Stats": cai.Stats(3, False, 0.1, float("inf"), 2.0, ("q",)),
    "SumProduct": cai.SumProduct(tolerance=1e-6),
    "MaxProduct": cai.MaxProduct(),
    "SoftValueIteration": cai.SoftValueIteration(cai.methods.Newton(7), max_steps=3),
    "ValueIteration": cai.methods.ValueIteration(7),
    "NewtonKrylov": cai.methods.NewtonKrylov(7, forcing=0.1, num_sweeps=2),
    "ModifiedPolicyIteration": cai.methods.ModifiedPolicyIteration(num_evaluations=3),
    "Anderson": cai.methods.Anderson(memory=2),
    "PrioritisedSweeps": cai.methods.PrioritisedSweeps(block_size=7),
    "SoftPolicyIteration": cai.SoftPolicyIteration(max_steps=3),
    "RiskSensitiveControl": cai.RiskSensitiveControl(-0.5, max_steps=3),
    "PolicyEvaluation": cai.PolicyEvaluation(F.TabularPolicy(HALF[0]), temperature=0.0),
    "LoopyBeliefPropagation": cai.LoopyBeliefPropagation(cai.ops.TropicalSemiring(), 0.5, max_steps=7),
    "LogSemiring": cai.ops.LogSemiring(),
    "TropicalSemiring": cai.ops.TropicalSemiring(),
    "Flooding": cai.methods.Flooding(),
    "Residual": cai.methods.Residual(0.3),
    "Sequential": cai.methods.Sequential(),
    "AssociativeScan": cai.methods.AssociativeScan(),
    "SumProduct by a scan": cai.SumProduct(schedule=cai.methods.AssociativeScan()),
    "SVI": cai.SVI(num_steps=7, decay=0.5),
    "ILQR": cai.ILQR(9, expansion=cai.methods.SecondOrder(), initial_actions=torch.zeros(4, 1), limits=(-1.0, 1.0)),
    "ILQR with gaps": cai.ILQR(
        rollouts=cai.methods.MultipleShooting(torch.zeros(5, 2)),
        regularisation=cai.methods.RegularisationSchedule(initial=0.5),
        line_search=cai.methods.LineSearch((2.0, 1.0)),
    ),
    "SingleShooting": cai.methods.SingleShooting(),
    "GaussNewton": cai.methods.GaussNewton(),
    "SecondOrder": cai.methods.SecondOrder(),
    "MultipleShooting": cai.methods.MultipleShooting(torch.zeros(5, 2)),
    "RegularisationSchedule": cai.methods.RegularisationSchedule(factor=3.0),
    "LineSearch": cai.methods.LineSearch((1.0, 0.5), acceptance=0.1),
    "GradientPlanner": cai.GradientPlanner(num_restarts=3, initial_actions=torch.zeros(4, 1)),
    "MeanFieldGuide": cai.methods.MeanFieldGuide(),
    "FixedDynamicsGuide": cai.methods.FixedDynamicsGuide(),
    "SVIIterate": SVIIterate(3, torch.ones(2), 0.1, {"q": torch.zeros(2)}, {"q": {"step": torch.tensor(2.0)}}),
    "LoopyIterate": LoopyIterate((torch.ones(2, 3), torch.zeros(4, 1)), 5, 0.25, True),
    "SoftQLearning": cai.SoftQLearning(num_steps=7, exploration=cai.methods.Boltzmann(0.1), n_step=3),
    "Tabular": cai.methods.Tabular(cai.methods.PolynomialSteps(0.7), initial=1.0),
    "HarmonicSteps": cai.methods.HarmonicSteps(10.0),
    "PolynomialSteps": cai.methods.PolynomialSteps(0.8),
    "Network": cai.methods.Network(cai.methods.Dueling((16,)), cai.methods.TwinBackup(), cai.methods.PeriodicTarget(7)),
    "Dueling": cai.methods.Dueling((16,)),
    "SoftBackup": cai.methods.SoftBackup(),
    "DoubleBackup": cai.methods.DoubleBackup(),
    "TwinBackup": cai.methods.TwinBackup(),
    "PolyakTarget": cai.methods.PolyakTarget(0.01),
    "PeriodicTarget": cai.methods.PeriodicTarget(7),
    "HuberLoss": cai.methods.HuberLoss(2.0),
    "SquaredLoss": cai.methods.SquaredLoss(),
    "SoftPolicy": cai.methods.SoftPolicy(),
    "Boltzmann": cai.methods.Boltzmann(0.1),
    "EpsilonGreedy": cai.methods.EpsilonGreedy(cai.methods.Annealed(1.0, 0.1, share=0.5)),
    "EpsilonSoft": cai.methods.EpsilonSoft(0.1),
    "Annealed": cai.methods.Annealed(1.0, 0.1, share=0.5),
    "UniformReplay": cai.methods.UniformReplay(100, kept=False),
    "PrioritisedReplay": cai.methods.PrioritisedReplay(100, exponent=0.5),
    "NoReplay": cai.methods.NoReplay(),
    "Quadratic": cai.methods.Quadratic(cai.methods.LinearQuadraticBody(), noise=0.2),
    "LinearQuadraticBody": cai.methods.LinearQuadraticBody(),
    "Stein": cai.methods.Stein(num_particles=8, proposal=cai.methods.UniformProposal(16)),
    "SamplerProposal": cai.methods.SamplerProposal(16, uniform_share=0.5),
    "UniformProposal": cai.methods.UniformProposal(16),
    "RecordedDynamics": F.RecordedDynamics(cai.Trajectories(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(2, 3))),
    "History": cai.History([{"num_steps": 1.0, "return": 0.5}, {"num_steps": 2.0, "return": 0.7}]),
    "Iterate": Iterate(torch.ones(3), 4, 0.5),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str, tmp_path: Path) -> None:
    assert same(OBJECTS[name], round_trip(OBJECTS[name], tmp_path))


@pytest.mark.parametrize("temperature", [0.3, torch.tensor(0.3, dtype=torch.float64, requires_grad=True)], ids=type)
def test_graph(temperature: Any, tmp_path: Path) -> None:
    graph = cai.TrajectoryGraph(
        OBJECTS["Categorical"],
        OBJECTS["TabularDynamics"],
        OBJECTS["TabularReward"],
        horizon=3,
        discount=0.9,
        temperature=temperature,
        action_prior=OBJECTS["FlatPrior sets"],
        terminal_reward=F.TabularReward([0.0, 2.0]),
        state_space=cai.GridSpace(1, 2, (0, 1), ()),
    ).condition(actions={1: 0})
    again = round_trip(graph, tmp_path)
    assert isinstance(again, cai.TrajectoryGraph)
    for part in ("initial", "dynamics", "reward", "action_prior", "terminal_reward", "temperature", "evidence"):
        assert same(getattr(graph, part), getattr(again, part)), part
    assert (again.horizon, again.discount) == (3, 0.9)
    assert isinstance(again.state_space, cai.GridSpace)


def test_every_registered_class_is_tested() -> None:
    tested = {name.split()[0] for name in OBJECTS} | {"TrajectoryGraph", "TabularPosterior", "Messages", "Factor"}
    tested |= {"FixedDynamics", "PosteriorDynamics", "RiskSensitive", "MostProbable"}  # of posteriors in conformance/
    tested |= {"JunctionTreePosterior", "LoopyPosterior", "MeanFieldPosterior"}  # in conformance/ too
    tested |= {"LearnedPosterior", "RunMemory"}  # in inference/ and methods/sampling/
    tested |= {"PlanPosterior"}  # in methods/test_svi.py
    tested |= {"LaplacePosterior", "Limits", "ShootingIterate"}  # in methods/test_ilqr.py
    tested |= {"OpenLoopPosterior", "Descent"}  # in methods/test_gradient_planner.py
    tested |= {"GaussianPosterior", "LinearQuadratic", "QuadraticMessages"}  # in conformance/test_gaussian_methods.py
    tested |= {"KalmanPosterior", "Filtered", "Correction", "Moments", "StateSpace"}  # in methods/test_kalman.py
    tested |= {"DifferentiableDynamics", "FunctionReward"}  # with holes, in factors/test_differentiable.py
    tested |= {"Pattern", "DenseTransitions", "SparseTransitions", "Newton"}  # parts of the objects above
    ours = {name for name, cls in serialization._REGISTER.items() if cls.__module__.startswith("cai.")}
    assert ours - tested == set()


# -- holes ------------------------------------------------------------------------------------------------------------


def test_what_is_unknown_is_a_named_hole(tmp_path: Path) -> None:
    asked: list[str] = []

    def fill(name: str) -> str:
        asked.append(name)
        return name.upper()

    graph = cai.Stats(estimates=(len, "v"))  # type: ignore[arg-type]
    assert round_trip({"a": [abs, 1], "b": graph}, tmp_path, fill)["b"].estimates == ("B.ESTIMATES.0", "v")
    assert asked == ["a.0", "b.estimates.0"]
    assert round_trip(abs, tmp_path, fill) == "ROOT"


def test_a_class_of_the_same_name_is_a_hole(tmp_path: Path) -> None:
    impostor = type("Categorical", (), {"probs": torch.ones(1)})()
    assert round_trip(impostor, tmp_path, lambda name: name) == "root"


def test_names_in_the_register_are_unique() -> None:
    with pytest.raises(ValueError, match="Categorical exists already"):
        serialization.serializable(type("Categorical", (), {}))
    with pytest.raises(ValueError, match="neither a dataclass"):
        serialization.serializable(type("NeverSeenBefore", (), {}))
    assert serialization.serializable(F.Categorical) is F.Categorical


# -- atomic writes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"])
def test_an_interrupted_write_leaves_the_old_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialization.save(tmp_path / "file", "thing", "old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        serialization.save(tmp_path / "file", "thing", "new")
    monkeypatch.undo()
    assert serialization.load(tmp_path / "file", "thing", no_holes) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_replaces(tmp_path: Path) -> None:
    serialization.save(tmp_path / "file", "thing", "old")
    assert round_trip("new", tmp_path) == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_file_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        round_trip(1, tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        serialization.save(tmp_path / "missing" / "file", "thing", 1)


# -- what is refused --------------------------------------------------------------------------------------------------


def posterior_file(folder: Path) -> Path:
    graph = cai.TrajectoryGraph(
        F.Categorical([1.0, 0.0]), OBJECTS["TabularDynamics"], F.TabularReward([0.0, 1.0]), horizon=2
    )
    cai.infer(graph, cai.SoftValueIteration()).save(folder / "posterior")
    return folder / "posterior"


def parts_of(path: Path) -> tuple[dict, dict, Any]:
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return header, tensors, json.loads(header["tree"])


def rewritten(path: Path, header: dict, tensors: dict, tree: Any) -> Path:
    safetensors.torch.save_file(tensors, path, header | {"tree": json.dumps(tree)})
    return path


def test_no_file(tmp_path: Path) -> None:
    for name in ("missing", "."):
        with pytest.raises(FileNotFoundError, match="no file"):
            cai.load(tmp_path / name)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, 0.999])
def test_truncated_file(kept: float, tmp_path: Path) -> None:
    path = posterior_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(cai.CorruptFile, match="posterior"):
        cai.load(path)


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "content", [b"text\n", bytes(1000), b"\xff" * 1000, pickle.dumps(Bomb()), b"PK\x03\x04" + bytes(200)]
)
def test_foreign_file(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(cai.CorruptFile, match="foreign"):
        cai.load(path)
    assert not (tmp_path / "exploded").exists()


def test_pickled_checkpoint_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Bomb()}, tmp_path / "model.pt")
    with pytest.raises(cai.CorruptFile):
        cai.load(tmp_path / "model.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "cai"}, {"tree": "1"}])
def test_foreign_safetensors(metadata: dict | None, tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "file", metadata)
    with pytest.raises(cai.CorruptFile, match="not written by this library"):
        cai.load(tmp_path / "file")


def test_newer_version(tmp_path: Path) -> None:
    path = posterior_file(tmp_path)
    header, tensors, tree = parts_of(path)
    rewritten(path, header | {"version": "999"}, tensors, tree)
    with pytest.raises(cai.CorruptFile, match="version 999"):
        cai.load(path)


def test_another_kind(tmp_path: Path) -> None:
    serialization.save(tmp_path / "file", "checkpoint", 1)
    with pytest.raises(cai.CorruptFile, match="holds a checkpoint, not a posterior"):
        cai.load(tmp_path / "file")


def replace_at(*keys: str, value: Any) -> Callable[[Any, dict], Any]:
    def change(tree: Any, tensors: dict) -> Any:
        node = tree
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return tree

    return change


def without_a_tensor(tree: Any, tensors: dict) -> Any:
    tensors.pop(next(iter(tensors)))
    return tree


def negative_probabilities(tree: Any, tensors: dict) -> Any:
    for key, tensor in tensors.items():
        if tensor.shape == (2, 2, 2) and (tensor == 0.5).all():
            tensors[key] = -tensor
    return tree


def short_messages(tree: Any, tensors: dict) -> Any:
    key = tree["parts"]["messages"]["parts"]["q"]["tensor"]
    tensors[key] = tensors[key][:1].clone()
    return tree


DAMAGE = {
    "unknown class": replace_at("parts", "method", "class", value="os.system"),
    "unknown field": replace_at("parts", "method", "parts", "evil", value=1),
    "missing part": lambda tree, tensors: tree["parts"].pop("reading") and tree,
    "missing tensor": without_a_tensor,
    "no graph": replace_at("parts", "graph", value=None),
    "root is a number": lambda tree, tensors: 5,
    "root is a part": lambda tree, tensors: tree["parts"]["stats"],
    "learned mask": replace_at("parts", "graph", "parts", "dynamics", "parts", "terminal", "learned", value=True),
    "negative probabilities": negative_probabilities,
    "short messages": short_messages,
    "list for a class": replace_at("parts", "graph", "class", value=[1]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_structure(damage: Callable[[Any, dict], Any], tmp_path: Path) -> None:
    path = posterior_file(tmp_path)
    header, tensors, tree = parts_of(path)
    rewritten(path, header, tensors, damage(tree, tensors))
    with pytest.raises(cai.CorruptFile, match="posterior"):
        cai.load(path)


def test_tree_that_is_no_json(tmp_path: Path) -> None:
    path = posterior_file(tmp_path)
    header, tensors, _ = parts_of(path)
    safetensors.torch.save_file(tensors, path, header | {"tree": "{"})
    with pytest.raises(cai.CorruptFile, match="damaged"):
        cai.load(path)
