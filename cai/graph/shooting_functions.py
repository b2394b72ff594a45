"""Functions of a user's in a graph, asked for whole batches, many step sizes and all times of a trajectory at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cai.factors.differentiable import DifferentiableDynamics, FunctionReward
from cai.factors.protocols import LinearDynamics, QuadraticFactor
from cai.graph.trajectory_graph import TrajectoryGraph

#: fn(state, action, t), `[..., B, n]` and `[..., B, m]`.
PointFunction = Callable[[Tensor, Tensor, Any], Tensor]


def user_functions(graph: TrajectoryGraph) -> dict[str, PointFunction]:
    """What is a function of the user's, by slot; rewards with the sign of costs."""
    found: dict[str, PointFunction] = {}
    if not isinstance(graph.dynamics, LinearDynamics):
        found["dynamics"] = _mean(graph.dynamics)
    if not isinstance(graph.reward, QuadraticFactor):
        found["reward"] = _cost(graph.reward)
    if graph.terminal_reward is not None and not isinstance(graph.terminal_reward, QuadraticFactor):
        found["terminal_reward"] = _end_cost(graph.terminal_reward)
    return found


def _mean(dynamics: Any) -> PointFunction:
    if not isinstance(dynamics, DifferentiableDynamics):
        return _Timed(dynamics.mean)
    fn = dynamics.fn  # the checks of `mean` would cost as much as a small model
    return _Timed(fn) if dynamics.time_varying else lambda state, action, t: fn(state, action)


def _cost(reward: Any) -> PointFunction:
    if not isinstance(reward, FunctionReward):
        return lambda state, action, t: -reward(state, action)
    fn = reward.fn
    if reward.time_varying:
        return _Timed(lambda state, action, t: -fn(state, action, t))
    return lambda state, action, t: -fn(state, action)


def _end_cost(reward: Any) -> PointFunction:
    if isinstance(reward, FunctionReward) and reward.time_varying:
        return _Timed(lambda state, action, t: -reward.fn(state, t))
    return lambda state, action, t: -reward(state)


class _Timed:
    """A function that reads the time: a number step by step, and a tensor `[T, 1, ...]` for all steps at once.

    Where the function does not take tensors (`math.sin(t)`), or does not mean the same by them (`state + t` adds along
    another axis), it is asked step by step there too: `try_out` sees to that.
    """

    def __init__(self, fn: PointFunction) -> None:
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


def stands_alone(functions: dict[str, PointFunction], state: Tensor, num_actions: int) -> bool:
    """Whether all functions answer for one element of the batch, `[1, n]`, and not for all of it always."""
    try:
        shapes = {slot: value.shape for slot, value in _values(functions, state, num_actions).items()}
    except (RuntimeError, ValueError, IndexError):
        return False
    return all(shape == (state.shape if slot == "dynamics" else (1,)) for slot, shape in shapes.items())


def checked_dtype(functions: dict[str, PointFunction], start: Tensor, num_actions: int) -> torch.dtype:
    """Gives the type in which states `[B, n]`, and what functions make of them, fit together.

    Raises:
        ValueError: A function does not return one next state, or one reward, for each of the batch.
    """
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


def _values(functions: dict[str, PointFunction], state: Tensor, num_actions: int) -> dict[str, Tensor]:
    with torch.no_grad():
        action = state.new_zeros(len(state), num_actions)
        return {slot: function(state, action, 0) for slot, function in functions.items()}


def unflattened(function: PointFunction, batch: torch.Size) -> PointFunction:
    """Asks a function that refers to tensors of the whole batch with the batch dimensions that it knows.

    Args:
        function: Of `[..., *batch, n]`.
        batch: The batch dimensions.

    Returns:
        The function of `[..., B, n]`, B the number of elements of the batch.
    """
    inner = function.fn if isinstance(function, _Timed) else function

    def asked(state: Tensor, action: Tensor, t: Any) -> Tensor:
        if isinstance(t, Tensor):
            t = t.reshape(*t.shape, *[1] * (len(batch) - 1))
        lead = state.shape[:-2]
        states, actions = (part.reshape(*lead, *batch, part.shape[-1]) for part in (state, action))
        value = inner(states, actions, t)
        return value.reshape(*lead, -1, *value.shape[len(lead) + len(batch) :])

    return _Timed(asked) if isinstance(function, _Timed) else asked


def try_out_times(functions: dict[str, PointFunction], start: Tensor, num_actions: int, horizon: int) -> None:
    """Lets functions of time show whether they take all times at once."""
    times = torch.arange(horizon, device=start.device)[:, None]
    states = start.expand(horizon, *start.shape)
    with torch.no_grad():
        for function in functions.values():
            if isinstance(function, _Timed):
                function.try_out(states, states.new_zeros(*states.shape[:-1], num_actions), times)
