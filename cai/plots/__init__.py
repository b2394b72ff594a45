"""Pictures of posteriors: value maps, policy maps, marginals over time, and two posteriors side by side.

    value_map(posterior)              v(s) at one time: a map of a grid world, bars of any other
    policy_map(posterior)             pi(a|s) at one time: arrows on a grid, a heat map otherwise
    marginals_over_time(posterior)    p(s_t): small multiples on a grid, states by time otherwise
    side_by_side(a, b)                all three of two posteriors in shared colours, their difference, and the gap
    tubes(a, b, ...)                  Gaussian marginals over time: means within one and two standard deviations
    plane(a, b, ...)                  two coordinates of Gaussian marginals against each other, with ellipses
    learning_curves(runs)             what was logged while learning, with bands over seeds
    exact_comparison(run)             the distances of what is learned to the exact answer

A graph is drawn as a grid when its `state_space` is a `cai.GridSpace`. Nothing here touches pyplot, its current figure,
the backend or rcParams: a function draws into the `ax` it is given, or makes a `matplotlib.figure.Figure` of its own
and returns what it drew on. `ax.figure.savefig(path)` writes it.

Colours are perceptually uniform and safe for the colour-blind (viridis, magma; blue to red for differences). Grey
cells are off the grid; a terminal state wears a frame.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("cai.plots draws with matplotlib, which is not installed: pip install cai[plots]") from error

from cai.plots.comparison import side_by_side
from cai.plots.learning import exact_comparison, learning_curves
from cai.plots.maps import policy_map, value_map
from cai.plots.time import marginals_over_time
from cai.plots.tubes import plane, tubes

__all__ = [
    "exact_comparison",
    "learning_curves",
    "marginals_over_time",
    "plane",
    "policy_map",
    "side_by_side",
    "tubes",
    "value_map",
]
