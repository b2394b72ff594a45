"""One seed at the entry; the global generator is left as it was."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None, device: torch.device | str = "cpu") -> Iterator[torch.Generator]:
    """Gives a generator, and seeds torch's global one for the duration, since distributions draw from it.

    Args:
        seed: The seed; None takes fresh entropy.
        device: Where the generator draws.
    """
    device = torch.device(device)
    generator = torch.Generator(device)
    generator.seed() if seed is None else generator.manual_seed(operator.index(seed))
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # the seed goes to all of them
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(generator.initial_seed())
        yield generator
