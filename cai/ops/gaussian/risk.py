"""How a quadratic value passes back through Gaussian noise: (1/eta) log E exp(eta V), the plain mean where eta = 0.

With V(x) = -y'Py/2, y = [x; 1], and x' = mu + w, w ~ N(0, W),

    (1/eta) log E exp(eta V(mu + w)) = -[mu; 1]' P~ [mu; 1] / 2 - logdet(I + eta P W) / (2 eta)
    P~ = (I + P eta W)^-1 P

and x' tilted by exp(eta V) has the mean G_y [mu; 1], G_y = (I + eta W P)^-1 = I - eta W P~ on homogeneous coordinates.

Source: Jacobson (1973); Whittle (1981).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.gaussian.problem import LinearQuadratic, symmetric

#: Entries of X below this over its size: logdet(I + X) by its series, whose sixth term is then below rounding.
_SMALL, _NUM_TERMS = 1e-2, 8


def is_zero(eta: float | Tensor) -> bool:
    """Says whether a risk parameter is zero: the dynamics stays what it is. One that may learn, 0-dim, is not."""
    return not isinstance(eta, Tensor) and eta == 0.0


def scaled_noise(problem: LinearQuadratic, eta: float | Tensor) -> Tensor | None:
    """Gives eta W, or None where that is zero."""
    return None if problem.noise is None or is_zero(eta) else eta * problem.noise


def through_noise(values: Tensor, noise: Tensor | None) -> Tensor:
    """Computes P~ = (I + P eta W)^-1 P: `[..., n + 1, n + 1]`.

    Args:
        values: P, `[..., n + 1, n + 1]`.
        noise: eta W, `[..., n, n]`, or None where that is zero.
    """
    if noise is None:
        return values
    padded = pad(noise, (0, 1, 0, 1))
    identity = torch.eye(values.shape[-1], dtype=values.dtype, device=values.device)
    return symmetric(torch.linalg.solve(identity + values @ padded, values))


def towards_luck(step: Tensor, tilted: Tensor, noise: Tensor | None) -> Tensor:
    """Computes G_y X = X - eta W P~ X, what a step X = D or D Y becomes when luck is tilted: as `step`.

    Args:
        step: X, `[..., n + 1, k]`.
        tilted: P~ of the next value, `[..., n + 1, n + 1]`.
        noise: eta W, `[..., n, n]`, or None where that is zero.
    """
    return step if noise is None else step - pad(noise, (0, 1, 0, 1)) @ (tilted @ step)


def noise_constants(values: Tensor, noise: Tensor, eta: float | Tensor) -> Tensor:
    """Computes -logdet(I + eta P W) / (2 eta), which is -tr(PW)/2 at eta = 0: `[...]`, reward units.

    Args:
        values: The quadratic part of P, `[..., n, n]`.
        noise: W, `[..., n, n]`.
        eta: The risk parameter.
    """
    if is_zero(eta):
        return -0.5 * (values * noise).sum((-2, -1))
    return -0.5 * scaled_logdet(values @ noise, eta)


def scaled_logdet(product: Tensor, eta: float | Tensor) -> Tensor:
    """Computes logdet(I + eta X) / eta without losing digits where eta X is small: `[...]`.

    Args:
        product: X, `[..., n, n]`.
        eta: Not zero.
    """
    whole = eta * product
    n = whole.shape[-1]
    small = whole.detach().abs().amax((-2, -1)) < _SMALL / n
    identity = torch.eye(n, dtype=whole.dtype, device=whole.device)
    direct = torch.linalg.slogdet(identity + whole).logabsdet / eta
    if not small.any():
        return direct
    step = torch.where(small[..., None, None], whole, 0.0)
    power, series = product, _trace(product)
    for k in range(2, _NUM_TERMS + 1):
        power = -(power @ step)
        series = series + _trace(power) / k
    return torch.where(small, series, direct)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
