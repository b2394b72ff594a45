"""Loopy belief propagation: exact on forests, a fixed point elsewhere, honest about which.

Oracles: every assignment written down (`tests/graph_oracles.py`); at a fixed point the identity
density(x) = Z_Bethe prod_f b_f(x_f) prod_i b_i(x_i)^(1 - degree), for every x.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.methods import loopy_belief_propagation
from cai.methods.loopy_belief_propagation import LoopyBeliefPropagation
from cai.methods.schedules import Flooding, Residual
from cai.ops.semirings import LogSemiring, TropicalSemiring
from tests import graph_oracles as oracles
from tests.graph_oracles import Model, factor_graph_of

LBP = LoopyBeliefPropagation
SWINGS = "ignore::cai.errors.NotConverged"
MAX = LoopyBeliefPropagation(semiring=TropicalSemiring())


def hypertree(rng: np.random.Generator, num: int) -> list[tuple[int, ...]]:
    """Factors on three and four variables; each has one variable with those before it in common."""
    scopes: list[tuple[int, ...]] = [(0, 1, 2)]
    while scopes[-1][-1] + 4 < num:
        first = scopes[-1][-1] + 1
        scopes.append((int(rng.integers(first)), *range(first, first + 2 + int(rng.integers(2)))))
    return [*scopes, (1,), (0, 1), (2,)]


FORESTS: dict[str, dict[str, Any]] = {
    "tree": {"structure": oracles.tree},
    "forest": {"structure": oracles.forest, "num": 9},
    "evidence": {"structure": oracles.tree, "observed": 3},
    "cut by evidence": {"structure": oracles.cycle, "observed": 1, "cards": (2, 3)},
    "zeros": {"structure": oracles.tree, "zeros": 0.5},
    "repeated scopes": {"structure": oracles.repeated},
    "higher order": {"structure": hypertree, "num": 10},
    "higher order, zeros, evidence": {"structure": hypertree, "num": 10, "zeros": 0.5, "observed": 2},
    "far apart": {"structure": oracles.tree, "scale": 300.0},
    "far apart, zeros": {"structure": hypertree, "num": 10, "scale": 300.0, "zeros": 0.5},
    "one value each": {"structure": oracles.tree, "cards": (1,)},
    "all observed": {"structure": oracles.tree, "observed": 8},
}
LOOPS: dict[str, dict[str, Any]] = {
    "grid": {"structure": oracles.grid, "num": 9},
    "width four": {"structure": oracles.width_four, "num": 7, "scale": 0.7},
    "wide factors": {"structure": oracles.higher_order, "num": 7},
    "grid with zeros": {"structure": oracles.grid, "num": 9, "zeros": 0.3},
    "complete, evidence": {"structure": oracles.complete, "num": 7, "observed": 2, "scale": 0.5},
}
forests = pytest.mark.parametrize("kind", FORESTS)
loops = pytest.mark.parametrize("kind", LOOPS)
seeds = pytest.mark.parametrize("seed", [0, 1])


def model_of(kind: str, seed: int = 0) -> Model:
    return oracles.random_model(seed, **(FORESTS | LOOPS)[kind])


def ask(model: Model, method: LoopyBeliefPropagation | None = None) -> Any:
    return cai.infer(factor_graph_of(model), method or LBP())


def all_marginals(posterior: Any) -> np.ndarray:
    return np.concatenate([probs.numpy() for _, probs in sorted(posterior.marginals.items())])


# -- forests ----------------------------------------------------------------------------------------------------------


@seeds
@forests
def test_forests_are_exact(kind: str, seed: int) -> None:
    model = model_of(kind, seed)
    posterior = ask(model)
    stats = posterior.stats
    assert (stats.converged, stats.estimates, posterior.is_bound) == (True, (), False)
    scale = max(1.0, abs(model.log_evidence))
    assert abs(float(posterior.log_evidence) - model.log_evidence) <= min(1e-10 * scale, stats.certified_error)
    assert stats.certified_error < 1e-9 * scale
    for name in model.names:
        probs = posterior.marginal(name).numpy()
        np.testing.assert_allclose(probs, model.marginal([name]), atol=1e-10)
        assert probs.sum() == pytest.approx(1.0, abs=1e-12)


@seeds
@forests
def test_marginals_of_factors_on_forests(kind: str, seed: int) -> None:
    """In either order of the names, of parts of a factor, observed variables too."""
    model = model_of(kind, seed)
    posterior = ask(model)
    for scope, _ in model.factors:
        for names in (scope, scope[::-1], scope[1:]):
            np.testing.assert_allclose(posterior.marginal(*names).numpy(), model.marginal(names), atol=1e-10)


@seeds
@forests
def test_maxima_on_forests_are_exact(kind: str, seed: int) -> None:
    model = model_of(kind, seed)
    posterior = ask(model, MAX)
    best = posterior.most_probable_assignment
    assert posterior.is_bound and posterior.stats.converged
    assert list(best) == list(model.names)
    assert model.log_density(best) == pytest.approx(model.log_maximum, rel=1e-12, abs=1e-12)
    assert float(posterior.log_evidence) == pytest.approx(model.log_maximum, rel=1e-12, abs=1e-12)
    for name, value in best.items():
        assert posterior.marginal(name).tolist() == [float(i == value) for i in range(model.cards[name])]


def test_log_beliefs_of_maxima_say_what_each_value_costs() -> None:
    model = model_of("higher order")
    posterior = ask(model, MAX)
    for place, name in enumerate(model.names):
        others = tuple(i for i in range(len(model.names)) if i != place)
        expected = model.log_joint.max(others) - model.log_maximum
        np.testing.assert_allclose(posterior.log_belief(name), expected.astype(float), atol=1e-12)


def test_log_beliefs_of_sums_are_log_marginals() -> None:
    model = model_of("evidence")
    posterior = ask(model)
    for name in model.names:
        with np.errstate(divide="ignore"):
            expected = np.log(model.marginal([name]))
        np.testing.assert_allclose(posterior.log_belief(name), expected - expected.max(), atol=1e-12)


def test_a_chain_converges_in_as_many_sweeps_as_it_is_long() -> None:
    chain = oracles.random_model(0, lambda rng, num: [(i, i + 1) for i in range(num - 1)], num=9, cards=(2,))
    posterior = ask(chain)
    assert posterior.stats.num_steps == 9  # eight factors, and the sweep that finds nothing left to do
    assert posterior.stats.residual < 1e-14


@pytest.mark.parametrize("kind", [*FORESTS, *LOOPS])
def test_gradients_of_the_log_evidence_are_marginals_of_the_factors(kind: str) -> None:
    """Exact ones on forests; on loops those that the posterior itself gives, to what the tolerance leaves."""
    model = model_of(kind)
    tables = [torch.tensor(table).requires_grad_() for _, table in model.factors]
    posterior = cai.infer(factor_graph_of(model, tables), LBP(max_steps=5000, tolerance=1e-12))
    posterior.log_evidence.backward()
    for (scope, _), table in zip(model.factors, tables, strict=True):
        assert table.grad is not None
        expected = model.marginal(scope) if kind in FORESTS else posterior.marginal(*scope).numpy()
        np.testing.assert_allclose(table.grad.numpy(), expected, atol=1e-10)


def test_gradients_through_one_table_in_many_factors_add_up() -> None:
    model = oracles.random_model(3, lambda rng, num: [(i, i + 1) for i in range(num - 1)], num=6, cards=(3,))
    table = torch.tensor(model.factors[0][1]).requires_grad_()
    shared = model.replace(factors=tuple((scope, table.detach().numpy()) for scope, _ in model.factors))
    posterior = cai.infer(factor_graph_of(shared, [table] * len(model.factors)), LBP())
    posterior.log_evidence.backward()
    expected = sum(shared.marginal(scope) for scope, _ in shared.factors)
    assert table.grad is not None
    np.testing.assert_allclose(table.grad.numpy(), expected, atol=1e-10)


# -- loops ------------------------------------------------------------------------------------------------------------


@seeds
@loops
def test_beliefs_of_a_fixed_point_multiply_to_the_density(kind: str, seed: int) -> None:
    """And neighbouring beliefs agree; together these say that the messages are a fixed point."""
    model = oracles.sliced(model_of(kind, seed))
    posterior = ask(model, LBP(max_steps=5000, tolerance=1e-13))
    assert posterior.stats.converged
    assert posterior.stats.estimates == ("log_evidence", "marginals")
    assert posterior.stats.certified_error == math.inf
    scopes = {frozenset(scope): scope for scope, _ in model.factors if len(scope) > 1}
    scopes = {key: scope for key, scope in scopes.items() if not any(key < other for other in scopes)}
    degree = {name: sum(name in scope for scope in scopes) for name in model.names}
    support = np.isfinite(model.log_joint)
    total = np.zeros(model.log_joint.shape)
    with np.errstate(divide="ignore"):
        for scope in scopes.values():
            belief = posterior.marginal(*scope).numpy()
            total = total + model._spread(scope, np.log(belief))
            for dim, name in enumerate(scope):
                others = tuple(i for i in range(len(scope)) if i != dim)
                np.testing.assert_allclose(belief.sum(others), posterior.marginal(name).numpy(), atol=1e-10)
        for name in model.names:
            logs = np.where((b := posterior.marginal(name).numpy()) > 0, np.log(b), 0.0)
            total = total + (1 - degree[name]) * model._spread((name,), logs)
    constant = (model.log_joint.astype(float) - np.where(support, total, 0.0))[support]
    np.testing.assert_allclose(constant, float(posterior.log_evidence), atol=1e-9)


def ising(num_rows: int, num_columns: int, seed: int, coupling: tuple[float, float], field: float) -> cai.FactorGraph:
    """Spins x in {0, 1} on a grid, log factors J s s' and h s with s = 2 x - 1."""
    rng = np.random.default_rng(seed)
    spin = np.array([-1.0, 1.0])
    cells = [(r, c) for r in range(num_rows) for c in range(num_columns)]
    factors = [cai.Factor((f"x{r},{c}",), field * rng.normal() * spin) for r, c in cells]
    for r, c in cells:
        for other in ((r + 1, c), (r, c + 1)):
            if other in cells:
                table = rng.uniform(*coupling) * np.outer(spin, spin)
                factors.append(cai.Factor((f"x{r},{c}", f"x{other[0]},{other[1]}"), table))
    return cai.FactorGraph(tuple(cai.Variable(f"x{r},{c}", 2) for r, c in cells), tuple(factors))


