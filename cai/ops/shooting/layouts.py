"""How a batch of small matrices lies in memory, and the products that suit it.

A recursion over time calls torch a dozen times a step, on matrices of a few rows for each of some hundred problems.
There a batched product takes twice as long as the same arithmetic with the batch as the last axis, where every call
works on rows of contiguous numbers; from some ten coordinates on it is the other way round. `layout_of` chooses.

For everybody else tensors are `[T, B, rows, columns]`. A layout stores them its own way, and hands out views of each
step: a step is `[B, rows, columns]` or `[rows, columns, B]`, and calls on numbers one by one do not mind which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

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
    def factors(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives a view of each step of `[T, B, rows, columns]` as the left factor of a product."""

    @abstractmethod
    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies a left factor by a step, `[B, i, j]` and `[B, j, k]` or with the batch last."""

    @abstractmethod
    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of a left factor and a step to a step, into `out` if given; shapes as for `product`."""

    @abstractmethod
    def solver(self, matrix: Tensor, sides: Tensor, out: Tensor) -> Callable[[], None]:
        """Gives what writes -A^-1 S into `out`, whatever stands in A and S then; anything where A is singular.

        Args:
            matrix: A step, `[B, m, m]` or with the batch last; positive definite.
            sides: A step, `[B, m, k]` or with the batch last.
            out: Like `sides`.
        """

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

    def factors(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`."""
        return whole.unbind(0)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies `[B, i, j]` by `[B, j, k]`."""
        return torch.bmm(left, right)

    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of `[B, i, j]` and `[B, j, k]` to `[B, i, k]`."""
        return torch.baddbmm(base, left, right, out=out)

    def solver(self, matrix: Tensor, sides: Tensor, out: Tensor) -> Callable[[], None]:
        """Solves systems of `[B, m, m]` and `[B, m, k]`."""
        if matrix.shape[-1] == 1:
            return lambda: torch.div(sides, matrix, out=out).neg_()  # type: ignore[return-value]
        return lambda: torch.neg(torch.linalg.solve_ex(matrix, sides).result, out=out)  # type: ignore[return-value]

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

    def factors(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Gives each step of `[T, B, rows, columns]`: `[rows, columns, 1, B]`, or `[rows, 1, B]` of one column."""
        last = whole.movedim(1, -1)
        return (last if last.shape[2] == 1 else last.unsqueeze(3)).unbind(0)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiplies `[i, j, 1, B]` by `[j, k, B]`, or `[i, 1, B]` by `[1, k, B]`."""
        return left * right if left.dim() == 3 else (left * right).sum(1)

    def added(self, base: Tensor, left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Adds the product of `[i, j, 1, B]` and `[j, k, B]`, or `[i, 1, B]` and `[1, k, B]`, to `[i, k, B]`."""
        if left.dim() == 3:
            return torch.addcmul(base, left, right, out=out)
        return torch.add(base, self.product(left, right), out=out)

    def solver(self, matrix: Tensor, sides: Tensor, out: Tensor) -> Callable[[], None]:
        """Solves systems of `[m, m, B]` and `[m, k, B]`."""
        if len(matrix) == 1:
            return lambda: torch.div(sides, matrix, out=out).neg_()  # type: ignore[return-value]
        if len(matrix) == 2:
            return _pair_solver(matrix, sides, out)

        def solve() -> None:
            first = (self.batch_first(matrix).contiguous(), self.batch_first(sides).contiguous())
            torch.neg(torch.linalg.solve_ex(*first).result.movedim(0, -1), out=out)

        return solve

    def batch_first(self, step: Tensor) -> Tensor:
        """Gives `[B, rows, columns]` of `[rows, columns, B]`."""
        return step.movedim(-1, 0)

    def batch_last(self, step: Tensor) -> Tensor:
        """Gives `[rows, columns, B]` itself."""
        return step


def _pair_solver(matrix: Tensor, sides: Tensor, out: Tensor) -> Callable[[], None]:
    """Eliminates one of two unknowns; without pivots, as one may where A is positive definite. Batch last."""
    (a, b), (c, d) = (row.unbind(0) for row in matrix.unbind(0))
    (upper, lower), (first, second) = sides.unbind(0), out.unbind(0)

    def solve() -> None:
        ratio = c / a
        rest = torch.addcmul(d, ratio, b, value=-1).neg_()
        torch.div(torch.addcmul(lower, ratio, upper, value=-1), rest, out=second)
        torch.addcmul(upper, b, second, out=first).div_(a).neg_()

    return solve


def layout_of(num_states: int, num_actions: int) -> AbstractLayout:
    """Chooses the quicker layout for problems of n states and m controls."""
    work = num_states * (num_states + 1) * (num_states + num_actions + 1)
    return BatchLast() if work <= _SMALL else BatchFirst()
