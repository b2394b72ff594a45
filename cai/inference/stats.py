"""What a method says of its own work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cai.data.serialization import serializable


@serializable
@dataclass(frozen=True)
class Stats:
    """How an answer was reached, and how good it is.

    Attributes:
        num_steps: Backups (time steps, sweeps or Newton steps) done; of a junction tree, cliques.
        converged: Whether the tolerance, or the floor of rounding, was reached; a single backward pass always has.
        residual: max |B V - V| at the end, reward units, or half the span of B V - V where V is relative, which bounds
            the error of the gain; of a factor graph the greatest change of a message, nats; of `SVI` the greatest entry
            of the gradient or, with a Pyro guide, the drift of the bound, nats.
        certified_error: A bound of the error of v in the maximum norm, reward units (where v is relative, up to the
            constant that it is free in), or of a factor graph's log beliefs, nats; infinite where nothing is proved.
        seconds: Wall-clock time of the inference.
        estimates: Names of the posterior's quantities that are estimates and not exact.
    """

    num_steps: int = 0
    converged: bool = True
    residual: float = 0.0
    certified_error: float = math.inf
    seconds: float = 0.0
    estimates: tuple[str, ...] = ()
