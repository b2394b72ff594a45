"""Loopy belief propagation: beliefs of a factor graph of any width, by messages along its edges.

    m_{f->i}(x_i) = sum_{x_f without x_i} f(x_f) prod_{j != i} w_{j->f}(x_j),     w_{i->f} = u_i prod_{g != f} m_{g->i}
    b_i = u_i prod_f m_{f->i},     b_f = f prod_j w_{j->f}

Posterior: p(x | evidence), by the marginals that a stationary point of the Bethe free energy gives. Exact on forests,
after as many sweeps as a longest path has factors; an estimate on any other graph, where it may have several fixed
points, or not settle. `TropicalSemiring` puts max in the place of the sum: max-product, whose answer is one assignment.

Factors whose variables all stand in another factor are multiplied into that one first. Cost: a sweep reads each table
twice, whatever its number of variables is; all factors of one shape are one operation.

Source: Kschischang, Frey and Loeliger (2001); Yedidia, Freeman and Weiss (2005) for the free energy; Wainwright and
Jordan (2008), chapter 4.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod, NonFinite, NotConverged, warn_user
from cai.graph.factor_graph import FactorGraph
from cai.graph.latent import LatentFactors, latent_factors
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.factor_graph import need_support
from cai.inference.loopy import LoopyPosterior, loopy_kernel
from cai.inference.method import AbstractMethod, Progress
from cai.inference.stats import Stats
from cai.methods.schedules import Flooding, Schedule
from cai.methods.tabular_method import need_slots, need_tables
from cai.ops.loopy import LoopyKernel, Messages
from cai.ops.semirings import LogSemiring, Semiring, TropicalSemiring
from cai.ops.threads import threads_for

#: Seconds of work between two looks at the callbacks.
_SECONDS = 0.5


@serializable
@dataclass(frozen=True, eq=False)
class LoopyIterate:
    """Where the sweeps stand, as a checkpoint keeps it.

    Attributes:
        messages: `[c, E]` a cardinality: what the factors tell their variables, as the kernel keeps them.
        num_steps: Sweeps so far.
        residual: The greatest change of a message in the last sweep, were all replaced, nats.
        done: Whether the tolerance, or the floor of rounding, is reached.
    """

    messages: Messages
    num_steps: int = 0
    residual: float = math.inf
    done: bool = False


@dataclass(frozen=True, eq=False)
class LoopyState:
    """Where the method stands.

    Attributes:
        graph: The factor graph: the one given, or a trajectory graph unrolled.
        factors: Its factors with the evidence plugged in.
        kernel: The same, brought together.
        iterate: The messages.
    """

    graph: FactorGraph
    factors: LatentFactors
    kernel: LoopyKernel
    iterate: LoopyIterate


@serializable
@dataclass(frozen=True)
class LoopyBeliefPropagation(AbstractMethod):
    """Approximate marginals, evidence or mode of a factor graph of any width; exact on forests.

    Answers a `FactorGraph`, and a trajectory graph on tables with a horizon, which is unrolled. A sweep costs some
    reads of all tables, where `SumProduct` pays for the width: take that wherever it fits into memory. Marginals of
    strong, frustrated loops may be far off or never settle: see `stats.converged`, and try `damping`, `Residual`.

    Attributes:
        semiring: `LogSemiring()` for marginals and evidence, `TropicalSemiring()` for the most probable assignment.
        damping: Share of the old message, in logarithms, that a new one keeps; in [0, 1).
        tolerance: The greatest change of a message, nats, that counts as none.
        max_steps: The most sweeps.
        schedule: Which messages a sweep replaces: `Flooding()` or `Residual()`.
    """

    semiring: Semiring = field(default_factory=LogSemiring)
    damping: float = 0.0
    tolerance: float = 1e-10
    max_steps: int = 1000
    schedule: Schedule = field(default_factory=Flooding)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless it is a factor graph, or a trajectory graph that can be unrolled."""
        self._check()
        if isinstance(graph, TrajectoryGraph):
            self._need_unrollable(graph)
        elif not isinstance(graph, FactorGraph):
            raise IncompatibleMethod(
                f"LoopyBeliefPropagation answers a FactorGraph, or a TrajectoryGraph on tables with a horizon, not a "
                f"{type(graph).__name__}"
            )

    def init(self, graph: Any, seed: int | None) -> LoopyState:
        """Brings the factors together; messages say nothing yet."""
        if isinstance(graph, TrajectoryGraph):
            try:
                graph = graph.unroll()
            except ValueError as error:
                raise IncompatibleMethod(f"LoopyBeliefPropagation: {error}; SumProduct needs no unrolling") from None
        factors = latent_factors(graph)
        kernel = loopy_kernel(factors, self.semiring, self.damping)
        return LoopyState(graph, factors, kernel, LoopyIterate(kernel.start()))

    def step(self, graph: Any, state: LoopyState) -> LoopyState:
        """Does half a second's worth of sweeps."""
        started, kernel, iterate = time.perf_counter(), state.kernel, state.iterate
        small = max(self.tolerance, kernel.rounding)
        messages, num_steps, residual = iterate.messages, iterate.num_steps, iterate.residual
        with torch.no_grad(), threads_for(kernel.factors.largest):
            while num_steps < self.max_steps:
                messages, residual = kernel.sweep(messages, self.schedule.commit)
                num_steps += 1
                if not residual > small or time.perf_counter() - started > _SECONDS:
                    break
            self._need_support(kernel, messages, num_steps)
        return replace(state, iterate=LoopyIterate(messages, num_steps, residual, residual <= small))

    def is_done(self, state: LoopyState) -> bool:
        """Says whether the tolerance, the floor of rounding or the limit of sweeps is reached."""
        return state.iterate.done or state.iterate.num_steps >= self.max_steps

    def posterior(self, graph: Any, state: LoopyState, seconds: float) -> LoopyPosterior:
        """Wraps the messages."""
        iterate = state.iterate
        if not iterate.done:
            warn_user(
                f"LoopyBeliefPropagation stopped after {iterate.num_steps} sweeps with messages that still change by "
                f"{iterate.residual:.3g} nats; more sweeps (max_steps=), damping=0.5 or schedule=Residual() may help",
                NotConverged,
            )
        error = state.kernel.forest_error(iterate.residual) if iterate.done else math.inf
        stats = Stats(
            iterate.num_steps, iterate.done, iterate.residual, error, seconds, self._estimates(math.isfinite(error))
        )
        return LoopyPosterior(state.graph, self, stats, state.factors, state.kernel, iterate.messages)

    def progress(self, state: LoopyState, seconds: float) -> Progress:
        """Says where the sweeps stand."""
        iterate = state.iterate
        checkpoint = replace(iterate, messages=state.kernel.ordered(iterate.messages))
        return Progress(iterate.num_steps, iterate.residual, math.inf, seconds, checkpoint)

    def restore(self, state: LoopyState, checkpoint: LoopyIterate) -> LoopyState:
        """Goes on from a checkpoint."""
        messages = tuple(m.to(state.factors.like.device) for m in checkpoint.messages)
        return replace(state, iterate=replace(checkpoint, messages=state.kernel.grouped(messages)))

    def _check(self) -> None:
        if not isinstance(self.semiring, LogSemiring | TropicalSemiring):
            raise ValueError(
                f"LoopyBeliefPropagation: expected LogSemiring() or TropicalSemiring(), got {self.semiring!r}"
            )
        if not callable(getattr(self.schedule, "commit", None)) or isinstance(self.schedule, type):
            raise ValueError(
                f"LoopyBeliefPropagation: expected a schedule such as Flooding() or Residual(), got {self.schedule!r}"
            )
        if not 0.0 <= self.damping < 1.0:
            raise ValueError(f"LoopyBeliefPropagation: damping must lie in [0, 1), got {self.damping}")
        if not 0.0 <= self.tolerance < math.inf:
            raise ValueError(
                f"LoopyBeliefPropagation: tolerance must be a finite number of at least 0 (nats), got {self.tolerance}"
            )
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"LoopyBeliefPropagation: max_steps must be a whole number >= 1, got {self.max_steps!r}")

    def _need_unrollable(self, graph: TrajectoryGraph) -> None:
        need_tables(graph, "LoopyBeliefPropagation")
        need_slots(graph, "LoopyBeliefPropagation", "initial", "reward")
        if graph.horizon is None:
            raise IncompatibleMethod(
                "LoopyBeliefPropagation needs a finite horizon: graph.replace(horizon=...); SumProduct and "
                "SoftValueIteration answer infinite ones"
            )
        if not graph.temperature:
            raise IncompatibleMethod(
                "LoopyBeliefPropagation needs a positive temperature: at 0 the optimality has no density; "
                "SoftValueIteration and MaxProduct answer temperature 0"
            )

    def _need_support(self, kernel: LoopyKernel, messages: Messages, num_steps: int) -> None:
        """Refuses messages that leave a variable no value: beliefs of zero are zeros of the joint, loops or not."""
        beliefs = [kernel.factors.log_constant[None, None], *kernel.log_beliefs(messages)]
        if any(torch.isnan(belief).any() or torch.isposinf(belief).any() for belief in beliefs):
            raise NonFinite(f"LoopyBeliefPropagation: a message of sweep {num_steps} is not finite")
        need_support(not any(torch.isneginf(belief).all(0).any() for belief in beliefs))

    def _estimates(self, is_exact: bool) -> tuple[str, ...]:
        if is_exact:
            return ()
        if isinstance(self.semiring, TropicalSemiring):
            return ("marginals", "most_probable_assignment")
        return ("log_evidence", "marginals")
