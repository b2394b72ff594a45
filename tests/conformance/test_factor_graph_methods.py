"""Every method that answers factor graphs on every kind of them: the promises that all such posteriors make.

A new method joins with a line in `METHODS`, a new kind of graph with a line in `GRAPHS`. Nothing here knows the right
answer but `SumProduct`, which bounds are held against; the laws and the brute force are elsewhere.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import cai
from tests import graph_oracles
from tests.graph_oracles import factor_graph_of

METHODS: dict[str, Callable[[], cai.AbstractMethod]] = {
    "SumProduct": cai.SumProduct,
    "MaxProduct": cai.MaxProduct,
    "LoopyBeliefPropagation": lambda: cai.LoopyBeliefPropagation(damping=0.3),
    "LoopyBeliefPropagation max": lambda: cai.LoopyBeliefPropagation(
        semiring=cai.ops.TropicalSemiring(), damping=0.3, schedule=cai.methods.Residual(0.5)
    ),
    "SVI": lambda: cai.SVI(num_steps=50),
}


def single() -> cai.FactorGraph:
    graph = structure("tree")()
    factors = tuple(cai.Factor(f.variables, f.log_table.float(), f.name) for f in graph.factors)
    return cai.FactorGraph(graph.variables, factors, graph.evidence)


def structure(kind: str, **options: object) -> Callable[[], cai.FactorGraph]:
    return lambda: factor_graph_of(graph_oracles.random_model(61, **(graph_oracles.KINDS[kind] | options)))


def unrolled(**options: object) -> cai.FactorGraph:
    return cai.from_gym("FrozenLake-v1", horizon=4, temperature=1.0, is_slippery=True).replace(**options).unroll()


GRAPHS: dict[str, Callable[[], cai.FactorGraph]] = {
    "tree": structure("tree"),
    "forest": structure("forest"),
    "loops": structure("cycle", scale=0.5),
    "higher order": structure("higher order", scale=0.5),
    "zeros": structure("zeros", scale=0.5, zeros=0.1),
    "observed": structure("evidence", scale=0.5),
    "float32": single,
    "constants": lambda: cai.FactorGraph((cai.Variable("x", 3),), (cai.Factor((), torch.tensor(1.5)),)),
    "unrolled": unrolled,
    "discounted": lambda: unrolled(discount=0.9),
    "waypoint": lambda: unrolled().condition({"s3": 8}),
    "memory": lambda: unrolled().add_visits("seen", [4]).condition({"seen4": 1}),
}
TIMELINES = ("unrolled", "discounted", "waypoint", "memory")
#: Independent variables do not go together with factors that forbid some assignments of several at once.
REFUSED = [("SVI", name) for name in ("zeros", *TIMELINES)]
ANSWERED = [(method, name) for method in METHODS for name in GRAPHS if (method, name) not in REFUSED]
pairs = pytest.mark.parametrize("method, name", ANSWERED)


@functools.cache
def answer(method: str, name: str) -> cai.FactorGraphPosterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cai.NotConverged)  # fifty steps of SVI are not meant to
        posterior = cai.infer(GRAPHS[name](), METHODS[method](), seed=0)
    assert isinstance(posterior, cai.FactorGraphPosterior)
    return posterior


def precision(posterior: cai.FactorGraphPosterior) -> float:
    return 1e-10 if posterior.log_evidence.dtype == torch.float64 else 1e-5


@pairs
def test_evidence(method: str, name: str) -> None:
    posterior = answer(method, name)
    assert posterior.log_evidence.shape == ()
    assert torch.isfinite(posterior.log_evidence)
    if posterior.is_bound:
        assert float(posterior.log_evidence) <= float(answer("SumProduct", name).log_evidence) + precision(posterior)
    if not posterior.stats.estimates and not posterior.is_bound:
        exact = answer("SumProduct", name).log_evidence
        torch.testing.assert_close(posterior.log_evidence.detach(), exact.detach(), rtol=0, atol=precision(posterior))


@pairs
def test_marginals(method: str, name: str) -> None:
    posterior = answer(method, name)
    graph, tolerance = posterior.graph, 1e3 * precision(posterior)
    marginals = posterior.marginals
    assert list(marginals) == [variable.name for variable in graph.variables]
    for variable in graph.variables:
        marginal = marginals[variable.name]
        assert marginal.shape == (variable.cardinality,)
        assert (marginal >= 0).all()
        assert float(marginal.sum()) == pytest.approx(1.0, abs=tolerance)
        if variable.name in graph.evidence:
            assert float(marginal[graph.evidence[variable.name]]) == 1.0


@pairs
def test_a_factors_variables_together(method: str, name: str) -> None:
    posterior = answer(method, name)
    for factor in posterior.graph.factors:
        names = factor.variables[::-1]
        joint = posterior.marginal(*names)
        assert joint.shape == factor.log_table.shape[::-1]
        assert float(joint.sum()) == pytest.approx(1.0, abs=1e3 * precision(posterior))
        if posterior.stats.converged and "Loopy" not in method:
            for axis, variable in enumerate(names):
                others = [other for other in range(len(names)) if other != axis]
                alone = joint.sum(others) if others else joint
                torch.testing.assert_close(alone, posterior.marginal(variable), rtol=0, atol=1e3 * precision(posterior))


@pairs
def test_samples(method: str, name: str) -> None:
    posterior = answer(method, name)
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    try:
        drawn = posterior.sample(20, seed=3)
    except cai.Unavailable:
        assert "Loopy" in method
        return
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])
    again = posterior.sample(20, seed=3)
    assert list(drawn) == [variable.name for variable in posterior.graph.variables]
    for variable in posterior.graph.variables:
        values = drawn[variable.name]
        assert values.shape == (20,)
        assert values.dtype == torch.int64
        assert ((values >= 0) & (values < variable.cardinality)).all()
        assert torch.equal(values, again[variable.name])
    log_prob = posterior.log_prob(drawn)
    assert log_prob.shape == (20,)
    assert (log_prob > -torch.inf).all()
    assert (log_prob <= 1e-6).all()


@pairs
def test_save_and_load(method: str, name: str, tmp_path: Path) -> None:
    posterior = answer(method, name)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    assert type(again) is type(posterior)
    assert type(again.method) is type(posterior.method)
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    assert again.is_bound == posterior.is_bound
    for variable, marginal in posterior.marginals.items():
        assert torch.equal(again.marginal(variable), marginal), variable


@pairs
def test_asking_twice_gives_the_same(method: str, name: str) -> None:
    posterior = answer(method, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cai.NotConverged)
        again = cai.infer(GRAPHS[name](), METHODS[method](), seed=0)
    assert torch.equal(again.log_evidence, posterior.log_evidence)


@pytest.mark.parametrize("method, name", [pair for pair in ANSWERED if pair[1] in TIMELINES])
def test_a_timeline_is_read_as_a_trajectory(method: str, name: str) -> None:
    posterior = answer(method, name)
    states, joint = posterior.state_marginals, posterior.state_action_marginals
    assert states.shape == (5, 16)
    assert joint.shape == (4, 16, 4)
    assert (states.sum(-1) <= 1 + 1e-6).all()
    assert (joint[:, [5, 7, 11, 12, 15]] == 0).all(), "no action is taken in a terminal state"
    probs = posterior.policy(torch.arange(16), t=torch.arange(4)[:, None]).probs
    torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_missing_says_so(method: str) -> None:
    posterior = answer(method, "tree")
    for ask in (
        lambda: posterior.q(0, 0),
        lambda: posterior.v(0),
        lambda: posterior.policy(0),
        lambda: posterior.state_marginals,
        lambda: posterior.occupancy,
        lambda: posterior.expected_return,
        lambda: posterior.gap(posterior),
    ):
        with pytest.raises(cai.Unavailable, match=type(posterior.method).__name__):
            ask()
    with pytest.raises(ValueError, match="there is no variable 'nobody'"):
        posterior.marginal("nobody")
    first = posterior.graph.variables[0].name
    with pytest.raises(ValueError, match="twice"):
        posterior.marginal(first, first)


@pytest.mark.parametrize("method", METHODS)
def test_contradictions_are_refused(method: str) -> None:
    never = cai.Factor(("x",), torch.tensor([0.0, -torch.inf], dtype=torch.float64))
    graph = cai.FactorGraph((cai.Variable("x", 2),), (never,), {"x": 1})
    with pytest.raises(cai.IncompatibleMethod, match="probability zero"):
        cai.infer(graph, METHODS[method](), seed=0)


@pytest.mark.parametrize("method, name", REFUSED)
def test_what_a_family_cannot_say_is_refused(method: str, name: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="SumProduct"):
        cai.infer(GRAPHS[name](), METHODS[method](), seed=0)
