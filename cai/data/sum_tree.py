"""A sum tree: weights that change, and draws in proportion to them, both in log2 N steps, all of a batch at once.

Node i has the children 2i and 2i + 1 and holds their sum; the root is node 1, the leaves are the last N' = 2^k nodes.
A sum is always the sum of two children as they are, so that no error builds up, and a tree rebuilt from its leaves is
the same tree. Numpy, since batches are a few hundred and leaves are written one by one.

Source: Schaul, Quan, Antonoglou and Silver (2016), appendix B.2.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Down to the level of so many nodes, a search runs over all of a level.
_TOP = 512


class SumTree:
    """Weights of `capacity` leaves, zero at first.

    Args:
        capacity: N.
    """

    def __init__(self, capacity: int):
        self._num_leaves = 1 << (capacity - 1).bit_length()
        self._nodes = np.zeros(2 * self._num_leaves)
        self._leaves = self._nodes[self._num_leaves :]

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._nodes[1])

    def weights(self, indices: NDArray | slice) -> NDArray:
        """Reads the weights of leaves.

        Args:
            indices: `[n]`, or a slice.

        Returns:
            `[n]`, a copy.
        """
        return self._leaves[indices].copy()

    def set(self, indices: NDArray, weights: NDArray | float) -> None:
        """Writes the weights of leaves; of an index that comes twice the last weight holds.

        Args:
            indices: `[n]`, int64.
            weights: `[n]`, at least zero, or one for all.
        """
        tree, size, nodes = self._nodes, self._num_leaves, indices + self._num_leaves
        tree[nodes] = weights
        while size > 1:
            size >>= 1
            if size <= len(indices):  # near the root it is quicker to sum all
                tree[size : 2 * size] = tree[2 * size : 4 * size : 2] + tree[2 * size + 1 : 4 * size : 2]
            else:
                nodes = nodes >> 1  # a parent that comes twice is written twice with the same sum
                left = 2 * nodes
                tree[nodes] = tree[left] + tree[left + 1]

    def set_one(self, index: int, weight: float) -> None:
        """Writes the weight of one leaf: ten times quicker than a batch of one."""
        tree, node = self._nodes, index + self._num_leaves
        tree[node] = weight
        while node > 1:
            node >>= 1
            tree[node] = tree[2 * node] + tree[2 * node + 1]

    def find(self, targets: NDArray) -> NDArray:
        """Finds the leaves at which the running sum of weights passes the targets.

        Args:
            targets: `[n]`, in [0, total).

        Returns:
            `[n]`, int64. A leaf of weight zero is never found.
        """
        tree, size = self._nodes, min(_TOP, self._num_leaves)
        top = tree[size : 2 * size]
        running = top.cumsum()  # near the root it is quicker to search among all
        nodes = np.minimum(np.searchsorted(running, targets, side="right"), size - 1)
        rest = targets - (running[nodes] - top[nodes])
        nodes += size
        while size < self._num_leaves:
            size *= 2
            nodes *= 2
            left = tree.take(nodes)
            goes_right = rest >= left
            rest -= left * goes_right
            nodes += goes_right
        found = nodes - self._num_leaves
        if not self._leaves[found].all():  # rounding has led into a branch that weighs nothing
            found = np.searchsorted(self._leaves.cumsum(), targets, side="right")
            found = np.minimum(found, np.flatnonzero(self._leaves)[-1])
        return found
