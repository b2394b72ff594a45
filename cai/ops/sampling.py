"""Drawing from finite distributions, so that what has probability zero is never drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_index(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws an index in proportion to weights along the last dimension, by inversion of the cumulative sum.

    Args:
        weights: `[..., n]`, at least zero; where all are zero the index means nothing.
        generator: The source of randomness.

    Returns:
        `[...]`, int64. An index of weight zero is never drawn.
    """
    cumulative = weights.detach().cumsum(-1)
    total = cumulative[..., -1:]
    uniform = torch.rand(total.shape, dtype=weights.dtype, device=weights.device, generator=generator)
    # The product can round up to the total itself, beyond the last index that has weight.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative <= threshold).sum(-1).clamp(max=weights.shape[-1] - 1)
