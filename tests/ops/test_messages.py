"""Messages that are no numbers are named; tables of one kind give the messages of the other, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops import FixedDynamics, PosteriorDynamics, backward_messages
from cai.ops.caching import grad_cached_property
from cai.ops.messages import optimal_backup
from tests import oracles

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def test_overflow_names_state_and_time() -> None:
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0]),
        cai.factors.TabularDynamics(np.eye(2)[:, None]),
        cai.factors.TabularReward([0.0, 1e308]),
        horizon=4,
    )
    with pytest.raises(cai.NonFinite, match="state 1 at time step 2 is inf"):
        cai.infer(graph, cai.SoftValueIteration())
    with pytest.raises(cai.NonFinite, match="state 1"):
        cai.infer(graph.replace(horizon=None, discount=0.99), cai.SoftValueIteration())


def test_nan_names_state_and_time() -> None:
    problem = oracles.random_problem(5, horizon=3)
    tables = tabulate(graph_on("cpu", problem, "dense", {}))

    def backup(step: Any, t: int, v_next: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, v = optimal_backup(FixedDynamics())(step, t, v_next)
        return q, torch.where(torch.arange(len(v)) == 2, torch.nan, v) if t == 1 else v

    with pytest.raises(cai.NonFinite, match="state 2 at time step 1 is nan"):
        backward_messages(tables, backup)


def test_values_computed_without_gradients_are_not_handed_out_with_them() -> None:
    class Squared:
        def __init__(self, x: torch.Tensor) -> None:
            self.x, self.count = x, 0

        @grad_cached_property
        def value(self) -> torch.Tensor:
            self.count += 1
            return self.x**2

    squared = Squared(torch.tensor(3.0, requires_grad=True))
    with torch.no_grad():
        assert not squared.value.requires_grad
        assert squared.value is squared.value
    assert squared.value.requires_grad
    assert squared.value is squared.value
    assert squared.count == 2


# -- CUDA -------------------------------------------------------------------------------------------------------------


def graph_on(device: str, problem: oracles.Problem, kind: str, options: dict) -> cai.TrajectoryGraph:
    terminal = None if problem.terminal is None else torch.as_tensor(problem.terminal, device=device)
    probs = torch.as_tensor(problem.dynamics, device=device)
    if kind == "sparse":
        matrix = scipy.sparse.csr_matrix(problem.dynamics.reshape(-1, problem.num_states))
        parts = (torch.as_tensor(part, device=device) for part in (matrix.indptr, matrix.indices, matrix.data))
        probs = torch.sparse_csr_tensor(*parts, size=matrix.shape)
    return cai.TrajectoryGraph(
        cai.factors.Categorical(torch.as_tensor(problem.initial, device=device)),
        cai.factors.TabularDynamics(probs, terminal=terminal),
        cai.factors.TabularReward(torch.as_tensor(problem.reward, device=device)),
        **({"horizon": problem.horizon, "discount": problem.discount, "temperature": problem.temperature} | options),
    )


@needs_cuda
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("reading", [FixedDynamics(), PosteriorDynamics()], ids=["fixed", "posterior"])
def test_messages_on_cuda(kind: str, reading: Any) -> None:
    problem = oracles.random_problem(6, num_states=6, num_terminal=1, discount=0.9, density=0.5)
    here, there = (
        backward_messages(tabulate(graph_on(device, problem, kind, {})), optimal_backup(reading))
        for device in ("cpu", "cuda")
    )
    for cpu, cuda in zip(here, there, strict=True):
        assert cuda.is_cuda
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-12, atol=1e-12)


@needs_cuda
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("horizon", [6, None])
def test_posterior_on_cuda(kind: str, horizon: int | None) -> None:
    problem = oracles.random_problem(7, num_states=6, num_terminal=1, discount=0.9, density=0.5, horizon=horizon)
    method = cai.SoftPolicyIteration()
    cpu, cuda = (cai.infer(graph_on(device, problem, kind, {}), method) for device in ("cpu", "cuda"))
    for name in ("log_evidence", "state_marginals", "state_action_marginals", "expected_return", "entropy"):
        assert getattr(cuda, name).is_cuda
        torch.testing.assert_close(getattr(cuda, name).cpu(), getattr(cpu, name), rtol=1e-9, atol=1e-9)
    drawn = cuda.sample(50, seed=0)
    torch.testing.assert_close(cuda.log_prob(drawn).cpu(), cpu.log_prob(drawn.to("cpu")), rtol=1e-9, atol=1e-9)
    assert cai.rollout(cuda.graph, cai.UniformPolicy(), 20, seed=0).states.is_cuda
