"""Action factors: priors mu(a | s), and policies that a user gives."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import as_table, check_rows, normalised, own_copy, state_index, table_at, weights_to_categorical


@serializable
class TabularPolicy:
    """A table of action probabilities: an action prior, or a policy to evaluate or to follow.

    Args:
        probs: `[S, A]`. A zero makes the action unavailable in the state.
        dtype: float64 by default.

    Raises:
        ValueError: A wrong shape, a negative or NaN entry, or a row that does not sum to one: which, and by how much.
    """

    def __init__(self, probs: Any, *, dtype: torch.dtype | None = None) -> None:
        self._set(as_table(probs, "TabularPolicy probs", dtype), time_varying=False)

    @classmethod
    def per_step(cls, probs: Any, *, dtype: torch.dtype | None = None) -> TabularPolicy:
        """Makes a policy that changes with time, of probabilities `[T, S, A]`."""
        policy = cls.__new__(cls)
        policy._set(as_table(probs, "TabularPolicy probs", dtype), time_varying=True)
        return policy

    def _set(self, probs: Tensor, *, time_varying: bool) -> None:
        axes = ["time", "state"] if time_varying else ["state"]
        if probs.dim() != len(axes) + 1 or not probs.numel():
            expected = "[T, S, A]" if time_varying else "[S, A]"
            raise ValueError(f"TabularPolicy: expected probs {expected}, got {list(probs.shape)}")
        check_rows(probs, "TabularPolicy", axes)
        self.probs, self.time_varying = normalised(probs), time_varying

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the table is for, or None where it serves all."""
        return self.probs.shape[0] if self.time_varying else None

    def prior_table(self, num_states: int, num_actions: int) -> Tensor:
        """Gives the probabilities, `[1 or T, S, A]`."""
        table = self.probs if self.time_varying else self.probs[None]
        if table.shape[1:] != (num_states, num_actions):
            raise ValueError(
                f"action_prior: TabularPolicy is for {table.shape[1]} states and {table.shape[2]} actions, "
                f"the dynamics has {num_states} and {num_actions}"
            )
        return table

    def __call__(self, state: Any, t: int = 0) -> torch.distributions.Categorical:
        """Gives pi(a | s) for one state or any batch, at time t."""
        table = table_at(self.probs if self.time_varying else self.probs[None], t, self.num_steps, "TabularPolicy")
        return weights_to_categorical(table[state_index(state, table.shape[0]).to(table.device)])

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"probs": self.probs, "time_varying": self.time_varying}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> TabularPolicy:
        """Makes the factor of what a file gave."""
        policy = cls.__new__(cls)
        policy._set(parts["probs"], time_varying=parts["time_varying"])
        return policy


@serializable
class FlatPrior:
    """The flat measure on actions, not normalised: mu(a|s) = 1, the plain entropy bonus of maximum-entropy RL.

    With the counting measure V = alpha log sum_a exp(Q / alpha) may exceed the greatest return, and a long life is
    worth entropy: an agent may avoid the goal.

    Args:
        available: `[S, A]`, bool: which actions each state has; all by default.

    Raises:
        ValueError: A wrong shape, or a state without any action.
    """

    def __init__(self, available: Any = None) -> None:
        self.available = None
        if available is not None:
            self.available = own_copy(available)
            if self.available.dtype != torch.bool or self.available.dim() != 2:
                raise ValueError(
                    f"FlatPrior: available must be a boolean [S, A], got {self.available.dtype} of shape "
                    f"{list(self.available.shape)}"
                )
            empty = ~self.available.any(-1)
            if empty.any():
                raise ValueError(f"FlatPrior: state {int(empty.nonzero()[0])} has no available action")

    @property
    def num_steps(self) -> None:
        """None: it is the same at every step."""
        return None

    def prior_table(self, num_states: int, num_actions: int) -> Tensor:
        """Gives the measure, `[1, S, A]`: one where an action is available, zero elsewhere."""
        if self.available is None:
            return torch.ones(1, num_states, num_actions, dtype=torch.float64)
        if self.available.shape != (num_states, num_actions):
            raise ValueError(
                f"action_prior: FlatPrior is for {list(self.available.shape)} states and actions, the dynamics has "
                f"[{num_states}, {num_actions}]"
            )
        return self.available.to(torch.float64)[None]

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"available": self.available}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> FlatPrior:
        """Makes the factor of what a file gave."""
        return cls(parts["available"])


