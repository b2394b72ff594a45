"""Drawing indices: what has no weight is never drawn, the rest as often as its weight says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cai.ops import sample_index


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_index_of_weight_zero_is_never_drawn(dtype: torch.dtype, scale: float) -> None:
    weights = scale * torch.tensor([0.0, 0.1, 0.0, 0.6, 0.0, 0.3, 0.0], dtype=dtype)
    drawn = sample_index(weights.expand(200_000, -1), generator())
    assert set(drawn.tolist()) == {1, 3, 5}


def test_the_greatest_uniform_number_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that rounds up to the total must not fall off the end, or on a last weight of zero."""
    weights = torch.tensor([[0.3, 0.7, 0.0], [1e-3, 1e8, 0.0]])
    for uniform, expected in ((torch.ones(2, 1), 1), (torch.zeros(2, 1), 0)):
        monkeypatch.setattr(torch, "rand", lambda *_, uniform=uniform, **__: uniform)
        assert (sample_index(weights) == expected).all()


def test_only_one_possible_index() -> None:
    weights = torch.zeros(5, dtype=torch.float64)
    weights[3] = 1e-300
    assert (sample_index(weights.expand(1000, -1), generator()) == 3).all()


def test_frequencies() -> None:
    num, probs = 100_000, torch.tensor([0.02, 0.5, 0.0, 0.18, 0.3], dtype=torch.float64)
    counts = np.bincount(sample_index(7 * probs.expand(num, -1), generator()), minlength=5)
    errors = (num * probs * (1 - probs)).sqrt()
    assert ((torch.as_tensor(counts) - num * probs).abs() <= 5 * errors).all()


def test_every_row_has_its_own_weights() -> None:
    weights = torch.eye(4).expand(2, 4, 4)
    assert torch.equal(sample_index(weights, generator()), torch.arange(4).expand(2, 4))


def test_the_generator_decides() -> None:
    weights = torch.ones(100, 10)
    assert torch.equal(sample_index(weights, generator(3)), sample_index(weights, generator(3)))
    assert not torch.equal(sample_index(weights, generator(3)), sample_index(weights, generator(4)))
