"""A trajectory graph with differentiable factors, read as a problem of trajectory optimisation; costs are -rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import gymnasium
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.factors.differentiable import DifferentiableDynamics, FunctionReward
from cai.factors.linear_parts import with_batch_dims
from cai.factors.policy import FlatPrior, UniformPolicy
from cai.factors.protocols import (
    Batched,
    DifferentiableFactor,
    GaussianInitial,
    GaussianPrior,
    LinearDynamics,
    QuadraticFactor,
)
from cai.graph.quadratics import prior_form
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.shooting import parts
from cai.ops.shooting.laplace import Surroundings
from cai.ops.shooting.problem import Cost, Dynamics, Limits, ShootingProblem, SumOfCosts
from cai.ops.tables import as_number, is_hard

#: fn(state, action, t), `[..., B, n]` and `[..., B, m]`.
_Function = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True, eq=False)
class ShootingGraph:
    """A graph read as a trajectory optimisation problem.

    Attributes:
        problem: The problem, its batch in one dimension.
        batch_shape: The batch dimensions of the graph.
        reward_cost: The cost without what comes from an action prior.
        prior: What comes from it, z'Mz/2 with z = [x; 1; u], `[T or 1, B or 1, d, d]`, or None.
        is_linear_quadratic: Whether nothing has to be linearised.
    """

    problem: ShootingProblem
    batch_shape: torch.Size
    reward_cost: Cost
    prior: Tensor | None
    is_linear_quadratic: bool

    def rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives the reward of each step, and that of the last state: `[T + 1, B]`, reward units.

        Args:
            states: `[T + 1, B, n]`.
            actions: `[T, B, m]`.
        """
        return -replace(self.problem, cost=self.reward_cost).costs(states, actions)


def need_differentiable(graph: TrajectoryGraph, name: str) -> None:
    """Raises `IncompatibleMethod` where a factor cannot be differentiated or the horizon is infinite."""
    if not isinstance(graph.dynamics, DifferentiableFactor):
        found = "None" if graph.dynamics is None else type(graph.dynamics).__name__
        raise IncompatibleMethod(
            f"{name} needs dynamics that can be differentiated, cai.factors.DifferentiableDynamics or "
            f"LinearGaussianDynamics, got {found}; SoftValueIteration and SumProduct take tables"
        )
    for slot in ("initial", "reward"):
        if getattr(graph, slot) is None:
            raise IncompatibleMethod(f"{name} needs the graph's {slot}, which is None")
    if not isinstance(graph.initial, GaussianInitial):
        raise IncompatibleMethod(
            f"{name} needs a first state that is known or Gaussian, cai.factors.Delta or Gaussian, got "
            f"{type(graph.initial).__name__}"
        )
    if graph.horizon is None:
        raise IncompatibleMethod(
            f"{name} needs a finite horizon; for an infinite one plan again and again: "
            "cai.plan.ReplanningPolicy(graph, method, horizon=...)"
        )
    for slot in ("state_space", "action_space"):
        if not isinstance(getattr(graph, slot), gymnasium.spaces.Box):
            raise IncompatibleMethod(
                f"{name} needs to know how many coordinates the {slot.split('_')[0]} has: give "
                "DifferentiableDynamics(..., state_size=, action_size=) or the graph's state_space= and action_space="
            )
    if not isinstance(graph.action_prior, GaussianPrior | FlatPrior | UniformPolicy | None):
        raise IncompatibleMethod(
            f"{name} takes a flat, uniform or Gaussian action prior (None, FlatPrior, Gaussian, LinearGaussianPolicy), "
            f"got {type(graph.action_prior).__name__}"
        )
    if graph.evidence:
        raise IncompatibleMethod(f"{name} takes no evidence on states or actions; put a penalty into the reward")


def shooting_graph(graph: TrajectoryGraph) -> ShootingGraph:
    """Reads a graph that `need_differentiable` has passed.

    Functions of a user are asked once, for what they return: something of another shape is refused here.

    Raises:
        ValueError: A function does not return one next state, or one reward, for each of the batch.
    """
    n, m = _sizes(graph)
    start = graph.initial.initial_moments(n).mean.detach()
    slots = [getattr(graph, slot) for slot in ("dynamics", "initial", "reward", "terminal_reward", "action_prior")]
    shapes = [slot.batch_shape for slot in slots if isinstance(slot, Batched)]
    batch = torch.broadcast_shapes(start.shape[:-1], *shapes)
    matrices, functions = _matrices(graph, n, m), _functions(graph)
    start = start.to(reduce(torch.promote_types, (part.dtype for part in matrices.values()), start.dtype))
    start = start.expand(*batch, n).reshape(-1, n)
    divisible = len(start) > 1 and _stands_alone(functions, start[:1], m)
    if not divisible and len(batch) > 1:
        functions = {slot: _unflattened(function, batch) for slot, function in functions.items()}
    start = start.to(_checked(functions, start, m))
    _try_out_times(functions, start, m, int(graph.horizon))  # type: ignore[arg-type]
    forms = {slot: _flat(part, batch).to(start) for slot, part in matrices.items()}
    dynamics: Dynamics = (
        parts.LinearDynamics(forms["dynamics"])
        if "dynamics" in forms
        else parts.FunctionDynamics(functions["dynamics"])
    )
    cost, end = (
        parts.QuadraticCost(forms[slot])
        if slot in forms
        else parts.FunctionCost(functions[slot], f"the {slot.replace('_', ' ')}")
        for slot in ("reward", "terminal_reward")
    )
    prior = forms.get("action_prior")
    problem = ShootingProblem(
        dynamics=dynamics,
        cost=cost if prior is None else SumOfCosts((cost, parts.QuadraticCost(prior))),
        end=end,
        start=start,
        num_actions=m,
        horizon=int(graph.horizon),  # type: ignore[arg-type]
        discount=graph.discount,
        limits=_limits(graph, start),
        divisible=divisible,
    )
    if prior is not None:
        order = [*range(m, m + n + 1), *range(m)]
        prior = prior[..., order, :][..., order]
    return ShootingGraph(problem, batch, cost, prior, not functions)


