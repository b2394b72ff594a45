"""What `SumProduct` and `MaxProduct` share: backward messages on trajectories, a junction tree on any other graph."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from cai.graph.factor_graph import FactorGraph
from cai.graph.latent import LatentFactors, latent_factors
from cai.inference.factor_graph import need_support
from cai.inference.junction_tree import JunctionTreePosterior, fitting_tree
from cai.inference.method import Progress
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats
from cai.methods.exact_method import AbstractExactMethod
from cai.methods.schedules import check_time_schedule
from cai.ops.logspace import largest_finite
from cai.ops.semirings import Semiring
from cai.ops.tree_messages import Collected, CollectPass


@dataclass(frozen=True, eq=False)
class EliminationState:
    """Where the first pass over a junction tree stands.

    Attributes:
        factors: The factors with the evidence plugged in.
        work: The pass.
    """

    factors: LatentFactors
    work: CollectPass


class AbstractSemiringMethod(AbstractExactMethod):
    """A method that means the same on a trajectory and on any discrete factor graph."""

    max_memory: float | None

    @property
    @abstractmethod
    def semiring(self) -> Semiring:
        """How variables are summed out."""

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless it is a factor graph, or a trajectory graph of tables or Gaussians."""
        if self.max_memory is not None and not self.max_memory > 0:
            raise ValueError(f"{type(self).__name__}: max_memory must be above 0 (GiB), got {self.max_memory}")
        if isinstance(graph, FactorGraph):
            check_time_schedule(self.schedule, graph, type(self).__name__)
        else:
            super().accepts(graph)

    def init(self, graph: Any, seed: int | None) -> Any:
        """Reads the tables; of a factor graph, finds a junction tree that fits into memory."""
        if not isinstance(graph, FactorGraph):
            return super().init(graph, seed)
        factors = latent_factors(graph)
        tree = fitting_tree(factors.scopes, factors, self)
        return EliminationState(factors, CollectPass(tree, factors.scopes, factors.log_tables, self.semiring))

    def step(self, graph: Any, state: Any) -> Any:
        """Does a second's worth of the work."""
        if not isinstance(state, EliminationState):
            return super().step(graph, state)
        state.work.advance(seconds=1.0)
        return state

    def is_done(self, state: Any) -> bool:
        """Says whether all messages are there."""
        return state.work.is_done if isinstance(state, EliminationState) else super().is_done(state)

    def posterior(self, graph: Any, state: Any, seconds: float) -> Posterior:
        """Wraps the messages."""
        if not isinstance(state, EliminationState):
            return super().posterior(graph, state, seconds)
        collected = state.work.collected()
        need_support(not torch.isneginf(collected.log_total))
        stats = Stats(state.work.num_steps, True, 0.0, _rounding(collected), seconds)
        return JunctionTreePosterior(graph, self, stats, state.factors, collected)

    def progress(self, state: Any, seconds: float) -> Progress:
        """Says how many cliques are done."""
        if not isinstance(state, EliminationState):
            return super().progress(state, seconds)
        return Progress(state.work.num_steps, float("nan"), float("nan"), seconds, None)

    def restore(self, state: Any, checkpoint: Any) -> Any:
        """Goes on from a checkpoint; a pass over a junction tree starts again."""
        return state if isinstance(state, EliminationState) else super().restore(state, checkpoint)


def _rounding(collected: Collected) -> float:
    """Bounds the rounding of a pass, nats: some eps of the greatest message at each clique."""
    if not collected.messages:
        return 0.0
    messages = torch.cat([message.detach().flatten() for message in collected.messages])
    return 16 * torch.finfo(messages.dtype).eps * len(collected.messages) * max(1.0, largest_finite(messages))
