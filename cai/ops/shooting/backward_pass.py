"""The backward pass of iterative LQR and of differential dynamic programming, batched over problems.

With V'(dx) = dx'P'dx/2 + p'dx at the next step, and everything as in `cai.ops.shooting.problem`,

    H = [l_ww  l_w] + gamma [B F]' [P'[B F]  p' + P'd]            rows w = [du; dx], columns z = [du; dx; 1]
        (+ gamma sum_i (p' + P'd)_i d2f_i/dw2   with second derivatives of the dynamics)
    H~_u = H_u + mu B'[B F 0]                                     the regularised rows of the controls
    [K k] = -H~_uu^-1 H~_uy                                       y = [dx; 1]
    [P p] = H_xy + H_xu [K k] + K'(H_uy + H_uu [K k])             the value of these gains, unregularised

The parameter mu is a penalty mu |x' - x*'|^2 / 2 on moves away from the trajectory, one for each batch element. With
limits on the controls k solves a box-constrained quadratic programme, and the rows of K of clamped controls are zero.

Where H~_uu is not positive definite the element is marked (`definite`), and its gains mean nothing; the others are as if
it were not there.

Source: Tassa, Erez and Todorov (2012), equations 5, 10 and 11; Tassa, Mansard and Todorov (2014) for limits; Li and
Todorov (2004); Jacobson and Mayne (1970).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cai.ops.shooting.box_qp import box_qp, solve_free


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A problem around a trajectory; w = [u; x].

    Attributes:
        moves: [B F d], `[T, B, n, m + n + 1]`.
        slopes: [H g] of the costs, `[T, B, m + n, m + n + 1]`.
        end: [H g] of the last state, `[B, n, n + 1]`.
        discount: gamma.
        bends: Gives d2f/dw2 of step t, `[B, n, m + n, m + n]`, or is None where they are left out.
        low: Lower bounds of du, `[T, B, m]`, or None without limits.
        high: Upper bounds of du, `[T, B, m]`, or None without limits.
    """

    moves: Tensor
    slopes: Tensor
    end: Tensor
    discount: float = 1.0
    bends: Callable[[int], Tensor] | None = None
    low: Tensor | None = None
    high: Tensor | None = None


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """What a backward pass gives.

    Attributes:
        gains: [K k], `[T, B, m, n + 1]`.
        values: [P p], `[T + 1, B, n, n + 1]`.
        slope: sum_t gamma^t k'H_u1, `[B]`, float64: the first derivative of the cost by the step size.
        bend: sum_t gamma^t k'H_uu k, `[B]`, float64: the second.
        definite: Whether all H~_uu are positive definite and finite, `[B]`, bool.
    """

    gains: Tensor
    values: Tensor
    slope: Tensor
    bend: Tensor
    definite: Tensor

    def predicted(self, step_size: float | Tensor) -> Tensor:
        """Gives the expected change of the cost for a step size: below zero for a descent; `[..., B]`."""
        return step_size * self.slope + 0.5 * step_size**2 * self.bend

    def select(self, index: Tensor) -> BackwardPass:
        """Gives the passes of some batch elements; `index` is `[k]`."""
        timed = (self.gains[:, index], self.values[:, index])
        return BackwardPass(*timed, self.slope[index], self.bend[index], self.definite[index])


def backward_pass(model: LocalModel, regularisation: Tensor) -> BackwardPass:
    """Computes gains and values, from the end to the start.

    Args:
        model: The problem around a trajectory.
        regularisation: mu >= 0, `[B]`, cost units over squared state units.
    """
    num_steps, batch, n, d = model.moves.shape
    m, like = d - n - 1, {"dtype": model.moves.dtype, "device": model.moves.device}
    # Every block that a step reads or writes is a view made here, and every step writes in place: at these sizes the
    # time goes into calls, not into arithmetic.
    hamiltonian = model.slopes.clone()
    values = torch.empty(num_steps + 1, batch, n, n + 1, **like)
    gains = torch.empty(num_steps, batch, m, n + 1, **like)
    values[-1] = model.end
    last_row = torch.zeros(num_steps, batch, 1, d, **like)
    last_row[..., -1] = 1.0
    moves = torch.cat([model.moves, last_row], -2).unbind(0)
    turned = (model.discount * model.moves[..., :-1]).mT.unbind(0)
    carried = torch.empty(batch, n, d, **like)
    hxy, hxu = hamiltonian[..., m:, m:].unbind(0), hamiltonian[..., m:, :m].unbind(0)
    huy, huu = hamiltonian[..., :m, m:].unbind(0), hamiltonian[..., :m, :m].unbind(0)
    forms, gains_x = values[..., :n].unbind(0), gains[..., :n].mT.unbind(0)
    all_h, all_values, all_gains = hamiltonian.unbind(0), values.unbind(0), gains.unbind(0)
    regularised = _Regularised(model, hamiltonian, regularisation)
    rule = _rule(model, regularised.rows, gains)
    exact = regularised.rows is hamiltonian and model.low is None
    for t in range(num_steps - 1, -1, -1):
        torch.bmm(all_values[t + 1], moves[t], out=carried)
        all_h[t].baddbmm_(turned[t], carried)
        if model.bends is not None:
            _add_bend(all_h[t], carried[..., -1], model.bends(t), model.discount)
        regularised.fill(t)
        rule(t)
        value = torch.baddbmm(hxy[t], hxu[t], all_gains[t], out=all_values[t])
        if not exact:  # otherwise what follows is zero
            value.baddbmm_(gains_x[t], torch.baddbmm(huy[t], huu[t], all_gains[t]))
        forms[t].copy_(0.5 * (forms[t] + forms[t].mT))
    return _assembled(model.discount, hamiltonian, regularised.rows[..., :m, :m], values, gains)


