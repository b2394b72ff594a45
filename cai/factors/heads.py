"""Policy heads: what turns a network's outputs into a distribution over actions.

A head is a frozen option object. `num_outputs(actions)` says how many outputs it wants of a network,
`build(actions)` makes the module that turns them, `[*batch, num_outputs]`, into a distribution over the library's own
actions: indices from 0 for `Discrete` and `MultiDiscrete`, vectors `[*batch, m]` in the environment's units for `Box`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, TransformedDistribution, Uniform

from cai.data.encodings import ActionEncoding
from cai.data.serialization import serializable
from cai.factors.diagonal_normal import DiagonalNormal, PointMass
from cai.factors.multi_categorical import MultiCategorical
from cai.factors.squashed import Bounds, SquashedNormal


class AbstractHead(ABC):
    """What turns a network's outputs into a distribution over actions."""

    @abstractmethod
    def num_outputs(self, actions: ActionEncoding) -> int:
        """Gives the number of outputs wanted; raises ValueError where the head is not for such actions."""

    @abstractmethod
    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes the module: outputs `[*batch, num_outputs]` to a distribution; it may have parameters of its own."""


@serializable
@dataclass(frozen=True)
class CategoricalHead(AbstractHead):
    """Logits of every action of a `Discrete` space."""

    def num_outputs(self, actions: ActionEncoding) -> int:
        """The number of actions."""
        _need(actions.is_discrete and not actions.row_shape, self, "a Discrete space", actions)
        return actions.sizes[0]

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `torch.distributions.Categorical` of logits."""
        self.num_outputs(actions)
        return _CategoricalOutput()


@serializable
@dataclass(frozen=True)
class MultiCategoricalHead(AbstractHead):
    """Logits of every value of each choice of a `MultiDiscrete` or `MultiBinary` space; independent given the state."""

    def num_outputs(self, actions: ActionEncoding) -> int:
        """The sum of the sizes of the choices."""
        _need(actions.is_discrete and len(actions.row_shape) > 0, self, "a MultiDiscrete or MultiBinary space", actions)
        return sum(actions.sizes)

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `MultiCategorical` of logits side by side."""
        self.num_outputs(actions)
        return _MultiCategoricalOutput(actions.sizes)


@serializable
@dataclass(frozen=True)
class GaussianHead(AbstractHead):
    """A normal whose mean is the network's output, and whose standard deviation is a parameter, the same in all states.

    The head of policy gradients. In a bounded box the outputs are in units of half the box about its center; the normal
    reaches beyond the box, and whoever acts must clip.

    Attributes:
        initial_log_std: In the same units.
    """

    initial_log_std: float = 0.0

    def num_outputs(self, actions: ActionEncoding) -> int:
        """The number of coordinates."""
        _need(not actions.is_discrete, self, "a Box", actions)
        return actions.size

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `DiagonalNormal`."""
        return _GaussianOutput(actions, self.num_outputs(actions), self.initial_log_std)


