"""Infinite horizons: the fixed point V = B V of a backward message, its certificate and its occupancy.

Steps towards the fixed point, each one `Iterate` at a time:

    sweep          V <- B V                                      (value iteration; contracts by gamma)
    newton_step    V <- V + (I - G)^-1 (B V - V),  G = dB/dV     (soft policy iteration; quadratic), exact or inexact
    partial_step   V <- V + sum_{j <= m} G^j (B V - V)           (modified policy iteration)

G(s, s') = sum_a pi(a|s) K(s'|s,a) is the chain that the policy of V runs, ended by the discount and at terminal states.
B is convex in V, so from any V <= B V Newton's iterates rise to the solution, and do so for gamma = 0.9999 in a handful
of steps.

Certificate. With residual k = B V - V and the expected time to the end n = (I - G)^-1 1, N = max n:

    fixed dynamics, gamma < 1:         gamma/(1 - gamma) min k <= V* - B V <= gamma/(1 - gamma) max k
                                       (k = 0 at terminal states counts), so that the middle of the two, taken as the
                                       answer, is off by half their distance: the span of k counts, not its size
    a given policy:                    |V* - V| <= N max|k|
    otherwise, with d = expm1(max|k| / alpha), if d N < 1, which proves that V* exists:
                                       |V* - V| <= -alpha log(1 - d N)

The last holds because exp(K / alpha), K = V* - V, is bounded from both sides by 1 +- c n, super- and subsolutions of
its linear equation. N itself is verified: any n > 0 with (I - G) n >= 1 bounds the time to the end. Rounding of the
residual is counted in max|k|.

Risk-sensitive readings have steps and certificates of their own, in `cai.ops.risk_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.ops.aggregation import coarse_levels
from cai.ops.growth import why_endless
from cai.ops.linear import EXACT, LARGE, Resolvent, implicit
from cai.ops.logspace import NEG_INF, logsumexp, safe_log
from cai.ops.messages import (
    Backup,
    Messages,
    bellman_step,
    check_messages,
    evaluation_backup,
    log_policy,
    optimal_backup,
)
from cai.ops.priorities import PriorityQueue
from cai.ops.readings import FixedDynamics, Reading, RiskSensitive
from cai.ops.risk_steps import risk_judged, risk_newton_step, risk_start
from cai.ops.shortest_paths import ways_to
from cai.ops.sparse_transitions import SparseTransitions
from cai.ops.sweeps import Sweep, Swept, change, sweep_of
from cai.ops.tables import Tables

#: Sweeps after which values that still move by a thousandth of the rewards are taken to move for ever.
_MANY_STEPS = 10_000
#: Residual of a linear solve whose answer only has to point the way, or is verified afterwards.
_ROUGH = 1e-3
#: An expected time to the end beyond this cannot be told from infinity in float64.
LONGEST_TIME = 1e13


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
        if self.policy is None:
            return optimal_backup(self.reading)
        assert self.costs is not None
        return evaluation_backup(self.reading, self.policy, self.costs)

    @property
    def contracts(self) -> bool:
        """Whether the backup contracts by the discount in the maximum norm."""
        return isinstance(self.reading, FixedDynamics) and self.tables.discount < 1.0

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
        return max(wanted / reach, self._rounding(largest_finite(iterate.v)))

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...] | None:
        """Groups of states for the linear solves of a large sparse world; None for others."""
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
        """The value `[S]` of a policy `[1, S, A]`, the dynamics as it is; roughly, where an order of states is given."""
        costs = policy_costs(self.tables, policy).detach()
        evaluation = Stationary(self.tables, FixedDynamics(), policy, costs)
        if order is None:
            return evaluation.newton_step(Iterate(ends), tolerance=0.0).v
        q, v = evaluation.backup(ends)
        resolvent = Resolvent(evaluation.chain(q, v, ends), order=order, levels=self.levels)
        return ends + resolvent.solve(v - ends, rtol=_ROUGH)

    def sweep(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by B V."""
        swept = self.sweep_once(iterate.v)
        return self.judged(iterate, swept, tolerance, lambda: self._longest_at(iterate.v))

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
        if self.contracts and (finished := self.judged(iterate, swept, tolerance, math.inf)).done:
            return finished
        chain = self.chain(q, v, iterate.v)
        resolvent = self.resolvent(chain, v)
        longest = self._longest_time(chain, resolvent, forcing)
        if longest > LONGEST_TIME:
            raise IncompatibleMethod(self.refusal())
        finished = self.judged(iterate, swept, tolerance, longest)
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
        finished = self.judged(iterate, swept, tolerance, lambda: self._longest_at(iterate.v))
        if finished.done:
            return finished
        chain = self.chain(q, v, iterate.v)
        term = torch.where(torch.isfinite(v), v - iterate.v, 0.0).cpu().numpy()
        total = term.copy()
        for _ in range(num_terms):
            term = chain @ term
            total += term
        return replace(finished, v=iterate.v + torch.as_tensor(total, dtype=v.dtype, device=v.device))

    def judged(self, iterate: Iterate, swept: Swept, tolerance: float, longest: float | Callable[[], float]) -> Iterate:
        """Makes the next iterate of a backup of this one: its residual, its certified error, whether it is done.

        Args:
            iterate: The iterate that was swept.
            swept: What came of it.
            tolerance: Error of V to reach, relative to max(1, max|V|).
            longest: The expected time to the end, steps, or what computes it: asked for only where it can decide.
        """
        if isinstance(self.reading, RiskSensitive):
            return risk_judged(self, iterate, swept, tolerance)
        target = tolerance * max(1.0, swept.largest)
        rounding = self._rounding(swept.largest)
        stalled = iterate.residual <= swept.residual <= rounding
        done = replace(iterate, v=swept.v.detach(), num_steps=iterate.num_steps + 1, residual=swept.residual)
        if self.contracts:
            centred = self._centred(done, swept, rounding)
            if centred.certified_error <= target:
                return replace(centred, done=True)
            return replace(done, certified_error=self._error_from(swept.residual + rounding, 1.0), done=stalled)
        if callable(longest):
            if self._error_from(swept.residual + rounding, iterate.longest) > target and not stalled:
                return replace(done, certified_error=math.inf)
            longest = longest()
        error = self._error_from(swept.residual + rounding, longest)
        return replace(done, certified_error=error, longest=max(longest, 1.0), done=error <= target or stalled)

    def _linearised(self, before: Tensor) -> tuple[Tensor, Tensor, Swept]:
        """Q `[S, A]` and B V `[S]` at a value, and how far B moved it."""
        q, v = self.backup(before)
        check_messages(v[None])
        return q, v, Swept(v, *change(v, before))

    def _centred(self, iterate: Iterate, swept: Swept, rounding: float) -> Iterate:
        """Moves B V to the middle of the two bounds of V*, as if V had been moved by a constant before the backup."""
        discount = self.tables.discount
        half, middle = 0.5 * (swept.high - swept.low), 0.5 * (swept.high + swept.low)
        reach = discount / (1.0 - discount)
        v = torch.where(self.tables.terminal, iterate.v, iterate.v + reach * middle)
        return replace(iterate, v=v, residual=half, certified_error=reach * half + rounding / (1.0 - discount))

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
            return log_spectral_radius(self.tables, self.reading) + math.log(max(self.tables.discount, 1e-300)) >= 0.0
        return iterate.num_steps >= _MANY_STEPS and iterate.residual > 1e-3 * largest_finite(
            self.tables.expected_rewards
        )

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
            log_lambda = log_spectral_radius(tables, self.reading)
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

    def _rounding(self, largest: float) -> float:
        # A log-sum-exp rounds by some eps of the temperature; above 1e3 another arithmetic takes over.
        temperature = min(float(torch.as_tensor(self.tables.temperature).detach()), 1e3)
        return 16 * torch.finfo(self.tables.terminal_values.dtype).eps * (self._largest_reward + largest + temperature)

    @cached_property
    def _largest_reward(self) -> float:
        return largest_finite(self.tables.expected_rewards)

    def _longest_at(self, v_next: Tensor) -> float:
        """The expected time to the end under the policy of a value `[S]`, steps."""
        q, v = self.backup(v_next)
        chain = self.chain(q, v, v_next)
        return self._longest_time(chain, self.resolvent(chain, v), _ROUGH)

    def _longest_time(self, chain: np.ndarray | scipy.sparse.csr_matrix, resolvent: Resolvent, forcing: float) -> float:
        if self.contracts:
            return 1.0 / (1.0 - self.tables.discount)
        ones = torch.ones(self.tables.num_states, dtype=torch.float64)
        for rtol in (_ROUGH, EXACT) if forcing else (EXACT,):
            time = resolvent.solve(ones, rtol=rtol).numpy()
            if np.isfinite(time).all() and time.min() > 0.0 and (slack := (time - chain @ time).min()) > 0.0:
                return float(time.max() / slack)
        return math.inf

    def _error_from(self, residual: float, longest: float) -> float:
        """Bounds |V* - B V|, hence |V* - V| of what is returned; see the module's doc string."""
        if self.contracts:
            return residual / (1.0 - self.tables.discount)
        if self.policy is not None:
            return longest * residual
        if self.tables.is_hard:
            return math.inf
        temperature = self.tables.temperature
        temperature = float(temperature.detach() if isinstance(temperature, Tensor) else temperature)
        grown = math.expm1(min(residual / temperature, 700.0)) * longest
        return math.inf if grown >= 1.0 else residual - temperature * math.log1p(-grown)


