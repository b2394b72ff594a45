"""What a factor can do beyond being called, as Protocols.

A factor is a callable: `dynamics(state, action)` and `action_prior(state)` return distributions, `reward(state,
action)` a tensor. A method asks for more, and says so by the Protocol it checks: exact messages need tables, learning
needs an environment that can be stepped.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import gymnasium
from torch import Tensor

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
