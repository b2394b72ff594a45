"""Memory is stated before a run, and what will not fit is refused with the figure."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import cai
from cai.graph.tabulate import tabulate
from cai.ops.memory import GIB, message_bytes

S, A, K, T = 60, 3, 2, 50


def graph(horizon: int | None = T, dtype: torch.dtype = torch.float64, **options: object) -> cai.TrajectoryGraph:
    rng = np.random.default_rng(0)
    return cai.TrajectoryGraph(
        cai.factors.Delta(0),
        cai.factors.TabularDynamics.from_successors(
            (np.arange(S)[:, None, None] + rng.integers(1, 9, (S, A, 1)) + [0, 9]) % S,
            np.full((S, A, K), 0.5),
            dtype=dtype,
        ),
        cai.factors.TabularReward(-rng.random((S, A)), dtype=dtype),
        horizon=horizon,
        discount=1.0 if horizon else 0.9,
        **options,
    )


METHODS = [
    cai.SumProduct(), cai.MaxProduct(), cai.SoftValueIteration(), cai.SoftPolicyIteration(),
    cai.PolicyEvaluation(cai.UniformPolicy()),
]  # fmt: skip
names = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def free(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setattr("cai.ops.memory.available_bytes", lambda device="cpu": num_bytes)


@names
def test_both_sides_of_the_boundary(monkeypatch: pytest.MonkeyPatch, method: cai.AbstractMethod) -> None:
    needed = message_bytes(tabulate(graph()))
    free(monkeypatch, needed)
    assert cai.infer(graph(), method).stats.converged
    free(monkeypatch, needed - 1)
    with pytest.raises(cai.IncompatibleMethod) as refusal:
        cai.infer(graph(), method)
    message = str(refusal.value)
    assert message.startswith(f"{type(method).__name__}: messages of {S} states and {A} actions over {T} steps would")
    assert f"need {needed / GIB:.3g} GiB, of which {(needed - 1) / GIB:.3g} may be used; a shorter horizon" in message
    assert "dtype=torch.float32" in message


def test_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of 5 TB: made, they would have been noticed."""
    free(monkeypatch, 16 * GIB)
    with pytest.raises(
        cai.IncompatibleMethod, match=r"over 3000000000 steps would need 5.36e\+03 GiB, of which 16 may"
    ):
        cai.infer(graph(horizon=3_000_000_000), cai.SoftValueIteration())


def test_an_infinite_horizon_needs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = message_bytes(tabulate(graph(horizon=None)))
    assert needed < message_bytes(tabulate(graph()))
    free(monkeypatch, needed - 1)
    with pytest.raises(cai.IncompatibleMethod, match=f"{A} actions would need .*; fewer states, or dtype"):
        cai.infer(graph(horizon=None), cai.SoftValueIteration())


def test_what_the_estimate_counts() -> None:
    """At least the messages and at most some arrays more; half of it in float32, twice where gradients are recorded."""
    for horizon in (1, 50, 700):
        needed, messages = message_bytes(tabulate(graph(horizon))), 8 * (horizon * S * A + (horizon + 1) * S)
        assert messages < needed < messages + 8 * 10 * S * A * K
    tables = tabulate(graph())
    assert 2 * message_bytes(tabulate(graph(dtype=torch.float32))) == message_bytes(tables)
    learned = graph().replace(reward=cai.factors.TabularReward(torch.zeros(S, A, requires_grad=True)))
    messages = 8 * (T * S * A + (T + 1) * S)
    assert message_bytes(tabulate(learned)) == message_bytes(tables) + messages
    with torch.no_grad():
        assert message_bytes(tabulate(learned)) == message_bytes(tables)


def test_a_dense_table_is_not_copied() -> None:
    dense = graph().replace(dynamics=cai.factors.TabularDynamics(graph().dynamics.dense()))
    assert message_bytes(tabulate(dense)) < message_bytes(tabulate(graph()))


@pytest.mark.parametrize("method", [cai.SumProduct, cai.MaxProduct])
def test_the_users_own_limit(monkeypatch: pytest.MonkeyPatch, method: type) -> None:
    needed = message_bytes(tabulate(graph())) / GIB
    with pytest.raises(cai.IncompatibleMethod, match=r"may be used \(max_memory=\)"):
        cai.infer(graph(), method(max_memory=0.99 * needed))
    free(monkeypatch, 0.0)  # the limit given counts, whatever is free
    assert cai.infer(graph(), method(max_memory=1.01 * needed)).stats.converged


def test_what_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 3 * GIB)
    with caplog.at_level(logging.INFO, logger="cai"):
        cai.infer(graph(), cai.SoftValueIteration())
    (record,) = (record for record in caplog.records if record.name == "cai.ops.memory")
    needed = message_bytes(tabulate(graph())) / GIB
    assert record.getMessage() == (
        f"SoftValueIteration: {S} states, {A} actions, {S * A * K} entries: "
        f"messages need {needed:.3g} GiB, 3 GiB are free"
    )