@pytest.mark.parametrize("seed", range(4))
def test_attractive_ising_grids_are_bounded_from_below_and_close(seed: int) -> None:
    """Every fixed point of an attractive binary pairwise model lies below log Z (Ruozzi 2012)."""
    graph = ising(3, 4, seed, (0.0, 0.6), 0.5)
    approximate, exact = cai.infer(graph, LBP()), cai.infer(graph, cai.SumProduct())
    error = float(approximate.log_evidence - exact.log_evidence)
    assert -0.2 < error < 0.0
    assert np.abs(all_marginals(approximate) - all_marginals(exact)).max() < 0.1


@seeds
@loops
def test_damping_and_schedules_do_not_move_the_fixed_point(kind: str, seed: int) -> None:
    model = model_of(kind, seed)
    plain = ask(model, LBP(max_steps=5000))
    for method in (LBP(damping=0.5, max_steps=5000), LBP(schedule=Residual(0.2), max_steps=5000)):
        other = ask(model, method)
        assert plain.stats.converged and other.stats.converged
        np.testing.assert_allclose(all_marginals(other), all_marginals(plain), atol=1e-8)
        assert float(other.log_evidence) == pytest.approx(float(plain.log_evidence), abs=1e-8)


@pytest.mark.parametrize("method", [LBP(), LBP(damping=0.3), MAX], ids=["sum", "damped", "max"])
@pytest.mark.parametrize("kind", ["grid", "wide factors", "grid with zeros", "far apart, zeros"])
@pytest.mark.filterwarnings(SWINGS)
def test_renaming_and_reordering_change_nothing(kind: str, method: LoopyBeliefPropagation) -> None:
    model = model_of(kind)
    name = {old: f"y{old}" for old in model.names}
    moved = oracles.reordered(oracles.renamed(model, name), seed=1)
    twisted, old_values = oracles.revalued(model, seed=2)
    plain, again, other = ask(model, method), ask(moved, method), ask(twisted, method)
    assert float(again.log_evidence) == pytest.approx(float(plain.log_evidence), rel=1e-12, abs=1e-12)
    assert float(other.log_evidence) == pytest.approx(float(plain.log_evidence), rel=1e-12, abs=1e-12)
    for old in model.names:
        np.testing.assert_allclose(again.marginal(name[old]), plain.marginal(old), atol=1e-12)
        expected = plain.log_belief(old)[old_values[old]]  # not the mode: of equal values it takes the first
        np.testing.assert_allclose(other.log_belief(old), expected, rtol=1e-12, atol=1e-11)


