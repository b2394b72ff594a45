"""What a backward message means: the readings of the dynamics.

A reading says how a message passes through the dynamics and through the action, and which trajectory distribution the
messages then describe. Everything is in reward units; alpha is the temperature, mu the action prior.

    FixedDynamics        Q = E[r] + gamma E V'                    V = alpha log sum_a mu exp(Q / alpha)
                         describes q* = p(s_0) prod pi p
    PosteriorDynamics    Q = alpha log E exp((r + W') / alpha)    V as above
                         W = alpha log(gamma exp(V / alpha) + 1 - gamma), which is V where gamma = 1
                         describes p(tau | O)
    MostProbable         Q = max_s' alpha log p + r + V'          V = max_a alpha log mu + Q
                         describes the mode of p(tau | O)

Sources: Levine (2018), sections 2 to 4; Ziebart, Bagnell and Dey (2010); Rawlik, Toussaint and Vijayakumar (2012).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.caching import grad_cached_property
from cai.ops.logspace import NEG_INF, finite, log_expectation, logsumexp, max_over_support, safe_log
from cai.ops.tables import StepTables, Tables, is_hard
from cai.ops.transitions import Transitions


@dataclass(frozen=True, eq=False)
class Tilt:
    """What multiplies p(s'|s,a) to make another distribution of s', as logarithms, nats.

    Attributes:
        log_next: `[S]`, of the next state.
        log_total: `[S, A]`, the normaliser.
        log_entries: On entries, or None.
    """

    log_next: Tensor
    log_total: Tensor
    log_entries: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Survival:
    """The chance of going on, or of ending, after arriving at s': the discount as an absorbing state.

    Attributes:
        log_goes_on: `[S]`, nats.
        log_ends: `[S]`, nats.
    """

    log_goes_on: Tensor
    log_ends: Tensor


@dataclass(frozen=True, eq=False)
class Kernel:
    """One step of a trajectory distribution: arrive at s', then go on with some probability.

    Attributes:
        transitions: p(s'|s,a).
        tilt: What tilts it, or None.
        survival: What follows the arrival, or None where the trajectory goes on for certain.
    """

    transitions: Transitions
    tilt: Tilt | None = None
    survival: Survival | None = None

    @grad_cached_property
    def log_arrival(self) -> Tensor:
        """Log q(s'|s,a) on entries, nats; exact where the probability itself would be too small for a number."""
        log_values = safe_log(self.transitions.values)
        if self.tilt is None:
            return log_values
        transitions, tilt = self.transitions, self.tilt
        exponent = transitions.at_next(tilt.log_next) - transitions.at_source(finite(tilt.log_total))
        if tilt.log_entries is not None:
            exponent = exponent + tilt.log_entries
        possible = transitions.values > 0
        return torch.where(possible, log_values + torch.where(possible, exponent, NEG_INF), NEG_INF)

    @grad_cached_property
    def arrival(self) -> Transitions:
        """The distribution of s', with the tilt multiplied in."""
        if self.tilt is None:
            return self.transitions
        return self.transitions.reweighted(self.log_arrival.exp())

    def push(self, mass: Tensor) -> Tensor:
        """Moves the mass `[S, A]` of (state, action) to the next states, `[S]`; what dies is lost."""
        moved = self._moved(mass)
        return moved if self.survival is None else moved * self.survival.log_goes_on.exp()

    def _moved(self, mass: Tensor) -> Tensor:
        tilt = self.tilt
        if tilt is None or tilt.log_entries is not None:
            return self.arrival.push(mass)
        below, top = self.transitions.shifted(tilt.log_next)
        if not self.transitions.spans_little(below):
            return self.arrival.push(mass)
        # p e^x m / total without making the tilted table: scale the mass, move it, scale what arrives.
        possible = ~torch.isneginf(tilt.log_total)
        scale = torch.where(possible, top[..., None] - torch.where(possible, tilt.log_total, 0.0), NEG_INF).exp()
        return self.transitions.push(mass * scale) * below.exp()


#: Above it the rounding of a plain log-sum-exp, times the temperature, would show in the tenth digit of a value.
_HIGH_TEMPERATURE = 1e3


class Reading(ABC):
    """How messages pass through one time step, and what they describe."""

    @abstractmethod
    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Passes a message back through the dynamics: `[S]` at t + 1 to `[S, A]` at t, in reward units."""

    @abstractmethod
    def v(self, step: StepTables, q: Tensor) -> Tensor:
        """Passes a message back through the action: `[..., S, A]` to `[..., S]`, in reward units."""

    @abstractmethod
    def log_policy(self, prior: Tensor, q: Tensor, v: Tensor, temperature: float | Tensor) -> Tensor:
        """Computes log pi(a|s), `[..., S, A]`; rows of dead states (v = -inf) are left to the caller."""

    @abstractmethod
    def kernel(self, step: StepTables, q: Tensor, v_next: Tensor) -> Kernel:
        """Gives the step of the trajectory distribution that these messages describe, absorbing state included."""

    @abstractmethod
    def log_initial(self, tables: Tables, v: Tensor) -> Tensor:
        """Gives the log-distribution of s_0, `[S]`, nats."""

    @abstractmethod
    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Gives alpha times the log evidence (or its bound), 0-dim, in reward units."""

    #: Whether the dynamics of the trajectories differs from the graph's, and with the messages.
    tilts: bool
    #: Whether the marginals of a discounted problem are those of a world that may end at any step.
    absorbs: bool
    #: Whether the evidence is a lower bound of log p(O).
    is_bound: bool


class _SoftReading(Reading):
    def v(self, step: StepTables, q: Tensor) -> Tensor:
        """Computes V = alpha log sum_a mu(a|s) exp(Q(s,a) / alpha); the maximum where alpha is zero."""
        if is_hard(step.temperature):
            return max_over_support(q, step.prior)
        temperature = step.temperature
        if temperature >= _HIGH_TEMPERATURE:
            return temperature * log_expectation(q / temperature, step.prior)
        if isinstance(temperature, Tensor):
            return temperature * logsumexp(q / temperature + step.log_prior)
        return temperature * logsumexp(torch.add(step.log_prior, q, alpha=1.0 / temperature))

    def log_policy(self, prior: Tensor, q: Tensor, v: Tensor, temperature: float | Tensor) -> Tensor:
        """Computes log pi = log mu + (Q - V) / alpha; at alpha = 0 the prior restricted to the best actions."""
        v = torch.where(torch.isneginf(v), 0.0, v)[..., None]
        if not is_hard(temperature):
            advantage, log_prior = q - v, safe_log(prior)
            if isinstance(temperature, Tensor):
                log_policy = log_prior + advantage / temperature
            else:  # in place: these are T * S * A numbers
                log_policy = advantage.mul_(1.0 / temperature).add_(log_prior)
            if not _loses_digits(v, temperature):
                return log_policy
            total = logsumexp(log_policy)
            return log_policy - torch.where(torch.isneginf(total), 0.0, total)[..., None]
        slack = 16 * torch.finfo(q.dtype).eps * v.abs().clamp(min=1.0)
        best = torch.where(q >= v - slack, prior, 0.0)
        return safe_log(best / best.sum(-1, keepdim=True))


@dataclass(frozen=True)
class FixedDynamics(_SoftReading):
    """The dynamics is what it is; only the action answers to the optimality: maximum-entropy control."""

    tilts = False
    absorbs = False
    is_bound = True

    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Computes Q = E[r] + gamma E[V']."""
        if step.discount == 0.0:
            return step.expected_rewards
        return torch.add(step.expected_rewards, step.transitions.expect(v_next), alpha=step.discount)

    def kernel(self, step: StepTables, q: Tensor, v_next: Tensor) -> Kernel:
        """Gives p itself, and the discount as the chance to go on; messages as `[S, A]` and `[S]`."""
        if step.discount == 1.0:
            return Kernel(step.transitions)
        log_discount, log_rest = _log(step.discount), _log(1.0 - step.discount)
        survival = Survival(torch.full_like(v_next, log_discount), torch.full_like(v_next, log_rest))
        return Kernel(step.transitions, survival=survival)

    def log_initial(self, tables: Tables, v: Tensor) -> Tensor:
        """Gives log p(s_0) itself (given the evidence on s_0)."""
        return safe_log(tables.initial / tables.initial.sum(-1, keepdim=True))

    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes E[V_0] + alpha log p(evidence on s_0)."""
        start = tables.initial / tables.initial.sum(-1, keepdim=True)
        expected = (start * torch.where(tables.initial > 0, v, 0.0)).sum(-1)
        if not tables.start_is_evidence:
            return expected
        return expected + tables.temperature * tables.initial.sum(-1).log()


@dataclass(frozen=True)
class PosteriorDynamics(_SoftReading):
    """Everything answers to the optimality, the dynamics included: the exact posterior p(tau | O)."""

    tilts = True
    absorbs = True
    is_bound = False

    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Computes Q = r + alpha log E exp((r_e + W') / alpha)."""
        log_arrival = step.transitions.log_expect(_with_death(step, v_next), self._log_entries(step))
        return step.rewards + step.temperature * log_arrival

    def kernel(self, step: StepTables, q: Tensor, v_next: Tensor) -> Kernel:
        """Computes p(s'|s,a,O) ~ p(s'|s,a) exp((r_e + W'(s')) / alpha) of messages `[S, A]` and `[S]`."""
        # Relative to the greatest message: on a long horizon messages grow, and rows must still sum to one exactly.
        below, _ = step.transitions.shifted(_with_death(step, v_next))
        entries = self._log_entries(step)
        tilt = Tilt(below, step.transitions.log_expect(below, entries), entries)
        return Kernel(step.transitions, tilt, self._survival(step, v_next))

    def log_initial(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes log p(s_0 | O) = log p(s_0) + V_0 / alpha - log p(O)."""
        total = log_expectation(v / tables.temperature, tables.initial)
        possible = tables.initial > 0
        log_tilt = torch.where(possible, v / tables.temperature - total[..., None], NEG_INF)
        return safe_log(tables.initial) + log_tilt

    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes alpha log sum p(s_0) exp(V_0 / alpha)."""
        return tables.temperature * log_expectation(v / tables.temperature, tables.initial)

    @staticmethod
    def _log_entries(step: StepTables) -> Tensor | None:
        return None if step.entry_rewards is None else step.entry_rewards / step.temperature

    def _survival(self, step: StepTables, v_next: Tensor) -> Survival | None:
        if step.discount == 1.0:
            return None
        if not step.may_die:
            return Survival(torch.zeros_like(v_next), torch.full_like(v_next, NEG_INF))
        odds = v_next / step.temperature + _log(step.discount) - _log(1.0 - step.discount)
        return Survival(torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds))


@dataclass(frozen=True)
class MostProbable(Reading):
    """Only the most probable trajectory counts: max in the place of sum (Viterbi)."""

    tilts = True
    absorbs = True
    is_bound = True

    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Computes Q = r + max_s' [alpha log p + r_e + V']."""
        return step.rewards + step.transitions.best(v_next, step.entry_rewards, step.temperature)

    def v(self, step: StepTables, q: Tensor) -> Tensor:
        """Computes V = max_a [alpha log mu + Q] over available actions."""
        return _weighed(step.prior, q, step.temperature).amax(-1)

    def log_policy(self, prior: Tensor, q: Tensor, v: Tensor, temperature: float | Tensor) -> Tensor:
        """Puts all mass on the best action, the first of equals."""
        best = _weighed(prior, q, temperature).argmax(-1)
        return safe_log(torch.nn.functional.one_hot(best, q.shape[-1]).to(q.dtype))

    def kernel(self, step: StepTables, q: Tensor, v_next: Tensor) -> Kernel:
        """Puts all mass on the best next state, the first of equals, by messages `[S, A]` and `[S]`."""
        transitions = step.transitions
        scores = transitions.scores(v_next, step.entry_rewards, step.temperature)
        best = transitions.best(v_next, step.entry_rewards, step.temperature)
        tied = ((scores == transitions.at_source(best)) & ~torch.isneginf(scores)).to(q.dtype)
        return Kernel(transitions.reweighted(transitions.first_of_each(tied)))

    def log_initial(self, tables: Tables, v: Tensor) -> Tensor:
        """Puts all mass on the best first state, the first of equals."""
        best = _weighed(tables.initial, v, tables.temperature).argmax(-1)
        return safe_log(torch.nn.functional.one_hot(best, v.shape[-1]).to(v.dtype))

    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes max_s [alpha log p(s_0) + V_0]."""
        return _weighed(tables.initial, v, tables.temperature).amax(-1)


def _loses_digits(v: Tensor, temperature: float | Tensor) -> bool:
    """Whether values are so large that the rounding of Q - V would show in what a chain of policies adds up to."""
    largest = v.detach().abs().amax() if v.numel() else 0.0
    return bool(largest > 1e3 * temperature)


def _log(x: float) -> float:
    return math.log(x) if x > 0.0 else NEG_INF


def _with_death(step: StepTables, v: Tensor) -> Tensor:
    """Computes W / alpha = log(gamma exp(V / alpha) + 1 - gamma): what arriving is worth before survival is drawn."""
    v = v / step.temperature
    if step.discount == 1.0:
        return v
    weights = v.new_tensor([step.discount, 1.0 - step.discount if step.may_die else 0.0])
    return log_expectation(torch.stack([v, torch.zeros_like(v)], -1), weights)


def _weighed(weights: Tensor, x: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes temperature * log weights + x, `-inf` where the weight is zero."""
    positive = weights > 0
    return torch.where(positive, temperature * torch.where(positive, weights, 1.0).log() + x, NEG_INF)
