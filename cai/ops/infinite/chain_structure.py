"""Which states of a Markov chain communicate: closed classes and periods.

The states of a chain fall into classes that communicate, the strong components of its graph. A class is *closed* if no
edge leaves it: there the chain stays. Every chain has one closed class at least; with exactly one it has exactly one
stationary distribution, whatever it starts from. The period of a class is the greatest common divisor of the lengths
of its cycles; for any spanning tree, that of the numbers depth(s) + 1 - depth(s') over all edges s -> s'.

Everything takes the chain as a square matrix of weights, dense or scipy sparse; an edge is a weight above `negligible`.

Sources: Kemeny and Snell (1960), chapter 2; Denardo (1977) for the period.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

Matrix: TypeAlias = np.ndarray | scipy.sparse.csr_matrix


def closed_classes(chain: Matrix, *, negligible: float = 0.0) -> np.ndarray:
    """Numbers the closed classes by their first states: for each state that of its class, or -1 where that can be left.

    Args:
        chain: `[S, S]`, weights at least zero.
        negligible: Weights up to this are no edges.

    Returns:
        `[S]`, int.
    """
    edges = _edges(chain, negligible)
    num_classes, labels = scipy.sparse.csgraph.connected_components(edges, connection="strong")
    here, there = (labels[ends] for ends in edges.nonzero())
    closed = np.ones(num_classes, dtype=bool)
    closed[here[here != there]] = False
    first = np.full(num_classes, len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    numbers = np.full(num_classes, -1)
    numbers[sorted(np.flatnonzero(closed), key=first.__getitem__)] = np.arange(closed.sum())
    return numbers[labels]


def period(chain: Matrix) -> int:
    """Computes the period of a chain whose states all communicate.

    Args:
        chain: `[S, S]`, weights at least zero, strongly connected.
    """
    edges = _edges(chain, 0.0)
    order, parent = scipy.sparse.csgraph.breadth_first_order(edges, 0)
    parent[order[0]] = order[0]
    depth = (parent != np.arange(len(parent))).astype(np.int64)
    while (parent != order[0]).any():  # each round doubles the part of the way to the root that is counted
        depth, parent = depth + depth[parent], parent[parent]
    here, there = edges.nonzero()
    return int(np.gcd.reduce(depth[here] + 1 - depth[there]))


def greatest_of_each(mass: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Finds the state of each closed class where the mass is greatest, the first of equals: `[num_classes]`, int.

    Args:
        mass: `[S]`.
        classes: `[S]`, as `closed_classes` numbers them.
    """
    order = np.lexsort((-mass, classes))
    _, first = np.unique(classes[order], return_index=True)
    return order[first[-(classes.max() + 1) :]]


def _edges(chain: Matrix, negligible: float) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(chain > negligible)
