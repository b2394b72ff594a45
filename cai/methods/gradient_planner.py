"""Open-loop planning by gradient: direct shooting, the actions moved uphill through the differentiated rollout.

Posterior: a point mass at the best plan found, u* = argmax E sum_t gamma^t [r_t + alpha log mu(u_t|x_t)] over sequences
of actions, for the graph's own start; a local optimum, with neither value nor evidence. `stats.estimates` says so.

Exactness: none is claimed; restarts find better optima. Cost: T calls of the dynamics forward and back a step, for all
restarts, samples and starts at once. `ILQR` converges in far fewer, and gives feedback and evidence; this one needs no
second derivatives, and takes rewards with kinks and plateaus.

Source: Kingma and Ba (2015) for the steps.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import IncompatibleMethod, NonFinite, NotConverged, warn_user
from cai.factors.checks import whole_numbers
from cai.factors.linear_parts import with_batch_dims
from cai.graph.shooting import ShootingGraph, need_differentiable, shooting_graph
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.method import AbstractMethod, Progress
from cai.inference.open_loop import OpenLoopPosterior
from cai.inference.stats import Stats
from cai.methods.guesses import fitted, flattened, shifted
from cai.ops.gaussian.existence import root_of
from cai.ops.shooting.direct import Descent, begin, descend, expected_costs, finished
from cai.ops.shooting.problem import ShootingProblem, SumOfCosts
from cai.ops.shooting.rollouts import open_loop
from cai.simulate.seeding import seeded

serializable(Descent)


@dataclass(frozen=True, eq=False)
class PlanningState:
    """Where the planner stands.

    Attributes:
        world: The graph as a trajectory optimisation problem.
        descent: The descent.
    """

    world: ShootingGraph
    descent: Descent


@serializable
@dataclass(frozen=True, eq=False)
class GradientPlanner(AbstractMethod):
    """Plans a sequence of actions by gradient ascent on the expected return: direct shooting.

    Needs a finite horizon, a start that is known or Gaussian (its mean is used), and dynamics and rewards that can be
    differentiated once. A batch of starts is planned for at once. Actions keep to a bounded action space. The first
    plan is zero (or the middle of the limits) unless it is given; restarts begin from draws around it.

    Attributes:
        num_steps: Gradient steps.
        learning_rate: Adam's, in action units: about how far an action moves in a step.
        num_restarts: Plans that are improved side by side; the best one is the answer.
        restart_scale: Standard deviation of the starts of further restarts: a share of half the range of limited
            actions, in action units otherwise.
        num_samples: Draws of the noise that the return is averaged over; 0 plans for the mean dynamics.
        tolerance: Stops once no entry of the (projected) gradient exceeds it, reward units per action unit; 0 takes all
            steps.
        initial_actions: Where to begin, `[*batch, T, m]`. A shorter plan is continued by its last action, a longer one
            is cut.
    """

    num_steps: int = 300
    learning_rate: float = 0.05
    num_restarts: int = 1
    restart_scale: float = 0.5
    num_samples: int = 0
    tolerance: float = 0.0
    initial_actions: Any = None

    def __post_init__(self) -> None:
        for name, least in (("num_steps", 1), ("num_restarts", 1), ("num_samples", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"GradientPlanner: {name} must be a whole number of at least {least}, got {value!r}")
        for name in ("learning_rate", "restart_scale", "tolerance"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0.0 <= float(value) < math.inf:
                raise ValueError(f"GradientPlanner: {name} must be a finite number of at least 0, got {value!r}")

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph is of a finite horizon with differentiable factors."""
        if not isinstance(graph, TrajectoryGraph):
            raise IncompatibleMethod(f"GradientPlanner answers trajectory graphs, not a {type(graph).__name__}")
        need_differentiable(graph, "GradientPlanner")

    def init(self, graph: TrajectoryGraph, seed: int | None) -> PlanningState:
        """Reads the graph, and draws restarts and noise."""
        with _differentiable():
            world = _owned(shooting_graph(graph))
            problem, like = world.problem, world.problem.start
            with seeded(seed, like.device):
                actions = self._first_plan(world)[:, None].repeat(1, self.num_restarts, 1, 1)
                actions[:, 1:] += self._spread(world) * torch.randn_like(actions[:, 1:])
                disturbances = self._disturbances(graph, world) if self.num_samples else None
            if problem.limits is not None:
                actions = actions.clamp(problem.limits.low, problem.limits.high)
            return PlanningState(world, begin(actions, disturbances))

    def _first_plan(self, world: ShootingGraph) -> Tensor:
        """`[T, B, m]`."""
        problem, name = world.problem, "GradientPlanner: initial_actions"
        size = (problem.horizon, problem.num_actions)
        given = _middle(world)[None] if self.initial_actions is None else self.initial_actions
        return flattened(fitted(given, problem.horizon, name), world, size, name)

    def _spread(self, world: ShootingGraph) -> Tensor:
        """Standard deviation of restarts, `[m]`."""
        limits = world.problem.limits
        whole = torch.ones_like(_middle(world))
        if limits is None:
            return self.restart_scale * whole
        half = 0.5 * (limits.high - limits.low)
        return self.restart_scale * torch.where(torch.isfinite(half), half, whole)

    def _disturbances(self, graph: TrajectoryGraph, world: ShootingGraph) -> Tensor | None:
        problem, batch = world.problem, world.batch_shape
        size, n = problem.start.shape
        noise = graph.dynamics.noise(n)
        if noise is None:
            return None
        roots = with_batch_dims(root_of(noise).to(problem.start), len(batch), 2)
        roots = roots.expand(len(roots), *batch, n, n).reshape(len(roots), 1, 1, size, n, n)
        shape = (problem.horizon, self.num_samples, 1, size, n, 1)
        draws = torch.randn(shape, dtype=problem.start.dtype, device=problem.start.device)
        return (roots @ draws).squeeze(-1)

    def step(self, graph: TrajectoryGraph, state: PlanningState) -> PlanningState:
        """Takes one gradient step, all restarts and starts at once.

        Raises:
            NonFinite: No restart of some batch element has a finite return at the first step.
        """
        with _differentiable():
            descent = descend(state.world.problem, state.descent, self.learning_rate)
        lost = torch.isinf(descent.best_costs).all(0)
        if lost.any():
            element = int(lost.nonzero()[0])
            raise NonFinite(
                f"GradientPlanner: the return of batch element {element} is not finite, or has no finite gradient, at "
                f"step {state.descent.num_steps}: look at the dynamics and the reward along the first plan"
            )
        return replace(state, descent=descent)

    def is_done(self, state: PlanningState) -> bool:
        """Says whether all steps are taken, or the gradient is small."""
        return state.descent.num_steps >= self.num_steps or self._is_converged(state.descent)

    def _is_converged(self, descent: Descent) -> bool:
        return descent.residual <= self.tolerance

    def posterior(self, graph: TrajectoryGraph, state: PlanningState, seconds: float) -> OpenLoopPosterior:
        """Wraps the best plan."""
        problem = state.world.problem
        descent = finished(problem, state.descent)
        converged = self._is_converged(descent)
        if self.tolerance > 0.0 and not converged:
            warn_user(
                f"GradientPlanner stopped after {descent.num_steps} steps with a gradient of {descent.residual:.3g}",
                NotConverged,
            )
        best = descent.best_costs.argmin(0)
        actions = descent.best[:, best, torch.arange(len(best), device=best.device)]
        stats = Stats(descent.num_steps, converged, descent.residual, math.inf, seconds, ("expected_return", "policy"))
        rewarded = _without_prior(state.world)
        with torch.no_grad():
            states = open_loop(problem, actions)
            rewards = -rewarded.costs(states, actions)[:-1]
            returns = -expected_costs(rewarded, actions[:, None], descent.disturbances)[0]
        trajectory = Trajectories(*(part.transpose(0, 1) for part in (states, actions, rewards)))
        return OpenLoopPosterior(graph, self, stats, trajectory, returns.reshape(state.world.batch_shape))

    def progress(self, state: PlanningState, seconds: float) -> Progress:
        """Says where the descent stands."""
        return Progress(state.descent.num_steps, state.descent.residual, math.inf, seconds, state.descent)

    def restore(self, state: PlanningState, checkpoint: Descent) -> PlanningState:
        """Goes on from a checkpoint, bit for bit."""
        with _differentiable():
            return replace(state, descent=_owned(checkpoint))

    def warm_started(self, posterior: Any, *, shift: int = 1) -> GradientPlanner:
        """Gives the method with what is left of an earlier plan for its first guess.

        Args:
            posterior: An answer of this method, or another that has a `plan`, `[*batch, T, m]`.
            shift: How many steps have been taken since.

        Raises:
            ValueError: The answer has no plan, or no whole number of steps of at least 0.
        """
        plan = getattr(posterior, "plan", None)
        if not isinstance(plan, Tensor):
            raise ValueError(
                f"warm_started: a {type(posterior).__name__} has no plan; give an answer of GradientPlanner or ILQR"
            )
        steps = whole_numbers(shift, "warm_started: shift")
        if steps.dim():
            raise ValueError(f"warm_started: shift must be one whole number, got {list(steps.shape)} of them")
        return replace(self, initial_actions=shifted(plan, int(steps)))


