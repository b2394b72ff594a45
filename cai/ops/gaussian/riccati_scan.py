"""The Riccati recursion by a scan over time: for control, and with time reversed for the Kalman filter.

    P_t = H_yy - H_yu H_uu^-1 H_uy,   H = M + D' P~ D,   P~ = (I + P_{t+1} W)^-1 P_{t+1}

What several steps make of a value is an element: the least cost between a first state y and the state z after them is

    cost(y, z) = max_lambda  y'J y / 2 - lambda'C lambda / 2 - lambda'(z - A y)

(A, b, C, eta and J of Särkkä and García-Fernández are these, where a one stands among the coordinates: [A b; 0 1],
[C 0; 0 0] and [J -eta; -eta' .].) Two elements, first e then f, are one, and an element acts on the value P after it:

    M = (I + C_e J_f)^-1:   A = A_f M A_e     C = A_f M C_e A_f' + C_f     J = A_e' M' J_f A_e + J_e
    e . P = A_e' M' P A_e + J_e,   M = (I + C_e P)^-1

A step y' = F y + B u + w of cost y'Qy + 2 y'Nu + u'Ru has A = F - B R^-1 N', C = B R^-1 B' + W, J = Q - N R^-1 N'. To
put a step before an element takes no solve of n rows, only the elimination of m that a Riccati step makes:

    G = M + D'J D,   [J; A] <- [G_yy; A D_y] - Z [Z_y]',   C <- C + Z_a Z_a',   Z the Cholesky columns of [G_yu; A D_u]

So time is cut into blocks of L steps, all of which go side by side through L Riccati steps from the identity; the T / L
elements that come out are put together by odd-even recursion (`suffix_actions`), which gives the values at the ends of
all blocks; from these, all blocks go through L plain Riccati steps. This takes some 2 L + 2 log2(T / L) rounds. Where
all steps are alike all blocks are one, and little more than the last part is left.

A block starts without a value behind it, so that it needs R positive definite, not only R + B'PB.

Source: Särkkä and García-Fernández (2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.gaussian.lanes import Blocks, columns, congruence, eliminated, lanes, matmul, stack
from cai.ops.gaussian.problem import symmetric
from cai.ops.scans.scan import suffix_actions

#: How far the values at the ends of blocks may be from those of the loop from there, in the power of the precision.
_ACCURACY = 0.6


@dataclass(frozen=True, eq=False)
class Element:
    """What some steps make of the value after them; s coordinates, the one among them.

    Attributes:
        transition: A, `[T, *batch, s, s]`.
        reach: C, `[T, *batch, s, s]`, symmetric: the inverse of what it costs to end elsewhere.
        cost: J, `[T, *batch, s, s]`, symmetric.
    """

    transition: Tensor
    reach: Tensor
    cost: Tensor


def combine(first: Element, second: Element) -> Element:
    """Puts elements together, the first before the second; an associative product."""
    size = first.cost.shape[-1]
    both = torch.cat([first.transition, first.reach], -1)
    moved = torch.linalg.solve_ex(_eye_plus(first.reach @ second.cost), both)[0]
    to_middle, reached = moved[..., :size], moved[..., size:]
    return Element(
        second.transition @ to_middle,
        symmetric(second.transition @ reached @ second.transition.mT + second.reach),
        symmetric(to_middle.mT @ (second.cost @ first.transition) + first.cost),
    )


def act(element: Element, value: Tensor) -> Tensor:
    """Gives the value before some steps, P `[..., s, s]`, of the value after them."""
    moved = torch.linalg.solve_ex(_eye_plus(element.reach @ value), element.transition)[0]
    return symmetric(moved.mT @ (value @ element.transition) + element.cost)


@dataclass(frozen=True, eq=False)
class Scanned:
    """What a scan of the Riccati recursion gives.

    Attributes:
        values: P_t, `[T + 1, *batch, s, s]`.
        corners: The last entry of each P_t before it was masked, `[T + 1, *batch]`.
        columns: [Z_y; L] of each step, `[T, *batch, s + m, m]`: G_uu = L L', and the gain is -L'^-1 Z_y'.
        lost: The time before which P_t has lost its digits (or is not finite), going back; None where all are right.
    """

    values: Tensor
    corners: Tensor
    columns: Tensor
    lost: int | None


def riccati_scan(
    dynamics: Tensor, cost: Tensor, end: Tensor, horizon: int, *, mask: Tensor, noise: Tensor | None = None
) -> Scanned:
    """Computes P_t for all times.

    Args:
        dynamics: D, `[T or 1, *batch, s, s + m]`; m may be 0.
        cost: M, symmetric, `[T or 1, *batch, s + m, s + m]`.
        end: P_T, `[*batch, s, s]`, of the whole batch.
        horizon: T, at least 1.
        mask: `[s, s]`, what each P_t is multiplied by: ones, or a zero in a corner that is not to be summed up.
        noise: W, symmetric, `[T or 1, *batch, s, s]`; None where it is zero.
    """
    num_batch = end.dim() - 2
    blocks = Blocks.of(horizon, num_batch)
    half = 0.5 * mask[(..., *[None] * (num_batch + 1))]
    tail, body = (
        _Steps(cut(dynamics), cut(cost), None if noise is None else cut(noise)) for cut in (blocks.tail, blocks.body)
    )
    after = _passed_back(tail, lanes(end[None], num_batch), half)
    first = stack(after.values[0])
    at_starts = suffix_actions(combine, act, _element(body, half), first[0], blocks.count) * mask
    within = _passed_back(body, lanes(torch.cat([at_starts[1:], first]), num_batch), half)
    bad = _blocks_without_digits(at_starts, stack(within.values[0]))
    return Scanned(
        values=blocks.joined(within.values[:-1], after.values),
        corners=blocks.joined(within.corners[:-1], after.corners)[..., 0, 0],
        columns=blocks.joined(within.columns, after.columns),
        lost=blocks.length * (int(bad.nonzero().max()) + 1) if bad.any() else None,
    )


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps in order of time; each of some lanes."""

    dynamics: list[Tensor]
    cost: list[Tensor]
    noise: list[Tensor] | None


