"""Every solver gives the dense answer, certifies no less than its error, and goes on where it was interrupted."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.methods import (
    Anderson,
    ModifiedPolicyIteration,
    Newton,
    NewtonKrylov,
    PrioritisedSweeps,
    ValueIteration,
)
from cai.ops.infinite import fixed_point, linear
from tests import oracles
from tests.laws.build import graph_of

SOLVERS: dict[str, Any] = {
    "value iteration": ValueIteration(),
    "modified policy iteration": ModifiedPolicyIteration(),
    "Newton": Newton(),
    "Newton-Krylov": NewtonKrylov(),
    "Anderson": Anderson(),
    "prioritised sweeps": PrioritisedSweeps(block_size=3),
}
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)

WORLDS: dict[str, dict[str, Any]] = {
    "discount": {"discount": 0.95},
    "far-sighted": {"discount": 0.9999},
    "terminal": {"discount": 0.99, "num_terminal": 2},
    "hard": {"discount": 0.95, "temperature": 0.0, "num_terminal": 1},
    "hot": {"discount": 0.95, "temperature": 30.0},
    "counting measure": {"discount": 0.9, "prior": "flat"},
    "restricted": {"discount": 0.9, "prior": "restricted"},
    "first exit": {"discount": 1.0, "num_terminal": 1},
    "one state": {"num_states": 1, "discount": 0.5},
    "no discount at all": {"discount": 0.0},
}


def problem_of(seed: int, **options: Any) -> oracles.Problem:
    return oracles.random_problem(seed, **({"num_states": 9, "horizon": None, "reward": "sa"} | options))


def sparse(graph: cai.TrajectoryGraph) -> cai.TrajectoryGraph:
    table = graph.dynamics.dense()
    size, num_actions, _ = table.shape
    matrix = table.reshape(size * num_actions, size).to_sparse_coo()
    return graph.replace(dynamics=cai.factors.TabularDynamics(matrix, terminal=graph.dynamics.terminal_mask))


@solvers
@pytest.mark.parametrize("options", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("store", ["dense", "sparse"])
def test_every_solver_gives_the_answer_of_a_direct_solve(solver: Any, options: dict, store: str) -> None:
    if isinstance(solver, PrioritisedSweeps) and options.get("discount") == 0.9999:
        pytest.skip("without exits every block waits for every other: 100,000 passes; the other solvers exist for this")
    problem = problem_of(301, **options)
    _, v, _ = oracles.solve_fixed(problem)
    graph = graph_of(problem) if store == "dense" else sparse(graph_of(problem))
    posterior = cai.infer(graph, cai.SoftValueIteration(solver, tolerance=1e-10))
    error = np.abs(posterior.v(torch.arange(len(v))).numpy() - v).max()
    scale = max(1.0, np.abs(v).max())
    assert posterior.stats.converged
    assert error <= 2e-10 * scale
    if not (options.get("discount") == 1.0 and options.get("temperature") == 0.0):
        assert error <= posterior.stats.certified_error + 4e-16 * scale


@solvers
def test_certified_error_is_never_below_the_true_error(solver: Any) -> None:
    """200 random problems, loose and tight tolerances, few and many steps; what stops early is certified too."""
    rng = np.random.default_rng(302)
    for seed in range(200):
        problem = problem_of(
            seed,
            num_states=int(rng.integers(2, 9)),
            num_actions=int(rng.integers(1, 4)),
            discount=float(rng.choice([0.5, 0.9, 0.97])),
            temperature=float(10 ** rng.uniform(-2, 2)),
            scale=float(10 ** rng.uniform(-2, 2)),
            num_terminal=int(rng.integers(0, 2)),
        )
        _, v, _ = oracles.solve_fixed(problem)
        method = cai.SoftValueIteration(
            solver, tolerance=float(10 ** rng.uniform(-12, 1)), max_steps=int(rng.choice([1, 3, 10, 5000]))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cai.NotConverged)
            posterior = cai.infer(graph_of(problem), method)
        error = np.abs(posterior.v(torch.arange(len(v))).numpy() - v).max()
        assert error <= posterior.stats.certified_error + 4e-16 * max(1, np.abs(v).max())


def maze(size: int, **options: Any) -> cai.TrajectoryGraph:
    return cai.load_model("gridworld", size=size, **({"slip": 0.2, "discount": 0.999, "temperature": 0.1} | options))


@solvers
@pytest.mark.parametrize("options", [{}, {"discount": 1.0}, {"slip": 0.0}, {"temperature": 0.0}, {"temperature": 3.0}])
def test_on_a_maze(solver: Any, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multigrid, the way to the exits and all: what large worlds use, on a small one, against plain elimination."""
    exact = cai.infer(maze(24, **options), cai.SoftValueIteration(Newton(), tolerance=1e-12))
    for module in (fixed_point, linear):
        monkeypatch.setattr(module, "LARGE", 100)
    posterior = cai.infer(maze(24, **options), cai.SoftValueIteration(solver, tolerance=1e-9))
    states = torch.arange(exact.tables.num_states)
    assert posterior.stats.converged
    error, scale = float((posterior.v(states) - exact.v(states)).abs().max()), float(exact.v(states).abs().max())
    assert error <= 1.01e-9 * scale
    assert error <= posterior.stats.certified_error + 1e-11 * scale


