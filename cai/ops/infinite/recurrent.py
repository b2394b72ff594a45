"""Infinite horizons without discount or end: gain and relative values, and the stationary distribution.

What never ends earns without bound, at a rate: V_T(s) = T g + V(s) + constant + o(1). The gain g (reward units a step)
and the relative values V solve, with B the backup of the reading,

    V + g = B V,     B(V + c) = B V + c,     so that V is free up to a constant

    fixed dynamics    gain and bias, of a table with one closed class
    posterior         g = alpha log lambda, V = alpha log x, with (lambda, x) the right Perron pair of
                      M(s, s') = sum_a mu exp(r / alpha) p(s'|s,a), irreducible and aperiodic

The constant is chosen by sum_s d(s) V(s) = 0, d the stationary distribution of the posterior's own chain G = dB/dV
(the posterior's: right times left Perron vector). For a given policy that makes V its bias.

With the excess k = B V - V, and G' = G with the column of a landmark set to zero (`cai.ops.infinite.cycles`),

    sweep        V <- (V + B V) / 2                                          (periodic chains settle, too)
    newton_step  V <- V + D,   D = k - g + G D,   D = 0 at the landmark      (soft policy iteration)

B is a maximum of affine maps with row-stochastic matrices, so Newton's method is policy iteration, and min k rises from
step to step. Where the chain of V falls into several classes, or all but does, the step is that of a mixed policy: the
chain's own from where it leads to the best class, the prior's elsewhere. That earns at least min k, too.

Certificate. min k <= g <= max k. With the span w = max k - min k, N = max tau and d = expm1(w / alpha),

    |V + c - V*| <= -alpha log(1 - d N)   for c = V*(landmark) - V(landmark), if d N < 1     (temperature above 0)
    |V + c - V*| <= N w                   for the same c                                     (a given policy)

so V is certified up to the constant that it is free in. Proof: K = V* - V - c is zero at the landmark, and h = exp(K /
alpha) solves h = exp((k - g) / alpha) G h elsewhere (with <= for fixed dynamics, by Jensen's inequality): a first exit,
to the landmark, with residual |k - g| <= w. As in `cai.ops.infinite.certificates`, 1 + d tau / (1 - d N) is a
supersolution, and K >= -w tau. For every g within the bounds such a first exit has a value; for one of them it is zero
on return to the landmark: V* exists. At temperature 0 only the gain is certified.

Sources: Puterman (1994), chapter 8; Todorov (2009) for the eigenproblem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.ops.infinite.chain_structure import Matrix, closed_classes
from cai.ops.infinite.cycles import Cycles, LongRun, cycles_of, mixed_rows, stochastic
from cai.ops.infinite.fixed_point import Iterate, Stationary
from cai.ops.infinite.linear import LONGEST_TIME, implicit
from cai.ops.infinite.occupancy import policy_costs
from cai.ops.logspace import largest_finite
from cai.ops.messages import Messages, check_messages
from cai.ops.readings import HIGH_TEMPERATURE, FixedDynamics, Reading
from cai.ops.tables import Tables

#: Sweeps between two looks at the chain, which is dear beside a sweep.
_LOOK_EVERY = 32
#: From this expected time to the landmark on, a better class is looked for before a step that relies on it.
_LONG_TIME = 1e6
#: Up to this time the linear solves leave no more than rounding does.
_PLAIN_TIME = 1e4
#: By how much its gain must be better than any before, relative: less is rounding.
_WORTHWHILE = 1e-9
#: Sweeps after which a gain that still depends on the state is taken to do so for ever.
_MANY_STEPS = 10_000


@dataclass(frozen=True, eq=False)
class Recurrent:
    """The problem of gain and relative values: the same step for ever, without discount or end.

    Attributes:
        given: The world, its reading and the policy to evaluate, if one is.
    """

    given: Stationary

    @property
    def tables(self) -> Tables:
        """The world."""
        return self.given.tables

    @property
    def reading(self) -> Reading:
        """How its dynamics is read."""
        return self.given.reading

    @cached_property
    def detached(self) -> Recurrent:
        """The same problem on numbers that record no gradients, for iterations."""
        return self if self.given.detached is self.given else Recurrent(self.given.detached)

    @property
    def policy(self) -> Tensor | None:
        """The policy to evaluate, `[1, S, A]`, or None."""
        return self.given.policy

    @cached_property
    def support(self) -> Matrix:
        """What is possible in a step, by some action of the prior or by the policy given: `[S, S]`, zero where not."""
        chosen = self.tables.priors if self.policy is None else self.policy
        return self.tables.step(0).transitions.state_matrix((chosen[0] > 0).to(self.tables.initial.dtype))

    @cached_property
    def classes(self) -> np.ndarray:
        """The closed classes of what is possible, `[S]`, as `closed_classes` numbers them."""
        return closed_classes(self.support)

    def start(self) -> Tensor:
        """Gives a V to start from: zero, `[S]`."""
        return torch.zeros_like(self.tables.terminal_values)

    def sweep(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by (V + B V) / 2.

        Raises:
            IncompatibleMethod: The gain depends on the state.
        """
        q, v = self._backup(iterate.v)
        excess = _numbers(v - iterate.v)
        known = replace(iterate, certified_error=iterate.certified_error + self._rounding(q))  # sweeps bring no V apart
        if self._worth_a_look(iterate, v, q, excess, tolerance):
            cycles = cycles_of(stochastic(self.given.chain(q, v, iterate.v)))
            self._need_best_inside(cycles, excess)
            error = self._error(excess, q, _longest(cycles))
            known = replace(known, certified_error=min(error, known.certified_error), longest=_longest(cycles))
        return self._finish(iterate, known, 0.5 * (iterate.v + v), q, excess, tolerance)

    def newton_step(self, iterate: Iterate, *, tolerance: float) -> Iterate:
        """Replaces V by V + D, or by B V where that is within the tolerance.

        Raises:
            IncompatibleMethod: The gain depends on the state; a given policy takes longer than numbers can tell to get
                to where it stays.
        """
        q, v = self._backup(iterate.v)
        excess = _numbers(v - iterate.v)
        chain = stochastic(self.given.chain(q, v, iterate.v))
        cycles = cycles_of(chain)
        longest = _longest(cycles)
        known = replace(iterate, certified_error=self._error(excess, q, longest), longest=longest)
        finished = self._finish(iterate, known, v, q, excess, tolerance)
        if finished.done:
            return finished
        return self._stepped(iterate, finished, chain, cycles, excess)

    def attach(self, v: Tensor) -> Messages:
        """Makes messages of a solution, with the gradient of the implicit function theorem.

        With dB the change of B V at fixed V: dg = d . dB, and dV = (I - G')^-1 (dB - dg), zero at the landmark.

        Args:
            v: `[S]`, relative values, detached.

        Returns:
            Q `[1, S, A]`, V `[1, S]` and the gain, differentiable (once) with respect to the tables.

        Raises:
            IncompatibleMethod: The chain falls into several classes, as far as numbers can tell.
        """
        q, once_more = self._backup(v)
        cycles = self._one_class(q, once_more, v)
        if once_more.requires_grad:
            drift = implicit(torch.zeros_like(v), once_more, cycles.resolvent)
            time = torch.from_numpy(cycles.time).to(v)
            v = v + drift - drift[cycles.ends] / time[cycles.ends] * time
            q, once_more = self._backup(v)
        marginal = self._marginal(q, once_more, v, cycles)
        excess = once_more - v
        gain = (marginal.detach() * excess).sum()  # has the gradient; the middle of the bounds is the certified value
        gain = gain + (0.5 * (excess.amin() + excess.amax()) - gain).detach()
        level = (marginal * once_more).sum()
        return Messages((q - level)[None], (once_more - level)[None], gain)

    def marginal(self, messages: Messages) -> Tensor:
        """Computes the stationary distribution of the posterior's chain, `[S]`, differentiable (once)."""
        q, v = messages.q[0], messages.v[0]
        return self._marginal(q, v, v, self._one_class(q, v, v))

    def seems_endless(self, iterate: Iterate) -> bool:
        """Says whether an iteration that stopped early was on its way to a gain that depends on the state."""
        if self.policy is not None or (self.classes == 0).all():
            return False  # it exists
        return iterate.num_steps >= _MANY_STEPS and iterate.residual > 1e-3 * self.given.largest_reward

    def refusal(self) -> str:
        """Says why there is no answer."""
        if self.policy is not None:
            return (
                f"the policy takes more than {LONGEST_TIME:g} steps from some state to where it stays, which cannot be "
                "told from never in float64; give a discount below 1 or a finite horizon"
            )
        state = int(np.flatnonzero(self.classes == 0)[0])
        return (
            "the gain of this undiscounted infinite horizon depends on the state: keeping out of the class of states "
            f"that is never left (state {state} is in it) earns more a step than the class does, so that no relative "
            "values exist; give a discount below 1 or a finite horizon"
        )

    def _backup(self, v: Tensor) -> tuple[Tensor, Tensor]:
        q, once_more = self.given.backup(v)
        check_messages(once_more[None])
        return q, once_more

    def _one_class(self, q: Tensor, v: Tensor, v_next: Tensor) -> Cycles:
        cycles = cycles_of(stochastic(self.given.chain(q, v, v_next)))
        if len(cycles.ends) == 1 and cycles.are_short:
            return cycles
        if self.policy is not None:
            raise IncompatibleMethod(self.refusal())
        classes = "several classes of states"
        if len(cycles.ends) > 1:
            classes += f", those of state {cycles.ends[0]} and of state {cycles.ends[1]} for instance"
        if self.tables.is_hard:
            raise IncompatibleMethod(
                f"at temperature 0 the best policy stays in {classes}, so that it has no one stationary distribution; "
                "give a positive temperature, a discount below 1 or a finite horizon"
            )
        raise IncompatibleMethod(
            f"at this temperature the world all but falls into {classes}: from some state to others it takes more than "
            f"{LONGEST_TIME:g} steps, and relative values cannot be told in float64; give a higher temperature, a "
            "discount below 1 or a finite horizon"
        )

    def _marginal(self, q: Tensor, v: Tensor, v_next: Tensor, cycles: Cycles) -> Tensor:
        acting = self.given.log_policy_of(q, v).exp()
        visits = torch.from_numpy(cycles.visits()).to(acting)
        once_more = self.reading.kernel(self.tables.step(0), q, v_next).push(visits[:, None] * acting)
        visits = implicit(visits, once_more, cycles.resolvent, transposed=True)
        return visits / visits.sum()

    def _worth_a_look(self, iterate: Iterate, v: Tensor, q: Tensor, excess: np.ndarray, tolerance: float) -> bool:
        """Whether to look at the chain, which is dear: the error may do, or another class may be better."""
        if not self._only_gain and (
            self._has_stalled(iterate, excess, q) or self._error(excess, q, iterate.longest) <= tolerance * _scale(v)
        ):
            return True
        may_be_better = self.policy is None and bool((self.classes < 0).any())
        return may_be_better and (iterate.num_steps + 1) % _LOOK_EVERY == 0

    def _stepped(self, iterate: Iterate, known: Iterate, chain: Matrix, cycles: Cycles, excess: np.ndarray) -> Iterate:
        """Takes Newton's step, or a way round where its chain does not, or hardly, come back to one landmark."""
        before = iterate.v
        direct = len(cycles.ends) == 1 and cycles.are_short
        step, proved = 0.5 * excess, max(excess.min(), -math.inf if known.memory is None else float(known.memory))
        if self.policy is not None and not direct:
            raise IncompatibleMethod(self.refusal())
        if direct:
            step = cycles.bias(excess)
        if self.policy is None and not (direct and cycles.longest <= _LONG_TIME):
            self._need_best_inside(cycles, excess)
            mixed, earned = self._detour(chain, excess, before)
            gain = float(mixed.gains(earned)[0]) if mixed.are_short else -math.inf
            if gain > proved + _WORTHWHILE * max(1.0, abs(proved)):
                step, proved = mixed.bias(earned), gain
        v = _centred(before + torch.from_numpy(step).to(before))
        return replace(known, v=v, memory=torch.tensor(proved, dtype=torch.float64))

    def _detour(self, chain: Matrix, excess: np.ndarray, before: Tensor) -> tuple[Cycles, np.ndarray]:
        """The policy that goes by the prior where the chain does not lead to its best class; what it adds to V."""
        values = _numbers(before)
        earned = excess + values - chain @ values  # by the policy itself, whatever V
        best, leads = LongRun(chain).best_class(earned, self.classes == 0)
        by_prior = _numbers(self._by_prior.backup(before)[1] - before)
        mixed = Cycles(mixed_rows(leads, chain, self._prior_chain), np.array([best]))
        return mixed, np.where(leads, excess, by_prior)

    def _need_best_inside(self, cycles: Cycles, excess: np.ndarray) -> None:
        inside = self.classes == 0
        outside = ~inside[cycles.ends]
        if not outside.any() or not cycles.are_short:
            return
        afforded = excess[inside].max()
        if cycles.gains(excess)[outside].max() > afforded + 1e-9 * max(1.0, abs(afforded)):
            raise IncompatibleMethod(self.refusal())

    @cached_property
    def _by_prior(self) -> Stationary:
        policy = self.tables.default_policies.detach()
        return Stationary(self.tables, FixedDynamics(), policy, policy_costs(self.tables, policy).detach())

    @cached_property
    def _prior_chain(self) -> Matrix:
        return stochastic(self.tables.step(0).transitions.state_matrix(self.tables.default_policies[0]))

    @property
    def _only_gain(self) -> bool:
        return self.tables.is_hard and self.policy is None

    def _error(self, excess: np.ndarray, q: Tensor, longest: float) -> float:
        """Bounds |V + c - V*|; see the module's doc string."""
        if self._only_gain or math.isinf(longest):
            return math.inf
        rounding = self._rounding(q)
        span = float(np.ptp(excess)) + rounding
        if self.policy is not None:
            return longest * span
        grown = math.expm1(min(span / self.tables.temperature_value, 700.0)) * longest
        return math.inf if grown >= 1.0 else rounding - self.tables.temperature_value * math.log1p(-grown)

    def _rounding(self, q: Tensor) -> float:
        """Bounds the rounding of a backup, reward units: some eps of its numbers, and of alpha times logarithms."""
        nats = min(self.tables.temperature_value, HIGH_TEMPERATURE)
        return 16 * torch.finfo(q.dtype).eps * (largest_finite(q) + nats)

    def _has_stalled(self, iterate: Iterate, excess: np.ndarray, q: Tensor) -> bool:
        """Whether the residual falls no more, at the floor of rounding, which the solves of long cycles raise."""
        solved = iterate.longest / _PLAIN_TIME if math.isfinite(iterate.longest) else 1.0
        return iterate.residual <= 0.5 * float(np.ptp(excess)) <= self._rounding(q) * max(1.0, solved)

    def _finish(
        self, iterate: Iterate, known: Iterate, v: Tensor, q: Tensor, excess: np.ndarray, tolerance: float
    ) -> Iterate:
        residual = 0.5 * float(np.ptp(excess))
        error = residual + self._rounding(q) if self._only_gain else known.certified_error
        done = error <= tolerance * _scale(v) or self._has_stalled(iterate, excess, q)
        return replace(known, v=_centred(v.detach()), num_steps=iterate.num_steps + 1, residual=residual, done=done)


def _longest(cycles: Cycles) -> float:
    return cycles.longest if len(cycles.ends) == 1 else math.inf


def _numbers(v: Tensor) -> np.ndarray:
    return v.detach().cpu().numpy().astype(np.float64)


def _centred(v: Tensor) -> Tensor:
    return v - 0.5 * (v.amin() + v.amax())


def _scale(v: Tensor) -> float:
    """The size of relative values, whatever their constant."""
    return max(1.0, 0.5 * float((v.amax() - v.amin()).detach()))
