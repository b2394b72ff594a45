"""The backward pass of iterative LQR and of differential dynamic programming, batched over problems.

With V'(dx) = dx'P'dx/2 + p'dx at the next step, and w = [du; dx], z = [du; dx; 1], y = [dx; 1],

    H = [l_ww  l_w] + gamma [B F]' [P'[B F]  p' + P'd]            rows w, columns z
        (+ gamma sum_i (p' + P'd)_i d2f_i/dw2   with second derivatives of the dynamics)
    H~_u = H_u + mu B'[B F 0]                                     the regularised rows of the controls
    [K k] = -H~_uu^-1 H~_uy
    [P p] = H_xy + H_xu [K k] + K'(H_uy + H_uu [K k])             the value of these gains, unregularised

The parameter mu is a penalty mu |x' - x*'|^2 / 2 on moves away from the trajectory, one for each batch element. With
limits on the controls k solves a box-constrained quadratic programme, and the rows of K of clamped controls are zero.

Where H~_uu is not positive definite the element is marked (`definite`), and its gains mean nothing; the others are as
if it were not there.

Source: Tassa, Erez and Todorov (2012), equations 5, 10 and 11; Tassa, Mansard and Todorov (2014) for limits; Li and
Todorov (2004); Jacobson and Mayne (1970).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.shooting.box_qp import clamped_at_zero, clamped_gains, is_definite, without
from cai.ops.shooting.layouts import AbstractLayout
from cai.ops.shooting.problem import discounted_sum


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A problem around a trajectory.

    Attributes:
        layout: How the tensors are stored.
        moves: [B F d; 0 0 1], so that [dx'; 1] = moves z, `[T, B, n + 1, m + n + 1]`.
        slopes: [l_ww l_w] of the costs, `[T, B, m + n, m + n + 1]`.
        end: [l_xx l_x] of the last state, `[B, n, n + 1]`.
        discount: gamma.
        bends: Gives d2f/dw2 of step t, `[B, n, m + n, m + n]`, or None where it is zero; or is None to leave them out.
        low: Lower bounds of du, `[T, B, m]`, or None without limits.
        high: Upper bounds of du, `[T, B, m]`, or None without limits.
    """

    layout: AbstractLayout
    moves: Tensor
    slopes: Tensor
    end: Tensor
    discount: float = 1.0
    bends: Callable[[int], Tensor | None] | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def num_states(self) -> int:
        """Number of state coordinates n."""
        return self.end.shape[-2]

    @property
    def num_actions(self) -> int:
        """Number of action coordinates m."""
        return self.slopes.shape[-2] - self.end.shape[-2]


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """What a backward pass gives.

    Attributes:
        gains: [K k], `[T, B, m, n + 1]`.
        values: [P p], `[T + 1, B, n, n + 1]`.
        rows: H_u, unregularised, `[T, B, m, m + n + 1]`.
        curvatures: H~_uu, regularised, `[T, B, m, m]`.
        slope: sum_t gamma^t k'H_u1, `[B]`, float64: the first derivative of the cost by the step size.
        bend: sum_t gamma^t k'H_uu k, `[B]`, float64: the second.
        definite: Whether all H~_uu are positive definite and finite, `[B]`, bool.
    """

    gains: Tensor
    values: Tensor
    rows: Tensor
    curvatures: Tensor
    slope: Tensor
    bend: Tensor
    definite: Tensor

    def predicted(self, step_size: float | Tensor) -> Tensor:
        """Gives the expected change of the cost for a step size: below zero for a descent; `[..., B]`."""
        return step_size * self.slope + 0.5 * step_size**2 * self.bend


def backward_pass(model: LocalModel, regularisation: Tensor) -> BackwardPass:
    """Computes gains and values, from the end to the start.

    Where limits are given, H~_uu need only be positive definite in the controls that do not stand at a limit and push
    against it already.

    Args:
        model: The problem around a trajectory.
        regularisation: mu >= 0, `[B]`, cost units over squared state units.
    """
    backward = _passed(model, regularisation, holds=False)
    if model.low is not None and model.num_actions > 1 and not is_definite(backward.curvatures).all():
        return _passed(model, regularisation, holds=True)
    return backward