@dataclass(frozen=True, eq=False)
class _Passed:
    """P before each step and after the last, their corners unmasked, and the columns of each step."""

    values: list[Tensor]
    corners: list[Tensor]
    columns: list[Tensor]


def _passed_back(steps: _Steps, value: Tensor, half: Tensor) -> _Passed:
    """Takes Riccati steps from the value after them; `half` is half the mask."""
    size = len(value)
    corners, found = [value[-1:, -1:]], []
    values = [value * (2.0 * half)]
    for t in range(len(steps.dynamics) - 1, -1, -1):
        d, now = steps.dynamics[t], values[-1]
        if steps.noise is not None:
            now = matmul(now, _through(now, steps.noise[t]))
        hamiltonian = congruence(d, matmul(now, d), steps.cost[t])
        own = columns(hamiltonian, len(hamiltonian) - size)
        found.append(torch.stack(own, 1) if own else hamiltonian[:, :0])
        value = eliminated(hamiltonian[:size, :size], own)
        corners.append(value[-1:, -1:])
        values.append((value + value.transpose(0, 1)) * half)
    return _Passed(values[::-1], corners[::-1], found[::-1])


def _element(steps: _Steps, half: Tensor) -> Element:
    """Puts the steps of each block together, `[K, ...]`, or `[1, ...]` where all blocks are alike.

    [J; A] is one stack of 2 s rows, and C is kept with the other sign: all three are then Schur complements of one
    matrix, [G, (A D)'; A D, -C].
    """
    size = len(half)
    eye = torch.eye(size, dtype=half.dtype, device=half.device).reshape(half.shape)
    both, reach = torch.cat([torch.zeros_like(eye), eye]), torch.zeros_like(eye)
    for t in range(len(steps.dynamics) - 1, -1, -1):
        if steps.noise is not None:
            turn, back = _through(both[:size], steps.noise[t]), both[size:].transpose(0, 1)
            reach = congruence(back, -matmul(matmul(turn, steps.noise[t]), back), reach)
            both = matmul(both, turn)
        moved = matmul(both, steps.dynamics[t])
        hamiltonian = congruence(steps.dynamics[t], moved[:size], steps.cost[t])
        passed = moved[size:].expand(-1, -1, *hamiltonian.shape[2:])
        panel = torch.cat([hamiltonian[:size], passed, hamiltonian[size:]])
        found = columns(panel, len(hamiltonian) - size)
        both = eliminated(panel[: 2 * size, :size], found)
        reach = eliminated(reach, [column[size:] for column in found])
        both = torch.cat([0.5 * (both[:size] + both[:size].transpose(0, 1)), both[size:]])
    value, transition = both[:size], both[size:]
    return Element(stack(transition), -stack(reach.expand_as(value)), stack(value))


def _through(value: Tensor, noise: Tensor) -> Tensor:
    """Computes (I + W P)^-1 of lanes; it need be neither symmetric nor positive definite."""
    return lanes(torch.linalg.inv_ex(_eye_plus(stack(noise) @ stack(value)))[0], value.dim() - 3)


def _eye_plus(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _blocks_without_digits(scanned: Tensor, stepped: Tensor) -> Tensor:
    """Says which values at the starts of blocks, `[K, *batch, s, s]`, differ from those that steps lead to: `[K]`."""
    with torch.no_grad():
        allowed = torch.finfo(stepped.dtype).eps ** _ACCURACY * stepped.abs().amax((-2, -1))
        good = (scanned - stepped).abs().amax((-2, -1)) <= allowed
    return ~good.reshape(len(stepped), -1).all(1)
