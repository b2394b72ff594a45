"""Linear-quadratic control with Gaussian noise, as tensors.

    x' = F x + B u + c + w,  w ~ N(0, W)        r(x, u) = -z' M z / 2,  z = [x; 1; u]

Affine terms are carried by a one among the state's coordinates: with y = [x; 1] and z = [x; 1; u],

    y' = D z + [w; 0],   D = [F c B; 0 1 0]     V_t(x) = -y' P_t y / 2 + s_t

so that one symmetric matrix P holds the quadratic and the linear part of a value, and one product does for both. The
corner of P is kept at zero, and the constant in s, which is summed up in float64: over long horizons it grows without
bound while the rest of P settles.

A Gaussian action prior N(Kx + k, S) is a cost alpha (u - Kx - k)' S^-1 (u - Kx - k) / 2 in M. Where alpha is great
that swallows the reward's digits, and so does the prior's normaliser: messages are computed for actions that count from
the prior's mean (`around_prior`), of which the prior's part is alpha S^-1 alone.

Tensors are `[T, *batch, ...]`, or `[1, *batch, ...]` where all steps are alike, and broadcast over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.tables import as_number, is_hard


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """A linear-quadratic problem; n state coordinates, m action coordinates, d = n + 1 + m.

    Attributes:
        dynamics: D, `[T or 1, *batch, n + 1, d]`.
        noise: W, `[T or 1, *batch, n, n]`, positive semi-definite, or None where there is none.
        cost: M, symmetric, `[T or 1, *batch, d, d]`, reward units.
        reward: What of M comes from the reward; the rest is an action prior's.
        end: M_T, the cost of [x_T; 1], `[*batch, n + 1, n + 1]`.
        initial_mean: `[*batch, n]`.
        initial_covariance: `[*batch, n, n]`, positive semi-definite, or None where the start is known.
        temperature: alpha >= 0, reward units; a number or a 0-dim tensor.
        discount: gamma in [0, 1].
        horizon: T, or None for an infinite horizon.
        prior_gain: [K k] of a Gaussian action prior N(Kx + k, S), `[T or 1, *batch, m, n + 1]`; None where it is flat.
        prior_covariance: S, `[T or 1, *batch, m, m]`, or None.
    """

    dynamics: Tensor
    noise: Tensor | None
    cost: Tensor
    reward: Tensor
    end: Tensor
    initial_mean: Tensor
    initial_covariance: Tensor | None
    temperature: float | Tensor
    discount: float
    horizon: int | None
    prior_gain: Tensor | None = None
    prior_covariance: Tensor | None = None

    @property
    def num_states(self) -> int:
        """Number of state coordinates n."""
        return self.end.shape[-1] - 1

    @property
    def num_actions(self) -> int:
        """Number of action coordinates m."""
        return self.cost.shape[-1] - self.end.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The shape that all batch dimensions broadcast to."""
        shapes = [self.message_batch, self.initial_mean.shape[:-1]]
        if self.initial_covariance is not None:
            shapes.append(self.initial_covariance.shape[:-2])
        return torch.broadcast_shapes(*shapes)

    @property
    def message_batch(self) -> torch.Size:
        """The batch dimensions of backward messages: those of all parts but the start."""
        shapes = [self.dynamics.shape[1:-2], self.cost.shape[1:-2], self.end.shape[:-2]]
        return torch.broadcast_shapes(*shapes, () if self.noise is None else self.noise.shape[1:-2])

    @property
    def is_hard(self) -> bool:
        """Whether the temperature is zero."""
        return is_hard(self.temperature)

    @property
    def temperature_value(self) -> float:
        """The temperature as a number."""
        return as_number(self.temperature)

    @property
    def learns(self) -> bool:
        """Whether a gradient is wanted with respect to any part."""
        parts = (self.dynamics, self.noise, self.cost, self.end, self.prior_gain, self.prior_covariance)
        tensors = [*parts, self.initial_mean, self.initial_covariance, self.temperature]
        return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in tensors)

    @property
    def detached(self) -> LinearQuadratic:
        """The same problem without gradients."""
        changes: dict[str, Any] = {
            name: value.detach()
            for name in (part.name for part in fields(self))
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **changes)


def around_prior(problem: LinearQuadratic) -> LinearQuadratic:
    """Gives the problem for actions that count from the prior's mean, u - Kx - k; itself where the prior is flat."""
    gain, spread = problem.prior_gain, problem.prior_covariance
    if gain is None or spread is None:
        return problem
    k, m = gain.shape[-1], gain.shape[-2]
    states, actions = (torch.eye(size, dtype=gain.dtype, device=gain.device) for size in (k, m))
    turn = block_matrix([[states, gain.new_zeros(k, m)], [gain, actions]])
    reward = symmetric(turn.mT @ problem.reward @ turn)
    weight = pad(problem.temperature * torch.linalg.inv(spread), (k, 0, k, 0))
    dynamics = problem.dynamics @ turn
    return replace(problem, dynamics=dynamics, cost=reward + weight, reward=reward, prior_gain=torch.zeros_like(gain))


def from_prior(problem: LinearQuadratic, messages: QuadraticMessages) -> QuadraticMessages:
    """Gives messages of `around_prior(problem)` for the actions themselves."""
    if problem.prior_gain is None:
        return messages
    return replace(messages, gains=messages.gains + problem.prior_gain)


