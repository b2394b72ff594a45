"""Factor graphs: building, evidence, density, views."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch

import cai
from cai import Factor, FactorGraph, Variable

LOG_F, LOG_G = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)


def example(**changes: Any) -> FactorGraph:
    parts = {
        "variables": (Variable("x", 2), Variable("y", 3)),
        "factors": (Factor(("x", "y"), LOG_F, "f"), Factor(("y",), LOG_G, "g")),
    }
    return FactorGraph(**(parts | changes))


# -- construction -----------------------------------------------------------------------------------------------------

BAD = {
    "name": (lambda: Variable(3, 2), "variable 3: the name must be a string"),
    "truth": (lambda: Variable("x", True), "variable 'x': cardinality"),
    "no variable": (lambda: FactorGraph(("x",)), "FactorGraph: variables must be Variables, one by one, got 'x'"),
    "no factor": (lambda: example().add_factors([Factor((), 0.0)]), "factors must be Factors, one by one"),
    "no names": (lambda: example().rename(3), "rename: expected a mapping or a function .* got 3"),
    "cardinality": (lambda: Variable("x", 0), "variable 'x': cardinality must be a whole number .* got 0"),
    "fraction": (lambda: Variable("x", 2.5), "variable 'x': cardinality"),
    "dimensions": (lambda: Factor(("x",), np.zeros((2, 2)), "f"), r"factor 'f': 1 variables .* got shape \[2, 2\]"),
    "twice in a factor": (lambda: Factor(("x", "x"), np.zeros((2, 2)), "f"), "'f': a variable stands in it twice"),
    "nan": (lambda: Factor(("x",), [0.0, math.nan], "f"), "'f': the log table holds NaN"),
    "inf": (lambda: Factor(("x",), [0.0, math.inf], "f"), r"'f': the log table holds NaN or \+inf"),
    "text": (lambda: Factor(("x",), "table", "f"), "factor 'f': cannot be read as an array"),
    "name twice": (lambda: example(variables=(Variable("x", 2),) * 2), "two variables called 'x'"),
    "unknown variable": (lambda: example(variables=(Variable("x", 2),)), "factor 'f': there is no variable 'y'"),
    "size": (
        lambda: example(variables=(Variable("x", 2), Variable("y", 4))),
        "factor 'f': variable 'y' has 4 values, its dimension 3",
    ),
    "evidence name": (lambda: example(evidence={"z": 0}), "evidence: there is no variable 'z'"),
    "evidence value": (lambda: example(evidence={"y": 3}), "evidence: 'y' = 3 is not a whole number in 0..2"),
    "evidence fraction": (lambda: example(evidence={"y": 0.5}), "evidence: 'y'.*0.5"),
    "conditioned value": (lambda: example().condition({"x": -1}), "evidence: 'x' = -1 is not a whole number in 0..1"),
    "contradiction": (
        lambda: example(evidence={"x": 1}).condition({"x": 0}),
        "'x' is observed to be 1 already, not 0",
    ),
}


@pytest.mark.parametrize("make, message", BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_adding_makes_copies() -> None:
    empty = FactorGraph()
    grown = empty.add_variables(Variable("x", 2), Variable("y", 3)).add_factors(Factor(("y", "x"), LOG_F.T, "f"))
    assert (len(empty.variables), len(grown.variables), len(grown.factors)) == (0, 2, 1)
    assert grown.cardinalities == {"x": 2, "y": 3}
    assert grown.condition({"x": 1}).evidence == {"x": 1}
    assert grown.evidence == {}


def test_tables_and_evidence_of_the_user_are_copied() -> None:
    table, evidence = np.zeros(2), {"x": 1}
    graph = FactorGraph((Variable("x", 2),), (Factor(("x",), table),), evidence)
    table[:], evidence["x"] = 7.0, 0
    assert graph.factors[0].log_table.tolist() == [0.0, 0.0]
    assert graph.evidence == {"x": 1}


def test_tables_keep_dtype_and_gradient() -> None:
    table = torch.zeros(2, dtype=torch.float32, requires_grad=True)
    factor = Factor(("x",), table)
    assert factor.log_table.dtype == torch.float32
    assert factor.log_table.requires_grad
    assert Factor(("x",), [0, 1]).log_table.dtype == torch.float64


# -- density ----------------------------------------------------------------------------------------------------------


def test_density_of_every_assignment() -> None:
    x, y = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    torch.testing.assert_close(example().log_density({"x": x, "y": y}), LOG_F + LOG_G)
    torch.testing.assert_close(example().log_density({"x": x[:, :1], "y": y[:1]}), LOG_F + LOG_G)
    assert float(example().log_density({"x": 1, "y": np.int64(2)})) == float(LOG_F[1, 2] + LOG_G[2])


def test_density_with_evidence() -> None:
    known = example(evidence={"y": 2})
    torch.testing.assert_close(known.log_density({"x": [0, 1]}), LOG_F[:, 2] + LOG_G[2])
    assert known.log_density({"x": 0, "y": [1, 2]}).isneginf().tolist() == [True, False]


def test_density_of_forbidden_assignments_and_constants() -> None:
    graph = FactorGraph((Variable("x", 2),), (Factor(("x",), [0.0, -math.inf]), Factor((), 3.0)))
    assert graph.log_density({"x": [0, 1]}).tolist() == [3.0, -math.inf]
    assert FactorGraph().log_density({}) == 0.0


def test_density_has_gradients() -> None:
    table = LOG_F.clone().requires_grad_()
    graph = example(factors=(Factor(("x", "y"), table), Factor(("x", "y"), table)))
    (gradient,) = torch.autograd.grad(graph.log_density({"x": 1, "y": 0}), table)
    assert gradient.tolist() == [[0, 0, 0], [2, 0, 0]]


@pytest.mark.parametrize(
    "assignment, message",
    [
        ({"x": 0}, "log_density: no value for 'y'"),
        ({"x": 0, "y": 0, "z": 0}, "log_density: no variable 'z'"),
        ({"x": 0, "y": 3}, "y 3 is outside 0..2"),
        ({"x": 0.5, "y": 0}, "x must be whole numbers, got 0.5"),
    ],
)
def test_bad_assignments(assignment: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example().log_density(assignment)


# -- views ------------------------------------------------------------------------------------------------------------


def test_networkx_view_is_bipartite() -> None:
    view = example(evidence={"y": 2}).to_networkx()
    kinds = networkx.get_node_attributes(view, "kind")
    assert sorted(kinds.values()) == ["factor", "factor", "variable", "variable"]
    assert all({kinds[a], kinds[b]} == {"factor", "variable"} for a, b in view.edges)
    assert set(view.neighbors(("factor", 0))) == {("variable", "x"), ("variable", "y")}
    assert view.nodes["variable", "y"] == {"kind": "variable", "label": "y", "cardinality": 3, "observed": 2}
    assert view.nodes["variable", "x"]["observed"] is None
    assert view.nodes["factor", 1]["label"] == "g"
    assert view.nodes["factor", 0]["scope"] == ("x", "y")


# -- edits ------------------------------------------------------------------------------------------------------------


def test_without_takes_factors_away() -> None:
    assert [factor.name for factor in example().without("f").factors] == ["g"]
    with pytest.raises(ValueError, match="without: there is no factor 'h'"):
        example().without("h")


def test_rename_by_mapping_and_by_function() -> None:
    known = example(evidence={"y": 2})
    for renamed in (known.rename({"x": "left x", "y": "left y"}), known.rename(lambda name: f"left {name}")):
        assert renamed.cardinalities == {"left x": 2, "left y": 3}
        assert renamed.evidence == {"left y": 2}
        assert renamed.factors[0].variables == ("left x", "left y")
    with pytest.raises(ValueError, match="rename: there is no variable 'z'"):
        known.rename({"z": "w"})
    with pytest.raises(ValueError, match="rename: two variables would be called 'y'"):
        known.rename({"x": "y"})


def test_union_of_two_graphs() -> None:
    other = example(evidence={"x": 1}).rename(lambda name: f"{name}'")
    both = example(evidence={"y": 2}) | other
    assert both.cardinalities == {"x": 2, "y": 3, "x'": 2, "y'": 3}
    assert both.evidence == {"y": 2, "x'": 1}
    assert both.log_density({"x": 0, "y'": 1}) == LOG_F[0, 2] + LOG_G[2] + LOG_F[1, 1] + LOG_G[1]
    with pytest.raises(ValueError, match="both graphs have a variable 'x'; rename"):
        example() | example()
    with pytest.raises(TypeError):
        example() | 3  # type: ignore[operator]


def test_visits_of_one_state_or_several() -> None:
    chain = FactorGraph((Variable("p", 3), Variable("q", 3)))
    mask = [False, True, False]
    for states in (
        1,
        [1],
        (1,),
        {1},
        np.array([1]),
        torch.tensor([1]),
        torch.tensor(1),
        np.array(mask),
        torch.tensor(mask),
    ):
        grown = chain.add_visits("was", states, along=["p", "q"])
        assert grown.log_density({"p": 1, "q": 0, "was0": 1, "was1": [0, 1]}).tolist() == [-math.inf, 0.0]
        assert grown.log_density({"p": 0, "q": 2, "was0": 0, "was1": [0, 1]}).tolist() == [0.0, -math.inf]
    with pytest.raises(ValueError, match=r"name the variables to watch: along="):
        chain.add_visits("was", [1])
    with pytest.raises(ValueError, match="add_visits: there is no variable 'r'"):
        chain.add_visits("was", [1], along=["r"])
    with pytest.raises(ValueError, match=r"a mask must be \[3\], got \[2\]"):
        chain.add_visits("was", torch.tensor([True, False]), along=["p", "q"])
    with pytest.raises(ValueError, match="along must be names in order of time"):
        chain.add_visits("was", [1], along="p")
    with pytest.raises(ValueError, match="there is a variable 'was0' already"):
        chain.add_visits("was", [1], along=["p", "q"]).add_visits("was", [2], along=["p", "q"])
    with pytest.raises(ValueError, match="a state of 'was' 3 is outside 0..2"):
        chain.add_visits("was", [3], along=["p"])


def test_the_trajectory_is_kept_by_edits_and_lost_by_names() -> None:
    graph = cai.load_model("risky_branch")
    unrolled = graph.unroll()
    assert unrolled.trajectory is graph
    assert unrolled.condition({"s1": 1}).add_visits("was", 1).trajectory is graph
    assert (unrolled | example()).trajectory is graph
    assert unrolled.rename({}).trajectory is None


def test_the_widest_dtype_rules() -> None:
    single, double = Factor(("x",), torch.zeros(2)), Factor(("x", "y"), LOG_F)
    mixed = example(factors=(single, double))
    assert mixed.like.dtype == torch.float64
    assert cai.infer(mixed, cai.SumProduct()).log_evidence.dtype == torch.float64
    assert example(factors=(single,)).like.dtype == torch.float32


def test_evidence_of_every_kind_of_whole_number() -> None:
    for value in (2, np.int64(2), torch.tensor(2), np.array(2)):
        known = example().condition({"y": value})
        assert type(known.evidence["y"]) is int
        assert known.evidence == {"y": 2}


def test_a_graph_is_shown_in_one_line() -> None:
    known = example(evidence={"y": 2})
    assert repr(known) == "FactorGraph(2 variables, 2 factors, observed: y)"
    assert "\n" not in repr(cai.infer(known, cai.SumProduct()))


# -- files ------------------------------------------------------------------------------------------------------------


def test_uai_files(tmp_path: Path) -> None:
    path = tmp_path / "model.uai"
    text = example(evidence={"y": 2}).to_uai(path)
    assert path.read_text() == text
    again = FactorGraph.from_uai(path, evidence=f"{path}.evid")
    assert again.evidence == {"x1": 2}
    torch.testing.assert_close(again.log_density({"x0": [0, 1]}), LOG_F[:, 2] + LOG_G[2])
    assert FactorGraph.from_uai(text).cardinalities == {"x0": 2, "x1": 3}
    assert FactorGraph.from_uai(path, evidence=f"{path}.evid").evidence
    example().to_uai(path)  # what was observed before must not be read with it
    assert FactorGraph.from_uai(path, evidence=f"{path}.evid").evidence == {}
    example().to_uai(tmp_path / "plain.uai")
    assert not (tmp_path / "plain.uai.evid").exists()
    with pytest.raises(FileNotFoundError):
        FactorGraph.from_uai(tmp_path / "nothing.uai")


def test_unrolled_names() -> None:
    graph = cai.TrajectoryGraph(
        cai.factors.Delta(0),
        cai.factors.TabularDynamics(np.full((2, 3, 2), 0.5)),
        cai.factors.TabularReward([0.0, 1.0]),
        horizon=2,
    )
    unrolled = graph.condition(states={1: 1}, actions={0: 2}).unroll()
    assert unrolled.cardinalities == {"s0": 2, "s1": 2, "s2": 2, "a0": 3, "a1": 3}
    assert unrolled.evidence == {"s1": 1, "a0": 2}
    assert [factor.name for factor in unrolled.factors][:4] == ["initial", "prior 0", "dynamics 0", "reward 0"]
    assert graph.replace(discount=0.5).unroll().cardinalities["s0"] == 3  # one more, the absorbing state
