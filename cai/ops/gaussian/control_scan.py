"""Linear-quadratic control by a scan over time, equal to the loop of `cai.ops.gaussian.riccati` up to rounding.

The Riccati recursion is that of `cai.ops.gaussian.riccati_scan`, with a row of D and a corner of M for the one in
y = [x; 1]; a discount scales D, that row included, by its square root. What follows from the values is computed for all
steps at once.

Blocks of time start without a value behind them, so that the scan needs R positive definite, not only R + B'PB; and it
loses digits where what some steps alone lead to is far greater than what they lead to in truth, as of unstable states
that nothing in the running reward sees. It compares the values at the ends of its blocks with those that the loop leads
to from there, and refuses what differs.
"""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.errors import IncompatibleMethod
from cai.ops.gaussian.existence import need_expectation, tilt_info
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages
from cai.ops.gaussian.riccati import assemble
from cai.ops.gaussian.riccati_scan import Scanned, riccati_scan
from cai.ops.gaussian.risk import scaled_noise


def scanned_values(problem: LinearQuadratic, eta: float | Tensor) -> Tensor:
    """Computes P_t, the corner zero, of all times: `[T + 1, *batch, n + 1, n + 1]`.

    Differentiable by autograd with respect to every part of the problem.

    Args:
        problem: The problem, of finite horizon.
        eta: The risk parameter, 1 / reward units; 0 keeps the dynamics as it is.

    Raises:
        IncompatibleMethod: R_t is not positive definite at some time, which the message names; or products over time
            lose the digits of the values. The loop may well have an answer in both cases.
    """
    return _scanned(problem, eta).values


def solve_by_scan(problem: LinearQuadratic, eta: float | Tensor) -> QuadraticMessages:
    """Computes the backward messages of a finite horizon by a scan; see `cai.ops.gaussian.riccati.solve`.

    Raises:
        IncompatibleMethod: As `scanned_values`; or eta is too far below zero.
    """
    scanned, k = _scanned(problem, eta), problem.num_states + 1
    factors, mixed = scanned.columns[..., k:, :].tril(), scanned.columns[..., :k, :]
    gains = -torch.linalg.solve_triangular(factors.mT, mixed.mT, upper=True)
    curvatures = factors @ factors.mT
    if problem.noise is not None and scaled_noise(problem, eta) is not None:
        need_expectation(tilt_info(scanned.values[1:, ..., :-1, :-1], problem.noise, eta))
    return assemble(
        problem,
        eta,
        corners=scanned.corners,
        values=scanned.values,
        gains=gains,
        curvatures=curvatures,
        factors=factors.detach(),
    )


def pays_to_scan(batch: int, horizon: int, num_states: int) -> bool:
    """Says whether the scan is quicker than the loop: from 100 steps on, while batch * n^2 is at most 512.

    So it was on one thread of a CPU (`benchmarks/linear_quadratic_scan.py`): beyond, a step of the loop is arithmetic
    enough to hide its calls, and the scan does some three times as much of it.

    Args:
        batch: How many problems are solved side by side.
        horizon: T.
        num_states: n.
    """
    return horizon >= 100 and batch * num_states**2 <= 512


def _scanned(problem: LinearQuadratic, eta: float | Tensor) -> Scanned:
    assert problem.horizon is not None
    batch, size, noise = problem.message_batch, problem.num_states + 1, scaled_noise(problem, eta)
    mask = torch.ones(size, size, dtype=problem.end.dtype, device=problem.end.device)
    mask[-1, -1] = 0.0
    scanned = riccati_scan(
        math.sqrt(problem.discount) * problem.dynamics,
        problem.cost,
        problem.end.expand(*batch, size, size),
        problem.horizon,
        mask=mask,
        noise=None if noise is None else pad(noise, (0, 1, 0, 1)),
    )
    if scanned.lost is not None:
        _refuse(problem, scanned.lost)
    return scanned


def _refuse(problem: LinearQuadratic, lost: int) -> NoReturn:
    advice, size = "schedule=Sequential() is the loop", problem.num_states + 1
    indefinite = (
        torch.linalg.cholesky_ex(problem.cost[..., size:, size:].detach()).info.reshape(len(problem.cost), -1).any(1)
    )
    if indefinite.any():
        t = int(indefinite.nonzero()[0, 0])
        raise IncompatibleMethod(
            f"a scan over time needs a cost of actions that is positive definite by itself, and that of time {t} is "
            f"not (QuadraticReward: R); {advice}, which needs R + B'PB positive definite"
        )
    raise IncompatibleMethod(
        f"a scan over time loses the digits of the values before time {lost}: what some steps alone lead to is not "
        f"finite, not convex, or of too different sizes; {advice}, which goes back from the end"
    )
