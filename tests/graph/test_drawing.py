"""Drawings show every variable and factor once, nothing on top of anything else, and time from left to right."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.text import Text

import cai
from cai import Factor, FactorGraph, Variable


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


# -- graphs to draw ---------------------------------------------------------------------------------------------------


def tied(scope: tuple[str, ...], name: str = "factor") -> Factor:
    return Factor(scope, np.zeros([2] * len(scope)), name)


def binary(names: list[str], factors: list[Factor], evidence: dict[str, int] | None = None) -> FactorGraph:
    return FactorGraph(tuple(Variable(name, 2) for name in names), tuple(factors), evidence or {})


def grid() -> FactorGraph:
    """The Ising model of 4 x 5, a field on each variable."""
    cells = list(itertools.product(range(4), range(5)))
    name = {cell: f"x{5 * cell[0] + cell[1]}" for cell in cells}
    sides = [(c, (c[0] + i, c[1] + j)) for c in cells for i, j in ((0, 1), (1, 0)) if (c[0] + i, c[1] + j) in name]
    fields = [tied((name[cell],), "factor 3") for cell in cells]
    return binary(list(name.values()), fields + [tied((name[a], name[b])) for a, b in sides], {"x3": 1})


def tree() -> FactorGraph:
    random = np.random.default_rng(0)
    edges = [tied((f"x{random.integers(child)}", f"x{child}"), f"edge {child}") for child in range(1, 20)]
    return binary([f"x{index}" for index in range(20)], edges, {"x3": 1, "x17": 0})


def sprinkler() -> FactorGraph:
    scopes = [("cloudy",), ("cloudy", "sprinkler"), ("cloudy", "rain"), ("sprinkler", "rain", "wet grass")]
    names = ["p(c)", "p(s | c)", "p(r | c)", "p(wet grass | sprinkler, rain)"]
    factors = [tied(scope, name) for scope, name in zip(scopes, names, strict=True)]
    return binary(["cloudy", "sprinkler", "rain", "wet grass"], factors, {"wet grass": 1})


def parts() -> FactorGraph:
    more = [tied(("left", "right"), "between"), tied(("right",), "beside"), Factor((), 0.5, "constant")]
    other = sprinkler()
    return binary([v.name for v in other.variables] + ["left", "right", "alone"], [*other.factors, *more])


def chain(horizon: int = 6) -> FactorGraph:
    """An unrolled trajectory with two rows of flags, a waypoint, a tie across time and a variable without a time."""
    unrolled = graph(horizon=horizon).condition(states={3: 1}).unroll()
    flags = [f"{row}{t}" for row in ("key", "door") for t in range(horizon + 1)]
    factors = [tied(("s0", "key0"), "key 0"), tied(("s0", "door0"), "door 0"), tied(("s1", "s5"), "far apart")]
    for row, t in itertools.product(("key", "door"), range(1, horizon + 1)):
        factors.append(tied((f"{row}{t - 1}", f"s{t}", f"{row}{t}"), f"{row} {t}"))
    factors += [tied(("s2",), "soft waypoint"), tied(("weather", "s4"), "storm")]
    variables = (*unrolled.variables, *(Variable(name, 2) for name in [*flags, "weather"]))
    return FactorGraph(variables, (*unrolled.factors, *factors), {**unrolled.evidence, f"key{horizon}": 1})


def two_agents() -> FactorGraph:
    one = graph(horizon=3).unroll()
    variables = [Variable(who + v.name, v.cardinality) for who in ("red_", "blue_") for v in one.variables]
    factors = [
        Factor(tuple(who + name for name in f.variables), f.log_table, who + f.name)
        for who in ("red_", "blue_")
        for f in one.factors
    ]
    factors += [tied((f"red_s{t}", f"blue_s{t}"), f"apart {t}") for t in range(4)]
    return FactorGraph(tuple(variables), tuple(factors))


def crowded(seed: int) -> FactorGraph:
    """Scopes of up to four at random, many factors on one variable, names of all lengths."""
    random = np.random.default_rng(seed)
    names = [f"v{index}" + "_name" * int(random.integers(5)) for index in range(8)]
    scopes = [tuple(names[i] for i in random.permutation(8)[: random.integers(1, 5)]) for _ in range(12)]
    factors = [tied(scope, f"potential {index}") for index, scope in enumerate([*scopes, *[(names[0],)] * 9])]
    return binary(names, factors, {names[1]: 1})


GRAPHS = {
    "grid": grid(),
    "tree": tree(),
    "sprinkler": sprinkler(),
    "parts": parts(),
    "chain": chain(),
    "two agents": two_agents(),
    "crowded": crowded(0),
    "crowded again": crowded(1),
}
every_graph = pytest.mark.parametrize("name", GRAPHS)


@functools.cache
def picture(name: str) -> plt.Axes:
    return GRAPHS[name].draw()


# -- what is on the page ----------------------------------------------------------------------------------------------


def nodes(ax: plt.Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centre and half axes of every ellipse, then of every square."""
    ellipses = [(p.center, (p.width / 2, p.height / 2)) for p in ax.patches if isinstance(p, Ellipse)]
    squares = [(p.get_center(), (p.get_width() / 2,) * 2) for p in ax.patches if isinstance(p, Rectangle)]
    return [(np.array(centre), np.array(half)) for centre, half in ellipses + squares]


