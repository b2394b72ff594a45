"""How to act by a policy: by its mean, or by a draw."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Categorical, Distribution


def mean_action(policy: Distribution) -> Tensor:
    """Gives the mean of a policy; of one among finitely many actions, the most probable.

    Args:
        policy: A distribution over actions, any batch.

    Returns:
        Actions, `[*batch]` or `[*batch, m]`.
    """
    return policy.probs.argmax(-1) if isinstance(policy, Categorical) else policy.mean


def sampled_action(policy: Distribution) -> Tensor:
    """Draws from a policy, by torch's global generator; `cai.rollout` seeds it for the time of the rollout.

    Args:
        policy: A distribution over actions, any batch.

    Returns:
        Actions, `[*batch]` or `[*batch, m]`.
    """
    return policy.sample()
