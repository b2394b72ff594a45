"""Stretches of time that a scan works on at once: of one table, or of many tables in one stack.

Equal tables in a row are recognised by being the same objects, as `Tables` holds what does not vary. Known states end
such a run, since they change the step before them; so does the last time at which the episode may not have ended yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.semirings import MatrixSemiring
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import DenseTransitions

#: Equal tables of fewer steps in a row go with the tables that vary.
_SHORT = 16
#: Numbers in a stack: on a CPU such that a round of products stays in the cache, elsewhere a part of the memory.
_IN_CACHE, _ELSEWHERE = 2**18, 2**25
#: Steps of one table that are worked on at a time at least; each piece has to make its powers again.
_LEAST = 512


@dataclass(frozen=True)
class Stretch:
    """Steps `start` to `stop - 1`.

    Attributes:
        start: The first.
        stop: One beyond the last.
        is_constant: Whether one table serves all of them.
    """

    start: int
    stop: int
    is_constant: bool

    @property
    def num_steps(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def times(self) -> slice:
        """The steps, as an index."""
        return slice(self.start, self.stop)


def stretches(tables: Tables, size: int, *, policy_varies: bool = False) -> list[Stretch]:
    """Cuts the time of a finite horizon into stretches.

    Args:
        tables: The world.
        size: Rows K of a matrix of the scan.
        policy_varies: Whether a policy given makes every step another.
    """
    horizon = tables.horizon
    assert horizon is not None
    if policy_varies:
        runs = [Stretch(0, horizon, is_constant=False)]
    else:
        cuts = [0, *(t for t in range(1, horizon) if _changes(tables, t)), horizon]
        shortest = min(_SHORT, horizon)
        runs = _joined(tables, [Stretch(*pair, is_constant=pair[1] - pair[0] >= shortest) for pair in pairwise(cuts)])
    return [piece for run in runs for piece in _cut(run, _longest(tables, run, size))]


def _changes(tables: Tables, t: int) -> bool:
    """Whether a stretch of one table must end before step t."""
    if t in tables.state_masks:
        return True
    here, before = tables.step(t), tables.step(t - 1)
    names = ("transitions", "rewards", "entry_rewards", "prior", "may_die")
    return here is not before and any(getattr(here, name) is not getattr(before, name) for name in names)


def _joined(tables: Tables, runs: Sequence[Stretch]) -> list[Stretch]:
    """Joins neighbours whose tables vary, unless death is possible in one alone."""
    joined: list[Stretch] = []
    for run in runs:
        last = joined[-1] if joined else run
        varying = not (last.is_constant or run.is_constant)
        if joined and varying and tables.step(last.start).may_die == tables.step(run.start).may_die:
            joined[-1] = replace(last, stop=run.stop)
        else:
            joined.append(run)
    return joined


def _longest(tables: Tables, stretch: Stretch, size: int) -> int:
    """How many steps are worked on at a time."""
    on_cpu, pairs = tables.terminal.device.type == "cpu", tables.num_states * tables.num_actions
    if stretch.is_constant:
        return max(_LEAST, (8 * _IN_CACHE if on_cpu else _ELSEWHERE) // pairs)
    numbers = size * (max(size, pairs) if has_own_dynamics(tables, stretch) else size)
    return max(2, (_IN_CACHE if on_cpu else _ELSEWHERE) // numbers)


def _cut(stretch: Stretch, longest: int) -> list[Stretch]:
    starts = range(stretch.start, stretch.stop, longest)
    return [replace(stretch, start=start, stop=min(start + longest, stretch.stop)) for start in starts]


def _steps(tables: Tables, stretch: Stretch) -> list[StepTables]:
    last = stretch.start + 1 if stretch.is_constant or len(tables.steps) == 1 else stretch.stop
    return [tables.step(t) for t in range(stretch.start, last)]


def has_own_dynamics(tables: Tables, stretch: Stretch) -> bool:
    """Whether what lives on (s, a, s') differs between the steps of a stretch."""
    first, *others = _steps(tables, stretch)
    return any(s.transitions is not first.transitions or s.entry_rewards is not first.entry_rewards for s in others)


def stacked_steps(tables: Tables, stretch: Stretch) -> StepTables:
    """Gives the tables of a stretch as one step's, dense, with a leading dimension n where they vary."""
    steps = _steps(tables, stretch)
    on_entries = steps if has_own_dynamics(tables, stretch) else steps[:1]
    entry_rewards = [s.transitions.dense(s.entry_rewards) for s in on_entries if s.entry_rewards is not None]
    return replace(
        steps[0],
        transitions=DenseTransitions(_stacked([s.transitions.dense(s.transitions.values) for s in on_entries])),
        rewards=_stacked([s.rewards for s in steps]),
        entry_rewards=_stacked(entry_rewards) if entry_rewards else None,
        prior=_stacked([s.prior for s in steps]),
    )


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if all(part is parts[0] for part in parts) else torch.stack(list(parts))


def known_states(tables: Tables, stretch: Stretch) -> Tensor | None:
    """Says which states the evidence allows at each step, `[n, S]`, bool; None if it says nothing."""
    known = {t: mask for t, mask in tables.state_masks.items() if stretch.start <= t < stretch.stop}
    if not known:
        return None
    anything = torch.ones_like(tables.terminal)
    return torch.stack([known.get(t, anything) for t in range(stretch.start, stretch.stop)])


def per_step(table: Tensor, times: slice) -> Tensor:
    """What belongs to some steps, of a table `[1 or T, ...]`: `[...]` if all steps have one, else `[n, ...]`."""
    return table[0] if len(table) == 1 else table[times]


def masked_stack(semiring: MatrixSemiring, matrices: Tensor, num_steps: int, allowed: Tensor | None) -> Tensor:
    """Stacks the matrices of a stretch, `[n, K, K]`, with nothing in the rows of states known not to be.

    Args:
        semiring: What nothing is.
        matrices: `[K, K]` or `[n, K, K]`.
        num_steps: Number of steps n.
        allowed: `[n, S]`, bool: the states that the evidence allows at each step, or None for all of them.
    """
    stack = matrices.expand(num_steps, *matrices.shape[-2:])
    if allowed is None:
        return stack
    kept = pad(allowed, (0, stack.shape[-1] - allowed.shape[-1]), value=True)
    return torch.where(kept[..., None], stack, semiring.zero)
