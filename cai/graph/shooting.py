"""A trajectory graph with differentiable factors, read as a problem of trajectory optimisation; costs are -rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import gymnasium
import torch
from torch import Tensor

from cai.errors import IncompatibleMethod
from cai.factors.linear_parts import with_batch_dims
from cai.factors.policy import FlatPrior, UniformPolicy
from cai.factors.protocols import (
    Batched,
    DifferentiableFactor,
    GaussianInitial,
    GaussianPrior,
    LinearDynamics,
    QuadraticFactor,
)
from cai.graph.quadratics import prior_form
from cai.graph.shooting_functions import checked_dtype, stands_alone, try_out_times, unflattened, user_functions
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.shooting import parts
from cai.ops.shooting.laplace import Surroundings
from cai.ops.shooting.problem import Cost, Dynamics, Limits, ShootingProblem, SumOfCosts
from cai.ops.tables import as_number, is_hard


@dataclass(frozen=True, eq=False)
class ShootingGraph:
    """A graph read as a trajectory optimisation problem.

    Attributes:
        problem: The problem, its batch in one dimension.
        batch_shape: The batch dimensions of the graph.
        reward_cost: The cost without what comes from an action prior.
        prior: What comes from it, z'Mz/2 with z = [x; 1; u], `[T or 1, B or 1, d, d]`, or None.
        is_linear_quadratic: Whether nothing has to be linearised.
    """

    problem: ShootingProblem
    batch_shape: torch.Size
    reward_cost: Cost
    prior: Tensor | None
    is_linear_quadratic: bool

    def rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        """Gives the reward of each step, and that of the last state: `[T + 1, B]`, reward units.

        Args:
            states: `[T + 1, B, n]`.
            actions: `[T, B, m]`.
        """
        return -replace(self.problem, cost=self.reward_cost).costs(states, actions)


def need_differentiable(graph: TrajectoryGraph, name: str) -> None:
    """Raises `IncompatibleMethod` where a factor cannot be differentiated or the horizon is infinite."""
    if not isinstance(graph.dynamics, DifferentiableFactor):
        found = "None" if graph.dynamics is None else type(graph.dynamics).__name__
        raise IncompatibleMethod(
            f"{name} needs dynamics that can be differentiated, cai.factors.DifferentiableDynamics or "
            f"LinearGaussianDynamics, got {found}; SoftValueIteration and SumProduct take tables"
        )
    for slot in ("initial", "reward"):
        if getattr(graph, slot) is None:
            raise IncompatibleMethod(f"{name} needs the graph's {slot}, which is None")
    if not isinstance(graph.initial, GaussianInitial):
        raise IncompatibleMethod(
            f"{name} needs a first state that is known or Gaussian, cai.factors.Delta or Gaussian, got "
            f"{type(graph.initial).__name__}"
        )
    if graph.horizon is None:
        raise IncompatibleMethod(
            f"{name} needs a finite horizon; for an infinite one plan again and again: "
            "cai.plan.ReplanningPolicy(graph, method, horizon=...)"
        )
    for slot in ("state_space", "action_space"):
        if not isinstance(getattr(graph, slot), gymnasium.spaces.Box):
            raise IncompatibleMethod(
                f"{name} needs to know how many coordinates the {slot.split('_')[0]} has: give "
                "DifferentiableDynamics(..., state_size=, action_size=) or the graph's state_space= and action_space="
            )
    if not isinstance(graph.action_prior, GaussianPrior | FlatPrior | UniformPolicy | None):
        raise IncompatibleMethod(
            f"{name} takes a flat, uniform or Gaussian action prior (None, FlatPrior, Gaussian, LinearGaussianPolicy), "
            f"got {type(graph.action_prior).__name__}"
        )
    if graph.evidence:
        raise IncompatibleMethod(f"{name} takes no evidence on states or actions; put a penalty into the reward")


def shooting_graph(graph: TrajectoryGraph) -> ShootingGraph:
    """Reads a graph that `need_differentiable` has passed.

    Functions of a user are asked once, for what they return: something of another shape is refused here.

    Raises:
        ValueError: A function does not return one next state, or one reward, for each of the batch.
    """
    n, m = _sizes(graph)
    start = graph.initial.initial_moments(n).mean.detach()
    slots = [getattr(graph, slot) for slot in ("dynamics", "initial", "reward", "terminal_reward", "action_prior")]
    shapes = [slot.batch_shape for slot in slots if isinstance(slot, Batched)]
    batch = torch.broadcast_shapes(start.shape[:-1], *shapes)
    matrices, functions = _matrices(graph, n, m), user_functions(graph)
    start = start.to(reduce(torch.promote_types, (part.dtype for part in matrices.values()), start.dtype))
    start = start.expand(*batch, n).reshape(-1, n)
    divisible = len(start) > 1 and stands_alone(functions, start[:1], m)
    if not divisible and len(batch) > 1:
        functions = {slot: unflattened(function, batch) for slot, function in functions.items()}
    start = start.to(checked_dtype(functions, start, m))
    try_out_times(functions, start, m, int(graph.horizon))  # type: ignore[arg-type]
    forms = {slot: _flat(part, batch).to(start) for slot, part in matrices.items()}
    dynamics: Dynamics = (
        parts.LinearDynamics(forms["dynamics"])
        if "dynamics" in forms
        else parts.FunctionDynamics(functions["dynamics"])
    )
    cost, end = (
        parts.QuadraticCost(forms[slot])
        if slot in forms
        else parts.FunctionCost(functions[slot], f"the {slot.replace('_', ' ')}")
        for slot in ("reward", "terminal_reward")
    )
    prior = forms.get("action_prior")
    problem = ShootingProblem(
        dynamics=dynamics,
        cost=cost if prior is None else SumOfCosts((cost, parts.QuadraticCost(prior))),
        end=end,
        start=start,
        num_actions=m,
        horizon=int(graph.horizon),  # type: ignore[arg-type]
        discount=graph.discount,
        limits=_limits(graph, start),
        divisible=divisible,
    )
    if prior is not None:
        order = [*range(m, m + n + 1), *range(m)]
        prior = prior[..., order, :][..., order]
    return ShootingGraph(problem, batch, cost, prior, not functions)


def surroundings(graph: TrajectoryGraph, world: ShootingGraph) -> Surroundings:
    """Gives what a graph has beside costs and the mean of its dynamics; see `cai.ops.shooting.laplace`."""
    start, batch = world.problem.start, world.batch_shape
    n = start.shape[-1]
    noise, spread = graph.dynamics.noise(n), graph.initial.initial_moments(n).covariance
    if noise is not None:
        noise = _flat(noise.detach(), batch).to(start)
    if spread is not None:
        spread = spread.detach().to(start).expand(*batch, n, n).reshape(-1, n, n)
    volume = 0.0
    if graph.action_prior is None or isinstance(graph.action_prior, UniformPolicy):
        limits = _limits(graph, start.double())
        width = start.new_ones(1) if limits is None else limits.high - limits.low
        volume = float(torch.where(torch.isinf(width), 1.0, width).log().sum())
    return Surroundings(as_number(graph.temperature), noise, spread, world.prior, volume)


def _sizes(graph: TrajectoryGraph) -> tuple[int, int]:
    spaces = (graph.state_space, graph.action_space)
    n, m = (space.shape[0] for space in spaces)  # type: ignore[union-attr, index]
    return n, m


def _limits(graph: TrajectoryGraph, like: Tensor) -> Limits | None:
    """Gives the bounds of the action space, or None where all are infinite."""
    assert isinstance(graph.action_space, gymnasium.spaces.Box)
    low, high = (torch.as_tensor(bound).to(like) for bound in (graph.action_space.low, graph.action_space.high))
    return None if torch.isinf(low).all() and torch.isinf(high).all() else Limits(low, high)


def _matrices(graph: TrajectoryGraph, n: int, m: int) -> dict[str, Tensor]:
    """What is linear or quadratic, by slot, controls first: `[T or 1, *batch, rows, columns]`, without gradients."""
    found = {}
    order = [*range(n + 1, n + 1 + m), *range(n + 1)]  # of [x; 1; u], to have [u; x; 1]
    if isinstance(graph.dynamics, LinearDynamics):
        linear = graph.dynamics.linear_parts()
        found["dynamics"] = torch.cat([linear.b, linear.a, linear.offset[..., None]], -1)
    if isinstance(graph.reward, QuadraticFactor):
        found["reward"] = graph.reward.quadratic_parts(n, m).form[..., order, :][..., order]
    if isinstance(graph.terminal_reward, QuadraticFactor):
        found["terminal_reward"] = graph.terminal_reward.terminal_form(n)[None]
    elif graph.terminal_reward is None:
        found["terminal_reward"] = torch.zeros(1, n + 1, n + 1)
    if isinstance(graph.action_prior, GaussianPrior) and not is_hard(graph.temperature):
        form = prior_form(graph.action_prior.prior_parts(n, m), graph.temperature)
        found["action_prior"] = form[..., order, :][..., order]
    return {slot: part.detach() for slot, part in found.items()}


def _flat(part: Tensor, batch: torch.Size) -> Tensor:
    """Makes the batch of `[T or 1, *batch, rows, columns]` one dimension, of one where all elements are alike."""
    part = with_batch_dims(part, len(batch), 2)
    if all(size == 1 for size in part.shape[1:-2]):
        return part.reshape(len(part), 1, *part.shape[-2:])
    return part.expand(len(part), *batch, *part.shape[-2:]).reshape(len(part), -1, *part.shape[-2:])
