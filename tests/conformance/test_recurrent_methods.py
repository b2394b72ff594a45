"""Every method that answers undiscounted infinite horizons without exits, on every kind of such graph.

The promises of `test_methods.py`, where they can be kept: what grows without bound is `Unavailable`, the gain is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of, policy_of, tables_of


def endless(seed: int, **options: Any) -> Callable[[], cai.TrajectoryGraph]:
    defaults = {"horizon": None, "num_states": 5, "num_actions": 3}
    return lambda: graph_of(oracles.random_problem(seed, **(defaults | options)))


def sparse_graph() -> cai.TrajectoryGraph:
    problem = oracles.random_problem(402, num_states=9, density=0.3, horizon=None, reward="sa")
    table = scipy.sparse.csr_matrix(problem.dynamics.reshape(-1, 9))
    return graph_of(problem, dynamics=cai.factors.TabularDynamics(table))


GRAPHS: dict[str, Callable[[], cai.TrajectoryGraph]] = {
    "plain": endless(401),
    "sparse": sparse_graph,
    "flat prior": endless(403, prior="flat", reward="sa"),
    "known start": lambda: endless(404)().condition(states={0: 1}),
    "model two_state": lambda: cai.load_model("two_state", horizon=None),
    "model inventory": lambda: cai.load_model("inventory", horizon=None, discount=1.0),
}


def some_policy(graph: cai.TrajectoryGraph) -> cai.factors.TabularPolicy:
    soft = tables_of(cai.infer(graph, cai.SoftValueIteration())).policy
    weights = (soft > 0) * np.random.default_rng(0).uniform(0.2, 1, soft.shape)
    return policy_of(weights / weights.sum(-1, keepdims=True))


METHODS: dict[str, Callable[[cai.TrajectoryGraph], cai.AbstractMethod]] = {
    "SumProduct": lambda _: cai.SumProduct(),
    "SoftValueIteration": lambda _: cai.SoftValueIteration(),
    "by sweeps": lambda _: cai.SoftValueIteration(solver=cai.methods.ValueIteration()),
    "SoftPolicyIteration": lambda _: cai.SoftPolicyIteration(),
    "PolicyEvaluation": lambda graph: cai.PolicyEvaluation(some_policy(graph)),
}
PAIRS = [
    (method, name)
    for method in METHODS
    for name in GRAPHS
    if not (method == "PolicyEvaluation" and name == "known start")  # a policy is given, evidence has nothing to act on
]
pairs = pytest.mark.parametrize("method, name", PAIRS, ids=[f"{method} on {name}" for method, name in PAIRS])

_ANSWERS: dict[tuple[str, str], cai.Posterior] = {}


def answer(method: str, name: str) -> cai.Posterior:
    if (method, name) not in _ANSWERS:
        graph = GRAPHS[name]()
        _ANSWERS[method, name] = cai.infer(graph, METHODS[method](graph))
    return _ANSWERS[method, name]


@pairs
def test_members(method: str, name: str) -> None:
    posterior = answer(method, name)
    num_states, num_actions = posterior.graph.state_space.n, posterior.graph.action_space.n
    assert posterior.gain.shape == ()
    assert posterior.state_marginals.shape == (num_states,)
    assert posterior.state_action_marginals.shape == (num_states, num_actions)
    assert posterior.stats.converged
    assert posterior.stats.certified_error < 1e-6
    assert posterior.is_bound is (method != "SumProduct")
    for member in ("log_evidence", "occupancy", "expected_return", "entropy"):
        with pytest.raises(cai.Unavailable, match=member):
            getattr(posterior, member)


@pairs
def test_what_belongs_together(method: str, name: str) -> None:
    posterior = answer(method, name)
    tables, marginals = tables_of(posterior), numpy_of(posterior.state_marginals)
    assert_close(tables.policy.sum(-1), 1.0)
    assert_close(marginals.sum(), 1.0)
    assert (marginals >= 0).all()
    assert_close(posterior.state_action_marginals, marginals[:, None] * tables.policy)
    assert_close(marginals @ tables.v, 0.0, 1e-9)
    states, actions = torch.arange(len(marginals))[:, None], torch.arange(tables.q.shape[-1])
    assert_close(posterior.advantage(states, actions), tables.q - tables.v[:, None])


@pairs
def test_samples(method: str, name: str) -> None:
    posterior = answer(method, name)
    first, second = (posterior.sample(50, seed=3, length=20) for _ in range(2))
    assert torch.equal(first.states, second.states) and torch.equal(first.actions, second.actions)
    assert (first.lengths == 20).all() and first.truncated.all() and not first.terminated.any()
    assert torch.isfinite(posterior.log_prob(first)).all()
    if name == "known start":
        assert (first.states[:, 0] == 1).all()
    with pytest.raises(ValueError, match="give length="):
        posterior.sample(5, seed=0)
    assert len(cai.rollout(posterior.graph, posterior, 5, seed=0, length=10)) == 5


@pairs
def test_save_and_load(method: str, name: str, tmp_path: Path) -> None:
    posterior = answer(method, name)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    for member in ("gain", "state_marginals", "state_action_marginals"):
        assert torch.equal(getattr(again, member), getattr(posterior, member)), member
    for member in ("q", "v", "policy"):
        np.testing.assert_array_equal(getattr(tables_of(again), member), getattr(tables_of(posterior), member))


class Interrupt(cai.AbstractCallback):
    """Interrupts the first step."""

    def on_step(self, progress: Any) -> None:
        raise KeyboardInterrupt


@pairs
def test_a_resumed_run_is_the_whole_one_bit_for_bit(method: str, name: str, tmp_path: Path) -> None:
    posterior, graph = answer(method, name), GRAPHS[name]()
    file, asked = tmp_path / "checkpoint", METHODS[method](graph)
    with contextlib.suppress(KeyboardInterrupt):
        cai.infer(graph, asked, callbacks=[cai.Checkpoint(file), Interrupt()])
    resumed = cai.infer(graph, asked, resume=file)
    assert torch.equal(resumed.gain, posterior.gain)
    assert torch.equal(resumed.state_marginals, posterior.state_marginals)
    np.testing.assert_array_equal(tables_of(resumed).v, tables_of(posterior).v)
    assert resumed.stats.num_steps == posterior.stats.num_steps


@pytest.mark.parametrize("solver", [cai.methods.Anderson(), cai.methods.ModifiedPolicyIteration()])
def test_other_solvers_say_so(solver: Any) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="ValueIteration and Newton do"):
        cai.infer(GRAPHS["plain"](), cai.SoftValueIteration(solver=solver))
