"""The UAI exchange format: round trips, files with densities known by hand, other readers, and malformed texts."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from cai import Factor, FactorGraph, Variable
from cai.graph.conversions.uai import evidence_text, parse_evidence, parse_uai, read_text, uai_text

# The density of every assignment by hand: f(x0, x1) g(x1) and the constant 4.
MARKOV = """
MARKOV
2
2 3
3
2 0 1
1 1
0

6
 1 2 3
 4 0 .5
3
 0.1 1e0 2.5E+01

1
 4
"""
MARKOV_DENSITY = {(0, 0): 0.4, (0, 1): 8.0, (0, 2): 300.0, (1, 0): 1.6, (1, 1): 0.0, (1, 2): 50.0}

# Cloudy x0, sprinkler x1, rain x2, wet grass x3 (Russell and Norvig, Artificial Intelligence, figure 14.12).
SPRINKLER = """BAYES
4
2 2 2 2
4
1 0
2 0 1
2 0 2
3 1 2 3
2
0.5 0.5
4
0.5 0.5
0.9 0.1
4
0.8 0.2
0.2 0.8
8
1.0 0.0
0.1 0.9
0.1 0.9
0.01 0.99
"""


def assignments(graph: FactorGraph) -> list[dict[str, int]]:
    names = [variable.name for variable in graph.variables]
    values = itertools.product(*(range(variable.cardinality) for variable in graph.variables))
    return [dict(zip(names, row, strict=True)) for row in values]


def log_evidence(graph: FactorGraph) -> float:
    """The logarithm of sum_x prod_f f(x), over every assignment, in 50 digits."""
    with mpmath.workdps(50):
        densities = [mpmath.exp(mpmath.mpf(graph.log_density(row).item())) for row in assignments(graph)]
        return float(mpmath.log(mpmath.fsum(densities)))


def random_graph(seed: int, spread: float = 2.0) -> FactorGraph:
    """Mixed cardinalities, scopes of up to three variables in any order, zeros, a constant, evidence.

    One assignment, which the evidence agrees with, is never forbidden.
    """
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, size=5)
    allowed = random.integers(sizes)
    factors = [Factor((), torch.tensor(float(random.normal(scale=spread)), dtype=torch.float64), "constant")]
    for index in range(6):
        scope = random.permutation(5)[: random.integers(1, 4)]
        table = random.normal(scale=spread, size=sizes[scope])
        forbidden = random.random(table.shape) < 0.1
        forbidden[tuple(allowed[scope])] = False
        factors.append(Factor(tuple(f"v{i}" for i in scope), np.where(forbidden, -math.inf, table), f"f{index}"))
    variables = tuple(Variable(f"v{index}", int(size)) for index, size in enumerate(sizes))
    return FactorGraph(variables, tuple(factors), {"v3": int(allowed[3]), "v0": int(allowed[0])})


def there_and_back(graph: FactorGraph, kind: str = "MARKOV") -> FactorGraph:
    return parse_uai(uai_text(graph, kind), evidence_text(graph))


# -- reading ----------------------------------------------------------------------------------------------------------


def test_markov_file_has_the_density_computed_by_hand() -> None:
    graph = parse_uai(MARKOV)
    assert graph.cardinalities == {"x0": 2, "x1": 3}
    assert [factor.name for factor in graph.factors] == ["factor 0", "factor 1", "factor 2"]
    assert [factor.variables for factor in graph.factors] == [("x0", "x1"), ("x1",), ()]
    for (x0, x1), density in MARKOV_DENSITY.items():
        assert graph.log_density({"x0": x0, "x1": x1}).exp().item() == pytest.approx(density, rel=1e-14)
    assert all(factor.log_table.dtype == torch.float64 for factor in graph.factors)


def test_white_space_means_nothing() -> None:
    one_line, many_lines = " ".join(MARKOV.split()), "\r\n\t".join(MARKOV.split())
    for text in (one_line, many_lines):
        for factor, same in zip(parse_uai(text).factors, parse_uai(MARKOV).factors, strict=True):
            assert torch.equal(factor.log_table, same.log_table)


def test_bayes_file_is_a_distribution() -> None:
    """p(rain | wet) of the textbook's network is 0.4581 / 0.6471 for its numbers."""
    graph = parse_uai(SPRINKLER)
    assert log_evidence(graph) == pytest.approx(0.0, abs=1e-14)
    wet = log_evidence(graph.condition({"x3": 1}))
    assert math.exp(wet) == pytest.approx(0.6471, abs=1e-12)
    assert math.exp(log_evidence(graph.condition({"x3": 1, "x2": 1})) - wet) == pytest.approx(0.4581 / 0.6471)


