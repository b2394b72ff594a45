"""What terminal states are worth to a learner: the graph's terminal reward, else nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def with_terminal_reward(graph: Any, rewards: Tensor, next_states: Tensor, terminated: Tensor) -> Tensor:
    """Computes r + gamma g(s') where the world ended in s', r elsewhere: g is the graph's terminal reward.

    Args:
        graph: The graph.
        rewards: `[*batch]`, reward units.
        next_states: `[*batch, ...]`, in the environment's form.
        terminated: `[*batch]`, bool.

    Returns:
        `[*batch]`, reward units.
    """
    if graph.terminal_reward is None or not bool(terminated.any()):
        return rewards
    worth = torch.as_tensor(graph.terminal_reward(next_states[terminated])).detach().to(rewards)
    return rewards.index_put((terminated,), rewards[terminated] + graph.discount * worth)
