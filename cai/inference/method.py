"""What every method of inference is: hyper-parameters, and four functions of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from cai.inference.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Progress:
    """What a callback is told after each step.

    Attributes:
        num_steps: Steps so far.
        residual: How far from the fixed point, reward units; NaN where that has no meaning.
        certified_error: The certified bound so far, reward units.
        seconds: Wall-clock time so far.
        checkpoint: What `AbstractMethod.restore` needs to go on from here.
    """

    num_steps: int
    residual: float
    certified_error: float
    seconds: float
    checkpoint: Any


class AbstractMethod(ABC):
    """An inference routine: a frozen dataclass of hyper-parameters that names which posterior is computed, and how.

    `infer` calls `accepts`, then `init`, then `step` until `is_done`, then `posterior`. A method keeps nothing in
    itself: what the next step needs is the state that `init` and `step` return.
    """

    @abstractmethod
    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` if the graph lacks what the method needs, naming methods that would work."""

    @abstractmethod
    def init(self, graph: Any, seed: int | None) -> Any:
        """Makes the first state, with everything that can be refused refused."""

    @abstractmethod
    def step(self, graph: Any, state: Any) -> Any:
        """Does a piece of the work."""

    @abstractmethod
    def is_done(self, state: Any) -> bool:
        """Says whether the work is done."""

    @abstractmethod
    def posterior(self, graph: Any, state: Any, seconds: float) -> Posterior:
        """Wraps the final state as the answer; no new mathematics."""

    @abstractmethod
    def progress(self, state: Any, seconds: float) -> Progress:
        """Says where the work stands."""

    @abstractmethod
    def restore(self, state: Any, checkpoint: Any) -> Any:
        """Puts a checkpoint into a fresh state, so that the run goes on as if it had not stopped."""
