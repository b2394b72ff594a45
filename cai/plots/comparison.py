"""Two posteriors side by side."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cai.errors import Unavailable
from cai.plots import paint
from cai.plots.maps import draw_policy, draw_states, draw_values
from cai.plots.time import MARGINAL_LABEL
from cai.plots.world import Array, World, long_run, marginals_of, name_of, policy_at, values_at, when, world_of

if TYPE_CHECKING:
    from cai.inference import Posterior


def side_by_side(
    posterior_a: Posterior,
    posterior_b: Posterior,
    t: int = 0,
    *,
    marginal_time: int | None = None,
    titles: tuple[str, str] | None = None,
) -> Figure:
    """Draws two posteriors in shared colours, what differs between them, and the gap.

    Rows: the value, the policy, the state marginal (or occupancy). Columns: `posterior_a`, `posterior_b`, and the
    difference a - b; of the policies, the total variation distance 1/2 sum_a |pi_a(a|s) - pi_b(a|s)| in each state.

    Args:
        posterior_a: The one on the left.
        posterior_b: The one in the middle; of a world with the same states and actions.
        t: The time of values and policies; ignored when the horizon is infinite.
        marginal_time: The time of the marginals; by default the last.
        titles: Their names, by default those of their methods.

    Returns:
        The figure, with nine axes in reading order. The gap stands above, as `posterior_a.gap(posterior_b)` gives it;
        the gains, where nothing ends or is discounted.

    Raises:
        ValueError: The worlds differ in their states, actions or horizon.
        Unavailable: The states or actions are not finite, or a quantity is not there.
    """
    world = _same_world(posterior_a, posterior_b)
    pair = (posterior_a, posterior_b)
    figure, axes = _figure_for(world)
    _value_row(axes[0], world, [values_at(posterior, t) for posterior in pair])
    _policy_row(axes[1], world, [policy_at(posterior, t) for posterior in pair])
    last = world.last_time if marginal_time is None else marginal_time
    name, label = long_run(posterior_a) if world.horizon is None else ("marginal", MARGINAL_LABEL)
    _marginal_row(axes[2], world, [marginals_of(posterior)[last] for posterior in pair], label)
    titles = _default_titles(posterior_a, posterior_b) if titles is None else titles
    for row, what, time in zip(axes, ("value", "policy", name), (t, t, last), strict=True):
        for ax, title in zip(row, (*titles, "difference"), strict=True):
            ax.set_title(f"{title}: {what}{when(world, time)}", fontsize="medium")
    figure.suptitle(_gap_line(posterior_a, posterior_b, titles), fontsize="medium")
    return figure


def _default_titles(posterior_a: Posterior, posterior_b: Posterior) -> tuple[str, str]:
    ours, theirs = name_of(posterior_a), name_of(posterior_b)
    return (f"{ours} a", f"{theirs} b") if ours == theirs else (ours, theirs)


def _same_world(posterior_a: Posterior, posterior_b: Posterior) -> World:
    world, other = world_of(posterior_a), world_of(posterior_b)
    for name in ("num_states", "num_actions", "horizon"):
        ours, theirs = getattr(world, name), getattr(other, name)
        if ours != theirs:
            raise ValueError(f"side_by_side: the posteriors must share one world, but {name} is {ours} and {theirs}")
    return world


def _figure_for(world: World) -> tuple[Figure, list[list[Axes]]]:
    width, height = (4.2, 2.4) if world.grid is None else paint.grid_size(world.grid, largest=3.6)
    figure = Figure(figsize=(3 * (width + 1.3), 3 * (height + 0.8) + 0.6), layout="compressed")
    return figure, figure.subplots(3, 3, squeeze=False).tolist()


def _value_row(row: list[Axes], world: World, values: list[Array]) -> None:
    norm = paint.linear_scale(*values)
    for ax, value in zip(row, values, strict=False):
        draw_values(ax, world, value, norm)
    _draw_difference(row[2], world, _difference(*values), "difference of v [reward\u00a0units]")


def _policy_row(row: list[Axes], world: World, policies: list[Array]) -> None:
    for ax, policy in zip(row, policies, strict=False):
        draw_policy(ax, world, policy)
    distance = 0.5 * np.abs(policies[0] - policies[1]).sum(1)
    norm = Normalize(0.0, 1.0)
    draw_states(row[2], world, distance, paint.PROBABILITY_COLORS, norm, "total variation distance")


def _marginal_row(row: list[Axes], world: World, marginals: list[Array], label: str) -> None:
    norm = paint.probability_scale(*marginals)
    for ax, marginal in zip(row, marginals, strict=False):
        draw_states(ax, world, marginal, paint.PROBABILITY_COLORS, norm, label)
    _draw_difference(row[2], world, _difference(*marginals), "difference of probability")


def _difference(ours: Array, theirs: Array) -> Array:
    """Subtracts; where both are minus infinity they do not differ."""
    same = ours == theirs
    return np.where(same, 0.0, ours - np.where(same, 0.0, theirs))


def _draw_difference(ax: Axes, world: World, difference: Array, label: str) -> None:
    draw_states(ax, world, difference, paint.DIFFERENCE_COLORS, paint.difference_scale(difference), label)


def _gap_line(posterior_a: Posterior, posterior_b: Posterior, titles: tuple[str, str]) -> str:
    pair = list(zip((posterior_a, posterior_b), titles, strict=True))
    with suppress(Unavailable):
        gains = ", ".join(f"{title} {float(posterior.gain):.4g}" for posterior, title in pair)
        return f"gain [reward\u00a0units a step]: {gains}"
    try:
        evidence = ", ".join(f"{title} {_evidence(posterior)}" for posterior, title in pair)
        gap = posterior_a.gap(posterior_b)
    except (Unavailable, ValueError) as error:
        return f"no gap: {error}"
    ours, theirs = titles
    return (
        f"log evidence [nats]: {evidence}; gap {float(gap.evidence_gap):.4g}\n"
        f"KL({ours} ‖ {theirs}) = {float(gap.kl):.4g} nats, KL({theirs} ‖ {ours}) = {float(gap.reverse_kl):.4g} nats"
    )


def _evidence(posterior: Posterior) -> str:
    return f"{'≥' if posterior.is_bound else '='} {float(posterior.log_evidence):.4g}"
