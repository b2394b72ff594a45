"""Linear systems of very large chains: (I - G) x = b by a flexible Krylov method with a multigrid preconditioner.

I - G is an M-matrix. What a sweep of Gauss-Seidel cannot see, errors that are smooth along the chain's flow, the same
equations on groups of states can: with P the indicator of the groups, the coarse matrix is P' (I - G) P. One cycle is

    x = L^-1 r,     x += P coarse(P' (r - (I - G) x)),     x += L^-1 (r - (I - G) x),

L the lower triangle in the order given (downstream first: states by falling value), and `coarse` two steps of the same
Krylov method with the next cycle (Notay's K-cycle). The number of cycles then hardly depends on the number of states,
for chains that drift as for chains that diffuse. The transposed system takes the transposed parts.

Sources: Notay (2012), aggregation for convection and diffusion; Notay and Vassilevski (2008), the K-cycle; Saad (1993),
flexible GMRES.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from cai.ops.infinite.aggregation import COARSEST, coarse_levels, grouped
from cai.ops.threads import one_thread

#: Steps after which the Krylov method starts again from what it has: it keeps two vectors a step.
_RESTART = 30
#: A second coarse step is not worth it once the first has taken away this much of the residual.
_GOOD_ENOUGH = 0.25
#: Cycles in which the residual must have halved, or the solve has stalled.
_PATIENCE = 60


@dataclass(frozen=True, eq=False)
class Solution:
    """What a Krylov method found.

    Attributes:
        x: `[S]`.
        residual: |b - (I - G) x| / |b| in the Euclidean norm.
        num_cycles: Applications of the preconditioner.
    """

    x: np.ndarray
    residual: float
    num_cycles: int


@dataclass(frozen=True, eq=False)
class _Level:
    """One level: its matrix in the order of the sweeps, the triangle that is swept, and the groups of the next.

    Attributes:
        matrix: I - G, `[n, n]`.
        triangle: A factorised lower triangle; on the coarsest level the whole matrix.
        groups: `[n]`, or None on the coarsest level.
        num_groups: Their number.
    """

    matrix: scipy.sparse.csr_matrix
    triangle: scipy.sparse.linalg.SuperLU
    groups: np.ndarray | None = None
    num_groups: int = 0


class Multigrid:
    """The operator (I - G)^-1 of a large sparse chain.

    Args:
        chain: G, `[S, S]`, nonnegative with spectral radius below one, without duplicate entries.
        order: `[S]`, keys by which states are swept, least first; None takes them as they come.
        levels: The groups of each level, from `coarse_levels`; None finds them.
    """

    def __init__(
        self,
        chain: scipy.sparse.csr_matrix,
        *,
        order: np.ndarray | None = None,
        levels: tuple[np.ndarray, ...] | None = None,
    ) -> None:
        levels = coarse_levels(chain) if levels is None else levels
        keys = np.arange(chain.shape[0], dtype=np.float64) if order is None else order
        system = (scipy.sparse.identity(chain.shape[0], format="csr") - chain).tocsr()
        self._levels: list[_Level] = []
        self._order = sweep = np.argsort(keys, kind="stable")
        for groups in levels:
            coarse_keys = np.bincount(groups, keys) / np.bincount(groups)
            following = np.argsort(coarse_keys, kind="stable")
            place = np.empty_like(following)
            place[following] = np.arange(len(following))
            matrix = _reordered(system, sweep)
            self._levels.append(_Level(matrix, _triangle(matrix), place[groups[sweep]], len(following)))
            system, sweep, keys = grouped(system, groups), following, coarse_keys
        matrix = _reordered(system, sweep)
        small = matrix.shape[0] <= 4 * COARSEST
        self._levels.append(_Level(matrix, scipy.sparse.linalg.splu(matrix.tocsc()) if small else _triangle(matrix)))

    def solve(
        self, b: np.ndarray, *, rtol: float, atol: float = 0.0, transposed: bool = False, max_cycles: int = 500
    ) -> Solution:
        """Solves (I - G) x = b, or (I - G') x = b.

        Args:
            b: `[S]`.
            rtol: Euclidean length of the residual to reach, relative to that of b, unless rounding stops it before.
            atol: Length that is small enough in any case.
            transposed: Which of the two.
            max_cycles: The most cycles.
        """
        with one_thread():
            return self._solve(b[self._order], rtol, atol, transposed, max_cycles)

    def _solve(self, right: np.ndarray, rtol: float, atol: float, transposed: bool, max_cycles: int) -> Solution:
        matrix = self._matrix(0, transposed)
        scale = _length(right)
        x: np.ndarray = np.zeros_like(right)
        residual, lengths = right, [scale]
        while lengths[-1] > max(rtol * scale, atol) and len(lengths) <= max_cycles:
            krylov = _FlexibleGMRES(residual, _RESTART)
            while krylov.num_steps < _RESTART and krylov.length > max(rtol * scale, atol):
                direction = self._cycle(0, krylov.direction, transposed)
                krylov.advance(direction, matrix @ direction)
                lengths.append(krylov.length)
            x = x + krylov.correction()
            residual = right - matrix @ x
            if len(lengths) > _PATIENCE and lengths[-1] > 0.5 * lengths[-1 - _PATIENCE]:
                break
        placed = np.empty_like(x)
        placed[self._order] = x
        return Solution(placed, _length(residual) / scale if scale else 0.0, len(lengths) - 1)

    def _matrix(self, depth: int, transposed: bool) -> scipy.sparse.spmatrix:
        matrix = self._levels[depth].matrix
        return matrix.T if transposed else matrix

    def _cycle(self, depth: int, r: np.ndarray, transposed: bool) -> np.ndarray:
        """Applies the preconditioner of a level to a residual."""
        level, trans = self._levels[depth], "T" if transposed else "N"
        x = level.triangle.solve(r, trans)
        if level.groups is None:
            return x
        matrix = self._matrix(depth, transposed)
        left = np.bincount(level.groups, r - matrix @ x, minlength=level.num_groups)
        x += self._coarse(depth + 1, left, transposed)[level.groups]
        return x + level.triangle.solve(r - matrix @ x, trans)

    def _coarse(self, depth: int, r: np.ndarray, transposed: bool) -> np.ndarray:
        """Solves a coarse system roughly: directly on the last level, else by at most two Krylov steps."""
        if depth + 1 == len(self._levels):
            return self._levels[depth].triangle.solve(r, "T" if transposed else "N")
        matrix, krylov = self._matrix(depth, transposed), _FlexibleGMRES(r, 2)
        size = krylov.length
        for _ in range(2):
            direction = self._cycle(depth, krylov.direction, transposed)
            krylov.advance(direction, matrix @ direction)
            if krylov.length <= _GOOD_ENOUGH * size:
                break
        return krylov.correction()


class _FlexibleGMRES:
    """GMRES in pieces, whose preconditioner may change from step to step.

    After j steps x = sum_i y_i z_i with the y that makes |b - A x| least, z_i the preconditioned directions. Vectors
    are torch's, whose threads this library keeps in check: those of numpy's BLAS wait for each other on a busy machine.

    Args:
        b: `[n]`.
        most: The most steps.

    Attributes:
        length: |b - A x| of the best x so far.
        num_steps: Steps so far.
    """

    def __init__(self, b: np.ndarray, most: int) -> None:
        start = torch.from_numpy(b)
        self.length = self._scale = float(start.norm())
        self.num_steps = 0
        self._basis = start.new_empty(most + 1, len(b))
        self._directions = start.new_empty(most, len(b))
        self._hessenberg = np.zeros((most + 1, most))
        self._weights: np.ndarray = np.zeros(0)
        torch.div(start, self._scale or 1.0, out=self._basis[0])

    @property
    def direction(self) -> np.ndarray:
        """What to precondition next, `[n]`, of length one."""
        return self._basis[self.num_steps].numpy()

    def advance(self, direction: np.ndarray, moved: np.ndarray) -> None:
        """Takes in a preconditioned direction z and A z, `[n]` each."""
        step, rest = self.num_steps, torch.from_numpy(moved)
        known, before = self._basis[: step + 1], float(rest.norm())
        shares = known @ rest
        rest = rest - shares @ known
        after = float(rest.norm())
        if after < 0.1 * before:  # much was taken away, and its rounding would show: once more
            more = known @ rest
            rest, shares = rest - more @ known, shares + more
            after = float(rest.norm())
        torch.div(rest, after or 1.0, out=self._basis[step + 1])
        self._directions[step] = torch.from_numpy(direction)
        self._hessenberg[: step + 1, step], self._hessenberg[step + 1, step] = shares.numpy(), after
        self.num_steps = step + 1
        system = self._hessenberg[: step + 2, : step + 1]
        right = np.zeros(step + 2)
        right[0] = self._scale
        self._weights = np.linalg.lstsq(system, right, rcond=None)[0]
        self.length = float(np.linalg.norm(right - system @ self._weights))

    def correction(self) -> np.ndarray:
        """Gives the best x so far, `[n]`."""
        return (torch.from_numpy(self._weights) @ self._directions[: self.num_steps]).numpy()


def _length(x: np.ndarray) -> float:
    return float(torch.from_numpy(x).norm())


def _reordered(matrix: scipy.sparse.csr_matrix, order: np.ndarray) -> scipy.sparse.csr_matrix:
    """Puts rows and columns `[n, n]` into another order."""
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    rows = matrix[order]
    return scipy.sparse.csr_matrix((rows.data, place[rows.indices], rows.indptr), shape=matrix.shape)


def _triangle(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.linalg.SuperLU:
    """Factorises the lower triangle `[n, n]`: it is its own factor, and SuperLU's solves are compiled."""
    return scipy.sparse.linalg.splu(
        scipy.sparse.tril(matrix, format="csc"),
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        panel_size=1,
        relax=1,
        options={"SymmetricMode": True},
    )
