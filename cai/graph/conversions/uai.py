"""The UAI exchange format: a factor graph as a text of numbers, as the inference competitions use it.

A model is a list of words, parted by any white space; there are no comments:

    MARKOV | BAYES     which kind
    n c_0 ... c_{n-1}  number of variables, and their cardinalities
    m                  number of factors, then the scope of each:
    k i_1 ... i_k      how many variables, and which (counted from 0)
    N v_1 ... v_N      the table of each: how many values, and the values; the last variable of the scope runs fastest

The joint is the product of all tables, f(x) = v >= 0. Here log f is kept, so a value is not made a float before its
logarithm is taken: 1e-400 is -921.03 nats and not zero. In a network of kind BAYES every factor is p(last | others).
Evidence is a text of its own, `n i_1 x_1 ... i_n x_n`; older files have a first line with the number of samples, 1.

Source: UAI 2008 evaluation, file format; UAI 2016 evaluation, model and evidence format (Gogate).
"""

from __future__ import annotations

import decimal
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import networkx
import torch
from torch import Tensor

from cai.factors.checks import index_of_first
from cai.graph.conversions.words import Words
from cai.graph.factor_graph import Factor, FactorGraph, Variable
from cai.ops.logspace import safe_log

#: How far a row of a BAYES table may be from one: published files are rounded to a few digits.
_ROW_TOLERANCE = 1e-3
_KINDS = ("MARKOV", "BAYES")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: Beyond so many nats exp() leaves float64's normal numbers.
_FLOAT_NATS = 700.0
#: Up to so many nats, some 1e-20 .. 1e20, numbers are written without an exponent, which not every reader knows.
_PLAIN_NATS = 46.0
#: Beyond so many nats the decimal exponent leaves what the decimal module can hold.
_MOST_NATS = 1e18
_WIDE = decimal.Context(prec=25, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_WRITTEN = decimal.Context(prec=17, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def parse_uai(text: str, evidence: str | None = None) -> FactorGraph:
    """Reads a model, and evidence on it, as a graph with variables x0, x1, ... and factors "factor 0", ...

    Args:
        text: The model, of kind MARKOV or BAYES.
        evidence: What is observed, of either convention; None for nothing.

    Returns:
        The graph, log tables in float64. A scope of size zero is a constant factor.

    Raises:
        ValueError: The text is not such a model; the message says which word, where. For BAYES, a variable that is
            not the last of exactly one scope, a cycle, or a row that does not sum to one within 1e-3.
    """
    words = Words(text, "UAI model")
    kind = words.take("the kind of network, MARKOV or BAYES")
    if kind not in _KINDS:
        words.fail(f"expected MARKOV or BAYES, got {kind!r}")
    sizes = words.counted("cardinality of variable", "number of variables", low=1)
    scopes = [_scope(words, index, len(sizes)) for index in range(words.whole("number of factors"))]
    factors = tuple(_factor(words, index, scope, sizes) for index, scope in enumerate(scopes))
    words.finish()
    variables = tuple(Variable(f"x{index}", size) for index, size in enumerate(sizes))
    observed = {} if evidence is None else parse_evidence(evidence, sizes)
    graph = FactorGraph(variables, factors, {f"x{index}": value for index, value in observed.items()})
    if kind == "BAYES":
        _check_network(graph, "UAI model")
    return graph


def parse_evidence(text: str, cardinalities: Sequence[int]) -> dict[int, int]:
    """Reads evidence as value by number of the variable.

    Args:
        text: `n i_1 x_1 ... i_n x_n`, or the same after a line that holds the number of samples, which must be 1.
        cardinalities: How many values each variable has.

    Raises:
        ValueError: Not such a text, an unknown variable, a value outside its domain, or two values for one variable.
    """
    words = Words(text, "evidence")
    first_line = next((line.split() for line in text.splitlines() if line.strip()), [])
    if first_line == ["1"] and len(words.words) % 2 == 0:
        words.take("the number of samples")
    num_pairs = words.whole("number of observed variables ('0' for none)")
    if words.num_left != 2 * num_pairs:
        words.fail(
            f"{num_pairs} observed variables are announced, which takes {2 * num_pairs} numbers, got {words.num_left} "
            "(of a file with several samples give one at a time)"
        )
    observed: dict[int, int] = {}
    for _ in range(num_pairs):
        index = words.whole("number of a variable", high=len(cardinalities) - 1)
        value = words.whole(f"value of variable {index}", high=cardinalities[index] - 1)
        if observed.setdefault(index, value) != value:
            words.fail(f"variable {index} is observed to be {observed[index]} already, not {value}")
    return observed


def uai_text(graph: FactorGraph, kind: str = "MARKOV") -> str:
    """Writes a graph as a UAI model; `parse_uai` gives it back with log tables equal to some 1e-16 nats, or an ulp.

    The format has no names: the n-th variable becomes xn and the n-th factor "factor n", in the order of the graph.
    Evidence is a text of its own, see `evidence_text`. Values beyond float64 have a decimal mantissa and exponent
    (-1500 nats is 3.6...e-652), which many readers take for zero or infinity; `parse_uai` does not.

    Args:
        graph: Any factor graph.
        kind: "MARKOV", or "BAYES" for a graph in which every factor is p(last variable | others).

    Raises:
        ValueError: An unknown kind; for BAYES a variable that is not the last of exactly one factor, a cycle, a
            constant, or a row that does not sum to one within 1e-3.
    """
    if kind not in _KINDS:
        raise ValueError(f"to_uai: kind must be 'MARKOV' or 'BAYES', got {kind!r}")
    if kind == "BAYES":
        _check_network(graph, "to_uai: kind 'BAYES'")
    index = {variable.name: str(i) for i, variable in enumerate(graph.variables)}
    sizes = " ".join(str(variable.cardinality) for variable in graph.variables)
    lines = [kind, str(len(graph.variables)), sizes, str(len(graph.factors))]
    for factor in graph.factors:
        lines.append(" ".join([str(len(factor.variables)), *(index[name] for name in factor.variables)]))
    for factor in graph.factors:
        lines += ["", *_table_lines(factor)]
    return "\n".join(lines) + "\n"


def evidence_text(graph: FactorGraph) -> str:
    """Writes what a graph has observed as UAI evidence, one line `n i_1 x_1 ... i_n x_n`; "0" if there is nothing."""
    known = [(i, graph.evidence[v.name]) for i, v in enumerate(graph.variables) if v.name in graph.evidence]
    return " ".join(str(number) for number in (len(known), *(part for pair in known for part in pair))) + "\n"


def read_text(source: str | os.PathLike[str], what: str) -> str:
    """Reads a text from a file; a str that contains a newline is the text itself.

    Args:
        source: A path, or a text.
        what: What to call it in messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file does not hold text.
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"{what}: expected a path or a text, got {type(source).__name__}")
    if isinstance(source, str) and "\n" in source:
        return source.removeprefix("\ufeff")
    if not os.path.isfile(source):
        shown = os.fspath(source)
        shown = shown if len(shown) <= 300 else shown[:297] + "..."
        hint = "; a text in place of a path must contain a newline" if isinstance(source, str) else ""
        raise FileNotFoundError(f"{what}: there is no file {shown!r}{hint}")
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: the file {os.fspath(source)!r} does not hold text ({error})") from None


def _scope(words: Words, index: int, num_variables: int) -> list[int]:
    what = f"scope of factor {index}"
    scope = words.counted(f"{what}: variable", f"{what}: number of variables", high=num_variables - 1)
    if len(set(scope)) != len(scope):
        twice = next(number for number in scope if scope.count(number) > 1)
        words.fail(f"{what}: variable {twice} stands in it twice")
    return scope


def _factor(words: Words, index: int, scope: list[int], sizes: list[int]) -> Factor:
    shape = [sizes[number] for number in scope]
    names = tuple(f"x{number}" for number in scope)
    what = f"table of factor {index} ({', '.join(names)})"
    expected, got = math.prod(shape), words.whole(f"{what}: number of values")
    if got != expected:
        words.fail(f"{what}: expected {expected} values ({' x '.join(map(str, shape)) or 'a constant'}), got {got}")
    words.need(expected, f"{what}: {expected} values")
    log_values = _log_values(words, expected, what)
    return Factor(names, log_values.reshape(shape), f"factor {index}")


def _log_values(words: Words, number: int, what: str) -> Tensor:
    """Reads plain numbers as logarithms, `[number]`, those that float64 cannot hold included."""
    start = words.taken
    taken = words.words[start : start + number]
    for offset, word in enumerate(taken):
        if not _NUMBER.fullmatch(word):
            words.fail(f"{what}: expected a finite number of at least 0, got {word!r}", start + offset)
    values = torch.tensor([float(word) for word in taken], dtype=torch.float64)
    log_values = safe_log(values.clamp(min=0.0))
    exact = (values >= sys.float_info.min) & torch.isfinite(values)
    for offset in (~exact).nonzero().flatten().tolist():
        log_values[offset] = _exact_log(words, start + offset, what)
    words.taken += number
    return log_values


def _exact_log(words: Words, index: int, what: str) -> float:
    word = words.words[index]
    try:
        value = decimal.Decimal(word, _WIDE)
    except decimal.InvalidOperation:
        words.fail(f"{what}: the exponent of {word!r} is out of all bounds", index)
    if value < 0:
        words.fail(f"{what}: expected a number of at least 0, got {word!r}", index)
    return float(_WIDE.ln(value)) if value else -math.inf


def _check_network(graph: FactorGraph, what: str) -> None:
    """Raises ValueError where the factors are not one conditional distribution p(last | others) a variable."""
    factor_of: dict[str, str] = {}
    for factor in graph.factors:
        if not factor.variables:
            raise ValueError(f"{what}: {factor.name!r} is a constant, which a Bayesian network has no place for")
        child = factor.variables[-1]
        if child in factor_of:
            both = f"{factor_of[child]!r} and {factor.name!r}"
            raise ValueError(f"{what}: variable {child!r} is the last of two factors, {both}")
        factor_of[child] = factor.name
        sums = torch.logsumexp(factor.log_table.detach(), -1).exp()
        off = (sums - 1.0).abs() > _ROW_TOLERANCE
        if off.any():
            row = index_of_first(off)
            where = ", ".join(f"{name} = {value}" for name, value in zip(factor.variables, row, strict=False))
            found = sums[tuple(row)].item()
            raise ValueError(f"{what}: {factor.name!r}, row ({where}): p({child} | ...) sums to {found:.6g}, not 1")
    for variable in graph.variables:
        if variable.name not in factor_of:
            missing = f"p({variable.name} | ...)"
            raise ValueError(f"{what}: variable {variable.name!r} is the last of no factor; {missing} is missing")
    _check_acyclic(graph, what)


def _check_acyclic(graph: FactorGraph, what: str) -> None:
    arrows = networkx.DiGraph(
        (cause, factor.variables[-1]) for factor in graph.factors for cause in factor.variables[:-1]
    )
    if not networkx.is_directed_acyclic_graph(arrows):
        cycle = [parent for parent, _ in networkx.find_cycle(arrows)]
        raise ValueError(f"{what}: the variables depend on each other in a cycle, {' -> '.join([*cycle, cycle[0]])}")


def _table_lines(factor: Factor) -> list[str]:
    rows = factor.log_table.detach().double().cpu()
    if (rows[torch.isfinite(rows)].abs() > _MOST_NATS).any():
        raise ValueError(
            f"to_uai: {factor.name!r} holds values beyond {_MOST_NATS:g} nats, which no exponent can express"
        )
    rows = rows.reshape(-1, rows.shape[-1] if rows.dim() else 1)
    return [str(rows.numel()), *(" ".join(_number(log_value) for log_value in row) for row in rows.tolist())]


def _number(log_value: float) -> str:
    """Writes exp(log_value) with as few digits as give the logarithm back, at most 17."""
    if log_value == -math.inf:
        return "0"
    if abs(log_value) > _FLOAT_NATS:
        return str(_WRITTEN.exp(decimal.Decimal(log_value))).replace("E", "e")
    value = math.exp(log_value)
    texts = (f"{value:.{digits}g}" for digits in (15, 16))
    text = next((text for text in texts if math.log(float(text)) == log_value), f"{value:.17g}")
    return f"{decimal.Decimal(text):f}" if "e" in text and abs(log_value) < _PLAIN_NATS else text