def with_gaps(model: LocalModel, backward: BackwardPass) -> BackwardPass:
    """Takes the closing of gaps into account in what is promised: by a rollout of the linear model.

    Along du = K dx + a k, dx' = F dx + B du + a d all deviations grow with a, and the quadratic model of the cost is
    a sum w'g + a^2 sum w'H w / 2 with w those of a = 1.

    Args:
        model: The problem around a trajectory, gaps d in the last column of its moves.
        backward: Its backward pass.
    """
    state = torch.zeros_like(model.moves[0, ..., -1])
    joint = []
    for gain, move in zip(backward.gains.unbind(0), model.moves.unbind(0), strict=True):
        action = torch.baddbmm(gain[..., -1:], gain[..., :-1], state[..., None])
        both = torch.cat([action.squeeze(-1), state], -1)
        joint.append(both)
        state = torch.baddbmm(move[..., -1:], move[..., :-1], both[..., None]).squeeze(-1)
    steps = _parts_along(model.slopes, torch.stack(joint))
    end = _parts_along(model.end, state)
    weights = model.discount ** torch.arange(len(joint) + 1, dtype=torch.float64, device=state.device)
    sums = [torch.tensordot(weights, torch.cat([a, b[None]]).double(), 1) for a, b in zip(steps, end, strict=True)]
    return replace(backward, slope=sums[0], bend=sums[1], definite=backward.definite & torch.isfinite(sum(sums)))


def _parts_along(slopes: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """w'g and w'Hw, of [H g] `[..., k, k + 1]` and w `[..., k]`."""
    curved = (slopes[..., :-1] @ direction[..., None]).squeeze(-1)
    return (slopes[..., -1] * direction).sum(-1), (curved * direction).sum(-1)


class _Regularised:
    """The rows of the controls, with mu B'[B F 0] added where any mu is above zero."""

    def __init__(self, model: LocalModel, hamiltonian: Tensor, regularisation: Tensor) -> None:
        self.rows, self._steps = hamiltonian, None
        if not (regularisation > 0).any():
            return
        m = model.moves.shape[-1] - model.moves.shape[-2] - 1
        joint = torch.cat([model.moves[..., :-1], torch.zeros_like(model.moves[..., -1:])], -1)
        added = regularisation[:, None, None] * (model.moves[..., :m].mT @ joint)
        self.rows = torch.empty_like(added)
        self._steps = tuple(part.unbind(0) for part in (hamiltonian[..., :m, :], added, self.rows))

    def fill(self, t: int) -> None:
        """Writes the rows of step t."""
        if self._steps is not None:
            plain, added, rows = self._steps
            torch.add(plain[t], added[t], out=rows[t])


def _rule(model: LocalModel, rows: Tensor, gains: Tensor) -> Callable[[int], None]:
    """Gives what writes the gains of step t, given the rows of its controls: by their number, and by the limits."""
    m, n = gains.shape[-2], gains.shape[-1] - 1
    curvatures, sides, outputs = (part.unbind(0) for part in (rows[..., :m, :m], rows[..., :m, m:], gains))

    def single(t: int) -> None:
        torch.div(sides[t], curvatures[t], out=outputs[t]).neg_()

    def several(t: int) -> None:
        torch.neg(torch.linalg.solve_ex(curvatures[t], sides[t]).result, out=outputs[t])

    if model.low is None or model.high is None:
        return single if m == 1 else several
    low, high, offsets = model.low.unbind(0), model.high.unbind(0), gains[..., n].unbind(0)

    def single_within(t: int) -> None:
        single(t)
        kept = torch.minimum(torch.maximum(offsets[t], low[t]), high[t])
        outputs[t].mul_(kept.eq(offsets[t])[..., None])
        offsets[t].copy_(kept)

    def several_within(t: int) -> None:
        several(t)
        if not ((offsets[t] < low[t]) | (offsets[t] > high[t])).any():
            return
        answer = box_qp(curvatures[t], sides[t][..., n], low[t], high[t], start=offsets[t])
        torch.neg(solve_free(curvatures[t], sides[t], answer.free), out=outputs[t])
        offsets[t].copy_(answer.solution)

    return single_within if m == 1 else several_within


def _add_bend(hamiltonian: Tensor, slope: Tensor, bend: Tensor, discount: float) -> None:
    """Adds gamma sum_i slope_i d2f_i/dw2 to H: slope `[B, n]`, bend `[B, n, m + n, m + n]`."""
    size = bend.shape[-1]
    hamiltonian[..., :size] += discount * (slope[:, None] @ bend.flatten(2)).reshape(-1, size, size)


def _assembled(discount: float, hamiltonian: Tensor, curvatures: Tensor, values: Tensor, gains: Tensor) -> BackwardPass:
    """Adds what follows for all steps at once."""
    m = gains.shape[-2]
    offsets = gains[..., -1]
    bends = ((hamiltonian[..., :m, :m] @ offsets[..., None]).squeeze(-1) * offsets).sum(-1)
    slopes = (hamiltonian[..., :m, -1] * offsets).sum(-1)
    weights = discount ** torch.arange(len(gains), dtype=torch.float64, device=gains.device)
    slope, bend = (torch.tensordot(weights, part.double(), 1) for part in (slopes, bends))
    definite = (torch.linalg.cholesky_ex(curvatures).info == 0).all(0) & torch.isfinite(slope + bend)
    return BackwardPass(gains, values, slope, bend, definite)
