"""One choice among all combinations of several choices: actions in a MultiDiscrete space that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl


class JointCategorical(Distribution):
    """A distribution over (a_1, ..., a_k), the i-th among n_i, that need not factorise.

    Args:
        logits: `[*batch, n_1 * ... * n_k]`, log-probabilities up to a constant, the last choice running quickest;
            `-inf` for what may not be done.
        sizes: n_1, ..., n_k.

    Raises:
        ValueError: Another number of logits than combinations.
    """

    arg_constraints: dict[str, Any] = {}
    has_enumerate_support = False

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        if logits.shape[-1] != math.prod(sizes):
            raise ValueError(
                f"JointCategorical: choices of {tuple(sizes)} need {math.prod(sizes)} logits, got {logits.shape[-1]}"
            )
        self.logits, self.sizes = logits.log_softmax(-1), tuple(sizes)
        super().__init__(logits.shape[:-1], torch.Size([len(self.sizes)]), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Indices from 0, one for each choice."""
        return constraints.independent(constraints.integer_interval(0, max(self.sizes) - 1), 1)

    @property
    def probs(self) -> Tensor:
        """Probabilities of the combinations, `[*batch, n_1 * ... * n_k]`."""
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """The most probable combination, `[*batch, k]`, int64."""
        return self._choices(self.logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> JointCategorical:
        """Gives the distribution with a larger batch; see torch."""
        return JointCategorical(self.logits.expand(*batch_shape, self.logits.shape[-1]), self.sizes)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, `[*sample, *batch, k]`, int64."""
        num, rows = torch.Size(sample_shape).numel(), self.probs.detach().reshape(-1, self.logits.shape[-1])
        drawn = torch.multinomial(rows, num, replacement=True).T
        return self._choices(drawn.reshape((*sample_shape, *self.batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-probability of `[*sample, *batch, k]`: `[*sample, *batch]`, nats."""
        index = torch.zeros_like(value[..., 0], dtype=torch.int64)
        for i, size in enumerate(self.sizes):
            index = index * size + value[..., i].long()
        shape = torch.broadcast_shapes(index.shape, self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        return logits.gather(-1, index.expand(shape)[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Computes the entropy, `[*batch]`, nats."""
        return -_expected(self.probs, self.logits)

    def _choices(self, index: Tensor) -> Tensor:
        return torch.stack(torch.unravel_index(index, self.sizes), -1)


def _expected(probs: Tensor, logs: Tensor) -> Tensor:
    """Computes sum p log q with 0 log 0 = 0, and no NaN in its gradient."""
    return (probs * torch.where(probs > 0, logs, 0.0)).sum(-1)


@register_kl(JointCategorical, JointCategorical)
def _kl_joint_categorical(p: JointCategorical, q: JointCategorical) -> Tensor:
    return _expected(p.probs, torch.where(torch.isneginf(p.logits), 0.0, p.logits) - q.logits)
