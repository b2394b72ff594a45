"""Hyper-parameters that change over a run."""

from __future__ import annotations

from dataclasses import dataclass

from cai.data.serialization import serializable


@serializable
@dataclass(frozen=True)
class Annealed:
    """A number that goes from `start` to `end` along a straight line, and stays there.

    Attributes:
        start: At the first step.
        end: From `share` of the run on.
        share: The share of the run that it takes, in (0, 1].
    """

    start: float
    end: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"Annealed: share must be in (0, 1], got {self.share!r}")


def at_share(value: float | Annealed, share: float) -> float:
    """Gives a hyper-parameter when `share` of the run is done, in [0, 1]."""
    if not isinstance(value, Annealed):
        return value
    return value.start + (value.end - value.start) * min(1.0, share / value.share)
