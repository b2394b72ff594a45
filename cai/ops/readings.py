"""What a backward message means: the readings of the dynamics.

A reading says how a message passes through the dynamics and through the action, and which trajectory distribution the
messages then describe. Everything is in reward units; alpha is the temperature, mu the action prior.

    FixedDynamics        Q = E[r] + gamma E V'                    V = alpha log sum_a mu exp(Q / alpha)
                         describes q* = p(s_0) prod pi p
    PosteriorDynamics    Q = alpha log E exp((r + W') / alpha)    V as above
                         W = alpha log(gamma exp(V / alpha) + 1 - gamma), which is V where gamma = 1
                         describes p(tau | O)
    RiskSensitive(eta)   Q = log E exp(eta (r + W')) / eta        V as above
                         W = log(gamma exp(eta V) + 1 - gamma) / eta
                         describes the same tilted by exp(eta ...): towards luck where eta > 0, away from it below
    MostProbable         Q = max_s' alpha log p + r + V'          V = max_a alpha log mu + Q
                         describes the mode of p(tau | O)

`RiskSensitive` is `PosteriorDynamics` at eta = 1 / alpha and tends to `FixedDynamics` as eta goes to zero. The dynamics
then has a temperature of its own, 1 / eta, negative for the worst case. Where a state is dead (V = -inf), luck avoids
it, and the worst case finds it wherever it can be reached.

Sources: Levine (2018), sections 2 to 4; Ziebart, Bagnell and Dey (2010); Rawlik, Toussaint and Vijayakumar (2012);
Howard and Matheson (1972) for a risk parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.logspace import NEG_INF, log_expectation, logsumexp, max_over_support, safe_log
from cai.ops.step_kernel import Kernel, Survival, Tilt
from cai.ops.tables import StepTables, Tables, as_number, is_hard

#: Sizes of a risk parameter, 1 / reward units: within them neither eta V nor V / eta leaves what float32 can hold.
MIN_RISK, MAX_RISK = 1e-30, 1e30

#: Above it the rounding of a plain log-sum-exp, times the temperature, would show in the tenth digit of a value.
HIGH_TEMPERATURE = 1e3


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

    def why_no_evidence(self, temperature: float | Tensor) -> str:
        """Says why `value_of_start` is no bound of the evidence at a temperature (0-dim); empty where it is one."""
        return ""

    #: Whether the dynamics of the trajectories differs from the graph's, and with the messages.
    tilts: bool
    #: Whether the marginals of a discounted problem are those of a world that may end at any step.
    absorbs: bool
    #: Whether the evidence is a lower bound of log p(O).
    is_bound: bool

    @property
    def is_convex(self) -> bool:
        """Whether a whole step is convex in the message, as a maximum of expectations is."""
        return True


class _SoftReading(Reading):
    def v(self, step: StepTables, q: Tensor) -> Tensor:
        """Computes V = alpha log sum_a mu(a|s) exp(Q(s,a) / alpha); the maximum where alpha is zero."""
        if is_hard(step.temperature):
            return max_over_support(q, step.prior)
        temperature = step.temperature
        if temperature >= HIGH_TEMPERATURE:
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


class _TiltedDynamics(_SoftReading):
    """The dynamics answers as well, at a temperature of its own: 1 / eta."""

    tilts = True
    absorbs = True

    @abstractmethod
    def own_temperature(self, temperature: float | Tensor) -> float | Tensor:
        """Gives the temperature of the dynamics, 0-dim, reward units, not zero; that of the action is given."""

    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Computes Q = r + log E exp(eta (r_e + W')) / eta."""
        own = self.own_temperature(step.temperature)
        log_arrival = step.transitions.log_expect(_with_death(step, v_next, own), _log_entries(step, own))
        return step.rewards + own * log_arrival

    def kernel(self, step: StepTables, q: Tensor, v_next: Tensor) -> Kernel:
        """Computes the tilted dynamics ~ p(s'|s,a) exp(eta (r_e + W'(s'))) of messages `[S, A]` and `[S]`."""
        # Relative to the greatest message: on a long horizon messages grow, and rows must still sum to one exactly.
        own = self.own_temperature(step.temperature)
        below, _ = step.transitions.shifted(_with_death(step, v_next, own))
        entries = _log_entries(step, own)
        tilt = Tilt(below, step.transitions.log_expect(below, entries), entries)
        return Kernel(step.transitions, tilt, _survival(step, v_next, own))

    def log_initial(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes log p(s_0) + eta V_0, normalised."""
        x = _in_nats(v, self.own_temperature(tables.temperature))
        total = log_expectation(x, tables.initial)
        possible = tables.initial > 0
        return safe_log(tables.initial) + torch.where(possible, x - total[..., None], NEG_INF)


@dataclass(frozen=True)
class PosteriorDynamics(_TiltedDynamics):
    """Everything answers to the optimality, the dynamics included: the exact posterior p(tau | O)."""

    is_bound = False

    def own_temperature(self, temperature: float | Tensor) -> float | Tensor:
        """Gives alpha, 0-dim: one temperature for all."""
        return temperature

    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes alpha log sum p(s_0) exp(V_0 / alpha)."""
        return tables.temperature * log_expectation(_in_nats(v, tables.temperature), tables.initial)


@dataclass(frozen=True)
class RiskSensitive(_TiltedDynamics):
    """What a chance is worth is a certainty equivalent: log E exp(eta x) / eta, the entropic risk measure.

    For eta < 0 it is the worst that a change of the dynamics can make of it, where a change costs its divergence:
    log E exp(eta x) / eta = min_q E_q x + KL(q || p) / |eta|. For eta > 0 it is the best, max_q E_q x - KL / eta.

    Attributes:
        eta: Risk parameter, in 1 / reward units: positive is risk-seeking, negative risk-averse. Not zero, which is
            `FixedDynamics`.

    Raises:
        ValueError: Zero, or a number beyond 1e-30 .. 1e30 in size.

    Source: Howard and Matheson (1972).
    """

    eta: float

    is_bound = True

    def __post_init__(self) -> None:
        if not MIN_RISK <= abs(self.eta) <= MAX_RISK:
            raise ValueError(
                f"RiskSensitive: eta must be a number of size {MIN_RISK:g} to {MAX_RISK:g} (1 / reward units), got "
                f"{self.eta}; 0 is FixedDynamics"
            )

    @property
    def is_convex(self) -> bool:
        """Whether luck counts; the best action against the worst case is neither convex nor concave."""
        return self.eta > 0

    def own_temperature(self, temperature: float | Tensor) -> float:
        """Gives 1 / eta, whatever the temperature of the action, 0-dim."""
        return 1.0 / self.eta

    def q(self, step: StepTables, v_next: Tensor) -> Tensor:
        """Computes Q = r + log E exp(eta (r_e + W')) / eta."""
        dead = torch.isneginf(v_next)
        if not dead.any():
            return super().q(step, v_next)
        # What cannot reach a dead state is computed apart: 1 / eta would show the rounding of logarithms far from zero.
        finds_it = torch.isneginf(step.transitions.expect(torch.where(dead, NEG_INF, torch.zeros_like(v_next))))
        there = super().q(step, v_next) if self.eta > 0 else NEG_INF
        return torch.where(finds_it, there, super().q(step, torch.where(dead, 0.0, v_next)))

    def value_of_start(self, tables: Tables, v: Tensor) -> Tensor:
        """Computes log E exp(eta V_0) / eta + alpha log p(evidence on s_0)."""
        chance = tables.initial.sum(-1, keepdim=True)
        own = self.own_temperature(tables.temperature)
        value = own * log_expectation(_in_nats(v, own), tables.initial / chance)
        if self.eta < 0:
            dead = (torch.isneginf(v) & (tables.initial > 0)).any(-1)
            value = torch.where(dead, NEG_INF, value)
        if not tables.start_is_evidence:
            return value
        return value + tables.temperature * chance[..., 0].log()

    def why_no_evidence(self, temperature: float | Tensor) -> str:
        """Says that beyond 1 / alpha (0-dim) the value is no bound any more, since V rises with eta."""
        alpha = as_number(temperature)
        if self.eta * alpha <= 1.0 + 1e-12:
            return ""
        return (
            f": with eta = {self.eta:g} above 1 / temperature = {1.0 / alpha:g} the value exceeds the posterior's, "
            "and bounds nothing; SumProduct gives the evidence itself"
        )


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


def _in_nats(v: Tensor, own: float | Tensor) -> Tensor:
    """Computes V / temperature, where a dead state stays dead whatever the sign."""
    if not isinstance(own, Tensor) and own > 0:
        return v / own
    dead = torch.isneginf(v)
    return torch.where(dead, NEG_INF, torch.where(dead, 0.0, v) / own)


def _with_death(step: StepTables, v: Tensor, own: float | Tensor) -> Tensor:
    """Computes eta W = log(gamma exp(eta V) + 1 - gamma): what arriving is worth before survival is drawn."""
    v = _in_nats(v, own)
    if step.discount == 1.0:
        return v
    weights = v.new_tensor([step.discount, 1.0 - step.discount if step.may_die else 0.0])
    return log_expectation(torch.stack([v, torch.zeros_like(v)], -1), weights)


def _log_entries(step: StepTables, own: float | Tensor) -> Tensor | None:
    return None if step.entry_rewards is None else step.entry_rewards / own


def _survival(step: StepTables, v_next: Tensor, own: float | Tensor) -> Survival | None:
    if step.discount == 1.0:
        return None
    if not step.may_die:
        return Survival(torch.zeros_like(v_next), torch.full_like(v_next, NEG_INF))
    odds = _in_nats(v_next, own) + _log(step.discount) - _log(1.0 - step.discount)
    return Survival(torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds))


def _weighed(weights: Tensor, x: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes temperature * log weights + x, `-inf` where the weight is zero."""
    positive = weights > 0
    return torch.where(positive, temperature * torch.where(positive, weights, 1.0).log() + x, NEG_INF)
