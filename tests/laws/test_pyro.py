"""Log evidence against Pyro's exact enumeration (`TraceEnum_ELBO`) on mild problems.

Law: exact posterior messages. Pyro enumerates the discrete sites of a program; its evidence of the program below is
log p(O), terminal states left out. Mild: its log-space product loses path gaps beyond about 36 nats in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

import cai
from tests import oracles
from tests.laws.build import assert_close, graph_of, numpy_of

MILD = pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward": "s", "prior": "uniform"},
        {"reward": "sa", "per_step": ("dynamics", "reward")},
        {"num_states": 4, "num_actions": 3, "horizon": 6, "density": 0.5},
    ],
    ids=["plain", "reward s", "per step", "longer"],
)


def program_of(problem: oracles.Problem) -> Callable[[], None]:
    """p(s_0) prod mu p exp(r / alpha) as a Pyro program, written without the library."""

    def program() -> None:
        state = pyro.sample("s0", dist.Categorical(probs=torch.as_tensor(problem.initial)))
        for t in pyro.markov(range(problem.horizon)):
            prior, dynamics = torch.as_tensor(problem.mu(t)), torch.as_tensor(problem.p(t))
            action = pyro.sample(f"a{t}", dist.Categorical(probs=prior[state]))
            following = pyro.sample(f"s{t + 1}", dist.Categorical(probs=dynamics[state, action]))
            reward = torch.as_tensor(problem.r(t).copy())[state, action, following]
            pyro.factor(f"O{t}", reward / problem.temperature)
            state = following

    return program


def evidence_of(program: Callable[[], None]) -> float:
    pyro.clear_param_store()
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    return -float(elbo.loss(config_enumerate(program), lambda: None))


@MILD
def test_evidence_equals_pyros(options: dict) -> None:
    problem = oracles.random_problem(21, **options)
    posterior = cai.infer(graph_of(problem), cai.SumProduct())
    assert_close(posterior.log_evidence, evidence_of(program_of(problem)))


@MILD
def test_the_graphs_own_program_has_the_same_evidence(options: dict) -> None:
    graph = graph_of(oracles.random_problem(22, **options))
    exact = cai.infer(graph, cai.SumProduct())
    assert_close(evidence_of(graph.to_pyro()), numpy_of(exact.log_evidence))


def test_the_graphs_own_program_with_terminal_states() -> None:
    graph = graph_of(oracles.random_problem(23, num_terminal=1, terminal_reward=True))
    exact = cai.infer(graph, cai.SumProduct())
    assert_close(evidence_of(graph.to_pyro()), numpy_of(exact.log_evidence), 1e-9)
