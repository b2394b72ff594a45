"""What learns: networks or tables, their optimisers, and what they say of states and actions.

Inside a learner states are features or indices and actions are those of `ActionEncoding`; at its border both are the
environment's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.errors import NonFinite, Unavailable
from cai.methods.sampling.metrics import Metrics
from cai.methods.sampling.priors import prior_of


@dataclass(frozen=True, eq=False)
class Choice:
    """What a behaviour policy chose.

    Attributes:
        actions: `[E, ...]`, in the environment's own form.
        log_ratios: `[E]`, log pi(a|s) - log mu(a|s), nats.
    """

    actions: NDArray[Any]
    log_ratios: NDArray[np.float32]


class UpdateCount(nn.Module):
    """How many updates there have been, as something that a checkpoint keeps."""

    num_updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))


class AbstractLearner(ABC):
    """What is learned from samples, and how: the mutable part of a method.

    Everything that learns is a parameter or a buffer in `modules`, every memory of a gradient in `optimisers`: the two
    are all that a checkpoint keeps.

    Args:
        graph: The graph.
        device: Where tensors lie.

    Attributes:
        states: How states become features.
        actions: How actions become indices or coordinates.
        prior: mu(a | s).
        discount: gamma.
        temperature: alpha, reward units.
        modules: All that learns, by name.
        optimisers: By name.
        metrics: What is logged.
        share: How much of the run is done, in [0, 1]; the engine sets it, schedules read it.
    """

    def __init__(self, graph: Any, device: torch.device | str = "cpu") -> None:
        self.states, self.actions = StateEncoding(graph.state_space), ActionEncoding(graph.action_space)
        self.prior = prior_of(graph, self.states, self.actions)
        self.discount = float(graph.discount)
        self.initial_temperature = float(graph.temperature)
        self.device = torch.device(device)
        self.modules = nn.ModuleDict()
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.metrics = Metrics()
        self.share = 0.0

    @property
    def temperature(self) -> float:
        """Alpha in use, reward units; the graph's, unless the method tunes it."""
        return self.initial_temperature

    @abstractmethod
    def act(self, states: NDArray[Any]) -> Choice:
        """Chooses actions in states `[E, ...]`, exploration included; draws from torch's generator."""

    @abstractmethod
    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s) on the environment's own actions, for one state or any batch."""

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives the learned Q(s, a), reward units."""
        raise Unavailable(f"{type(self).__name__} learns no q")

    def v(self, state: Any) -> Tensor:
        """Gives the learned V(s), reward units."""
        raise Unavailable(f"{type(self).__name__} learns no v")

    def log_ratio(self, state: Any, action: Any) -> Tensor:
        """Gives log pi(a | s) - log mu(a | s), nats, of the environment's own actions."""
        states = torch.as_tensor(state)
        return self.policy(states).log_prob(torch.as_tensor(action)) - self.prior.log_prob(
            states, self.actions.from_env(action)
        )

    def to(self, device: torch.device | str) -> AbstractLearner:
        """Moves what learns to a device; before the first step only."""
        self.modules.to(device)
        self.device = torch.device(device)
        return self

    def memory(self) -> dict[str, Any]:
        """Copies all that was learned."""
        optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        return {"modules": dict(self.modules.state_dict()), "optimisers": optimisers}

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave.

        Raises:
            ValueError: It is of other networks.
        """
        try:
            self.modules.load_state_dict(memory["modules"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(memory["optimisers"][name])
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"what was learned does not fit the networks of this method: {reason}") from None

    def descend(
        self, loss: Tensor, name: str, parameters: Iterable[Tensor] | None = None, *, max_norm: float | None = None
    ) -> float:
        """Takes a step of an optimiser down a loss, unless loss or gradient are not finite.

        Args:
            loss: 0-dim.
            name: The optimiser's.
            parameters: Whose gradient is taken; those of the optimiser by default.
            max_norm: The gradient is scaled down to this norm.

        Returns:
            The norm of the gradient before that.

        Raises:
            NonFinite: The loss or its gradient is NaN or infinite; the parameters are as before.
        """
        optimiser = self.optimisers[name]
        taken = (
            [p for group in optimiser.param_groups for p in group["params"]] if parameters is None else [*parameters]
        )
        gradients = torch.autograd.grad(loss, taken)
        norms = torch.stack(torch._foreach_norm(gradients))  # of each, in one call; the rest is quicker on numbers
        norm, value = math.hypot(*norms.tolist()), float(loss.detach())
        if not (math.isfinite(norm) and math.isfinite(value)):
            raise NonFinite(f"the {name} loss is {value:g} and the norm of its gradient {norm:g}")
        if max_norm is not None and norm > max_norm:
            torch._foreach_mul_(list(gradients), max_norm / norm)
        for parameter, gradient in zip(taken, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        self.metrics.add(f"{name}_loss", value)
        return norm
