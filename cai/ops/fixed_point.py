"""Infinite horizons: the fixed point V = B V of a backward message, its certificate and its occupancy.

Two ways to the fixed point, each one `Iterate` at a time:

    sweep        V <- B V                                      (value iteration; contracts by gamma)
    newton_step  V <- V + (I - G)^-1 (B V - V),  G = dB/dV     (soft policy iteration; quadratic)

G(s, s') = sum_a pi(a|s) K(s'|s,a) is the chain that the policy of V runs, ended by the discount and at terminal states.
B is convex in V, so from any V <= B V Newton's iterates rise to the solution, and do so for gamma = 0.9999 in a handful
of steps.

Certificate. With residual k = B V - V and the expected time to the end n = (I - G)^-1 1, N = max n:

    fixed dynamics, gamma < 1:         |V* - V| <= max|k| / (1 - gamma)
    a given policy:                    |V* - V| <= N max|k|
    otherwise, with d = expm1(max|k| / alpha), if d N < 1, which proves that V* exists:
                                       |V* - V| <= -alpha log(1 - d N)

The last holds because exp(K / alpha), K = V* - V, is bounded from both sides by 1 +- c n, super- and subsolutions of
its linear equation. N itself is verified: any n > 0 with (I - G) n >= 1 bounds the time to the end. Rounding of the
residual is counted in max|k|.
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
from cai.ops.linear import Resolvent, implicit
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
from cai.ops.readings import FixedDynamics, Reading
from cai.ops.tables import Tables

#: Sweeps after which values that still move by a thousandth of the rewards are taken to move for ever.
_MANY_STEPS = 10_000
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
    """

    v: Tensor
    num_steps: int = 0
    residual: float = math.inf
    certified_error: float = math.inf
    done: bool = False


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
        return matrix @ scipy.sparse.diags(scale) if scipy.sparse.issparse(matrix) else matrix * scale

    def start(self) -> Tensor:
        """Gives a V to start from, `[S]`: zero where B contracts, else the value of the prior's policy, V <= B V.

        Raises:
            IncompatibleMethod: The prior's policy has no value: some state never reaches the end.
        """
        tables = self.tables
        zero = torch.where(tables.terminal, tables.terminal_values, 0.0).detach()
        if self.contracts or self.policy is not None or self.tables.is_hard:
            return zero
        policy = tables.default_policies.detach()
        evaluation = Stationary(tables, FixedDynamics(), policy, policy_costs(tables, policy).detach())
        return evaluation.newton_step(Iterate(zero), tolerance=0.0).v

    def sweep(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by B V."""
        q, v = self.backup(iterate.v)
        check_messages(v[None])
        residual = self._residual(v, iterate.v)
        error = math.inf
        if residual + self._rounding(q) <= max(tolerance, 0.0) * _scale(v) or self.contracts:
            error = self._certified_error(residual + self._rounding(q), q, v, iterate.v)
        return self._finish(iterate, q, v, residual, error, tolerance)

    def newton_step(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by V + (I - G)^-1 (B V - V), or by B V where that is within the tolerance.

        Raises:
            IncompatibleMethod: The chain of the policy never ends, so that no finite value exists.
        """
        q, v = self.backup(iterate.v)
        check_messages(v[None])
        residual = self._residual(v, iterate.v)
        resolvent = Resolvent(chain := self.chain(q, v, iterate.v))
        longest = self._longest_time(chain, resolvent)
        if longest > LONGEST_TIME:
            raise IncompatibleMethod(self.refusal())
        error = self._error_from(residual + self._rounding(q), longest)
        finished = self._finish(iterate, q, v, residual, error, tolerance)
        if finished.done:
            return finished
        step = torch.where(torch.isfinite(v), v - iterate.v, 0.0)
        return replace(finished, v=iterate.v + resolvent.solve(step))

    def attach(self, v: Tensor) -> Messages:
        """Makes messages of a fixed point, with the gradient of the implicit function theorem.

        Args:
            v: `[S]`, the fixed point, detached.

        Returns:
            Q `[1, S, A]` and V `[1, S]`, differentiable (once) with respect to the tables.
        """
        q, once_more = self.backup(v)
        if once_more.requires_grad:
            once_more = implicit(v, once_more, Resolvent(self.chain(q, once_more, v)))
            q, once_more = self.backup(once_more)
        return Messages(q[None], once_more[None])

    def seems_endless(self, iterate: Iterate) -> bool:
        """Says whether an iteration that stopped early was on its way to no finite value."""
        if self.contracts or math.isfinite(iterate.certified_error):
            return False
        if self.reading.absorbs:
            return log_spectral_radius(self.tables, self.reading) + math.log(max(self.tables.discount, 1e-300)) >= 0.0
        return iterate.num_steps >= _MANY_STEPS and iterate.residual > 1e-3 * largest_finite(
            self.tables.expected_rewards
        )

    def refusal(self) -> str:
        """Says why no finite value exists."""
        tables = self.tables
        if self.policy is not None:
            return "the policy never ends the episode from some state, and without discount its value does not exist"
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

    def _residual(self, v: Tensor, before: Tensor) -> float:
        change = torch.where(torch.isfinite(v), v - before, 0.0)
        return float(change.detach().abs().max())

    def _rounding(self, q: Tensor) -> float:
        return 16 * torch.finfo(q.dtype).eps * largest_finite(q)

    def _finish(
        self, iterate: Iterate, q: Tensor, v: Tensor, residual: float, error: float, tolerance: float
    ) -> Iterate:
        small = error <= tolerance * _scale(v)
        stalled = iterate.residual <= residual <= self._rounding(q)
        return Iterate(v.detach(), iterate.num_steps + 1, residual, error, done=small or stalled)

    def _longest_time(self, chain: np.ndarray | scipy.sparse.csr_matrix, resolvent: Resolvent) -> float:
        if self.contracts:
            return 1.0 / (1.0 - self.tables.discount)
        time = resolvent.solve(torch.ones(self.tables.num_states, dtype=torch.float64)).numpy()
        if not np.isfinite(time).all() or time.min() <= 0.0:
            return math.inf
        slack = (time - chain @ time).min()
        return math.inf if slack <= 0.0 else float(time.max() / slack)

    def _certified_error(self, residual: float, q: Tensor, v: Tensor, v_next: Tensor) -> float:
        if self.contracts:
            return self._error_from(residual, 1.0 / (1.0 - self.tables.discount))
        if self.tables.is_hard and self.policy is None:
            return math.inf
        chain = self.chain(q, v, v_next)
        return self._error_from(residual, self._longest_time(chain, Resolvent(chain)))

    def _error_from(self, residual: float, longest: float) -> float:
        """Bounds |V* - B V|, hence |V* - V| of what is returned; see the module's doc string."""
        if self.contracts or self.policy is not None:
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
    resolvent = Resolvent(problem.chain(q, v, v))
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


def _scale(v: Tensor) -> float:
    return max(1.0, largest_finite(v))
