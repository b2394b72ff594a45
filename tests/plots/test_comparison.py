"""Two posteriors side by side: shared scales, true differences, the gap."""

from __future__ import annotations

import numpy as np
import pytest

import cai
import cai.plots
from tests.plots import worlds


def rows_of(figure: object) -> list[list]:
    axes = figure.axes[:9]  # type: ignore[attr-defined]
    return [axes[0:3], axes[3:6], axes[6:9]]


def grid(posterior: cai.Posterior, values: object) -> np.ndarray:
    array = np.full((4, 4), np.nan)
    for state, value in enumerate(np.asarray(values)):
        array[worlds.cell_of(posterior, state)] = value
    return array


def test_values_policies_marginals_and_differences() -> None:
    soft, exact = worlds.lake(), worlds.lake("SumProduct")
    states = worlds.states_of(soft)
    values, policies, marginals = rows_of(cai.plots.side_by_side(soft, exact, t=2))
    ours, theirs = soft.v(states, t=2), exact.v(states, t=2)
    for ax, expected in zip(values, (ours, theirs, ours - theirs), strict=True):
        assert np.array_equal(ax.images[0].get_array(), grid(soft, expected))
    distance = 0.5 * (soft.policy(states, t=2).probs - exact.policy(states, t=2).probs).abs().sum(1)
    assert np.allclose(policies[2].images[0].get_array(), grid(soft, distance), rtol=1e-12, atol=0)
    ours, theirs = soft.state_marginals[100], exact.state_marginals[100]
    for ax, expected in zip(marginals, (ours, theirs, ours - theirs), strict=True):
        assert np.array_equal(ax.images[0].get_array(), grid(soft, expected))


def test_scales_are_shared_and_differences_centred() -> None:
    soft, exact = worlds.lake(), worlds.lake("SumProduct")
    values, _, marginals = rows_of(cai.plots.side_by_side(soft, exact))
    for left, middle, right in (values, marginals):
        assert left.images[0].norm is middle.images[0].norm
        low, high = right.images[0].get_clim()
        assert low == -high < 0
    states = worlds.states_of(soft)
    both = np.concatenate([posterior.v(states).numpy() for posterior in (soft, exact)])
    assert values[0].images[0].get_clim() == (both.min(), both.max())


def test_the_gap_stands_above() -> None:
    soft, exact = worlds.lake(), worlds.lake("SumProduct")
    figure = cai.plots.side_by_side(soft, exact)
    gap, title = soft.gap(exact), figure.get_suptitle()
    assert float(gap.evidence_gap) == pytest.approx(float(exact.log_evidence - soft.log_evidence))
    for number in (gap.evidence_gap, gap.kl, gap.reverse_kl, soft.log_evidence, exact.log_evidence):
        assert f"{float(number):.4g}" in title
    assert "SoftValueIteration ≥" in title and "SumProduct =" in title


def test_graphs_without_a_gap_say_why() -> None:
    figure = cai.plots.side_by_side(worlds.lake(), worlds.lake(temperature=0.1))
    assert figure.get_suptitle().startswith("no gap: ")
    assert "temperature" in figure.get_suptitle()


def test_the_gains_stand_above_where_nothing_ends() -> None:
    coin = cai.load_model("two_state", horizon=None)
    soft, exact = cai.infer(coin, cai.SoftValueIteration()), cai.infer(coin, cai.SumProduct())
    figure = cai.plots.side_by_side(soft, exact)
    gains = f"SoftValueIteration {float(soft.gain):.4g}, SumProduct {float(exact.gain):.4g}"
    assert figure.get_suptitle() == f"gain [reward\u00a0units a step]: {gains}"
    assert "long-run distribution" in figure.axes[6].get_title()


def test_titles() -> None:
    soft = worlds.lake()
    named = cai.plots.side_by_side(soft, worlds.lake("SumProduct"), marginal_time=5, titles=("act", "explain"))
    titles = [ax.get_title() for row in rows_of(named) for ax in row]
    assert titles[:3] == ["act: value, t = 0", "explain: value, t = 0", "difference: value, t = 0"]
    assert titles[6:] == ["act: marginal, t = 5", "explain: marginal, t = 5", "difference: marginal, t = 5"]
    same = cai.plots.side_by_side(soft, worlds.lake(temperature=0.1))
    assert rows_of(same)[0][0].get_title().startswith("SoftValueIteration a: ")
    assert rows_of(same)[0][1].get_title().startswith("SoftValueIteration b: ")


def test_dead_states_do_not_differ() -> None:
    graph = cai.load_model("frozen_lake", horizon=6).condition(states={6: 15})
    posterior = cai.infer(graph, cai.SumProduct())
    values, _, _ = rows_of(cai.plots.side_by_side(posterior, posterior))
    assert np.array_equal(values[2].images[0].get_array(), np.zeros((4, 4)))


def test_other_worlds_and_infinite_horizons() -> None:
    soft, exact = worlds.inventory(), worlds.inventory("SumProduct")
    values, policies, marginals = rows_of(cai.plots.side_by_side(soft, exact))
    states = worlds.states_of(soft)
    assert [bar.get_height() for bar in values[2].patches] == (soft.v(states) - exact.v(states)).tolist()
    assert np.array_equal(policies[1].images[0].get_array(), exact.policy(states).probs.numpy().T)
    assert values[0].get_ylim() == values[1].get_ylim()
    assert marginals[0].get_ylim() == marginals[1].get_ylim()
    rooms = rows_of(cai.plots.side_by_side(worlds.rooms(discount=0.9), worlds.rooms(discount=0.9)))
    assert rooms[2][0].get_title() == "SoftValueIteration a: occupancy"


@pytest.mark.parametrize(
    ("other", "what"), [(lambda: worlds.rooms(), "num_states"), (lambda: worlds.rooms(size=5, horizon=3), "num_states")]
)
def test_different_worlds_are_refused(other: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        cai.plots.side_by_side(worlds.lake(), other())  # type: ignore[operator]


def test_different_horizons_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon is None and 3"):
        cai.plots.side_by_side(worlds.rooms(), worlds.rooms(horizon=3))
