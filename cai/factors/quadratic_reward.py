"""Rewards that are quadratic in state and action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.gaussian_checks import aligned, as_vector, batches_of, common_batch, common_steps, read_part
from cai.factors.linear_parts import QuadraticParts, part_at, times
from cai.factors.part import Part, keeps_answers
from cai.ops.gaussian.problem import block_matrix, homogeneous_form, symmetric

_NAME = "QuadraticReward"
_AXES: dict[str, tuple[str, ...]] = {
    "Q": ("n", "n"),
    "R": ("m", "m"),
    "cross": ("m", "n"),
    "q": ("n",),
    "r": ("m",),
    "constant": (),
}
_EVENT_DIMS = {name: len(axes) for name, axes in _AXES.items()}


@serializable
class QuadraticReward:
    """r(x, u) = -(x'Qx + 2 u'Nx + u'Ru) / 2 - q'x - r'u + k, in reward units.

    Of Q and R only the symmetric parts matter, and these are kept. They need not be definite; a method says so where
    the problem has no answer.

    Args:
        Q: `[*batch, n, n]`.
        R: `[*batch, m, m]`; None for a reward of the state alone, such as a `terminal_reward`.
        cross: N, `[*batch, m, n]`; zero by default.
        q: `[*batch, n]`; zero by default.
        r: `[*batch, m]`; zero by default.
        constant: k, `[*batch]`; zero by default.
        dtype: float64 by default.

    Raises:
        ValueError: Shapes that do not fit, entries that are not finite, or `cross` or `r` without R.
    """

    def __init__(
        self,
        Q: Any,
        R: Any = None,
        cross: Any = None,
        q: Any = None,
        r: Any = None,
        constant: Any = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        given = {"Q": Q, "R": R, "cross": cross, "q": q, "r": r, "constant": constant}
        self._set(given, dtype=dtype, time_varying=False)

    @classmethod
    def per_step(
        cls,
        Q: Any,
        R: Any = None,
        cross: Any = None,
        q: Any = None,
        r: Any = None,
        constant: Any = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> QuadraticReward:
        """Makes a reward that changes with time.

        Args:
            Q: `[T, *batch, n, n]`; a time axis of 1, here and below, serves all steps.
            R: `[T, *batch, m, m]`.
            cross: `[T, *batch, m, n]`.
            q: `[T, *batch, n]`.
            r: `[T, *batch, m]`.
            constant: `[T, *batch]`.
            dtype: float64 by default.
        """
        reward = cls.__new__(cls)
        given = {"Q": Q, "R": R, "cross": cross, "q": q, "r": r, "constant": constant}
        reward._set(given, dtype=dtype, time_varying=True)
        return reward

    @classmethod
    def around(
        cls, state: Any, Q: Any, R: Any = None, *, action: Any = None, dtype: torch.dtype | None = None
    ) -> QuadraticReward:
        """Makes -((x - g)'Q(x - g) + (u - h)'R(u - h)) / 2, which is greatest at state g and action h.

        Args:
            state: g, `[*batch, n]`.
            Q: `[*batch, n, n]`.
            R: `[*batch, m, m]`; None for a reward of the state alone.
            action: h, `[*batch, m]`; zero by default.
            dtype: float64 by default.
        """
        plain = cls(Q, R, dtype=dtype)
        goal = as_vector(state, plain.state_size, plain.Q, f"{_NAME}.around: state")
        pull = times(plain.Q, goal)
        constant = -0.5 * (pull * goal).sum(-1)
        if action is None:
            return cls(Q, R, q=-pull, constant=constant, dtype=dtype)
        if plain.R is None:
            raise ValueError(f"{_NAME}.around: an action is given without R")
        aim = as_vector(action, plain.action_size, plain.R, f"{_NAME}.around: action")
        push = times(plain.R, aim)
        return cls(Q, R, q=-pull, r=-push, constant=constant - 0.5 * (push * aim).sum(-1), dtype=dtype)

    def _set(self, given: dict[str, Any], *, dtype: torch.dtype | None, time_varying: bool) -> None:
        if given["R"] is None and (extra := next((x for x in ("cross", "r") if given[x] is not None), None)):
            raise ValueError(f"{_NAME}: {extra} is given without R; a reward of the state alone has neither")
        self._parts: dict[str, Part] = {
            name: read_part(value, f"{_NAME} {name}", _AXES[name], dtype=dtype, time_varying=time_varying)
            for name, value in given.items()
            if value is not None
        }
        known = {"n": self._parts["Q"].shape[-1], "m": self._parts["R"].shape[-1] if "R" in self._parts else None}
        for name, part in self._parts.items():
            found = list(part.shape[len(part.shape) - _EVENT_DIMS[name] :])
            if found != [known[axis] for axis in _AXES[name]]:
                raise ValueError(f"{_NAME} {name} is {found}, {_expected(name, self._parts)}")
        self.state_size: int = self._parts["Q"].shape[-1]
        self.action_size: int | None = known["m"]
        self._form: Tensor | None = None
        self.time_varying, self._steps = time_varying, common_steps(_NAME, self._parts)
        self._batch = common_batch(_NAME, batches_of(self._parts, _EVENT_DIMS))

    @property
    def Q(self) -> Tensor:
        """Q, symmetric, `[*batch, n, n]`; here and below a time axis comes first where the reward changes with time."""
        return symmetric(self._shown("Q"))

    @property
    def R(self) -> Tensor | None:
        """R, symmetric, `[*batch, m, m]`, or None for a reward of the state alone."""
        return symmetric(self._shown("R")) if "R" in self._parts else None

    @property
    def cross(self) -> Tensor | None:
        """N, `[*batch, m, n]`, or None for zero."""
        return self._shown("cross") if "cross" in self._parts else None

    @property
    def q(self) -> Tensor | None:
        """q, `[*batch, n]`, or None for zero."""
        return self._shown("q") if "q" in self._parts else None

    @property
    def r(self) -> Tensor | None:
        """r, `[*batch, m]`, or None for zero."""
        return self._shown("r") if "r" in self._parts else None

    @property
    def constant(self) -> Tensor | None:
        """k, `[*batch]`, or None for zero."""
        return self._shown("constant") if "constant" in self._parts else None

    def _shown(self, name: str) -> Tensor:
        return self._parts[name].shown

    @property
    def batch_shape(self) -> torch.Size:
        """The batch of all parts together."""
        return self._batch

    @property
    def num_steps(self) -> int | None:
        """The number of steps T that the reward is for, or None where it serves all."""
        return self._steps

    def __call__(self, state: Any, action: Any = None, next_state: Any = None, t: int | Tensor = 0) -> Tensor:
        """Computes r(x, u) at time t, reward units: the shape that the batches of state and action broadcast to.

        Args:
            state: `[..., n]`.
            action: `[..., m]`; not read by a reward of the state alone.
            next_state: Not read.
            t: Time; a tensor broadcasts with the batch.
        """
        at = {name: part_at(part.value, t, _EVENT_DIMS[name], _NAME) for name, part in self._parts.items()}
        x = as_vector(state, self.state_size, at["Q"], f"{_NAME}: state")
        reward = -0.5 * (times(at["Q"], x) * x).sum(-1)
        if "q" in at:
            reward = reward - (at["q"] * x).sum(-1)
        if "constant" in at:
            reward = reward + at["constant"]
        if "R" not in at:
            return reward
        if action is None:
            raise ValueError(f"{_NAME}: this reward is of (state, action) and needs action")
        u = as_vector(action, self.action_size, at["R"], f"{_NAME}: action")
        reward = reward - 0.5 * (times(at["R"], u) * u).sum(-1)
        if "cross" in at:
            reward = reward - (times(at["cross"], x) * u).sum(-1)
        return reward - (at["r"] * u).sum(-1) if "r" in at else reward

    def quadratic_parts(self, state_size: int, action_size: int) -> QuadraticParts:
        """Gives the symmetric form over [x; 1; u]; see `QuadraticFactor`."""
        if (self.state_size, self.action_size or action_size) != (state_size, action_size):
            raise ValueError(
                f"reward: {_NAME} is for {self.state_size} state and {self.action_size} action coordinates, the "
                f"dynamics has {state_size} and {action_size}"
            )
        if self._form is None or self._form.shape[-1] != state_size + 1 + action_size:
            form = self._whole_form(action_size)
            if not keeps_answers(list(self._parts.values())):
                return QuadraticParts(form)
            self._form = form  # kept for the next question: of a long horizon it costs as much as a solve
        return QuadraticParts(self._form)

    def _whole_form(self, action_size: int) -> Tensor:
        if self.action_size is None:
            return torch.nn.functional.pad(self._state_form(), (0, action_size, 0, action_size))
        of_states, of_actions = symmetric(self._laid("Q")), symmetric(self._laid("R"))
        q, r, cross = self._laid("q")[..., None], self._laid("r")[..., None], self._laid("cross")
        corner = -2.0 * self._laid("constant")[..., None, None]
        return block_matrix([[of_states, q, cross.mT], [q.mT, corner, r.mT], [cross, r, of_actions]])

    def terminal_form(self, state_size: int) -> Tensor:
        """Gives the symmetric form over [x; 1] of a reward of the state alone; see `QuadraticFactor`."""
        if self.state_size != state_size:
            raise ValueError(f"terminal_reward: {_NAME} is for {self.state_size} state coordinates, not {state_size}")
        if self.action_size is not None or self.num_steps is not None:
            raise ValueError("terminal_reward: expected a reward of states alone, QuadraticReward(Q_T), of one time")
        return self._state_form()[0]

    def _state_form(self) -> Tensor:
        return homogeneous_form(symmetric(self._laid("Q")), self._laid("q"), -self._laid("constant"))

    def _laid(self, name: str) -> Tensor:
        """Gives a part, or zeros in its place, as `[T or 1, *batch, *event]` with the factor's batch dimensions."""
        if name in self._parts:
            return aligned(self._parts[name].value, self._batch, _EVENT_DIMS[name])
        sizes = {"n": self.state_size, "m": self.action_size or 0}
        event = [sizes[axis] for axis in _AXES[name]]
        return self._parts["Q"].value.new_zeros(1, *[1] * len(self._batch), *event)

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs."""
        return {"parts": {name: self._shown(name) for name in self._parts}, "time_varying": self.time_varying}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> QuadraticReward:
        """Makes the factor of what a file gave."""
        reward = cls.__new__(cls)
        given = dict.fromkeys(_EVENT_DIMS) | parts["parts"]
        reward._set(given, dtype=given["Q"].dtype, time_varying=parts["time_varying"])
        return reward


def _expected(name: str, parts: dict[str, Part]) -> str:
    if name in ("Q", "R"):
        return "and must be square"
    sizes = {axis: parts["Q" if axis == "n" else "R"].shape[-1] for axis in _AXES[name]}
    like = " and ".join(f"{'Q' if axis == 'n' else 'R'} [{size}, {size}]" for axis, size in sizes.items())
    needed = [sizes[axis] for axis in _AXES[name]]
    return f"{like} {'need' if len(sizes) > 1 else 'needs'} {needed}"
