"""Networks: a perceptron of several layers, several of them in one, and how they start.

    h_0 = x,   h_{l+1} = f(h_l W_l + b_l),   y = h_L W_L + b_L

Everything here is `nn.Module`; what makes one, with all sizes but those of the problem, is a frozen option object.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cai.data.serialization import serializable

#: Activations by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

#: From so many numbers in a layer of one member on a CPU is quicker member by member: what one makes stays in cache.
_LARGE = 2**17

#: The name of an activation, or a class of modules that is one.
Activation = str | type[nn.Module]


@serializable
@dataclass(frozen=True)
class OrthogonalInitialisation:
    """Weights with orthonormal rows or columns times a gain, biases zero.

    Policy gradients start best with a policy that is the same in every state: a small gain of its output.

    Attributes:
        hidden_gain: Of the hidden layers; sqrt 2 keeps the size of what passes through rectifiers.
        output_gain: Of the last layer; .01 for a policy, 1 for values.

    Source: Saxe, McClelland and Ganguli (2014); Andrychowicz et al. (2021) for the gains.
    """

    hidden_gain: float = math.sqrt(2.0)
    output_gain: float = 1.0

    def __call__(self, layers: Sequence[nn.Linear]) -> None:
        """Draws the parameters of layers anew, in place, the last of them with the gain of the output."""
        for layer in layers:
            orthogonal(layer, self.output_gain if layer is layers[-1] else self.hidden_gain)


def orthogonal(layer: nn.Linear, gain: float) -> None:
    """Draws a layer's weights orthogonal, times a gain, and sets its biases to zero, in place."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """A perceptron of several layers.

    Args:
        num_inputs: Size of x.
        num_outputs: Size of y.
        hidden: Sizes of the hidden layers; none makes a linear map.
        activation: f: "elu", "gelu", "leaky_relu", "relu", "silu", "softplus", "tanh", or a class of modules.
        initialisation: Draws the parameters, given the layers; None leaves torch's own, uniform within
            1 / sqrt(inputs).

    Raises:
        ValueError: Sizes that are not positive, or an activation of no such name.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        initialisation: Callable[[Sequence[nn.Linear]], None] | None = None,
    ) -> None:
        super().__init__()
        sizes = _checked_sizes(num_inputs, hidden, num_outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.activation = activation_of(activation)
        if initialisation is not None:
            initialisation(list(self.layers))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Computes y of x: `[*batch, inputs]` to `[*batch, outputs]`."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


class StackedMLP(nn.Module):
    """Several perceptrons of one shape, with the parameters of each layer in one tensor: twin critics, ensembles.

    All members are computed together by batched products where these are quicker, as on small batches and on devices.

    Args:
        num: Number of members.
        num_inputs: Size of x.
        num_outputs: Size of y.
        hidden: Sizes of the hidden layers.
        activation: As in `MLP`.
        initialisation: As in `MLP`; each member is drawn by itself.

    Attributes:
        weights: `[num, in, out]` of each layer.
        biases: `[num, 1, out]` of each layer.

    Raises:
        ValueError: Sizes that are not positive, or an activation of no such name.
    """

    def __init__(
        self,
        num: int,
        num_inputs: int,
        num_outputs: int,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        initialisation: Callable[[Sequence[nn.Linear]], None] | None = None,
    ) -> None:
        super().__init__()
        if not _is_size(num):
            raise ValueError(f"StackedMLP: num must be a whole number of at least 1, got {num!r}")
        members = [MLP(num_inputs, num_outputs, hidden, activation, initialisation) for _ in range(num)]
        layers = list(zip(*(member.layers for member in members), strict=True))
        self._recipe = (num_inputs, num_outputs, tuple(hidden), activation)
        self.weights = nn.ParameterList(torch.stack([layer.weight.detach().mT for layer in same]) for same in layers)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach()[None] for layer in same]) for same in layers)
        self.activation = members[0].activation
        self._width = max([*hidden, num_outputs])

    @property
    def num(self) -> int:
        """Number of members."""
        return len(self.weights[0])

    def forward(self, x: Tensor) -> Tensor:
        """Computes every member's y of the same x: `[*batch, inputs]` to `[num, *batch, outputs]`."""
        rows = x.reshape(-1, x.shape[-1])
        y = self._through(rows.expand(self.num, *rows.shape))
        return y.reshape(self.num, *x.shape[:-1], y.shape[-1])

    def forward_each(self, x: Tensor) -> Tensor:
        """Computes each member's y of an x of its own: `[num, *batch, inputs]` to `[num, *batch, outputs]`."""
        y = self._through(x.reshape(self.num, -1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _through(self, x: Tensor) -> Tensor:
        """Computes `[num, rows, inputs]` to `[num, rows, outputs]`."""
        if x.device.type != "cpu" or x.shape[1] * self._width < _LARGE:
            return self._layers(x, self.weights, self.biases, _batched_affine)
        weights, biases = (zip(*(part.unbind() for part in same), strict=True) for same in (self.weights, self.biases))
        members = zip(x, weights, biases, strict=True)
        return torch.stack([self._layers(h, weight, bias, torch.addmm) for h, weight, bias in members])

    def _layers(self, h: Tensor, weights: Any, biases: Any, affine: Callable[..., Tensor]) -> Tensor:
        """Passes `[..., rows, inputs]` through layers; affine(b, h, W) = b + h W."""
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = affine(bias, h, weight)
            h = h if i == last else self.activation(h)
        return h

    def member(self, index: int) -> MLP:
        """Gives a copy of one member as a network of its own."""
        with torch.random.fork_rng(devices=[]):
            alone = MLP(*self._recipe)
        alone.to(self.weights[0])
        parts = zip(self.weights, self.biases, strict=True)
        own = [part for weight, bias in parts for part in (weight[index].mT, bias[index, 0])]
        with torch.no_grad():
            for parameter, part in zip(alone.parameters(), own, strict=True):
                parameter.copy_(part)
        return alone


def _batched_affine(bias: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """Computes b + h W of every member: `[num, 1, out]`, `[num, rows, in]` and `[num, in, out]`."""
    if weight.shape[-1] == 1:  # batched products with single columns are slow: five times a sum, and its derivative
        return (h * weight.mT).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, h, weight)


@serializable
@dataclass(frozen=True)
class MLPBody:
    """What a policy or a value is made of, where the user gives nothing else: a perceptron of these layers.

    Any callable `(num_inputs, num_outputs) -> nn.Module` can stand in its place.

    Attributes:
        hidden: Sizes of the hidden layers.
        activation: As in `MLP`; a file takes names only.
        initialisation: `OrthogonalInitialisation`, or None for torch's own.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    initialisation: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _checked_sizes(1, self.hidden, 1)
        activation_of(self.activation)

    def __call__(self, num_inputs: int, num_outputs: int) -> MLP:
        """Makes one network."""
        return MLP(num_inputs, num_outputs, self.hidden, self.activation, self.initialisation)

    def stacked(self, num: int, num_inputs: int, num_outputs: int) -> StackedMLP:
        """Makes several networks in one."""
        return StackedMLP(num, num_inputs, num_outputs, self.hidden, self.activation, self.initialisation)


def activation_of(activation: Activation) -> nn.Module:
    """Makes the module of an activation's name or class.

    Raises:
        ValueError: No such name, or not a class of modules.
    """
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return activation()
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, or a class of modules, got {activation!r}"
        )
    return nn.ReLU(inplace=True) if activation == "relu" else ACTIVATIONS[activation]()


def _checked_sizes(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> list[int]:
    sizes = [num_inputs, *hidden, num_outputs]
    for size in sizes:
        if not _is_size(size):
            raise ValueError(f"MLP: sizes must be whole numbers of at least 1, got {size!r} among {sizes}")
    return [int(size) for size in sizes]


def _is_size(size: Any) -> bool:
    return isinstance(size, numbers.Integral) and not isinstance(size, bool) and int(size) >= 1
