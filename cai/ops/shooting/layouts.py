"""How a batch of small matrices lies in memory, and the products that suit it.

A recursion over time calls torch a dozen times a step, on matrices of a few rows for each of some hundred problems.
There a batched product takes twice as long as the same arithmetic with the batch as the last axis, where every call
works on rows of contiguous numbers; from some ten coordinates on it is the other way round. `layout_of` chooses.

For everybody else tensors are `[T, B, rows, columns]`. A layout stores them its own way, and hands out views of each
step: a step is `[B, rows, columns]` or `[rows, columns, B]`, and calls on numbers one by one do not mind which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

#: Multiplications for one batch element in the greatest product of a step, up to which the batch goes last.
_SMALL = 400


class AbstractLayout(ABC):
    """A way to store `[T, B, rows, columns]`, and to calculate with steps of it."""

    @abstractmethod
    def empty(self, *shape: int, like: Tensor) -> Tensor:
        """Makes `[T, B, rows, columns]`, stored this way, of the type of `like` (any shape)."""

    @abstractmethod
    def steps(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives a view of each step of `[T, B, rows, columns]`, or of a block of rows and columns."""

    @abstractmethod
    def transposed(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives a view of each step of `[T, B, rows, columns]` with rows and columns exchanged."""

    @abstractmethod
    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies the matrices of two steps, `[B, i, j]` and `[B, j, k]` or with the batch last."""

    @abstractmethod
    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of two steps to a third, into `out` where that is given; shapes as for `product`."""

    @abstractmethod
    def solve(self, matrix: Tensor, sides: Tensor) -> Tensor:
        """Solves A X = S for positive definite A of one step; anything where A is singular. Shapes as for `product`."""

    @abstractmethod
    def batch_first(self, step: Tensor) -> Tensor:
        """Gives a view `[B, rows, columns]` of a step as this layout has it."""

    @abstractmethod
    def batch_last(self, step: Tensor) -> Tensor:
        """Gives a view `[rows, columns, B]` of a step as this layout has it."""


class BatchFirst(AbstractLayout):
    """`[T, B, rows, columns]`, and torch's batched products."""

    def empty(self, *shape: int, like: Tensor) -> Tensor:
        """Makes `[T, B, rows, columns]` of the type of `like` (any shape)."""
        return like.new_empty(shape)

    def steps(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`."""
        return whole.unbind(0)

    def transposed(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`, transposed."""
        return whole.mT.unbind(0)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies `[B, i, j]` by `[B, j, k]`."""
        return torch.bmm(left, right)

    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of `[B, i, j]` and `[B, j, k]` to `[B, i, k]`."""
        return torch.baddbmm(base, left, right, out=out)

    def solve(self, matrix: Tensor, sides: Tensor) -> Tensor:
        """Solves A X = S of `[B, m, m]` and `[B, m, k]`."""
        if matrix.shape[-1] == 1:
            return sides / matrix
        return torch.linalg.solve_ex(matrix, sides).result

    def batch_first(self, step: Tensor) -> Tensor:
        """Gives `[B, rows, columns]` itself."""
        return step

    def batch_last(self, step: Tensor) -> Tensor:
        """Gives `[rows, columns, B]` of `[B, rows, columns]`."""
        return step.movedim(0, -1)


class BatchLast(AbstractLayout):
    """`[T, rows, columns, B]` in memory, and products as sums of rows of numbers."""

    def empty(self, *shape: int, like: Tensor) -> Tensor:
        """Makes `[T, B, rows, columns]` of the type of `like` (any shape)."""
        num_steps, batch, rows, columns = shape
        return like.new_empty(num_steps, rows, columns, batch).movedim(-1, 1)

    def steps(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`: `[rows, columns, B]`."""
        return whole.movedim(1, -1).unbind(0)

    def transposed(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`, transposed: `[columns, rows, B]`."""
        return whole.mT.movedim(1, -1).unbind(0)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies `[i, j, B]` by `[j, k, B]`."""
        return (left.unsqueeze(2) * right).sum(1)

    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of `[i, j, B]` and `[j, k, B]` to `[i, k, B]`."""
        if left.shape[1] == 1:
            return torch.addcmul(base, left, right, out=out)
        return torch.add(base, self.product(left, right), out=out)

    def solve(self, matrix: Tensor, sides: Tensor) -> Tensor:
        """Solves A X = S of `[m, m, B]` and `[m, k, B]`."""
        if len(matrix) == 1:
            return sides / matrix
        if len(matrix) == 2:
            return self._solved_pair(matrix, sides)
        first = (self.batch_first(matrix).contiguous(), self.batch_first(sides).contiguous())
        return torch.linalg.solve_ex(*first).result.movedim(0, -1)

    @staticmethod
    def _solved_pair(matrix: Tensor, sides: Tensor) -> Tensor:
        """Eliminates one of two unknowns; without pivots, as one may where A is positive definite."""
        upper, lower = sides.unbind(0)
        (a, b), (c, d) = (row.unbind(0) for row in matrix.unbind(0))
        ratio = c / a
        second = torch.addcmul(lower, ratio, upper, value=-1) / torch.addcmul(d, ratio, b, value=-1)
        return torch.stack([torch.addcmul(upper, b, second, value=-1) / a, second])

    def batch_first(self, step: Tensor) -> Tensor:
        """Gives `[B, rows, columns]` of `[rows, columns, B]`."""
        return step.movedim(-1, 0)

    def batch_last(self, step: Tensor) -> Tensor:
        """Gives `[rows, columns, B]` itself."""
        return step


def layout_of(num_states: int, num_actions: int) -> AbstractLayout:
    """Chooses the quicker layout for problems of n states and m controls."""
    work = num_states * (num_states + 1) * (num_states + num_actions + 1)
    return BatchLast() if work <= _SMALL else BatchFirst()
