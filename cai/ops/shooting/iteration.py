"""Iterative LQR and differential dynamic programming, one iteration at a time, batched over problems.

An iteration expands dynamics and costs around each trajectory, makes a backward pass, and takes the best step of a line
search along its gains. Every batch element goes its own way: it has its own regularisation and step size, and is left
as it is once it is done. A pass that fails in one element costs the others nothing: that element keeps its trajectory,
and comes back in the next iteration with a convex expansion (Hessians of the costs made positive semi-definite, second
derivatives of the dynamics left out), and if that does not help with more regularisation.

An element has converged where the decrease that a full step promises is below the tolerance with neither in the way; or
where it is so with one of them and the plain expansion fails: there it is stationary, if no strict minimum.

Source: Tassa, Erez and Todorov (2012); Mastalli et al. (2020) for trajectories with gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cai.ops.shooting.backward_pass import BackwardPass, LocalModel, backward_pass
from cai.ops.shooting.box_qp import clamped_at_zero
from cai.ops.shooting.gaps import with_gaps
from cai.ops.shooting.line_search import search
from cai.ops.shooting.local_models import GaussNewton, SecondOrder, local_model
from cai.ops.shooting.problem import ShootingProblem, Trajectory, need_finite
from cai.ops.shooting.rollouts import open_loop
from cai.ops.shooting.schedules import LineSearch, Regularisation, RegularisationSchedule


@dataclass(frozen=True, eq=False)
class Options:
    """How to iterate.

    Attributes:
        expansion: Which derivatives of the dynamics are used.
        schedule: The regularisation.
        line_search: The step sizes.
        tolerance: The decrease promised by a full step at which an element is done, relative to max(1, |cost|).
    """

    expansion: GaussNewton | SecondOrder = GaussNewton()
    schedule: RegularisationSchedule = RegularisationSchedule()
    line_search: LineSearch = LineSearch()
    tolerance: float = 1e-9


@dataclass(frozen=True, eq=False)
class ShootingIterate:
    """Where the iteration stands.

    Attributes:
        states: The best trajectories so far, `[T + 1, B, n]`.
        actions: `[T, B, m]`.
        gaps: f(x_t, u_t) - x_{t+1}, `[T, B, n]`, or None where trajectories keep to the dynamics.
        costs: `[B]`, float64.
        size: The regularisation mu, `[B]`, float64.
        rate: What its last change multiplied it by, `[B]`, float64.
        convex: Whether the next expansion is to be convex, `[B]`, bool.
        residual: The decrease that the last backward pass promised for a full step, `[B]`, float64, cost units.
        settled: Whether the trajectory has been found stationary, and no step has been taken since, `[B]`, bool.
        converged: `[B]`, bool.
        done: Converged or given up, `[B]`, bool.
        num_steps: Iterations of each element, `[B]`, int64.
    """

    states: Tensor
    actions: Tensor
    gaps: Tensor | None
    costs: Tensor
    size: Tensor
    rate: Tensor
    convex: Tensor
    residual: Tensor
    settled: Tensor
    converged: Tensor
    done: Tensor
    num_steps: Tensor

    @property
    def trajectory(self) -> Trajectory:
        """The trajectories."""
        return Trajectory(self.states, self.actions, self.costs, self.gaps)

    @property
    def regularisation(self) -> Regularisation:
        """The regularisation."""
        return Regularisation(self.size, self.rate)

    def select(self, index: Tensor) -> ShootingIterate:
        """Gives some batch elements; `index` is `[k]`."""
        return self._mapped(lambda name, part: part.index_select(_axis(name), index))

    def filled(self, index: Tensor, other: ShootingIterate) -> ShootingIterate:
        """Puts another's elements in the place of some of its own; `index` is `[k]`."""
        return self._mapped(lambda name, part: part.index_copy(_axis(name), index, getattr(other, name)))

    def where(self, mask: Tensor, other: ShootingIterate) -> ShootingIterate:
        """Keeps the elements of a mask `[B]`, and takes the rest from another."""

        def chosen(name: str, part: Tensor) -> Tensor:
            return torch.where(mask[:, None] if _axis(name) else mask, part, getattr(other, name))

        return self._mapped(chosen)

    def _mapped(self, change: Callable[[str, Tensor], Tensor]) -> ShootingIterate:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(name, part) for name, part in parts.items() if part is not None})


def first_iterate(
    problem: ShootingProblem, actions: Tensor, states: Tensor | None, schedule: RegularisationSchedule
) -> ShootingIterate:
    """Makes the first iterate.

    Args:
        problem: The problem.
        actions: A first guess, within the limits, `[T, B, m]`.
        states: A guess of x_0..x_T, `[T + 1, B, n]`, that need not agree with the dynamics; None for a rollout.
        schedule: The regularisation.

    Raises:
        NonFinite: The guess leads to states or costs that are NaN or infinite.
    """
    gaps = None
    if states is None:
        states = open_loop(problem, actions)
        need_finite(states, "the state that the first guess of actions leads to")
    else:
        states = torch.cat([problem.start[None], states[1:]])
        following = [problem.dynamics(states[t], actions[t], t) for t in range(problem.horizon)]
        gaps = torch.stack(following) - states[1:]
        need_finite(gaps, "the next state of the first guess of states and actions")
    costs = problem.total_cost(states, actions)
    if not torch.isfinite(costs).all():
        need_finite(problem.costs(states, actions), "the reward of the first guess")
    regularisation = schedule.start(len(costs), costs.device)
    no = torch.zeros_like(costs, dtype=torch.bool)
    return ShootingIterate(
        states=states,
        actions=actions,
        gaps=gaps,
        costs=costs,
        size=regularisation.size,
        rate=regularisation.rate,
        convex=no,
        residual=torch.full_like(costs, torch.inf),
        settled=no,
        converged=no,
        done=no,
        num_steps=torch.zeros_like(costs, dtype=torch.int64),
    )