def surroundings(graph: TrajectoryGraph, world: ShootingGraph) -> Surroundings:
    """Gives what a graph has beside costs and the mean of its dynamics; see `cai.ops.shooting.laplace`."""
    start, batch = world.problem.start, world.batch_shape
    n = start.shape[-1]
    noise, spread = graph.dynamics.noise(n), graph.initial.initial_moments(n).covariance
    if noise is not None:
        noise = _flat(noise.detach(), batch).to(start)
    if spread is not None:
        spread = spread.detach().to(start).expand(*batch, n, n).reshape(-1, n, n)
    volume = 0.0
    if graph.action_prior is None or isinstance(graph.action_prior, UniformPolicy):
        limits = _limits(graph, start.double())
        width = start.new_ones(1) if limits is None else limits.high - limits.low
        volume = float(torch.where(torch.isinf(width), 1.0, width).log().sum())
    return Surroundings(as_number(graph.temperature), noise, spread, world.prior, volume)


def _sizes(graph: TrajectoryGraph) -> tuple[int, int]:
    spaces = (graph.state_space, graph.action_space)
    n, m = (space.shape[0] for space in spaces)  # type: ignore[union-attr, index]
    return n, m


def _limits(graph: TrajectoryGraph, like: Tensor) -> Limits | None:
    """Gives the bounds of the action space, or None where all are infinite."""
    assert isinstance(graph.action_space, gymnasium.spaces.Box)
    low, high = (torch.as_tensor(bound).to(like) for bound in (graph.action_space.low, graph.action_space.high))
    return None if torch.isinf(low).all() and torch.isinf(high).all() else Limits(low, high)


def _matrices(graph: TrajectoryGraph, n: int, m: int) -> dict[str, Tensor]:
    """What is linear or quadratic, by slot, controls first: `[T or 1, *batch, rows, columns]`, without gradients."""
    found = {}
    order = [*range(n + 1, n + 1 + m), *range(n + 1)]  # of [x; 1; u], to have [u; x; 1]
    if isinstance(graph.dynamics, LinearDynamics):
        linear = graph.dynamics.linear_parts()
        found["dynamics"] = torch.cat([linear.b, linear.a, linear.offset[..., None]], -1)
    if isinstance(graph.reward, QuadraticFactor):
        found["reward"] = graph.reward.quadratic_parts(n, m).form[..., order, :][..., order]
    if isinstance(graph.terminal_reward, QuadraticFactor):
        found["terminal_reward"] = graph.terminal_reward.terminal_form(n)[None]
    elif graph.terminal_reward is None:
        found["terminal_reward"] = torch.zeros(1, n + 1, n + 1)
    if isinstance(graph.action_prior, GaussianPrior) and not is_hard(graph.temperature):
        form = prior_form(graph.action_prior.prior_parts(n, m), graph.temperature)
        found["action_prior"] = form[..., order, :][..., order]
    return {slot: part.detach() for slot, part in found.items()}


def _functions(graph: TrajectoryGraph) -> dict[str, _Function]:
    """What is a function of the user's, by slot; rewards with the sign of costs."""
    found: dict[str, _Function] = {}
    if not isinstance(graph.dynamics, LinearDynamics):
        found["dynamics"] = _mean(graph.dynamics)
    if not isinstance(graph.reward, QuadraticFactor):
        found["reward"] = _cost(graph.reward)
    if graph.terminal_reward is not None and not isinstance(graph.terminal_reward, QuadraticFactor):
        found["terminal_reward"] = _end_cost(graph.terminal_reward)
    return found


def _mean(dynamics: Any) -> _Function:
    if not isinstance(dynamics, DifferentiableDynamics):
        return _Timed(dynamics.mean)
    fn = dynamics.fn  # the checks of `mean` would cost as much as a small model
    return _Timed(fn) if dynamics.time_varying else lambda state, action, t: fn(state, action)


