"""What learning does to parameters: against numpy, and that switches are left as they were found."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cai.ops.optimisation import flushed_denormals, frozen, fused_adam, polyak


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,), ())]


def test_frozen_parameters_are_constants_through_which_gradients_pass() -> None:
    weight, bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2), requires_grad=False)
    x = torch.ones(2, requires_grad=True)
    with frozen([weight, bias]):
        assert not weight.requires_grad
        y = (weight * x + bias).sum()
    y.backward()
    assert weight.grad is None and torch.equal(x.grad, torch.ones(2))  # type: ignore[arg-type]
    assert weight.requires_grad and not bias.requires_grad


def test_frozen_parameters_learn_again_after_an_error() -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(KeyError), frozen(iter([weight])):
        raise KeyError
    assert weight.requires_grad


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.5, 0.9, 1.0])
def test_polyak_rate_is_the_weight_of_the_new(rate: float) -> None:
    target, source = parameters(0), parameters(1)
    expected = [
        (1 - rate) * y.detach().numpy() + rate * x.detach().numpy() for y, x in zip(target, source, strict=True)
    ]
    kept = [x.detach().clone() for x in source]
    polyak(target, source, rate)
    assert all(np.allclose(y.detach().numpy(), e, atol=1e-6) for y, e in zip(target, expected, strict=True))
    assert all(torch.equal(x, k) for x, k in zip(source, kept, strict=True))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_polyak_rate_out_of_range(rate: float) -> None:
    with pytest.raises(ValueError, match="weight of the new parameters"):
        polyak(parameters(), parameters(), rate)


def test_adam_is_the_published_one() -> None:
    learned = parameters()
    optimiser = fused_adam(learned, 0.1, betas=(0.8, 0.9), eps=1e-5)
    assert optimiser.defaults["fused"]
    x = [p.detach().double().numpy() for p in learned]
    m, v = [np.zeros_like(a) for a in x], [np.zeros_like(a) for a in x]
    for k in range(1, 6):
        gradients = [np.sin(a) + a for a in x]
        for p in learned:
            p.grad = (p.detach().sin() + p.detach()).clone()
        optimiser.step()
        m = [0.8 * a + 0.2 * g for a, g in zip(m, gradients, strict=True)]
        v = [0.9 * a + 0.1 * g * g for a, g in zip(v, gradients, strict=True)]
        moved = [(a / (1 - 0.8**k)) / (np.sqrt(b / (1 - 0.9**k)) + 1e-5) for a, b in zip(m, v, strict=True)]
        x = [a - 0.1 * d for a, d in zip(x, moved, strict=True)]
    assert all(np.allclose(p.detach().numpy(), a, atol=1e-5) for p, a in zip(learned, x, strict=True))


def test_adam_is_torchs_bit_for_bit() -> None:
    """With rates that change, weights that decay, a state read back, and a gradient that is missing once."""
    ours, theirs = parameters(), parameters()
    one = fused_adam(ours, 0.1, weight_decay=0.01)
    two = torch.optim.Adam(theirs, 0.1, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(3)
    for k in range(12):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        if k == 5:
            one.load_state_dict(copy.deepcopy(one.state_dict()))
        if k == 7:
            ours[1].grad = theirs[1].grad = None
        for optimiser in (one, two):
            optimiser.param_groups[0]["lr"] = 0.1 / (k + 1)
            optimiser.step()
        assert all(map(torch.equal, ours, theirs))
    states = [optimiser.state_dict()["state"] for optimiser in (one, two)]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])


def half_of_the_least() -> list[float]:
    """Half of the least normal number, by Python, by numpy and by torch."""
    tiny, small = sys.float_info.min, torch.tensor([torch.finfo(torch.float32).tiny])
    return [tiny * 0.5, float(np.float64(tiny) * 0.5), (small * 0.5).item()]


def flushes() -> bool:
    zeros = [number == 0.0 for number in half_of_the_least()]
    assert all(zeros) or not any(zeros)
    return zeros[0]


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
def test_denormals_are_flushed_in_the_block_alone() -> None:
    assert not flushes()
    with flushed_denormals():
        assert flushes()
        with flushed_denormals():
            assert flushes()
        assert flushes()
    assert not flushes()
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert not flushes()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
def test_denormals_stay_flushed_where_they_were() -> None:
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes()
    finally:
        torch.set_flush_denormal(False)
