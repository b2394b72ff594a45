"""Policies that are networks: action factors that learn, to be followed, cloned, saved, or put in a graph as a prior.

pi(a | s) = head(body((features(s) - m) / d)),     m, d: mean and standard deviation of features, where they are kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, ReshapeTransform, Transform, TransformedDistribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.data.serialization import serializable
from cai.factors.heads import AbstractHead, default_head, greedy_action
from cai.factors.joint_categorical import JointCategorical
from cai.factors.multi_categorical import MultiCategorical
from cai.factors.networks import MLPBody

#: Makes a network of so many inputs and outputs.
Body = Callable[[int, int], nn.Module]


@serializable
@dataclass(frozen=True)
class Standardisation:
    """Features are shifted and scaled to mean zero and variance one, by moments that a learner measures as it goes.

    Attributes:
        limit: Standard deviations at which they are clipped.
        floor: Least standard deviation: a feature that hardly varies is not blown up.
    """

    limit: float = 10.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.limit > 0 and self.floor > 0):
            raise ValueError(f"Standardisation: limit and floor must be positive, got {self.limit} and {self.floor}")


class Standardiser(nn.Module):
    """Shifts and scales features by moments kept as buffers: a state dict takes them along.

    Args:
        size: Number of features.
        option: How.
    """

    def __init__(self, size: int, option: Standardisation) -> None:
        super().__init__()
        self.option = option
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    mean: Tensor
    std: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Standardises features, `[*batch, n]`."""
        return ((features - self.mean) / self.std).clamp(-self.option.limit, self.option.limit)

    def observe_moments(self, mean: Tensor, variance: Tensor) -> None:
        """Takes new moments of the features, `[n]` each."""
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp(min=self.option.floor))


@serializable
class NeuralPolicy(nn.Module):
    """pi(a | s) by a network, on the actions of an environment.

    Called with states as the environment gives them it is a factor; `on_features` is for those who learn it. A body
    that is the user's own callable is not written to a file: it is a hole, filled from the same slot of a graph.

    Args:
        state_space: Where states are.
        action_space: Where actions are.
        head: What distribution; None is `default_head`.
        body: What network: `MLPBody`, or a callable `(num_inputs, num_outputs) -> nn.Module`.
        standardisation: How features are scaled; None leaves them as they are.

    Raises:
        ValueError: A space that has no encoding, or a head that is not for the actions.
    """

    def __init__(
        self,
        state_space: gymnasium.Space | None,
        action_space: gymnasium.Space | None,
        *,
        head: AbstractHead | None = None,
        body: Body = MLPBody(),  # noqa: B008  (a frozen option)
        standardisation: Standardisation | None = None,
    ) -> None:
        super().__init__()
        self.states, self.actions = StateEncoding(state_space), ActionEncoding(action_space)
        self.state_space, self.action_space = state_space, action_space
        self.head = default_head(self.actions) if head is None else head
        self.body, self.standardisation = body, standardisation
        size = self.states.size
        self.standardiser = None if standardisation is None else Standardiser(size, standardisation)
        self.network = body(size, self.head.num_outputs(self.actions))
        self.output = self.head.build(self.actions)

    @property
    def num_steps(self) -> None:
        """None: it is the same at every step."""
        return None

    def forward(self, state: Any, t: Any = 0) -> Distribution:
        """Gives pi(a | s) on the environment's own actions.

        Args:
            state: One state or any batch, `[*batch, ...]`, numpy or tensor, of any type.
            t: Ignored: the policy is stationary.
        """
        features = self.states.features(state)
        parameter = next(self.network.parameters(), features)
        return in_units_of(self.action_space, self.on_features(features.to(parameter)))

    def on_features(self, features: Tensor) -> Any:
        """Gives pi(a | s) on the library's own actions: indices from 0, or vectors `[*batch, m]` in a box's own units.

        Args:
            features: `[*batch, n]`, as `states.features` gives them.
        """
        if self.standardiser is not None:
            features = self.standardiser(features)
        return self.output(self.network(features))

    def log_prob(self, features: Tensor, actions: Tensor) -> Tensor:
        """Computes log pi(a | s): `[*batch]`, nats.

        Args:
            features: `[*batch, n]`.
            actions: The library's own, `[*batch]` or `[*batch, m]`.
        """
        return self.on_features(features).log_prob(actions)

    def greedy(self, features: Tensor) -> Tensor:
        """Gives the library's own actions without chance, `[*batch]` or `[*batch, m]`, of features `[*batch, n]`."""
        return greedy_action(self.on_features(features))

    def observe_moments(self, mean: Tensor, variance: Tensor) -> None:
        """Takes new moments of the features, `[n]` each; nothing happens without `standardisation`."""
        if self.standardiser is not None:
            self.standardiser.observe_moments(mean, variance)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        options = {name: getattr(self, name) for name in ("head", "body", "standardisation")}
        spaces = {"state_space": self.state_space, "action_space": self.action_space}
        return spaces | options | {"parameters": dict(self.state_dict())}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> NeuralPolicy:
        """Makes the policy of what a file gave; no random number is drawn for good."""
        options = {name: part for name, part in parts.items() if name != "parameters"}
        with torch.random.fork_rng(devices=[]):
            policy = cls(**options)
        parameters = parts["parameters"]
        policy.to(next((p.dtype for p in parameters.values() if p.is_floating_point()), torch.float32))
        policy.load_state_dict(parameters)
        return policy


def in_units_of(space: gymnasium.Space | None, policy: Distribution) -> Distribution:
    """Carries a distribution over the library's own actions to those of a space: where counting starts, and shapes."""
    transforms: list[Transform] = []
    start = getattr(space, "start", None)
    if isinstance(space, gymnasium.spaces.Discrete):
        if space.start:
            transforms.append(AffineTransform(int(space.start), 1))
    elif start is not None and start.any() and isinstance(policy, MultiCategorical | JointCategorical):
        offset = torch.as_tensor(start, device=policy.logits.device).flatten()
        transforms.append(AffineTransform(offset, 1, event_dim=1))
    shape = torch.Size(getattr(space, "shape", None) or ())
    if policy.event_shape != shape:
        transforms.append(ReshapeTransform(policy.event_shape, shape))
    return TransformedDistribution(policy, transforms, validate_args=False) if transforms else policy