def policy_costs(tables: Tables, policy: Tensor) -> Tensor:
    """Computes alpha KL(pi(.|s) || mu(.|s)), `[1 or T, S]`, in reward units: what a policy pays for leaving the prior.

    Args:
        tables: The world; its prior is mu.
        policy: `[1 or T, S, A]`, probabilities.
    """
    taken = policy > 0  # elsewhere no logarithm enters: 0 (-inf - -inf) has no gradient
    ratio = torch.where(taken, safe_log(policy) - torch.where(taken, safe_log(tables.priors), 0.0), 0.0)
    return tables.temperature * (policy * ratio).sum(-1)


def log_spectral_radius(tables: Tables, reading: Reading, *, max_steps: int = 5_000) -> float:
    """Computes log lambda, lambda the spectral radius of M(s,s') = sum_a mu exp(r/alpha) p on non-terminal states.

    Power iteration on M + I, which is aperiodic, in log space, where entries may lie thousands of nats apart. The ratio
    max (M + I)x / x bounds lambda + 1 from above at every step (Collatz and Wielandt).
    """
    step = replace(tables.step(0), discount=1.0)
    temperature = step.temperature
    x = torch.where(tables.terminal, NEG_INF, torch.zeros_like(tables.terminal_values))
    ratio = math.inf
    with torch.no_grad():
        for _ in range(max_steps):
            moved = torch.where(tables.terminal, NEG_INF, reading.v(step, reading.q(step, x)))
            grown = logsumexp(torch.stack([moved, x]) / temperature, 0) * temperature
            change = float(((grown - x)[~tables.terminal] / temperature).max())
            x = grown - grown.max()
            if abs(change - ratio) < 1e-12:
                break
            ratio = change
    return ratio + math.log1p(-math.exp(-ratio)) if ratio > 0 else NEG_INF


