"""One world by every route (successors, blocks, scipy, torch, dense) is one table; and what is refused, and where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests.factors.worlds import World, coo, csr, random_world, table_of

F = cai.factors


def as_torch(world: World) -> torch.Tensor:
    matrix = coo(world)
    return torch.sparse_coo_tensor(np.stack([matrix.row, matrix.col]), matrix.data, matrix.shape)


def longest_block(world: World) -> int:
    return max(3, world.num_states // 5)


def cuts(world: World, seed: int) -> Iterator[slice]:
    """Blocks of random size, some of them empty."""
    rng, first = np.random.default_rng(seed), 0
    while first < world.num_states:
        last = min(first + int(rng.integers(0, longest_block(world) + 1)), world.num_states)
        yield slice(first, last)
        first = last


def blocks_of_successors(world: World) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In two buffers that are filled anew for each block."""
    room = [np.empty((longest_block(world), *world.probs.shape[1:]), dtype) for dtype in (int, float)]
    for cut in cuts(world, 1):
        block = tuple(buffer[: cut.stop - cut.start] for buffer in room)
        block[0][:], block[1][:] = world.next_states[cut], world.probs[cut]
        yield block


def blocks_of_all_kinds(world: World) -> Iterator[Any]:
    matrix = csr(world)
    kinds: list[Callable[[scipy.sparse.csr_matrix], Any]] = [
        lambda m: m, scipy.sparse.csr_array, lambda m: m.tocoo(), lambda m: m.tocsc(), lambda m: m.todok(),
        lambda m: torch.as_tensor(m.toarray()).to_sparse(), lambda m: torch.as_tensor(m.toarray()).to_sparse_csr(),
    ]  # fmt: skip
    for number, cut in enumerate(cuts(world, 2)):
        if number % 4 == 3:
            yield [torch.as_tensor(world.next_states[cut]), torch.as_tensor(world.probs[cut])]
        else:
            yield kinds[number % len(kinds)](matrix[cut.start * world.num_actions : cut.stop * world.num_actions])


ROUTES: dict[str, Callable[[World], Any]] = {
    "successors": lambda w: F.TabularDynamics.from_successors(w.next_states, w.probs, terminal=w.terminal),
    "narrow successors": lambda w: F.TabularDynamics.from_successors(
        w.next_states.astype(np.int8), torch.as_tensor(w.probs), terminal=torch.as_tensor(w.terminal)
    ),
    "blocks": lambda w: F.TabularDynamics.from_blocks(blocks_of_successors(w), terminal=w.terminal, **w.sizes),
    "mixed blocks": lambda w: F.TabularDynamics.from_blocks(blocks_of_all_kinds(w), terminal=w.terminal, **w.sizes),
    "one block": lambda w: F.TabularDynamics.from_blocks([csr(w)], terminal=w.terminal, **w.sizes),
    "csr": lambda w: F.TabularDynamics(csr(w), terminal=w.terminal),
    "canonical csr": lambda w: F.TabularDynamics(
        scipy.sparse.csr_matrix(w.dense.reshape(-1, w.num_states)), terminal=w.terminal
    ),
    "coo": lambda w: F.TabularDynamics(coo(w), terminal=w.terminal),
    "csc": lambda w: F.TabularDynamics(csr(w).tocsc(), terminal=w.terminal),
    "torch coo": lambda w: F.TabularDynamics(as_torch(w), terminal=w.terminal),
    "torch csr": lambda w: F.TabularDynamics(as_torch(w).coalesce().to_sparse_csr(), terminal=w.terminal),
}


def check_equal(dynamics: cai.factors.TabularDynamics, dense: np.ndarray) -> None:
    np.testing.assert_allclose(dynamics.dense(), dense, rtol=1e-14, atol=1e-16)
    table, expected = table_of(dynamics), scipy.sparse.csr_matrix(dense.reshape(-1, dense.shape[-1]))
    np.testing.assert_array_equal(table.pattern.row_starts, expected.indptr)
    np.testing.assert_array_equal(table.pattern.columns, expected.indices)
    assert table.pattern.row_starts.dtype == table.pattern.columns.dtype == torch.int32