@seeds
def test_maxima_on_loops_are_a_true_assignment(seed: int) -> None:
    model = model_of("grid", seed)
    posterior = ask(model, LBP(semiring=TropicalSemiring(), damping=0.5))
    best = posterior.most_probable_assignment
    assert float(posterior.log_evidence) == pytest.approx(model.log_density(best), abs=1e-12)
    assert float(posterior.log_evidence) <= model.log_maximum + 1e-12
    assert "most_probable_assignment" in posterior.stats.estimates


@pytest.mark.filterwarnings(SWINGS)
def test_residual_schedule_settles_on_spin_glasses_where_flooding_swings() -> None:
    """Grids of 10 x 10 with couplings from -1.5 to 1.5: counted over six seeds."""
    flooding, residual = [], []
    for seed in range(6):
        graph = ising(10, 10, seed, (-1.5, 1.5), 0.5)
        flooding.append(cai.infer(graph, LBP(max_steps=600)).stats)
        residual.append(cai.infer(graph, LBP(schedule=Residual(0.05), max_steps=3000)).stats)
    assert sum(not stats.converged and stats.residual > 0.1 for stats in flooding) >= 2  # swings, and is not just slow
    assert sum(stats.converged for stats in residual) >= sum(stats.converged for stats in flooding) + 2


