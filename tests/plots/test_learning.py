"""Learning curves: lines, means and bands, against numpy and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import cai
from cai.inference import History, LearnedPosterior, Stats


def history(steps: Any, values: Any, name: str = "return") -> History:
    return History([{"num_steps": int(s), name: float(v)} for s, v in zip(steps, values, strict=True)])


def noisy(seed: int, num: int = 50, step: int = 100, name: str = "return") -> History:
    draw = np.random.default_rng(seed)
    return history(np.arange(1, num + 1) * step, -200.0 + np.arange(num) + draw.normal(size=num), name)


def edges(ax: Any, k: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The band: where, its lower edge, its upper edge."""
    band = [collection for collection in ax.collections if isinstance(collection, PolyCollection)][k]
    vertices = band.get_paths()[0].vertices
    x = np.unique(vertices[:, 0])
    low = np.array([vertices[vertices[:, 0] == at, 1].min() for at in x])
    high = np.array([vertices[vertices[:, 0] == at, 1].max() for at in x])
    return x, low, high


def test_one_run_is_a_line() -> None:
    ax = cai.plots.learning_curves([history([100, 250, 300], [1.0, -2.0, 5.0])])
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[100, 1.0], [250, -2.0], [300, 5.0]]
    assert not ax.collections and ax.get_legend() is None
    assert ax.get_ylabel() == "return [reward\u00a0units]" and ax.get_xlabel() == "environment steps"


@pytest.mark.parametrize("band", [0.95, 0.5])
@pytest.mark.parametrize("num", [2, 5])
def test_runs_of_one_label_are_a_mean_with_its_t_interval(num: int, band: float) -> None:
    runs = [noisy(seed) for seed in range(num)]
    ax = cai.plots.learning_curves(runs, band=band)
    (line,) = ax.lines
    x, low, high = edges(ax)
    values = np.stack([np.interp(x, np.arange(1, 51) * 100.0, run.curve("return").values) for run in runs])
    assert (x[0], x[-1]) == (100.0, 5000.0)
    assert line.get_ydata() == pytest.approx(values.mean(0))
    expected = scipy.stats.t(num - 1, values.mean(0), scipy.stats.sem(values)).interval(band)
    assert low == pytest.approx(expected[0]) and high == pytest.approx(expected[1])


def test_runs_of_other_reports_share_the_steps_that_all_have() -> None:
    runs = [history([0, 1000], [0.0, 10.0]), history([100, 300, 2000], [1.0, 3.0, 20.0])]
    ax = cai.plots.learning_curves(runs)
    (line,) = ax.lines
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (100, 1000)
    assert line.get_ydata() == pytest.approx(line.get_xdata() / 100.0)
    _, low, high = edges(ax)
    assert high == pytest.approx(low)


def test_labels_make_groups() -> None:
    runs = [noisy(seed) for seed in range(5)]
    ax = cai.plots.learning_curves(runs, labels=["a", "b", "a", "c", "b"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a, 2 runs", "b, 2 runs", "c"]
    assert len({line.get_color() for line in ax.lines}) == 3 and len(ax.collections) == 2
    both = (runs[0].curve("return").values + runs[2].curve("return").values) / 2
    assert np.interp(100.0, *ax.lines[0].get_xydata().T) == pytest.approx(float(both[0]))


def test_many_labels_are_told_apart() -> None:
    runs = [noisy(seed) for seed in range(20)]
    ax = cai.plots.learning_curves(runs, labels=[str(seed) for seed in range(20)])
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 20


def test_posteriors_bring_their_names() -> None:
    graph, stats = cai.load_model("two_state"), Stats()
    methods = (cai.SumProduct(), cai.SoftValueIteration())
    runs = [LearnedPosterior(graph, method, stats, None, noisy(3, name="entropy")) for method in methods]  # type: ignore[arg-type]
    ax = cai.plots.learning_curves(runs, metric="entropy", ax=Figure().add_subplot())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SumProduct", "SoftValueIteration"]
    assert ax.get_ylabel() == "entropy [nats]"


def test_reports_without_the_metric_are_left_out() -> None:
    run = noisy(1)
    run.rows[3]["evaluation_return"], run.rows[9]["evaluation_return"] = 4.0, 5.0
    ax = cai.plots.learning_curves([run], metric="evaluation_return")
    assert ax.lines[0].get_xydata().tolist() == [[400, 4.0], [1000, 5.0]]


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "expected runs"),
        ([noisy(0)], {"band": 1.0}, r"a band in \(0, 1\), got 1 and 1.0"),
        ([noisy(0)], {"labels": ["a", "b"]}, "1 runs and 2 labels"),
        ([noisy(0)], {"metric": "profit"}, "no 'profit' was logged; there are num_steps, return"),
        ([history([1], [0.0]), history([2], [0.0])], {}, "runs of 'run' have no steps in common"),
    ],
    ids=["none", "band", "labels", "metric", "apart"],
)
def test_what_cannot_be_drawn(runs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cai.plots.learning_curves(runs, **options)


def test_exact_comparison_draws_what_was_logged() -> None:
    rows = [
        {"num_steps": k, "q_error": 1.0 / k, "policy_kl": 2.0 / k, "evidence_gap": float(3 - k)} for k in range(1, 9)
    ]
    figure = cai.plots.exact_comparison(History(rows))  # type: ignore[arg-type]
    labels = ["q error [reward\u00a0units]", "policy KL [nats]", "evidence gap [nats]"]
    assert [ax.get_ylabel() for ax in figure.axes] == labels
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "linear"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [2.0 / k for k in range(1, 9)]
    with pytest.raises(ValueError, match=r"nothing was logged by cai\.ExactComparison"):
        cai.plots.exact_comparison(noisy(0))
