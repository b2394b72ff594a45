"""Marginals and modes against pgmpy's variable elimination, where pgmpy is installed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import cai
from tests import graph_oracles as oracles
from tests.graph_oracles import Model, factor_graph_of
from tests.laws.build import assert_close, numpy_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pgmpy() -> Any:
    """Its modules; importing them warns of what they will rename."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("pgmpy")
        pytest.importorskip("pgmpy.models")
        pytest.importorskip("pgmpy.factors.discrete")
        pytest.importorskip("pgmpy.inference")
    return package


def elimination(pgmpy: Any, model: Model) -> Any:
    """The engine of pgmpy on the model's factors."""
    network = pgmpy.models.DiscreteMarkovNetwork()
    network.add_nodes_from(model.names)
    for scope, table in model.factors:
        network.add_edges_from(oracles.pairs_of(scope))
        sizes = [model.cards[name] for name in scope]
        network.add_factors(pgmpy.factors.discrete.DiscreteFactor(list(scope), sizes, np.exp(table)))
    return pgmpy.inference.VariableElimination(network)


def query(engine: Any, names: list[str], evidence: dict[str, int]) -> np.ndarray:
    """p(names | evidence), one dimension a name."""
    factor = engine.query(names, evidence=evidence, show_progress=False)
    return (
        np.moveaxis(factor.values, [factor.variables.index(n) for n in names], range(len(names))) / factor.values.sum()
    )


def markov_network(seed: int) -> Model:
    model = oracles.random_model(seed, oracles.grid, num=12, cards=(2, 3))
    assert all(scope for scope, _ in model.factors)
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_random_markov_networks(pgmpy: Any, seed: int) -> None:
    model = markov_network(seed)
    known = {"x4": 1, "x9": 0}
    engine = elimination(pgmpy, model)
    posterior = cai.infer(factor_graph_of(model).condition(known), cai.SumProduct())
    for names in (["x0"], ["x11"], ["x5", "x2"], ["x0", "x11", "x6"]):
        assert_close(posterior.marginal(*names), query(engine, names, known))
    mode = cai.infer(factor_graph_of(model).condition(known), cai.MaxProduct()).most_probable_assignment
    free = [name for name in model.names if name not in known]
    theirs = engine.map_query(free, evidence=known, show_progress=False)
    assert mode == {name: int(value) for name, value in (theirs | known).items()}


PARENTS = {"a": "", "b": "a", "c": "a", "d": "bc", "e": "d", "f": "cd", "g": "", "h": "efg"}


def bayesian_network(pgmpy: Any, seed: int) -> tuple[Any, Model]:
    """Eight nodes of two or three values, up to three parents: pgmpy's model, and factors p(child | parents)."""
    rng = np.random.default_rng(seed)
    cards = {name: int(rng.integers(2, 4)) for name in PARENTS}
    network = pgmpy.models.DiscreteBayesianNetwork()
    network.add_nodes_from(PARENTS)
    network.add_edges_from((parent, child) for child, parents in PARENTS.items() for parent in parents)
    factors = []
    for child, parents in PARENTS.items():
        sizes = [cards[name] for name in parents]
        probs = rng.dirichlet(np.ones(cards[child]), size=sizes)  # parents first, the child last
        factors.append(((*parents, child), np.log(probs)))
        columns = np.moveaxis(probs, -1, 0).reshape(cards[child], -1)
        cpd = pgmpy.factors.discrete.TabularCPD(child, cards[child], columns, list(parents), sizes)
        network.add_cpds(cpd)
    assert network.check_model()
    return network, Model(cards, tuple(factors))


@pytest.mark.parametrize("known", [{}, {"h": 1}, {"e": 0, "f": 1, "a": 1}], ids=["none", "a leaf", "three"])
def test_a_bayesian_network(pgmpy: Any, known: dict[str, int]) -> None:
    network, model = bayesian_network(pgmpy, 0)
    engine = pgmpy.inference.VariableElimination(network)
    posterior = cai.infer(factor_graph_of(model).condition(known), cai.SumProduct())
    if not known:
        assert_close(posterior.log_evidence, 0.0)
    for name in set(PARENTS) - set(known):
        assert_close(posterior.marginal(name), query(engine, [name], known))
    assert_close(posterior.marginal("g", "b"), query(engine, ["g", "b"], known))
    mode = cai.infer(factor_graph_of(model).condition(known), cai.MaxProduct()).most_probable_assignment
    theirs = engine.map_query([name for name in PARENTS if name not in known], evidence=known, show_progress=False)
    assert mode == {name: int(value) for name, value in (theirs | known).items()}


def test_the_sprinkler(pgmpy: Any) -> None:
    """p(rain | grass wet) with the usual numbers, by hand and by pgmpy: evidence whose log is log p(wet)."""
    rain, sprinkler = np.array([0.8, 0.2]), np.array([[0.6, 0.4], [0.99, 0.01]])  # p(sprinkler | rain)
    wet = np.array([[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [0.01, 0.99]]])  # p(wet | sprinkler, rain)
    with np.errstate(divide="ignore"):
        tables = [np.log(rain), np.log(sprinkler), np.log(wet)]
    scopes = [("rain",), ("rain", "sprinkler"), ("sprinkler", "rain", "wet")]
    model = Model(dict.fromkeys(("rain", "sprinkler", "wet"), 2), tuple(zip(scopes, tables, strict=True)))
    posterior = cai.infer(factor_graph_of(model).condition({"wet": 1}), cai.SumProduct())
    joint = rain[:, None] * sprinkler * wet[..., 1].T
    assert_close(posterior.log_evidence, np.log(joint.sum()))
    assert_close(numpy_of(posterior.marginal("rain"))[1], joint[1].sum() / joint.sum())
    assert abs(float(posterior.marginal("rain")[1]) - 0.3577) < 5e-5
    assert_close(posterior.marginal("rain"), query(elimination(pgmpy, model), ["rain"], {"wet": 1}))
