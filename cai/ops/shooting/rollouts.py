"""Rollouts of affine feedback around a trajectory, for all step sizes of a line search at once.

    u_t = clamp(u*_t + a k_t + K_t (x_t - x*_t), low, high),     x_{t+1} = f_t(x_t, u_t) - (1 - a) d_t

where d_t = f(x*_t, u*_t) - x*_{t+1} is the gap of a trajectory that does not keep to the dynamics (multiple shooting):
a full step closes all gaps, a step of size a leaves the share 1 - a of each.

Source: Tassa, Erez and Todorov (2012), equation 8; Mastalli et al. (2020), section III, for the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.shooting.problem import ShootingProblem


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Trajectories of L step sizes.

    Attributes:
        states: `[T + 1, L, B, n]`.
        actions: `[T, L, B, m]`.
        costs: `[L, B]`, float64; not finite where a trajectory left all bounds.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor


def open_loop(problem: ShootingProblem, actions: Tensor, disturbances: Tensor | None = None) -> Tensor:
    """Runs actions `[T, *lead, B, m]` from the start: states, `[T + 1, *lead, B, n]`.

    Args:
        problem: The problem.
        actions: The actions.
        disturbances: What noise adds to each state, `[T, *lead, B, n]`, or None.
    """
    state = problem.start.expand(*actions.shape[1:-1], problem.start.shape[-1])
    states = [state]
    for t, action in enumerate(actions.unbind(0)):
        state = problem.dynamics(state, action, t)
        if disturbances is not None:
            state = state + disturbances[t]
        states.append(state)
    return torch.stack(states)


def closed_loop(
    problem: ShootingProblem, states: Tensor, actions: Tensor, gains: Tensor, step_sizes: Tensor, gaps: Tensor | None
) -> Rollouts:
    """Runs affine feedback around a trajectory.

    Args:
        problem: The problem.
        states: x*, `[T + 1, B, n]`.
        actions: u*, `[T, B, m]`.
        gains: [K k], `[T, B, m, n + 1]`.
        step_sizes: a, `[L]`.
        gaps: d, `[T, B, n]`, or None where there are none.
    """
    n = states.shape[-1]
    steady = actions - (gains[..., :n] @ states[:-1, ..., None]).squeeze(-1)
    sizes = step_sizes[:, None]
    plans = (steady[:, :, None] + sizes * gains[:, :, None, :, n]).unbind(0)  # [T][B, L, m]
    feedback = gains[..., :n].mT.unbind(0)
    left = None if gaps is None else ((1.0 - sizes[..., None]) * gaps[:, None]).unbind(0)  # [T][L, B, n]
    state = problem.start.expand(len(step_sizes), *problem.start.shape)
    visited, taken = [state], []
    for t in range(problem.horizon):
        action = torch.baddbmm(plans[t], state.transpose(0, 1), feedback[t]).transpose(0, 1)
        if problem.limits is not None:
            action = action.clamp(problem.limits.low, problem.limits.high)
        state = problem.dynamics(state, action, t)
        if left is not None:
            state = state - left[t]
        visited.append(state)
        taken.append(action)
    all_states, all_actions = torch.stack(visited), torch.stack(taken)
    return Rollouts(all_states, all_actions, problem.total_cost(all_states, all_actions))
