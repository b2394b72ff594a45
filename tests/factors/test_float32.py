"""Tables in float32: refused where a possible transition would become impossible, or a reward infinite."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import cai
from tests.factors.worlds import csr, random_world, table_of

F = cai.factors
SINGLE = torch.float32
LEAST = float(torch.finfo(SINGLE).tiny)


@pytest.mark.parametrize("small", [1e-50, 1e-39, 0.99 * LEAST])
@pytest.mark.parametrize("learned", [False, True])
def test_probabilities_that_float32_would_lose(small: float, learned: bool) -> None:
    probs = torch.tensor([[[1 - small, small]], [[0.0, 1.0]]], dtype=torch.float64, requires_grad=learned)
    both = np.array([[[0, 1]], [[0, 1]]])
    routes: list[Callable[..., Any]] = [
        lambda **kind: F.TabularDynamics(probs, **kind),
        lambda **kind: F.TabularDynamics(probs.flatten(0, 1).to_sparse(), **kind),
        lambda **kind: F.TabularDynamics.from_successors(both, probs, **kind),
        lambda **kind: F.TabularDynamics.from_blocks([(both, probs)], num_states=2, num_actions=1, **kind),
        lambda **kind: F.TabularDynamics.per_step([probs], **kind),
    ]
    for make in routes:
        place = r"row \(state 0, action 0\) has a transition of probability " + re.escape(f"{small:.6g}")
        with pytest.raises(ValueError, match=place + r", which torch.float32 would lose"):
            make(dtype=SINGLE)
        assert make().transition_tables()[0].values.dtype == torch.float64


def test_probabilities_that_float32_holds() -> None:
    probs = [[[1.0, LEAST]], [[0.0, 1.0]]]
    table = F.TabularDynamics(probs, dtype=SINGLE).dense()
    assert table[0, 0, 1] == LEAST
    halves = F.TabularDynamics.from_successors([[[0, 0, 0]]], [[[0.5, LEAST / 2, 0.5]]], dtype=SINGLE)
    assert table_of(halves).values.tolist() == [1.0]  # what is added up counts


def test_long_rows_of_float32() -> None:
    """Ten thousand successors each: the rows are summed, and normalised, before they lose their digits."""
    rng, num = np.random.default_rng(0), 10_000
    rows = rng.gamma(0.1, size=(20, num))
    rows = np.where(rows < 1e-30, 0.0, rows)
    matrix = scipy.sparse.csr_matrix(rows / rows.sum(-1, keepdims=True))
    rest = scipy.sparse.csr_matrix((num - 20, num))
    terminal = np.arange(num) >= 20
    table = table_of(
        F.TabularDynamics.from_blocks([matrix, rest], num_states=num, num_actions=1, terminal=terminal, dtype=SINGLE)
    )
    assert table.values.dtype == SINGLE
    np.testing.assert_array_equal(table.values.numpy(), matrix.data.astype(np.float32))


@pytest.mark.parametrize("large", [3.5e38, -1e300])
def test_rewards_beyond_float32(large: float) -> None:
    place = re.escape(f"is {large:.6g}, beyond the range of torch.float32")
    for shape, where in (
        ((3,), "state 2"),
        ((3, 2), "state 2, action 1"),
        ((3, 2, 3), "state 2, action 1, next state 2"),
    ):
        values = np.zeros(shape)
        values.flat[-1] = large
        with pytest.raises(ValueError, match=rf"TabularReward: \({where}\) {place}"):
            F.TabularReward(values, dtype=SINGLE)
        assert F.TabularReward(values).values.dtype == torch.float64
    with pytest.raises(ValueError, match=rf"TabularReward: \(state 1, action 1\) {place}"):
        F.TabularReward(scipy.sparse.coo_matrix(([large], ([3], [0])), shape=(4, 2)), dtype=SINGLE)
    F.TabularReward([3.4e38, -3.4e38, 1e-300], dtype=SINGLE)


def test_half_the_memory() -> None:
    world = random_world(7)
    single = F.TabularDynamics(csr(world), terminal=world.terminal, dtype=SINGLE)
    assert table_of(single).values.dtype == SINGLE
    np.testing.assert_allclose(single.dense(), world.dense, rtol=1e-6)
