"""Groups of strongly coupled states: the coarse levels of a multigrid solve, found from the matrix alone.

Twice over, each state is paired with the neighbour that it is most strongly coupled to, where the choice is mutual
(a handshake; ties are broken by a hash of the pair, so that they fall the same way each time), which gives groups of
about four. The groups are then the states of the next level. A pattern that mixes (random successors) keeps as many
entries however it is grouped: it has no coarse levels, and needs none, since Krylov steps alone converge there.

Source: Notay (2010), algorithms 4.1 and 4.2 (double pairwise aggregation), with the pairing made parallel.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

#: A level with so few points is solved directly.
COARSEST = 4_000
#: A level with more than this share of the entries of the one above does not pay.
_SHRINKS = 0.6
_ROUNDS = 6
_HASH = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9)


def coarse_levels(chain: scipy.sparse.csr_matrix) -> tuple[np.ndarray, ...]:
    """Groups the states of a chain, level by level.

    Args:
        chain: `[S, S]`, nonnegative; the coupling of two states is the sum of both directions.

    Returns:
        For each level the group of each of its points, int32 `[S]`, then `[number of groups]` and so on; empty for a
        small chain and for one that mixes.
    """
    strength = (chain + chain.T).tocsr()
    levels: list[np.ndarray] = []
    while strength.shape[0] > COARSEST:
        pairs = _pairs(strength)
        groups = _pairs(grouped(strength, pairs))[pairs]
        coarse = grouped(strength, groups)
        if coarse.nnz > _SHRINKS * strength.nnz:
            break
        levels.append(groups)
        strength = coarse
    return tuple(levels)


def grouped(matrix: scipy.sparse.csr_matrix, groups: np.ndarray) -> scipy.sparse.csr_matrix:
    """Adds up the entries of a matrix `[n, n]` between groups `[n]`: `[number of groups, number of groups]`."""
    size = int(groups.max()) + 1
    rows = np.repeat(groups, np.diff(matrix.indptr))
    return scipy.sparse.coo_matrix((matrix.data, (rows, groups[matrix.indices])), shape=(size, size)).tocsr()


def _pairs(strength: scipy.sparse.csr_matrix) -> np.ndarray:
    """Groups of one to three points each, int32 `[n]`, by mutual choice of the strongest neighbour."""
    size = strength.shape[0]
    rows = np.repeat(np.arange(size, dtype=np.int32), np.diff(strength.indptr))
    columns = strength.indices
    weights = np.where(rows == columns, 0.0, strength.data * (1.0 + 0.05 * _hash(rows, columns)))
    points = np.arange(size, dtype=np.int32)
    leader = np.full(size, -1, dtype=np.int32)
    for _ in range(_ROUNDS):
        open_pairs = (leader[rows] < 0) & (leader[columns] < 0) & (weights > 0)
        chosen = _strongest(rows[open_pairs], columns[open_pairs], weights[open_pairs], size)
        mutual = np.flatnonzero((chosen >= 0) & (chosen[chosen] == points))
        if not len(mutual):
            break
        leader[mutual] = np.minimum(mutual, chosen[mutual])
    # The others join the pair next to them; those without a neighbour, one group of their own.
    followed = leader[columns] >= 0
    chosen = _strongest(rows[followed], columns[followed], weights[followed], size)
    left = leader < 0
    joins = left & (chosen >= 0)
    alone = np.flatnonzero(left & (chosen < 0) & (np.diff(strength.indptr) == 0))
    leader = np.where(joins, leader[np.maximum(chosen, 0)], np.where(left, points, leader))
    leader[alone] = alone[:1]
    return np.unique(leader, return_inverse=True)[1].astype(np.int32)


def _strongest(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """The column of the greatest weight of each row, int32 `[n]`; -1 where a row has none. Rows must ascend."""
    chosen = np.full(size, -1, dtype=np.int32)
    if not len(rows):
        return chosen
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    greatest = np.maximum.reduceat(weights, starts)
    best = weights == np.repeat(greatest, np.diff(np.r_[starts, len(rows)]))
    chosen[rows[best]] = columns[best]
    return chosen


def _hash(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each unordered pair of points, without pattern."""
    first, second, third = (np.uint64(constant) for constant in _HASH)
    mixed = (np.minimum(rows, columns).astype(np.uint64) * first) ^ (
        np.maximum(rows, columns).astype(np.uint64) * second
    )
    mixed ^= mixed >> np.uint64(29)
    mixed *= third
    return ((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(40)).astype(np.float64) / 2.0**24
