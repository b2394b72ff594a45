"""States and actions of gymnasium spaces as tensors for learners, and back.

Inside a learner a discrete action is an int64 index from 0, a multi-discrete one a vector `[k]` of such indices, an
action of a box float32 in the environment's own units, flat. The environment's form has the space's shape, type and
start.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor

from cai.errors import NonFinite

#: By how much of its range a coordinate of an action may leave its box: what rounding in float32 does.
ROUNDING = 1e-5


class StateEncoding:
    """How a learner reads states of a space.

    Args:
        space: A Discrete, MultiDiscrete, MultiBinary or Box space.

    Attributes:
        space: The space.
        size: Number of float features of a state.
        num_states: Number of states of a Discrete space, else None.
        row_shape: Shape of one state.
        row_dtype: The numpy type of one state.

    Raises:
        ValueError: Another kind of space.
    """

    def __init__(self, space: gymnasium.Space | None) -> None:
        self.space = space
        self.num_states = int(space.n) if isinstance(space, Discrete) else None
        self._offsets: Tensor | None = None
        self._ends: Tensor | None = None
        if isinstance(space, Discrete):
            self._starts, self.size = int(space.start), int(space.n)
        elif isinstance(space, MultiDiscrete):
            sizes = torch.as_tensor(space.nvec).flatten()
            self._ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
            self._offsets = self._ends[:-1] - torch.as_tensor(space.start).flatten()
            self.size = int(sizes.sum())
        elif isinstance(space, Box | MultiBinary):
            self.size = math.prod(space.shape)
        else:
            raise ValueError(
                f"states: expected a Discrete, MultiDiscrete, MultiBinary or Box space, got {space}; "
                "gymnasium.wrappers.FlattenObservation makes a box of a composite one"
            )
        self.row_shape: tuple[int, ...] = tuple(space.shape or ())
        self.row_dtype = np.dtype(space.dtype)
        self._num_axes = len(self.row_shape)

    def batch_shape(self, states: Any) -> tuple[int, ...]:
        """Gives the leading dimensions of states `[*batch, *row_shape]`.

        Raises:
            ValueError: The last dimensions are not those of a state.
        """
        shape = tuple(np.shape(states) if not isinstance(states, Tensor) else states.shape)
        split = len(shape) - self._num_axes
        if split < 0 or shape[split:] != self.row_shape:
            raise ValueError(f"states: expected [*batch{''.join(f', {n}' for n in self.row_shape)}], got {list(shape)}")
        return shape[:split]

    def features(self, states: Any) -> Tensor:
        """Gives states as numbers for a network: one-hot where discrete, flat where a box.

        Args:
            states: `[*batch, *row_shape]`, a tensor or an array.

        Returns:
            float32 `[*batch, size]`, on the device of the states.

        Raises:
            ValueError: A wrong shape, or a discrete state outside the space.
        """
        batch, tensor = self.batch_shape(states), _as_tensor(states)
        if self.num_states is None and self._offsets is None:
            return tensor.reshape(*batch, self.size).to(torch.float32)
        if self._offsets is None:
            index = self._from_zero(tensor)[..., None]
        else:
            index = self._positions(tensor.reshape(*batch, -1))
        return torch.zeros(*batch, self.size, device=tensor.device).scatter_(-1, index, 1.0)

    def index(self, states: Any) -> Tensor:
        """Gives discrete states as indices from 0: int64 `[*batch]`.

        Raises:
            ValueError: The space is not Discrete, or a state outside it.
        """
        if self.num_states is None:
            raise ValueError(f"states: only those of a Discrete space have an index, the space is {self.space}")
        return self._from_zero(_as_tensor(states))

    def _from_zero(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            raise ValueError(f"states: those of {self.space} are whole numbers, got {tensor.dtype}")
        index = tensor.to(torch.int64)
        if self._starts:
            index = index - self._starts
        _check_range(index, self.size, self.space)
        return index

    def _positions(self, tensor: Tensor) -> Tensor:
        """Places of the ones among the features, of states `[*batch, k]`."""
        assert self._offsets is not None and self._ends is not None
        places = tensor.to(torch.int64) + self._offsets.to(tensor.device)
        ends = self._ends.to(tensor.device)
        if ((places < ends[:-1]) | (places >= ends[1:])).any():
            raise ValueError(f"states: {tensor.tolist()} is not within {self.space}")
        return places


class ActionEncoding:
    """How a learner writes actions of a space.

    A box is bounded in every coordinate or in none; one bounded in some, or from one side, has neither a uniform
    distribution nor a map to [-1, 1]^m that reaches all of it, and is refused.

    Args:
        space: A Discrete, MultiDiscrete, MultiBinary or Box space.

    Attributes:
        space: The space.
        is_discrete: Whether there are finitely many actions.
        sizes: Number of choices of each discrete component, `()` for a box.
        num_actions: Number of joint actions, 0 for a box.
        size: Number of coordinates m of a box, 0 where discrete.
        low: `[m]`, float32, or None where discrete or unbounded.
        high: `[m]`, float32, or None where discrete or unbounded.
        log_volume: Log of the number of actions or of the volume of the box; None where unbounded.
        row_shape: Shape of one action in the environment's form.
        row_dtype: The numpy type of one action in the environment's form.

    Raises:
        ValueError: Another kind of space, or a box that is half bounded, flat or of whole numbers.
    """

    def __init__(self, space: gymnasium.Space | None) -> None:
        self.space = space
        self.is_discrete = isinstance(space, Discrete | MultiDiscrete | MultiBinary)
        self.sizes, self.size = _sizes(space), 0
        self.num_actions = math.prod(self.sizes) if self.is_discrete else 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.log_volume: float | None = math.log(self.num_actions) if self.is_discrete else None
        if isinstance(space, Box):
            self.size = math.prod(space.shape)
            self._read_bounds(space)
        elif not self.is_discrete or space is None:
            raise ValueError(
                f"actions: expected a Discrete, MultiDiscrete, MultiBinary or Box space, got {space}; "
                "gymnasium.wrappers.TransformAction makes one of a composite space"
            )
        self._start = np.asarray(getattr(space, "start", 0))
        self._rounding = np.zeros(())
        self._shifted = bool(self._start.any())
        self.row_shape: tuple[int, ...] = tuple(space.shape or ())
        self.row_dtype = np.dtype(space.dtype)
        if isinstance(space, Box):
            self._least, self._greatest = space.low, space.high
            if self.low is not None:
                self._rounding = ROUNDING * (space.high.astype(np.float64) - space.low)
        else:
            self._least = np.broadcast_to(self._start, self.row_shape).astype(self.row_dtype)
            self._greatest = (self._least + np.reshape(self.sizes, self.row_shape) - 1).astype(self.row_dtype)

    def _read_bounds(self, space: Box) -> None:
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        if not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"actions: a box of whole numbers ({space}) is a MultiDiscrete space; declare it as one")
        below, above = np.isfinite(low), np.isfinite(high)
        if not (below | above).any():
            return
        for bad, what in ((~(below & above), "is not bounded from both sides"), (low >= high, "has no room")):
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"actions: every coordinate of a box must be bounded, or none, and coordinate {i} of {space} "
                    f"{what}: [{low[i]}, {high[i]}]; gymnasium.wrappers.TransformAction can give it other bounds"
                )
        self.log_volume = float(np.log(high - low).sum())
        self.low, self.high = (torch.tensor(bound, dtype=torch.float32) for bound in (low, high))
        self._middle, self._half = (
            torch.tensor(value, dtype=torch.float32) for value in (low / 2 + high / 2, high / 2 - low / 2)
        )

    def to_env(self, actions: Tensor) -> NDArray:
        """Gives a batch of actions in the environment's form, `[*batch, *row_shape]`.

        Args:
            actions: int64 `[*batch]` (Discrete), int64 `[*batch, k]` (several components), floating `[*batch, m]`
                (Box); what rounding put beyond a bound is put on it.

        Raises:
            ValueError: An action outside the space.
            NonFinite: A coordinate that is NaN.
        """
        array = actions.detach().cpu().numpy()
        if not isinstance(self.space, Discrete):
            array = array.reshape(*array.shape[:-1], *self.row_shape)
        array = array.astype(self.row_dtype, copy=False)
        return self.inside(array + self._start if self._shifted else array)

    def from_env(self, actions: Any) -> Tensor:
        """Gives actions `[*batch, *row_shape]` of the environment's form as the learner's; inverts `to_env`."""
        tensor = _as_tensor(actions)
        if self._shifted:
            tensor = tensor - torch.as_tensor(self._start, device=tensor.device)
        tensor = tensor.to(torch.int64 if self.is_discrete else torch.float32)
        if isinstance(self.space, Discrete):
            return tensor
        return tensor.reshape(*tensor.shape[: tensor.dim() - len(self.row_shape)], -1)

    def inside(self, actions: NDArray) -> NDArray:
        """Gives actions of the environment's form, with what rounding put beyond a bound put on it.

        Raises:
            ValueError: An action outside the space, or a wrong shape: which.
            NonFinite: A coordinate that is NaN.
        """
        if actions.shape[actions.ndim - len(self.row_shape) :] != self.row_shape:
            raise ValueError(f"actions: expected [*batch, {_list(self.row_shape)}], got {list(actions.shape)}")
        kept = np.fmin(np.fmax(actions, self._least), self._greatest)  # unlike np.minimum, not NaN for NaN
        if kept.dtype == actions.dtype and kept.tobytes() == actions.tobytes():  # three times as quick as comparing
            return actions
        self._check_rounding(actions, kept)
        return kept.astype(self.row_dtype)

    def _check_rounding(self, actions: NDArray, kept: NDArray) -> None:
        if np.isnan(actions).any():
            raise NonFinite(f"actions: row {_first_row(np.isnan(actions), self.row_shape)} is NaN")
        bad = np.abs(actions.astype(np.float64) - kept) > self._rounding
        if bad.any():
            row = _first_row(bad, self.row_shape)
            value = actions.reshape(-1, *self.row_shape)[row].tolist()
            raise ValueError(f"actions: row {row} is {value}, outside {self.space}")

    def to_joint(self, actions: Tensor) -> Tensor:
        """Gives the index of joint actions, the last component running quickest: `[*batch, k]` to `[*batch]`."""
        if isinstance(self.space, Discrete):
            return actions
        self._need_discrete()
        index = torch.zeros_like(actions[..., 0])
        for i, size in enumerate(self.sizes):
            index = index * size + actions[..., i]
        return index

    def from_joint(self, index: Tensor) -> Tensor:
        """Gives the components of joint actions; inverts `to_joint`."""
        if isinstance(self.space, Discrete):
            return index
        self._need_discrete()
        components = []
        for size in reversed(self.sizes):
            components.append(index % size)
            index = index // size
        return torch.stack(components[::-1], -1)

    def to_unit(self, actions: Tensor) -> Tensor:
        """Maps a bounded box `[*batch, m]` to [-1, 1]^m; the identity where unbounded."""
        self._need_box()
        if self.low is None:
            return actions
        return (actions - self._middle.to(actions.device)) / self._half.to(actions.device)

    def from_unit(self, units: Tensor) -> Tensor:
        """Maps [-1, 1]^m to a bounded box `[*batch, m]`; the identity where unbounded."""
        self._need_box()
        if self.low is None:
            return units
        return torch.addcmul(self._middle.to(units.device), self._half.to(units.device), units)

    def _need_discrete(self) -> None:
        if not self.is_discrete:
            raise ValueError(f"actions: those of {self.space} have no index")

    def _need_box(self) -> None:
        if self.is_discrete:
            raise ValueError(f"actions: {self.space} is not a box")


def _sizes(space: gymnasium.Space | None) -> tuple[int, ...]:
    if isinstance(space, Discrete):
        return (int(space.n),)
    if isinstance(space, MultiDiscrete):
        return tuple(int(size) for size in space.nvec.ravel())
    return (2,) * math.prod(space.shape) if isinstance(space, MultiBinary) else ()


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of one that is read-only


def _check_range(index: Tensor, size: int, space: Any) -> None:
    if not index.numel():
        return
    if index.device.type == "cpu":  # numpy's reductions cost a third of torch's on single numbers
        array = index.numpy()
        least, greatest = np.minimum.reduce(array, axis=None), np.maximum.reduce(array, axis=None)
    else:
        least, greatest = (int(end) for end in index.aminmax())
    if least < 0 or greatest >= size:
        bad = int(least) if least < 0 else int(greatest)
        raise ValueError(f"states: {bad + int(space.start)} is outside {space}")


def _first_row(bad: NDArray, row_shape: tuple[int, ...]) -> int:
    return int(np.flatnonzero(bad.reshape(-1, *row_shape).reshape(-1, math.prod(row_shape)).any(1))[0])


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in shape)