def test_not_settling_is_said() -> None:
    graph = ising(10, 10, 1, (-4.0, 4.0), 0.1)
    with pytest.warns(cai.NotConverged, match=r"stopped after 50 sweeps .* nats; .*damping=0.5 or schedule=Residual"):
        posterior = cai.infer(graph, LBP(max_steps=50))
    assert (posterior.stats.converged, posterior.stats.num_steps) == (False, 50)
    assert posterior.stats.residual > 1e-10
    assert posterior.stats.certified_error == math.inf
    assert torch.isfinite(posterior.log_evidence)


def test_a_tree_stopped_early_is_not_called_exact() -> None:
    model = oracles.random_model(0, lambda rng, num: [(i, i + 1) for i in range(num - 1)], num=9, cards=(2,))
    with pytest.warns(cai.NotConverged, match="stopped after 3 sweeps"):
        posterior = ask(model, LBP(max_steps=3))
    assert posterior.stats.estimates == ("log_evidence", "marginals")
    assert posterior.stats.certified_error == math.inf


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tree", "higher order", "grid"])
def test_float32(kind: str) -> None:
    model = model_of(kind)
    graph = factor_graph_of(model, [torch.tensor(table, dtype=torch.float32) for _, table in model.factors])
    posterior, double = cai.infer(graph, LBP()), ask(model)
    assert posterior.log_evidence.dtype == torch.float32
    assert posterior.stats.converged
    for name in model.names:
        assert posterior.marginal(name).dtype == torch.float32
        np.testing.assert_allclose(posterior.marginal(name), double.marginal(name), atol=1e-5)


