"""Drawings show every variable and factor once."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

import cai


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def graph(**options: object) -> cai.TrajectoryGraph:
    return cai.TrajectoryGraph(
        cai.factors.Delta(0),
        cai.factors.TabularDynamics(np.full((2, 2, 2), 0.5)),
        cai.factors.TabularReward([0.0, 1.0]),
        **options,
    )


def texts(ax: plt.Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize("horizon, plate", [(5, "t = 0, ..., 4"), (None, "t = 0, 1, 2, ...")])
def test_one_slice(horizon: int | None, plate: str) -> None:
    ax = graph(horizon=horizon, discount=0.9, temperature=0.5).draw()
    ax.figure.canvas.draw()
    for name in ("$s_t$", "$a_t$", "$s_{t+1}$", "$O_t$", "TabularDynamics", "TabularReward", "Delta", plate):
        assert name in texts(ax)
    assert "0.5" in ax.get_title()
    assert "0.9" in ax.get_title()


def test_given_axes_are_used() -> None:
    _, ax = plt.subplots()
    assert graph(horizon=2).draw(ax) is ax
    assert graph(horizon=2).unroll().draw(ax) is ax


def test_unrolled_graph_and_any_other() -> None:
    ax = graph(horizon=2).condition(states={2: 1}).unroll().draw()
    ax.figure.canvas.draw()
    for name in ("s", "a"):
        assert name in texts(ax)
    x, y = cai.Variable("rain", 2), cai.Variable("wet", 2)
    other = cai.FactorGraph((x, y), (cai.Factor(("rain", "wet"), np.zeros((2, 2))),)).draw()
    assert {"rain", "wet"} <= set(texts(other).split("\n"))
    assert cai.FactorGraph().draw() is not None
