"""Nothing is cut off, no two texts lie on each other, and matplotlib's global state is left alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import cai.plots
from cai.inference import History
from tests.plots import worlds

#: In pixels: what antialiasing and rounding of glyphs may take.
SLACK = 1.0


def _run(seed: int) -> History:
    names = ("return", "q_error", "v_error", "policy_kl", "marginal_distance", "evidence_gap")
    rows = [{"num_steps": 500.0 * k} | dict.fromkeys(names, 10000.0 / (k + seed)) for k in range(1, 80)]
    return History(rows)


FIGURES: dict[str, Callable[[], Figure]] = {
    "value 4x4": lambda: cai.plots.value_map(worlds.lake()).figure,
    "policy 4x4": lambda: cai.plots.policy_map(worlds.lake()).figure,
    "marginals 4x4": lambda: cai.plots.marginals_over_time(worlds.lake()),
    "side by side 4x4": lambda: cai.plots.side_by_side(worlds.lake(), worlds.lake("SumProduct")),
    "value 11x11": lambda: cai.plots.value_map(worlds.rooms(size=11)).figure,
    "marginals 11x11": lambda: cai.plots.marginals_over_time(worlds.rooms(size=11, horizon=60)),
    "value 50x50": lambda: cai.plots.value_map(worlds.rooms(size=50)).figure,
    "policy 50x50": lambda: cai.plots.policy_map(worlds.rooms(size=50)).figure,
    "value 1x7": lambda: cai.plots.value_map(worlds.walk()).figure,
    "marginals 1x7": lambda: cai.plots.marginals_over_time(worlds.walk(30)),
    "value, no grid": lambda: cai.plots.value_map(worlds.inventory()).figure,
    "policy, no grid": lambda: cai.plots.policy_map(worlds.inventory()).figure,
    "marginals, no grid": lambda: cai.plots.marginals_over_time(worlds.inventory()),
    "learning curves": lambda: cai.plots.learning_curves([_run(k) for k in range(4)], labels=list("aabc")).figure,
    "exact comparison": lambda: cai.plots.exact_comparison(_run(0)),
    "side by side, no grid": lambda: cai.plots.side_by_side(worlds.inventory(), worlds.inventory("SumProduct")),
}


def hidden_ticks(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the limits of their axis: matplotlib keeps them and does not draw them."""
    hidden: set[Text] = set()
    for ax in figure.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):  # type: ignore[attr-defined]
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    return hidden


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = hidden_ticks(figure)
    return [(text.get_text(), text.get_window_extent()) for text in texts if text not in hidden]


def overlap(one: Bbox, other: Bbox) -> bool:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(width, height) > SLACK


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_inside_and_apart(name: str) -> None:
    figure = FIGURES[name]()
    texts = drawn_texts(figure)
    assert texts
    width, height = figure.bbox.width, figure.bbox.height
    outside = [
        text
        for text, box in texts
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK
    ]
    assert not outside
    clashes = [(a, b) for (a, one), (b, other) in itertools.combinations(texts, 2) if overlap(one, other)]
    assert not clashes


def test_the_overlap_check_sees_an_overlap() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "other")
    (_, one), (_, other) = drawn_texts(figure)
    assert overlap(one, other)


def test_drawing_leaves_pyplot_and_rc_alone() -> None:
    before = dict(matplotlib.rcParams)
    for draw in FIGURES.values():
        draw()
    assert dict(matplotlib.rcParams) == before


def test_drawing_does_not_import_pyplot(tmp_path: Path) -> None:
    program = (
        "import sys, cai, cai.plots\n"
        "posterior = cai.infer(cai.load_model('frozen_lake', horizon=3), cai.SoftValueIteration())\n"
        "cai.plots.value_map(posterior).figure.canvas.print_figure(sys.argv[1])\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    picture = tmp_path / "value.png"
    command = [sys.executable, "-c", program, str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "matplotlib" or name.startswith("cai.plots")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install cai\[plots\]"):
        __import__("cai.plots")
