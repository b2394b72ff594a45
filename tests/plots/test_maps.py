"""The numbers in the pictures are the posterior's numbers."""

from __future__ import annotations

import gymnasium
import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection, PolyCollection
from matplotlib.figure import Figure

import cai
import cai.plots
from tests.plots import worlds


def arrows_of(ax: Axes) -> PolyCollection:
    (arrows,) = (artist for artist in ax.collections if isinstance(artist, PolyCollection))
    return arrows


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


@pytest.mark.parametrize("t", [0, 60, 100])
def test_value_image_holds_v(t: int) -> None:
    posterior = worlds.lake()
    (image,) = cai.plots.value_map(posterior, t=t).images
    values = posterior.v(worlds.states_of(posterior), t=t).numpy()
    for state, value in enumerate(values):
        assert image.get_array()[worlds.cell_of(posterior, state)] == value
    assert image.get_array().shape == (4, 4)
    assert image.get_clim() == (values.min(), max(values.max(), values.min() + float(values.min() == values.max())))


def test_walls_are_masked_and_goals_framed() -> None:
    posterior = worlds.rooms()
    ax = cai.plots.value_map(posterior)
    (image,) = ax.images
    occupied = {worlds.cell_of(posterior, int(state)) for state in worlds.states_of(posterior)}
    masked = np.ma.getmaskarray(image.get_array())
    assert {(int(row), int(column)) for row, column in np.argwhere(~masked)} == occupied
    assert masked.any()
    (frames,) = (artist for artist in ax.collections if isinstance(artist, PatchCollection))
    assert len(frames.get_paths()) == int(posterior.graph.dynamics.terminal_mask.sum()) == 1
    grey = image.to_rgba(image.get_array())[masked]
    assert np.allclose(grey[:, :3], grey[0, 0])


def test_values_of_minus_infinity_are_masked() -> None:
    graph = cai.load_model("frozen_lake", horizon=6).condition(states={6: 15})
    posterior = cai.infer(graph, cai.SumProduct())
    ax = cai.plots.value_map(posterior)
    values = posterior.v(worlds.states_of(posterior)).numpy()
    masked = np.ma.getmaskarray(ax.images[0].get_array()).ravel()
    assert np.array_equal(masked, np.isneginf(values))
    assert masked.any() and not masked.all()
    assert sum(text.get_text() == "-inf" for text in ax.texts) == masked.sum()


def test_labels_and_numbers_stand_in_their_cells() -> None:
    posterior = worlds.lake()
    ax = cai.plots.value_map(posterior)
    labels = [text for text in ax.texts if text.get_text().isalpha()]
    numbers = [text for text in ax.texts if not text.get_text().isalpha()]
    assert [text.get_text() for text in labels] == list("SFFFFHFHFFFHHFFG")
    values = posterior.v(worlds.states_of(posterior)).numpy()
    for state, (label, number) in enumerate(zip(labels, numbers, strict=True)):
        row, column = worlds.cell_of(posterior, state)
        for text in (label, number):
            x, y = text.get_position()
            assert (round(x), round(y)) == (column, row)
        assert float(number.get_text()) == pytest.approx(values[state], abs=5e-4)


def test_large_maps_have_no_numbers() -> None:
    ax = cai.plots.value_map(worlds.rooms(size=50))
    assert not any(text.get_text()[-1].isdigit() for text in ax.texts)
    assert {text.get_text() for text in ax.texts} == {"S", "G"}


def test_values_of_other_worlds_are_bars() -> None:
    posterior = worlds.inventory()
    ax = cai.plots.value_map(posterior, t=1)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == posterior.v(worlds.states_of(posterior), t=1).tolist()
    assert "reward" in ax.get_ylabel()
    low, high = ax.get_ylim()
    assert low <= min(heights) and high >= max(heights)


def test_values_of_many_states_are_one_line() -> None:
    posterior = cai.infer(cai.from_gym("Taxi-v4", horizon=20), cai.SoftValueIteration())
    ax = cai.plots.value_map(posterior)
    (steps,) = ax.patches
    assert np.array_equal(steps.get_data().values, posterior.v(worlds.states_of(posterior)).numpy())


