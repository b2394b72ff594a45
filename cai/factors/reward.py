"""Rewards as tables: on states, on state-action pairs, on transitions; linear in features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import (
    as_numbers,
    as_table,
    check_finite,
    check_range,
    place_of,
    state_index,
    table_at,
    table_dtype,
)
from cai.factors.sparse_tables import is_sparse, sparse_reward
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.transitions import DenseTransitions, Transitions

#: What a reward is of, by its number of dimensions.
_AXES = {1: ["state"], 2: ["state", "action"], 3: ["state", "action", "next state"]}


@serializable
class TabularReward:
    """The table r, in reward units.

    Args:
        values: `[S]` (of the state an action is taken in), `[S, A]`, `[S, A, S]` (of the transition), or a scipy or
            torch sparse `[S * A, S]` matrix whose row is s * A + a; what it does not store is zero. As
            `terminal_reward` of a graph, `[S]`.
        dtype: float64 by default.

    Raises:
        ValueError: A wrong shape, or a value that is not finite; forbid an action by a prior of zero, not by a reward
            of `-inf`.
    """

    def __init__(self, values: Any, *, dtype: torch.dtype | None = None) -> None:
        self._set((_table(values, dtype, "TabularReward"),), time_varying=False)

    @classmethod
    def per_step(cls, values: Any, *, dtype: torch.dtype | None = None) -> TabularReward:
        """Makes a reward that changes with time.

        Args:
            values: `[T, S]`, `[T, S, A]` or `[T, S, A, S]`, or a sequence of T tables, each as the constructor takes
                it.
            dtype: float64 by default.
        """
        tables = tuple(_table(table, dtype, f"TabularReward at time {t}") for t, table in enumerate(values))
        if not tables:
            raise ValueError("TabularReward.per_step: no tables given")
        reward = cls.__new__(cls)
        reward._set(tables, time_varying=True)
        return reward

    def _set(self, tables: tuple[Tensor | SparseTransitions, ...], *, time_varying: bool) -> None:
        shapes = [_described(table) for table in tables]
        for t, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(f"TabularReward at time {t}: is {shape}, the first table is {shapes[0]}")
        self._tables, self.time_varying = tables, time_varying

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the tables are for, or None where one table serves all."""
        return len(self._tables) if self.time_varying else None

    @property
    def values(self) -> Tensor | tuple[Tensor, ...]:
        """The table, `[S]`, `[S, A]` or `[S, A, S]`; of a sparse one its stored values; a tuple where it changes."""
        tables = tuple(t.values if isinstance(t, SparseTransitions) else t for t in self._tables)
        return tables if self.time_varying else tables[0]

    @property
    def device(self) -> torch.device:
        """Where the table lies."""
        table = self._tables[0]
        return table.values.device if isinstance(table, SparseTransitions) else table.device

    @property
    def num_states(self) -> int:
        """Number of states S."""
        table = self._tables[0]
        return table.num_states if isinstance(table, SparseTransitions) else table.shape[0]

    @property
    def num_actions(self) -> int | None:
        """Number of actions A, or None for a reward of states alone."""
        table = self._tables[0]
        if isinstance(table, SparseTransitions):
            return table.num_actions
        return table.shape[1] if table.dim() > 1 else None

    def __call__(self, state: Any, action: Any = None, next_state: Any = None, t: int = 0) -> Tensor:
        """Gives r(s, a, s') for arguments that broadcast, at time t.

        Raises:
            ValueError: The reward is of transitions and `next_state` is missing; or an index is outside its range.
        """
        table = table_at(self._tables, t, self.num_steps, "TabularReward")
        order = 3 if isinstance(table, SparseTransitions) else table.dim()
        names, sizes = ("state", "action", "next_state"), (self.num_states, self.num_actions or 0, self.num_states)
        for name, value in zip(names[:order], (state, action, next_state), strict=False):
            if value is None:
                raise ValueError(f"TabularReward: this reward is of ({', '.join(names[:order])}) and needs {name}")
        at = [
            state_index(x, n, name)
            for x, n, name in zip((state, action, next_state)[:order], sizes, names, strict=False)
        ]
        rest = [torch.as_tensor(x) for x in (action, next_state)[order - 1 :] if x is not None]
        shape = torch.broadcast_shapes(*(x.shape for x in (*at, *rest)))
        places = [x.expand(shape).to(self.device) for x in at]
        return table.entry(table.values, *places) if isinstance(table, SparseTransitions) else table[tuple(places)]

    def reward_tables(self, transitions: tuple[Transitions, ...]) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
        """Gives r on (s, a) and on the transitions' entries, for all steps or for each; see `TabulatedReward`."""
        num_steps = max(len(transitions), len(self._tables))
        dynamics = transitions * num_steps if len(transitions) == 1 else transitions
        rewards = self._tables * num_steps if len(self._tables) == 1 else self._tables
        return tuple(_on(table, reward) for table, reward in zip(dynamics, rewards, strict=True))

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"tables": self._tables, "time_varying": self.time_varying}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> TabularReward:
        """Makes the factor of what a file gave."""
        reward = cls.__new__(cls)
        reward._set(parts["tables"], time_varying=parts["time_varying"])
        return reward


