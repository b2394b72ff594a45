"""Sweeps in the order in which news travels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cai.data.serialization import serializable
from cai.methods.solvers.solver import AbstractSolver
from cai.ops.infinite.fixed_point import Iterate, Stationary


@serializable
@dataclass(frozen=True)
class PrioritisedSweeps(AbstractSolver):
    """Asynchronous sweeps over blocks of states, from the exits outwards, where values still move.

    A block is backed up with the newest values of the others, and only while its priority, a bound on its Bellman
    residual, is worth it. For sparse worlds with exits whose transitions mostly lead one way: a maze without slip takes
    a few passes. The answer, and its certificate by a plain sweep at the end, are those of every other solver.

    Source: Moore and Atkeson (1993); Wingate and Seppi (2005).

    Attributes:
        max_steps: The most passes over the blocks.
        block_size: States of a block.
    """

    max_steps: int = 100_000
    block_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_whole("block_size", least=1)

    def advance(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        """Goes through the blocks some times."""
        return self.repeated(lambda now: self._step(problem, now, tolerance), iterate)

    def _step(self, problem: Stationary, iterate: Iterate, tolerance: float) -> Iterate:
        queue = problem.queue(self.block_size)
        priorities = queue.first_priorities(iterate.v) if iterate.memory is None else iterate.memory
        least = problem.residual_for(iterate, tolerance)
        if float(priorities.max()) <= least:
            return replace(problem.sweep(iterate, tolerance=tolerance), memory=None)
        v, priorities = queue.passed(iterate.v, priorities, least=0.5 * least)
        residual = float(priorities.max())
        return replace(iterate, v=v, num_steps=iterate.num_steps + 1, residual=residual, memory=priorities)
