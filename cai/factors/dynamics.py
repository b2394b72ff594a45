"""Dynamics as a table: p(s' | s, a), dense or sparse, the same at every step or one table a step."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import (
    as_numbers,
    check_kept,
    check_rows,
    normalised,
    own_copy,
    place_of,
    state_index,
    table_at,
    table_dtype,
    weights_to_categorical,
)
from cai.factors.sparse_tables import RowChecks, as_array, is_sparse, sparse_dynamics, sparse_shape
from cai.ops.sparse import Pattern, csr_tensor
from cai.ops.sparse_building import RowBlock
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.transitions import DenseTransitions, Transitions

serializable(Pattern)
serializable(DenseTransitions)
serializable(SparseTransitions)


@serializable
class TabularDynamics:
    """The table p(s' | s, a).

    Args:
        probs: `[S, A, S]` dense, or a scipy or torch sparse `[S * A, S]` matrix whose row is s * A + a. A tensor keeps
            its gradient; a sparse matrix stays sparse.
        terminal: `[S]`, bool: where an episode ends. The rows of terminal states are never read.
        dtype: float64 by default; float32 halves the memory.

    Rows that sum to one within 1e-6 (float32 tables) are normalised; a table that learns is left as it is.

    Raises:
        ValueError: A wrong shape, a NaN or negative entry, a row that does not sum to one, or a possible transition
            that the dtype would lose: which, and by how much.
    """

    def __init__(self, probs: Any, *, terminal: Any = None, dtype: torch.dtype | None = None) -> None:
        self._set((_table(probs, terminal, dtype),), terminal, time_varying=False)

    @classmethod
    def per_step(cls, probs: Any, *, terminal: Any = None, dtype: torch.dtype | None = None) -> TabularDynamics:
        """Makes dynamics that change with time.

        Args:
            probs: `[T, S, A, S]`, or a sequence of T tables, each as the constructor takes it.
            terminal: `[S]`, bool.
            dtype: float64 by default.
        """
        tables = tuple(_table(table, terminal, dtype, f" at time {t}") for t, table in enumerate(probs))
        if not tables:
            raise ValueError("TabularDynamics.per_step: no tables given")
        dynamics = cls.__new__(cls)
        dynamics._set(tables, terminal, time_varying=True)
        return dynamics

    @classmethod
    def from_successors(
        cls, next_states: Any, probs: Any, *, terminal: Any = None, dtype: torch.dtype | None = None
    ) -> TabularDynamics:
        """Makes sparse dynamics of the K possible successors of each pair.

        Args:
            next_states: `[S, A, K]`, integers; where the probability is zero, any (padding). Duplicates add up.
            probs: `[S, A, K]`.
            terminal: `[S]`, bool.
            dtype: float64 by default.
        """
        values, name = as_array(probs, "TabularDynamics probs"), "TabularDynamics"
        if len(values.shape) != 3:
            raise ValueError(f"{name}: successors' probs must be [S, A, K], got {list(values.shape)}")
        if 0 in values.shape:
            raise ValueError(f"{name}: there are no states, actions or successors in {list(values.shape)}")
        num_states, num_actions, _ = values.shape
        dynamics = cls.__new__(cls)
        checks = RowChecks(num_actions, _terminal_mask(terminal, num_states), "dynamics")
        table = sparse_dynamics([(name, (next_states, values))], checks, dtype=table_dtype(dtype, name))
        dynamics._set((table,), terminal, time_varying=False)
        return dynamics

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[Any],
        *,
        num_states: int,
        num_actions: int,
        terminal: Any = None,
        dtype: torch.dtype | None = None,
    ) -> TabularDynamics:
        """Makes sparse dynamics of blocks of states, for worlds of which no whole array is to be held.

            TabularDynamics.from_blocks((successors_of(states) for states in pieces), num_states=S, num_actions=A)

        Args:
            blocks: The rows of consecutive states, from state 0 on, a block at a time: `(next_states, probs)` of
                `[n, A, K]` each, as `from_successors` takes them, or a scipy or torch sparse matrix `[n * A, S]`, as
                the constructor does; n and K may differ from block to block. Each is copied: its arrays may be filled
                anew for the next.
            num_states: Number of states S.
            num_actions: Number of actions A.
            terminal: `[S]`, bool.
            dtype: float64 by default.

        Raises:
            ValueError: More or fewer states than S, or what the constructor refuses, as soon as its block has come;
                states are named by their number in the whole world.
        """
        name = "TabularDynamics.from_blocks"
        for what, size in (("num_states", num_states), ("num_actions", num_actions)):
            if not isinstance(size, numbers.Integral) or size < 1:
                raise ValueError(f"{name}: {what} must be a whole number of at least 1, got {size!r}")
        if not isinstance(blocks, Iterable):
            raise ValueError(f"{name}: blocks must be an iterable of blocks of states, got {type(blocks).__name__}")
        named = ((f"{name}: block {number}", block) for number, block in enumerate(blocks))
        dynamics = cls.__new__(cls)
        checks = RowChecks(num_actions, _terminal_mask(terminal, num_states), "dynamics")
        dynamics._set((sparse_dynamics(named, checks, dtype=table_dtype(dtype, name)),), terminal, time_varying=False)
        return dynamics

    def _set(self, tables: tuple[Transitions, ...], terminal: Any, *, time_varying: bool) -> None:
        self.time_varying = time_varying
        self.num_states, self.num_actions = tables[0].num_states, tables[0].num_actions
        self.terminal_mask = _terminal_mask(terminal, self.num_states).to(tables[0].values.device)
        for t, table in enumerate(tables):
            if (table.num_states, table.num_actions) != (self.num_states, self.num_actions):
                raise ValueError(
                    f"dynamics at time {t}: {table.num_states} states and {table.num_actions} actions, the first table "
                    f"has {self.num_states} and {self.num_actions}"
                )
        self._tables = tables

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the tables are for, or None where one table serves all."""
        return len(self._tables) if self.time_varying else None

    @property
    def probs(self) -> Tensor | tuple[Tensor, ...]:
        """The table: dense `[S, A, S]`, or sparse CSR `[S * A, S]`; a tuple of T where it changes with time."""
        tables = tuple(_as_given(table) for table in self._tables)
        return tables if self.time_varying else tables[0]

    def dense(self) -> Tensor:
        """Gives the table as `[S, A, S]`, or `[T, S, A, S]` where it changes with time."""
        tables = [table.dense(table.values) for table in self._tables]
        return torch.stack(tables) if self.time_varying else tables[0]

    def terminal(self, state: Any, action: Any, next_state: Any) -> Tensor:
        """Says whether the episode ends on entering `next_state`: bool, of its shape."""
        return self.terminal_mask[state_index(next_state, self.num_states).to(self.terminal_mask.device)]

    def transition_tables(self) -> tuple[Transitions, ...]:
        """Gives the tables, one for all steps or one a step."""
        return self._tables

    def __call__(self, state: Any, action: Any, t: int = 0) -> torch.distributions.Categorical:
        """Gives p(s' | s, a) for states and actions that broadcast, at time t."""
        table = table_at(self._tables, t, self.num_steps, "TabularDynamics")
        device = table.values.device
        state = state_index(state, self.num_states).to(device)
        action = state_index(action, self.num_actions, "action").to(device)
        return weights_to_categorical(table.rows(*torch.broadcast_tensors(state, action)))

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"tables": self._tables, "terminal": self.terminal_mask, "time_varying": self.time_varying}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> TabularDynamics:
        """Makes the factor of what a file gave."""
        dynamics = cls.__new__(cls)
        for table in parts["tables"]:
            _check(table, parts["terminal"], "dynamics")
        dynamics._set(parts["tables"], parts["terminal"], time_varying=parts["time_varying"])
        return dynamics