@serializable
class UniformPolicy:
    """Acts uniformly at random on whatever the graph or environment it is bound to allows.

    Args:
        action_space: A gymnasium space; None until `bind`.
        state_space: A gymnasium space; it tells a state from a batch of states. None takes every state for one.
        available: `[1 or T, S, A]`, bool: which actions discrete states have; None for all.
    """

    def __init__(
        self,
        action_space: gymnasium.Space | None = None,
        state_space: gymnasium.Space | None = None,
        available: Tensor | None = None,
    ) -> None:
        self.action_space, self.state_space, self.available = action_space, state_space, available

    def bind(self, graph: Any) -> UniformPolicy:
        """Gives the policy on the spaces of a graph or environment, and on the actions that a graph's prior allows."""
        state_space = getattr(graph, "state_space", None) or getattr(graph, "observation_space", None)
        prior, available = getattr(graph, "action_prior", None), None
        discrete = all(isinstance(s, gymnasium.spaces.Discrete) for s in (state_space, graph.action_space))
        if discrete and isinstance(prior, TabularPolicy | FlatPrior):
            available = prior.prior_table(int(state_space.n), int(graph.action_space.n)) > 0  # type: ignore[union-attr]
        return UniformPolicy(graph.action_space, state_space, available)

    def __call__(self, state: Any, t: int = 0) -> torch.distributions.Distribution:
        """Gives the uniform distribution on actions: one for a state, a batch for a batch of states.

        Raises:
            ValueError: Not bound yet, or a space without a uniform distribution.
        """
        space, batch = self.action_space, self._batch_of(state)
        if space is None:
            raise ValueError("UniformPolicy: bind it to a graph first, UniformPolicy().bind(graph)")
        if isinstance(space, gymnasium.spaces.Discrete):
            uniform = weights_to_categorical(self._weights(state, t, batch, int(space.n)))
            if space.start == 0:
                return uniform
            shift = torch.distributions.AffineTransform(int(space.start), 1)
            return torch.distributions.TransformedDistribution(uniform, [shift])
        if isinstance(space, gymnasium.spaces.MultiDiscrete):
            sizes = torch.as_tensor(space.nvec)  # padded to the greatest, the padding of weight zero
            weights = (torch.arange(int(sizes.max())) < sizes[..., None]).to(torch.float64)
            padded = weights_to_categorical(weights.expand(*batch, *weights.shape))
            return torch.distributions.Independent(padded, sizes.dim())
        if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
            low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
            box = torch.distributions.Uniform(low, high).expand((*batch, *low.shape))
            return torch.distributions.Independent(box, low.dim())
        raise ValueError(f"UniformPolicy: there is no uniform distribution on {space}")

    def _weights(self, state: Any, t: int, batch: torch.Size, num_actions: int) -> Tensor:
        if self.available is None:
            return torch.ones(*batch, num_actions, dtype=torch.float64)
        table = self.available[t if len(self.available) > 1 else 0].to(torch.float64)
        return table[state_index(state, len(table)).to(table.device)]

    def _batch_of(self, state: Any) -> torch.Size:
        if isinstance(self.state_space, gymnasium.spaces.Discrete):
            return state.shape if isinstance(state, Tensor) else torch.Size(np.shape(state))
        if isinstance(self.state_space, gymnasium.spaces.Box):
            shape = state.shape if isinstance(state, Tensor) else np.shape(state)
            return torch.Size(shape[: len(shape) - len(self.state_space.shape)])
        return torch.Size()

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"action_space": self.action_space, "state_space": self.state_space, "available": self.available}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> UniformPolicy:
        """Makes the policy of what a file gave."""
        return cls(**parts)
