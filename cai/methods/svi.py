"""Stochastic variational inference: the member of a family that is nearest to the posterior, by gradient.

    max_q ELBO(q) = log p(O) - KL(q || p(. | O))

`pyro.infer.SVI` with Adam climbs the bound. Posterior: whatever the guide's family can say; `log_evidence` is a lower
bound of log p(O). On tables and on factor graphs bound and gradient are exact (`FixedDynamicsGuide`, `MeanFieldGuide`),
computed without Pyro's enumeration, which loses what lies 36 nats down; with a Pyro guide they are estimates by draws.
The maximum found may be a local one. Cost: `num_steps` times a pass over the tables, or runs of program and guide.

Source: Levine (2018), section 3; Hoffman et al. (2013); Kingma and Ba (2015) for Adam.
"""

from __future__ import annotations

import math
import numbers
import operator
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import pyro.infer
import pyro.infer.autoguide
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod, NotConverged, warn_user
from cai.factors.protocols import TabulatedDynamics
from cai.graph.factor_graph import FactorGraph
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.guided import GuidedProgram
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats
from cai.methods.climber import Climber
from cai.methods.guides import (
    AbstractFamily,
    AbstractGuide,
    Effort,
    FixedDynamicsGuide,
    MeanFieldGuide,
    ProgramGuide,
    is_autoguide,
)
from cai.methods.tabular_method import need_more_than_steps, need_slots
from cai.ops.threads import threads_for
from cai.simulate.seeding import seeded

#: Seconds of work between two looks at the callbacks.
_SECONDS = 0.5


@serializable
@dataclass(frozen=True, eq=False)
class SVIIterate:
    """Where the optimisation stands, as a checkpoint keeps it.

    Attributes:
        seed: The seed of the run; step n draws with seed + n.
        bounds: `[n]`, nats: the bound at each step so far, or its estimate.
        residual: The greatest entry of the gradient at the last step, nats.
        params: The unconstrained parameters by name.
        optimiser: What Adam remembers of each.
    """

    seed: int
    bounds: Tensor
    residual: float = math.inf
    params: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return len(self.bounds)


@dataclass(frozen=True, eq=False)
class SVIState:
    """Where the method stands.

    Attributes:
        family: The variational family; its parameters change.
        climber: Pyro's optimisation of them, with Adam's memory.
        iterate: The rest.
    """

    family: AbstractFamily
    climber: Climber
    iterate: SVIIterate


