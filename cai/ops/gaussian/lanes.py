"""Many small matrices at once, entries first: `[r, c, *lanes]`.

A batched product of matrices of some five rows takes a call of LAPACK or BLAS for each matrix. With the entries first
and the batch last, entry by entry, it is a few passes of vector instructions over contiguous memory: two to four times
faster on a CPU from some hundred matrices on.

    matmul(a, b)_ij = sum_k a_ik b_kj         congruence(d, x, m) = m + d'x        Cholesky by columns, right below

A positive definite block is eliminated by the columns z_j of its Cholesky factor, extended to further rows,

    G = [G_yy G_yu; G_uy G_uu],   G_uu = L L',   Z = [G_yu; G_uu] L'^-1 = [Z_y; L],     Schur complement G_yy - Z_y Z_y'

and a block that is not positive definite leaves NaN, which the caller looks for once at the end.

A recursion of T steps in blocks goes side by side: step j of all blocks is one stack, with a lane for each block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of the longest block.
_LONGEST = 32


@dataclass(frozen=True)
class Blocks:
    """T steps as `count` blocks of `length` steps, and what remains at the end.

    Attributes:
        length: Steps in a block L.
        count: Number of blocks K.
        rest: Steps after the last block.
        num_batch: Number of batch dimensions.
    """

    length: int
    count: int
    rest: int
    num_batch: int

    @classmethod
    def of(cls, horizon: int, num_batch: int) -> Blocks:
        """Cuts a horizon of at least 1 into blocks of a length that grows with its square root.

        A step of a block is some 50 calls of microseconds each, whose number stands against the solves and products
        that put the blocks together.
        """
        length = min(max(4, math.isqrt(horizon) // 6), _LONGEST, horizon)
        return cls(length, horizon // length, horizon % length, num_batch)

    def body(self, part: Tensor) -> list[Tensor]:
        """Cuts a part `[T or 1, *batch, r, c]` into the steps of a block: L times `[r, c, K or 1, *batch]`."""
        if len(part) == 1:
            return [lanes(part, self.num_batch)] * self.length
        body = _aligned(part[: self.count * self.length], self.num_batch)
        body = body.reshape(self.count, self.length, *body.shape[1:])
        return list(body.movedim((1, -2, -1, 0), (0, 1, 2, 3)).contiguous().unbind(0))

    def tail(self, part: Tensor) -> list[Tensor]:
        """Cuts out the steps after the last block: each `[r, c, 1, *batch]`."""
        if len(part) == 1:
            return [lanes(part, self.num_batch)] * self.rest
        first = self.count * self.length
        return [lanes(part[t : t + 1], self.num_batch) for t in range(first, first + self.rest)]

    def joined(self, body: list[Tensor], tail: list[Tensor]) -> Tensor:
        """Puts steps of blocks and what follows them into order of time: `[..., *batch, r, c]`.

        Args:
            body: L times `[r, c, K, *batch]`.
            tail: Each `[r, c, 1, *batch]`.
        """
        blocks = torch.stack(body).movedim((3, 0, 1, 2), (0, 1, -2, -1)).flatten(0, 1)
        return torch.cat([blocks, *(stack(step) for step in tail)])


def lanes(part: Tensor, num_batch: int) -> Tensor:
    """Turns `[T, *batch, r, c]` into `[r, c, T, *batch]`, with ones for batch dimensions that are missing."""
    return _aligned(part, num_batch).movedim((-2, -1), (0, 1)).contiguous()


def stack(part: Tensor) -> Tensor:
    """Turns `[r, c, T, *batch]` into `[T, *batch, r, c]`."""
    return part.movedim((0, 1), (-2, -1)).contiguous()


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Computes the products of `[r, k, *lanes]` and `[k, c, *lanes]`: `[r, c, *lanes]`."""
    total = left[:, 0, None] * right[0]
    for k in range(1, len(right)):
        total = total.addcmul_(left[:, k, None], right[k])
    return total


def congruence(left: Tensor, right: Tensor, added: Tensor) -> Tensor:
    """Computes added + left' right of `[k, r, *lanes]`, `[k, c, *lanes]` and `[r, c, *lanes]`: `[r, c, *lanes]`."""
    total = torch.addcmul(added, left[0][:, None], right[0])
    for k in range(1, len(left)):
        total = total.addcmul_(left[k][:, None], right[k])
    return total


def columns(panel: Tensor, num: int) -> list[Tensor]:
    """Computes the Cholesky columns Z of the last m columns, whose last m rows are the block to eliminate.

    Args:
        panel: [.. G_ou; G_uo G_uu], `[r + m, c + m, *lanes]`.
        num: m.

    Returns:
        z_1, ..., z_m, each `[r + m, *lanes]`; NaN where the block is not positive definite.
    """
    found: list[Tensor] = []
    for j in range(-num, 0):
        column = panel[:, j]
        for known in found:
            column = torch.addcmul(column, known, known[j], value=-1.0)
        found.append(column * column[j].rsqrt())
    return found


def eliminated(matrix: Tensor, found: list[Tensor]) -> Tensor:
    """Computes matrix - Z_r Z_c' of `[r, c, *lanes]`, with the first r and the first c rows of the columns found."""
    rows, cols = matrix.shape[:2]
    for column in found:
        matrix = torch.addcmul(matrix, column[:rows, None], column[:cols], value=-1.0)
    return matrix


def _aligned(part: Tensor, num_batch: int) -> Tensor:
    missing = num_batch - (part.dim() - 3)
    return part.reshape(part.shape[0], *[1] * missing, *part.shape[1:])
