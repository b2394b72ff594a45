"""A trajectory graph whose factors are callables as a Pyro program: continuous states and actions, usually.

    s0 ~ initial(),   a_t ~ action_prior(s_t),   s_{t+1} ~ dynamics(s_t, a_t),   factor O_t = reward / alpha

with no sites to enumerate where all are continuous, so that Pyro's NUTS and SVI run on it. A flat (Lebesgue) prior is
a distribution that can be drawn from, for a start, with its density masked to one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import InferDict
from torch import Tensor

from cai.factors.calling import at_time, reward_of_transition
from cai.factors.distributions import DegenerateNormal
from cai.factors.policy import FlatPrior
from cai.factors.protocols import Stepped
from cai.graph.conversions.sites import aside, is_point
from cai.graph.unrolling import need_density

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph

Distribution = torch.distributions.Distribution


def callable_program(graph: TrajectoryGraph) -> Callable[[], None]:
    """Writes a graph of finite horizon as a program with sites s0..sT, a0..a{T-1} and factors O0..O{T}.

    `initial` is a distribution or a callable that returns one, `dynamics(state, action)` and `action_prior(state)`
    return distributions, `reward(state, action)` or `reward(state, action, next_state)` and `terminal_reward(state)`
    tensors. The program draws one trajectory, or a batch of them inside plates: factors broadcast to the left. Without
    an action prior, actions are uniform on a finite or bounded action space; on an unbounded one their measure is flat,
    as it is everywhere with `FlatPrior()`. A site that is certain (a Delta) is an observed one.

    Raises:
        ValueError: An infinite horizon, a discount below 1, temperature 0, dynamics that ends episodes or can only be
            stepped, factors that return something else, or no way to tell the action prior.
    """
    _check(graph)
    horizon, alpha = graph.horizon, graph.temperature
    assert horizon is not None
    factors = _Factors(
        _initial(graph.initial),
        _prior(graph),
        graph.dynamics,
        reward_of_transition(graph.reward),
        graph.terminal_reward,
    )
    with aside(), torch.no_grad():
        state_dims, action_dims = _tried(factors)

    def program() -> None:
        state = torch.tensor(0)
        for t in pyro.markov(range(horizon)):
            if t == 0:  # before the loop it would spoil the dimensions of an enumerated guide, without an error
                state = _draw("s0", factors.initial(), state_dims)
            action = _draw(f"a{t}", at_time(factors.prior, t)(state), action_dims)
            following = _draw(f"s{t + 1}", at_time(factors.dynamics, t)(state, action), state_dims)
            pyro.factor(f"O{t}", factors.reward(t, state, action, following) / alpha)
            if t == horizon - 1 and factors.terminal_reward is not None:
                pyro.factor(f"O{horizon}", torch.as_tensor(factors.terminal_reward(following)) / alpha)
            state = following

    return program


@dataclass(frozen=True, eq=False)
class _Factors:
    initial: Callable[[], Distribution]
    prior: Callable[..., Distribution]
    dynamics: Callable[..., Distribution]
    reward: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    terminal_reward: Callable[..., Tensor] | None


def _check(graph: TrajectoryGraph) -> None:
    if isinstance(graph.dynamics, Stepped):
        raise ValueError("to_pyro: an environment can only be stepped; it has no density to write down")
    need_density(graph, "to_pyro")
    if graph.discount < 1.0:
        raise ValueError(
            f"to_pyro: a discount ({graph.discount:g}) is an absorbing state, which only tabular graphs can be given; "
            "a finite horizon with discount 1 needs none"
        )
    if graph.evidence:
        raise ValueError(
            "to_pyro: the program would not know of the record of observations; replace(evidence=Evidence()) drops it"
        )
    if callable(getattr(graph.dynamics, "terminal", None)):
        raise ValueError(
            "to_pyro: the dynamics ends episodes; a program of fixed length can write that for tables only"
        )
    for slot in ("initial", "dynamics", "reward"):
        factor = getattr(graph, slot)
        if not callable(factor) and not (slot == "initial" and isinstance(factor, Distribution)):
            raise ValueError(f"to_pyro: {slot} must be a callable factor, got {type(factor).__name__}")


def _initial(initial: Any) -> Callable[[], Distribution]:
    return (lambda: initial) if isinstance(initial, Distribution) else initial


def _prior(graph: TrajectoryGraph) -> Callable[..., Distribution]:
    """Gives the action prior as a callable of the state."""
    prior, space = graph.action_prior, graph.action_space
    is_flat = isinstance(prior, FlatPrior)
    if prior is not None and not is_flat:
        if not callable(prior):
            raise ValueError(f"to_pyro: action_prior must be callable, got {type(prior).__name__}")
        return prior
    if is_flat and prior.available is not None:
        raise ValueError("to_pyro: FlatPrior(available) is for tabular dynamics; give the action prior as a callable")
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        num_actions = int(space.n)
        return lambda state: _measure(dist.Categorical(logits=_like(state).new_zeros(num_actions)), is_flat)
    if isinstance(space, gymnasium.spaces.Box):
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        if bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            return lambda state: _measure(dist.Uniform(low.to(_like(state)), high.to(_like(state))), is_flat, low.dim())
        if not (torch.isfinite(low).any() or torch.isfinite(high).any()):
            return lambda state: _measure(dist.Normal(torch.zeros_like(low).to(_like(state)), 1.0), True, low.dim())
    raise ValueError(
        f"to_pyro: there is no default action prior on {space}; give the graph an action_space that is Discrete from 0 "
        "or a Box bounded on all sides or on none, or an action_prior that returns a distribution"
    )


def _measure(fn: Any, is_flat: bool, event_dims: int = 0) -> Distribution:
    """Gives the distribution, or with its density masked to one: a flat measure that can still be drawn from."""
    fn = fn.to_event(event_dims)
    return fn.mask(False) if is_flat else fn


def _like(state: Tensor) -> Tensor:
    """A 0-dim zero of the state's device, and of its dtype where that is floating; float64 beside discrete states."""
    dtype = state.dtype if state.is_floating_point() else torch.float64
    return state.new_zeros((), dtype=dtype)