@pytest.mark.parametrize("make", ROUTES.values(), ids=ROUTES)
def test_every_route_gives_the_dense_table(make: Callable[[World], Any]) -> None:
    for seed in range(60):
        world = random_world(seed)
        dynamics = make(world)
        check_equal(dynamics, world.dense)
        assert dynamics.probs.layout == torch.sparse_csr
        assert dynamics.terminal_mask.tolist() == world.terminal.tolist()


@pytest.mark.parametrize("piece", [1, 7])
def test_the_size_of_a_piece_does_not_matter(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("cai.factors.sparse_tables._PIECE", piece)
    for seed in range(20):
        world = random_world(seed)
        for make in ROUTES.values():
            check_equal(make(world), world.dense)


def test_a_large_world_by_every_route() -> None:
    """A slippery grid of 200 x 200, its 480,000 successors in several pieces."""
    graph = cai.load_model("gridworld", size=200, slip=0.2)
    expected = table_of(graph.dynamics)
    num_states, num_actions = expected.num_states, expected.num_actions
    matrix = scipy.sparse.csr_matrix(
        (expected.values.numpy(), expected.pattern.columns.numpy(), expected.pattern.row_starts.numpy()),
        shape=(num_states * num_actions, num_states),
    )
    lengths = np.diff(matrix.indptr)
    places = matrix.indptr[:-1, None] + np.arange(3)
    padding = np.arange(3) >= lengths[:, None]
    places = np.minimum(places, matrix.nnz - 1)
    next_states, probs = np.where(padding, -1, matrix.indices[places]), np.where(padding, 0.0, matrix.data[places])
    shape = (num_states, num_actions, 3)
    world = World(
        next_states[:, ::-1].reshape(shape), probs[:, ::-1].reshape(shape), graph.dynamics.terminal_mask.numpy()
    )
    for name in ("successors", "blocks", "one block", "csr", "coo", "csc", "torch coo", "torch csr"):
        table = table_of(ROUTES[name](world))
        assert torch.equal(table.pattern.columns, expected.pattern.columns), name
        assert torch.equal(table.pattern.row_starts, expected.pattern.row_starts), name
        torch.testing.assert_close(table.values, expected.values, rtol=1e-15, atol=0.0)


def test_files_with_wide_indices_still_load() -> None:
    world = random_world(3)
    parts = F.TabularDynamics(csr(world), terminal=world.terminal).pack()
    (table,) = parts["tables"]
    pattern = table.pattern
    wide = type(pattern)(pattern.row_starts.long(), pattern.columns.long(), pattern.num_columns)
    check_equal(F.TabularDynamics.unpack({**parts, "tables": (type(table)(table.values, wide),)}), world.dense)


def test_a_damaged_file_is_noticed() -> None:
    world = random_world(4)
    parts = F.TabularDynamics(csr(world), terminal=world.terminal).pack()
    parts["tables"] = (parts["tables"][0].reweighted(parts["tables"][0].values * 0.9),)
    with pytest.raises(ValueError, match=r"dynamics row \(state \d, action \d\) sums to 0.9"):
        F.TabularDynamics.unpack({**parts, "terminal": torch.zeros_like(parts["terminal"])})


# -- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_of_every_route() -> None:
    """Through order, duplicates and pieces: d/dp of a weighted sum of the table is the weight of the entry's place."""
    for seed in range(30):
        world = random_world(seed)
        weights = torch.as_tensor(np.random.default_rng(seed).normal(size=world.dense.shape))
        rows, columns, values = (torch.as_tensor(part) for part in world.triplets)
        of_entries = weights.reshape(-1, world.num_states)[rows, columns]
        expected = torch.where(values == 0, 0.0, of_entries)

        def gradient(make: Callable[[torch.Tensor], Any], given: torch.Tensor, weights: Any = weights) -> torch.Tensor:
            leaf = given.clone().requires_grad_()
            (found,) = torch.autograd.grad((make(leaf).dense() * weights).sum(), leaf)
            return found.flatten()

        def successors(probs: torch.Tensor, world: World = world) -> Any:
            return F.TabularDynamics.from_successors(world.next_states, probs, terminal=world.terminal)

        def blocks(probs: torch.Tensor, world: World = world) -> Any:
            pieces = [(world.next_states[cut], probs[cut]) for cut in cuts(world, 0)]
            return F.TabularDynamics.from_blocks(pieces, terminal=world.terminal, **world.sizes)

        def matrix(probs: torch.Tensor, world: World = world, at: Any = (rows, columns)) -> Any:
            shape = (world.num_states * world.num_actions, world.num_states)
            return F.TabularDynamics(torch.sparse_coo_tensor(torch.stack(at), probs, shape), terminal=world.terminal)

        probs = torch.as_tensor(world.probs)
        torch.testing.assert_close(gradient(successors, probs), expected)
        torch.testing.assert_close(gradient(blocks, probs), expected)
        found = gradient(matrix, values)  # duplicates are added up by torch, which then sees no zero among them
        torch.testing.assert_close(found[values != 0], expected[values != 0])


def test_what_learns_is_not_normalised() -> None:
    probs = torch.full((2, 1, 2), 0.5 - 2e-7, dtype=torch.float64)
    ring = np.array([[[0, 1]], [[1, 0]]])
    assert torch.allclose(table_of(F.TabularDynamics.from_successors(ring, probs)).values, torch.tensor(0.5).double())
    learned = table_of(F.TabularDynamics.from_successors(ring, probs.requires_grad_()))
    assert torch.equal(learned.values.detach(), probs.detach().flatten())


def test_products_do_not_touch_the_table() -> None:
    """States stand twice in a row of the chain, and scipy sorts in place what it is given."""
    table = table_of(cai.load_model("gridworld", size=6, slip=0.3).dynamics)
    columns = table.pattern.columns.clone()
    matrix = table.state_matrix(torch.ones(table.num_states, 4, dtype=torch.float64))
    matrix.sum_duplicates()
    assert torch.equal(table.pattern.columns, columns)


# -- refusals ---------------------------------------------------------------------------------------------------------

RING = np.array([[[1], [2]], [[2], [0]], [[0], [1]]])
ONES = np.ones(RING.shape)


def blocks(*cuts: slice, next_states: np.ndarray = RING, probs: np.ndarray = ONES) -> list:
    return [(next_states[cut], probs[cut]) for cut in cuts]


def changed(table: np.ndarray, place: tuple, value: float) -> np.ndarray:
    table = table.astype(float)
    table[place] = value
    return table


FIRST, REST = slice(0, 1), slice(1, 3)
BLOCKS: dict[str, tuple[Any, str]] = {
    "too few": (blocks(FIRST, slice(1, 2)), "the blocks end after 2 states, and num_states is 3"),
    "none": ([], "the blocks end after 0 states, and num_states is 3"),
    "too many": (blocks(FIRST, REST, FIRST), "block 2: 4 states have come, and num_states is 3"),
    "matrix of one dimension": ([torch.ones(3).to_sparse()], r"block 0: .* two dimensions, got \[3\]"),
    "columns": ([scipy.sparse.eye(4)], r"block 0: .* must be \[n \* 2, 3\], got \[4, 4\]"),
    "half a state": ([scipy.sparse.eye(3)], r"block 0: a sparse matrix of 3 states and 2 actions .* got \[3, 3\]"),
    "actions": ([(RING[:, :1], ONES[:, :1])], r"block 0: probs must be \[n, 2, K\], got \[3, 1, 1\]"),
    "dimensions": ([(RING[0], ONES[0])], r"block 0: probs must be \[n, 2, K\], got \[2, 1\]"),
    "shapes": ([(RING[:1], ONES)], r"block 0: next_states must be \[3, 2, 1\] as probs, got \[1, 2, 1\]"),
    "neither": (
        [(RING[:1], ONES[:1]), RING[1:]],
        r"block 1: expected \(next_states, probs\) or a sparse matrix, got ndarray",
    ),
    "row sum": (blocks(FIRST, REST, probs=changed(ONES, (2, 1), 0.9)), r"row \(state 2, action 1\) sums to 0.9"),
    "nan": (blocks(FIRST, REST, probs=changed(ONES, (1, 1), np.nan)), r"row \(state 1, action 1\) holds nan"),
    "negative": (
        blocks(FIRST, REST, probs=changed(ONES, (2, 0), -1.0)),
        r"row \(state 2, action 0\) has a negative probability -1",
    ),
    "next state": (
        blocks(FIRST, REST, next_states=changed(RING, (2, 1), 3)),
        r"row \(state 2, action 1\): next state 3 is outside 0..2",
    ),
    "negative state": (blocks(FIRST, REST, next_states=changed(RING, (1, 0), -1)), r"state 1, .*: next state -1 is"),
    "beyond int32": (blocks(FIRST, REST, next_states=changed(RING, (1, 0), 2**32)), "next state 4294967296 is outside"),
    "fraction": (blocks(FIRST, REST, next_states=changed(RING, (1, 0), 0.5)), "block 1: next state must be whole"),
    "text": ([("here", "there")], r"block 0: probs must be \[n, 2, K\], got \[\]"),
    "complex": ([(RING, ONES * 1j)], "block 0 probs: cannot be read .*complex"),
    "no iterable": (7, "blocks must be an iterable of blocks of states, got int"),
    "negative in a matrix": (
        [scipy.sparse.coo_matrix(([1.5, -0.5, 1.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 3))],
        r"row \(state 0, action 0\) has a negative probability -0.5",
    ),
}


@pytest.mark.parametrize(("given", "message"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_that_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.TabularDynamics.from_blocks(given, num_states=3, num_actions=2)


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0), (-1, 2), (3.0, 2), ("3", 2)], ids=str)
def test_sizes_are_whole_numbers(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        F.TabularDynamics.from_blocks([], num_states=sizes[0], num_actions=sizes[1])


def test_a_bad_block_is_refused_before_the_next_is_asked_for() -> None:
    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield RING[:1], ONES[:1] * 0.5
        raise AssertionError("asked for the next block")

    with pytest.raises(ValueError, match=r"row \(state 0, action 0\) sums to 0.5"):
        F.TabularDynamics.from_blocks(stream(), num_states=3, num_actions=2)


def test_a_matrix_with_indices_outside_its_shape() -> None:
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    matrix.indices[2] = 3
    for make in (F.TabularDynamics, F.TabularReward):
        with pytest.raises(ValueError, match=r"\(state 2, action 0\): next state 3 is outside 0..2"):
            make(matrix)


# -- rewards on transitions -------------------------------------------------------------------------------------------


def test_sparse_rewards_are_laid_on_the_transitions() -> None:
    """On the same pattern, on a smaller one and on another."""
    for seed in range(40):
        world = random_world(seed)
        table = table_of(F.TabularDynamics(csr(world), terminal=world.terminal))
        rng = np.random.default_rng(seed)
        full = rng.normal(size=world.dense.shape)
        for kept in (world.dense > 0, (world.dense > 0) & (rng.random(full.shape) < 0.5), rng.random(full.shape) < 0.5):
            reward = F.TabularReward(scipy.sparse.csr_matrix((full * kept).reshape(-1, world.num_states)))
            ((of_pairs, of_entries),) = reward.reward_tables((table,))
            assert of_pairs is None
            np.testing.assert_array_equal(table.dense(of_entries), full * kept * (world.dense > 0))


# -- size -------------------------------------------------------------------------------------------------------------

PROBE = """
import resource, cai
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph = cai.load_model("gridworld", size=1000, slip=0.2)
print(graph.state_space.n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts KiB, as Linux does")
def test_a_million_states_are_built_in_the_room_of_their_table() -> None:
    """12 million entries of 12 bytes and their row starts are 160 MB; the process may grow by twice that."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    num_states, grown = (int(word) for word in done.stdout.split())
    assert num_states == 998_005
    assert grown < 320 * 1024
