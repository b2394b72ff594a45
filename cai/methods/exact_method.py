"""What `SoftValueIteration`, `SumProduct` and `RiskSensitiveControl` share: tables, or linear-Gaussian factors."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.graph.quadratics import is_linear_gaussian, linear_quadratic, need_linear_gaussian
from cai.inference.gaussian import GaussianPosterior, risk_parameter
from cai.inference.method import Progress
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats
from cai.methods.tabular_method import AbstractTabularMethod
from cai.ops.gaussian.control_scan import pays_to_scan, solve_by_scan
from cai.ops.gaussian.existence import need_expectation_of_start
from cai.ops.gaussian.problem import Answer, LinearQuadratic, QuadraticMessages, around_prior, from_prior
from cai.ops.gaussian.riccati import solve
from cai.ops.gaussian.stationary import solve_stationary
from cai.ops.scans.time_schedules import AssociativeScan
from cai.ops.threads import threads_for


@dataclass(frozen=True, eq=False)
class QuadraticState:
    """Where a linear-Gaussian routine stands: the messages are not there yet, or they are.

    Attributes:
        problem: The graph as matrices.
        answer: The messages, and how they were reached.
    """

    problem: LinearQuadratic
    answer: Answer | None = None


class AbstractExactMethod(AbstractTabularMethod):
    """A method that means the same on tables and on linear-Gaussian graphs.

    On these one Riccati recursion back through a finite horizon, by a loop or by a scan, or its fixed point.
    """

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph has tables, or linear-Gaussian factors."""
        if not is_linear_gaussian(graph):
            super().accepts(graph)
            return
        name = type(self).__name__
        self.check_options(graph)
        need_linear_gaussian(graph, name)
        if self.reading.tilts and graph.discount < 1.0:
            raise IncompatibleMethod(
                f"{name}: under a discount r + (1/eta) log(gamma E exp(eta V) + 1 - gamma) of a quadratic V is no "
                "quadratic; SoftValueIteration takes a discount, or give discount=1"
            )

    def init(self, graph: Any, seed: int | None) -> Any:
        """Reads the tables or matrices."""
        if not is_linear_gaussian(graph):
            return super().init(graph, seed)
        return QuadraticState(linear_quadratic(graph))

    def step(self, graph: Any, state: Any) -> Any:
        """Does a piece of the work; a Riccati recursion is one piece."""
        if not isinstance(state, QuadraticState):
            return super().step(graph, state)
        problem = state.problem
        eta = risk_parameter(self.reading, problem.temperature)
        with threads_for(problem.message_batch.numel() * problem.cost.shape[-1] ** 2):
            centred = around_prior(problem)
            if problem.horizon is None:
                answer = solve_stationary(centred, eta)
            else:
                answer = Answer(self._through_time(centred, eta), problem.horizon, 0.0)
        need_expectation_of_start(problem, answer.messages, eta)
        return QuadraticState(problem, replace(answer, messages=from_prior(problem, answer.messages)))

    def _through_time(self, problem: LinearQuadratic, eta: float | Tensor) -> QuadraticMessages:
        """Solves a finite horizon as scheduled; without a schedule by a scan where that pays and keeps its digits."""
        if isinstance(self.schedule, AssociativeScan):
            return solve_by_scan(problem, eta)
        assert problem.horizon is not None
        batch = problem.message_batch.numel()
        if self.schedule is None and not problem.learns and pays_to_scan(batch, problem.horizon, problem.num_states):
            with suppress(IncompatibleMethod):
                return solve_by_scan(problem, eta)
        return solve(problem, eta)

    def is_done(self, state: Any) -> bool:
        """Says whether all messages are there."""
        return state.answer is not None if isinstance(state, QuadraticState) else super().is_done(state)

    def posterior(self, graph: Any, state: Any, seconds: float) -> Posterior:
        """Wraps the messages."""
        if not isinstance(state, QuadraticState):
            return super().posterior(graph, state, seconds)
        assert state.answer is not None
        answer = state.answer
        stats = Stats(answer.num_steps, True, answer.residual, math.inf, seconds)
        return GaussianPosterior(graph, self, stats, self.reading, state.problem, answer.messages)

    def progress(self, state: Any, seconds: float) -> Progress:
        """Says where the work stands."""
        if not isinstance(state, QuadraticState):
            return super().progress(state, seconds)
        steps, residual = (0, math.nan) if state.answer is None else (state.answer.num_steps, state.answer.residual)
        return Progress(steps, residual, math.inf, seconds, None)

    def restore(self, state: Any, checkpoint: Any) -> Any:
        """Goes on from a checkpoint; a Riccati recursion starts again."""
        return state if isinstance(state, QuadraticState) else super().restore(state, checkpoint)
