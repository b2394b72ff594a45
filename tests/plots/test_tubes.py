"""Tubes and planes: the lines are the means, the shades and ellipses the covariances."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import cai
import cai.plots
from tests.laws.build import numpy_of
from tests.plots import worlds

METHODS = {"SoftValueIteration": cai.SoftValueIteration, "SumProduct": cai.SumProduct}


@functools.cache
def mass(method: str = "SoftValueIteration", horizon: int | None = 20, dimensions: int = 2) -> cai.Posterior:
    """A noisy mass in a plane: four state and two action coordinates; its noise is singular, its start known."""
    graph = cai.load_model("double_integrator", dimensions=dimensions, noise=0.5, error=1.0, horizon=horizon)
    return cai.infer(graph, METHODS[method]())


def mean_of(ax: Axes, label: str) -> np.ndarray:
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(line.get_ydata())


def shades_of(ax: Axes) -> list[np.ndarray]:
    """Low and high of each shade by time, the widest first: `[2, T + 1]`."""
    found = []
    for shade in ax.collections:
        assert isinstance(shade, FillBetweenPolyCollection)
        corners = shade.get_paths()[0].vertices
        times = np.unique(corners[:, 0])
        at = [corners[corners[:, 0] == t, 1] for t in times]
        found.append(np.array([[y.min() for y in at], [y.max() for y in at]]))
    return found


def distances(ellipse: Ellipse, covariance: np.ndarray) -> np.ndarray:
    """Squared deviations of points of the rim (every third vertex of its Bezier curves) from the centre."""
    rim = ellipse.get_patch_transform().transform(ellipse.get_path().vertices[:-1:3])
    away = rim - np.asarray(ellipse.get_center())
    return np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away)


def test_lines_are_means_and_shades_one_and_two_deviations() -> None:
    posterior = mass()
    figure = cai.plots.tubes(posterior)
    marginals = posterior.state_marginals
    mean, deviation = numpy_of(marginals.mean), numpy_of(marginals.stddev)
    assert len(figure.axes) == 6
    for k, ax in enumerate(figure.axes[:4]):
        assert np.array_equal(mean_of(ax, "SoftValueIteration"), mean[:, k])
        for shade, width in zip(shades_of(ax), (2, 1), strict=True):
            np.testing.assert_allclose(
                shade, [mean[:, k] - width * deviation[:, k], mean[:, k] + width * deviation[:, k]]
            )
        assert ax.get_ylabel() == f"state {k}"
    assert figure.axes[5].get_xlabel() == "time t"


def test_actions_hold_until_the_next_time() -> None:
    posterior = mass()
    ax = cai.plots.tubes(posterior).axes[4]
    mean = numpy_of(posterior.state_action_marginals.mean)[:, 4]
    (line,) = (line for line in ax.lines if line.get_label() == "SoftValueIteration")
    assert np.array_equal(line.get_xdata(), np.arange(21))
    assert np.array_equal(line.get_ydata(), [*mean, mean[-1]])
    assert line.get_drawstyle() == "steps-post"
    assert ax.get_ylabel() == "action 0"


def test_two_posteriors_share_their_panels() -> None:
    pair = mass(), mass("SumProduct")
    figure = cai.plots.tubes(*pair, labels=["fixed dynamics", "posterior"])
    for posterior, label in zip(pair, ("fixed dynamics", "posterior"), strict=True):
        assert np.array_equal(mean_of(figure.axes[0], label), numpy_of(posterior.state_marginals.mean)[:, 0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fixed dynamics", "posterior"]
    lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert lines[0].get_color() != lines[1].get_color()


def test_names_stand_at_the_axes() -> None:
    names = ["x [m]", "v [m/s]", "a [m/s²]"]
    figure = cai.plots.tubes(mass(dimensions=1), names=names)
    assert [ax.get_ylabel() for ax in figure.axes] == names


def test_what_never_varies_is_a_line() -> None:
    first = shades_of(cai.plots.tubes(mass()).axes[0])[0]
    assert first[0, 0] == first[1, 0] == -1


def test_states_alone_are_drawn_where_there_are_no_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: cai.Posterior) -> None:
        raise cai.Unavailable("none")

    monkeypatch.setattr(type(mass()), "state_action_marginals", property(missing))
    assert len(cai.plots.tubes(mass()).axes) == 4


def test_ellipses_are_covariances() -> None:
    posterior = mass()
    ax = cai.plots.plane(posterior, times=[3, 20])
    path = numpy_of(posterior.state_marginals.mean)[:, :2]
    assert np.array_equal(np.stack(ax.lines[0].get_data(), 1), path)
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(ellipses) == 2
    for ellipse, t in zip(ellipses, (3, 20), strict=True):
        covariance = numpy_of(posterior.state_marginals[t].covariance_matrix)[:2, :2]
        np.testing.assert_allclose(distances(ellipse, covariance), 4.0)
        assert np.allclose(ellipse.get_center(), path[t])


def test_ellipses_turn_with_the_correlation() -> None:
    graph = cai.load_model("double_integrator", noise=2.0, error=1.0, horizon=20)
    posterior = cai.infer(graph, cai.SoftValueIteration())
    (ellipse,) = cai.plots.plane(posterior, times=[5]).patches
    covariance = numpy_of(posterior.state_marginals[5].covariance_matrix)
    np.testing.assert_allclose(distances(ellipse, covariance), 4.0)
    assert abs(covariance[0, 1]) > 0.1 * np.sqrt(covariance[0, 0] * covariance[1, 1])


def test_planes_draw_where_they_are_told() -> None:
    ax = Figure().add_subplot()
    pair = mass(), mass("SumProduct")
    assert cai.plots.plane(*pair, coordinates=(0, 2), names=("x [m]", "v [m/s]"), ax=ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [m]", "v [m/s]")
    assert np.array_equal(ax.lines[0].get_ydata(), numpy_of(pair[0].state_marginals.mean)[:, 2])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SoftValueIteration", "SumProduct"]
    assert cai.plots.plane(pair[0]).get_legend() is None


@pytest.mark.parametrize("draw", [cai.plots.tubes, cai.plots.plane])
def test_what_has_no_tubes_says_so(draw: object) -> None:
    with pytest.raises(cai.Unavailable, match="marginals_over_time"):
        draw(worlds.inventory())  # type: ignore[operator]
    with pytest.raises(cai.Unavailable, match="infinite horizon"):
        draw(mass(horizon=None))  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least one"):
        draw()  # type: ignore[operator]
    with pytest.raises(ValueError, match="horizon are"):
        draw(mass(), mass(horizon=10))  # type: ignore[operator]
    with pytest.raises(ValueError, match="sizes are"):
        draw(mass(), mass(dimensions=1))  # type: ignore[operator]
    with pytest.raises(ValueError, match="1 labels for 2"):
        draw(mass(), mass("SumProduct"), labels=["one"])  # type: ignore[operator]
    with pytest.raises(ValueError, match="at most 4"):
        draw(*[mass()] * 5)  # type: ignore[operator]


def test_batches_are_refused() -> None:
    graph = cai.load_model("double_integrator", start=np.zeros((3, 2)))
    posterior = cai.infer(graph, cai.SoftValueIteration())
    with pytest.raises(ValueError, match=r"batch of graphs \[3\]"):
        cai.plots.tubes(posterior)


@pytest.mark.parametrize("draw", [cai.plots.tubes, cai.plots.plane])
def test_batches_on_an_infinite_horizon_are_not_taken_for_time(draw: Any) -> None:
    dynamics = cai.factors.LinearGaussianDynamics(0.1 * np.eye(2) * np.ones((4, 1, 1)), np.ones((2, 1)), np.eye(2))
    graph = cai.load_model("double_integrator", horizon=None).replace(dynamics=dynamics)
    with pytest.raises(cai.Unavailable, match="infinite horizon"):
        draw(cai.infer(graph, cai.SoftValueIteration()))


@pytest.mark.parametrize("draw", [cai.plots.tubes, cai.plots.plane])
def test_what_is_no_posterior_is_refused(draw: Any) -> None:
    for other in ([mass()], None, 3):
        with pytest.raises(ValueError, match="draws posteriors, one after the other"):
            draw(other)


def test_times_are_whole_numbers_of_any_type() -> None:
    for times in ([1.0], np.array([1]), torch.tensor([1]), (1,), 1):
        assert len(cai.plots.plane(mass(), times=times).patches) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinates": 3}, r"two of 0\.\.3"),
        ({"coordinates": (0, 1, 2)}, r"two of 0\.\.3"),
        ({"coordinates": (0, 0.5)}, "whole numbers, got 0.5"),
        ({"coordinates": "ab"}, "coordinates must be whole numbers"),
        ({"times": [1.5]}, "whole numbers, got 1.5"),
        ({"times": ["a"]}, "times must be whole numbers"),
        ({"names": ("x",)}, "names must be two"),
        ({"names": ("x", "y", "z")}, "names must be two"),
        ({"names": "xy"}, "names must be two"),
        ({"coordinates": (0, 4)}, r"two of 0\.\.3"),
        ({"coordinates": (0,)}, r"two of 0\.\.3"),
        ({"times": [21]}, r"0\.\.20"),
        ({"times": [-1]}, r"0\.\.20"),
    ],
)
def test_bad_planes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.plots.plane(mass(), **options)


def test_wrong_numbers_of_names_are_refused() -> None:
    with pytest.raises(ValueError, match="3 names for 4 state and 2 action"):
        cai.plots.tubes(mass(), names=["a", "b", "c"])


@pytest.mark.parametrize("draw", [cai.plots.value_map, cai.plots.policy_map, cai.plots.marginals_over_time])
def test_maps_of_vectors_point_to_tubes(draw: object) -> None:
    with pytest.raises(cai.Unavailable, match="tubes"):
        draw(mass())  # type: ignore[operator]


def test_gradients_do_not_disturb() -> None:
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    graph = cai.load_model("double_integrator").replace(initial=cai.factors.Delta(mean))
    assert len(cai.plots.tubes(cai.infer(graph, cai.SoftValueIteration())).axes) == 3
