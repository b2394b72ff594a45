"""Divergences entry by entry, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch

from cai.ops import DenseTransitions, sparse_from_triplets
from cai.ops.divergence import kl_of_kernels, kl_of_steps, kl_terms
from cai.ops.readings import Kernel, Survival


def rows(*shape: int, seed: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]))


P, Q = rows(3, 2, 3, seed=0), rows(3, 2, 3, seed=1)


def test_terms() -> None:
    first, second = torch.tensor([0.0, 0.0, 0.5, 0.5]), torch.tensor([0.0, 0.3, 0.7, 0.0])
    terms = kl_terms(first.log(), second.log()).tolist()
    assert terms[:2] == [0.0, 0.0]
    assert terms[2] == pytest.approx(0.5 * math.log(0.5 / 0.7))
    assert terms[3] == math.inf


def test_terms_of_probabilities_too_small_for_a_number() -> None:
    first = torch.tensor([0.0, -900.0], dtype=torch.float64)
    assert kl_terms(first, first - 1.0).tolist() == [1.0, 0.0]
    assert kl_terms(first, torch.tensor([-900.0, 0.0], dtype=torch.float64)).tolist() == [900.0, 0.0]


def test_gradient_of_terms_is_finite_at_zero() -> None:
    first = torch.tensor([-math.inf, 0.0], requires_grad=True)
    second = torch.tensor([-math.inf, -1.0], requires_grad=True)
    for gradient in torch.autograd.grad(kl_terms(first, second).sum(), (first, second)):
        assert torch.isfinite(gradient).all()


def test_kernels_with_and_without_survival() -> None:
    first, second = Kernel(DenseTransitions(P)), Kernel(DenseTransitions(Q))
    expected = scipy.special.rel_entr(P.numpy(), Q.numpy()).sum(-1)
    np.testing.assert_allclose(kl_of_kernels(first, second), expected, atol=1e-14)
    chances = [torch.tensor(c, dtype=torch.float64) for c in ([0.9, 0.5, 0.2], [0.8, 0.5, 0.6])]
    dying = [
        Kernel(DenseTransitions(table), survival=Survival(chance.log(), (1 - chance).log()))
        for table, chance in zip((P, Q), chances, strict=True)
    ]
    outcomes = [torch.cat([t * c, t * (1 - c)], -1).numpy() for t, c in zip((P, Q), chances, strict=True)]
    np.testing.assert_allclose(kl_of_kernels(*dying), scipy.special.rel_entr(*outcomes).sum(-1), atol=1e-14)
    assert torch.isinf(kl_of_kernels(dying[0], second)).all()  # one may end, the other never does


def test_sparse_kernels_are_dense_ones() -> None:
    state, action, following = torch.ones(3, 2, 3).nonzero().T
    sparse = [
        sparse_from_triplets(state * 2 + action, following, table.flatten(), num_states=3, num_actions=2)
        for table in (P, Q)
    ]
    full = kl_of_kernels(Kernel(DenseTransitions(P)), Kernel(DenseTransitions(Q)))
    np.testing.assert_allclose(kl_of_kernels(*map(Kernel, sparse)), full, atol=1e-15)


def test_steps_never_visited_do_not_count() -> None:
    impossible = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    even = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    kernel = Kernel(DenseTransitions(torch.ones(1, 2, 1, dtype=torch.float64)))
    visits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(kl_of_steps(visits, (impossible, even), (kernel, kernel))) == pytest.approx(math.log(2))
    assert kl_of_steps(visits.flip(-1), (even, impossible), (kernel, kernel)) == torch.inf