def test_bayes_rows_may_be_rounded_and_are_left_as_they_are() -> None:
    graph = parse_uai("BAYES 1 3 1 1 0 3 0.333 0.333 0.3333")
    assert graph.factors[0].log_table.exp().tolist() == pytest.approx([0.333, 0.333, 0.3333], rel=1e-15)


@pytest.mark.parametrize(
    "word, expected",
    [
        ("1e-400", -400 * math.log(10)),
        ("3.2e+500", math.log(3.2) + 500 * math.log(10)),
        ("0.25E1000", math.log(0.25) + 1000 * math.log(10)),
        ("0." + 399 * "0" + "1", -400 * math.log(10)),
        ("7" + 400 * "0", math.log(7) + 400 * math.log(10)),
        ("5e-324", math.log(5) - 324 * math.log(10)),  # of float64's subnormal numbers, which have few digits
        ("1.2345678e-310", math.log(1.2345678) - 310 * math.log(10)),
        ("0e-400", -math.inf),
        ("0e400", -math.inf),
        ("-0.0", -math.inf),
        ("+2.", math.log(2)),
        (".5", -math.log(2)),
    ],
)
def test_values_beyond_floats_are_read_in_log_space(word: str, expected: float) -> None:
    table = parse_uai(f"MARKOV 1 2 1 1 0 2 {word} 1").factors[0].log_table
    assert table[0].item() == pytest.approx(expected, rel=1e-15)
    assert table[1].item() == 0.0


def test_models_without_factors_or_variables() -> None:
    assert parse_uai("MARKOV 2 2 3 0").cardinalities == {"x0": 2, "x1": 3}
    nothing = parse_uai("MARKOV 0 0")
    assert (nothing.variables, nothing.factors) == ((), ())
    assert parse_uai("MARKOV 0 1 0 1 2.5").log_density({}).exp().item() == pytest.approx(2.5)


@pytest.mark.parametrize("text", ["2 1 2 0 1", "1\n2 1 2 0 1", "\n1\n2\n1 2\n0 1\n", "2\n1 2\n0 1", "3 1 2 0 1 1 2"])
def test_evidence_of_both_conventions(text: str) -> None:
    assert parse_uai(MARKOV, text).evidence == {"x0": 1, "x1": 2}


