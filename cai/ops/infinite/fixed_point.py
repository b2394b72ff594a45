"""Infinite horizons: the fixed point V = B V of a backward message, its certificate and its occupancy.

Steps towards the fixed point, each one `Iterate` at a time:

    sweep          V <- B V                                      (value iteration; contracts by gamma)
    newton_step    V <- V + (I - G)^-1 (B V - V),  G = dB/dV     (soft policy iteration; quadratic), exact or inexact
    partial_step   V <- V + sum_{j <= m} G^j (B V - V)           (modified policy iteration)

G(s, s') = sum_a pi(a|s) K(s'|s,a) is the chain that the policy of V runs, ended by the discount and at terminal states.
B is convex in V, so from any V <= B V Newton's iterates rise to the solution, and do so for gamma = 0.9999 in a handful
of steps.

What each step certifies is in `cai.ops.infinite.certificates`. Risk-sensitive readings have steps and certificates of
their own, in `cai.ops.infinite.risk_steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.ops.infinite.aggregation import coarse_levels
from cai.ops.infinite.certificates import judged, longest_at, longest_time, rounding
from cai.ops.infinite.growth import log_spectral_radius, why_endless
from cai.ops.infinite.linear import EXACT, LARGE, LONGEST_TIME, ROUGH, Resolvent, implicit
from cai.ops.infinite.occupancy import policy_costs
from cai.ops.infinite.priorities import PriorityQueue
from cai.ops.infinite.risk_steps import risk_newton_step, risk_start
from cai.ops.infinite.shortest_paths import ways_to
from cai.ops.infinite.sweeps import Sweep, Swept, change, sweep_of
from cai.ops.logspace import largest_finite, safe_log
from cai.ops.messages import (
    Backup,
    Messages,
    backup_of,
    bellman_step,
    check_messages,
    log_policy,
)
from cai.ops.readings import FixedDynamics, Reading, RiskSensitive
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.tables import Tables

#: Sweeps after which values that still move by a thousandth of the rewards are taken to move for ever.
_MANY_STEPS = 10_000


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where an iteration towards the fixed point stands.

    Attributes:
        v: `[S]`, reward units.
        num_steps: Backups so far.
        residual: max |B V - V|, reward units; of the V before the last backup.
        certified_error: A bound of |V* - V| in the maximum norm, reward units; infinite where nothing is proved.
        done: Whether the tolerance, or the floor of rounding, is reached.
        longest: The expected time to the end when it was last computed, steps; 1 before.
        memory: What a solver keeps from step to step, or None.
    """

    v: Tensor
    num_steps: int = 0
    residual: float = math.inf
    certified_error: float = math.inf
    done: bool = False
    longest: float = 1.0
    memory: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Stationary:
    """A fixed-point problem: the same step for ever.

    Attributes:
        tables: The world, of infinite horizon.
        reading: How its dynamics is read.
        policy: `[1, S, A]`, the policy to evaluate, or None for the optimal one.
        costs: `[1, S]`, reward units: what the given policy pays for leaving the prior.
    """

    tables: Tables
    reading: Reading
    policy: Tensor | None = None
    costs: Tensor | None = None

    @cached_property
    def passing(self) -> Backup:
        """How a message passes back through one step: to the best action, or by the given policy."""
        return backup_of(self.reading, self.policy, self.costs)

    @property
    def contracts(self) -> bool:
        """Whether the backup contracts by the discount in the maximum norm."""
        return isinstance(self.reading, FixedDynamics) and self.tables.discount < 1.0

    @cached_property
    def detached(self) -> Stationary:
        """The same problem on numbers that record no gradients, for iterations: their products may be kept."""
        if not self._learns:
            return self
        policy = None if self.policy is None else self.policy.detach()
        costs = None if self.costs is None else self.costs.detach()
        return Stationary(self.tables.detached(), self.reading, policy, costs)

    @property
    def _learns(self) -> bool:
        """Whether anything records gradients."""
        given = (part for part in (self.policy, self.costs) if part is not None)
        return self.tables.learns or any(part.requires_grad for part in given)

    def backup(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Applies B: V `[S]` to Q `[S, A]` and B V `[S]`."""
        v = torch.where(self.tables.terminal, self.tables.terminal_values, v)
        return bellman_step(self.tables, self.passing, 0, v)

    def log_policy_of(self, q: Tensor, v: Tensor) -> Tensor:
        """Gives log pi(a|s) of messages, `[S, A]`."""
        if self.policy is not None:
            return safe_log(self.policy[0])
        return log_policy(self.tables, self.reading, q[None], v[None])[0]

    def chain(self, q: Tensor, v: Tensor, v_next: Tensor) -> np.ndarray | scipy.sparse.csr_matrix:
        """Computes G = dB/dV at v_next, on the CPU: `[S, S]`, with empty rows and columns at terminal states."""
        kernel = self.reading.kernel(self.tables.step(0), q, v_next)
        matrix = kernel.arrival.state_matrix(self.log_policy_of(q, v).exp() * self.tables.alive[:, None])
        column_scale = (
            self.tables.alive if kernel.survival is None else self.tables.alive * kernel.survival.log_goes_on.exp()
        )
        scale = column_scale.detach().cpu().numpy()
        if isinstance(matrix, np.ndarray):
            return matrix * scale
        matrix.data *= scale[matrix.indices]
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def sweep_once(self) -> Sweep:
        """Applies B without keeping Q: V `[S]` to `Swept`; terminal states keep their value."""
        return sweep_of(self.tables, self.reading, self.policy, self.costs)

    def queue(self, block_size: int) -> PriorityQueue:
        """The blocks of an asynchronous sweep, of so many states each; kept."""
        if block_size not in self._queues:
            self._queues[block_size] = PriorityQueue(self.tables, self.reading, block_size=block_size)
        return self._queues[block_size]

    @cached_property
    def _queues(self) -> dict[int, PriorityQueue]:
        return {}

    def residual_for(self, iterate: Iterate, tolerance: float) -> float:
        """The residual at which a value is likely to have the error asked for, reward units."""
        wanted = tolerance * max(1.0, largest_finite(iterate.v))
        reach = 1.0 / (1.0 - self.tables.discount) if self.contracts else iterate.longest
        return max(wanted / reach, rounding(self, largest_finite(iterate.v)))

    @cached_property
    def largest_reward(self) -> float:
        """Max |E[r(s, a, s')]|, reward units."""
        return largest_finite(self.tables.expected_rewards)

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...] | None:
        """Groups of states for the linear solves of a large sparse world; None for others."""
        if self.detached is not self:
            return self.detached.levels
        tables = self.tables
        transitions = tables.step(0).transitions
        if tables.num_states < LARGE or not isinstance(transitions, SparseTransitions):
            return None
        return coarse_levels(transitions.state_matrix(tables.default_policies[0] * tables.alive[:, None]))

    def resolvent(self, chain: np.ndarray | scipy.sparse.csr_matrix, v: Tensor) -> Resolvent:
        """Makes the solver of the linearised problem at a value `[S]`, swept from the states of high value down."""
        return Resolvent(chain, order=-v.detach().cpu().numpy(), levels=self.levels)

    def start(self) -> Tensor:
        """Gives a V to start from, `[S]`, with V <= B V where B does not contract.

        Zero where B contracts, else the value of the prior's policy; in a large sparse world with exits, that of a
        policy which makes for them: plain steps would take as many as the longest way to find that out.

        Raises:
            IncompatibleMethod: The prior's policy has no value: some state never reaches the end.
        """
        if isinstance(self.reading, RiskSensitive):
            return risk_start(self, replace(self, reading=FixedDynamics()))
        tables = self.tables
        zero = torch.where(tables.terminal, tables.terminal_values, 0.0).detach()
        if self.policy is not None:
            return zero
        transitions, policy = tables.step(0).transitions, tables.default_policies.detach()
        if tables.has_exits and tables.num_states >= LARGE and isinstance(transitions, SparseTransitions):
            ways = ways_to(transitions, tables.terminal, policy[0])
            return self._value_of(ways.policy[None], zero, ways.rank)
        return zero if self.contracts or tables.is_hard else self._value_of(policy, zero)

    def _value_of(self, policy: Tensor, ends: Tensor, order: np.ndarray | None = None) -> Tensor:
        """The value `[S]` of a policy `[1, S, A]`, dynamics as it is; a rough one where an order of states is given."""
        costs = policy_costs(self.tables, policy).detach()
        evaluation = Stationary(self.tables, FixedDynamics(), policy, costs)
        if order is None:
            return evaluation.newton_step(Iterate(ends), tolerance=0.0).v
        q, v = evaluation.backup(ends)
        resolvent = Resolvent(evaluation.chain(q, v, ends), order=order, levels=self.levels)
        # A tilted chain multiplies errors of many temperatures; the others only want to be shown the way.
        return ends + resolvent.solve(v - ends, rtol=EXACT if self.reading.tilts else ROUGH)

    def sweep(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by B V."""
        swept = self.sweep_once(iterate.v)
        return judged(self, iterate, swept, tolerance, lambda: longest_at(self, iterate.v))

    def newton_step(self, iterate: Iterate, *, tolerance: float, forcing: float = 0.0) -> Iterate:
        """Replaces V by V + (I - G)^-1 (B V - V), or by B V where that is within the tolerance.

        Args:
            iterate: Where the iteration stands.
            tolerance: Error of V to reach, relative to max(1, max|V|).
            forcing: Residual that the linear solve may leave, relative to B V - V; less as the steps converge. Zero
                solves exactly.

        Raises:
            IncompatibleMethod: The chain of the policy never ends, so that no finite value exists.
        """
        if isinstance(self.reading, RiskSensitive):
            return risk_newton_step(self, iterate, tolerance=tolerance, forcing=forcing)
        q, v, swept = self._linearised(iterate.v)
        if self.contracts and (finished := judged(self, iterate, swept, tolerance, math.inf)).done:
            return finished
        chain = self.chain(q, v, iterate.v)
        resolvent = self.resolvent(chain, v)
        longest = longest_time(self, chain, resolvent, forcing)
        if longest > LONGEST_TIME:
            raise IncompatibleMethod(self.refusal())
        finished = judged(self, iterate, swept, tolerance, longest)
        if finished.done:
            return finished
        step = torch.where(torch.isfinite(v), v - iterate.v, 0.0)
        if not forcing:
            return replace(finished, v=iterate.v + resolvent.solve(step))
        falling = min(1.0, finished.residual / iterate.residual) if iterate.residual > 0.0 else 1.0
        wanted = 0.1 * tolerance * max(1.0, swept.largest) / longest
        return replace(finished, v=iterate.v + resolvent.solve(step, rtol=max(forcing * falling, 1e-12), atol=wanted))

    def partial_step(self, iterate: Iterate, *, tolerance: float, num_terms: int) -> Iterate:
        """Replaces V by V + sum_{j <= m} G^j (B V - V): a sweep, then m sweeps with the policy held.

        Args:
            iterate: Where the iteration stands.
            tolerance: Error of V to reach, relative to max(1, max|V|).
            num_terms: m.
        """
        q, v, swept = self._linearised(iterate.v)
        finished = judged(self, iterate, swept, tolerance, lambda: longest_at(self, iterate.v))
        if finished.done:
            return finished
        chain = self.chain(q, v, iterate.v)
        term = torch.where(torch.isfinite(v), v - iterate.v, 0.0).cpu().numpy()
        total = term.copy()
        for _ in range(num_terms):
            term = chain @ term
            total += term
        return replace(finished, v=iterate.v + torch.as_tensor(total, dtype=v.dtype, device=v.device))

    def _linearised(self, before: Tensor) -> tuple[Tensor, Tensor, Swept]:
        """Q `[S, A]` and B V `[S]` at a value, and how far B moved it."""
        q, v = self.backup(before)
        check_messages(v[None])
        return q, v, Swept(v, *change(v, before))

    def attach(self, v: Tensor) -> Messages:
        """Makes messages of a fixed point, with the gradient of the implicit function theorem.

        Args:
            v: `[S]`, the fixed point, detached.

        Returns:
            Q `[1, S, A]` and V `[1, S]`, differentiable (once) with respect to the tables.
        """
        q, once_more = self.backup(v)
        if once_more.requires_grad:
            once_more = implicit(v, once_more, self.resolvent(self.chain(q, once_more, v), once_more))
            q, once_more = self.backup(once_more)
        return Messages(q[None], once_more[None])

    def seems_endless(self, iterate: Iterate) -> bool:
        """Says whether an iteration that stopped early was on its way to no finite value."""
        if self.contracts or math.isfinite(iterate.certified_error):
            return False
        if isinstance(self.reading, RiskSensitive):
            return bool(self.why_endless)
        if self.reading.absorbs:
            return log_spectral_radius(self.tables) + math.log(max(self.tables.discount, 1e-300)) >= 0.0
        return iterate.num_steps >= _MANY_STEPS and iterate.residual > 1e-3 * self.largest_reward

    @cached_property
    def why_endless(self) -> str:
        """Says why a risk-sensitive reading has no finite value; empty where it has one, and for other readings."""
        return why_endless(self.tables, self.reading) if isinstance(self.reading, RiskSensitive) else ""

    def refusal(self) -> str:
        """Says why no finite value exists."""
        tables = self.tables
        if self.policy is not None:
            return "the policy never ends the episode from some state, and without discount its value does not exist"
        if self.why_endless:
            return self.why_endless
        if self.reading.absorbs:
            log_lambda = log_spectral_radius(tables)
            radius = f"{math.exp(log_lambda):.6g}" if log_lambda < 700 else f"exp({log_lambda:.6g})"
            where = "on the non-terminal states " if tables.terminal.any() else ""
            return (
                "p(O) diverges: the spectral radius of M(s, s') = sum_a mu exp(r / alpha) p(s'|s,a) "
                f"{where}is lambda = {radius}, and discount * lambda = {tables.discount:g} * {radius} must be below 1; "
                "lower the reward, the discount or give a finite horizon"
            )
        return (
            "the soft value of this undiscounted infinite horizon does not exist: going on for ever is worth more than "
            "any exit (with the flat prior its entropy alone can be); give a discount, a finite horizon, a lower "
            "temperature or the normalised action prior"
        )
