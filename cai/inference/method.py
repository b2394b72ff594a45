"""What every method of inference is: hyper-parameters, and four functions of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cai.inference.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Progress:
    """What a callback is told after each step.

    Attributes:
        num_steps: Steps so far.
        residual: How far from the fixed point, reward units; NaN where that has no meaning.
        certified_error: The certified bound so far, reward units.
        seconds: Wall-clock time so far.
        checkpoint: What `AbstractMethod.restore` needs to go on from here; what learns is copied when it is written.
        total_steps: Steps that the whole work takes, where that is known.
        metrics: What a learning method logs of this step, by name. A callback may add to it what later callbacks, such
            as loggers, and the history of the answer are to have.
        posterior: Gives the answer as it stands, of a method that has one at any time.
    """

    num_steps: int
    residual: float
    certified_error: float
    seconds: float
    checkpoint: Any
    total_steps: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    posterior: Callable[[], Posterior] | None = None


class AbstractMethod(ABC):
    """An inference routine: a frozen dataclass of hyper-parameters that names which posterior is computed, and how.

    `infer` calls `accepts`, then `init`, then `step` until `is_done`, then `posterior`. A method keeps nothing in
    itself: what the next step needs is the state that `init` and `step` return.

    Attributes:
        is_anytime: Whether every state has an answer: the work may then be stopped early, by a callback or by an
            interrupt, and `infer` returns what there is.
    """

    is_anytime: ClassVar[bool] = False

    @property
    def identity(self) -> AbstractMethod:
        """The method without what may differ between a run and its continuation, such as the number of steps."""
        return self

    def for_graph(self, graph: Any) -> AbstractMethod:
        """Gives the method that does the work on a graph: itself, unless it stands for several."""
        return self

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

    def close(self, state: Any) -> None:  # noqa: B027  (nothing to do is the rule)
        """Frees what the work held, such as processes; called once, however it ended."""
