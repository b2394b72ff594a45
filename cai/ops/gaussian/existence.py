"""Where the messages of a linear-quadratic problem exist, and the errors that say where they do not."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.errors import IncompatibleMethod, NonFinite
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages
from cai.ops.gaussian.risk import is_zero
from cai.ops.tables import as_number


def need_concave(info: Tensor) -> None:
    """Raises `IncompatibleMethod` unless all factorisations of H_uu went well: info is `[T, ...]`, of LAPACK."""
    if (info != 0).any():
        t = int((info != 0).nonzero()[-1, 0])
        raise IncompatibleMethod(
            f"the soft maximum over actions does not exist at time {t}: H_uu = R + gamma B'PB is not positive definite "
            "there; the reward must be concave in the action (QuadraticReward: R positive definite)"
        )


def root_of(matrix: Tensor) -> Tensor:
    """Computes S with S S' = a positive semi-definite matrix, `[..., n, n]`, without gradient."""
    levels, vectors = torch.linalg.eigh(matrix.detach())
    return vectors * levels.clamp(min=0.0).sqrt()[..., None, :]


def sign_of(eta: float | Tensor) -> float:
    """The sign of a risk parameter other than zero."""
    return -1.0 if as_number(eta) < 0 else 1.0


def tilt_info(values: Tensor, spread: Tensor, eta: float | Tensor) -> Tensor:
    """Says where I + eta P W is positive definite, so that E exp(eta V) exists: 0 there, `[...]`.

    Args:
        values: The quadratic part of P, `[..., n, n]`.
        spread: W, `[..., n, n]`.
        eta: The risk parameter.
    """
    root = root_of(abs(as_number(eta)) * spread)
    identity = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    return torch.linalg.cholesky_ex(identity + sign_of(eta) * (root.mT @ values.detach() @ root)).info


def need_expectation(info: Tensor) -> None:
    """Raises `IncompatibleMethod` unless I + eta P W was positive definite at all times: info is `[T, ...]`."""
    if (info != 0).any():
        t = int((info != 0).nonzero()[-1, 0])
        raise IncompatibleMethod(
            f"the expectation of exp(eta V) does not exist at time {t + 1}: I + eta P W is not positive definite "
            "there; take eta nearer to zero, less noise, or a shorter horizon"
        )


def need_expectation_of_start(problem: LinearQuadratic, messages: QuadraticMessages, eta: float | Tensor) -> None:
    """Raises `IncompatibleMethod` unless E exp(eta V_0) exists over the first state."""
    spread, n = problem.initial_covariance, problem.num_states
    if spread is None or is_zero(eta):
        return
    if (tilt_info(messages.values[0, ..., :n, :n], spread, eta) != 0).any():
        raise IncompatibleMethod(
            "the expectation of exp(eta V) over the first state does not exist: I + eta P S is not positive definite; "
            "take eta nearer to zero, or a start that is known better"
        )


def need_finite(values: Tensor, *, first: int = 0) -> None:
    """Raises `NonFinite` at the last time at which P, `[T + 1, ...]` from a first time on, is not finite."""
    if not torch.isfinite(values).all():
        t = first + int((~torch.isfinite(values)).nonzero()[:, 0].max())
        raise NonFinite(
            f"the value's quadratic form is not finite at time {t} (the recursion runs backward from the end)"
        )