@pytest.mark.parametrize("text", ["0", "0\n", "1\n0"])
def test_empty_evidence_of_both_conventions(text: str) -> None:
    assert parse_uai(MARKOV, text).evidence == {}
    assert parse_uai(MARKOV).evidence == {}


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_round_trip_of_random_graphs(seed: int) -> None:
    graph = random_graph(seed)
    back = there_and_back(graph)
    assert [v.cardinality for v in back.variables] == [v.cardinality for v in graph.variables]
    assert back.evidence == {name.replace("v", "x"): value for name, value in graph.evidence.items()}
    for factor, same in zip(graph.factors, back.factors, strict=True):
        assert tuple(name.replace("v", "x") for name in factor.variables) == same.variables
        torch.testing.assert_close(same.log_table, factor.log_table, rtol=1e-14, atol=1e-15)
    for row in assignments(graph):
        renamed = {name.replace("v", "x"): value for name, value in row.items()}
        torch.testing.assert_close(back.log_density(renamed), graph.log_density(row), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_round_trip_keeps_the_evidence_of_graphs_far_beyond_floats(seed: int) -> None:
    graph = random_graph(seed, spread=900.0)
    entries = torch.cat([factor.log_table.flatten() for factor in graph.factors])
    assert entries[entries.isfinite()].abs().max() > 745.0  # beyond what float64 can hold
    assert log_evidence(there_and_back(graph)) == pytest.approx(log_evidence(graph), rel=1e-14)


def test_values_beyond_floats_are_written_as_mantissa_and_exponent() -> None:
    """-1500 nats is exp(-1500) = 3.61640570030693658889...e-652, 900 nats 7.3288142223074217...e390 (mpmath)."""
    extremes = [-1500.0, 900.0, -1e6, 1e15, -745.2, 709.9, -math.inf, 0.0]
    text = uai_text(FactorGraph((Variable("x", 8),), (Factor(("x",), extremes),)))
    written = text.split()[-8:]
    with mpmath.workdps(30):
        for word, nats in zip(written[:6], extremes[:6], strict=True):
            assert abs(mpmath.log(mpmath.mpf(word)) - nats) < 1e-15 * abs(nats) + 1e-16
    assert written[0].startswith("3.61640570030693") and written[0].endswith("e-652")
    assert written[6:] == ["0", "1"]
    assert parse_uai(text).factors[0].log_table.tolist() == pytest.approx(extremes, rel=1e-15)


def test_numbers_are_short_and_have_no_exponent_where_they_can() -> None:
    """Readers there are (pgmpy's) that know no exponents."""
    numbers = ["0.3", "0.1", "0.00001", "0.000000000012", "12345678901234567000", "1", "0", "2.5"]
    table = torch.tensor([float(number) for number in numbers], dtype=torch.float64).log()
    written = uai_text(FactorGraph((Variable("x", 8),), (Factor(("x",), table),))).split()[-8:]
    assert [*written[:4], *written[5:]] == [*numbers[:4], *numbers[5:]]
    assert written[4].isdigit() and float(written[4]) == pytest.approx(float(numbers[4]), rel=1e-14)


def test_float32_and_learned_tables_are_written() -> None:
    table = torch.tensor([0.1, -2.0], dtype=torch.float32, requires_grad=True)
    back = there_and_back(FactorGraph((Variable("x", 2),), (Factor(("x",), table),)))
    torch.testing.assert_close(back.factors[0].log_table, table.detach().double(), rtol=1e-14, atol=1e-15)


def test_order_of_variables_is_kept_and_dimensions_are_not_mixed_up() -> None:
    b, a, table = Variable("b", 2), Variable("a", 3), torch.arange(6, dtype=torch.float64).reshape(3, 2).log()
    text = uai_text(FactorGraph((b, a), (Factor(("a", "b"), table),), {"a": 2}))
    assert " ".join(text.split()) == "MARKOV 2 2 3 1 2 1 0 6 0 1 2 3 4 5"
    assert evidence_text(FactorGraph((b, a), (), {"a": 2})) == "1 1 2\n"
    assert evidence_text(FactorGraph((b, a))) == "0\n"


def test_bayes_round_trip() -> None:
    graph = parse_uai(SPRINKLER, "1 3 1")
    assert uai_text(graph, kind="BAYES").split() == [word.removesuffix(".0") for word in SPRINKLER.split()]
    assert log_evidence(there_and_back(graph, "BAYES")) == pytest.approx(log_evidence(graph), abs=1e-15)


HALF = torch.full((2, 2), 0.5, dtype=torch.float64).log()
X, Y = Variable("x", 2), Variable("y", 2)
PRIOR = Factor(("x",), HALF[0], "prior")
BAD_NETWORKS = {
    "kind": ((X,), (PRIOR,), "LIMID", "to_uai: kind must be 'MARKOV' or 'BAYES', got 'LIMID'"),
    "no parent": ((X, Y), (PRIOR,), "BAYES", "variable 'y' is the last of no factor"),
    "two": (
        (X,),
        (PRIOR, Factor(("x",), HALF[0], "twin")),
        "BAYES",
        "'x' is the last of two factors, 'prior' and 'twin'",
    ),
    "row": (
        (X, Y),
        (PRIOR, Factor(("x", "y"), HALF + torch.tensor([[0.0], [0.1]]), "cpt")),
        "BAYES",
        r"'cpt', row \(x = 1\): p\(y \| ...\) sums to 1.10517, not 1",
    ),
    "constant": ((X,), (PRIOR, Factor((), 0.0, "one")), "BAYES", "'one' is a constant"),
    "cycle": (
        (X, Y),
        (Factor(("y", "x"), HALF), Factor(("x", "y"), HALF)),
        "BAYES",
        "in a cycle, [xy] -> [xy] -> [xy]",
    ),
    "no exponent": ((X,), (Factor(("x",), [0.0, -1e300], "far"),), "MARKOV", r"'far' holds values beyond 1e\+18 nats"),
}


@pytest.mark.parametrize("variables, factors, kind, message", BAD_NETWORKS.values(), ids=BAD_NETWORKS)
def test_graphs_that_cannot_be_written(variables: tuple, factors: tuple, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uai_text(FactorGraph(variables, factors), kind)


# -- other readers ----------------------------------------------------------------------------------------------------


def test_pgmpy_reads_what_we_write() -> None:
    """Markov networks only: pgmpy 1.1 reads BAYES tables with the child first, against the format."""
    readwrite = pytest.importorskip("pgmpy.readwrite")
    random = np.random.default_rng(0)
    cycle = [(0, 1), (1, 2), (2, 3), (0, 3), (0, 2, 3)]
    variables = tuple(Variable(f"x{index}", size) for index, size in enumerate((2, 3, 2, 4)))
    factors = [
        Factor(tuple(f"x{i}" for i in scope), random.normal(scale=12, size=[variables[i].cardinality for i in scope]))
        for scope in cycle
    ]
    graph = FactorGraph(variables, tuple(factors))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = readwrite.UAIReader(string=uai_text(graph)).get_model()
        partition = theirs.get_partition_function()
    for factor, table in zip(graph.factors, theirs.get_factors(), strict=True):
        assert [name.replace("var_", "x") for name in table.variables] == list(factor.variables)
        np.testing.assert_allclose(np.log(table.values), factor.log_table, rtol=1e-12, atol=1e-14)
    assert math.log(partition) == pytest.approx(log_evidence(graph), rel=1e-12)


# -- malformed texts --------------------------------------------------------------------------------------------------

HEAD = "MARKOV\n2\n2 3\n1\n2 0 1\n"
BAD_MODELS = {
    "empty": ("", "UAI model: the text is empty; expected the kind of network"),
    "kind": ("LIMID\n1\n2\n0", "UAI model, line 1, word 1: expected MARKOV or BAYES, got 'LIMID'"),
    "comment": ("c made by hand\n" + HEAD, "line 1, word 1: expected MARKOV or BAYES, got 'c'"),
    "no variables": ("MARKOV", "the text ends after 1 words, 1 too few; expected number of variables"),
    "variables": ("MARKOV\ntwo\n", "line 2, word 1: number of variables: expected a whole number, got 'two'"),
    "fraction": ("MARKOV\n2.0\n", "number of variables: expected a whole number, got '2.0'"),
    "negative count": ("MARKOV\n-2\n", "number of variables: expected a whole number of at least 0, got -2"),
    "too many": ("MARKOV\n999999999\n2 2 2", "999999996 too few; expected cardinality of variable 0..999999998"),
    "cardinality": ("MARKOV\n2\n2 -3\n0", "line 3, word 2: cardinality of variable 1: .* of at least 1, got -3"),
    "no value": ("MARKOV\n2\n2 0\n0", "cardinality of variable 1: expected a whole number of at least 1, got 0"),
    "underscore": ("MARKOV\n1\n1_0\n0", "cardinality of variable 0: expected a whole number, got '1_0'"),
    "scope": ("MARKOV\n2\n2 3\n1\n2 0", "1 too few; expected scope of factor 0: variable 0..1"),
    "index": ("MARKOV\n2\n2 3\n1\n2 0 2\n", "line 5, word 3: scope of factor 0: variable 1: .* in 0..1, got 2"),
    "negative index": ("MARKOV\n2\n2 3\n1\n2 0 -1\n", "scope of factor 0: variable 1: .* in 0..1, got -1"),
    "twice": ("MARKOV\n2\n2 3\n1\n2 1 1\n", "scope of factor 0: variable 1 stands in it twice"),
    "size": (
        HEAD + "5\n1 2 3 4 5",
        r"line 6, word 1: table of factor 0 \(x0, x1\): expected 6 values \(2 x 3\), got 5",
    ),
    "constant's size": ("MARKOV 0 1 0 2 1 1", r"table of factor 0 \(\): expected 1 values \(a constant\), got 2"),
    "truncated": (HEAD + "6\n1 2 3 4 5", r"14 words, 1 too few; expected table of factor 0 \(x0, x1\): 6 values"),
    "missing": (HEAD, r"1 too few; expected table of factor 0 \(x0, x1\): number of values"),
    "word": (HEAD + "6\n1 2 3\n4 five 6", r"line 8, word 2: table of factor 0 .* of at least 0, got 'five'"),
    "negative": (HEAD + "6\n1 2 3\n4 5 -6", "line 8, word 3: .* expected a number of at least 0, got '-6'"),
    "tiny negative": (HEAD + "6\n1 2 3\n4 5 -1e-400", "expected a number of at least 0, got '-1e-400'"),
    "nan": (HEAD + "6\n1 nan 3 4 5 6", "line 7, word 2: .* expected a finite number of at least 0, got 'nan'"),
    "infinity": (HEAD + "6\n1 2 3 4 5 inf", "expected a finite number of at least 0, got 'inf'"),
    "exponent": (HEAD + "6\n1 2 3 4 5 1e-99999999999999999999999", "the exponent of '1e-9+' is out of all bounds"),
    "trailing": (HEAD + "6\n1 2 3 4 5 6\n7 8", "line 8, word 1: the model is complete, and 2 words follow: '7'"),
    "bayes row": ("BAYES 1 2 1 1 0 2\n0.5 0.6", r"'factor 0', row \(\): p\(x0 \| ...\) sums to 1.1, not 1"),
    "bayes zero row": ("BAYES 1 2 1 1 0 2 0 0", r"'factor 0'.* sums to 0, not 1"),
    "bayes child": (
        "BAYES 2 2 2 2 1 0 2 1 0 2 .5 .5 4 .5 .5 .5 .5",
        "variable 'x0' is the last of two factors, 'factor 0' and 'factor 1'",
    ),
    "bayes orphan": ("BAYES 2 2 2 1 1 0 2 .5 .5", "variable 'x1' is the last of no factor"),
    "bayes cycle": ("BAYES 2 2 2 2 2 0 1 2 1 0 4 .5 .5 .5 .5 4 .5 .5 .5 .5", "in a cycle"),
}


@pytest.mark.parametrize("text, message", BAD_MODELS.values(), ids=BAD_MODELS)
def test_malformed_models_say_what_and_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_uai(text)


def test_every_truncation_is_refused() -> None:
    words = MARKOV.split()
    for length in range(len(words)):
        with pytest.raises(ValueError, match="UAI model"):
            parse_uai(" ".join(words[:length]))


BAD_EVIDENCE = {
    "empty": ("", "evidence: the text is empty; expected number of observed variables"),
    "word": ("1 one 0", "evidence, line 1, word 2: number of a variable: expected a whole number, got 'one'"),
    "variable": ("1 2 0", "evidence, line 1, word 2: number of a variable: .* in 0..1, got 2"),
    "value": ("1 1 3", "line 1, word 3: value of variable 1: expected a whole number in 0..2, got 3"),
    "negative value": ("1 1 -1", r"value of variable 1: .* in 0..2, got -1"),
    "odd": ("2\n0 1 1", "2 observed variables are announced, which takes 4 numbers, got 3"),
    "cut off": ("1 0", "1 observed variables are announced, which takes 2 numbers, got 1"),
    "trailing": ("1 0 1 1", "1 observed variables are announced, which takes 2 numbers, got 3"),
    "twice": ("2 0 1 0 0", "line 1, word 5: variable 0 is observed to be 1 already, not 0"),
    "negative count": ("-1", "number of observed variables .* of at least 0, got -1"),
    "samples": ("2\n1 0 1\n1 0 0\n", r"takes 4 numbers, got 6 \(of a file with several samples give one at a time\)"),
}


@pytest.mark.parametrize("text, message", BAD_EVIDENCE.values(), ids=BAD_EVIDENCE)
def test_malformed_evidence_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_uai(MARKOV, text)
    with pytest.raises(ValueError, match=message):
        parse_evidence(text, [2, 3])


# -- files ------------------------------------------------------------------------------------------------------------


def test_text_and_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.uai"
    path.write_text(MARKOV, encoding="utf-8")
    assert read_text(MARKOV, "model") == read_text(path, "model") == read_text(str(path), "model") == MARKOV
    path.write_bytes(b"\xef\xbb\xbf" + b"MARKOV 0 0")
    assert read_text(path, "model") == "MARKOV 0 0"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evidence: there is no file '1 0 1'; a text in place of a path must"):
        read_text("1 0 1", "evidence")
    with pytest.raises(FileNotFoundError, match="model: there is no file '.*nowhere.uai'$"):
        read_text(tmp_path / "nowhere.uai", "model")
    with pytest.raises(FileNotFoundError, match=r"no file 'MARKOV 0 .*\.\.\.'"):
        read_text("MARKOV 0 0 " * 1000, "model")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="model: the file '.*binary' does not hold text"):
        read_text(binary, "model")
