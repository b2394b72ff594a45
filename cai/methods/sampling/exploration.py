"""How a learner of Q acts while it learns, on finitely many actions: behaviour policies as option objects.

    SoftPolicy      b = pi = mu exp((Q - V) / alpha)
    Boltzmann       b = mu exp((Q - V) / tau), tau a temperature of its own
    EpsilonGreedy   b = (1 - epsilon) [mu on the best actions] + epsilon [uniform on what mu allows]
    EpsilonSoft     b = (1 - epsilon) pi + epsilon [uniform on what mu allows]

What is learned is the answer at the graph's temperature, whoever acts; but of what b never does nothing is learned.

In numpy, for a handful of copies: there an operation of torch costs many times its arithmetic.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cai.data.serialization import serializable
from cai.methods.sampling.annealing import Annealed, at_share

Array = NDArray[Any]


class AbstractExploration(ABC):
    """A behaviour policy made of values."""

    @abstractmethod
    def probs(self, q: Array, log_prior: Array, temperature: float, share: float) -> Array:
        """Computes b(a | s).

        Args:
            q: `[*batch, A]`, reward units.
            log_prior: log mu, `[*batch, A]` or `[A]`, nats.
            temperature: alpha of the answer, reward units.
            share: How much of the run is done, in [0, 1].

        Returns:
            `[*batch, A]`, normalised; zero for what mu excludes.
        """


@serializable
@dataclass(frozen=True)
class SoftPolicy(AbstractExploration):
    """Acts by the soft-optimal policy of the present values; greedily at temperature zero."""

    def probs(self, q: Array, log_prior: Array, temperature: float, share: float) -> Array:
        """Computes the soft policy pi, `[E, A]`."""
        return _soft(q, log_prior, temperature)


@serializable
@dataclass(frozen=True)
class Boltzmann(AbstractExploration):
    """Acts by the soft-optimal policy at another temperature than that of the answer.

    Attributes:
        temperature: Of the behaviour, reward units.
    """

    temperature: float | Annealed = 1.0

    def __post_init__(self) -> None:
        _check("Boltzmann: temperature", self.temperature, math.inf)

    def probs(self, q: Array, log_prior: Array, temperature: float, share: float) -> Array:
        """Computes the behaviour b, `[E, A]`."""
        return _soft(q, log_prior, at_share(self.temperature, share))


@serializable
@dataclass(frozen=True)
class EpsilonGreedy(AbstractExploration):
    """Takes the best action, and now and then any that the prior allows, all alike.

    Attributes:
        epsilon: The chance of the latter.
    """

    epsilon: float | Annealed = Annealed(1.0, 0.05, share=0.16)

    def __post_init__(self) -> None:
        _check("EpsilonGreedy: epsilon", self.epsilon, 1.0)

    def probs(self, q: Array, log_prior: Array, temperature: float, share: float) -> Array:
        """Computes the behaviour b, `[E, A]`."""
        return _mixed(_soft(q, log_prior, 0.0), log_prior, at_share(self.epsilon, share))


@serializable
@dataclass(frozen=True)
class EpsilonSoft(AbstractExploration):
    """Acts by the soft-optimal policy, and now and then does anything that the prior allows, all alike.

    Attributes:
        epsilon: The chance of the latter.
    """

    epsilon: float | Annealed = 0.1

    def __post_init__(self) -> None:
        _check("EpsilonSoft: epsilon", self.epsilon, 1.0)

    def probs(self, q: Array, log_prior: Array, temperature: float, share: float) -> Array:
        """Computes the behaviour b, `[E, A]`."""
        return _mixed(_soft(q, log_prior, temperature), log_prior, at_share(self.epsilon, share))


def uniform_on_allowed(log_prior: Array) -> Array:
    """Computes the uniform distribution on the actions that a prior allows, of log mu, `[*batch, A]`."""
    allowed = (log_prior > -math.inf).astype(np.float64)
    return allowed / np.add.reduce(allowed, -1, keepdims=True)


def _soft(q: Array, log_prior: Array, temperature: float) -> Array:
    if temperature == 0.0:
        q = np.where(log_prior > -math.inf, q, -math.inf)
        logits = np.where(q >= np.maximum.reduce(q, -1, keepdims=True), log_prior, -math.inf)
    else:
        logits = q / temperature + log_prior
    weights = np.exp(logits - np.maximum.reduce(logits, -1, keepdims=True))
    return weights / np.add.reduce(weights, -1, keepdims=True)


def _mixed(probs: Array, log_prior: Array, epsilon: float) -> Array:
    return (1.0 - epsilon) * probs + epsilon * uniform_on_allowed(log_prior)


def _check(name: str, value: float | Annealed, most: float) -> None:
    for end in (value.start, value.end) if isinstance(value, Annealed) else (value,):
        if not 0.0 <= end <= most or end == math.inf:
            limit = "at least 0" if most == math.inf else f"in [0, {most:g}]"
            raise ValueError(f"{name} must be {limit}, got {value!r}")
