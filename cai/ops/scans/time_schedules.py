"""Schedules of the messages along a chain: one step after the other, or all steps by scans.

Both compute the same numbers up to rounding. The loop takes T rounds of S A S operations. A scan takes some 2 log2 T
rounds: of S^3 operations a step where the tables vary with time, of S A S + S^2 a step and S^3 log2 T in all where one
table serves all steps. `quicker_schedule` says which is quicker, by the measurements of `benchmarks/scan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cai.errors import IncompatibleMethod
from cai.ops.infinite.fixed_point import Stationary
from cai.ops.logspace import largest_finite
from cai.ops.memory import GIB, available_bytes, need_memory
from cai.ops.messages import BackwardSweep, Messages
from cai.ops.readings import FixedDynamics, PosteriorDynamics
from cai.ops.scans.step_matrices import StepMatrices, step_matrices
from cai.ops.scans.stretches import stretches
from cai.ops.scans.time_scan import ScanSweep, scan_bytes
from cai.ops.transitions import DenseTransitions

#: Beyond it, times the largest reward, exp(V / alpha) is so near to one that its logarithm has lost digits. The loop
#: works with exp(V / alpha) - 1 there.
_HOTTEST = 1e3
#: Bytes that are not worth a look at how many are free.
_LITTLE = 2**26


@dataclass(frozen=True)
class Sequential:
    """One time step after the other: T rounds, each of one step's arithmetic. Sparse tables stay sparse."""

    def sweep(self, problem: Stationary) -> BackwardSweep:
        """Begins a backward pass."""
        return BackwardSweep(problem.tables, problem.passing)

    def certified_error(self, problem: Stationary, messages: Messages) -> float:
        """Bounds the rounding of a pass, reward units: some eps of the greatest value at each of its T steps."""
        eps = torch.finfo(messages.v.dtype).eps
        return 16 * eps * messages.q.shape[-3] * largest_finite(messages.v)


@dataclass(frozen=True)
class AssociativeScan:
    """All time steps at once, by products of matrices `[S, S]` in any grouping: some 2 log2 T rounds.

    For messages that are linear in some sense: the posterior's, the most probable trajectory's, a given policy's.
    Sparse tables are made dense. Where the tables are the same at every step it takes powers of one matrix.

    Source: Särkkä and García-Fernández (2021); Hassan, Särkkä and García-Fernández (2021).
    """

    def sweep(self, problem: Stationary) -> ScanSweep:
        """Begins a backward pass.

        Raises:
            ValueError: The optimal backup under a fixed dynamics, which is linear in nothing.
        """
        return ScanSweep(_form(problem))

    def certified_error(self, problem: Stationary, messages: Messages) -> float:
        """Bounds the rounding of a pass, reward units: of a value and of a sum of K terms, at each of T steps."""
        form, eps = _form(problem), torch.finfo(messages.v.dtype).eps
        return eps * len(messages.q) * (16 + form.size) * (largest_finite(messages.v) + form.rounding)


def _form(problem: Stationary) -> StepMatrices:
    return step_matrices(problem.tables, problem.reading, problem.policy, problem.costs)


def quicker_schedule(problem: Stationary) -> Sequential | AssociativeScan:
    """Picks the quicker schedule for a problem of finite horizon that has both.

    One table for all steps: from 16 steps on, and from a third as many steps as states. Tables that vary: from 32 steps
    on and up to 32 states on a CPU, where a product of matrices costs more than a step from some 64 states; up to 128
    states elsewhere, which has not been measured. Never for sparse tables, nor where a scan would take more than an
    eighth of the free memory.
    """
    tables = problem.tables
    assert tables.horizon is not None
    nonlinear = isinstance(problem.reading, FixedDynamics) and problem.policy is None
    if nonlinear or not isinstance(tables.step(0).transitions, DenseTransitions) or _is_too_hot(problem):
        return Sequential()
    form, horizon = _form(problem), tables.horizon
    pieces = stretches(tables, form.size, policy_varies=form.varies)
    if all(piece.is_constant for piece in pieces):
        pays = horizon >= max(16, tables.num_states / 3)
    else:
        most = 32 if tables.terminal.device.type == "cpu" else 128
        pays = tables.num_states <= most and horizon >= 32
    if not pays:
        return Sequential()
    needed = scan_bytes(form)
    fits = needed < _LITTLE or 8 * needed < available_bytes(tables.terminal.device)
    return AssociativeScan() if fits else Sequential()


def need_scan(problem: Stationary, name: str, *, max_memory: float | None = None) -> None:
    """Refuses a scan that does not fit into memory, or would lose the digits of the answer.

    Args:
        problem: A problem of finite horizon.
        name: The method.
        max_memory: GiB that may be used; None is all that is free.

    Raises:
        IncompatibleMethod: Too little memory, with the figure; or a temperature far above all rewards.
    """
    tables, advice = problem.tables, "schedule=Sequential() is the loop"
    if _is_too_hot(problem):
        raise IncompatibleMethod(
            f"{name}: the temperature is more than {_HOTTEST:g} times the greatest reward, and products over time "
            f"would lose digits of the values; {advice}, which keeps them"
        )
    usable = available_bytes(tables.terminal.device) if max_memory is None else max_memory * GIB
    size = f"{tables.num_states} states over {tables.horizon} steps"
    need_memory(
        scan_bytes(_form(problem)),
        usable,
        f"{name}: a scan of {size}",
        f"{advice}, which multiplies no matrices",
        set_by="" if max_memory is None else "max_memory",
    )


def _is_too_hot(problem: Stationary) -> bool:
    """Whether rewards are so small a part of the temperature that sums of exponentials lose their digits."""
    tables = problem.tables
    temperature = tables.temperature_value
    if temperature <= _HOTTEST or not isinstance(problem.reading, PosteriorDynamics):
        return False
    parts = [tables.terminal_values, *(step.rewards for step in tables.steps)]
    parts += [step.entry_rewards for step in tables.steps if step.entry_rewards is not None]
    return temperature > _HOTTEST * max(1.0, *(largest_finite(part) for part in parts))
