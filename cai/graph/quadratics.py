"""A trajectory graph with linear-Gaussian factors, read as a linear-quadratic problem."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import gymnasium
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.factors.linear_parts import GaussianPriorParts, with_batch_dims
from cai.factors.policy import FlatPrior
from cai.factors.protocols import GaussianInitial, GaussianPrior, LinearDynamics, QuadraticFactor
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.gaussian.problem import LinearQuadratic, block_matrix
from cai.ops.tables import is_hard


def is_linear_gaussian(graph: Any) -> bool:
    """Says whether a graph's states are vectors that move linearly, so that the Gaussian routines are asked."""
    return isinstance(graph, TrajectoryGraph) and isinstance(graph.dynamics, LinearDynamics)


def need_linear_gaussian(graph: TrajectoryGraph, name: str) -> None:
    """Raises `IncompatibleMethod` where linear dynamics stands beside factors that are not quadratic or Gaussian."""
    for slot, protocol, wanted in (
        ("initial", GaussianInitial, "Gaussian or Delta"),
        ("reward", QuadraticFactor, "QuadraticReward"),
        ("terminal_reward", QuadraticFactor | None, "QuadraticReward"),
        ("action_prior", GaussianPrior | FlatPrior | None, "LinearGaussianPolicy, Gaussian or FlatPrior"),
    ):
        factor = getattr(graph, slot)
        if not isinstance(factor, protocol):
            found = "None" if factor is None else type(factor).__name__
            raise IncompatibleMethod(
                f"{name} on linear-Gaussian dynamics needs {wanted} as the {slot}, got {found}"
                + ("; ILQR takes any differentiable reward" if "reward" in slot else "")
            )
    if graph.action_prior is None and _is_limited(graph.action_space):
        raise IncompatibleMethod(
            f"{name}: the action space {graph.action_space} is bounded, and the soft maximum over a box of a quadratic "
            "is no quadratic; ILQR keeps limits, action_prior=FlatPrior() or a Gaussian prior takes all of R^m"
        )
    if graph.evidence:
        raise IncompatibleMethod(
            f"{name} takes no evidence on continuous states, actions or observations; KalmanSmoother does"
        )


def linear_quadratic(graph: TrajectoryGraph) -> LinearQuadratic:
    """Reads a linear-Gaussian graph as matrices, all in one floating type and with equally many batch dimensions.

    An action prior N(Kx + k, S) is a cost alpha (u - Kx - k)' S^-1 (u - Kx - k) / 2 + (alpha / 2) logdet(2 pi S).

    Args:
        graph: A graph that `need_linear_gaussian` has passed.
    """
    n, m = graph.dynamics.state_size, graph.dynamics.action_size
    linear = graph.dynamics.linear_parts()
    reward = graph.reward.quadratic_parts(n, m).form
    end = None if graph.terminal_reward is None else graph.terminal_reward.terminal_form(n)
    start = graph.initial.initial_moments(n)
    prior = gain = spread = None
    if isinstance(graph.action_prior, GaussianPrior) and not is_hard(graph.temperature):
        parts = graph.action_prior.prior_parts(n, m)
        gain, spread = torch.cat([parts.gain, parts.offset[..., None]], -1), parts.covariance
        prior = graph.temperature * _deviation_form(gain, spread)
    timed = [linear.homogeneous, linear.covariance, reward, prior, gain, spread]
    timed += [reward.new_zeros(1, n + 1, n + 1) if end is None else end[None]]
    dtype = reduce(torch.promote_types, (part.dtype for part in timed if part is not None))
    dims = max(start.mean.dim() - 1, *(part.dim() - 3 for part in timed if part is not None))
    dynamics, noise, reward, prior, gain, spread, end = (_cast(part, dims, dtype) for part in timed)
    covariance = None if start.covariance is None else start.covariance.to(dtype)
    return LinearQuadratic(
        dynamics=dynamics,
        noise=noise,
        cost=reward if prior is None else reward + prior,
        reward=reward,
        end=end[0],
        initial_mean=start.mean.to(dtype),
        initial_covariance=covariance,
        temperature=graph.temperature,
        discount=graph.discount,
        horizon=graph.horizon,
        prior_gain=gain,
        prior_covariance=spread,
    )


def prior_form(parts: GaussianPriorParts, temperature: float | Tensor) -> Tensor:
    """Writes -alpha log N(u; Kx + k, S) as z'Mz/2, z = [x; 1; u]: M, `[T or 1, *batch, d, d]`."""
    m, n = parts.gain.shape[-2:]
    form = _deviation_form(torch.cat([parts.gain, parts.offset[..., None]], -1), parts.covariance)
    corner = m * math.log(2 * math.pi) + torch.linalg.slogdet(parts.covariance).logabsdet
    place = torch.zeros(form.shape[-2:], dtype=form.dtype, device=form.device)
    place[n, n] = 1.0
    return temperature * (form + corner[..., None, None] * place)


def _deviation_form(gain: Tensor, covariance: Tensor) -> Tensor:
    """Writes (u - Kx - k)' S^-1 (u - Kx - k) as z'Mz, z = [x; 1; u]: M, `[T or 1, *batch, d, d]`.

    Args:
        gain: [K k], `[T or 1, *batch, m, n + 1]`.
        covariance: S, `[T or 1, *batch, m, m]`.
    """
    away = block_matrix([[-gain, torch.eye(gain.shape[-2], dtype=gain.dtype, device=gain.device)]])
    factor = torch.linalg.cholesky(covariance)
    return away.mT @ torch.cholesky_solve(away, factor.expand(*away.shape[:-2], *factor.shape[-2:]))


def _cast(part: Tensor | None, dims: int, dtype: torch.dtype) -> Any:
    return None if part is None else with_batch_dims(part, dims, 2).to(dtype)


def _is_limited(space: gymnasium.Space | None) -> bool:
    return isinstance(space, gymnasium.spaces.Box) and not (
        (space.low == -math.inf).all() and (space.high == math.inf).all()
    )
