"""What a policy did, as estimators of its value read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cai.ops.returns import td_lambda_returns
from cai.ops.segments import times


@dataclass(frozen=True, eq=False)
class Experience:
    """L steps of E copies, time first.

    Attributes:
        states: `[L, E, ...]`, in the environment's form.
        next_states: `[L, E, ...]`, the true successors.
        payoffs: `[L, E]`, r - alpha log(pi / mu), and gamma times what a terminal state is worth, reward units.
        terminated: `[L, E]`, bool.
        ended: `[L, E]`, bool: nothing goes on to the next row.
        valid: `[L, E]`, bool: False where the row is no transition.
        discount: gamma.
    """

    states: Tensor
    next_states: Tensor
    payoffs: Tensor
    terminated: Tensor
    ended: Tensor
    valid: Tensor
    discount: float

    def returns(self, next_values: Tensor, decay: float) -> Tensor:
        """Computes the lambda-return of every step, `[L, E]`, reward units.

        Args:
            next_values: V of the successors, `[L, E]`.
            decay: lambda.
        """
        payoffs = self.payoffs.to(next_values.dtype)
        return td_lambda_returns(payoffs, next_values, self.terminated, self.ended, discount=self.discount, decay=decay)

    def first_visits(self, index: Tensor) -> Tensor:
        """Says which rows are the first of their state in their episode: `[L, E]`, bool.

        Args:
            index: Of the states, `[L, E]`, int64.
        """
        num_steps, num_envs = index.shape
        episode = torch.zeros_like(index)
        episode[1:] = self.ended[:-1].cumsum(0)
        size = int(index.max()) + 1
        copies = torch.arange(num_envs, device=index.device)
        keys = (episode * num_envs + copies) * size + index
        _, group = keys.unique(return_inverse=True)
        now = times(index)
        first = torch.full((int(group.max()) + 1,), num_steps, device=index.device)
        first.scatter_reduce_(0, group.flatten(), now.flatten(), "amin")
        return now == first[group]