@serializable
class LinearReward:
    """A reward linear in features: r = phi . w, in reward units.

    Args:
        features: phi, `[S, d]` or `[S, A, d]`.
        weights: w, `[d]`, or None where they are yet to be fitted.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.
    """

    def __init__(self, features: Any, weights: Any = None, *, dtype: torch.dtype | None = None) -> None:
        self.features = as_table(features, "LinearReward features", dtype)
        if self.features.dim() not in (2, 3):
            raise ValueError(f"LinearReward: features must be [S, d] or [S, A, d], got {list(self.features.shape)}")
        check_finite(self.features, "LinearReward features", [*_AXES[self.features.dim() - 1], "feature"])
        self.weights = None if weights is None else as_table(weights, "LinearReward weights", dtype)
        if self.weights is not None and self.weights.shape != self.features.shape[-1:]:
            raise ValueError(
                f"LinearReward: {self.features.shape[-1]} features need weights of shape "
                f"[{self.features.shape[-1]}], got {list(self.weights.shape)}"
            )
        if self.weights is not None:
            check_finite(self.weights, "LinearReward weights", ["feature"])

    @property
    def num_steps(self) -> None:
        """None: one table serves all steps."""
        return None

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.features.shape[0]

    @property
    def num_actions(self) -> int | None:
        """Number of actions A, or None for a reward of states alone."""
        return self.features.shape[1] if self.features.dim() == 3 else None

    @property
    def values(self) -> Tensor:
        """The table phi . w, `[S]` or `[S, A]`; differentiable with respect to the weights.

        Raises:
            ValueError: There are no weights yet.
        """
        if self.weights is None:
            raise ValueError("LinearReward: the weights are not set; fit them, or give weights=")
        return self.features @ self.weights

    def __call__(self, state: Any, action: Any = None, next_state: Any = None, t: int = 0) -> Tensor:
        """Gives r(s, a) for states and actions that broadcast."""
        return TabularReward(self.values, dtype=self.features.dtype)(state, action)

    def reward_tables(self, transitions: tuple[Transitions, ...]) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
        """Gives r on (s, a); see `TabulatedReward`."""
        return TabularReward(self.values, dtype=self.features.dtype).reward_tables(transitions)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"features": self.features, "weights": self.weights}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LinearReward:
        """Makes the factor of what a file gave."""
        return cls(**parts, dtype=parts["features"].dtype)


def _table(values: Any, dtype: torch.dtype | None, name: str) -> Tensor | SparseTransitions:
    dtype = table_dtype(dtype, name)
    if is_sparse(values):
        return sparse_reward(values, dtype=dtype, name=name)
    given = as_numbers(values, f"{name} values")
    if given.dim() not in _AXES or not given.numel() or (given.dim() == 3 and given.shape[0] != given.shape[2]):
        raise ValueError(f"{name}: expected [S], [S, A], [S, A, S] or sparse [S * A, S], got {list(given.shape)}")
    axes = _AXES[given.dim()]
    check_finite(given, name, axes)
    check_range(given, dtype, lambda i: f"{name}: ({place_of(i, given.shape, axes)})")
    return given.to(dtype)


def _described(table: Tensor | SparseTransitions) -> str:
    if isinstance(table, SparseTransitions):
        return f"sparse [{table.pattern.num_rows}, {table.num_states}]"
    return str(list(table.shape))


def _on(transitions: Transitions, table: Tensor | SparseTransitions) -> tuple[Tensor | None, Tensor | None]:
    """Lays a reward out for these transitions: r on (s, a) as `[S, A]`, or r on the entries."""
    if isinstance(table, Tensor) and table.dim() < 3:
        pairs = table[:, None] if table.dim() == 1 else table
        return pairs.expand(-1, transitions.num_actions), None
    if isinstance(transitions, DenseTransitions):
        return None, table if isinstance(table, Tensor) else table.dense(table.values)
    if isinstance(table, Tensor):
        return None, table[transitions.triples()]
    assert isinstance(transitions, SparseTransitions)
    return None, table.values_on(transitions.pattern)
