"""Critics: several networks for Q, and slow copies of them for targets."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cai.factors.networks import MLPBody
from cai.methods.sampling.targets import AbstractTarget


class Critics(nn.Module):
    """Several networks for Q, their targets included.

    Args:
        body: Makes a network; of an `MLPBody` all are one stack.
        num: How many.
        num_inputs: Size of the input.
        num_outputs: Size of the output.
    """

    def __init__(self, body: Any, num: int, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        if isinstance(body, MLPBody):
            self.online: nn.Module = body.stacked(num, num_inputs, num_outputs)
        else:
            self.online = _SideBySide([body(num_inputs, num_outputs) for _ in range(num)])
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Gives every critic's Q: `[*batch, inputs]` to `[num, *batch, outputs]`, reward units."""
        return self.online(inputs)

    def least(self, inputs: Tensor) -> Tensor:
        """Gives the least Q of all critics, `[*batch, outputs]`, reward units."""
        return _least(self.online(inputs))

    def least_target(self, inputs: Tensor) -> Tensor:
        """Gives the least Q of all targets, `[*batch, outputs]`, reward units."""
        return _least(self.target(inputs))

    def follow(self, target: AbstractTarget, num_updates: int) -> None:
        """Moves the targets, when there have been so many updates."""
        target.follow([*self.target.parameters()], [*self.online.parameters()], num_updates)


class _SideBySide(nn.Module):
    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([member(inputs) for member in self.members])


def _least(q: Tensor) -> Tensor:
    return q[0] if len(q) == 1 else q.amin(0)
