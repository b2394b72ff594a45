"""What planners of actions share: a first guess of them, their limits, and the guess that an earlier plan is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.factors.checks import as_numbers
from cai.graph.shooting import ShootingGraph
from cai.ops.gaussian.problem import with_one
from cai.ops.shooting.problem import Limits
from cai.simulate.seeding import seeded


def first_actions(given: Any, world: ShootingGraph, *, noise: float, seed: int | None, name: str) -> Tensor:
    """Gives the first guess of actions, within the limits: `[T, B, m]`.

    Args:
        given: `[*batch, T, m]`, or None for zeros; shorter ones are continued by the last action, longer ones cut.
        world: The graph, limits included.
        noise: Standard deviation of what is added, action units.
        seed: Seed of that.
        name: The method's name.

    Raises:
        ValueError: Another shape, or numbers that are not finite.
    """
    problem = world.problem
    size = (problem.horizon, problem.num_actions)
    if given is None:
        actions = problem.start.new_zeros(problem.horizon, len(problem.start), problem.num_actions)
    else:
        what = f"{name}: initial_actions"
        actions = flattened(fitted(given, problem.horizon, what), world, size, what)
    if noise:
        with seeded(seed, actions.device) as generator:
            drawn = torch.randn(actions.shape, dtype=actions.dtype, device=actions.device, generator=generator)
        actions = actions + noise * drawn
    return actions if problem.limits is None else actions.clamp(problem.limits.low, problem.limits.high)


def followed(feedback: Any, world: ShootingGraph, *, name: str) -> Tensor:
    """Gives the actions of a feedback law u = K [x; 1], followed from the start, within the limits: `[*batch, T, m]`.

    An earlier plan's actions lead elsewhere from another start than its own where the dynamics is unstable; its
    feedback leads back to it.

    Args:
        feedback: K, `[*batch, T', m, n + 1]`; after T' steps the last action is repeated.
        world: The graph, limits included.
        name: The method's name.

    Raises:
        ValueError: Another shape, or numbers that are not finite.
    """
    problem, gains = world.problem, as_numbers(feedback, f"{name}: initial_feedback").detach()
    size = (problem.num_actions, problem.start.shape[-1] + 1)
    if gains.dim() < 3 or not gains.shape[-3] or gains.shape[-2:] != size:
        raise ValueError(f"{name}: initial_feedback must be {['*batch', 'T', *size]}, got {list(gains.shape)}")
    steps = min(problem.horizon, gains.shape[-3])
    gains = flattened(
        gains[..., :steps, :, :].flatten(-2), world, (steps, math.prod(size)), f"{name}: initial_feedback"
    )
    state, actions = problem.start, []
    for t, gain in enumerate(gains.reshape(steps, -1, *size)):
        action = (gain @ with_one(state)[..., None]).squeeze(-1)
        if problem.limits is not None:
            action = action.clamp(problem.limits.low, problem.limits.high)
        actions.append(action)
        state = problem.dynamics(state, action, t)
    return torch.stack(actions, 1).reshape(*world.batch_shape, steps, -1)


def fitted(given: Any, horizon: int, name: str) -> Tensor:
    """Cuts actions `[*batch, T', m]` to T steps, or continues them by the last one.

    Raises:
        ValueError: No actions at all.
    """
    actions = as_numbers(given, name).detach()
    if actions.dim() < 2 or not actions.shape[-2]:
        raise ValueError(f"{name}: expected [*batch, T, m], got {list(actions.shape)}")
    missing = horizon - actions.shape[-2]
    if missing <= 0:
        return actions[..., :horizon, :]
    return torch.cat([actions, actions[..., -1:, :].expand(*actions.shape[:-2], missing, -1)], -2)


def flattened(given: Any, world: ShootingGraph, size: tuple[int, int], name: str) -> Tensor:
    """Makes a guess `[*batch, steps, k]` of a batch of graphs time-first: `[steps, B, k]`.

    Raises:
        ValueError: Another shape, or numbers that are not finite.
    """
    start, guess = world.problem.start, as_numbers(given, name).detach()
    expected = torch.Size((*world.batch_shape, *size))
    try:
        guess = guess.to(start).expand(expected)
    except RuntimeError:
        raise ValueError(
            f"{name}: expected {list(expected)}, or what broadcasts to it, got {list(guess.shape)}"
        ) from None
    if not torch.isfinite(guess).all():
        raise ValueError(f"{name}: there are numbers that are not finite")
    return guess.reshape(-1, *size).transpose(0, 1).contiguous()


def limits_given(limits: Any, world: ShootingGraph, name: str) -> Limits | None:
    """Gives the bounds of the actions: those of the action space and those given, (low, high), whichever are closer.

    Raises:
        ValueError: No pair, other sizes than the actions', or nothing between the bounds.
    """
    own, like = world.problem.limits, world.problem.start
    if limits is None:
        return own
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        raise ValueError(f"{name}: limits must be a pair (low, high), got {limits!r}")
    m = world.problem.num_actions
    low, high = (as_numbers(bound, f"{name}: limits").to(like) for bound in limits)
    if any(bound.shape not in ((), (m,)) or torch.isnan(bound).any() for bound in (low, high)):
        raise ValueError(f"{name}: limits must be numbers or [{m}] each, got {limits!r}")
    low, high = low.expand(m), high.expand(m)
    if own is not None:
        low, high = torch.maximum(low, own.low), torch.minimum(high, own.high)
    if (low > high).any():
        where = int((low > high).nonzero()[0])
        raise ValueError(f"{name}: no action coordinate {where} lies between {low[where]:g} and {high[where]:g}")
    return None if torch.isinf(low).all() and torch.isinf(high).all() else Limits(low.clone(), high.clone())


def shifted(plan: Tensor, shift: int, *, dim: int = -2) -> Tensor:
    """Gives what is left of a plan `[*batch, T, m]` after some steps, at least its last action.

    Args:
        plan: Actions, or other things of each step.
        shift: The number of steps.
        dim: The dimension of time.

    Raises:
        ValueError: A negative number of steps.
    """
    if shift < 0 or shift != math.floor(shift):
        raise ValueError(f"warm_started: shift must be a whole number of at least 0, got {shift}")
    shift = min(int(shift), plan.shape[dim] - 1)
    return plan.narrow(dim, shift, plan.shape[dim] - shift)
