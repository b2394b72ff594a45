"""Networks against numpy and torch's own; several in one against each by itself."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cai.factors import MLP, MLPBody, OrthogonalInitialisation, StackedMLP
from cai.factors.networks import _LARGE, ACTIVATIONS, activation_of

NUMPY = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh, "silu": lambda x: x / (1.0 + np.exp(-x))}


@pytest.mark.parametrize("activation", sorted(NUMPY))
@pytest.mark.parametrize("hidden", [(), (5,), (7, 3)], ids=str)
def test_mlp_is_a_chain_of_affine_maps(activation: str, hidden: tuple[int, ...]) -> None:
    net = MLP(4, 2, hidden, activation).double()
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    y, parameters = x.numpy(), [p.detach().numpy() for p in net.parameters()]
    for i in range(len(hidden) + 1):
        y = y @ parameters[2 * i].T + parameters[2 * i + 1]
        y = NUMPY[activation](y) if i < len(hidden) else y
    assert np.allclose(net(x).detach().numpy(), y, atol=1e-12)


def test_default_initialisation_is_torch_s() -> None:
    torch.manual_seed(0)
    ours = MLP(4, 2, (8, 8))
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    x = torch.randn(5, 4)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_inputs_are_left_as_they_are(activation: str) -> None:
    x = torch.randn(5, 4)
    before = x.clone()
    MLP(4, 2, (8,), activation)(x)
    MLP(4, 2, (), activation)(x)
    StackedMLP(2, 4, 2, (8,), activation)(x)
    assert torch.equal(x, before)


def test_activation_may_be_a_class() -> None:
    assert isinstance(MLP(2, 1, (3,), nn.Hardtanh).activation, nn.Hardtanh)
    assert isinstance(activation_of("tanh"), nn.Tanh)


@pytest.mark.parametrize("hidden, sizes", [((16, 16), (16, 16)), ((8, 32), (8, 32))], ids=str)
def test_orthogonal_initialisation(hidden: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    net = MLP(6, 3, hidden, "tanh", OrthogonalInitialisation(output_gain=0.01))
    for layer, gain in zip(net.layers, [math.sqrt(2.0)] * len(sizes) + [0.01], strict=True):
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.detach().double()
        small = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        assert torch.allclose(small, gain**2 * torch.eye(len(small), dtype=torch.float64), atol=1e-6 * gain)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


# -- several in one ---------------------------------------------------------------------------------------------------


def both_ways(net: StackedMLP, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the stack, and of its members one by one."""
    own = [net.member(i) for i in range(net.num)]
    outputs = net(x)
    gradients = torch.autograd.grad(outputs.square().sum(), [*net.parameters()])
    alone = torch.stack([member(x) for member in own])
    parts = [
        torch.autograd.grad(y.square().sum(), [*member.parameters()]) for y, member in zip(alone, own, strict=True)
    ]
    layers = len(net.weights)
    expected = [torch.stack([part[2 * i].mT for part in parts]) for i in range(layers)]
    expected += [torch.stack([part[2 * i + 1][None] for part in parts]) for i in range(layers)]
    return [outputs, *gradients], [alone, *expected]


@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("batch", [(), (4,), (3, 2)], ids=str)
def test_members_are_networks_of_their_own(num: int, batch: tuple[int, ...]) -> None:
    net = StackedMLP(num, 4, 3, (8, 6), "tanh").double()
    x = torch.randn(*batch, 4, dtype=torch.float64)
    for ours, expected in zip(*both_ways(net, x), strict=True):
        assert ours.shape == expected.shape and torch.allclose(ours, expected, atol=1e-12)


def test_large_batches_give_the_same() -> None:
    net = StackedMLP(2, 3, 1, (64, 8)).double()
    rows = _LARGE // 64
    x = torch.randn(rows, 3, dtype=torch.float64)
    for ours, expected in zip(*both_ways(net, x), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(net(x)[:, :5], net(x[:5]), atol=1e-12)  # five rows are few: the other way of computing
    each = torch.stack([x, 2.0 * x])
    assert torch.allclose(net.forward_each(each), torch.stack([net.member(i)(each[i]) for i in range(2)]), atol=1e-12)


def test_each_member_may_have_inputs_of_its_own() -> None:
    net = StackedMLP(3, 4, 2, (8,))
    x = torch.randn(3, 5, 2, 4)
    alone = torch.stack([net.member(i)(x[i]) for i in range(3)])
    assert torch.allclose(net.forward_each(x), alone, atol=1e-6)


def test_members_are_drawn_as_single_networks_are() -> None:
    torch.manual_seed(0)
    net = StackedMLP(3, 4, 2, (8, 8))
    torch.manual_seed(0)
    alone = [MLP(4, 2, (8, 8)) for _ in range(3)]
    after = torch.get_rng_state()
    for i, own in enumerate(alone):
        assert all(torch.equal(a, b) for a, b in zip(net.member(i).parameters(), own.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), after)  # a copy draws nothing


def test_a_member_is_a_copy() -> None:
    net = StackedMLP(2, 4, 1, (8,))
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for parameter in net.member(0).parameters():
            parameter.add_(1.0)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_gradient_through_frozen_networks_reaches_the_inputs() -> None:
    net = StackedMLP(2, 4, 1, (256, 256)).requires_grad_(False)
    x = torch.randn(256, 4, requires_grad=True)
    lowest = net(x).squeeze(-1).amin(0).sum()
    (gradient,) = torch.autograd.grad(lowest, x)
    values = torch.stack([net.member(i)(x).squeeze(-1) for i in range(2)])
    (expected,) = torch.autograd.grad(values.amin(0).sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-6)


# -- options and errors -----------------------------------------------------------------------------------------------


def test_body_makes_networks() -> None:
    body = MLPBody((5, 4), "tanh", OrthogonalInitialisation())
    net = body(3, 2)
    assert [layer.weight.shape for layer in net.layers] == [(5, 3), (4, 5), (2, 4)]  # type: ignore[union-attr]
    assert isinstance(net.activation, nn.Tanh) and not any(layer.bias.any() for layer in net.layers)  # type: ignore
    stack = body.stacked(3, 3, 2)
    assert stack(torch.zeros(7, 3)).shape == (3, 7, 2) and not any(bias.any() for bias in stack.biases)
    assert MLPBody([5, 4]).hidden == (5, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: MLP(0, 1), "sizes must be whole numbers of at least 1, got 0"),
        (lambda: MLP(2, 1, (4, 2.5)), "got 2.5 among"),  # type: ignore[arg-type]
        (lambda: MLP(2, True), "got True"),
        (lambda: MLP(2, 1, activation="swish"), "expected one of elu, gelu"),
        (lambda: MLP(2, 1, activation=int), "a class of modules, got <class 'int'>"),  # type: ignore[arg-type]
        (lambda: StackedMLP(0, 2, 1), "num must be a whole number of at least 1, got 0"),
        (lambda: MLPBody((0,)), "got 0"),
        (lambda: MLPBody(activation="sine"), "'sine'"),
    ],
    ids=["no inputs", "half", "bool", "name", "class", "none", "body", "body activation"],
)
def test_errors(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
