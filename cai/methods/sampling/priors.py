"""The action prior mu(a | s) as learners ask for it: log-densities on batches.

On finite action spaces the actions are joint indices 0..A-1; on boxes they are in the environment's own units, and so
is the density.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.errors import IncompatibleMethod
from cai.factors.policy import FlatPrior
from cai.factors.protocols import TabulatedPrior
from cai.ops.logspace import safe_log


class AbstractActionPrior(ABC):
    """log mu(a | s) on batches of states as they come from the environment."""

    @abstractmethod
    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives log mu(a | s), `[*batch]`, nats, of states `[*batch, ...]` and actions `[*batch, ...]`."""

    @abstractmethod
    def log_probs(self, states: Tensor) -> Tensor:
        """Gives log mu(. | s) of finitely many actions: `[*batch, A]`, or `[A]` where it is the same everywhere."""


@dataclass(frozen=True, eq=False)
class ConstantPrior(AbstractActionPrior):
    """The same number for every state and action: uniform, or flat.

    Attributes:
        log_density: log mu, nats.
        num_actions: A, where the actions are finite; else 0.
        dtype: Of what is given.
    """

    log_density: float
    num_actions: int
    dtype: torch.dtype = torch.float32

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives the number, 0-dim."""
        return torch.full((), self.log_density, dtype=self.dtype, device=states.device)

    def log_probs(self, states: Tensor) -> Tensor:
        """Gives the number for each action, `[A]`."""
        return torch.full((self.num_actions,), self.log_density, dtype=self.dtype, device=states.device)


class TablePrior(AbstractActionPrior):
    """A table over discrete states and actions.

    Args:
        states: How states become indices.
        actions: How actions become joint indices.
        table: mu, `[S, A]`.
        dtype: Of what is given.
    """

    def __init__(
        self, states: StateEncoding, actions: ActionEncoding, table: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        self._states, self._actions = states, actions
        self._log_table = safe_log(table.detach()).to(dtype)

    def log_probs(self, states: Tensor) -> Tensor:
        """Looks the rows up."""
        return self._log_table.to(states.device)[self._states.index(states)]

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Looks the entries up."""
        return entry(self.log_probs(states), self._actions.to_joint(actions))


class CallablePrior(AbstractActionPrior):
    """A policy factor: `prior(state)` gives a distribution on the environment's own actions.

    Args:
        encoding: Of the actions.
        prior: The factor.
    """

    def __init__(self, encoding: ActionEncoding, prior: Any) -> None:
        self._encoding, self._prior = encoding, prior

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Asks the factor; differentiable in the actions of a box."""
        return self._distribution(states).log_prob(self._own(actions))

    def _own(self, actions: Tensor) -> Tensor:
        encoding = self._encoding
        if encoding.is_discrete:
            return torch.as_tensor(encoding.to_env(actions), device=actions.device)
        if encoding.low is not None and encoding.high is not None:  # what rounding put beyond a bound is put on it
            actions = actions.clamp(encoding.low.to(actions), encoding.high.to(actions))
        return actions.reshape(*actions.shape[:-1], *encoding.row_shape)

    def log_probs(self, states: Tensor) -> Tensor:
        """Asks the factor for every action."""
        made = self._distribution(states)
        if isinstance(made, Categorical):
            return made.logits.log_softmax(-1)
        joint = torch.arange(self._encoding.num_actions, device=states.device)
        actions = torch.as_tensor(self._encoding.to_env(self._encoding.from_joint(joint)), device=states.device)
        batch = made.batch_shape
        return (
            made.expand((len(joint), *batch))
            .log_prob(
                actions.reshape(len(joint), *[1] * len(batch), *made.event_shape).expand(-1, *batch, *made.event_shape)
            )
            .movedim(0, -1)
        )

    def _distribution(self, states: Tensor) -> Distribution:
        made = self._prior(states)
        if not isinstance(made, Distribution):
            raise ValueError(f"action_prior: expected a distribution, got {type(made).__name__}")
        return made


def entry(table: Tensor, index: Tensor) -> Tensor:
    """Gives table[..., index]: `[*batch, A]` or `[A]` and int64 `[*batch]` to `[*batch]`."""
    return table.expand(*index.shape, table.shape[-1]).gather(-1, index[..., None]).squeeze(-1)


def prior_of(
    graph: Any, states: StateEncoding, actions: ActionEncoding, dtype: torch.dtype = torch.float32
) -> AbstractActionPrior:
    """Reads a graph's action prior.

    Args:
        graph: The graph.
        states: How its states are read.
        actions: How its actions are read.
        dtype: Of the log-densities, but where the prior is a callable with one of its own.

    Raises:
        IncompatibleMethod: It changes with time, or has no density on these actions.
    """
    prior = graph.action_prior
    if getattr(prior, "num_steps", None) is not None:
        raise IncompatibleMethod("action_prior: it changes with time; what learns from samples is stationary")
    if prior is None:
        if actions.log_volume is None:  # flat where there is no uniform distribution
            return ConstantPrior(0.0, 0, dtype)
        return ConstantPrior(-actions.log_volume, actions.num_actions if actions.is_discrete else 0, dtype)
    if isinstance(prior, FlatPrior) and prior.available is None:
        return ConstantPrior(0.0, actions.num_actions if actions.is_discrete else 0, dtype)
    if isinstance(prior, TabulatedPrior) and states.num_states is not None and actions.is_discrete:
        return TablePrior(states, actions, prior.prior_table(states.num_states, actions.num_actions)[0], dtype)
    if not callable(prior):
        raise IncompatibleMethod(
            f"action_prior: {type(prior).__name__} is neither a table for these spaces nor a callable that gives a "
            "distribution; cai.factors.FlatPrior() is the plain entropy bonus, None the uniform prior"
        )
    return CallablePrior(actions, prior)