@contextmanager
def _differentiable() -> Iterator[None]:
    """Where a plan is improved: outside of `torch.inference_mode`, whose tensors know no gradient."""
    with torch.inference_mode(False), torch.no_grad():  # the first of them turns gradients on
        yield


def _owned(content: Any) -> Any:
    """Copies, in dataclasses of any depth, the tensors that were made in inference mode."""
    if isinstance(content, Tensor):
        return content.clone() if content.is_inference() else content
    if isinstance(content, tuple):
        return tuple(_owned(part) for part in content)
    if not is_dataclass(content) or isinstance(content, type):
        return content
    parts = {part.name: getattr(content, part.name) for part in fields(content)}
    owned = {name: _owned(part) for name, part in parts.items()}
    return replace(content, **owned) if any(owned[name] is not parts[name] for name in parts) else content


def _without_prior(world: ShootingGraph) -> ShootingProblem:
    """The problem of the rewards alone."""
    cost = world.problem.cost
    if world.prior is None:
        return world.problem
    assert isinstance(cost, SumOfCosts)
    return replace(world.problem, cost=cost.parts[0])


def _middle(world: ShootingGraph) -> Tensor:
    """Zero, or the middle of the limits where both are finite: `[m]`."""
    problem = world.problem
    zero = problem.start.new_zeros(problem.num_actions)
    if problem.limits is None:
        return zero
    middle = 0.5 * (problem.limits.low + problem.limits.high)
    return torch.where(torch.isfinite(middle), middle, zero)
