"""What a step promises where a trajectory has gaps (multiple shooting).

Along du = K dx + a k, dx' = F dx + B du + a d all deviations grow with a, and the quadratic model of the cost is
a sum w'l_w + a^2 sum w'l_ww w / 2, w = [du; dx] those of a = 1: a rollout of the linear model gives both sums.

Source: Mastalli et al. (2020), section III, for what closing gaps does to the cost.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cai.ops.shooting.backward_pass import BackwardPass, LocalModel
from cai.ops.shooting.problem import discounted_sum


def with_gaps(model: LocalModel, backward: BackwardPass) -> BackwardPass:
    """Takes the closing of gaps into account in what is promised.

    Args:
        model: The problem around a trajectory.
        backward: Its backward pass.
    """
    state = torch.zeros_like(model.end[..., 0])
    joint = []
    for gain, move in zip(backward.gains.unbind(0), model.moves[..., :-1, :].unbind(0), strict=True):
        action = torch.baddbmm(gain[..., -1:], gain[..., :-1], state[..., None])
        both = torch.cat([action.squeeze(-1), state], -1)
        joint.append(both)
        state = torch.baddbmm(move[..., -1:], move[..., :-1], both[..., None]).squeeze(-1)
    steps = _parts_along(model.slopes, torch.stack(joint))
    end = _parts_along(model.end, state)
    pairs = zip(steps, end, strict=True)
    slope, bend = (discounted_sum(torch.cat([step, last[None]]), model.discount) for step, last in pairs)
    return replace(backward, slope=slope, bend=bend, definite=backward.definite & torch.isfinite(slope + bend))


def _parts_along(slopes: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """w'l_w and w'l_ww w, of [l_ww l_w] `[..., k, k + 1]` and w `[..., k]`."""
    curved = (slopes[..., :-1] * direction[..., None, :]).sum(-1)
    return (slopes[..., -1] * direction).sum(-1), (curved * direction).sum(-1)
