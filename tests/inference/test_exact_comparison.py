"""The distances to the exact answer, against linear algebra in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.inference import History, LearnedPosterior, Progress, Stats
from tests import oracles
from tests.inference.rehearsal import Rehearsal, StopAt, TableLearner
from tests.laws.build import graph_of

GAMMA, ALPHA = 0.9, 0.7
NAMES = ["q_error", "policy_kl", "marginal_distance", "evidence_gap"]


def problem(seed: int = 0) -> cai.TrajectoryGraph:
    """Six states, of which one is terminal and one is reached by nothing."""
    given = oracles.random_problem(seed, num_states=6, num_terminal=1, horizon=None, discount=GAMMA, temperature=ALPHA)
    graph = graph_of(given)
    probs, initial = graph.dynamics.transition_tables()[0].values.numpy().copy(), graph.initial.probs.numpy().copy()
    hidden = 2
    probs[..., hidden], initial[hidden] = 0.0, 0.0
    probs /= probs.sum(-1, keepdims=True)
    dynamics = cai.factors.TabularDynamics(probs, terminal=graph.dynamics.terminal_mask.numpy())
    return graph.replace(dynamics=dynamics, initial=cai.factors.Categorical(initial / initial.sum()))


class Arrays:
    """A problem as arrays."""

    def __init__(self, graph: cai.TrajectoryGraph) -> None:
        self.p = graph.dynamics.transition_tables()[0].values.numpy()
        tables = cai.graph.tabulate.tabulate(graph)
        self.r = tables.steps[0].expected_rewards.numpy()
        self.mu = tables.steps[0].prior.numpy()
        self.ends = tables.terminal.numpy()
        self.worth = tables.terminal_values.numpy()
        self.start = graph.initial.probs.numpy()

    def soft_values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        v = np.zeros(len(self.p))
        for _ in range(2000):
            q = self.r + GAMMA * self.p @ np.where(self.ends, self.worth, v)
            v = ALPHA * np.log((self.mu * np.exp(q / ALPHA)).sum(-1))
        return q, v, self.mu * np.exp((q - v[:, None]) / ALPHA)

    def chain(self, pi: np.ndarray) -> np.ndarray:
        chain = np.einsum("sa,sat->st", pi, self.p)
        chain[self.ends] = np.eye(len(self.p))[self.ends]
        return chain

    def marginals(self, pi: np.ndarray) -> np.ndarray:
        return (1.0 - GAMMA) * np.linalg.solve(np.eye(len(self.p)) - GAMMA * self.chain(pi).T, self.start)

    def bound(self, pi: np.ndarray) -> float:
        """Gives alpha times the evidence lower bound, reward units."""
        gain = (pi * (self.r - ALPHA * np.log(pi / self.mu))).sum(-1)
        arrival = np.einsum("sa,sat->st", pi, self.p) @ np.where(self.ends, self.worth, 0.0)
        alive = np.where(self.ends, 0.0, self.marginals(pi)) / (1.0 - GAMMA)
        return float(alive @ (gain + GAMMA * arrival) + self.start[self.ends] @ self.worth[self.ends])


def learned(graph: cai.TrajectoryGraph, logits: Any, q: Any) -> LearnedPosterior:
    learner = TableLearner(torch.as_tensor(logits), None if q is None else torch.as_tensor(q))
    return LearnedPosterior(graph, Rehearsal(), Stats(), learner, History())  # type: ignore[arg-type]


def compared(exact: cai.Posterior, posterior: LearnedPosterior) -> dict[str, float]:
    comparison = cai.ExactComparison(exact, 100)
    comparison.on_start(posterior.graph, posterior.method)
    metrics: dict[str, float] = {}
    comparison.on_step(Progress(100, 0.0, 0.0, 0.0, None, metrics=metrics, posterior=lambda: posterior))
    return metrics


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("horizon", [None, 7])
def test_distances(seed: int, horizon: int | None) -> None:
    """The horizon that cuts the run's episodes off does not count."""
    graph, draw = problem(seed), np.random.default_rng(seed)
    arrays = Arrays(graph)
    q, _, pi = arrays.soft_values()
    logits = draw.normal(size=q.shape)
    other = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = q + draw.normal(size=q.shape)
    wrong[2] += 100.0  # reached by nothing
    wrong[arrays.ends] += 100.0
    exact = cai.infer(graph, cai.SoftValueIteration(tolerance=1e-12))
    metrics = compared(exact, learned(graph.replace(horizon=horizon), logits, wrong))

    here = ~arrays.ends & (np.arange(len(q)) != 2)
    weights = np.where(arrays.ends, 0.0, arrays.marginals(pi))
    kl = (other * np.log(other / pi)).sum(-1)
    expected = {
        "q_error": np.abs(wrong - q)[here].max(),
        "policy_kl": (weights * kl)[here].sum() / weights.sum(),
        "marginal_distance": 0.5 * np.abs(arrays.marginals(other) - arrays.marginals(pi)).sum(),
        "evidence_gap": (arrays.bound(pi) - arrays.bound(other)) / ALPHA,
    }
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert list(metrics) == NAMES  # there is no v here
    assert metrics["evidence_gap"] > 0.0


