"""What a learning method logged, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable


@dataclass(frozen=True, eq=False)
class Curve:
    """One logged quantity.

    Attributes:
        steps: `[n]`, int64: environment steps done when it was logged.
        values: `[n]`, float64.
    """

    steps: Tensor
    values: Tensor


@serializable
class History:
    """Rows of logged numbers, one for each progress report of a run.

    Args:
        rows: What was logged, by name; each row has `num_steps`.
    """

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows: list[dict[str, float]] = [] if rows is None else rows

    def append(self, row: dict[str, float]) -> None:
        """Adds a row; what is written to it later counts."""
        self.rows.append(row)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that was logged, in the order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def curve(self, name: str) -> Curve:
        """Gives a logged quantity against the number of steps, rows without it left out.

        Raises:
            ValueError: It was never logged.
        """
        points = [(int(row["num_steps"]), row[name]) for row in self.rows if not math.isnan(row.get(name, math.nan))]
        if not points:
            raise ValueError(f"history: no {name!r} was logged; there are {', '.join(self.names) or 'no rows'}")
        steps, values = zip(*points, strict=True)
        return Curve(torch.tensor(steps), torch.tensor(values, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.rows)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs: one table, NaN where a row has no such number."""
        values = [[row.get(name, math.nan) for name in self.names] for row in self.rows]
        return {"names": list(self.names), "values": torch.tensor(values, dtype=torch.float64)}

    @classmethod
    def unpack(cls, parts: Mapping[str, Any]) -> History:
        """Makes the history of what a file gave."""
        rows = [dict(zip(parts["names"], row, strict=True)) for row in parts["values"].tolist()]
        return cls([{name: value for name, value in row.items() if not math.isnan(value)} for row in rows])
