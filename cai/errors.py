"""The errors and warnings of the library, in the order in which a user can meet them.

1. Construction of a factor or a graph: `ValueError`, naming the factor, what was expected, what came and where.
2. Pairing a graph with a method: `IncompatibleMethod`, before any work.
3. Reading an answer: `Unavailable`, with the reason.
4. Numbers: `NonFinite`, with the time step, factor or iteration; `NotConverged` is a warning, since an answer exists.
5. Files: `CorruptFile`.
"""

from __future__ import annotations

import sys
import warnings

__all__ = [
    "CorruptFile",
    "EstimatedInitial",
    "IncompatibleMethod",
    "NonFinite",
    "NotConverged",
    "Unavailable",
]


class IncompatibleMethod(ValueError):
    """The graph lacks what the method needs, or the question has no answer; the message names what would work."""


class Unavailable(RuntimeError):
    """This posterior does not have the quantity asked for; the message says why."""


class NonFinite(ArithmeticError):
    """A message, loss or reward became NaN or infinite; the message says at which step."""


class CorruptFile(ValueError):
    """A file is truncated, or was not written by this library."""


class NotConverged(UserWarning):
    """An iteration stopped before its tolerance; `stats.residual` says how far from it."""


class EstimatedInitial(UserWarning):
    """An environment does not publish its initial distribution, so it was estimated from resets."""


def warn_user(message: str, category: type[Warning]) -> None:
    """Warns at the first line outside the library that led here: the user's own."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "cai":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