def _tried(factors: _Factors) -> tuple[int, int]:
    """Calls every factor once, and gives the number of dimensions of one state and one action."""
    start = _need_distribution("initial", factors.initial())
    state = start.sample()
    choice = _need_distribution("action_prior", at_time(factors.prior, 0)(state))
    action = choice.sample()
    following = _need_distribution("dynamics", at_time(factors.dynamics, 0)(state, action)).sample()
    if following.shape != state.shape:
        raise ValueError(
            f"to_pyro: dynamics gives states of shape {list(following.shape)}, the initial state has "
            f"{list(state.shape)}"
        )
    rewards = {"reward": factors.reward(0, state, action, following)}
    if factors.terminal_reward is not None:
        rewards["terminal_reward"] = torch.as_tensor(factors.terminal_reward(state))
    for slot, reward in rewards.items():
        if reward.dim():
            raise ValueError(
                f"to_pyro: {slot} must be one number for one state and action, got shape {list(reward.shape)}"
            )
    return state.dim(), action.dim()


def _need_distribution(slot: str, value: Any) -> Distribution:
    if not isinstance(value, Distribution):
        raise ValueError(f"to_pyro: {slot} must return a distribution, got {type(value).__name__}")
    _refuse_singular(slot, value)
    return value


def _refuse_singular(what: str, fn: Distribution) -> None:
    if isinstance(fn, DegenerateNormal):
        raise ValueError(
            f"to_pyro: {what} has a singular covariance, which has no density in the space of states for Pyro to use; "
            "give it variance in every direction, or none at all"
        )


def _draw(name: str, fn: Distribution, num_dims: int) -> Tensor:
    """Draws a state or an action of so many dimensions; dimensions beyond are a batch."""
    _refuse_singular(name, fn)
    beyond = num_dims - len(fn.event_shape)
    site = dist.Independent(fn, beyond)  # of torch's own distributions too, which Pyro cannot draw from
    if is_point(fn):
        return pyro.sample(name, site, obs=site.rsample())
    mode: InferDict = {"enumerate": "parallel"} if site.has_enumerate_support else {}
    return pyro.sample(name, site, infer=mode)