def _cost(reward: Any) -> _Function:
    if not isinstance(reward, FunctionReward):
        return lambda state, action, t: -reward(state, action)
    fn = reward.fn
    if reward.time_varying:
        return _Timed(lambda state, action, t: -fn(state, action, t))
    return lambda state, action, t: -fn(state, action)


def _end_cost(reward: Any) -> _Function:
    if isinstance(reward, FunctionReward) and reward.time_varying:
        return _Timed(lambda state, action, t: -reward.fn(state, t))
    return lambda state, action, t: -reward(state)


class _Timed:
    """A function that reads the time: a number step by step, and a tensor `[T, 1, ...]` for all steps at once.

    Where the function does not take tensors (`math.sin(t)`), or does not mean the same by them (`state + t` adds along
    another axis), it is asked step by step there too: `try_out` sees to that.
    """

    def __init__(self, fn: _Function) -> None:
        self.fn = fn
        self._takes_tensors = False

    def __call__(self, state: Tensor, action: Tensor, t: Any) -> Tensor:
        if not isinstance(t, Tensor) or self._takes_tensors:
            return self.fn(state, action, t)
        steps = zip(state.unbind(0), action.unbind(0), t.flatten().tolist(), strict=True)
        return torch.stack([self.fn(*step) for step in steps])

    def try_out(self, state: Tensor, action: Tensor, t: Tensor) -> None:
        """Compares the two ways at states `[T, *batch, n]`, actions `[T, *batch, m]` and times `[T, 1, ...]`."""
        alone = self(state, action, t)
        try:
            together = self.fn(state, action, t)
        except (TypeError, ValueError, RuntimeError, IndexError):
            return
        same = together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-6, equal_nan=True)
        self._takes_tensors = same


def _stands_alone(functions: dict[str, _Function], state: Tensor, num_actions: int) -> bool:
    """Whether all functions answer for one element of the batch, `[1, n]`."""
    try:
        shapes = {slot: value.shape for slot, value in _values(functions, state, num_actions).items()}
    except (RuntimeError, ValueError, IndexError):
        return False
    return all(shape == (state.shape if slot == "dynamics" else (1,)) for slot, shape in shapes.items())


def _checked(functions: dict[str, _Function], start: Tensor, num_actions: int) -> torch.dtype:
    """Gives the type in which states, and what functions make of them, fit together."""
    dtype = start.dtype
    for slot, value in _values(functions, start, num_actions).items():
        expected = start.shape if slot == "dynamics" else start.shape[:1]
        what = "the mean of the next state" if slot == "dynamics" else "one reward for each of the batch"
        if not isinstance(value, Tensor) or value.shape != expected:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{slot}: expected {what}, {list(expected)}, for states {list(start.shape)} and actions "
                f"{[len(start), num_actions]}, got {found}"
            )
        if not value.is_floating_point():
            raise ValueError(f"{slot}: expected {what} as floating numbers, got {value.dtype}")
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def _values(functions: dict[str, _Function], state: Tensor, num_actions: int) -> dict[str, Tensor]:
    with torch.no_grad():
        action = state.new_zeros(len(state), num_actions)
        return {slot: function(state, action, 0) for slot, function in functions.items()}


def _unflattened(function: _Function, batch: torch.Size) -> _Function:
    """Asks a function that refers to tensors of the whole batch with the batch dimensions that it knows."""
    inner = function.fn if isinstance(function, _Timed) else function

    def asked(state: Tensor, action: Tensor, t: Any) -> Tensor:
        if isinstance(t, Tensor):
            t = t.reshape(*t.shape, *[1] * (len(batch) - 1))
        lead = state.shape[:-2]
        states, actions = (part.reshape(*lead, *batch, part.shape[-1]) for part in (state, action))
        value = inner(states, actions, t)
        return value.reshape(*lead, -1, *value.shape[len(lead) + len(batch) :])

    return _Timed(asked) if isinstance(function, _Timed) else asked


def _try_out_times(functions: dict[str, _Function], start: Tensor, num_actions: int, horizon: int) -> None:
    """Lets functions of time show whether they take all times at once."""
    times = torch.arange(horizon, device=start.device)[:, None]
    states = start.expand(horizon, *start.shape)
    with torch.no_grad():
        for function in functions.values():
            if isinstance(function, _Timed):
                function.try_out(states, states.new_zeros(*states.shape[:-1], num_actions), times)


def _flat(part: Tensor, batch: torch.Size) -> Tensor:
    """Makes the batch of `[T or 1, *batch, rows, columns]` one dimension, of one where all elements are alike."""
    part = with_batch_dims(part, len(batch), 2)
    if all(size == 1 for size in part.shape[1:-2]):
        return part.reshape(len(part), 1, *part.shape[-2:])
    return part.expand(len(part), *batch, *part.shape[-2:]).reshape(len(part), -1, *part.shape[-2:])
