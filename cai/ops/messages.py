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
    """Backward messages, in reward units, and the policy that they give.

    Attributes:
        q: `[..., T, S, A]`, or `[..., 1, S, A]` for an infinite horizon.
        v: `[..., T + 1, S]`, or `[..., 1, S]`.
        log_policy: log pi_t(a|s), as q.
    """

    q: Tensor
    v: Tensor
    log_policy: Tensor


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


def backward_messages(tables: Tables, backup: Backup) -> tuple[Tensor, Tensor]:
    """Computes Q_t and V_t for all t by one backward pass.

    Args:
        tables: A world of finite horizon T.
        backup: How a message passes through one step.

    Returns:
        Q `[..., T, S, A]` and V `[..., T + 1, S]`, in reward units. At terminal states both are the terminal value.

    Raises:
        NonFinite: A message is NaN or `+inf`; the message names the time step and the state.
    """
    return assembled(backward_sweep(tables, backup))


#: Q and V of a backward pass, the last time first: `[..., S, A]` and `[..., S]` each; V has one more, the terminal one.
Swept = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def backward_sweep(tables: Tables, backup: Backup, swept: Swept = ((), ()), *, seconds: float = math.inf) -> Swept:
    """Goes on with a backward pass for a while, so that a long one can be watched.

    Args:
        tables: A world of finite horizon T.
        backup: How a message passes through one step.
        swept: Where the pass stands; nothing yet by default.
        seconds: Stop after this time.

    Returns:
        What is there now: messages `[..., S, A]` and `[..., S]` of the last times; T of the former when it is done.
    """
    horizon = tables.horizon
    assert horizon is not None
    qs, vs = list(swept[0]), list(swept[1]) or [tables.masked(tables.terminal_values, horizon)]
    stop = time.perf_counter() + seconds
    for t in reversed(range(horizon - len(qs))):
        q, v = bellman_step(tables, backup, t, vs[-1])
        qs.append(q)
        vs.append(v)
        if time.perf_counter() > stop:
            break
    return tuple(qs), tuple(vs)


def assembled(swept: Swept) -> tuple[Tensor, Tensor]:
    """Puts a finished backward pass in order of time: Q `[..., T, S, A]` and V `[..., T + 1, S]`.

    Raises:
        NonFinite: A message is NaN or `+inf`; the message names the time step and the state.
    """
    q, v = torch.stack(swept[0][::-1], -3), torch.stack(torch.broadcast_tensors(*swept[1][::-1]), -2)
    check_messages(v)
    return q, v


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
    masses = [initial]
    for t in range(tables.horizon):
        mass = masses[-1]
        moved = kernel(t).push(mass[..., None] * choices[t if len(choices) > 1 else 0])
        masses.append(moved + torch.where(tables.terminal, mass, 0.0) if tables.has_exits else moved)
    states = torch.stack(torch.broadcast_tensors(*masses), -2)
    return states, states[..., :-1, :, None] * acting
