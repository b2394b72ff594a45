"""In which order messages are passed.

`Flooding` and `Residual` choose which messages a sweep of `LoopyBeliefPropagation` replaces. `Sequential` and
`AssociativeScan` take the time steps of a trajectory one after the other, or all at once, with the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.graph.factor_graph import FactorGraph
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.loopy import Change, Messages
from cai.ops.scans.time_schedules import AssociativeScan, Sequential, need_scan, quicker_schedule

#: How the time of a trajectory is passed through; None is the quicker way.
TimeSchedule = Sequential | AssociativeScan | None


class Schedule(Protocol):
    """A choice among new messages."""

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Chooses the messages to go on with, some of the old, some of the new.

        Args:
            old: `[c, E]` a cardinality.
            new: The same of the next sweep.
            change: Computes the absolute change of each entry, nats, of the old and the new `[c, E]` of a cardinality.
        """


@serializable
@dataclass(frozen=True)
class Flooding:
    """All messages at once: the fewest sweeps where they settle; on frustrated loops they may swing for ever."""

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Gives the new messages, `[c, E]` a cardinality."""
        return new


@serializable
@dataclass(frozen=True)
class Residual:
    """Only the messages that would change most: more sweeps, and convergence on many graphs where flooding swings.

    All new messages are computed at once, and those of the greatest residual max_x |log m_new - log m_old| replace the
    old ones. One at a time is residual belief propagation; a share of them keeps the work in few large operations.

    Attributes:
        fraction: Share of all messages that a sweep replaces, in (0, 1].

    Source: Elidan, McGraw and Koller (2006); Van der Merwe, Joseph and Gopalakrishnan (2019) for many at a time.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"Residual: fraction must lie in (0, 1], got {self.fraction}")

    def commit(self, old: Messages, new: Messages, change: Change) -> Messages:
        """Gives the old messages, `[c, E]` a cardinality, with those of the greatest residual replaced."""
        if not old:
            return new
        residuals = torch.cat([change(*pair).amax(0) for pair in zip(old, new, strict=True)])
        chosen = torch.zeros_like(residuals, dtype=torch.bool)
        chosen[residuals.topk(math.ceil(self.fraction * residuals.numel())).indices] = True
        of_kind = chosen.split([message.shape[1] for message in old])
        return tuple(torch.where(mask, fresh, stale) for mask, fresh, stale in zip(of_kind, new, old, strict=True))


def check_time_schedule(schedule: Any, graph: Any, name: str) -> None:
    """Refuses what is no schedule over time, and a scan where there is no time to scan.

    Raises:
        ValueError: Not a schedule over time.
        IncompatibleMethod: A scan on a factor graph, or on an infinite horizon.
    """
    if not isinstance(schedule, TimeSchedule):
        raise ValueError(f"{name}: expected schedule=Sequential(), AssociativeScan() or None, got {schedule!r}")
    if not isinstance(schedule, AssociativeScan):
        return
    if isinstance(graph, FactorGraph):
        raise IncompatibleMethod(
            f"{name}: AssociativeScan is over the time of a trajectory, and a factor graph has none; leave schedule "
            "out, and its junction tree says in which order messages go"
        )
    if isinstance(graph, TrajectoryGraph) and graph.horizon is None:
        raise IncompatibleMethod(
            f"{name}: AssociativeScan needs a finite horizon; on an infinite one a solver finds the fixed point: leave "
            "schedule out, or give a horizon"
        )


def time_schedule(
    schedule: TimeSchedule, problem: Stationary, name: str, max_memory: float | None
) -> Sequential | AssociativeScan:
    """Gives the schedule asked for, or the quicker one.

    Raises:
        IncompatibleMethod: A scan was asked for that does not fit into memory, or would lose digits.
    """
    if schedule is None:
        return quicker_schedule(problem)
    if isinstance(schedule, AssociativeScan):
        need_scan(problem, name, max_memory=max_memory)
    return schedule
