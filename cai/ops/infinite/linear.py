"""Solving (I - G) x = b and (I - G') x = b for the state-to-state kernel G >= 0 of a Markov chain that ends.

Dense matrices are factorised by LAPACK. Sparse ones up to `DIRECT_LIMIT` states are factorised by SuperLU. Beyond, some
steps of BiCGSTAB are tried first: where states mix (random patterns, whose factors would fill in) twenty do; where they
do not (grids, long corridors) thousands would, and there elimination keeps its factors sparse. I - G is an M-matrix, so
elimination needs no pivoting and takes the ordering that fills in least. In large worlds such patterns
are solved by multigrid (`cai.ops.infinite.multigrid`), whose time and memory grow in proportion to the entries.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from cai.errors import NotConverged, warn_user
from cai.ops.infinite.aggregation import coarse_levels
from cai.ops.infinite.multigrid import Multigrid

#: Up to this many states a sparse factorisation is quick on any pattern.
DIRECT_LIMIT = 200
#: Steps of BiCGSTAB after which a pattern is taken for one that does not mix.
KRYLOV_STEPS = 100
#: From this many states on, patterns that do not mix are solved by multigrid.
LARGE = 5_000
#: Up to this many states elimination is the way out where multigrid fails.
ELIMINABLE = 200_000
#: Relative residual of a solve that is to be exact, and of one that only points the way, or is verified afterwards.
EXACT, ROUGH = 1e-13, 1e-3
#: An expected time to the end beyond this cannot be told from infinity in float64.
LONGEST_TIME = 1e13
#: One that is reported, when rounding or a hard problem stops an exact solve there.
_POOR = 1e-7


class Resolvent:
    """The operator (I - G)^-1 for a nonnegative matrix G of spectral radius below one.

    Args:
        matrix: G, `[S, S]`, dense or scipy sparse.
        order: `[S]`, keys by which a large system is swept, least first: where the chain ends before where it begins.
        levels: Groups of states for a large system, from `cai.ops.infinite.aggregation.coarse_levels`; None finds them.
    """

    def __init__(
        self,
        matrix: np.ndarray | scipy.sparse.csr_matrix,
        *,
        order: np.ndarray | None = None,
        levels: tuple[np.ndarray, ...] | None = None,
    ) -> None:
        self._matrix, self._order = matrix, order
        if levels is not None:
            self._levels = levels
        self._size = matrix.shape[0]

    def solve(self, b: Tensor, *, transposed: bool = False, rtol: float = EXACT, atol: float = 0.0) -> Tensor:
        """Solves (I - G) x = b, or (I - G') x = b.

        Args:
            b: `[S]`.
            transposed: Which of the two; the adjoint of a value is an occupancy.
            rtol: Residual that an iterative solve may leave, relative to b, Euclidean.
            atol: Residual that it may leave in any case.

        Returns:
            x, `[S]`, of the dtype and device of b; detached. Infinite throughout where the matrix is singular.
        """
        right = b.detach().cpu().numpy().astype(np.float64)
        try:
            solution = self._solve(right, transposed, rtol, atol)
        except (RuntimeError, np.linalg.LinAlgError) as error:  # SuperLU and LAPACK on an exactly singular matrix
            if "singular" not in str(error).lower():
                raise
            solution = np.full_like(right, np.inf)
        return torch.as_tensor(solution, dtype=b.dtype, device=b.device)

    def _solve(self, right: np.ndarray, transposed: bool, rtol: float, atol: float) -> np.ndarray:
        if not scipy.sparse.issparse(self._matrix):
            with np.errstate(all="ignore"):
                return scipy.linalg.lu_solve(self._dense_factors, right, trans=int(transposed), check_finite=False)
        if self._size >= LARGE and self._levels:
            return self._solve_large(right, transposed, rtol, atol)
        if self._size > DIRECT_LIMIT and "_sparse_factors" not in self.__dict__:
            matrix = self._system.T if transposed else self._system
            solution, failed = scipy.sparse.linalg.bicgstab(matrix, right, rtol=rtol, atol=atol, maxiter=KRYLOV_STEPS)
            if not failed:
                return solution
        if self._size >= LARGE:
            return self._solve_large(right, transposed, rtol, atol)
        return self._sparse_factors.solve(right, trans="T" if transposed else "N")

    def _solve_large(self, right: np.ndarray, transposed: bool, rtol: float, atol: float) -> np.ndarray:
        found = self._multigrid.solve(right, rtol=rtol, atol=atol, transposed=transposed)
        if rtol < found.residual < _POOR and found.residual * np.linalg.norm(right) > atol:  # rounding stopped it
            matrix = self._matrix.T if transposed else self._matrix
            rest = right - (found.x - matrix @ found.x)
            return found.x + self._multigrid.solve(rest, rtol=_POOR, transposed=transposed).x
        if found.residual <= max(100.0 * rtol, _POOR) or found.residual * np.linalg.norm(right) <= atol:
            return found.x
        if self._size <= ELIMINABLE:  # rare: chains that all but fall apart
            return self._sparse_factors.solve(right, trans="T" if transposed else "N")
        warn_user(
            f"a linear system of {self._size} states was solved to a relative residual of only {found.residual:.2g}",
            NotConverged,
        )
        return found.x

    @cached_property
    def _levels(self) -> tuple[np.ndarray, ...]:
        """The coarse levels of a large system; none where its states mix, for which Krylov steps are enough."""
        return coarse_levels(self._matrix)

    @cached_property
    def _multigrid(self) -> Multigrid:
        return Multigrid(self._matrix, order=self._order, levels=self._levels)

    @cached_property
    def _system(self) -> scipy.sparse.csc_matrix:
        system = scipy.sparse.identity(self._size, format="csr") - self._matrix
        return system.tocsc()

    @cached_property
    def _sparse_factors(self) -> scipy.sparse.linalg.SuperLU:
        return scipy.sparse.linalg.splu(
            self._system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )

    @cached_property
    def _dense_factors(self) -> tuple[np.ndarray, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
            factors, pivots = scipy.linalg.lu_factor(np.eye(self._size) - self._matrix, check_finite=False)
        if not np.diag(factors).all():
            raise np.linalg.LinAlgError("singular")
        return factors, pivots


class _Implicit(torch.autograd.Function):
    """x = (I - G)^-1 b in the backward direction only: the value is given, the gradient is solved for."""

    @staticmethod
    def forward(ctx: Any, solution: Tensor, b: Tensor, resolvent: Resolvent, transposed: bool) -> Tensor:
        ctx.resolvent, ctx.transposed = resolvent, transposed
        ctx.save_for_backward(b)
        return solution.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None, None]:
        adjoint = ctx.resolvent.solve(grads[0], transposed=not ctx.transposed)
        if torch.is_grad_enabled():
            adjoint = _Once.apply(adjoint, grads[0], *ctx.saved_tensors)
        return None, adjoint, None, None


class _Once(torch.autograd.Function):
    """The identity, which refuses to be differentiated: the adjoint was solved for on plain numbers."""

    @staticmethod
    def forward(ctx: Any, adjoint: Tensor, *depends_on: Tensor) -> Tensor:
        return adjoint.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "trying to differentiate twice through the fixed point of an infinite horizon, which has first derivatives "
            "only; a finite horizon has all of them"
        )


def implicit(solution: Tensor, once_more: Tensor, resolvent: Resolvent, *, transposed: bool = False) -> Tensor:
    """Gives a fixed point x = F(x, theta) the gradient of the implicit function theorem.

    dx/dtheta = (I - dF/dx)^-1 dF/dtheta, by one linear solve in the backward pass; nothing is unrolled.

    Args:
        solution: x, `[S]`, detached.
        once_more: F(x, theta), `[S]`, with x detached and theta not.
        resolvent: (I - G)^-1 with G = dF/dx, or its transpose.
        transposed: Whether dF/dx is G' (an occupancy) and not G (a value).

    Returns:
        x, `[S]`, with the gradient of the fixed point (first order).
    """
    if not (torch.is_grad_enabled() and once_more.requires_grad):
        return solution
    return _Implicit.apply(solution, once_more, resolvent, transposed)
