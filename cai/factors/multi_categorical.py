"""Several independent choices at once: actions in a MultiDiscrete space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl


class MultiCategorical(Distribution):
    """Independent choices a_1, ..., a_k, the i-th among n_i: p(a) = prod_i p_i(a_i).

    Args:
        logits: `[*batch, k, n]`, log-probabilities up to a constant for each choice, n the greatest n_i; `-inf` where
            a choice has no such value, or may not take it.
    """

    arg_constraints: dict[str, Any] = {}
    has_enumerate_support = False

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=False)

    @classmethod
    def split(cls, logits: Tensor, sizes: Sequence[int]) -> MultiCategorical:
        """Makes one of the choices' logits side by side.

        Args:
            logits: `[*batch, n_1 + ... + n_k]`.
            sizes: n_1, ..., n_k.
        """
        if len(set(sizes)) == 1:
            return cls(logits.unflatten(-1, (len(sizes), sizes[0])))
        most = max(sizes)
        parts = logits.split(list(sizes), -1)
        padded = [torch.nn.functional.pad(part, (0, most - part.shape[-1]), value=-torch.inf) for part in parts]
        return cls(torch.stack(padded, -2))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Indices from 0, one for each choice."""
        return constraints.independent(constraints.integer_interval(0, self.logits.shape[-1] - 1), 1)

    @property
    def probs(self) -> Tensor:
        """Probabilities, `[*batch, k, n]`."""
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """The most probable values, `[*batch, k]`, int64."""
        return self.logits.argmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MultiCategorical:
        """Gives the distribution with a larger batch; see torch."""
        return MultiCategorical(self.logits.expand(*batch_shape, *self.logits.shape[-2:]))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, `[*sample, *batch, k]`, int64."""
        shape = self._extended_shape(torch.Size(sample_shape))
        rows = self.probs.detach().flatten(0, -2)
        drawn = torch.multinomial(rows, torch.Size(sample_shape).numel(), replacement=True)
        return drawn.T.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log-probability of `[*sample, *batch, k]`: `[*sample, *batch]`, nats."""
        value = value.long()
        shape = torch.broadcast_shapes(value.shape, self.logits.shape[:-1])
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        return logits.gather(-1, value.expand(shape)[..., None]).squeeze(-1).sum(-1)

    def entropy(self) -> Tensor:
        """Computes the entropy, `[*batch]`, nats."""
        return -_expected(self.probs, self.logits).sum((-2, -1))


def _expected(probs: Tensor, logs: Tensor) -> Tensor:
    """Computes p log q with 0 log 0 = 0, and no NaN in its gradient."""
    return probs * torch.where(probs > 0, logs, 0.0)


@register_kl(MultiCategorical, MultiCategorical)
def _kl_multi_categorical(p: MultiCategorical, q: MultiCategorical) -> Tensor:
    difference = torch.where(torch.isneginf(p.logits), 0.0, p.logits) - q.logits
    return _expected(p.probs, difference).sum((-2, -1))