def _table(probs: Any, terminal: Any, dtype: torch.dtype | None, when: str = "") -> Transitions:
    name, dtype = f"TabularDynamics{when}", table_dtype(dtype, "TabularDynamics")
    if is_sparse(probs):
        num_rows, num_states = sparse_shape(probs, name)
        if not num_states or not num_rows or num_rows % num_states:
            raise ValueError(f"{name}: a sparse table must be [S * A, S], got [{num_rows}, {num_states}]")
        checks = RowChecks(num_rows // num_states, _terminal_mask(terminal, num_states), f"dynamics{when}")
        return sparse_dynamics([(name, probs)], checks, dtype=dtype)
    given = as_numbers(probs, f"{name} probs")
    if given.dim() != 3 or given.shape[0] != given.shape[2] or not given.numel():
        raise ValueError(f"{name}: a dense table must be [S, A, S], got {list(given.shape)}")

    check_kept(given, dtype, lambda i: f"dynamics{when} row ({place_of(i, given.shape, ['state', 'action'])})")
    table = DenseTransitions(given.to(dtype))
    _check(table, _terminal_mask(terminal, table.num_states), f"dynamics{when}")
    return table.reweighted(normalised(table.values))


def _check(table: Transitions, terminal: Tensor, name: str) -> None:
    """Raises ValueError at the first entry or row of a table in memory that is not one of probabilities."""
    if isinstance(table, DenseTransitions):
        skip = terminal.to(table.values.device)[:, None].expand(-1, table.num_actions)
        check_rows(table.values, name, ["state", "action"], skip)
        return
    assert isinstance(table, SparseTransitions)
    rows = RowBlock(table.pattern.row_starts.cpu(), table.pattern.columns.cpu(), table.values)
    RowChecks(table.num_actions, terminal.cpu(), name).check(rows)


def _terminal_mask(terminal: Any, num_states: int) -> Tensor:
    if terminal is None:
        return torch.zeros(num_states, dtype=torch.bool)
    mask = own_copy(terminal).cpu()
    if mask.dtype != torch.bool or mask.shape != (num_states,):
        raise ValueError(
            f"TabularDynamics: terminal must be a boolean mask [{num_states}], got {mask.dtype} of shape "
            f"{list(mask.shape)}"
        )
    return mask


def _as_given(table: Transitions) -> Tensor:
    if isinstance(table, DenseTransitions):
        return table.values
    assert isinstance(table, SparseTransitions)
    return csr_tensor(table.pattern, table.values)