def test_the_same_every_time_and_no_random_numbers() -> None:
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    one, other = (ask(model_of("grid"), LBP(schedule=Residual())) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.equal(one.log_evidence, other.log_evidence)
    assert (all_marginals(one) == all_marginals(other)).all()


def test_a_grid_that_no_junction_tree_fits() -> None:
    graph = ising(40, 40, 0, (-0.3, 0.3), 0.3)
    posterior = cai.infer(graph, LBP())
    assert posterior.stats.converged
    assert all_marginals(posterior).reshape(-1, 2).sum(1) == pytest.approx(np.ones(1600), abs=1e-12)


@pytest.mark.parametrize("evidence", [{}, {"x2": 1}], ids=["no evidence", "evidence"])
@pytest.mark.parametrize("closed", [False, True], ids=["tree", "loop"])
@pytest.mark.parametrize("method", [LBP(), LBP(damping=0.5), MAX], ids=["sum", "damped", "max"])
def test_contradictions_are_refused(method: LoopyBeliefPropagation, closed: bool, evidence: dict[str, int]) -> None:
    same = torch.where(torch.eye(2) > 0, 0.0, -math.inf).double()
    scopes = [("x0", "x1"), ("x1", "x2")] + [("x2", "x3"), ("x3", "x0")] * closed
    never = cai.Factor(("x0",), [0.0, -math.inf])
    always = cai.Factor(("x2",), [-math.inf, 0.0])
    factors = [cai.Factor(scope, same) for scope in scopes] + [never] + ([] if evidence else [always])
    graph = cai.FactorGraph(tuple(cai.Variable(f"x{i}", 2) for i in range(4)), tuple(factors), evidence)
    with pytest.raises(cai.IncompatibleMethod, match="the evidence has probability zero"):
        cai.infer(graph, method)


@pytest.mark.parametrize("scope", [("x0",), ("x0", "x1"), ("x1", "x2")], ids=["known", "half known", "unknown"])
def test_a_factor_that_forbids_everything_is_refused(scope: tuple[str, ...]) -> None:
    never = cai.Factor(scope, torch.full([2] * len(scope), -math.inf))
    graph = cai.FactorGraph(tuple(cai.Variable(f"x{i}", 2) for i in range(3)), (never,), {"x0": 1})
    for method in (LBP(), MAX):
        with pytest.raises(cai.IncompatibleMethod, match="the evidence has probability zero"):
            cai.infer(graph, method)


def test_numbers_too_large_for_their_type_are_said() -> None:
    factors = [cai.Factor(("x",), torch.full((2,), 2e38, dtype=torch.float32)) for _ in range(2)]
    with pytest.raises(cai.NonFinite, match="a message of sweep 1 is not finite"):
        cai.infer(cai.FactorGraph((cai.Variable("x", 2),), tuple(factors)), LBP())


@pytest.mark.parametrize("method", [LBP(), LBP(damping=0.5), LBP(schedule=Residual())])
def test_an_empty_graph_and_one_without_factors(method: LoopyBeliefPropagation) -> None:
    assert float(cai.infer(cai.FactorGraph(), method).log_evidence) == 0.0
    free = cai.infer(cai.FactorGraph((cai.Variable("x", 3), cai.Variable("y", 2))), method)
    assert float(free.log_evidence) == pytest.approx(math.log(6))
    assert free.marginal("x").tolist() == pytest.approx([1 / 3] * 3)
    assert cai.infer(free.graph, MAX).most_probable_assignment == {"x": 0, "y": 0}


# -- trajectories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_an_unrolled_trajectory_is_a_chain_and_exact(discount: float) -> None:
    graph = cai.load_model("risky_branch").replace(discount=discount)
    loopy, exact = cai.infer(graph, LBP()), cai.infer(graph, cai.SumProduct())
    assert isinstance(loopy.graph, cai.FactorGraph)
    assert loopy.stats.estimates == ()
    assert float(loopy.log_evidence) == pytest.approx(float(exact.log_evidence), abs=1e-10)
    np.testing.assert_allclose(loopy.state_marginals, exact.state_marginals, atol=1e-10)
    np.testing.assert_allclose(loopy.state_action_marginals, exact.state_action_marginals, atol=1e-10)
    np.testing.assert_allclose(loopy.policy(0, t=0).probs, exact.policy(0, t=0).probs, atol=1e-10)


def test_a_long_trajectory_keeps_one_table_for_all_steps() -> None:
    graph = cai.load_model("gridworld", size=3).replace(horizon=40)
    loopy, exact = cai.infer(graph, LBP()), cai.infer(graph, cai.SumProduct())
    assert sum(group.log_table.shape[-1] for group in loopy.kernel.factors.groups) < 5
    np.testing.assert_allclose(loopy.state_marginals, exact.state_marginals, atol=1e-10)


# -- interrupting, saving ---------------------------------------------------------------------------------------------


class Breaking(cai.AbstractCallback):
    def __init__(self, after: int) -> None:
        self.after, self.steps = after, []

    def on_step(self, progress: Any) -> None:
        self.steps.append(progress)
        if len(self.steps) == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "method",
    [LBP(), LBP(damping=0.3), LBP(schedule=Residual(0.3)), MAX],
    ids=["flooding", "damped", "residual", "max"],
)
@pytest.mark.parametrize("kind", ["grid", "grid with zeros", "wide factors"])
@pytest.mark.filterwarnings(SWINGS)
def test_a_resumed_run_is_bit_identical(
    kind: str, method: LoopyBeliefPropagation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, file = factor_graph_of(model_of(kind)), tmp_path / "file"
    whole = cai.infer(graph, method)
    monkeypatch.setattr(loopy_belief_propagation, "_SECONDS", 0.0)  # one sweep a step
    breaking = Breaking(4)
    with pytest.raises(KeyboardInterrupt):
        cai.infer(graph, method, callbacks=[cai.Checkpoint(file, interval=0.0), breaking])
    assert [progress.num_steps for progress in breaking.steps] == [1, 2, 3, 4]
    monkeypatch.undo()
    resumed = cai.infer(graph, method, resume=file)
    assert resumed.stats.num_steps == whole.stats.num_steps > 4
    assert resumed.stats.residual == whole.stats.residual
    assert all(torch.equal(*pair) for pair in zip(resumed.messages, whole.messages, strict=True))


@pytest.mark.parametrize("method", [LBP(), MAX], ids=["sum", "max"])
@pytest.mark.parametrize("kind", ["grid", "grid with zeros", "higher order, zeros, evidence"])
def test_saved_and_loaded(kind: str, method: LoopyBeliefPropagation, tmp_path: Path) -> None:
    posterior = ask(model_of(kind), method)
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert again.method == method
    assert again.stats == posterior.stats
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    assert (all_marginals(again) == all_marginals(posterior)).all()


def test_one_table_that_learns_in_many_factors_is_saved_and_loaded(tmp_path: Path) -> None:
    """In the file they are as many tables, which are grouped in another way."""
    table = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    variables = tuple(cai.Variable(name, 3) for name in "abcd")
    graph = cai.FactorGraph(variables, tuple(cai.Factor(scope, table) for scope in ("ab", "bc", "cd", "da")))
    posterior = cai.infer(graph, LBP())
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert len(again.kernel.factors.groups[0].log_table.unbind(-1)) == 4
    np.testing.assert_allclose(all_marginals(again), all_marginals(posterior), atol=1e-13)
    assert again.log_evidence.requires_grad


# -- refusals ---------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "damping 1": ({"damping": 1.0}, r"damping must lie in \[0, 1\), got 1.0"),
    "damping below 0": ({"damping": -0.1}, r"damping must lie in \[0, 1\)"),
    "damping nan": ({"damping": math.nan}, r"damping must lie in \[0, 1\)"),
    "tolerance": ({"tolerance": -1e-3}, "tolerance must be a finite number of at least 0 .* got -0.001"),
    "tolerance inf": ({"tolerance": math.inf}, "tolerance must be a finite number"),
    "max_steps": ({"max_steps": 0}, "max_steps must be a whole number >= 1, got 0"),
    "max_steps 2.5": ({"max_steps": 2.5}, "max_steps must be a whole number >= 1, got 2.5"),
    "semiring": ({"semiring": "max"}, r"expected LogSemiring\(\) or TropicalSemiring\(\), got 'max'"),
    "schedule": ({"schedule": "residual"}, r"expected a schedule such as Flooding\(\) or Residual\(\), got 'residual'"),
    "schedule's class": ({"schedule": Residual}, "expected a schedule"),
}


