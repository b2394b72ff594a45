"""The log-density of a Pyro site, exact where Pyro clamps.

`Categorical(probs=...)`, `Bernoulli(probs=...)` and their kin turn probabilities into logits after pushing them into
[eps, 1 - eps], so that a forbidden value keeps log eps = -36 nats (-16 in float32) and inference at a low temperature
may choose it. Here log 0 = -inf: a logit that equals the clamped one is replaced by the logarithm of its probability.
"""

from __future__ import annotations

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, Independent, OneHotCategorical
from torch.distributions.utils import probs_to_logits

from cai.ops.logspace import safe_log


def exact_log_prob(fn: Distribution, value: Tensor) -> Tensor:
    """Computes log p(value), with `-inf` where a probability given as zero forbids it.

    Args:
        fn: A distribution; masks, expansions and event dimensions around one are looked through.
        value: A value or a batch of them.

    Returns:
        Nats, in the dtype of `fn`; of a shape that broadcasts to the batch.
    """
    match fn:
        case Independent():
            return sum_rightmost(exact_log_prob(fn.base_dist, value), fn.reinterpreted_batch_ndims)
        case MaskedDistribution():
            return scale_and_mask(exact_log_prob(fn.base_dist, value), mask=fn._mask)
        case ExpandedDistribution():
            return exact_log_prob(fn.base_dist, value)
        case Categorical():
            return _exact_categorical(fn).log_prob(value)
        case OneHotCategorical():
            return _exact_categorical(fn._categorical).log_prob(value.argmax(-1))
        case Bernoulli() | Binomial():
            count = fn.total_count if isinstance(fn, Binomial) else torch.ones_like(fn.probs)
            return _exact_binary(fn, count, value)
    return fn.log_prob(value)


def _exact_categorical(fn: Categorical) -> Categorical:
    clamped = probs_to_logits(fn.probs)
    return Categorical(logits=torch.where(clamped == fn.logits, safe_log(fn.probs), fn.logits), validate_args=False)


def _exact_binary(fn: Bernoulli | Binomial, count: Tensor, value: Tensor) -> Tensor:
    probs, plain = fn.probs, fn.log_prob(value)
    clamped = probs_to_logits(probs, is_binary=True) == fn.logits
    at_limit = (probs < torch.finfo(probs.dtype).eps) | (1.0 - probs < torch.finfo(probs.dtype).eps)
    ways = torch.lgamma(count + 1) - torch.lgamma(value + 1) - torch.lgamma(count - value + 1)
    exact = ways + _times_log(value, probs) + _times_log(count - value, 1.0 - probs)
    return torch.where(clamped & at_limit, exact, plain)


def _times_log(number: Tensor, probability: Tensor) -> Tensor:
    """Computes number * log(probability), with 0 log 0 = 0."""
    possible = probability > 0
    impossible = torch.where(number > 0, -torch.inf, torch.zeros_like(number))
    return torch.where(possible, number * torch.where(possible, probability, 1.0).log(), impossible)