def test_arrow_areas_and_colours_are_probabilities() -> None:
    probs = [0.4, 0.3, 0.195, 0.1, 0.005]
    arrows = arrows_of(cai.plots.policy_map(worlds.compass(probs)))
    assert np.allclose(np.sort(arrows.get_array()), [0.1, 0.195, 0.3, 0.4])
    areas = np.array([area(path.vertices) for path in arrows.get_paths()])
    assert np.allclose(areas / areas.sum(), arrows.get_array() / arrows.get_array().sum())


@pytest.mark.parametrize(("action", "tip"), [(0, (1, 0.54)), (1, (1.46, 1)), (2, (1, 1.46)), (3, (0.54, 1))])
def test_arrows_point_where_the_action_goes(action: int, tip: tuple[float, float]) -> None:
    (path,) = arrows_of(cai.plots.policy_map(worlds.compass(np.eye(5)[action].tolist()))).get_paths()
    farthest = path.vertices[np.argmax(np.linalg.norm(path.vertices - 1.0, axis=1))]
    assert np.allclose(farthest, tip)


def test_staying_is_a_disc_about_the_centre() -> None:
    (path,) = arrows_of(cai.plots.policy_map(worlds.compass([0, 0, 0, 0, 1.0]))).get_paths()
    radii = np.linalg.norm(path.vertices - 1.0, axis=1)
    assert np.allclose(radii, radii[0])
    assert radii[0] > 0.1


def test_every_likely_action_of_every_live_state_has_its_arrow() -> None:
    posterior = worlds.lake()
    arrows = arrows_of(cai.plots.policy_map(posterior, t=3))
    policy = posterior.policy(worlds.states_of(posterior), t=3).probs.numpy()
    live = ~posterior.graph.dynamics.terminal_mask.numpy()
    expected = policy[live].ravel()
    expected = np.sort(expected[expected >= 0.01])
    assert np.array_equal(np.asarray(arrows.get_array()), expected)
    assert arrows.norm.vmin == 0 and arrows.norm.vmax == 1


def test_policy_of_other_worlds_is_a_heat_map() -> None:
    posterior = worlds.inventory()
    ax = cai.plots.policy_map(posterior)
    (image,) = ax.images
    assert np.array_equal(image.get_array(), posterior.policy(worlds.states_of(posterior)).probs.numpy().T)
    assert image.get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("state", "action")


@pytest.mark.parametrize("draw", [cai.plots.value_map, cai.plots.policy_map])
def test_given_axes_are_drawn_into(draw: object) -> None:
    ax = Figure().add_subplot()
    assert draw(worlds.lake(), ax=ax) is ax  # type: ignore[operator]
    assert ax.images


def test_time_is_in_the_title_only_where_it_matters() -> None:
    assert cai.plots.value_map(worlds.lake(), t=7).get_title() == "Value, t = 7"
    assert cai.plots.policy_map(worlds.rooms(), t=7).get_title() == "Policy"


def test_colour_bars_bear_units() -> None:
    value, policy = cai.plots.value_map(worlds.lake()), cai.plots.policy_map(worlds.lake())
    assert "reward\u00a0units" in value.figure.axes[1].get_ylabel()
    assert "probability" in policy.figure.axes[1].get_ylabel()


def test_times_beyond_the_horizon_are_refused() -> None:
    with pytest.raises(ValueError):
        cai.plots.value_map(worlds.lake(), t=101)
    with pytest.raises(ValueError):
        cai.plots.policy_map(worlds.lake(), t=100)


class Sampled(cai.Posterior):
    """A posterior of a world without tables."""

    def policy(self, state: object, t: object = 0) -> object:
        return cai.UniformPolicy().bind(self.graph)(state)

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> cai.Trajectories:
        return cai.rollout(self.graph, self.policy, num, seed=seed, length=length)


@pytest.mark.parametrize("draw", [cai.plots.value_map, cai.plots.policy_map, cai.plots.marginals_over_time])
def test_worlds_without_tables_have_no_maps(draw: object) -> None:
    with gymnasium.make("CartPole-v1") as env:
        posterior = Sampled(cai.from_gym(env), method=None, stats=cai.Stats())
        with pytest.raises(cai.Unavailable, match="finite worlds"):
            draw(posterior)  # type: ignore[operator]


def test_colour_maps_stay_as_they_are_in_the_register() -> None:
    before = matplotlib.colormaps["viridis"](np.ma.masked_all(1)).tolist()
    cai.plots.value_map(worlds.rooms())
    assert matplotlib.colormaps["viridis"](np.ma.masked_all(1)).tolist() == before
