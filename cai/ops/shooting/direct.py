"""Direct shooting: gradient descent on the actions themselves, through the rollout.

    J(u) = E sum_t gamma^t l_t(x_t, u_t) + gamma^T l_T(x_T),     x_{t+1} = f_t(x_t, u_t) + L_t e_t,   W_t = L_t L_t'

with e fixed draws, the same at every step (the sample average, whose optimum is that of a deterministic problem), or
none. Steps are Adam's, each entry by itself, projected onto the limits:

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   u <- clamp(u - lr m^ / (sqrt(v^) + eps), low, high)

m^ and v^ corrected for their start at zero. The best actions seen are kept, of each restart and batch element; where a
rollout is not finite its cost is infinite and its actions go back to the best.

Source: Kingma and Ba (2015) for the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.ops.shooting.problem import ShootingProblem
from cai.ops.shooting.rollouts import open_loop

_DECAYS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent stands; R restarts of B problems.

    Attributes:
        actions: u, `[T, R, B, m]`.
        mean: Adam's m, the same shape.
        square: Adam's v, the same shape.
        best: The best actions seen, the same shape.
        best_costs: What they cost, `[R, B]`, float64; infinite before the first step.
        disturbances: L_t e_t, `[T, S, 1, B, n]`, S draws of the noise, or None.
        residual: The greatest entry of the projected gradient at the last step, cost per action unit.
        num_steps: Steps taken.
    """

    actions: Tensor
    mean: Tensor
    square: Tensor
    best: Tensor
    best_costs: Tensor
    disturbances: Tensor | None = None
    residual: float = torch.inf
    num_steps: int = 0


def begin(actions: Tensor, disturbances: Tensor | None = None) -> Descent:
    """Begins at actions `[T, R, B, m]`, with draws of the noise `[T, S, 1, B, n]` or none."""
    zero = torch.zeros_like(actions)
    worst = torch.full(actions.shape[1:-1], torch.inf, dtype=torch.float64, device=actions.device)
    return Descent(actions, zero, zero, actions, worst, disturbances)


def expected_costs(problem: ShootingProblem, actions: Tensor, disturbances: Tensor | None) -> Tensor:
    """Computes J of actions `[T, R, B, m]`, the mean over disturbances `[T, S, R, B, n]`: `[R, B]`, float64."""
    if disturbances is None:
        return problem.total_cost(open_loop(problem, actions), actions)
    spread = actions[:, None].expand(-1, disturbances.shape[1], *actions.shape[1:])
    return problem.total_cost(open_loop(problem, spread, disturbances), spread).mean(0)


def descend(problem: ShootingProblem, descent: Descent, learning_rate: float) -> Descent:
    """Takes one step."""
    actions = descent.actions.detach().requires_grad_()
    with torch.enable_grad():
        costs = expected_costs(problem, actions, descent.disturbances)
        finite = torch.isfinite(costs)
        (gradient,) = torch.autograd.grad(torch.where(finite, costs, 0.0).sum(), actions)
    costs, actions = torch.where(finite, costs.detach(), torch.inf), actions.detach()
    finite = finite & torch.isfinite(gradient).all(-1).all(0)
    better = (costs < descent.best_costs) & finite
    best = torch.where(better[..., None], actions, descent.best)
    gradient = torch.where(finite[..., None], gradient, 0.0)
    step, (first, second) = descent.num_steps + 1, _DECAYS
    mean = first * descent.mean + (1 - first) * gradient
    square = second * descent.square + (1 - second) * gradient**2
    move = mean / (1 - first**step) / ((square / (1 - second**step)).sqrt() + _EPSILON)
    moved = torch.where(finite[..., None], _within(problem, actions - learning_rate * move), best)
    residual = float((_within(problem, actions - gradient) - actions).abs().max())
    best_costs = torch.minimum(costs, descent.best_costs)
    return Descent(moved, mean, square, best, best_costs, descent.disturbances, residual, step)


def finished(problem: ShootingProblem, descent: Descent) -> Descent:
    """Gives the last step's actions, which no step has looked at yet, their chance to be the best."""
    with torch.no_grad():
        costs = expected_costs(problem, descent.actions, descent.disturbances)
    better = costs < descent.best_costs  # False for NaN
    best = torch.where(better[..., None], descent.actions, descent.best)
    return replace(descent, best=best, best_costs=torch.where(better, costs, descent.best_costs))


def _within(problem: ShootingProblem, actions: Tensor) -> Tensor:
    limits = problem.limits
    return actions if limits is None else actions.clamp(limits.low, limits.high)
