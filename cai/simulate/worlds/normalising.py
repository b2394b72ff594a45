"""Running scales of what a world gives, for networks that want numbers of order one.

States:   x' = (x - m) / sqrt(v + epsilon), with m and v the mean and variance of all states seen.
Rewards:  r' = r / sqrt(Var G + epsilon),   G <- discount G + r, the discounted return up to now of each copy.

Rewards are not centred: that would pay for long or for short episodes. Dividing them by a number divides the soft
objective by it if the temperature is divided too; a learner that scales rewards by `scale` works at temperature /
scale, and its q and v are in units of `scale`.

Moments of batches are merged as they come, without cancellation: with n, m, S and the batch's n', m', S' (S the sum of
squared deviations),  m <- m + (m' - m) n' / (n + n'),  S <- S + S' + (m' - m)^2 n n' / (n + n').

Source: Chan, Golub and LeVeque (1983).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Beyond this many standard deviations a normalised number says no more than that it is far out.
LIMIT = 10.0
#: Added to variances, so that what never changes is not divided by zero.
EPSILON = 1e-8


class RunningMoments:
    """Mean and variance of everything seen so far, and numbers normalised by them.

    Args:
        shape: The shape of one item.

    Attributes:
        shape: The shape of one item.
        count: Number of items seen.
        mean: float64, of the shape of an item; zero before anything is seen.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.count = 0
        self.mean = np.zeros(self.shape)
        self._squares = np.zeros(self.shape)
        self._line: tuple[Tensor, Tensor] | None = None

    @property
    def variance(self) -> NDArray[np.float64]:
        """Mean squared deviation from the mean, of the shape of an item; one before two items are seen."""
        return self._squares / self.count if self.count > 1 else np.ones(self.shape)

    def update(self, items: NDArray | Tensor) -> None:
        """Takes notice of items.

        Args:
            items: `[*batch, *shape]`; a world's rows that are no transitions are to be left out.

        Raises:
            ValueError: Another shape.
        """
        items = items.detach().cpu().numpy() if isinstance(items, Tensor) else np.asarray(items)
        split = items.ndim - len(self.shape)
        if split < 0 or items.shape[split:] != self.shape:
            raise ValueError(f"RunningMoments: expected [*batch, {self.shape}], got {list(items.shape)}")
        rows = items.reshape(-1, *self.shape).astype(np.float64, copy=False)
        num = len(rows)
        if not num:
            return
        mean = rows.mean(0)
        difference, total = mean - self.mean, self.count + num
        self.mean = self.mean + difference * (num / total)
        self._squares = self._squares + ((rows - mean) ** 2).sum(0) + difference**2 * (self.count * num / total)
        self.count, self._line = total, None

    def normalise(self, items: Tensor) -> Tensor:
        """Gives items `[*batch, *shape]` in standard deviations from the mean, at most `LIMIT`: of the same shape."""
        if self._line is None:
            spread = np.sqrt(self.variance + EPSILON)
            self._line = (torch.tensor(self.mean), torch.tensor(1.0 / spread))
        mean, inverse = (part.to(items) for part in self._line)
        return ((items - mean) * inverse).clamp(-LIMIT, LIMIT)

    def memory(self) -> dict[str, Any]:
        """Gives what `remember` goes on from."""
        return {"count": self.count, "mean": torch.tensor(self.mean), "squares": torch.tensor(self._squares)}

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave.

        Raises:
            ValueError: It is of items of another shape.
        """
        mean, squares = memory["mean"].numpy().copy(), memory["squares"].numpy().copy()
        if mean.shape != self.shape:
            raise ValueError(f"RunningMoments: the memory is of items {mean.shape}, not {self.shape}")
        self.count, self.mean, self._squares, self._line = int(memory["count"]), mean, squares, None


class RunningRewardScale:
    """The standard deviation of discounted returns, and rewards divided by it.

    Args:
        num_envs: Number of copies E.
        discount: gamma.

    Attributes:
        discount: gamma.
    """

    def __init__(self, num_envs: int, discount: float) -> None:
        self.discount = float(discount)
        self._returns = np.zeros(num_envs)
        self._moments = RunningMoments(())

    @property
    def scale(self) -> float:
        """What rewards are divided by, reward units; one before two returns are seen."""
        return math.sqrt(float(self._moments.variance) + EPSILON)

    def update(self, rewards: NDArray, done: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None) -> None:
        """Takes notice of one step of all copies.

        Args:
            rewards: `[E]`, reward units.
            done: `[E]`, whether the episode is over, terminated or truncated.
            valid: `[E]`, which rows are transitions; all by default.

        Raises:
            ValueError: Another number of copies.
        """
        if np.shape(rewards) != self._returns.shape or np.shape(done) != self._returns.shape:
            raise ValueError(
                f"RunningRewardScale: expected {len(self._returns)} rewards and ends, got {list(np.shape(rewards))} "
                f"and {list(np.shape(done))}"
            )
        returns = self.discount * self._returns + rewards
        self._moments.update(returns if valid is None else returns[valid])
        self._returns = np.where(done, 0.0, returns if valid is None else np.where(valid, returns, self._returns))

    def scaled(self, rewards: Tensor) -> Tensor:
        """Divides rewards, any shape, by the scale."""
        return rewards / self.scale

    def memory(self) -> dict[str, Any]:
        """Gives what `remember` goes on from."""
        return {"returns": torch.tensor(self._returns), "moments": self._moments.memory()}

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave.

        Raises:
            ValueError: It is of another number of copies.
        """
        returns = memory["returns"].numpy().copy()
        if returns.shape != self._returns.shape:
            raise ValueError(f"RunningRewardScale: the memory is of {len(returns)} copies, not {len(self._returns)}")
        self._returns = returns
        self._moments.remember(memory["moments"])