@pytest.mark.parametrize("settings, message", WRONG.values(), ids=WRONG)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(model_of("tree"), LBP(**settings))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan])
def test_wrong_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"Residual: fraction must lie in \(0, 1\]"):
        Residual(fraction)


def branch(**changes: Any) -> cai.TrajectoryGraph:
    return cai.load_model("risky_branch").replace(**changes)


LACKING: dict[str, tuple[Any, str]] = {
    "no graph": (lambda: None, "answers a FactorGraph, or a TrajectoryGraph .* not a NoneType"),
    "no tables": (lambda: branch(dynamics=lambda s, a: s), "needs tables of the dynamics .* got function"),
    "no dynamics": (lambda: branch(dynamics=None), "needs tables of the dynamics .* got none"),
    "no start": (lambda: branch(initial=None), "needs the graph's initial, which is None"),
    "no horizon": (lambda: branch(horizon=None), r"needs a finite horizon.*SumProduct"),
    "temperature 0": (lambda: branch(temperature=0.0), "needs a positive temperature.*MaxProduct"),
}


@pytest.mark.parametrize("graph, message", LACKING.values(), ids=LACKING)
def test_graphs_that_lack_something(graph: Any, message: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=message):
        cai.infer(graph(), LBP())


def test_a_trajectory_too_wide_to_unroll_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.graph.unrolling.MAX_ENTRIES", 3)
    with pytest.raises(cai.IncompatibleMethod, match="entries.*SumProduct needs no unrolling"):
        cai.infer(branch(), LBP())


