"""How to act by a policy: by its mean, or by a draw."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from cai.factors import greedy_action


def mean_action(policy: Distribution) -> Tensor:
    """Gives the mean of a policy, or what stands for it: see `cai.factors.greedy_action`.

    Args:
        policy: A distribution over actions, any batch.

    Returns:
        Actions, `[*batch]` or `[*batch, m]`.
    """
    return greedy_action(policy)


def sampled_action(policy: Distribution) -> Tensor:
    """Draws from a policy, by torch's global generator; `cai.rollout` seeds it for the time of the rollout.

    Args:
        policy: A distribution over actions, any batch.

    Returns:
        Actions, `[*batch]` or `[*batch, m]`.
    """
    return policy.sample()
