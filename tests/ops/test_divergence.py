"""Divergences entry by entry, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch

from cai.ops import DenseTransitions, sparse_from_triplets
from cai.ops.divergence import kl_of_kernels, kl_of_steps, kl_of_weights
from cai.ops.readings import Kernel


def rows(*shape: int, seed: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]))


def test_weights() -> None:
    first, second = torch.tensor([0.0, 0.0, 0.5, 0.5]), torch.tensor([0.0, 0.3, 0.7, 0.0])
    assert kl_of_weights(first, second).tolist()[:2] == [0.0, 0.0]
    assert float(kl_of_weights(first, second)[2]) == pytest.approx(0.5 * math.log(0.5 / 0.7))
    assert kl_of_weights(first, second)[3] == torch.inf


def test_gradient_of_weights_is_finite_at_zero() -> None:
    first = torch.tensor([0.0, 1.0], requires_grad=True)
    second = torch.tensor([0.5, 0.5], requires_grad=True)
    for gradient in torch.autograd.grad(kl_of_weights(first, second).sum(), (first, second)):
        assert torch.isfinite(gradient).all()


def test_kernels_with_and_without_survival() -> None:
    p, q = rows(3, 2, 3, seed=0), rows(3, 2, 3, seed=1)
    expected = scipy.special.rel_entr(p.numpy(), q.numpy()).sum(-1)
    first, second = Kernel(DenseTransitions(p)), Kernel(DenseTransitions(q))
    np.testing.assert_allclose(kl_of_kernels(first, second), expected, atol=1e-14)
    lives = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64), torch.tensor([0.8, 0.5, 0.6], dtype=torch.float64)
    dying = [Kernel(DenseTransitions(table), survival=chance) for table, chance in zip((p, q), lives, strict=True)]
    outcomes = [np.concatenate([t * c, t * (1 - c)], -1) for t, c in zip((p, q), lives, strict=True)]
    np.testing.assert_allclose(kl_of_kernels(*dying), scipy.special.rel_entr(*outcomes).sum(-1), atol=1e-14)
    assert torch.isinf(kl_of_kernels(dying[0], second)).all()  # one may end, the other never does


def test_sparse_kernels_are_dense_ones() -> None:
    p, q = rows(3, 2, 3, seed=0), rows(3, 2, 3, seed=1)
    state, action, following = torch.ones(3, 2, 3).nonzero().T
    sparse = [
        sparse_from_triplets(state * 2 + action, following, table.flatten(), num_states=3, num_actions=2)
        for table in (p, q)
    ]
    full = kl_of_kernels(Kernel(DenseTransitions(p)), Kernel(DenseTransitions(q)))
    np.testing.assert_allclose(kl_of_kernels(*map(Kernel, sparse)), full, atol=1e-15)


def test_steps_never_visited_do_not_count() -> None:
    impossible = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    even = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    kernel = Kernel(DenseTransitions(torch.ones(1, 2, 1, dtype=torch.float64)))
    visits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(kl_of_steps(visits, (impossible, even), (kernel, kernel))) == pytest.approx(math.log(2))
    assert kl_of_steps(visits.flip(-1), (even, impossible), (kernel, kernel)) == torch.inf
