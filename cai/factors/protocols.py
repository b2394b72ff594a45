"""What a factor can do beyond being called, as Protocols.

A factor is a callable: `dynamics(state, action)` and `action_prior(state)` return distributions, `reward(state,
action)` a tensor. A method asks for more, and says so by the Protocol it checks: exact messages need tables, learning
needs an environment that can be stepped.

Tensors of linear-Gaussian factors are `[T or 1, *batch, ...]`; see `cai.factors.linear_parts`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium
import torch
from torch import Tensor

from cai.factors.linear_parts import (
    GaussianMoments,
    GaussianPriorParts,
    LinearParts,
    ObservationParts,
    QuadraticParts,
)
from cai.ops.transitions import Transitions


@runtime_checkable
class TabulatedInitial(Protocol):
    """A distribution of the first state on finitely many states."""

    def initial_table(self, num_states: int) -> Tensor:
        """Gives p(s_0), `[S]`; raises ValueError where the number of states does not fit."""


@runtime_checkable
class TabulatedDynamics(Protocol):
    """Dynamics as a table."""

    num_states: int
    num_actions: int
    terminal_mask: Tensor

    def transition_tables(self) -> tuple[Transitions, ...]:
        """Gives p(s'|s,a), one entry for all steps, or one a step."""


@runtime_checkable
class TabulatedReward(Protocol):
    """A reward as a table."""

    def reward_tables(self, transitions: tuple[Transitions, ...]) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
        """Gives for all steps, or for each, r(s, a) as `[S, A]` or None, and r on the transitions' entries or None."""


@runtime_checkable
class TabulatedPrior(Protocol):
    """An action prior as a table."""

    def prior_table(self, num_states: int, num_actions: int) -> Tensor:
        """Gives mu(a|s), `[1 or T, S, A]`; raises ValueError where the numbers do not fit."""


@runtime_checkable
class Stepped(Protocol):
    """A live environment: it can be reset and stepped, and nothing else."""

    env: gymnasium.Env


@runtime_checkable
class GaussianInitial(Protocol):
    """A first state that is normally distributed, or known."""

    def initial_moments(self, state_size: int) -> GaussianMoments:
        """Gives its mean and covariance; raises ValueError where the number of coordinates does not fit."""


@runtime_checkable
class LinearDynamics(Protocol):
    """Linear dynamics with Gaussian noise."""

    num_steps: int | None
    state_size: int
    action_size: int

    def linear_parts(self) -> LinearParts:
        """Gives A, B, c and W."""


@runtime_checkable
class DifferentiableFactor(Protocol):
    """Dynamics with a mean that can be differentiated, and additive Gaussian noise; sizes may be unknown."""

    num_steps: int | None
    state_size: int | None
    action_size: int | None

    def mean(self, state: Any, action: Any, t: int | Tensor = 0) -> Tensor:
        """Gives the mean of the next state, `[*batch, n]`, of a state `[*batch, n]` and an action `[*batch, m]`."""

    def noise(self, state_size: int) -> Tensor | None:
        """Gives the covariance of the noise, `[T or 1, *batch, n, n]`, or None where there is none."""


@runtime_checkable
class QuadraticFactor(Protocol):
    """A reward quadratic in state and action, or in the state alone: then `action_size` is None."""

    num_steps: int | None
    state_size: int
    action_size: int | None

    def quadratic_parts(self, state_size: int, action_size: int) -> QuadraticParts:
        """Gives M of r = -z'Mz / 2, z = [x; 1; u]; raises ValueError where the numbers do not fit."""

    def terminal_form(self, state_size: int) -> Tensor:
        """Gives M of r = -y'My / 2, y = [x; 1], `[*batch, n + 1, n + 1]`; raises ValueError for one of actions too."""


@runtime_checkable
class GaussianPrior(Protocol):
    """An action prior that is normal with a mean affine in the state."""

    num_steps: int | None

    def prior_parts(self, state_size: int, action_size: int) -> GaussianPriorParts:
        """Gives gain, offset and covariance; raises ValueError where the numbers do not fit, or without a density."""


@runtime_checkable
class LinearObservation(Protocol):
    """An observation that is linear in the state, with Gaussian noise."""

    num_times: int | None
    state_size: int
    observation_size: int

    def observation_parts(self) -> ObservationParts:
        """Gives C, d and R."""


@runtime_checkable
class Batched(Protocol):
    """A factor of vectors with batch dimensions of its own."""

    batch_shape: torch.Size
