"""A Pyro guide as the variational family, for trajectory graphs whose factors are callables.

ELBO = E_q[log p(tau, O) - log q(tau)], estimated by draws; its gradient by `pyro.infer.Trace_ELBO`
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.factor_graph import states_and_actions
from cai.inference.guided import GuidedProgram, guided_program
from cai.inference.stats import Stats
from cai.inference.variational import PlanPosterior
from cai.methods.guides.family import AbstractFamily, AbstractGuide, Effort
from cai.ops.threads import SMALL


@dataclass(frozen=True)
class ProgramGuide(AbstractGuide):
    """A guide given as Pyro takes it.

    Attributes:
        given: A guide without arguments, or what makes one for a program: a class such as `AutoNormal`, or a function
            of the program.
    """

    given: Callable[..., Any]

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph can be written as a Pyro program of one trajectory."""
        if not isinstance(graph, TrajectoryGraph):
            raise IncompatibleMethod(
                f"SVI: a Pyro guide answers trajectory graphs, got a {type(graph).__name__}; factor graphs take "
                "MeanFieldGuide()"
            )
        if graph.discount < 1.0:
            raise IncompatibleMethod(
                "SVI: a Pyro guide has no absorbing state for the discount; give a horizon with discount 1, or "
                "FixedDynamicsGuide() on tables"
            )
        try:
            graph.to_pyro()
        except ValueError as error:
            raise IncompatibleMethod(f"SVI needs the graph as a Pyro program: {error}") from error

    def _make(self, program: Callable[[], Any]) -> Callable[[], Any]:
        """Makes the guide for a program; a guide with parameters of its own is copied."""
        if isinstance(self.given, torch.nn.Module):
            return copy.deepcopy(self.given)
        return self.given(program) if isinstance(self.given, type) or _takes_argument(self.given) else self.given

    def guided(self, graph: TrajectoryGraph, seed: int) -> GuidedProgram:
        """Sets the guide up on a graph.

        Raises:
            IncompatibleMethod: The guide does not fit the program.
        """
        try:
            return guided_program(graph.to_pyro(), self._make, seed)
        except (RuntimeError, ValueError, NotImplementedError, KeyError) as error:
            name = getattr(self.given, "__name__", type(self.given).__name__)
            reason = str(error).strip().split("\n")[0]
            raise IncompatibleMethod(f"SVI: the guide {name} cannot be set up on this graph: {reason}") from error

    def family(self, graph: TrajectoryGraph, effort: Effort, seed: int) -> ProgramFamily:
        """Runs guide and program once, and finds out whether they broadcast over particles."""
        return ProgramFamily(self.guided(graph, seed), effort)


class ProgramFamily(AbstractFamily):
    """A guide on one graph.

    Args:
        program: The graph as a Pyro program, and the guide.
        effort: How many draws.
    """

    is_exact = False
    learning_rate = 0.02
    num_entries = SMALL  # threads as they are

    def __init__(self, program: GuidedProgram, effort: Effort) -> None:
        self._program, self._effort, self.store = program, effort, program.store
        self._elbo = Trace_ELBO(
            num_particles=effort.num_particles,
            vectorize_particles=program.broadcasts and effort.num_particles > 1,
            max_plate_nesting=program.nesting,
        )

    @property
    def model(self) -> Callable[[], Any]:
        """The graph as a Pyro program."""
        return self._program.model

    @property
    def guide(self) -> Callable[[], Any]:
        """The guide."""
        return self._program.guide

    def loss(self) -> Tensor:
        """Estimates -ELBO, with an unbiased gradient: 0-dim, nats."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|[+]?inf)")  # an error of ours says it
            return self._elbo.differentiable_loss(self.model, self.guide)

    def answer(self, graph: TrajectoryGraph, method: Any, stats: Stats, seed: int) -> PlanPosterior:
        """Draws what the bound and the actions' moments are read off."""
        particles = self._program.draw(self._effort.num_evaluations, seed)
        assert graph.horizon is not None
        states, actions = states_and_actions(particles.values, graph.horizon)
        return PlanPosterior(graph, method, stats, self._program, particles.log_weights.mean(), states, actions)


def is_autoguide(guide: Any) -> bool:
    """Says whether something is one of Pyro's classes of automatic guides."""
    return isinstance(guide, type) and issubclass(guide, AutoGuide)


def _takes_argument(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)