UNAVAILABLE: dict[str, tuple[Any, str]] = {
    "pair": (
        lambda p: p.marginal("x0", "x8"),
        "no joint marginal of x0, x8 .*no factor holds them all; ask SumProduct",
    ),
    "sample": (lambda p: p.sample(3), "no joint distribution; ask SumProduct"),
    "log_prob": (lambda p: p.log_prob({}), "no joint distribution; ask SumProduct"),
    "mode": (lambda p: p.most_probable_assignment, r"LoopyBeliefPropagation\(semiring=TropicalSemiring\(\)\) or Max"),
    "q": (lambda p: p.q(0, 0), "gives no q"),
    "policy": (lambda p: p.policy(0), "gives no policy"),
    "state_marginals": (lambda p: p.state_marginals, "gives no state_marginals"),
}


@pytest.mark.parametrize("read, message", UNAVAILABLE.values(), ids=UNAVAILABLE)
def test_what_beliefs_do_not_give(read: Any, message: str) -> None:
    with pytest.raises(cai.Unavailable, match=message):
        read(ask(model_of("grid")))


@pytest.mark.parametrize("names", [("x0", "nobody"), ("x0", "x0")])
def test_wrong_names(names: tuple[str, ...]) -> None:
    for method in (LBP(), MAX):
        with pytest.raises(ValueError, match="marginal: "):
            ask(model_of("tree"), method).marginal(*names)


def test_defaults() -> None:
    assert LBP() == LBP(LogSemiring(), 0.0, 1e-10, 1000, Flooding())
    assert hash(LBP()) == hash(LBP())
