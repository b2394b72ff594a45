"""Random worlds for the tests of sparse tables, with their dense table as the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from cai.factors import TabularDynamics
from cai.ops import SparseTransitions


@dataclass(frozen=True)
class World:
    """Successors `[S, A, K]` with duplicates, padding that points anywhere, and terminal states with empty rows."""

    next_states: np.ndarray
    probs: np.ndarray
    terminal: np.ndarray

    @property
    def num_states(self) -> int:
        return self.probs.shape[0]

    @property
    def num_actions(self) -> int:
        return self.probs.shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_states": self.num_states, "num_actions": self.num_actions}

    @property
    def dense(self) -> np.ndarray:
        full = np.zeros((self.num_states, self.num_actions, self.num_states))
        state, action, successor = self.probs.nonzero()
        place = (state, action, self.next_states[state, action, successor])
        np.add.at(full, place, self.probs[state, action, successor])
        return full

    @property
    def triplets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and values; duplicates, and zeros stored as such, among them."""
        state, action, _ = np.indices(self.probs.shape)
        columns = np.where(self.probs > 0, self.next_states, 0)
        return tuple(x.ravel() for x in (state * self.num_actions + action, columns, self.probs))


def random_world(seed: int) -> World:
    rng = np.random.default_rng(seed)
    num_states, num_actions, num_successors = rng.integers(1, 12), rng.integers(1, 5), rng.integers(1, 6)
    shape = (num_states, num_actions, num_successors)
    probs = rng.gamma(1.0, size=shape) * (rng.random(shape) < 0.7)
    probs[..., 0] += 0.1
    probs /= probs.sum(-1, keepdims=True)
    terminal = rng.random(num_states) < 0.3
    probs[terminal] *= rng.random() < 0.5
    next_states = np.where(probs > 0, rng.integers(0, num_states, shape), rng.integers(-9, 99, shape))
    return World(next_states, probs, terminal)


def csr(world: World) -> scipy.sparse.csr_matrix:
    """The matrix as scipy never makes it itself: rows out of order, with duplicates and zeros."""
    _, columns, values = world.triplets
    num_rows, num_successors = world.num_states * world.num_actions, world.probs.shape[2]
    starts = np.arange(num_rows + 1) * num_successors
    return scipy.sparse.csr_matrix((values, columns, starts), shape=(num_rows, world.num_states))


def coo(world: World, seed: int = 0) -> scipy.sparse.coo_matrix:
    rows, columns, values = world.triplets
    order = np.random.default_rng(seed).permutation(len(rows))
    shape = (world.num_states * world.num_actions, world.num_states)
    return scipy.sparse.coo_matrix((values[order], (rows[order], columns[order])), shape=shape)


def table_of(dynamics: TabularDynamics) -> SparseTransitions:
    (table,) = dynamics.transition_tables()
    assert isinstance(table, SparseTransitions)
    return table
