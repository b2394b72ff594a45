"""What exact inference on factor graphs refuses, how soon, and what it says would work; the smallest graphs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import graph_oracles, oracles
from tests.graph_oracles import KINDS, factor_graph_of
from tests.laws.build import assert_close, graph_of

EXACT = [cai.SumProduct(), cai.MaxProduct()]
exact = pytest.mark.parametrize("method", EXACT, ids=lambda method: type(method).__name__)


def log_of(table: Any) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(table, float))


def some_graph(kind: str = "evidence") -> cai.FactorGraph:
    return factor_graph_of(graph_oracles.random_model(3, **KINDS[kind]))


def complete(num: int, cardinality: int) -> cai.FactorGraph:
    names = [f"x{i}" for i in range(num)]
    table = torch.zeros(cardinality, cardinality, dtype=torch.float64)
    return cai.FactorGraph(
        tuple(cai.Variable(name, cardinality) for name in names),
        tuple(cai.Factor(pair, table) for pair in itertools.combinations(names, 2)),
    )


def binary_grid(rows: int, columns: int) -> cai.FactorGraph:
    names = [f"{r},{c}" for r in range(rows) for c in range(columns)]
    table = torch.eye(2, dtype=torch.float64)
    bonds = [(f"{r},{c}", f"{r},{c + 1}") for r in range(rows) for c in range(columns - 1)]
    bonds += [(f"{r},{c}", f"{r + 1},{c}") for r in range(rows - 1) for c in range(columns)]
    return cai.FactorGraph(
        tuple(cai.Variable(name, 2) for name in names), tuple(cai.Factor(bond, table) for bond in bonds)
    )


# -- questions without an answer --------------------------------------------------------------------------------------

IMPOSSIBLE: dict[str, Callable[[], cai.FactorGraph]] = {
    "a forbidden value": lambda: cai.FactorGraph(
        (cai.Variable("x", 2),), (cai.Factor(("x",), log_of([1, 0])),), {"x": 1}
    ),
    "two values that exclude each other": lambda: cai.FactorGraph(
        (cai.Variable("x", 2), cai.Variable("y", 2), cai.Variable("z", 2)),
        (cai.Factor(("x", "y"), log_of(np.eye(2))), cai.Factor(("y", "z"), log_of(np.eye(2)))),
        {"x": 0, "z": 1},
    ),
    "factors that exclude each other": lambda: cai.FactorGraph(
        (cai.Variable("x", 2), cai.Variable("y", 2)),
        (cai.Factor(("x", "y"), log_of(np.eye(2))), cai.Factor(("x", "y"), log_of(1 - np.eye(2)))),
    ),
    "a constant of zero": lambda: cai.FactorGraph((cai.Variable("x", 2),), (cai.Factor((), -math.inf),)),
    "one part of two": lambda: some_graph("tree") | IMPOSSIBLE["a forbidden value"]().rename({"x": "other"}),
    "a waypoint out of reach": lambda: (
        graph_of(oracles.random_problem(1, num_terminal=1)).unroll().condition({"s1": 2, "s2": 0})
    ),
}


@exact
@pytest.mark.parametrize("make", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_evidence_of_probability_zero_is_refused(method: Any, make: Callable[[], cai.FactorGraph]) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="the evidence has probability zero"):
        cai.infer(make(), method)


# -- graphs that do not fit -------------------------------------------------------------------------------------------


@exact
def test_too_wide_a_graph_is_refused_at_once(method: Any) -> None:
    graph, started = complete(40, 4), time.process_time()
    with pytest.raises(cai.IncompatibleMethod) as caught:
        cai.infer(graph, method)
    assert time.process_time() - started < 2.0
    message = str(caught.value)
    assert type(method).__name__ in message
    assert "width 39" in message
    assert "GiB" in message
    assert "LoopyBeliefPropagation" in message


def test_memory_can_be_capped() -> None:
    graph = binary_grid(8, 8)
    assert cai.infer(graph, cai.SumProduct(max_memory=0.01)).stats.converged
    with pytest.raises(cai.IncompatibleMethod, match=r"width \d+ .*max_memory"):
        cai.infer(graph, cai.SumProduct(max_memory=1e-6))
    for cap in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_memory must be above 0"):
            cai.infer(graph, cai.MaxProduct(max_memory=cap))


def test_evidence_makes_a_wide_graph_narrow() -> None:
    graph = complete(40, 4).condition({f"x{i}": 0 for i in range(36)})
    assert_close(cai.infer(graph, cai.SumProduct()).log_evidence, 4 * math.log(4))


def test_width_weighs_cardinalities() -> None:
    """A hub of 3,000 values with 12 binary neighbours in a ring: a clique of two hubs would be 9 million entries."""
    ring = [f"x{i}" for i in range(12)]
    variables = [cai.Variable("left", 3000), cai.Variable("right", 3000), *(cai.Variable(name, 2) for name in ring)]
    table = torch.zeros(3000, 2, dtype=torch.float64)
    factors = [cai.Factor((hub, name), table) for hub in ("left", "right") for name in ring[:6]]
    posterior = cai.infer(cai.FactorGraph(tuple(variables), tuple(factors)), cai.SumProduct(max_memory=0.1))
    assert_close(posterior.log_evidence, 2 * math.log(3000) + 12 * math.log(2))


@pytest.mark.parametrize(
    "method, num",
    [(cai.SumProduct(), 72), (cai.MaxProduct(), 72), (cai.SumProduct(max_memory=0.05), 27)],
    ids=["sum", "max", "capped"],
)
def test_a_marginal_that_does_not_fit_is_refused(method: Any, num: int) -> None:
    """2^72 numbers, or 1 GiB where 0.05 are allowed: refused before anything is allocated."""
    posterior = cai.infer(binary_grid(12, 6), method)
    names = [variable.name for variable in posterior.graph.variables][:num]
    with pytest.raises((cai.Unavailable, cai.IncompatibleMethod), match="GiB"):
        posterior.marginal(*names)


# -- methods that need to know what is dynamics -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        cai.SoftValueIteration(),
        cai.SoftPolicyIteration(),
        cai.PolicyEvaluation(cai.factors.TabularPolicy(np.full((3, 2), 0.5))),
    ],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("unrolled", [True, False])
def test_fixed_dynamics_need_a_trajectory(method: Any, unrolled: bool) -> None:
    graph = graph_of(oracles.random_problem(2)).unroll() if unrolled else some_graph()
    with pytest.raises(cai.IncompatibleMethod, match=f"{type(method).__name__}.*dynamics.*TrajectoryGraph") as caught:
        cai.infer(graph, method)
    for name in ("SumProduct", "MaxProduct", "LoopyBeliefPropagation"):
        assert name in str(caught.value)
    with pytest.raises(cai.IncompatibleMethod):
        method.accepts(graph)


@exact
@pytest.mark.parametrize("graph", [None, "graph", 3.0], ids=str)
def test_what_is_no_graph_is_refused(method: Any, graph: Any) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=f"{type(method).__name__}.*{type(graph).__name__}"):
        cai.infer(graph, method)


# -- what an answer does not have -------------------------------------------------------------------------------------

ASK: dict[str, Callable[[Any], Any]] = {
    "q": lambda posterior: posterior.q(0, 0),
    "v": lambda posterior: posterior.v(0),
    "advantage": lambda posterior: posterior.advantage(0, 0),
    "occupancy": lambda posterior: posterior.occupancy,
    "expected_return": lambda posterior: posterior.expected_return,
    "entropy": lambda posterior: posterior.entropy,
    "most_probable_trajectory": lambda posterior: posterior.most_probable_trajectory,
    "gap": lambda posterior: posterior.gap(posterior),
}
ASK_TRAJECTORY: dict[str, Callable[[Any], Any]] = {
    "state_marginals": lambda posterior: posterior.state_marginals,
    "state_action_marginals": lambda posterior: posterior.state_action_marginals,
    "policy": lambda posterior: posterior.policy(0, t=0),
}


@exact
@pytest.mark.parametrize("name", ASK)
def test_what_is_missing_says_so(method: Any, name: str) -> None:
    posterior = cai.infer(some_graph(), method)
    with pytest.raises(cai.Unavailable, match=f"{type(method).__name__} gives no {name} on this factor graph.{{10,}}"):
        ASK[name](posterior)


@exact
@pytest.mark.parametrize("name", ASK_TRAJECTORY)
def test_only_an_unrolled_graph_has_states_and_actions(method: Any, name: str) -> None:
    posterior = cai.infer(some_graph(), method)
    with pytest.raises(cai.Unavailable, match=f"{name}.*not unrolled from a trajectory"):
        ASK_TRAJECTORY[name](posterior)
    renamed = graph_of(oracles.random_problem(2)).unroll().rename(lambda name: "my " + name)
    with pytest.raises(cai.Unavailable):
        ASK_TRAJECTORY[name](cai.infer(renamed, method))


def test_only_max_product_names_an_assignment() -> None:
    with pytest.raises(cai.Unavailable, match="most_probable_assignment.*MaxProduct"):
        _ = cai.infer(some_graph(), cai.SumProduct()).most_probable_assignment


# -- arguments --------------------------------------------------------------------------------------------------------


@exact
def test_marginals_of_unknown_and_repeated_names(method: Any) -> None:
    posterior = cai.infer(some_graph(), method)
    with pytest.raises(ValueError, match="no variable 'nobody'"):
        posterior.marginal("nobody")
    with pytest.raises(ValueError, match="no variable 'nobody'"):
        posterior.marginal("x0", "nobody")
    with pytest.raises(ValueError, match="'x0' is given twice"):
        posterior.marginal("x0", "x1", "x0")
    observed = next(iter(posterior.graph.evidence))
    with pytest.raises(ValueError, match="given twice"):
        posterior.marginal(observed, observed)


@exact
@pytest.mark.parametrize("num", [0, -1, 1.5, "3", None, True])
def test_numbers_of_samples_that_make_no_sense(method: Any, num: Any) -> None:
    with pytest.raises(ValueError, match="sample"):
        cai.infer(some_graph(), method).sample(num)


@exact
def test_assignments_that_make_no_sense(method: Any) -> None:
    posterior = cai.infer(some_graph("tree"), method)
    full = posterior.sample(1, seed=0)
    for bad in (
        {},
        {**full, "nobody": 0},
        {**full, "x0": 99},
        {**full, "x0": -1},
        {**full, "x0": 0.5},
        [0, 1],
        None,
        {name: value for name, value in full.items() if name != "x0"},
    ):
        with pytest.raises(ValueError):
            posterior.log_prob(bad)


@exact
def test_assignments_that_disagree_with_the_evidence(method: Any) -> None:
    posterior = cai.infer(some_graph(), method)
    full = posterior.sample(1, seed=0)
    sizes = posterior.graph.cardinalities
    observed = next(name for name in posterior.graph.evidence if sizes[name] > 1)
    moved = {**full, observed: (full[observed] + 1) % sizes[observed]}
    assert torch.isfinite(posterior.log_prob(full)).all()
    assert posterior.log_prob(moved).isneginf().all()


# -- the smallest graphs ----------------------------------------------------------------------------------------------


@exact
def test_an_empty_graph(method: Any) -> None:
    posterior = cai.infer(cai.FactorGraph(), method)
    assert posterior.log_evidence == 0.0
    assert posterior.log_evidence.shape == ()
    assert posterior.log_evidence.dtype == torch.float64
    assert posterior.marginals == posterior.sample(5, seed=0) == {}
    assert posterior.marginal() == 1.0
    assert posterior.log_prob({}) == 0.0


@exact
def test_a_graph_of_constants(method: Any) -> None:
    graph = cai.FactorGraph((), (cai.Factor((), 2.0), cai.Factor((), -0.5)))
    assert cai.infer(graph, method).log_evidence == 1.5
    constant = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    evidence = cai.infer(cai.FactorGraph((), (cai.Factor((), constant),)), method).log_evidence
    assert torch.autograd.grad(evidence, constant)[0] == 1.0


def test_variables_without_factors() -> None:
    graph = cai.FactorGraph((cai.Variable("x", 3), cai.Variable("y", 2)), evidence={"y": 1})
    posterior = cai.infer(graph, cai.SumProduct())
    assert_close(posterior.log_evidence, math.log(3))
    assert_close(posterior.marginal("y", "x"), [[0.0] * 3, [1 / 3] * 3])
    assert cai.infer(graph, cai.MaxProduct()).log_evidence == 0.0


@exact
def test_everything_observed(method: Any) -> None:
    graph = cai.FactorGraph((cai.Variable("x", 2),), (cai.Factor(("x",), [0.25, -3.0]),), {"x": 1})
    posterior = cai.infer(graph, method)
    assert posterior.log_evidence == -3.0
    assert posterior.marginals["x"].tolist() == [0.0, 1.0]
    assert posterior.sample(2, seed=0)["x"].tolist() == [1, 1]
    assert posterior.log_prob({}) == 0.0


@exact
def test_a_posterior_knows_its_graph_and_method(method: Any) -> None:
    graph = some_graph()
    posterior = cai.infer(graph, method)
    assert posterior.graph is graph
    assert posterior.method == method
    assert posterior.stats.converged
    assert posterior.stats.residual == 0.0
    assert 0.0 <= posterior.stats.certified_error < 1e-10
    assert posterior.stats.num_steps >= 1