def text_at(ax: plt.Axes) -> dict[str, np.ndarray]:
    return {text.get_text(): np.array(text.get_position()) for text in ax.texts}


def shown(ax: plt.Axes) -> dict[str, Text]:
    ax.figure.draw_without_rendering()
    return {text.get_text(): text for text in ax.texts}


def pixels(artist: Text | Ellipse | Rectangle) -> np.ndarray:
    """Left, bottom, right, top."""
    return np.array(artist.get_window_extent().extents)


def touch(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]) > 1.0).all())


def label(drawn: FactorGraph, name: str) -> str:
    return name if name not in drawn.evidence else f"{name} = {drawn.evidence[name]}"


@every_graph
def test_nodes_keep_their_distance(name: str) -> None:
    """The nearest pair of circles is 2.5 radii apart; ellipses and squares in units of their half axes."""
    placed = nodes(picture(name))
    assert len(placed) == len(GRAPHS[name].variables) + len(GRAPHS[name].factors)
    for (at, half), (there, other) in itertools.combinations(placed, 2):
        apart = np.linalg.norm((at - there) / (half + other))
        assert apart > 1.25 - 1e-6, (at, there)


@every_graph
def test_every_label_is_there_once(name: str) -> None:
    drawn = GRAPHS[name]
    expected = [label(drawn, variable.name) for variable in drawn.variables]
    expected += [factor.name for factor in drawn.factors if not factor.name.startswith("factor")]
    written = [text.get_text().replace("\n", " ") for text in picture(name).texts]
    assert sorted(written) == sorted(expected)


@every_graph
def test_text_fits(name: str) -> None:
    """Rendered: names of variables inside their ellipses, names of factors on no node and on no other text."""
    drawn, ax = GRAPHS[name], picture(name)
    written = shown(ax)
    variables = [written.pop(label(drawn, variable.name)) for variable in drawn.variables]
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    for text in variables:
        box = pixels(text)
        assert any((pixels(e)[:2] < box[:2]).all() and (box[2:] < pixels(e)[2:]).all() for e in ellipses), text
    taken = [pixels(patch) for patch in ax.patches if isinstance(patch, Rectangle)] + [pixels(v) for v in variables]
    for text in written.values():
        assert not any(touch(pixels(text), other) for other in taken), text
        taken.append(pixels(text))
    page = np.array([0, 0, *ax.figure.canvas.get_width_height()])
    assert all((box[:2] >= page[:2]).all() and (box[2:] <= page[2:]).all() for box in taken)


@pytest.mark.parametrize("name", ["grid", "tree", "sprinkler"])
def test_no_line_crosses_another_or_runs_through_a_node(name: str) -> None:
    """These can be drawn so; the points of a line lie near no node but the two at its ends."""
    lines = [np.column_stack(line.get_data()) for line in picture(name).lines]
    for line in lines:
        dots = line[0] + np.linspace(0.0, 1.0, 60)[:, None] * (line[1] - line[0])
        hit = [np.linalg.norm((dots - at) / half, axis=1).min() < 1.0 for at, half in nodes(picture(name))]
        assert sum(hit) == 2
    for one, other in itertools.combinations(lines, 2):
        ends = np.linalg.norm(one[:, None] - other, axis=-1)
        assert ends.min() < 1e-9 or not meet(one, other)


