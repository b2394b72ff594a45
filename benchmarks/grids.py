"""The slippery grid that the benchmarks of scale share; without torch, so that a peer's environment can import it.

Four moves; a move goes as meant with probability 0.7, to either side with 0.1, nowhere with 0.1; a wall stops it. Every
move costs 1. The far corner ends the episode and is worth 10.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
PROBS = (0.7, 0.1, 0.1, 0.1)
DISCOUNT, TEMPERATURE, GOAL, ERROR = 0.999, 0.1, 10.0, 1e-6


def successors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Next states `[S, 4, 4]`, int32 (as meant, to either side, nowhere), and their probabilities, S = size**2."""
    row, column = np.divmod(np.arange(size * size, dtype=np.int32), np.int32(size))
    landing = np.stack(
        [np.clip(row + dr, 0, size - 1) * size + np.clip(column + dc, 0, size - 1) for dr, dc in MOVES], 1
    ).astype(np.int32)
    turns = (np.arange(4)[:, None] + np.array([0, -1, 1])) % 4
    stays = np.broadcast_to(np.arange(size * size, dtype=np.int32)[:, None, None], (size * size, 4, 1))
    nexts = np.concatenate([landing[:, turns], stays], 2)
    return nexts, np.broadcast_to(np.array(PROBS), nexts.shape)


def matrix(size: int) -> scipy.sparse.csr_matrix:
    """The table `[S * 4, S]`."""
    nexts, probs = successors(size)
    starts = np.arange(0, nexts.size + 1, 4, dtype=np.int32)
    table = scipy.sparse.csr_matrix((probs.ravel().copy(), nexts.ravel(), starts), shape=(size * size * 4, size * size))
    table.sum_duplicates()
    return table
