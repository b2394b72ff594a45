"""Dueling networks: Q as a value and an advantage, from features that they share.

    Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)

V then learns from every action. The mean keeps V and A apart. To centre by the soft maximum would make the first
stream the soft value itself, but its gradient is that of a maximum as the temperature falls, which jumps among actions;
the mean is the steadier one (Wang et al., 2016, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.factors.networks import MLP, Activation, StackedMLP, activation_of


@serializable
@dataclass(frozen=True)
class Dueling:
    """A network body with a stream for the value and one for advantages.

    Attributes:
        trunk: Sizes of the shared hidden layers, at least one.
        streams: Sizes of the hidden layers of each stream.
        activation: As in `MLPBody`.

    Source: Wang et al. (2016).
    """

    trunk: tuple[int, ...] = (256,)
    streams: tuple[int, ...] = (256,)
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "trunk", tuple(self.trunk))
        object.__setattr__(self, "streams", tuple(self.streams))
        if not self.trunk:
            raise ValueError("Dueling: trunk must have at least one hidden layer, got none")
        activation_of(self.activation)

    def __call__(self, num_inputs: int, num_outputs: int) -> DuelingNetwork:
        """Makes one network."""
        *before, features = self.trunk
        return DuelingNetwork(
            MLP(num_inputs, features, before, self.activation),
            activation_of(self.activation),
            MLP(features, 1, self.streams, self.activation),
            MLP(features, num_outputs, self.streams, self.activation),
        )

    def stacked(self, num: int, num_inputs: int, num_outputs: int) -> DuelingNetwork:
        """Makes several networks in one."""
        *before, features = self.trunk
        return DuelingNetwork(
            StackedMLP(num, num_inputs, features, before, self.activation),
            activation_of(self.activation),
            StackedMLP(num, features, 1, self.streams, self.activation),
            StackedMLP(num, features, num_outputs, self.streams, self.activation),
        )


class DuelingNetwork(nn.Module):
    """Q(s, .) of a value and advantages.

    Args:
        trunk: Gives features, `[*batch, f]`, or of a stack `[num, *batch, f]`.
        activation: Of the features.
        value: The value's stream.
        advantage: The advantages' stream.
    """

    def __init__(self, trunk: nn.Module, activation: nn.Module, value: nn.Module, advantage: nn.Module) -> None:
        super().__init__()
        self.trunk, self.activation, self.value, self.advantage = trunk, activation, value, advantage

    def forward(self, x: Tensor) -> Tensor:
        """Computes Q(s, .): `[*batch, inputs]` to `[*batch, A]`, or of a stack `[num, *batch, A]`."""
        features = self.activation(self.trunk(x))
        if isinstance(self.value, StackedMLP) and isinstance(self.advantage, StackedMLP):
            value, advantage = self.value.forward_each(features), self.advantage.forward_each(features)
        else:
            value, advantage = self.value(features), self.advantage(features)
        return value + advantage - advantage.mean(-1, keepdim=True)
