"""Dynamics as a table: p(s' | s, a), dense or sparse, the same at every step or one table a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import (
    as_table,
    check_finite,
    check_rows,
    check_sums,
    needs_normalising,
    normalised,
    own_copy,
    place,
    state_index,
    table_at,
    table_dtype,
    weights_to_categorical,
)
from cai.ops.sparse import Pattern, csr_tensor
from cai.ops.sparse_transitions import SparseTransitions, sparse_from_triplets
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
        dtype: float64 by default.

    Rows that sum to one within 1e-6 (float32 tables) are normalised; a table that learns is left as it is.

    Raises:
        ValueError: A wrong shape, a NaN or negative entry, or a row that does not sum to one: which, and by how much.
    """

    def __init__(self, probs: Any, *, terminal: Any = None, dtype: torch.dtype | None = None) -> None:
        self._set((_table(probs, dtype, "TabularDynamics"),), terminal, time_varying=False)

    @classmethod
    def per_step(cls, probs: Any, *, terminal: Any = None, dtype: torch.dtype | None = None) -> TabularDynamics:
        """Makes dynamics that change with time.

        Args:
            probs: `[T, S, A, S]`, or a sequence of T tables, each as the constructor takes it.
            terminal: `[S]`, bool.
            dtype: float64 by default.
        """
        tables = tuple(_table(table, dtype, f"TabularDynamics at time {t}") for t, table in enumerate(probs))
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
        values = as_table(probs, "TabularDynamics probs", dtype)
        if values.dim() != 3:
            raise ValueError(f"TabularDynamics: successors' probs must be [S, A, K], got {list(values.shape)}")
        num_states, num_actions, num_successors = values.shape
        if not values.numel():
            raise ValueError(f"TabularDynamics: there are no states, actions or successors in {list(values.shape)}")
        successors = torch.as_tensor(np.asarray(next_states) if not isinstance(next_states, Tensor) else next_states)
        if successors.shape != values.shape:
            raise ValueError(
                f"TabularDynamics: next_states must be {list(values.shape)} as probs, got {list(successors.shape)}"
            )
        successors = torch.where(values.detach() == 0, 0, successors)
        columns = state_index(successors, num_states, "TabularDynamics: next state").flatten()
        check_finite(values, "TabularDynamics probs", ["state", "action", "successor"])
        rows = torch.arange(num_states * num_actions, device=values.device).repeat_interleave(num_successors)
        table = sparse_from_triplets(
            rows, columns.to(values.device), values.flatten(), num_states=num_states, num_actions=num_actions
        )
        dynamics = cls.__new__(cls)
        dynamics._set((table,), terminal, time_varying=False)
        return dynamics

    def _set(self, tables: tuple[Transitions, ...], terminal: Any, *, time_varying: bool) -> None:
        self.time_varying = time_varying
        self.num_states, self.num_actions = tables[0].num_states, tables[0].num_actions
        device = tables[0].values.device
        if terminal is None:
            self.terminal_mask = torch.zeros(self.num_states, dtype=torch.bool, device=device)
        else:
            self.terminal_mask = own_copy(terminal)
            if self.terminal_mask.dtype != torch.bool or self.terminal_mask.shape != (self.num_states,):
                raise ValueError(
                    f"TabularDynamics: terminal must be a boolean mask [{self.num_states}], got "
                    f"{self.terminal_mask.dtype} of shape {list(self.terminal_mask.shape)}"
                )
            self.terminal_mask = self.terminal_mask.to(device)
        for t, table in enumerate(tables):
            name = f"dynamics at time {t}" if time_varying else "dynamics"
            if (table.num_states, table.num_actions) != (self.num_states, self.num_actions):
                raise ValueError(
                    f"{name}: {table.num_states} states and {table.num_actions} actions, the first table has "
                    f"{self.num_states} and {self.num_actions}"
                )
            _check_distributions(table, name, self.terminal_mask)
        self._tables = tuple(_normalised(table) for table in tables)

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
        dynamics._set(parts["tables"], parts["terminal"], time_varying=parts["time_varying"])
        return dynamics


def sparse_entries(matrix: Any, name: str, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Reads a scipy or torch sparse matrix as rows, columns, values and shape; values keep their gradient."""
    shape = tuple(matrix.shape)
    if len(shape) != 2:
        raise ValueError(f"{name}: a sparse matrix must have two dimensions, got {list(shape)}")
    if scipy.sparse.issparse(matrix):
        coo = matrix.tocoo()
        indices = torch.as_tensor(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.as_tensor(np.array(coo.data))
    else:
        coo = matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()
        coo = coo.coalesce()
        indices, values = coo.indices(), coo.values()
    return indices[0], indices[1], values.to(table_dtype(dtype, name)), shape


def is_sparse(value: Any) -> bool:
    """Says whether a value is a scipy or torch sparse matrix."""
    return scipy.sparse.issparse(value) or (isinstance(value, Tensor) and value.layout != torch.strided)


def _table(probs: Any, dtype: torch.dtype | None, name: str) -> Transitions:
    if not is_sparse(probs):
        table = as_table(probs, f"{name} probs", dtype)
        if table.dim() != 3 or table.shape[0] != table.shape[2] or not table.numel():
            raise ValueError(f"{name}: a dense table must be [S, A, S], got {list(table.shape)}")
        return DenseTransitions(table)
    rows, columns, values, (num_rows, num_states) = sparse_entries(probs, name, dtype)
    if not num_states or not num_rows or num_rows % num_states:
        raise ValueError(f"{name}: a sparse table must be [S * A, S], got [{num_rows}, {num_states}]")
    _check_entries(values, rows, num_rows // num_states, name)
    return sparse_from_triplets(rows, columns, values, num_states=num_states, num_actions=num_rows // num_states)


def _check_entries(values: Tensor, rows: Tensor, num_actions: int, name: str) -> None:
    """Raises ValueError at the first stored probability that is not finite, or negative, naming its row."""
    values = values.detach()
    for bad, fault in ((~torch.isfinite(values), "holds"), (values < 0, "has a negative probability")):
        if bad.any():
            first = int(bad.nonzero()[0])
            where = place(["state", "action"], divmod(int(rows[first]), num_actions))
            raise ValueError(f"{name} row ({where}) {fault} {values[first].item():.6g}")


def _check_distributions(table: Transitions, name: str, terminal: Tensor) -> None:
    axes = ["state", "action"]
    skip = terminal[:, None].expand(-1, table.num_actions)
    if isinstance(table, DenseTransitions):
        check_rows(table.values, name, axes, skip)
        return
    assert isinstance(table, SparseTransitions)
    values = table.values.detach()
    _check_entries(values, table.pattern.rows, table.num_actions, name)
    check_sums(table.over_next(values), name, axes, skip)


def _normalised(table: Transitions) -> Transitions:
    if isinstance(table, DenseTransitions):
        return table.reweighted(normalised(table.values))
    sums = table.over_next(table.values.detach())
    if table.values.requires_grad or not needs_normalising(sums).any():
        return table
    return table.reweighted(table.values / table.at_source(torch.where(needs_normalising(sums), sums, 1.0)))


def _as_given(table: Transitions) -> Tensor:
    if isinstance(table, DenseTransitions):
        return table.values
    assert isinstance(table, SparseTransitions)
    return csr_tensor(table.pattern, table.values)
