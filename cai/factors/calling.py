"""Calling factors of any kind at a time step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


def at_time(factor: Any, t: int) -> Callable[..., Any]:
    """Fixes the time of a factor that changes with it; any other is called without."""
    changes = getattr(factor, "time_varying", False) or getattr(factor, "num_steps", None) is not None
    return partial(factor, t=t) if changes else factor


def reward_of_transition(reward: Any) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Gives r(s, a) or r(s, a, s'), as the reward's signature asks, as a function of (t, s, a, s')."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(reward).parameters.values()
    takes_next = sum(p.kind in kinds for p in parameters) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)

    def reward_of(t: int, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
        arguments = (state, action, following) if takes_next else (state, action)
        return torch.as_tensor(at_time(reward, t)(*arguments))

    return reward_of