def test_the_exact_answer_is_no_distance_away() -> None:
    graph = problem()
    q, _, pi = Arrays(graph).soft_values()
    exact = cai.infer(graph, cai.SoftValueIteration(tolerance=1e-12))
    metrics = compared(exact, learned(graph, np.log(np.maximum(pi, 1e-300)), q))
    assert metrics == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-8)


def test_what_is_not_learned_is_left_out() -> None:
    graph = problem()
    exact = cai.infer(graph, cai.SoftValueIteration())
    assert list(compared(exact, learned(graph, np.zeros((6, 2)), None))) == NAMES[1:]


def test_hard_optimality_has_no_evidence() -> None:
    graph = problem().replace(temperature=0.0)
    exact = cai.infer(graph, cai.SoftValueIteration())
    names = list(compared(exact, learned(graph, np.zeros((6, 2)), None)))
    assert names == ["policy_kl", "marginal_distance"]


def test_when_it_compares(tmp_path: Any) -> None:
    graph = problem()
    exact = cai.infer(graph, cai.SoftValueIteration())
    callbacks = [cai.ExactComparison(exact, 300), cai.Checkpoint(tmp_path / "c"), StopAt(700)]
    cai.infer(graph, Rehearsal(1000), callbacks=callbacks)
    posterior = cai.infer(graph, Rehearsal(1000), callbacks=callbacks[:2], resume=tmp_path / "c")
    assert posterior.history.curve("policy_kl").steps.tolist() == [300, 600, 900, 1000]


def exact_with_horizon() -> cai.Posterior:
    return cai.infer(cai.load_model("two_state", horizon=5), cai.SoftValueIteration())


@pytest.mark.parametrize(
    ("exact", "message"),
    [
        (lambda: "exact", "expected a posterior, got str"),
        (exact_with_horizon, "has the horizon 5"),
        (lambda: cai.infer(cai.load_model("golden_ratio"), cai.SoftValueIteration()), "not one of a graph with tables"),
    ],
    ids=["text", "horizon", "vectors"],
)
def test_what_is_no_exact_answer(exact: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.ExactComparison(exact())


def test_runs_that_do_not_fit() -> None:
    graph = problem()
    exact = cai.infer(graph, cai.SoftValueIteration())
    with pytest.raises(ValueError, match="interval must be at least 1"):
        cai.ExactComparison(exact, 0)
    with pytest.raises(cai.IncompatibleMethod, match="6 states and 2 actions, and the graph of the run has not"):
        cai.infer(cai.load_model("two_state"), Rehearsal(), callbacks=[cai.ExactComparison(exact)])
    with pytest.raises(cai.IncompatibleMethod, match="SumProduct has no answer before it is done"):
        cai.infer(graph.replace(horizon=3), cai.SumProduct(), callbacks=[cai.ExactComparison(exact)])