def meet(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two segments have a point in common, from the two equations for it."""
    step = np.column_stack([one[1] - one[0], other[0] - other[1]])
    if abs(np.linalg.det(step)) < 1e-12:
        return False
    along = np.linalg.solve(step, other[0] - one[0])
    return bool(((along > 0.0) & (along < 1.0)).all())


def test_lines_tie_factors_to_their_variables() -> None:
    drawn, ax = GRAPHS["sprinkler"], picture("sprinkler")
    assert len(ax.lines) == sum(len(factor.variables) for factor in drawn.factors)
    at = text_at(ax)
    ends = {tuple(np.round(point, 9)) for line in ax.lines for point in np.column_stack(line.get_data())}
    for variable in drawn.variables:
        assert tuple(np.round(at[label(drawn, variable.name)], 9)) in ends


def test_observed_variables_are_shaded_and_say_their_value() -> None:
    ax = picture("tree")
    at = text_at(ax)
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    shaded = [patch.center for patch in ellipses if patch.get_facecolor() != to_rgba("#ffffff")]
    assert sorted(map(tuple, shaded)) == sorted([tuple(at["x3 = 1"]), tuple(at["x17 = 0"])])


def test_the_page_grows_with_the_graph() -> None:
    small, large = (np.prod(picture(name).figure.get_size_inches()) for name in ("sprinkler", "tree"))
    assert large > 3 * small
    widths = [graph(horizon=horizon).unroll().draw().figure.get_size_inches()[0] for horizon in (6, 12)]
    assert 1.7 < widths[1] / widths[0] < 2.1


def test_parts_stand_apart() -> None:
    at = text_at(picture("parts"))
    one = np.array([at[name] for name in ("cloudy", "sprinkler", "rain", "wet grass")])
    two = np.array([at["left"], at["right"]])
    assert (one.max(0) < two.min(0)).any() or (two.max(0) < one.min(0)).any()


def test_drawings_are_repeated_exactly() -> None:
    for name in ("sprinkler", "parts", "two agents"):
        for (at, _), (again, _) in zip(nodes(picture(name)), nodes(GRAPHS[name].draw()), strict=True):
            assert np.array_equal(at, again)


# -- trajectories -----------------------------------------------------------------------------------------------------


def test_time_runs_from_left_to_right_with_a_row_for_everything_that_is_numbered() -> None:
    drawn, at = GRAPHS["chain"], text_at(picture("chain"))
    rows = {row: np.array([at[label(drawn, f"{row}{t}")] for t in range(7)]) for row in ("s", "key", "door")}
    rows["a"] = np.array([at[f"a{t}"] for t in range(6)])
    for row in rows.values():
        assert (np.diff(row[:, 0]) > 1.0).all()
        assert np.ptp(row[:, 1]) == 0.0
    heights = [rows[row][0, 1] for row in ("a", "s", "key", "door")] + [at["weather"][1]]
    assert (np.diff(heights) < -1.0).all()
    assert np.array_equal(rows["s"][:, 0], rows["key"][:, 0])
    steps = np.diff(rows["s"][:, 0])
    assert (abs(rows["a"][:, 0] - rows["s"][:6, 0]) < 0.5 * steps).all()
    assert abs(at["weather"][0] - rows["s"][4, 0]) < 0.5 * steps[0]


def test_extra_factors_stand_near_what_they_tie() -> None:
    drawn, ax = GRAPHS["chain"], picture("chain")
    at = text_at(ax)
    squares = np.array([centre for centre, half in nodes(ax)[len(drawn.variables) :]])
    for factor, square in zip(drawn.factors, squares, strict=True):
        ends = np.array([at[label(drawn, name)] for name in factor.variables])
        inside = (square > ends.min(0) - 1.5) & (square < ends.max(0) + 1.5)
        assert inside[0], factor.name
        assert inside[1] or factor.name == "far apart", factor.name  # the way between s1 and s5 is taken


def test_agents_have_rows_of_their_own() -> None:
    at = text_at(picture("two agents"))
    for who in ("red", "blue"):
        states = np.array([at[f"{who}_s{t}"] for t in range(4)])
        assert (np.diff(states[:, 0]) > 1.0).all()
        assert np.ptp(states[:, 1]) == 0.0
    assert at["red_s0"][1] > at["blue_a0"][1] + 1.0 > at["blue_s0"][1] + 2.0


def test_numbered_names_alone_are_no_trajectory() -> None:
    """A tree on x0..x19, or states without their actions, is laid out by its ties, not in one row."""
    for names in ([f"x{i}" for i in range(8)], [f"s{i}" for i in range(8)], [f"s{i}" for i in range(7)] + ["a0"]):
        star = binary(names, [tied((names[0], name)) for name in names[1:]])
        places = np.array([at for at, _ in nodes(star.draw())])
        assert np.ptp(places[:, 1]) > 2.0


def test_long_names_of_a_trajectory_do_not_touch() -> None:
    one = graph(horizon=2).unroll()
    long = {v.name: f"the_first_robot_of_the_team_{v.name}" for v in one.variables}
    drawn = FactorGraph(
        tuple(Variable(long[v.name], v.cardinality) for v in one.variables),
        tuple(Factor(tuple(long[name] for name in f.variables), f.log_table, f.name) for f in one.factors),
    )
    placed = nodes(drawn.draw())
    assert all(np.linalg.norm((a - b) / (r + s)) > 1.2 for (a, r), (b, s) in itertools.combinations(placed, 2))


# -- odd graphs and given axes ----------------------------------------------------------------------------------------


def test_many_factors_on_the_same_variables() -> None:
    drawn = binary(["x", "y"], [tied(("x", "y"))] * 6 + [tied(("x",))] * 40 + [tied(())] * 3)
    placed = nodes(drawn.draw())
    assert all(np.linalg.norm((a - b) / (r + s)) > 1.2 for (a, r), (b, s) in itertools.combinations(placed, 2))


def test_names_are_text_and_not_formulas() -> None:
    drawn = binary(["$\\alpha_$", "a_b^c"], [tied(("$\\alpha_$", "a_b^c"), "$1$ and $2$")])
    written = shown(drawn.draw())
    assert {"$\\alpha_$", "a_b^c", "$1$ and $2$"} == set(written)


def test_empty_graph() -> None:
    ax = FactorGraph().draw()
    ax.figure.draw_without_rendering()
    assert not ax.patches and not ax.texts


def test_long_horizons_are_drawn_small() -> None:
    ax = graph(horizon=40).unroll().draw()
    ax.figure.draw_without_rendering()
    assert max(ax.figure.get_size_inches()) <= 48.001


def test_text_is_smaller_on_a_smaller_page() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 2))
    for ax in (left, right):
        assert sprinkler().draw(ax) is ax
    figure.draw_without_rendering()
    own = picture("sprinkler")
    small, large = (next(text.get_fontsize() for text in ax.texts if text.get_text() == "rain") for ax in (left, own))
    assert small < 0.8 * large
    ellipses = [pixels(patch) for patch in left.patches if isinstance(patch, Ellipse)]
    rain = pixels(next(text for text in left.texts if text.get_text() == "rain"))
    assert any((e[:2] < rain[:2]).all() and (rain[2:] < e[2:]).all() for e in ellipses)


def test_drawing_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for drawn in (sprinkler(), graph(horizon=2)):
        with pytest.raises(ImportError, match=r"drawing needs matplotlib: pip install cai\[plots\]"):
            drawn.draw()


# -- one slice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon, plate", [(5, "t = 0, ..., 4"), (None, "t = 0, 1, 2, ...")])
def test_one_slice(horizon: int | None, plate: str) -> None:
    ax = graph(horizon=horizon, discount=0.9, temperature=0.5).draw()
    ax.figure.draw_without_rendering()
    for name in ("$s_t$", "$a_t$", "$s_{t+1}$", "$O_t$", "TabularDynamics", "TabularReward", "Delta", plate):
        assert name in texts(ax)
    assert "0.5" in ax.get_title()
    assert "0.9" in ax.get_title()


def test_given_axes_are_used() -> None:
    _, ax = plt.subplots()
    assert graph(horizon=2).draw(ax) is ax
    assert graph(horizon=2).unroll().draw(ax) is ax