@serializable
@dataclass(frozen=True)
class StateGaussianHead(AbstractHead):
    """A normal with mean and log standard deviation both from the network; in a bounded box as `GaussianHead`.

    Attributes:
        log_std_limits: To which the log standard deviation is clamped.
    """

    log_std_limits: tuple[float, float] = (-20.0, 2.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_std_limits", _limits(self.log_std_limits, type(self).__name__))

    def num_outputs(self, actions: ActionEncoding) -> int:
        """Twice the number of coordinates."""
        _need(not actions.is_discrete, self, "a Box", actions)
        return 2 * actions.size

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `DiagonalNormal`."""
        self.num_outputs(actions)
        return _StateGaussianOutput(actions, self.log_std_limits)


@serializable
@dataclass(frozen=True)
class SquashedGaussianHead(AbstractHead):
    """A normal squashed into a bounded box, mean and log standard deviation both from the network.

    Attributes:
        log_std_limits: To which the log standard deviation before squashing is clamped.
    """

    log_std_limits: tuple[float, float] = (-20.0, 2.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_std_limits", _limits(self.log_std_limits, type(self).__name__))

    def num_outputs(self, actions: ActionEncoding) -> int:
        """Twice the number of coordinates."""
        _need(actions.low is not None, self, "a Box bounded on all sides", actions)
        return 2 * actions.size

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `SquashedNormal`."""
        self.num_outputs(actions)
        return _SquashedOutput(actions, self.log_std_limits)


@serializable
@dataclass(frozen=True)
class DeterministicHead(AbstractHead):
    """One action a state: tanh of the outputs in a bounded box, the outputs themselves in an unbounded one."""

    def num_outputs(self, actions: ActionEncoding) -> int:
        """The number of coordinates."""
        _need(not actions.is_discrete, self, "a Box", actions)
        return actions.size

    def build(self, actions: ActionEncoding) -> nn.Module:
        """Makes a `PointMass`."""
        self.num_outputs(actions)
        return _DeterministicOutput(actions)


def default_head(actions: ActionEncoding) -> AbstractHead:
    """Gives the head that is usual for a space: categorical, squashed in a bounded box, normal in an unbounded one."""
    if actions.is_discrete:
        return MultiCategoricalHead() if actions.row_shape else CategoricalHead()
    return StateGaussianHead() if actions.low is None else SquashedGaussianHead()


def greedy_action(policy: Distribution) -> Tensor:
    """Gives the action by which a policy acts without chance.

    That is the mode, where there is one: the most probable of finitely many, the mean of a normal. Of a squashed normal
    it is the squashed mean, its median; of a uniform distribution the mean.

    Args:
        policy: A distribution over actions, any batch.

    Returns:
        Actions, `[*batch]` or `[*batch, m]`.

    Raises:
        ValueError: The distribution has neither.
    """
    if isinstance(policy, TransformedDistribution):
        action = greedy_action(policy.base_dist)
        for transform in policy.transforms:
            action = transform(action)
        return action
    if isinstance(policy, Independent):
        return greedy_action(policy.base_dist)
    if isinstance(policy, Uniform):  # whose mode is NaN to torch
        return policy.mean
    for name in ("mode", "median"):
        try:
            return getattr(policy, name)
        except (NotImplementedError, AttributeError):
            continue
    raise ValueError(f"{type(policy).__name__} has neither mode nor median; draw from it: cai.plan.sampled_action")


class _CategoricalOutput(nn.Module):
    def forward(self, outputs: Tensor) -> Categorical:
        return Categorical(logits=outputs, validate_args=False)


class _MultiCategoricalOutput(nn.Module):
    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, outputs: Tensor) -> MultiCategorical:
        return MultiCategorical.split(outputs, self.sizes)


class _BoxOutput(nn.Module):
    """Knows the box, if there is one; what a space tells is not saved among the parameters."""

    def __init__(self, actions: ActionEncoding) -> None:
        super().__init__()
        self.bounds: Bounds | None = None
        if actions.low is not None and actions.high is not None:
            self.bounds = Bounds(actions.low, actions.high)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> nn.Module:
        """Takes the box along where parameters go, to another device or type."""
        if self.bounds is not None:
            self.bounds = Bounds(fn(self.bounds.low), fn(self.bounds.high))
        return super()._apply(fn, recurse)

    def _normal(self, mean: Tensor, log_std: Tensor) -> DiagonalNormal:
        if self.bounds is None:
            return DiagonalNormal(mean, log_std)
        center, half_size = self.bounds.center, self.bounds.half_size
        return DiagonalNormal(torch.addcmul(center, half_size, mean), log_std + half_size.log())


class _GaussianOutput(_BoxOutput):
    def __init__(self, actions: ActionEncoding, size: int, initial_log_std: float) -> None:
        super().__init__(actions)
        self.log_std = nn.Parameter(torch.full((size,), float(initial_log_std)))

    def forward(self, outputs: Tensor) -> DiagonalNormal:
        return self._normal(outputs, self.log_std)


class _StateGaussianOutput(_BoxOutput):
    def __init__(self, actions: ActionEncoding, log_std_limits: tuple[float, float]) -> None:
        super().__init__(actions)
        self.log_std_limits = log_std_limits

    def forward(self, outputs: Tensor) -> DiagonalNormal:
        mean, log_std = outputs.chunk(2, -1)
        return self._normal(mean, log_std.clamp(*self.log_std_limits))


class _SquashedOutput(_BoxOutput):
    bounds: Bounds

    def __init__(self, actions: ActionEncoding, log_std_limits: tuple[float, float]) -> None:
        super().__init__(actions)
        self.log_std_limits = log_std_limits

    def forward(self, outputs: Tensor) -> SquashedNormal:
        mean, log_std = outputs.chunk(2, -1)
        return SquashedNormal.within(mean, log_std.clamp(*self.log_std_limits), self.bounds)


class _DeterministicOutput(_BoxOutput):
    def forward(self, outputs: Tensor) -> PointMass:
        if self.bounds is None:
            return PointMass(outputs)
        return PointMass(torch.addcmul(self.bounds.center, self.bounds.half_size, torch.tanh(outputs)))


def _need(fits: bool, head: AbstractHead, wanted: str, actions: ActionEncoding) -> None:
    if not fits:
        raise ValueError(f"{type(head).__name__} is for {wanted}, the actions are in {actions.space}")


def _limits(limits: tuple[float, float], name: str) -> tuple[float, float]:
    low, high = (float(limit) for limit in limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name}: log_std_limits must be two finite numbers, the lower first, got {limits}")
    return low, high