def _passed(model: LocalModel, regularisation: Tensor, *, holds: bool) -> BackwardPass:
    layout, n, m = model.layout, model.num_states, model.num_actions
    num_steps, batch = model.moves.shape[:2]
    rows = layout.empty(num_steps, batch, m, n + m + 1, like=model.moves)
    gains = layout.empty(num_steps, batch, m, n + 1, like=model.moves)
    values = layout.empty(num_steps + 1, batch, n, n + 1, like=model.moves)
    values[-1] = model.end
    work = _Workspace(model)
    rule, added = _rule(model, work, holds=holds), _regularising(model, regularisation)
    moves, turned = layout.steps(model.moves), layout.factors(model.moves[..., :n, :-1].mT)
    slopes, all_rows, all_gains, all_values = map(layout.steps, (model.slopes, rows, gains, values))
    for t in range(num_steps - 1, -1, -1):
        carried = layout.product(work.left_value, moves[t])
        if model.discount != 1.0:
            carried *= model.discount
        layout.added(slopes[t], turned[t], carried, out=work.h)
        if model.bends is not None:
            _add_bend(layout.batch_first(work.h), layout.batch_first(carried)[..., -1], model.bends(t))
        all_rows[t].copy_(work.hu)
        rule(t, None if added is None else added[t])
        all_gains[t].copy_(work.gain)
        layout.added(work.hxy, work.left_hxu, work.gain, out=work.value)
        if added is not None or model.low is not None:  # otherwise what is added here is zero
            rest = layout.added(work.huy, work.left_huu, work.gain)
            layout.added(work.value, work.left_feedback, rest, out=work.value)
        work.form.copy_(torch.lerp(work.form, work.turned_form, 0.5))
        all_values[t].copy_(work.value)
    return _assembled(model, gains, values, rows, regularisation)


class _Workspace:
    """What one step of the recursion reads and writes: one place for all steps, and views of its blocks.

    Steps write in place into views made once, since the time goes into calls and not into arithmetic.
    """

    def __init__(self, model: LocalModel) -> None:
        layout, n, m, batch = model.layout, model.num_states, model.num_actions, model.moves.shape[1]
        values = layout.empty(1, batch, n, n + 1, like=model.moves).copy_(model.end)
        h = layout.empty(1, batch, n + m, n + m + 1, like=model.moves)
        gains = layout.empty(1, batch, m, n + 1, like=model.moves)
        forms = values[..., :n]
        parts = (values, forms, forms.mT, h, h[..., :m, :], h[..., :m, :m], h[..., :m, m:], h[..., m:, m:], gains)
        self.value, self.form, self.turned_form, self.h, self.hu, self.huu, self.huy, self.hxy, self.gain = (
            layout.steps(part)[0] for part in parts
        )
        self.offset = layout.steps(gains[..., n:])[0]
        left = (values, h[..., m:, :m], h[..., :m, :m], gains[..., :n].mT)
        self.left_value, self.left_hxu, self.left_huu, self.left_feedback = (layout.factors(part)[0] for part in left)


def _regularising(model: LocalModel, regularisation: Tensor) -> tuple[Tensor, ...] | None:
    """Gives mu B'[B F] of each step, or None where all mu are zero."""
    if not (regularisation > 0).any():
        return None
    n, m = model.num_states, model.num_actions
    b, joint = model.moves[..., :n, :m], model.moves[..., :n, :-1]
    added = model.layout.empty(*model.moves.shape[:2], m, n + m + 1, like=model.moves)
    added[..., :-1] = (regularisation.to(b.dtype)[:, None, None] * b.mT) @ joint
    added[..., -1] = 0.0
    return model.layout.steps(added)


