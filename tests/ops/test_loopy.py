"""Loopy belief propagation's kernel against plain loops over factors, and against sums written out with einsum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cai.ops.loopy import contractions
from cai.ops.loopy.contractions import Exponentiated, InLogs, Linear, Watched, contraction
from cai.ops.loopy.decoding import decoded
from cai.ops.loopy.factor_groups import FactorGroups, group_factors
from cai.ops.loopy.kernel import LoopyKernel, Messages
from cai.ops.loopy.message_space import LogSpace, ProbabilitySpace
from cai.ops.semirings import LogSemiring, TropicalSemiring

Array = np.ndarray
Scope = tuple[int, ...]

SIZES = (2, 3, 2, 4, 3, 2)
LOOPS: dict[str, tuple[Scope, ...]] = {
    "pairs": ((0,), (3,), (0, 1), (1, 2), (2, 3), (3, 0), (4, 1), (5, 0), (2, 5)),
    "higher order": ((2,), (0, 1, 2), (2, 3, 4, 5), (5, 1), (4, 0, 3)),
    "one variable many factors": ((0, 1), (0, 2), (0, 3), (4, 0), (5, 0), (1, 2), (3, 4)),
}


def flood(old: Messages, new: Messages, change: Any) -> Messages:
    return new


def tables_of(scopes: Sequence[Scope], seed: int = 0, scale: float = 1.0, zeros: float = 0.0) -> list[Tensor]:
    """Random log tables; the first entry of each is never forbidden, so that value 0 of all variables is allowed."""
    rng = np.random.default_rng(seed)
    tables = []
    for scope in scopes:
        table = scale * rng.normal(size=[SIZES[i] for i in scope])
        forbidden = rng.random(table.shape) < zeros
        forbidden.flat[0] = False
        tables.append(torch.tensor(np.where(forbidden, -np.inf, table)))
    return tables


def kernel_of(
    scopes: Sequence[Scope], tables: Sequence[Tensor], semiring: Any = None, damping: float = 0.0
) -> LoopyKernel:
    return LoopyKernel(group_factors(SIZES, scopes, tables), semiring or LogSemiring(), damping)


# -- an oracle: one factor and one message at a time, in long doubles, nothing divided ---------------------------------


def plain_sweeps(
    scopes: Sequence[Scope], tables: Sequence[Tensor], num: int, reduce: Any, damping: float
) -> list[Array]:
    """Log beliefs after some sweeps, each normalised to maximum 0."""
    logs = [np.asarray(table, np.longdouble) for table in tables]
    edges = [(f, i) for f, scope in enumerate(scopes) if len(scope) > 1 for i in scope]
    told = {edge: np.zeros(SIZES[edge[1]], np.longdouble) for edge in edges}

    def heard(i: int, without: int | None = None) -> Array:
        total = np.zeros(SIZES[i], np.longdouble)
        for f, scope in enumerate(scopes):
            total = total + (logs[f] if scope == (i,) else 0.0)
        for (f, j), message in told.items():
            total = total + (message if j == i and f != without else 0.0)
        return total - total.max()

    for _ in range(num):
        new = {}
        for f, i in edges:
            total = logs[f]
            for dim, j in enumerate(scopes[f]):
                if j != i:
                    total = total + heard(j, f).reshape([-1 if d == dim else 1 for d in range(total.ndim)])
            message = reduce(total, tuple(d for d, j in enumerate(scopes[f]) if j != i))
            message = message - message.max()
            new[f, i] = message if not damping else (1 - damping) * message + damping * told[f, i]
        told = new
    return [heard(i) for i in range(len(SIZES))]


def log_sum(x: Array, axes: tuple[int, ...]) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - x.max()).sum(axes)) + x.max()


def largest(x: Array, axes: tuple[int, ...]) -> Array:
    return x.max(axes)


def beliefs(kernel: LoopyKernel, messages: Messages) -> list[Array]:
    places = kernel.factors.places
    columns = [kernel.log_beliefs(messages)[kind][:, column] for _, (kind, column) in sorted(places.items())]
    return [(column - column.max()).numpy() for column in columns]


def swept(kernel: LoopyKernel, num: int) -> Messages:
    messages = kernel.start()
    for _ in range(num):
        messages, _ = kernel.sweep(messages, flood)
    return messages


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize(
    "semiring, reduce", [(LogSemiring(), log_sum), (TropicalSemiring(), largest)], ids=["sum", "max"]
)
@pytest.mark.parametrize("name", LOOPS)
def test_sweeps_are_those_of_plain_loops(name: str, semiring: Any, reduce: Any, damping: float, zeros: float) -> None:
    scopes = LOOPS[name]
    tables = tables_of(scopes, zeros=zeros)
    kernel = kernel_of(scopes, tables, semiring, damping)
    for num in (1, 2, 7):
        expected = plain_sweeps(scopes, tables, num, reduce, damping)
        for ours, theirs in zip(beliefs(kernel, swept(kernel, num)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs.astype(float), rtol=1e-12, atol=1e-12)


def test_messages_are_probabilities_only_where_nothing_can_underflow() -> None:
    scopes = LOOPS["pairs"]
    assert isinstance(kernel_of(scopes, tables_of(scopes)).space, ProbabilitySpace)
    assert isinstance(kernel_of(scopes, tables_of(scopes, zeros=0.3)).space, LogSpace)
    assert isinstance(kernel_of(scopes, tables_of(scopes, scale=100.0)).space, LogSpace)
    assert isinstance(kernel_of(scopes, tables_of(scopes), damping=0.1).space, LogSpace)
    assert isinstance(kernel_of(scopes, tables_of(scopes), TropicalSemiring()).space, LogSpace)
    single = [table.float() for table in tables_of(scopes, scale=10.0)]
    assert isinstance(kernel_of(scopes, single).space, LogSpace)


@pytest.mark.parametrize("name", LOOPS)
def test_both_spaces_give_the_same_messages_and_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = LOOPS[name]
    tables = tables_of(scopes, scale=3.0)
    fast = kernel_of(scopes, tables)
    assert isinstance(fast.space, ProbabilitySpace)
    monkeypatch.setattr(contractions, "_SAFE", 0.0)
    safe = kernel_of(scopes, tables)
    assert isinstance(safe.space, LogSpace)
    assert all(isinstance(way, InLogs) for way in safe._ways)
    one, other = fast.start(), safe.start()
    for _ in range(5):
        (one, change), (other, expected) = fast.sweep(one, flood), safe.sweep(other, flood)
        assert change == pytest.approx(expected, rel=1e-11)
    for ours, theirs in zip(beliefs(fast, one), beliefs(safe, other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert float(fast.log_evidence(one)) == pytest.approx(float(safe.log_evidence(other)), abs=1e-11)


def test_a_sweep_says_how_far_the_old_messages_are_from_the_fixed_point() -> None:
    scopes = LOOPS["pairs"]
    for damping in (0.0, 0.6):
        kernel = kernel_of(scopes, tables_of(scopes), TropicalSemiring(), damping)
        messages = swept(kernel, 3)
        undamped = kernel_of(scopes, tables_of(scopes), TropicalSemiring())
        (new, _), (_, residual) = undamped.sweep(messages, flood), kernel.sweep(messages, flood)
        assert residual == max(float((a - b).abs().max()) for a, b in zip(messages, new, strict=True))


# -- contractions -----------------------------------------------------------------------------------------------------


def outgoing(table: Array, incoming: Sequence[Array], dim: int) -> Array:
    """The message to one dimension, in long doubles: `[c_dim, G]`."""
    letters = "abcd"[: len(incoming)]
    terms = [f"{letter}z" for letter in letters]
    operands = [np.exp(message.astype(np.longdouble)) for message in incoming]
    operands[dim] = np.ones_like(operands[dim])
    result = np.einsum(f"{letters}z,{','.join(terms)}->{letters[dim]}z", np.exp(table.astype(np.longdouble)), *operands)
    with np.errstate(divide="ignore"):
        return np.log(result)


def problem(shape: tuple[int, ...], count: int, shared: bool, scale: float, zeros: float) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(sum(shape))

    def numbers(*size: int) -> Array:
        forbidden = rng.random(size) < zeros
        forbidden[(0,) * (len(size) - 1)] = False
        logs = np.where(forbidden, -np.inf, scale * rng.normal(size=size))
        return logs - logs.max(tuple(range(len(size) - 1)))

    table = numbers(*shape, 1 if shared else count)
    return table, [numbers(size, count) for size in shape]


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1.0, 30.0, 400.0])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "shape, count", [((3, 4), 5), ((2, 3, 4), 6), ((3, 2, 2, 3), 4), ((2, 3), 1), ((4, 3), 2000)], ids=str
)
def test_every_way_to_sum_gives_the_same(
    shape: tuple[int, ...], count: int, shared: bool, scale: float, zeros: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contractions, "_BLOCK", 40)
    table, incoming = problem(shape, count, shared, scale, zeros)
    tensors = [torch.tensor(message) for message in incoming]
    full = np.broadcast_to(table, (*shape, count))
    ways = [contraction(torch.tensor(table), LogSemiring())]
    if scale == 1.0:
        ways += [Exponentiated(Linear(torch.tensor(table).exp()))]
    ways += [InLogs(torch.tensor(table), LogSemiring())] if count < 100 else []
    for way in ways:
        for dim, message in enumerate(way.messages(tensors)):
            np.testing.assert_allclose(message, outgoing(full, incoming, dim).astype(float), rtol=1e-13, atol=1e-12)
        total = outgoing(full, [*incoming[:-1], np.zeros_like(incoming[-1])], len(shape) - 1) + incoming[-1]
        np.testing.assert_allclose(way.total(tensors), log_sum(total, (0,)), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_maxima(shape: tuple[int, ...], shared: bool) -> None:
    table, incoming = problem(shape, 7, shared, 50.0, 0.2)
    way = contraction(torch.tensor(table), TropicalSemiring())
    for dim, message in enumerate(way.messages([torch.tensor(message) for message in incoming])):
        total = np.broadcast_to(table, (*shape, 7))
        for other, told in enumerate(incoming):
            if other != dim:
                total = total + told.reshape(*[-1 if d == other else 1 for d in range(len(shape))], 7)
        expected = total.max(tuple(d for d in range(len(shape)) if d != dim))
        np.testing.assert_allclose(message, expected, rtol=1e-15)


def test_sums_move_to_log_space_as_soon_as_a_message_leaves_no_room() -> None:
    """A zero leaves f(0, 1) w(1) only, and w(1) = exp(-800) is no double: the fast way would lose it."""
    table = torch.tensor([[-math.inf, 0.0], [0.0, 0.0]], dtype=torch.float64)[..., None]
    way = contraction(table, LogSemiring())
    assert isinstance(way, Watched)
    for far in (-5.0, -800.0, -1e6):
        incoming = [torch.zeros(2, 1, dtype=torch.float64), torch.tensor([[0.0], [far]], dtype=torch.float64)]
        message = way.messages(incoming)[0][:, 0]
        assert message.tolist() == [far, pytest.approx(math.log1p(math.exp(far)), rel=1e-15)]


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("shared", [False, True])
def test_totals_are_differentiable(shared: bool, scale: float, zeros: float) -> None:
    table, incoming = problem((3, 2, 2), 4, shared, scale, zeros)
    leaf = torch.tensor(table, requires_grad=True)
    contraction(leaf, LogSemiring()).total([torch.tensor(message) for message in incoming]).sum().backward()
    joint = np.broadcast_to(table, (3, 2, 2, 4)).astype(np.longdouble)
    for dim, message in enumerate(incoming):
        joint = joint + message.reshape(*[-1 if d == dim else 1 for d in range(3)], 4)
    weights = np.exp(joint - joint.max((0, 1, 2)))
    expected = (weights / weights.sum((0, 1, 2))).astype(float)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad, expected.sum(-1, keepdims=True) if shared else expected, atol=1e-12)


# -- bringing factors together ----------------------------------------------------------------------------------------


def joint_of(factors: FactorGroups) -> Array:
    """The log density over all assignments, rebuilt from the groups."""
    total = np.zeros(SIZES) + float(factors.log_constant)
    for variables in factors.variables:
        for column, number in enumerate(variables.numbers):
            shape = [-1 if i == number else 1 for i in range(len(SIZES))]
            total = total + variables.log_unary[:, column].numpy().reshape(shape)
    for member, scope in enumerate(factors.scopes):
        group, place = factors.positions[member]
        total = total + spread(scope, group.table(place).numpy())
    return total


def spread(scope: Scope, table: Array) -> Array:
    order = sorted(range(len(scope)), key=scope.__getitem__)
    return table.transpose(order).reshape([SIZES[i] if i in scope else 1 for i in range(len(SIZES))])


MESSY: tuple[Scope, ...] = ((), (0, 1), (1, 0), (2,), (3, 1, 0), (2, 4), (), (4, 2), (0,), (0,), (1, 3), (5, 4), (2, 4))


def test_grouping_keeps_the_density_and_removes_factors_inside_others() -> None:
    tables = tables_of(MESSY, zeros=0.2)
    factors = group_factors(SIZES, MESSY, tables)
    expected = sum(spread(scope, table.numpy()) for scope, table in zip(MESSY, tables, strict=True))
    np.testing.assert_allclose(joint_of(factors), expected, atol=1e-14)
    assert {frozenset(scope) for scope in factors.scopes} == {
        frozenset((0, 1, 3)),
        frozenset((2, 4)),
        frozenset((4, 5)),
    }
    assert factors.is_forest
    assert not group_factors(SIZES, LOOPS["pairs"], tables_of(LOOPS["pairs"])).is_forest


def test_equal_tables_are_kept_once_unless_they_learn() -> None:
    scopes = ((0, 2), (2, 5), (5, 0), (1, 4))
    table, other = tables_of(((0, 2), (1, 4)))
    (group, _) = group_factors(SIZES, scopes, [table, table.clone(), table.clone(), other]).groups
    assert group.log_table.shape == (2, 2, 1)
    assert group.members == (0, 1, 2)
    learned = [table.clone().requires_grad_() for _ in range(3)]
    (group, _) = group_factors(SIZES, scopes, [*learned, other]).groups
    assert group.log_table.shape == (2, 2, 3)
    (group, _) = group_factors(SIZES, scopes, [learned[0]] * 3 + [other]).groups
    assert group.log_table.shape == (2, 2, 1)


def test_merged_products_of_equal_tables_are_one_table_too() -> None:
    scopes = ((0, 2), (2, 5), (2, 0), (5, 2))
    table, inside = tables_of(((0, 2), (2, 5)))
    (group,) = group_factors(SIZES, scopes, [table, table, inside, inside]).groups
    assert group.log_table.shape == (2, 2, 1)
    torch.testing.assert_close(group.table(1), table + inside.T)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_one_table_for_all_gives_what_separate_tables_give(damping: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = ((0, 2), (2, 5), (5, 0), (1,))
    tables = [tables_of(((0, 2),))[0]] * 3 + tables_of(((1,),))
    shared = kernel_of(scopes, tables, damping=damping)
    monkeypatch.setattr("cai.ops.loopy.factor_groups._SHARED", 2.0)
    apart = kernel_of(scopes, tables, damping=damping)
    assert (shared.factors.groups[0].log_table.shape, apart.factors.groups[0].log_table.shape) == ((2, 2, 1), (2, 2, 3))
    for ours, theirs in zip(beliefs(shared, swept(shared, 6)), beliefs(apart, swept(apart, 6)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)


def test_order_of_messages_does_not_depend_on_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = ((0, 2), (1, 4), (5, 2), (0, 5), (3, 1, 2))
    table = tables_of(((0, 2),))[0]
    tables = [table, tables_of(((1, 4),))[0], table * 2, table, tables_of(((3, 1, 2),))[0]]
    one = kernel_of(scopes, tables)
    monkeypatch.setattr("cai.ops.loopy.factor_groups._SHARED", 2.0)
    other = kernel_of(scopes, tables)
    assert len(one.factors.groups) != len(other.factors.groups)
    messages = swept(one, 3)
    for back, message in zip(one.grouped(one.ordered(messages)), messages, strict=True):
        assert torch.equal(back, message)
    for ours, theirs in zip(one.ordered(messages), other.ordered(swept(other, 3)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scopes", [(), ((),), ((1,),)], ids=["no factor", "a constant", "one variable's"])
def test_graphs_without_messages(scopes: tuple[Scope, ...]) -> None:
    tables = tables_of(scopes)
    kernel = kernel_of(scopes, tables)
    messages, residual = kernel.sweep(kernel.start(), flood)
    assert residual == 0.0
    expected = sum((spread(scope, table.numpy()) for scope, table in zip(scopes, tables, strict=True)), np.zeros(SIZES))
    assert float(kernel.log_evidence(messages)) == pytest.approx(
        float(log_sum(expected + np.zeros(SIZES), (0, 1, 2, 3, 4, 5)))
    )


# -- decoding ---------------------------------------------------------------------------------------------------------


def best_of(scopes: Sequence[Scope], tables: Sequence[Tensor]) -> Array:
    return sum(spread(scope, table.numpy()) for scope, table in zip(scopes, tables, strict=True)) + np.zeros(SIZES)


def test_a_tree_full_of_ties_is_decoded_to_a_best_assignment() -> None:
    """All neighbours differ: every value is part of some best assignment, and few combinations of values are one."""
    scopes = ((0, 2), (2, 5), (1, 4), (4, 3), (0, 1))
    tables = [torch.where(torch.eye(SIZES[a], SIZES[b]) > 0, -math.inf, 0.0).double() for a, b in scopes]
    kernel = kernel_of(scopes, tables, TropicalSemiring())
    values = decoded(kernel, swept(kernel, 12))
    joint = best_of(scopes, tables)
    assert joint[tuple(values[i] for i in range(len(SIZES)))] == joint.max() == 0.0
    assert values[0] == 0


def test_a_tie_inside_a_wide_factor_is_decoded_to_a_best_assignment() -> None:
    parity = torch.tensor([0.0 if sum(x) % 2 else -3.0 for x in itertools.product(range(2), repeat=3)]).double()
    scopes: tuple[Scope, ...] = ((0, 2, 5), (5, 1), (1,))
    tables = [parity.reshape(2, 2, 2), *tables_of(((5, 1), (1,)))]
    kernel = kernel_of(scopes, tables, TropicalSemiring())
    values = decoded(kernel, swept(kernel, 8))
    joint = best_of(scopes, tables)
    assert joint[tuple(values[i] for i in range(len(SIZES)))] == pytest.approx(joint.max(), abs=1e-12)
