"""Marginals over time: the right marginal in each panel, in one scale."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import cai
import cai.plots
from cai.plots.time import default_times
from tests.plots import worlds


def panels_of(figure: Figure) -> list:
    return [ax for ax in figure.axes if ax.images and ax.get_title()]


@pytest.mark.parametrize("times", [None, (0, 1, 50, 100), (17,)])
def test_each_panel_holds_its_marginal(times: tuple[int, ...] | None) -> None:
    posterior = worlds.lake()
    panels = panels_of(cai.plots.marginals_over_time(posterior, times=times))
    expected = default_times(100) if times is None else list(times)
    assert [panel.get_title() for panel in panels] == [f"t = {t}" for t in expected]
    for panel, t in zip(panels, expected, strict=True):
        image = panel.images[0].get_array()
        for state, probability in enumerate(posterior.state_marginals[t].tolist()):
            assert image[worlds.cell_of(posterior, state)] == probability


def test_panels_share_their_colours() -> None:
    posterior = worlds.lake()
    figure = cai.plots.marginals_over_time(posterior, times=(5, 100))
    first, second = (panel.images[0].norm for panel in panels_of(figure))
    assert first is second
    assert (first.vmin, first.vmax) == (0, posterior.state_marginals[[5, 100]].max())


@pytest.mark.parametrize(
    ("horizon", "times"),
    [(1, [0, 1]), (2, [0, 1, 2]), (100, [0, 2, 5, 15, 39, 100]), (10_000, [0, 5, 39, 250, 1584, 10_000])],
)
def test_default_times_crowd_at_the_start(horizon: int, times: list[int]) -> None:
    assert default_times(horizon) == times


def test_other_worlds_are_states_by_times() -> None:
    posterior = worlds.inventory()
    (panel,) = panels_of(cai.plots.marginals_over_time(posterior))
    assert np.array_equal(panel.images[0].get_array(), posterior.state_marginals.numpy().T)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("time t", "state")


def test_infinite_horizons_have_one_occupancy() -> None:
    posterior = worlds.rooms(discount=0.9)
    (panel,) = panels_of(cai.plots.marginals_over_time(posterior))
    assert panel.get_title() == "Occupancy"
    assert np.nansum(panel.images[0].get_array()) == pytest.approx(float(posterior.state_marginals.sum()))
    (undiscounted,) = panels_of(cai.plots.marginals_over_time(worlds.rooms()))
    assert undiscounted.get_title() == "Long-run distribution"


def test_occupancies_of_other_worlds_are_bars() -> None:
    graph = cai.load_model("inventory", horizon=None, discount=0.9)
    posterior = cai.infer(graph, cai.SoftPolicyIteration())
    (ax,) = cai.plots.marginals_over_time(posterior).axes
    assert [bar.get_height() for bar in ax.patches] == posterior.state_marginals.tolist()
    assert "occupancy" in ax.get_ylabel()


def test_one_panel_goes_into_given_axes() -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert cai.plots.marginals_over_time(worlds.lake(), times=[3], ax=ax) is figure
    assert ax.get_title() == "t = 3"
    other = Figure().add_subplot()
    cai.plots.marginals_over_time(worlds.inventory(), ax=other)
    assert other.get_title() == "State marginals"


@pytest.mark.parametrize(
    ("posterior", "options", "message"),
    [
        (worlds.lake, {"times": [101]}, r"0\.\.100, got \[101\]"),
        (worlds.lake, {"times": [-1, 5]}, r"got \[-1\]"),
        (worlds.lake, {"times": []}, "got none"),
        (worlds.lake, {"ax": Figure().add_subplot()}, "6 panels do not fit"),
        (worlds.rooms, {"times": [0]}, "no times"),
        (worlds.inventory, {"times": [0]}, "only grids"),
    ],
)
def test_bad_times_are_refused(posterior: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.plots.marginals_over_time(posterior(), **options)  # type: ignore[operator]