@dataclass(frozen=True, eq=False)
class QuadraticMessages:
    """Backward messages of a linear-quadratic problem, y = [x; 1].

        V_t(x) = -y' P_t y / 2 + s_t        pi_t(u|x) = N(K_t y, Sigma_t)

    Attributes:
        values: P_t with a corner of zero, `[T + 1, *batch, n + 1, n + 1]`, or `[1, ...]` of an infinite horizon.
        constants: s_t, float64, `[T + 1, *batch]` or `[1, *batch]`, reward units.
        gains: K_t, `[T, *batch, m, n + 1]` or `[1, ...]`.
        covariances: Sigma_t, `[T, *batch, m, m]` or `[1, ...]`; zero at temperature 0.
        factors: The Cholesky factor of H_uu = alpha Sigma_t^-1, `[T, *batch, m, m]` or `[1, ...]`, without gradient;
            None where actions at their limits have no spread.
        gain: What every further step is worth, `[*batch]`, reward units, on an infinite horizon without discount.
    """

    values: Tensor
    constants: Tensor
    gains: Tensor
    covariances: Tensor
    factors: Tensor | None = None
    gain: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """Messages, and how they were reached.

    Attributes:
        messages: The messages.
        num_steps: Steps, or rounds of doubling.
        residual: max |P - backup(P)| of an infinite horizon, reward units.
    """

    messages: QuadraticMessages
    num_steps: int
    residual: float


def homogeneous_dynamics(a: Tensor, b: Tensor, offset: Tensor) -> Tensor:
    """Puts x' = A x + B u + c together: D, `[..., n + 1, n + 1 + m]`.

    Args:
        a: `[..., n, n]`.
        b: `[..., n, m]`.
        offset: c, `[..., n]`.
    """
    n, m = b.shape[-2:]
    last = torch.zeros(1, n + 1 + m, dtype=a.dtype, device=a.device)
    last[0, n] = 1.0
    return block_matrix([[a, offset[..., None], b], [last[:, :n], last[:, n : n + 1], last[:, n + 1 :]]])


def homogeneous_form(quadratic: Tensor, linear: Tensor, constant: Tensor) -> Tensor:
    """Puts x'Qx/2 + q'x + k together as y'My/2, y = [x; 1]: `[..., n + 1, n + 1]`.

    Args:
        quadratic: Q, symmetric, `[..., n, n]`.
        linear: q, `[..., n]`.
        constant: k, `[...]`.
    """
    column, corner = linear[..., None], 2.0 * constant[..., None, None]
    return block_matrix([[quadratic, column], [column.mT, corner]])


def block_matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Puts blocks `[*batch, r_i, c_j]` together, each copied once: `[*batch, sum r_i, sum c_j]`."""
    batch = torch.broadcast_shapes(*(block.shape[:-2] for row in rows for block in row))
    heights, widths = [row[0].shape[-2] for row in rows], [block.shape[-1] for block in rows[0]]
    blocks = [block.expand(*batch, *block.shape[-2:]) for row in rows for block in row]
    return _Blocks.apply(tuple(heights), tuple(widths), *blocks)


class _Blocks(torch.autograd.Function):
    """Blocks, row after row, as one matrix; concatenation by rows and columns would copy everything twice."""

    @staticmethod
    def forward(ctx: Any, heights: tuple[int, ...], widths: tuple[int, ...], *blocks: Tensor) -> Tensor:
        """Copies the blocks."""
        ctx.sizes = heights, widths
        whole = blocks[0].new_empty(*blocks[0].shape[:-2], sum(heights), sum(widths))
        for place, block in zip(_places(whole, heights, widths), blocks, strict=True):
            place.copy_(block)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gives each block its part."""
        return None, None, *_places(gradients[0], *ctx.sizes)


def _places(whole: Tensor, heights: tuple[int, ...], widths: tuple[int, ...]) -> list[Tensor]:
    return [place for row in whole.split(heights, -2) for place in row.split(widths, -1)]


def with_one(vector: Tensor) -> Tensor:
    """Appends a one: x, `[..., n]`, to y = [x; 1], `[..., n + 1]`."""
    return torch.cat([vector, torch.ones_like(vector[..., :1])], -1)


def quadratic_form(matrix: Tensor, vector: Tensor) -> Tensor:
    """Computes y'My of `[..., k, k]` and `[..., k]`: `[...]`."""
    return ((matrix @ vector[..., None]).squeeze(-1) * vector).sum(-1)


def symmetric(matrix: Tensor) -> Tensor:
    """Gives (M + M') / 2."""
    return 0.5 * (matrix + matrix.mT)


def flat_batch(part: Tensor, batch: torch.Size) -> Tensor:
    """Expands `[T, *batch, r, c]` over the batch, and makes that one dimension."""
    shape = part.shape
    missing = len(batch) - (len(shape) - 3)
    part = part.reshape(shape[0], *([1] * missing), *shape[1:])
    return part.expand(shape[0], *batch, *shape[-2:]).reshape(shape[0], -1, *shape[-2:])


def summed_over_time(gradient: Tensor, part: Tensor) -> Tensor:
    """Sums a gradient over time where one part serves all steps."""
    return gradient.sum(0, keepdim=True) if len(part) < len(gradient) else gradient