def stationary_occupancy(problem: Stationary, messages: Messages, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the expected (discounted) number of visits of a stationary policy, and what is absorbed.

    n = (I - G')^-1 d_0 on the non-terminal states, by one transposed solve, differentiable (once).

    Args:
        problem: The fixed-point problem.
        messages: Its solution.
        initial: `[S]`, the distribution of s_0.

    Returns:
        Visits `[S, A]` (zero at terminal states) and the mass that ends in each terminal state, `[S]`.
    """
    tables, q, v = problem.tables, messages.q[0], messages.v[0]
    kernel = problem.reading.kernel(tables.step(0), q, v)
    acting = problem.log_policy_of(q, v).exp() * tables.alive[:, None]
    resolvent = problem.resolvent(problem.chain(q, v, v), v)
    visits = resolvent.solve(initial * tables.alive, transposed=True)
    once_more = tables.alive * (initial + kernel.push(visits[:, None] * acting))
    visits = implicit(visits, once_more, resolvent, transposed=True)
    pairs = visits[:, None] * acting
    absorbed = torch.where(tables.terminal, initial + kernel.push(pairs), 0.0)
    return pairs, absorbed


def largest_finite(v: Tensor) -> float:
    """Gives max |v| over the finite entries; zero where there are none."""
    low, high = (float(bound) for bound in v.detach().aminmax())
    if not math.isfinite(low - high):
        return float(torch.where(torch.isfinite(v.detach()), v.detach(), 0.0).abs().max())
    return max(-low, high)
