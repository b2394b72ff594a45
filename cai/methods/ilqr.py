"""Iterative LQR and differential dynamic programming: optimal trajectories of differentiable models, batched.

Posterior: the maximum-entropy policy of the linear-quadratic problem around a locally optimal trajectory,

    pi_t(u|x) = N(u*_t + K_t (x - x*_t), alpha H_uu^-1),      H_uu = R_t + gamma B_t' P_{t+1} B_t

where x*, u* maximise the sum of rewards of the dynamics without noise. Each iteration expands dynamics and rewards
around the trajectory (derivatives by `torch.func`, all times at once), makes a Riccati backward pass, and takes the
best of several step sizes along its feedback, tried in one batched rollout.

Exactness: a local optimum; policy, values, marginals and evidence are Laplace's approximation around it. On
linear-quadratic graphs without limits the first step is exact. Cost: an iteration takes T steps of (n + m)^3
multiplications, and T calls of the dynamics on (number of step sizes) states, for each element of the batch.

Source: Li and Todorov (2004); Jacobson and Mayne (1970) with second derivatives of the dynamics; Tassa, Erez and
Todorov (2012) for regularisation; Tassa, Mansard and Todorov (2014) for limits; Mastalli et al. (2020) for multiple
shooting; Levine and Koltun (2013) for the policy around the optimum.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import IncompatibleMethod, NotConverged, warn_user
from cai.factors import Delta
from cai.graph.shooting import ShootingGraph, need_differentiable, shooting_graph, surroundings
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.laplace import LaplacePosterior
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior
from cai.inference.stats import Stats
from cai.methods.guesses import first_actions, flattened, followed, limits_given, shifted
from cai.ops.shooting.iteration import Options, ShootingIterate, advance, first_iterate
from cai.ops.shooting.laplace import laplace
from cai.ops.shooting.local_models import GaussNewton, SecondOrder
from cai.ops.shooting.problem import discounted_sum
from cai.ops.shooting.schedules import LineSearch, RegularisationSchedule
from cai.ops.threads import threads_for

for _class in (ShootingIterate, GaussNewton, SecondOrder, LineSearch, RegularisationSchedule):
    serializable(_class)

#: What is an estimate where the graph is not linear-quadratic itself.
_ESTIMATES = (
    "policy",
    "q",
    "v",
    "advantage",
    "log_evidence",
    "state_marginals",
    "state_action_marginals",
    "expected_return",
    "entropy",
)


@serializable
@dataclass(frozen=True)
class SingleShooting:
    """Trajectories always keep to the dynamics: the first guess of actions is rolled out."""


@serializable
@dataclass(frozen=True, eq=False)
class MultipleShooting:
    """The first guess is one of states too, which need not agree with the dynamics; steps close the gaps.

    Attributes:
        initial_states: A guess of x_0..x_T, `[*batch, T + 1, n]`; its first state is put to the graph's.

    Source: Mastalli et al. (2020).
    """

    initial_states: Any


@dataclass(frozen=True, eq=False)
class ILQRState:
    """Where the method stands.

    Attributes:
        world: The graph as a trajectory optimisation problem.
        iterate: The trajectories, and what steers the next step of each.
    """

    world: ShootingGraph
    iterate: ShootingIterate


@serializable
@dataclass(frozen=True, eq=False)
class ILQR(AbstractMethod):
    """A locally optimal trajectory from each start, and the maximum-entropy policy around it.

    Needs a finite horizon, dynamics with a mean that can be differentiated (`DifferentiableDynamics`,
    `LinearGaussianDynamics`), differentiable rewards, and a start that is known (`Delta`) or Gaussian (its mean). Noise
    is not planned for, it widens the marginals. A bounded action space bounds the actions. A batch of starts (or of
    parameters) is solved in one call; each element converges by itself.

    `posterior.most_probable_trajectory` is the optimum. Estimates are marked in `stats`; on linear-quadratic graphs
    `SoftValueIteration` is exact, globally, and differentiable. `GradientPlanner` needs first derivatives only. Plan
    again as the world moves on with `cai.plan.ReplanningPolicy`.

    Attributes:
        max_iterations: The most iterations.
        tolerance: The increase of the return that a full step promises, at which an element is done; relative to
            max(1, |return|).
        expansion: `GaussNewton()` leaves second derivatives of the dynamics out: iterative LQR. `SecondOrder()` keeps
            them: differential dynamic programming.
        regularisation: When to penalise moves of the state.
        line_search: Which step sizes to try.
        rollouts: `SingleShooting()`, or `MultipleShooting(initial_states)`.
        initial_actions: A first guess, `[*batch, T, m]`; zero by default. A shorter one is continued by its last
            action, a longer one is cut.
        initial_feedback: A first guess as a feedback law instead, u = K [x; 1], `[*batch, T, m, n + 1]`, followed from
            the start without noise; a shorter one is continued by its last action. Warm starts give it: in unstable
            dynamics the actions of an earlier plan lead elsewhere from a state that is not quite its own.
        initial_noise: Standard deviation of what is added to the first guess, action units, drawn by the seed; none by
            default. Where a start is a saddle, a little of it decides.
        num_restarts: First guesses that are improved side by side, each with noise of its own; for each start the best
            one answers. Swing-ups have many local optima.
        limits: (low, high), numbers or `[m]` each: bounds of the actions, beside those of the action space.
    """

    max_iterations: int = 200
    tolerance: float = 1e-9
    expansion: GaussNewton | SecondOrder = field(default=GaussNewton())
    regularisation: RegularisationSchedule = field(default=RegularisationSchedule())
    line_search: LineSearch = field(default=LineSearch())
    rollouts: SingleShooting | MultipleShooting = field(default=SingleShooting())
    initial_actions: Any = None
    initial_feedback: Any = None
    initial_noise: float = 0.0
    num_restarts: int = 1
    limits: Any = None

    def accepts(self, graph: Any) -> None:
        """Raises `IncompatibleMethod` unless the graph's factors can be differentiated.

        Raises:
            ValueError: An option out of range.
        """
        self._check()
        if not isinstance(graph, TrajectoryGraph):
            raise IncompatibleMethod(f"ILQR answers trajectory graphs, not a {type(graph).__name__}")
        need_differentiable(graph, "ILQR")

    def init(self, graph: TrajectoryGraph, seed: int | None) -> ILQRState:
        """Reads the graph, and rolls the first guess out."""
        world = self._world(graph)
        if self.num_restarts > 1:
            starts = world.problem.start.reshape(*world.batch_shape, -1)
            world = self._world(graph.replace(initial=Delta(starts.expand(self.num_restarts, *starts.shape))))
        problem, guess = world.problem, self.initial_actions
        if self.initial_feedback is not None:
            with torch.no_grad():
                guess = followed(self.initial_feedback, world, name="ILQR")
        actions = first_actions(guess, world, noise=self.initial_noise, seed=seed, name="ILQR")
        states = None
        if isinstance(self.rollouts, MultipleShooting):
            size, name = (problem.horizon + 1, problem.start.shape[-1]), "MultipleShooting: initial_states"
            states = flattened(self.rollouts.initial_states, world, size, name)
        with torch.no_grad():
            return ILQRState(world, first_iterate(problem, actions, states, self.regularisation))

    def step(self, graph: TrajectoryGraph, state: ILQRState) -> ILQRState:
        """Does one iteration of every element that is not done."""
        options = Options(self.expansion, self.regularisation, self.line_search, self.tolerance)
        with torch.no_grad(), threads_for(state.iterate.states.numel()):
            return replace(state, iterate=advance(state.world.problem, state.iterate, options))

    def is_done(self, state: ILQRState) -> bool:
        """Says whether all elements are done, or the limit of iterations is reached."""
        iterate = state.iterate
        return bool(iterate.done.all()) or int(iterate.num_steps.max()) >= self.max_iterations

    def posterior(self, graph: TrajectoryGraph, state: ILQRState, seconds: float) -> Posterior:
        """Expands the graph around the trajectories for the last time, and wraps the answer."""
        world, iterate = state.world, state.iterate
        if self.num_restarts > 1:
            world, of_restarts = self._world(graph), iterate.costs.reshape(self.num_restarts, -1)
            best, elements = of_restarts.argmin(0), torch.arange(of_restarts.shape[1], device=iterate.costs.device)
            iterate = iterate.select(best * len(elements) + elements)
        self._warn_unless_converged(iterate)
        with torch.no_grad():
            answer = laplace(world.problem, iterate, self.expansion, surroundings(graph, world))
            rewards = world.rewards(iterate.states, iterate.actions)
        answer = answer.with_batch(world.batch_shape)
        returns = discounted_sum(rewards, world.problem.discount)
        parts = (iterate.states, iterate.actions, rewards[:-1])
        return LaplacePosterior(
            graph=graph,
            method=self,
            stats=self._stats(world, iterate, seconds),
            problem=answer.problem,
            messages=answer.messages,
            trajectory=Trajectories(*(part.transpose(0, 1) for part in parts)),
            best_return=returns.reshape(world.batch_shape),
            limits=world.problem.limits,
        )

    def _world(self, graph: TrajectoryGraph) -> ShootingGraph:
        world = shooting_graph(graph)
        return replace(world, problem=replace(world.problem, limits=limits_given(self.limits, world, "ILQR")))

    def _stats(self, world: ShootingGraph, iterate: ShootingIterate, seconds: float) -> Stats:
        exact = world.is_linear_quadratic and world.problem.limits is None
        return Stats(
            num_steps=int(iterate.num_steps.max()),
            converged=bool(iterate.converged.all()),
            residual=float(iterate.residual.abs().max()),
            seconds=seconds,
            estimates=() if exact else _ESTIMATES,
        )

    def _warn_unless_converged(self, iterate: ShootingIterate) -> None:
        left = ~iterate.converged
        if not left.any():
            return
        given_up = int((left & iterate.done).sum())
        warn_user(
            f"ILQR: {int(left.sum())} of {len(left)} trajectories have not converged: {int(left.sum()) - given_up} at "
            f"the limit of {self.max_iterations} iterations, {given_up} where no step helps at any regularisation (is "
            f"there a kink in the reward or the dynamics?); a full step still promises up to "
            f"{float(iterate.residual[left].abs().max()):.3g} of return; more iterations (max_iterations=) or another "
            "first guess (initial_actions=, initial_noise=) may help",
            NotConverged,
        )

    def progress(self, state: ILQRState, seconds: float) -> Progress:
        """Says where the iteration stands."""
        iterate = state.iterate
        residual = float(torch.where(iterate.done, 0.0, iterate.residual).abs().max())
        return Progress(int(iterate.num_steps.max()), residual, math.inf, seconds, iterate)

    def restore(self, state: ILQRState, checkpoint: Any) -> ILQRState:
        """Goes on from a checkpoint, bit by bit as if the run had not stopped."""
        return replace(state, iterate=checkpoint)

    def warm_started(self, posterior: Any, *, shift: int = 1) -> ILQR:
        """Gives the method with what is left of an earlier plan for its first guess: its feedback, or its actions.

        Args:
            posterior: An answer of this method, or another that has a `plan`, `[*batch, T, m]`.
            shift: How many steps have been taken since.
        """
        alone = replace(self, initial_noise=0.0, num_restarts=1, rollouts=SingleShooting())
        if isinstance(posterior, LaplacePosterior):
            feedback = shifted(posterior.messages.gains.movedim(0, -3), shift, dim=-3)
            return replace(alone, initial_actions=None, initial_feedback=feedback)
        return replace(alone, initial_actions=shifted(posterior.plan, shift), initial_feedback=None)

    def _check(self) -> None:
        for name in ("max_iterations", "num_restarts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise ValueError(f"ILQR: {name} must be a whole number, got {value!r}")
            if int(value) < 1:
                raise ValueError(f"ILQR: {name} must be at least 1, got {value}")
        for name in ("tolerance", "initial_noise"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ILQR: {name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.num_restarts > 1 and self.initial_noise == 0.0:
            raise ValueError("ILQR: restarts differ by initial_noise, which is 0; give it a size, in action units")
        if self.initial_actions is not None and self.initial_feedback is not None:
            raise ValueError("ILQR: give initial_actions or initial_feedback, not both")
        for name, kinds, example in (
            ("expansion", GaussNewton | SecondOrder, "GaussNewton() or SecondOrder()"),
            ("regularisation", RegularisationSchedule, "RegularisationSchedule()"),
            ("line_search", LineSearch, "LineSearch()"),
            ("rollouts", SingleShooting | MultipleShooting, "SingleShooting() or MultipleShooting(initial_states)"),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"ILQR: expected {name}={example}, got {getattr(self, name)!r}")
