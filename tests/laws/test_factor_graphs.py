"""Exact inference on random factor graphs: evidence, marginals, modes, samples, gradients.

Oracle: every assignment written down, in long doubles (`tests/graph_oracles.py`).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import cai
from tests import graph_oracles as oracles
from tests.graph_oracles import KINDS, Model, factor_graph_of
from tests.laws.build import assert_close, numpy_of

SEEDS = (0, 1)
CASES = [(kind, seed) for kind in KINDS for seed in SEEDS]
kinds = pytest.mark.parametrize("kind", KINDS)
cases = pytest.mark.parametrize("kind, seed", CASES, ids=[f"{kind} {seed}" for kind, seed in CASES])


@functools.cache
def model_of(kind: str, seed: int) -> Model:
    return oracles.random_model(seed, **KINDS[kind])


@functools.cache
def answer(kind: str, seed: int) -> cai.Posterior:
    return cai.infer(factor_graph_of(model_of(kind, seed)), cai.SumProduct())


@functools.cache
def best(kind: str, seed: int) -> cai.Posterior:
    return cai.infer(factor_graph_of(model_of(kind, seed)), cai.MaxProduct())


def ask(model: Model, method: cai.AbstractMethod | None = None) -> cai.Posterior:
    return cai.infer(factor_graph_of(model), method or cai.SumProduct())


# -- evidence and marginals -------------------------------------------------------------------------------------------


@cases
def test_evidence_and_marginals_equal_enumeration(kind: str, seed: int) -> None:
    model, posterior = model_of(kind, seed), answer(kind, seed)
    assert posterior.log_evidence.shape == ()
    assert_close(posterior.log_evidence, model.log_evidence)
    assert posterior.is_bound is False
    assert set(posterior.marginals) == set(model.names)
    for name, probs in posterior.marginals.items():
        assert probs.shape == (model.cards[name],)
        assert_close(probs, model.marginal([name]))
        assert torch.equal(probs, posterior.marginal(name)) or name not in model.free
    for name, value in model.evidence.items():
        one_hot = np.arange(model.cards[name]) == value
        assert (numpy_of(posterior.marginals[name]) == one_hot).all()
        assert (numpy_of(posterior.marginal(name)) == one_hot).all()


@cases
def test_marginals_of_pairs_equal_enumeration(kind: str, seed: int) -> None:
    """Inside a clique and across the graph, observed variables too, and in the order of the names."""
    model, posterior = model_of(kind, seed), answer(kind, seed)
    rng = np.random.default_rng(seed)
    for i in rng.permutation(len(model.names))[:5]:
        for j in rng.permutation(len(model.names))[:2]:
            if i != j:
                pair = model.names[i], model.names[j]
                assert_close(posterior.marginal(*pair), model.marginal(pair))


@kinds
def test_marginals_of_more_variables_equal_enumeration(kind: str) -> None:
    model, posterior = model_of(kind, 0), answer(kind, 0)
    for scope in (scope for scope, _ in model.factors):
        assert_close(posterior.marginal(*scope), model.marginal(scope))
    names = model.names[:7:2] + model.names[1:2]
    assert_close(posterior.marginal(*names), model.marginal(names))
    everything = posterior.marginal(*model.names)
    assert_close(everything, model.marginal(model.names))
    assert_close(posterior.marginal(), 1.0)


@cases
def test_evidence_is_slicing(kind: str, seed: int) -> None:
    model = model_of(kind, seed)
    known = {name: model.support[name] for name in model.names[::3]}
    observed = model.replace(evidence={**model.evidence, **known})
    posterior, cut = ask(observed), ask(oracles.sliced(observed))
    assert_close(posterior.log_evidence, cut.log_evidence, 1e-12)
    assert_close(posterior.log_evidence, observed.log_evidence)
    for name in observed.free:
        assert_close(posterior.marginal(name), cut.marginal(name), 1e-12)
        assert_close(posterior.marginal(name), observed.marginal([name]))
    later = cai.infer(factor_graph_of(model).condition(known), cai.SumProduct())
    assert torch.equal(later.log_evidence, posterior.log_evidence)


def test_single_precision_in_single_precision_out() -> None:
    model = model_of("grid", 0)
    tables = [torch.tensor(table, dtype=torch.float32) for _, table in model.factors]
    posterior = cai.infer(factor_graph_of(model, tables), cai.SumProduct())
    assert posterior.log_evidence.dtype == posterior.marginal("x0").dtype == torch.float32
    assert_close(posterior.log_evidence, model.log_evidence, 1e-5)
    assert_close(posterior.marginal("x0", "x8"), model.marginal(("x0", "x8")), 1e-5)


# -- gradients --------------------------------------------------------------------------------------------------------


def leaves(model: Model) -> list[torch.Tensor]:
    return [torch.tensor(table, requires_grad=True) for _, table in model.factors]


@cases
def test_gradient_of_the_evidence_is_the_marginal(kind: str, seed: int) -> None:
    """The slope: d log Z / d log f(x_f) = p(x_f), forbidden entries included."""
    model = model_of(kind, seed)
    tables = leaves(model)
    posterior = cai.infer(factor_graph_of(model, tables), cai.SumProduct())
    gradients = torch.autograd.grad(posterior.log_evidence, tables)
    for (scope, _), gradient in zip(model.factors, gradients, strict=True):
        assert_close(gradient, model.marginal(scope))


def weighted(posterior: cai.Posterior, names: tuple[str, ...]) -> torch.Tensor:
    probs = posterior.marginal(*names)
    return (probs.reshape(-1) * torch.linspace(0.0, 1.0, probs.numel(), dtype=probs.dtype)).sum()


@kinds
def test_gradient_of_marginals_equals_a_covariance(kind: str) -> None:
    """The slope: d p(y) / d log f(x_f) = p(y, x_f) - p(y) p(x_f), of one variable and of two that are far apart."""
    model, tables = model_of(kind, 1), leaves(model_of(kind, 1))
    posterior = cai.infer(factor_graph_of(model, tables), cai.SumProduct())
    for names in (model.names[:1], model.names[1:8:6]):
        value = weighted(posterior, names)
        if not value.requires_grad:  # all of them observed
            assert set(names) <= set(model.evidence)
            continue
        gradients = torch.autograd.grad(value, tables, retain_graph=True, allow_unused=True)
        for (scope, table), gradient in zip(model.factors, gradients, strict=True):
            expected = covariance(model, names, scope)
            assert_close(np.zeros(table.shape) if gradient is None else gradient, expected)


def covariance(model: Model, names: tuple[str, ...], scope: tuple[str, ...]) -> np.ndarray:
    """sum_y w(y) [p(y, x_f) - p(y) p(x_f)] with the weights of `weighted`."""
    probs = model.marginal(names)
    weights = np.linspace(0.0, 1.0, probs.size).reshape(probs.shape)
    scores = np.zeros((1,) * len(model.names))
    order = sorted(range(len(names)), key=lambda i: model.names.index(names[i]))
    scores = scores + weights.transpose(order).reshape([model.cards[n] if n in names else 1 for n in model.names])
    joint = model.marginal(model.names) * (scores - (weights * probs).sum())
    others = tuple(i for i, name in enumerate(model.names) if name not in scope)
    kept = [name for name in model.names if name in scope]
    return joint.sum(others).transpose([kept.index(name) for name in scope])


@pytest.mark.parametrize("structure", [oracles.cycle, oracles.tree, oracles.higher_order])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_gradients_of_every_order_match_differences(structure: oracles.Structure, zeros: float) -> None:
    model = oracles.random_model(7, structure, num=4, cards=(2,), zeros=zeros)

    def evidence(*tables: torch.Tensor) -> torch.Tensor:
        return cai.infer(factor_graph_of(model, tables), cai.SumProduct()).log_evidence

    def marginal(*tables: torch.Tensor) -> torch.Tensor:
        return cai.infer(factor_graph_of(model, tables), cai.SumProduct()).marginal("x0", "x2")

    tables = leaves(model)[:4]
    rest = [torch.tensor(table) for _, table in model.factors[4:]]
    assert torch.autograd.gradcheck(lambda *x: evidence(*x, *rest), tables)
    assert torch.autograd.gradcheck(lambda *x: marginal(*x, *rest), tables)
    assert torch.autograd.gradgradcheck(lambda *x: evidence(*x, *rest), tables)


# -- what changes nothing ---------------------------------------------------------------------------------------------


@cases
def test_names_and_orders_change_nothing(kind: str, seed: int) -> None:
    model, posterior = model_of(kind, seed), answer(kind, seed)
    new = dict(zip(model.names, [f"y{i}" for i in np.random.default_rng(seed).permutation(9)], strict=False))
    moved = ask(oracles.reordered(oracles.renamed(model, new), seed + 10))
    assert_close(moved.log_evidence, posterior.log_evidence, 1e-12)
    for name in model.names:
        assert_close(moved.marginal(new[name]), posterior.marginal(name), 1e-12 * amplitude(model))


def amplitude(model: Model) -> float:
    """How far sums of log tables of this size may round apart, in units of 1 nat: exp passes it on to marginals."""
    return max(1.0, sum(np.abs(table[np.isfinite(table)]).max() for _, table in model.factors) / 100)


@kinds
def test_numbering_values_anew_changes_nothing(kind: str) -> None:
    model, posterior = model_of(kind, 1), answer(kind, 1)
    other, old = oracles.revalued(model, 5)
    moved = ask(other)
    assert_close(moved.log_evidence, posterior.log_evidence, 1e-12)
    for name in model.names:
        assert_close(moved.marginal(name), numpy_of(posterior.marginal(name))[old[name]], 1e-12 * amplitude(model))


@kinds
def test_constants_shift_the_evidence_only(kind: str) -> None:
    model, posterior = model_of(kind, 2), answer(kind, 2)
    (scope, table), *rest = model.factors
    shifted = ask(model.replace(factors=((scope, table + 123.0), *rest)))
    extra = cai.infer(factor_graph_of(model).add_factors(cai.Factor((), -45.0)), cai.SumProduct())
    assert_close(shifted.log_evidence, posterior.log_evidence + 123.0, 1e-12)
    assert_close(extra.log_evidence, posterior.log_evidence - 45.0, 1e-12)
    for name in model.names:
        assert_close(shifted.marginal(name), posterior.marginal(name), 1e-12 * amplitude(model))
        assert_close(extra.marginal(name), posterior.marginal(name), 1e-12 * amplitude(model))


@kinds
def test_splitting_a_factor_and_adding_flat_ones_changes_nothing(kind: str) -> None:
    model, posterior = model_of(kind, 0), answer(kind, 0)
    (scope, table), *rest = model.factors
    share = np.random.default_rng(3).normal(size=table.shape)
    halves = ((scope, share), (scope, table - share))
    a, b, c = model.names[0], model.names[3], model.names[6]
    flat = ((a, b, c), np.zeros((model.cards[a], model.cards[b], model.cards[c])))
    moved = ask(model.replace(factors=(*halves, *rest, flat)))
    assert_close(moved.log_evidence, posterior.log_evidence, 1e-12)
    for name in model.names:
        assert_close(moved.marginal(name), posterior.marginal(name), 1e-12 * amplitude(model))


@pytest.mark.parametrize("first, second", [("cycle", "zeros"), ("forest", "evidence"), ("tree", "far apart")])
def test_parts_that_do_not_meet_add_up(first: str, second: str) -> None:
    left, right = model_of(first, 0), model_of(second, 1)
    right = oracles.renamed(right, {name: f"right {name}" for name in right.names})
    both = Model(left.cards | right.cards, left.factors + right.factors, left.evidence | right.evidence)
    posterior, alone, other = ask(both), ask(left), ask(right)
    assert_close(posterior.log_evidence, alone.log_evidence + other.log_evidence, 1e-12)
    product = alone.marginal("x0")[:, None] * other.marginal("right x1")
    assert_close(posterior.marginal("x0", "right x1"), product)
    mode = ask(both, cai.MaxProduct())
    modes = best(first, 0).log_evidence + best(second, 1).log_evidence
    assert_close(mode.log_evidence, modes, 1e-12)


# -- the mode ---------------------------------------------------------------------------------------------------------


@cases
def test_the_most_probable_assignment_equals_enumeration(kind: str, seed: int) -> None:
    model, posterior = model_of(kind, seed), best(kind, seed)
    mode = posterior.most_probable_assignment
    assert set(mode) == set(model.names)
    assert all(isinstance(value, int) for value in mode.values())
    assert_close(posterior.log_evidence, model.log_maximum)
    assert_close(model.log_density(mode), model.log_maximum)
    assert_close(posterior.graph.log_density(mode), model.log_maximum)
    assert posterior.is_bound is True
    assert float(posterior.log_evidence) <= float(answer(kind, seed).log_evidence) + 1e-9
    for name, probs in posterior.marginals.items():
        assert (numpy_of(probs) == (np.arange(model.cards[name]) == mode[name])).all()
    samples = posterior.sample(3, seed=0)
    assert {name: value.tolist() for name, value in samples.items()} == {name: [mode[name]] * 3 for name in mode}


@pytest.mark.parametrize("structure", [oracles.tree, oracles.grid, oracles.width_four])
def test_ties_are_broken_in_one_way_for_all_variables(structure: oracles.Structure) -> None:
    """Neighbours must differ, and nothing else matters: maxima of single variables do not say which go together."""
    model = oracles.random_model(11, structure, num=9 if structure is oracles.grid else 6, cards=(5,))
    table = np.where(np.eye(5, dtype=bool), -np.inf, 0.0)
    colours = model.replace(factors=tuple((scope, table) for scope, _ in model.factors if len(scope) == 2))
    mode = ask(colours, cai.MaxProduct()).most_probable_assignment
    for scope, _ in colours.factors:
        assert mode[scope[0]] != mode[scope[1]]


def test_gradient_of_the_maximum_is_the_mode() -> None:
    model = model_of("grid", 0)
    tables = leaves(model)
    posterior = cai.infer(factor_graph_of(model, tables), cai.MaxProduct())
    gradients = torch.autograd.grad(posterior.log_evidence, tables)
    mode = model.mode
    for (scope, table), gradient in zip(model.factors, gradients, strict=True):
        expected = np.zeros(table.shape)
        expected[tuple(mode[name] for name in scope)] = 1.0
        assert_close(gradient, expected)


# -- samples and densities --------------------------------------------------------------------------------------------

NUM = 4000


@cases
def test_frequencies_of_samples_are_the_marginals(kind: str, seed: int) -> None:
    model, posterior = model_of(kind, seed), answer(kind, seed)
    samples = posterior.sample(NUM, seed=seed)
    assert set(samples) == set(model.names)
    assert all(value.shape == (NUM,) and value.dtype == torch.int64 for value in samples.values())
    for name, value in model.evidence.items():
        assert (samples[name] == value).all()
    assert torch.isfinite(posterior.graph.log_density(samples)).all()
    for pair in oracles.pairs_of(model.names):
        expected = model.marginal(pair)
        counts = np.zeros(expected.shape)
        np.add.at(counts, tuple(numpy_of(samples[name]) for name in pair), 1)
        assert (np.abs(counts / NUM - expected) <= oracles.bernstein(expected, NUM)).all(), pair


@kinds
def test_seeds_repeat_and_leave_the_global_generators_alone(kind: str) -> None:
    posterior = answer(kind, 0)
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, second = posterior.sample(20, seed=3), posterior.sample(20, seed=3)
    other = posterior.sample(20, seed=4)
    posterior.sample(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])
    assert all(torch.equal(first[name], second[name]) for name in first)
    spread = max(1 - float((probs**2).sum()) for probs in posterior.marginals.values())
    if spread > 0.3:
        assert any(not torch.equal(first[name], other[name]) for name in first)


@kinds
def test_probabilities_of_all_assignments_sum_to_one(kind: str) -> None:
    model, posterior = model_of(kind, 2), answer(kind, 2)
    everything = oracles.assignments({name: model.cards[name] for name in model.free})
    log_prob = posterior.log_prob(everything)
    assert_close(log_prob.exp().sum(), 1.0)
    expected = model.log_joint.reshape(-1)[np.isfinite(model.log_joint.reshape(-1))] - model.log_evidence
    assert_close(np.sort(log_prob[torch.isfinite(log_prob)].numpy()), np.sort(expected).astype(float))
    samples = posterior.sample(50, seed=0)
    density = posterior.graph.log_density(samples)
    assert_close(posterior.log_prob(samples), density - posterior.log_evidence, 1e-12)
    assert posterior.log_prob(model.support | model.evidence).shape == ()


@pytest.mark.parametrize("kind", ["evidence", "zeros", "far apart"])
def test_log_prob_of_the_mode_is_one_for_the_mode(kind: str) -> None:
    posterior = best(kind, 0)
    mode = posterior.most_probable_assignment
    assert float(posterior.log_prob(mode)) == 0.0
    name = next(name for name in model_of(kind, 0).free if model_of(kind, 0).cards[name] > 1)
    assert float(posterior.log_prob(mode | {name: 1 - min(mode[name], 1)})) == -math.inf


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [cai.SumProduct(), cai.MaxProduct()], ids=["sum", "max"])
@pytest.mark.parametrize("kind", ["zeros", "evidence", "forest"])
def test_save_and_load(kind: str, method: cai.AbstractMethod, tmp_path: Path) -> None:
    posterior = ask(model_of(kind, 0), method)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    assert type(again) is type(posterior)
    assert again.method == method
    assert again.graph.evidence == posterior.graph.evidence
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    for name, probs in posterior.marginals.items():
        assert torch.equal(again.marginals[name], probs)
    first, second = posterior.sample(20, seed=1), again.sample(20, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(again.log_prob(first), posterior.log_prob(first))


# -- hostile numbers --------------------------------------------------------------------------------------------------


def hostile_chain() -> Model:
    """Two paths from x0 to x3 with 800 nats between them, and everything else forbidden; x4 hangs on x3."""
    step = np.array([[0.0, -np.inf], [-np.inf, -400.0]])
    return Model(
        {"x0": 2, "x1": 2, "x2": 2, "x3": 2, "x4": 3},
        (
            (("x0", "x1"), step),
            (("x2", "x1"), step),
            (("x2", "x3"), np.array([[0.0, -np.inf], [-np.inf, 0.0]])),
            (("x3", "x4"), np.array([[-np.inf, 0.0, 1.0], [-np.inf, -800.0, -np.inf]])),
        ),
    )


def test_paths_eight_hundred_nats_apart() -> None:
    model = hostile_chain()
    tables = leaves(model)
    posterior = cai.infer(factor_graph_of(model, tables), cai.SumProduct())
    assert_close(posterior.log_evidence, model.log_evidence)
    gradients = torch.autograd.grad(posterior.log_evidence, tables)
    for (scope, _), gradient in zip(model.factors, gradients, strict=True):
        assert torch.isfinite(gradient).all()
        assert_close(gradient, model.marginal(scope))
    known = model.replace(evidence={"x3": 1})  # the improbable path is the only one left
    tables = leaves(known)
    posterior = cai.infer(factor_graph_of(known, tables), cai.SumProduct())
    assert_close(posterior.log_evidence, -1600.0)
    gradients = torch.autograd.grad(posterior.log_evidence, tables, retain_graph=True)
    for (scope, _), gradient in zip(known.factors, gradients, strict=True):
        assert torch.isfinite(gradient).all()
        assert_close(gradient, known.marginal(scope))
    (slope,) = torch.autograd.grad(posterior.marginal("x0", "x4")[1, 1], tables[0], allow_unused=True)
    assert slope is None or torch.isfinite(slope).all()


@pytest.mark.parametrize("seed", range(4))
def test_improbable_evidence_is_not_lost(seed: int) -> None:
    """Observed together, x0 and x5 leave only assignments a thousand nats below the mode."""
    model = oracles.random_model(seed, oracles.cycle, num=6, cards=(3,), scale=400.0, zeros=0.2)
    for value in range(3):
        known = model.replace(evidence={"x0": value})
        if np.isneginf(known.log_maximum):
            continue
        posterior = ask(known)
        assert_close(posterior.log_evidence, known.log_evidence)
        assert_close(posterior.marginal("x3", "x1"), known.marginal(("x3", "x1")), 1e-9)
        assert_close(ask(known, cai.MaxProduct()).log_evidence, known.log_maximum)


def test_a_hub_of_many_factors_keeps_its_digits_in_single_precision() -> None:
    """Ten thousand messages into one clique: rounding must not pile up with their number."""
    rng = np.random.default_rng(5)
    tables = rng.normal(size=(10_000, 2, 2)).astype(np.float32) - 1.0
    exact = np.logaddexp.reduce(np.logaddexp.reduce(tables.astype(float), 2).sum(0))
    names = [f"z{i}" for i in range(len(tables))]
    graph = cai.FactorGraph(
        (cai.Variable("hub", 2), *(cai.Variable(name, 2) for name in names)),
        [cai.Factor(("hub", name), torch.as_tensor(table)) for name, table in zip(names, tables, strict=True)],
    )
    found = cai.infer(graph, cai.SumProduct()).log_evidence
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(exact, rel=8 * float(np.finfo(np.float32).eps))
