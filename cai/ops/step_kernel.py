"""One step of a trajectory distribution: p(s'|s,a), perhaps tilted, perhaps followed by an end.

    q(s'|s,a) = p(s'|s,a) exp(x(s') + w_e - log total(s,a)),     and then on with probability exp(log_goes_on(s'))

The tilted table is made only where it must be: mass moves through p itself, scaled before and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.caching import grad_cached_property
from cai.ops.logspace import NEG_INF, finite, safe_log
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
