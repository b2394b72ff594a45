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


class RandomState:
    """torch's generators as one run of a learning method sees them, from step to step.

    Args:
        seed: The seed; None takes fresh entropy.
        device: The device that draws beside the CPU.

    Attributes:
        seed: The seed, drawn where none was given.
    """

    def __init__(self, seed: int | None, device: torch.device | str = "cpu") -> None:
        self._cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
        with seeded(seed) as generator:
            self.seed = generator.initial_seed()
            self._states = self._now()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws go on where those of the last time ended; the process's own generators are left as they were."""
        with torch.random.fork_rng(devices=self._cuda):
            self._set()
            try:
                yield
            finally:
                self._states = self._now()

    def memory(self) -> tuple[torch.Tensor, ...]:
        """Gives what continues the draws bit by bit."""
        return self._states

    def remember(self, memory: tuple[torch.Tensor, ...]) -> None:
        """Puts back what `memory` gave."""
        self._states = memory

    def _now(self) -> tuple[torch.Tensor, ...]:
        return (torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda))

    def _set(self) -> None:
        torch.set_rng_state(self._states[0])
        for device, state in zip(self._cuda, self._states[1:], strict=False):
            torch.cuda.set_rng_state(state, device)


def global_generator(device: torch.device | str) -> torch.Generator:
    """Gives torch's own generator of a device, which `RandomState` seeds for a run and distributions draw from."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