def _rule(model: LocalModel, work: _Workspace, *, holds: bool) -> Callable[[int, Tensor | None], None]:
    """Gives what computes the gains of step t, once H is there, with what regularises its rows.

    Without limits the system is solved; one control with limits is clamped; several are a quadratic programme, which
    first holds back what is clamped already where H_uu is indefinite.
    """
    layout, m, n = model.layout, model.num_actions, model.num_states
    rows = layout.empty(1, model.moves.shape[1], m, n + m + 1, like=model.moves)
    (regular,), (curvature,), (sides,) = (layout.steps(part) for part in (rows, rows[..., :m], rows[..., m:]))
    plainly = layout.solver(work.huu, work.huy, work.gain)
    regularised = layout.solver(curvature, sides, work.gain)

    def parts(added: Tensor | None) -> tuple[Tensor, Tensor]:
        """H~_uu and H~_uy."""
        if added is None:
            return work.huu, work.huy
        torch.add(work.hu, added, out=regular)
        return curvature, sides

    def unlimited(t: int, added: Tensor | None) -> None:
        parts(added)
        (plainly if added is None else regularised)()

    if model.low is None or model.high is None:
        return unlimited
    low, high = (
        layout.steps(layout.empty(*bound.shape, 1, like=rows).copy_(bound[..., None]))
        for bound in (model.low, model.high)
    )

    def single(t: int, added: Tensor | None) -> None:
        hessian, side = parts(added)
        torch.div(side, hessian.abs(), out=work.gain).neg_()  # downhill: at a limit that it pushes against it stays
        allowed = work.offset.clamp(low[t], high[t])
        work.gain.mul_(allowed == work.offset)
        work.offset.copy_(allowed)

    def several(t: int, added: Tensor | None) -> None:
        hessian, side = parts(added)
        (plainly if added is None else regularised)()
        if ((work.offset >= low[t]) & (work.offset <= high[t])).all():
            return
        hessian, side, gain, bottom, top = map(layout.batch_last, (hessian, side, work.gain, low[t], high[t]))
        gain.copy_(clamped_gains(hessian, side, gain, bottom[:, 0], top[:, 0]))

    def careful(t: int, added: Tensor | None) -> None:
        bottom, top = layout.batch_first(low[t])[..., 0], layout.batch_first(high[t])[..., 0]
        hessian, side = map(layout.batch_first, parts(added))
        held = clamped_at_zero(side[..., n], bottom, top) & ~is_definite(hessian)[:, None]
        hessian, side = without(held, hessian), torch.where(held[..., None], 0.0, side)
        gain = -torch.linalg.solve_ex(hessian, side).result
        turned = (part.movedim(0, -1) for part in (hessian, side, gain, bottom, top))
        layout.batch_last(work.gain).copy_(clamped_gains(*turned))

    return single if m == 1 else careful if holds else several


def _add_bend(h: Tensor, slope: Tensor, bend: Tensor | None) -> None:
    """Adds sum_i slope_i d2f_i/dw2 to H: slope `[B, n]`, bend `[B, n, m + n, m + n]`."""
    if bend is not None:
        h[..., :-1] += (slope[:, None] @ bend.flatten(2)).reshape(-1, *bend.shape[-2:])


def _assembled(model: LocalModel, gains: Tensor, values: Tensor, rows: Tensor, regularisation: Tensor) -> BackwardPass:
    """Adds what follows for all steps at once."""
    m, n, offsets = model.num_actions, model.num_states, gains[..., -1]
    curved = (rows[..., :m] * offsets[..., None, :]).sum(-1)
    slope = discounted_sum((rows[..., -1] * offsets).sum(-1), model.discount)
    bend = discounted_sum((curved * offsets).sum(-1), model.discount)
    b = model.moves[..., :n, :m]
    size = regularisation.to(b.dtype)[:, None, None]
    curvatures = rows[..., :m] + size * (b.mT @ b) if (size > 0).any() else rows[..., :m]
    definite = is_definite(curvatures)
    if model.low is not None and model.high is not None and not definite.all():
        definite |= is_definite(without(clamped_at_zero(rows[..., -1], model.low, model.high), curvatures))
    definite = definite.all(0) & torch.isfinite(slope + bend)
    return BackwardPass(gains, values, rows, curvatures, slope, bend, definite)
