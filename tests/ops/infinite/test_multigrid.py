"""Large linear systems of chains, against sparse elimination; the groups of states that they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from cai.ops.infinite import aggregation, multigrid
from cai.ops.infinite.aggregation import coarse_levels, grouped
from cai.ops.infinite.multigrid import Multigrid


def drifting_grid(size: int, *, drift: float, discount: float, seed: int = 0) -> scipy.sparse.csr_matrix:
    """A walk on a square grid that is drawn to one corner, ends there, and stays where it meets a wall."""
    cells = np.arange(size * size).reshape(size, size)
    near = [np.roll(cells, shift, axis) for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1))]
    near[0][0], near[1][-1], near[2][:, 0], near[3][:, -1] = cells[0], cells[-1], cells[:, 0], cells[:, -1]
    weights = np.random.default_rng(seed).random((4, size, size)) * np.array([drift, 1, drift, 1])[:, None, None]
    weights = discount * weights / weights.sum(0)
    weights[:, 0, 0] = 0.0
    rows = np.tile(cells.ravel(), 4)
    columns = np.concatenate([n.ravel() for n in near])
    return scipy.sparse.coo_matrix((weights.ravel(), (rows, columns)), shape=(size * size,) * 2).tocsr()


def mixing_chain(size: int, degree: int) -> scipy.sparse.csr_matrix:
    rng = np.random.default_rng(0)
    rows, columns = np.repeat(np.arange(size), degree), rng.integers(0, size, size * degree)
    return scipy.sparse.csr_matrix((np.full(size * degree, 0.99 / degree), (rows, columns)), shape=(size, size))


@pytest.mark.parametrize("drift, discount", [(1.0, 0.999), (20.0, 0.999), (20.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_is_elimination(
    monkeypatch: pytest.MonkeyPatch, drift: float, discount: float, transposed: bool, ordered: bool
) -> None:
    monkeypatch.setattr(aggregation, "COARSEST", 100)
    monkeypatch.setattr(multigrid, "COARSEST", 100)
    chain = drifting_grid(50, drift=drift, discount=discount)
    system = (scipy.sparse.identity(2500) - chain).tocsc()
    order = np.add.outer(np.arange(50), np.arange(50)).ravel().astype(float) if ordered else None
    solver = Multigrid(chain, order=order)
    assert len(solver._levels) > 2
    for b in (np.ones(2500), np.random.default_rng(1).normal(size=2500)):
        expected = scipy.sparse.linalg.spsolve(system.T.tocsc() if transposed else system, b)
        found = solver.solve(b, rtol=1e-13, transposed=transposed)
        assert found.residual < 1e-11
        np.testing.assert_allclose(found.x, expected, atol=1e-9 * np.abs(expected).max())
        rough = solver.solve(b, rtol=1e-2, transposed=transposed)
        assert rough.residual <= 1e-2
        assert rough.num_cycles < found.num_cycles


def test_the_number_of_cycles_hardly_depends_on_size() -> None:
    cycles = []
    for size in (100, 200):
        chain = drifting_grid(size, drift=3.0, discount=0.9999)
        cycles.append(Multigrid(chain).solve(np.ones(size * size), rtol=1e-8).num_cycles)
    assert cycles[1] <= 1.5 * cycles[0] <= 60


def test_zero_has_the_answer_zero() -> None:
    found = Multigrid(drifting_grid(10, drift=1.0, discount=0.9)).solve(np.zeros(100), rtol=1e-10)
    assert not found.x.any()
    assert found.num_cycles == 0


def test_enough_is_enough() -> None:
    solver = Multigrid(drifting_grid(100, drift=1.0, discount=0.999))
    b = np.random.default_rng(0).normal(size=10_000)
    assert solver.solve(b, rtol=1e-13, max_cycles=3).num_cycles <= 30  # whole restarts only
    assert solver.solve(b, rtol=1e-13, atol=10.0).num_cycles < solver.solve(b, rtol=1e-13).num_cycles


def test_groups_are_small_connected_and_cover_all() -> None:
    chain = drifting_grid(100, drift=1.0, discount=1.0)
    levels = coarse_levels(chain)
    sizes = [len(groups) for groups in levels]
    assert sizes[0] == 10_000
    assert levels[-1].max() + 1 <= aggregation.COARSEST
    for groups, following in zip(levels, [*sizes[1:], levels[-1].max() + 1], strict=True):
        assert set(groups) == set(range(following))
        assert 3 <= len(groups) / following <= 6
    inside = scipy.sparse.coo_matrix(chain + chain.T)
    kept = levels[0][inside.row] == levels[0][inside.col]
    graph = scipy.sparse.coo_matrix((np.ones(kept.sum()), (inside.row[kept], inside.col[kept])), shape=inside.shape)
    assert scipy.sparse.csgraph.connected_components(graph)[0] == levels[0].max() + 1


def test_the_same_chain_has_the_same_groups() -> None:
    chain = drifting_grid(80, drift=1.0, discount=1.0)
    for first, second in zip(coarse_levels(chain), coarse_levels(chain.copy()), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_chain_that_mixes_has_no_levels() -> None:
    assert coarse_levels(mixing_chain(8_000, 4)) == ()


def test_states_without_neighbours_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "COARSEST", 10)
    chain = scipy.sparse.block_diag([drifting_grid(10, drift=1.0, discount=0.9), scipy.sparse.csr_matrix((40, 40))])
    groups = coarse_levels(chain.tocsr())[0]
    assert len(set(groups[100:])) == 1
    assert np.allclose(Multigrid(chain.tocsr()).solve(np.ones(140), rtol=1e-12).x[100:], 1.0)


def test_grouped_adds_up() -> None:
    matrix = scipy.sparse.random(30, 30, density=0.3, random_state=0, format="csr")
    groups = np.random.default_rng(0).permutation(np.arange(30) % 7).astype(np.int32)
    indicator = np.eye(7)[groups]
    np.testing.assert_allclose(grouped(matrix, groups).toarray(), indicator.T @ matrix.toarray() @ indicator)