@serializable
@dataclass(frozen=True)
class SVI(AbstractMethod):
    """The best member of a variational family; `log_evidence` is its bound.

    Which posterior, which exactness and which needs follow from the guide:

    - `FixedDynamicsGuide()`, the default on a trajectory graph on tables: policies in the true dynamics. Exact bound;
      its optimum is `SoftValueIteration`, which is one backward pass and to be preferred.
    - `MeanFieldGuide()`, the default on a `FactorGraph`: independent variables. Exact bound, often a loose one;
      `SumProduct` is exact wherever it fits into memory.
    - a Pyro guide, for trajectory graphs with callable factors: a class such as `pyro.infer.autoguide.AutoNormal`
      (`AutoMultivariateNormal` is the default), a function that makes a guide of the program, or a guide. An
      open-loop plan, whose bound is an estimate.

    Needs a finite horizon and a positive temperature. A seed makes a run repeatable bit by bit; a resumed run ends in
    the same parameters as one that was not interrupted. `stats.residual` is the greatest entry of the gradient at the
    last step, nats; with a Pyro guide how much the bound still moved over the last fifth of the steps.

    Attributes:
        guide: The variational family.
        num_steps: The most steps.
        learning_rate: Adam's, at the first step, in units of the guide's (unconstrained) parameters; None is 0.2
            where the bound is exact, 0.02 where it is estimated.
        decay: What the learning rate has fallen to at the last step, as a share of the first.
        num_particles: Draws for each estimate of the gradient, of a Pyro guide; in one batch where factors and guide
            broadcast to the left, which is tried.
        num_evaluations: Draws for the bound and the actions' moments at the end, of a Pyro guide.
        tolerance: Greatest entry of an exact gradient, nats, at which the work is done.
    """

    guide: Any = None
    num_steps: int = 2000
    learning_rate: float | None = None
    decay: float = 0.1
    num_particles: int = 10
    num_evaluations: int = 1000
    tolerance: float = 1e-6

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs: one of Pyro's automatic guides is written by its name."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return parts | {"guide": {"autoguide": self.guide.__name__}} if is_autoguide(self.guide) else parts

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> SVI:
        """Makes the method of what a file gave."""
        if isinstance(parts["guide"], dict):
            guide = getattr(pyro.infer.autoguide, parts["guide"]["autoguide"], None)
            if not is_autoguide(guide):
                raise ValueError(f"{parts['guide']['autoguide']!r} is none of Pyro's automatic guides")
            parts = parts | {"guide": guide}
        return cls(**parts)

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph can be answered by the guide."""
        self._check()
        if isinstance(graph, TrajectoryGraph):
            self._need_density(graph)
        elif not isinstance(graph, FactorGraph):
            raise IncompatibleMethod(f"SVI answers trajectory graphs and factor graphs, not a {type(graph).__name__}")
        self._guide_for(graph).accepts(graph)

    def init(self, graph: Any, seed: int | None) -> SVIState:
        """Sets the family up."""
        seed = torch.Generator().seed() if seed is None else operator.index(seed) % 2**63
        family = self._guide_for(graph).family(graph, Effort(self.num_particles, self.num_evaluations), seed)
        rate = family.learning_rate if self.learning_rate is None else self.learning_rate
        decay = self.decay ** (1.0 / self.num_steps)
        climber = Climber(family, rate=rate, decay=decay, small=self._small(family))
        return SVIState(family, climber, SVIIterate(seed, torch.zeros(0, dtype=torch.float64)))

    def step(self, graph: Any, state: SVIState) -> SVIState:
        """Does half a second's worth of steps."""
        started, family, iterate = time.perf_counter(), state.family, state.iterate
        bounds: list[float] = []
        residual = iterate.residual
        with family.store.opened(), threads_for(family.num_entries):
            while iterate.num_steps + len(bounds) < self.num_steps:
                num_steps = iterate.num_steps + len(bounds) + 1
                with seeded((iterate.seed + num_steps) % 2**63, family.store.device):
                    bound, residual = state.climber.climb(num_steps)
                bounds.append(bound)
                if residual <= self._small(family) or time.perf_counter() - started > _SECONDS:
                    break
        bounds_so_far = torch.cat([iterate.bounds, torch.tensor(bounds, dtype=torch.float64)])
        return replace(state, iterate=replace(iterate, bounds=bounds_so_far, residual=residual))

    def is_done(self, state: SVIState) -> bool:
        """Says whether the tolerance or the limit of steps is reached."""
        iterate = state.iterate
        return iterate.residual <= self._small(state.family) or iterate.num_steps >= self.num_steps

    def posterior(self, graph: Any, state: SVIState, seconds: float) -> Posterior:
        """Wraps the parameters."""
        family, iterate = state.family, state.iterate
        residual, converged = iterate.residual, iterate.residual <= self.tolerance
        if not family.is_exact:
            residual, converged = _drift(iterate.bounds)
        if not converged:
            what = "a gradient of" if family.is_exact else "a bound that still moved by"
            warn_user(
                f"SVI stopped after {iterate.num_steps} steps with {what} {residual:.3g} nats; more steps (num_steps=) "
                "or another learning_rate may help",
                NotConverged,
            )
        estimates = () if family.is_exact else ("log_evidence", "policy")
        stats = Stats(iterate.num_steps, converged, residual, math.inf, seconds, estimates)
        with family.store.opened():
            return family.answer(graph, self, stats, iterate.seed % 2**63)

    def progress(self, state: SVIState, seconds: float) -> Progress:
        """Says where the optimisation stands."""
        iterate = state.iterate
        checkpoint = replace(iterate, params=state.family.store.values(), optimiser=state.climber.memory())
        return Progress(iterate.num_steps, iterate.residual, math.inf, seconds, checkpoint)

    def restore(self, state: SVIState, checkpoint: SVIIterate) -> SVIState:
        """Goes on from a checkpoint, with its seed."""
        state.family.store.fill(checkpoint.params)
        state.climber.remember(checkpoint.optimiser)
        return replace(state, iterate=checkpoint)

    def guided(self, graph: TrajectoryGraph) -> GuidedProgram:
        """Sets the Pyro guide up on a graph, untrained."""
        guide = self._guide_for(graph)
        assert isinstance(guide, ProgramGuide)
        return guide.guided(graph, 0)

    def _small(self, family: AbstractFamily) -> float:
        """The slope at which the work is done; an estimated one never tells."""
        return self.tolerance if family.is_exact else -math.inf

    def _guide_for(self, graph: Any) -> AbstractGuide:
        if isinstance(self.guide, AbstractGuide):
            return self.guide
        if self.guide is not None:
            return ProgramGuide(self.guide)
        if isinstance(graph, FactorGraph):
            return MeanFieldGuide()
        if isinstance(graph.dynamics, TabulatedDynamics):
            return FixedDynamicsGuide()
        return ProgramGuide(pyro.infer.autoguide.AutoMultivariateNormal)

    def _check(self) -> None:
        if self.guide is not None and not isinstance(self.guide, AbstractGuide) and not callable(self.guide):
            raise ValueError(f"SVI: expected a guide such as MeanFieldGuide() or AutoNormal, got {self.guide!r}")
        if isinstance(self.guide, type) and issubclass(self.guide, AbstractGuide):
            raise ValueError(f"SVI: {self.guide.__name__} is a class; give {self.guide.__name__}()")
        for name in ("num_steps", "num_particles", "num_evaluations"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < 1:
                raise ValueError(f"SVI: {name} must be a whole number of at least 1, got {number!r}")
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        if not 0.0 < rate < math.inf or not 0.0 < self.decay <= 1.0:
            raise ValueError(
                f"SVI: needs a positive learning_rate and a decay in (0, 1], got {self.learning_rate} and {self.decay}"
            )
        if not 0.0 <= self.tolerance < math.inf:
            raise ValueError(f"SVI: tolerance must be a finite number of at least 0, got {self.tolerance}")

    def _need_density(self, graph: TrajectoryGraph) -> None:
        need_more_than_steps(graph, "SVI needs the density of the dynamics")
        if graph.horizon is None:
            raise IncompatibleMethod(
                "SVI needs a finite horizon; give one with graph.replace(horizon=...), or ask SoftValueIteration, "
                "which answers infinite horizons on tables"
            )
        if not graph.temperature:
            raise IncompatibleMethod(
                "SVI needs a positive temperature: at 0 the optimality has no density; SoftValueIteration answers it"
            )
        need_slots(graph, "SVI", "initial", "dynamics", "reward")


def _drift(bounds: Tensor) -> tuple[float, bool]:
    """Says by how much the mean bound differs in the last two fifths of the steps, and whether that is noise."""
    window = len(bounds) // 5
    if window < 10:
        return math.inf, False
    before, after = bounds[-2 * window : -window], bounds[-window:]
    moved = abs(float(after.mean() - before.mean()))
    return moved, moved <= 3.0 * float((before.var() + after.var()) / window) ** 0.5
