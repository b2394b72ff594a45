"""Dynamics and rewards from plain functions of tensors, differentiable by torch."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.covariance import point_mass
from cai.factors.gaussian_checks import as_vector, read_covariance


@serializable
class DifferentiableDynamics:
    """x' = f(x, u) + w, w ~ N(0, W).

    The function takes any batch, and works under `torch.func` if derivatives are to be taken. It is not written to a
    file: `cai.load(path, graph=...)` fills it from the same slot of a graph.

    Args:
        fn: f(state `[*batch, n]`, action `[*batch, m]`), the mean of the next state, `[*batch, n]`; with the time as a
            third argument if `time_varying`.
        covariance: W, `[*batch, n, n]`, symmetric and positive semi-definite; None for no noise.
        state_size: Number of state coordinates n; None where a graph tells otherwise.
        action_size: Number of action coordinates m; None where a graph tells otherwise.
        time_varying: Whether f takes the time.

    Raises:
        ValueError: Not a callable, sizes that are not positive or do not fit, or a covariance that is none.
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
        covariance: Any = None,
        *,
        state_size: int | None = None,
        action_size: int | None = None,
        time_varying: bool = False,
    ) -> None:
        name = "DifferentiableDynamics"
        if not callable(fn):
            raise ValueError(f"{name}: fn must be callable as fn(state, action), got {type(fn).__name__}")
        for what, size in (("state_size", state_size), ("action_size", action_size)):
            if size is not None and (isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1):
                raise ValueError(f"{name}: {what} must be a whole number of at least 1, got {size!r}")
        self.fn, self.time_varying = fn, time_varying
        self.action_size = None if action_size is None else int(action_size)
        self._covariance = None
        if covariance is not None:
            dtype = covariance.dtype if isinstance(covariance, Tensor) and covariance.is_floating_point() else None
            like = "a square" if state_size is None else f"state_size {state_size}"
            self._covariance = read_covariance(
                covariance, f"{name} covariance", state_size, like, dtype=dtype, time_varying=False
            )
            state_size = self._covariance.part.shape[-1]
        self.state_size = None if state_size is None else int(state_size)

    @property
    def covariance(self) -> Tensor | None:
        """W, `[*batch, n, n]`, or None for no noise."""
        return None if self._covariance is None else self._covariance.value[0]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of the covariance; the function takes any."""
        return torch.Size() if self._covariance is None else self._covariance.part.batch_shape(2)

    @property
    def num_steps(self) -> None:
        """None: it serves any number of steps."""
        return None

    def mean(self, state: Any, action: Any, t: int | Tensor = 0) -> Tensor:
        """Computes f(x, u): `[*batch, n]`.

        Args:
            state: `[*batch, n]`.
            action: `[*batch, m]`.
            t: Time; read only where the dynamics is `time_varying`.

        Raises:
            ValueError: Wrong sizes, or a function that returns something other than `[*batch, n]`.
        """
        state = as_vector(state, self.state_size, None, "DifferentiableDynamics: state")
        action = as_vector(action, self.action_size, None, "DifferentiableDynamics: action")
        mean = self.fn(state, action, t) if self.time_varying else self.fn(state, action)
        batch = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        if not isinstance(mean, Tensor) or mean.shape != (*batch, state.shape[-1]):
            found = list(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
            raise ValueError(
                f"DifferentiableDynamics: fn must return the mean of the next state, {[*batch, state.shape[-1]]}, for "
                f"state {list(state.shape)} and action {list(action.shape)}, got {found}"
            )
        return mean

    def __call__(self, state: Any, action: Any, t: int | Tensor = 0) -> torch.distributions.Distribution:
        """Gives p(x' | x, u) at time t.

        A multivariate normal where the noise is positive definite, a point mass (Pyro's Delta) without noise, else a
        `DegenerateNormal`.
        """
        mean = self.mean(state, action, t)
        return point_mass(mean) if self._covariance is None else self._covariance.around(mean, 0, type(self).__name__)

    def noise(self, state_size: int) -> Tensor | None:
        """Gives W, `[1, *batch, n, n]`, or None; see `DifferentiableFactor`."""
        if self.state_size not in (None, state_size):
            raise ValueError(f"DifferentiableDynamics: has {self.state_size} state coordinates, asked for {state_size}")
        return None if self._covariance is None else self._covariance.value

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; the function is left out."""
        return {name: getattr(self, name) for name in ("fn", "covariance", "state_size", "action_size", "time_varying")}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> DifferentiableDynamics:
        """Makes the factor of what a file gave."""
        return cls(**parts)


@serializable
class FunctionReward:
    """r(x, u) = f(x, u), in reward units.

    The function is not written to a file: `cai.load(path, graph=...)` fills it from the same slot of a graph.

    Args:
        fn: f(state `[*batch, n]`, action `[*batch, m]`), `[*batch]`; of the state alone for a `terminal_reward`; with
            the time as a last argument if `time_varying`.
        time_varying: Whether f takes the time.

    Raises:
        ValueError: Not a callable.
    """

    def __init__(self, fn: Callable[..., Tensor], *, time_varying: bool = False) -> None:
        if not callable(fn):
            raise ValueError(f"FunctionReward: fn must be callable as fn(state, action), got {type(fn).__name__}")
        self.fn, self.time_varying = fn, time_varying

    @property
    def num_steps(self) -> None:
        """None: it serves any number of steps."""
        return None

    def __call__(self, state: Any, action: Any = None, next_state: Any = None, t: int | Tensor = 0) -> Tensor:
        """Computes f(x, u), or f(x) where no action is given: `[*batch]`, reward units.

        Args:
            state: `[*batch, n]`.
            action: `[*batch, m]`, or None for a reward of the state alone.
            next_state: Not read.
            t: Time; read only where the reward is `time_varying`.

        Raises:
            ValueError: The function returns something other than `[*batch]`.
        """
        given = [as_vector(state, None, None, "FunctionReward: state")]
        if action is not None:
            given.append(as_vector(action, None, None, "FunctionReward: action"))
        reward = self.fn(*given, t) if self.time_varying else self.fn(*given)
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in given))
        if not isinstance(reward, Tensor) or reward.shape != batch:
            found = list(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
            raise ValueError(
                f"FunctionReward: fn must return one reward for each of the batch, {list(batch)}, got {found}"
            )
        return reward

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; the function is left out."""
        return {"fn": self.fn, "time_varying": self.time_varying}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> FunctionReward:
        """Makes the factor of what a file gave."""
        return cls(**parts)
