"""Backward and forward messages along a chain of finite horizon.

Backward, for t = T - 1, ..., 0, from V_T = terminal value, in a given reading of the dynamics:

    Q_t = reading.q(V_{t+1}),     V_t = reading.v(Q_t),

V_t = V_{t+1} at terminal states, and -inf where evidence forbids.

Forward, for the trajectory distribution that the messages describe, with kernel K_t(s'|s,a):

    d_0 = q(s_0),     d_{t+1}(s') = sum_{s,a} d_t(s) pi_t(a|s) K_t(s'|s,a)  (+ d_t(s') where s' is terminal).

One vectorised step per time step; nothing is unrolled over states, actions or samples. Rewards, terminal values and
initial distributions may carry leading batch dimensions (many rewards on one world); so do the messages then, before
the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.errors import NonFinite
from cai.ops.logspace import safe_log
from cai.ops.readings import Kernel, Reading
from cai.ops.tables import StepTables, Tables


@dataclass(frozen=True, eq=False)
class Messages:
    """Backward messages, in reward units.

    Attributes:
        q: `[..., T, S, A]`, or `[..., 1, S, A]` for an infinite horizon.
        v: `[..., T + 1, S]`, or `[..., 1, S]`.
        gain: 0-dim, reward units a step, where the horizon is infinite and nothing ends or is discounted: V is then
            relative, up to a constant, and V + gain = B V. None elsewhere.
    """

    q: Tensor
    v: Tensor
    gain: Tensor | None = None


#: Passes a message through one whole step: (step tables, t, v_next [S]) to (q [S, A], v [S]).
Backup = Callable[[StepTables, int, Tensor], tuple[Tensor, Tensor]]


def optimal_backup(reading: Reading) -> Backup:
    """The backup whose policy is the optimal one of the reading."""

    def backup(step: StepTables, t: int, v_next: Tensor) -> tuple[Tensor, Tensor]:
        q = reading.q(step, v_next)
        return q, reading.v(step, q)

    return backup


def evaluation_backup(reading: Reading, policy: Tensor, costs: Tensor) -> Backup:
    """The backup of a given policy: V = sum_a pi(a|s) Q(s,a) - cost(s).

    Args:
        reading: How the dynamics is read.
        policy: `[1 or T, S, A]`, probabilities.
        costs: `[1 or T, S]`, reward units: alpha KL(pi(.|s) || mu(.|s)).
    """

    def backup(step: StepTables, t: int, v_next: Tensor) -> tuple[Tensor, Tensor]:
        q, now = reading.q(step, v_next), t if len(policy) > 1 else 0
        taken = torch.where(policy[now] > 0, policy[now] * q, 0.0)
        return q, taken.sum(-1) - costs[now]

    return backup


def backup_of(reading: Reading, policy: Tensor | None, costs: Tensor | None) -> Backup:
    """The backup of a given policy, or the optimal one where none is given.

    Args:
        reading: How the dynamics is read.
        policy: `[1 or T, S, A]`, probabilities, or None.
        costs: `[1 or T, S]`, reward units: what that policy pays for leaving the prior.
    """
    if policy is None:
        return optimal_backup(reading)
    assert costs is not None
    return evaluation_backup(reading, policy, costs)


def backward_messages(tables: Tables, backup: Backup) -> Messages:
    """Computes Q_t and V_t for all t by one backward pass.

    Args:
        tables: A world of finite horizon T.
        backup: How a message passes through one step.

    Returns:
        Q `[..., T, S, A]` and V `[..., T + 1, S]`, in reward units. At terminal states both are the terminal value.

    Raises:
        NonFinite: A message is NaN or `+inf`; the message names the time step and the state.
    """
    sweep = BackwardSweep(tables, backup)
    sweep.advance()
    return sweep.messages()


class BackwardSweep:
    """A backward pass under way, which can be done in pieces and watched.

    Args:
        tables: A world of finite horizon T.
        backup: How a message passes through one step.

    Attributes:
        num_steps: Time steps done, of T.
    """

    def __init__(self, tables: Tables, backup: Backup) -> None:
        assert tables.horizon is not None
        self._tables, self._backup, self._horizon = tables, backup, tables.horizon
        self._v = [tables.masked(tables.terminal_values, self._horizon)]  # the last time first
        self._q = TimeTable(tables.horizon)
        self.num_steps = 0

    @property
    def is_done(self) -> bool:
        """Whether all time steps are done."""
        return self.num_steps == self._horizon

    def advance(self, seconds: float = math.inf) -> None:
        """Does what remains, or what can be done in this time."""
        stop = time.perf_counter() + seconds
        while not self.is_done:
            t = self._horizon - 1 - self.num_steps
            q, v = bellman_step(self._tables, self._backup, t, self._v[-1])
            self._q.write(t, q)
            self._v.append(v)
            self.num_steps += 1
            if time.perf_counter() > stop:
                break

    def messages(self) -> Messages:
        """Puts a finished pass in order of time.

        Raises:
            NonFinite: A message is NaN or `+inf`; the message names the time step and the state.
        """
        v = torch.stack([*self._v[:0:-1], self._v[0].expand_as(self._v[-1])], -2)
        check_messages(v)
        return Messages(self._q.stacked(), v)


class TimeTable:
    """What is computed one time step after the other, `[..., S, A]` each, becoming `[..., T, S, A]`.

    Where nothing learns it is written into one table at once, so that T * S * A numbers are touched a single time.

    Args:
        horizon: Number of steps T.
    """

    def __init__(self, horizon: int) -> None:
        self._parts: list[Tensor | None] = [None] * horizon
        self._table: Tensor | None = None

    def write(self, t: int, part: Tensor) -> None:
        """Puts in what belongs to step t, `[..., S, A]`."""
        if part.requires_grad:
            self._parts[t] = part
            return
        if self._table is None:
            self._table = part.new_empty(*part.shape[:-2], len(self._parts), *part.shape[-2:])
            self._rows = self._table.unbind(-3)
        self._rows[t].copy_(part)

    def stacked(self) -> Tensor:
        """Gives the table, `[..., T, S, A]`, once every step is in."""
        learned = [part is not None for part in self._parts]
        if self._table is not None and not any(learned):
            return self._table
        parts = [self._rows[t] if part is None else part for t, part in enumerate(self._parts)]
        return torch.stack(torch.broadcast_tensors(*parts), -3)


def bellman_step(tables: Tables, backup: Backup, t: int, v_next: Tensor) -> tuple[Tensor, Tensor]:
    """Passes a message back one step, with terminal states and evidence in their place: `[S]` to `[S, A]` and `[S]`."""
    q, v = backup(tables.step(t), t, v_next)
    if tables.has_exits:
        v = torch.where(tables.terminal, v_next, v)
        q = torch.where(tables.terminal[:, None], v[..., None], q)
    return q, tables.masked(v, t)


def check_messages(v: Tensor) -> None:
    """Raises `NonFinite` if a message `[..., T + 1, S]` holds NaN or `+inf`, naming the first place reached."""
    if v.detach().amax() < torch.inf:  # false for NaN too
        return
    bad = torch.isnan(v) | torch.isposinf(v)
    if bad.any():
        *_, t, state = index = bad.nonzero()[-1].tolist()
        raise NonFinite(f"the backward message of state {state} at time step {t} is {v[tuple(index)].item()}")


def log_policy(tables: Tables, reading: Reading, q: Tensor, v: Tensor) -> Tensor:
    """Computes log pi_t(a|s) from the messages, all steps at once.

    Args:
        tables: The world.
        reading: What the messages mean.
        q: `[..., T, S, A]` (or `[..., 1, S, A]`), reward units.
        v: `[..., T, S]` (or `[..., 1, S]`), reward units.

    Returns:
        As q, in nats. At terminal states, and where the evidence leaves nothing possible, it is the normalised prior.
    """
    policy = reading.log_policy(tables.priors, q, v, tables.temperature)
    if not tables.has_exits and v.detach().amin() > -torch.inf:
        return policy
    idle = tables.terminal | torch.isneginf(v)
    return torch.where(idle[..., None], safe_log(tables.default_policies), policy)


def forward_marginals(
    tables: Tables, initial: Tensor, policy: Tensor, kernel: Callable[[int], Kernel]
) -> tuple[Tensor, Tensor]:
    """Computes the marginals of a trajectory distribution of finite horizon.

    Args:
        tables: The world.
        initial: `[..., S]`, the distribution of s_0.
        policy: `[..., T, S, A]` or `[..., 1, S, A]`, probabilities.
        kernel: Gives the kernel of step t.

    Returns:
        States `[..., T + 1, S]`, absorbed mass included, and states with actions `[..., T, S, A]`, zero at terminal
        states.
    """
    assert tables.horizon is not None
    acting = policy * tables.alive[:, None] if tables.has_exits else policy
    choices = acting.unbind(-3)
    pairs = TimeTable(tables.horizon)
    masses = [initial]
    for t in range(tables.horizon):
        mass = masses[-1]
        pair = mass[..., None] * choices[t if len(choices) > 1 else 0]
        moved = kernel(t).push(pair)
        masses.append(moved + torch.where(tables.terminal, mass, 0.0) if tables.has_exits else moved)
        pairs.write(t, pair)
    return torch.stack([initial.expand_as(masses[-1]), *masses[1:]], -2), pairs.stacked()
