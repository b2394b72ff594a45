"""Whether two posteriors answer the same linear-quadratic problem."""

from __future__ import annotations

from dataclasses import fields

import torch

from cai.ops.gaussian.problem import LinearQuadratic

_NUMBERS = ("horizon", "discount", "temperature")


def need_same_world(mine: LinearQuadratic, theirs: LinearQuadratic) -> None:
    """Raises ValueError where two problems differ, saying in what."""
    for name in ("horizon", "discount", "temperature_value"):
        first, second = getattr(mine, name), getattr(theirs, name)
        if first != second:
            raise ValueError(f"gap: the graphs differ: {name} {first} against {second}")
    if mine.end.dtype != theirs.end.dtype:
        raise ValueError(f"gap: the graphs differ in dtype: {mine.end.dtype} against {theirs.end.dtype}; make both one")
    for name in (part.name for part in fields(mine) if part.name not in _NUMBERS):
        first, second = getattr(mine, name), getattr(theirs, name)
        if first is second:
            continue
        if first is None or second is None or first.shape != second.shape or not torch.equal(first, second):
            raise ValueError(f"gap: the graphs differ in their {name.replace('_', ' ')}")