class Interrupt(cai.AbstractCallback):
    """Stops a run after so many pieces of work."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_step(self, progress: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@solvers
@pytest.mark.parametrize("after", [1, 2])
def test_a_resumed_run_has_the_same_bits(solver: Any, after: int, tmp_path: Path) -> None:
    graph, method = maze(12), cai.SoftValueIteration(solver, tolerance=1e-11)
    whole = cai.infer(graph, method)
    with contextlib.suppress(KeyboardInterrupt):  # some are done by then
        cai.infer(graph, method, callbacks=[cai.Checkpoint(tmp_path / "run"), Interrupt(after)])
    resumed = cai.infer(graph, method, resume=tmp_path / "run")
    assert torch.equal(resumed.messages.v, whole.messages.v)
    assert resumed.stats.num_steps == whole.stats.num_steps


@pytest.mark.parametrize(
    "solver", [Newton(), NewtonKrylov(num_sweeps=0), ModifiedPolicyIteration(num_evaluations=500)], ids=str
)
def test_what_an_early_stop_certifies_is_what_it_gives(solver: Any) -> None:
    """The first policy runs into a state that pays -1 for ever: one step makes V worse than B V, which was bounded."""
    table = np.zeros((2, 2, 2))
    table[0, 0, 1] = table[0, 1, 0] = table[1, :, 1] = 1.0
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(np.array([1.0, 0.0])),
        cai.factors.TabularDynamics(table),
        cai.factors.TabularReward(np.array([[1.0, 0.999], [-1.0, -1.0]])),
        discount=0.99,
        temperature=0.0,
    )
    exact = cai.infer(graph, cai.SoftValueIteration(Newton())).v(torch.arange(2))
    with pytest.warns(cai.NotConverged):
        posterior = cai.infer(graph, cai.SoftValueIteration(solver, max_steps=1))
    assert float((posterior.v(torch.arange(2)) - exact).abs().max()) <= posterior.stats.certified_error


@pytest.mark.parametrize("eta", [1.0, -1.0])
def test_a_long_corridor_is_not_taken_for_endless(eta: float) -> None:
    """Rewards of one for fifty steps say nothing of the loop at the end, which pays nothing."""
    size = 50
    table = np.zeros((size, 1, size))
    table[np.arange(size), 0, np.minimum(np.arange(size) + 1, size - 1)] = 1.0
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(np.eye(size)[0]),
        cai.factors.TabularDynamics(table),
        cai.factors.TabularReward(np.where(np.arange(size) < size - 1, eta, 0.0)),
        discount=0.9,
        temperature=1.0,
    )
    with warnings.catch_warnings():  # from above, for eta < 0, twenty sweeps are enough
        warnings.simplefilter("ignore", cai.NotConverged)
        stopped = cai.infer(graph, cai.RiskSensitiveControl(eta, ValueIteration(max_steps=20)))
    whole = cai.infer(graph, cai.RiskSensitiveControl(eta))
    assert whole.stats.converged
    error = float((stopped.v(torch.arange(size)) - whole.v(torch.arange(size))).abs().max())
    assert error <= stopped.stats.certified_error + 1e-9


def test_span_stops_where_size_would_not() -> None:
    """Without exits a constant is all that is left after mixing: a few dozen sweeps at discount 0.9999."""
    nexts, probs = oracles.random_successors(7, 300, 3, 5)
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(np.full(300, 1 / 300)),
        cai.factors.TabularDynamics.from_successors(nexts, probs),
        cai.factors.TabularReward(np.random.default_rng(0).normal(size=(300, 3))),
        discount=0.9999,
        temperature=0.1,
    )
    posterior = cai.infer(graph, cai.SoftValueIteration(ValueIteration(max_steps=200), tolerance=1e-9))
    exact = cai.infer(graph, cai.SoftValueIteration(Newton(), tolerance=1e-12))
    states = torch.arange(300)
    assert posterior.stats.converged
    assert float((posterior.v(states) - exact.v(states)).abs().max()) <= posterior.stats.certified_error + 1e-9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NewtonKrylov(forcing=0.0), "forcing"),
        (lambda: NewtonKrylov(forcing=1.0), "forcing"),
        (lambda: NewtonKrylov(forcing="much"), "forcing must be a number"),
        (lambda: NewtonKrylov(num_sweeps=-1), "num_sweeps"),
        (lambda: ModifiedPolicyIteration(num_evaluations=2.5), "whole number"),
        (lambda: ValueIteration(max_steps=0.5), "max_steps"),
        (lambda: ModifiedPolicyIteration(num_evaluations=-1), "num_evaluations"),
        (lambda: Anderson(memory=0), "memory"),
        (lambda: PrioritisedSweeps(block_size=0), "block_size"),
        (lambda: cai.infer(maze(5), cai.SoftValueIteration("newton")), "expected a solver"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [80, pytest.param(320, marks=pytest.mark.slow)])
def test_rewards_and_transitions_learn_through_the_fixed_point(size: int) -> None:
    """The gradient of values with respect to a table of 100,000 states takes one adjoint solve, and no sweeps."""
    graph = maze(size)
    transitions, terminal = graph.dynamics.transition_tables()[0], graph.dynamics.terminal_mask
    shape, rng = (transitions.num_states, transitions.num_actions), np.random.default_rng(0)
    weights = torch.as_tensor(rng.normal(size=shape[0])) / shape[0]
    rewards, probs = torch.full(shape, -1.0, dtype=torch.float64), transitions.values
    odds = torch.as_tensor(rng.normal(size=probs.numel()))
    tilt = probs * (odds - transitions.at_source(transitions.over_next(probs * odds)))  # rows still sum to one
    direction = torch.as_tensor(rng.normal(size=shape))

    def loss(rewards: torch.Tensor, probs: torch.Tensor, tolerance: float) -> torch.Tensor:
        parts = {"tables": (transitions.reweighted(probs),), "terminal": terminal, "time_varying": False}
        learning = graph.replace(
            reward=cai.factors.TabularReward(rewards), dynamics=cai.factors.TabularDynamics.unpack(parts)
        )
        posterior = cai.infer(learning, cai.SoftValueIteration(tolerance=tolerance))
        return (posterior.v(torch.arange(shape[0])) * weights).sum()

    leaves = rewards.clone().requires_grad_(), probs.clone().requires_grad_()
    by_reward, by_prob = torch.autograd.grad(loss(*leaves, 1e-11), leaves)
    for gradient, moved in ((by_reward, (direction, 0.0 * tilt)), (by_prob, (0.0 * direction, tilt))):
        step = 1e-4
        there, back = (
            loss(rewards + sign * step * moved[0], probs + sign * step * moved[1], 1e-12) for sign in (1.0, -1.0)
        )
        along = direction if gradient is by_reward else tilt
        assert float((gradient * along).sum()) == pytest.approx(float(there - back) / (2 * step), rel=1e-5)