def advance(problem: ShootingProblem, old: ShootingIterate, options: Options) -> ShootingIterate:
    """Does one iteration of every element that is not done.

    Raises:
        NonFinite: A derivative is NaN or infinite: of what, at which time step of which batch element.
    """
    if not old.done.any():
        return _advanced(problem, old, options)
    if not problem.divisible:
        return old.where(old.done, _advanced(problem, old, options))
    index = (~old.done).nonzero()[:, 0]
    return old.filled(index, _advanced(problem.select(index), old.select(index), options))


def _advanced(problem: ShootingProblem, old: ShootingIterate, options: Options) -> ShootingIterate:
    model = local_model(problem, old.trajectory, options.expansion, old.convex, _straight(old, options.expansion))
    backward = backward_pass(model, old.size)
    if old.gaps is not None:
        backward = with_gaps(model, backward)
    residual = torch.where(backward.definite, -backward.predicted(1.0), old.residual)
    small = backward.definite & (residual.abs() <= _least(old, options.tolerance))
    if old.gaps is not None:
        small = small & (old.gaps == 0).all(-1).all(0)
    steps = search(problem, old.trajectory, replace(backward, definite=backward.definite & ~small), options.line_search)
    moved = steps.sizes > 0
    stuck = ~moved & ~small
    converged = (small & (old.size == 0) & ~old.convex) | (stuck & old.settled)
    unsure = small & ((old.size > 0) | old.convex)
    stationary = _is_stationary(model, backward, old, options.tolerance) if unsure.any() else small
    at_rest = (small & stationary) | (stuck & _is_rounding(residual, old))
    # So much regularisation had to be added that a step is worth nothing, and yet the gradient is not small.
    hopeless = unsure & ~stationary & (old.rate > 1.0) & (old.size > 0)
    hopeless |= stuck & old.convex & (old.size >= options.schedule.maximum)
    # The first remedy is a convex expansion, the second more regularisation.
    regularisation = _regularised(options.schedule, old, raised=stuck & old.convex, lowered=moved | small)
    return ShootingIterate(
        states=torch.where(moved[:, None], steps.states, old.states),
        actions=torch.where(moved[:, None], steps.actions, old.actions),
        gaps=None if old.gaps is None else old.gaps * (1.0 - steps.sizes).to(old.gaps.dtype)[:, None],
        costs=torch.where(moved, steps.costs, old.costs),
        size=regularisation.size,
        rate=regularisation.rate,
        convex=stuck | (old.convex & moved & (steps.sizes < 1.0)),
        residual=residual,
        settled=~moved & (old.settled | (backward.definite & at_rest)),
        converged=converged,
        done=converged | hopeless,
        num_steps=old.num_steps + 1,
    )


def _straight(old: ShootingIterate, expansion: GaussNewton | SecondOrder) -> Tensor:
    """For which elements second derivatives of the dynamics are left out, `[B]`, bool."""
    if not isinstance(expansion, SecondOrder) or math.isinf(expansion.below):
        return old.convex
    return old.convex | (old.residual.abs() > expansion.below * old.costs.abs().clamp(min=1.0))


def _regularised(
    schedule: RegularisationSchedule, old: ShootingIterate, *, raised: Tensor, lowered: Tensor
) -> Regularisation:
    up, down = schedule.raised(old.regularisation), schedule.lowered(old.regularisation)
    size = torch.where(raised, up.size, torch.where(lowered, down.size, old.size))
    rate = torch.where(raised, up.rate, torch.where(lowered, down.rate, old.rate))
    return Regularisation(size.clamp(max=schedule.maximum), rate)


def _least(old: ShootingIterate, tolerance: float) -> Tensor:
    """The decrease that is not worth a step, `[B]`: what was asked for, or what rounding hides."""
    relative = max(tolerance, 16 * torch.finfo(old.states.dtype).eps)
    return relative * old.costs.abs().clamp(min=1.0)


def _is_rounding(residual: Tensor, old: ShootingIterate) -> Tensor:
    """Whether a decrease is so small that rounding of the costs may hide it, `[B]`, bool."""
    return residual.abs() <= torch.finfo(old.states.dtype).eps ** (2 / 3) * old.costs.abs().clamp(min=1.0)


def _is_stationary(model: LocalModel, backward: BackwardPass, old: ShootingIterate, tolerance: float) -> Tensor:
    """Whether the gradient with respect to the actions is small, `[B]`, bool, however strong the regularisation."""
    slopes = backward.rows[..., -1]
    if model.low is not None and model.high is not None:
        slopes = torch.where(clamped_at_zero(slopes, model.low, model.high), 0.0, slopes)
    greatest = (slopes.abs() * (1.0 + old.actions.abs())).amax((0, 2))
    return greatest <= (_least(old, tolerance) * old.costs.abs().clamp(min=1.0)).sqrt()


def _axis(name: str) -> int:
    """The axis of the batch in a part of an iterate."""
    return 1 if name in ("states", "actions", "gaps") else 0
