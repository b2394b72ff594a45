"""Receding horizon: plan from the state at hand, act by the beginning of the plan, plan again."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from cai.errors import NotConverged
from cai.factors import Delta
from cai.graph import TrajectoryGraph
from cai.inference import AbstractCallback, AbstractMethod, Posterior, infer
from cai.plan.choices import mean_action


@runtime_checkable
class WarmStartable(Protocol):
    """A method that can begin from an earlier answer of its own."""

    def warm_started(self, posterior: Any, *, shift: int = 1) -> AbstractMethod:
        """Gives the method with the plan of `posterior` for its first guess, `shift` steps later."""


@dataclass(frozen=True, eq=False)
class ReplanningPolicy:
    """Wraps a planning method as a policy for `cai.rollout`: model-predictive control.

    At time t and in state s it asks `cai.infer(graph.replace(initial=Delta(s), horizon=...), method)` and acts by that
    plan's policy at its time 0. Where the method can be warm-started, each plan begins from the one before, shifted
    by the steps taken since. A batch of states is one batched plan; discrete states are planned for one by one, each
    distinct state once. A plan that stops at its limit of iterations is used without a warning where the next one goes
    on from it.

    A plan looks `horizon` steps ahead, always as many (the horizon recedes); with `end`, no further than the end of the
    episode. By Bellman's principle a plan up to the end gives the same actions as following the first plan's feedback
    law, if the plan is exact; replanning mends plans that are not: cut-off horizons, local linearisations, open loops.
    Where only the mean is acted by, plan at temperature 0: `ILQR` then need not find a policy around each plan as well.

    `bind` gives a policy with a memory of its last plan; time 0 clears it. The object itself has none: called
    directly, it plans from nothing.

    Attributes:
        graph: The model to plan in, with its reward and terminal reward; its initial factor is not used.
        method: Any method whose posterior has a policy at its start: `ILQR`, `GradientPlanner`, `MaxProduct` ...
        horizon: How many steps a plan looks ahead; None for the horizon of the graph.
        end: The time at which the episode ends and its terminal reward is due, where that is known; None for no end.
        replan_every: Steps to act by one plan, by its own policy in the states that come, before the next is made.
        state_of: Gives the model's state for an observation (a tensor, if it came as an array), where they differ;
            `[*batch, ...]` to `[*batch, n]`.
        choose: Gives the action for the plan's policy: `mean_action`, `sampled_action`, or a function of your own.
        seed: Seed of the method, if it draws; None takes that of torch's generator, which `cai.rollout` sets.
        callbacks: Told of each plan, as by `cai.infer`.

    Raises:
        ValueError: Numbers out of range, or a graph that changes with time (factors a step, evidence).

    Source: Mayne, Rawlings, Rao and Scokaert (2000).
    """

    graph: TrajectoryGraph
    method: AbstractMethod
    _: KW_ONLY
    horizon: int | None = None
    end: int | None = None
    replan_every: int = 1
    state_of: Callable[[Any], Any] | None = None
    choose: Callable[[Distribution], Tensor] = mean_action
    seed: int | None = None
    callbacks: Sequence[AbstractCallback] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.graph, TrajectoryGraph):
            raise ValueError(f"ReplanningPolicy: graph must be a TrajectoryGraph, got {type(self.graph).__name__}")
        if not isinstance(self.method, AbstractMethod):
            raise ValueError(f"ReplanningPolicy: expected a method such as cai.ILQR(), got {self.method!r}")
        for name in ("horizon", "end", "replan_every"):
            value = getattr(self, name)
            left_out = value is None and name != "replan_every"
            if not left_out and (not isinstance(value, numbers.Integral) or int(value) < 1):
                raise ValueError(f"ReplanningPolicy: {name} must be a whole number of at least 1, got {value!r}")
        for slot in ("dynamics", "reward", "action_prior"):
            factor = getattr(self.graph, slot)
            if getattr(factor, "time_varying", False) or getattr(factor, "num_steps", None) is not None:
                raise ValueError(
                    f"ReplanningPolicy: the {slot} changes with time; plans start at different times, so that it would "
                    "be read at the wrong ones. Put what changes into the state"
                )
        if self.graph.evidence:
            raise ValueError("ReplanningPolicy: the graph has evidence at given times, which no later plan has")

    def bind(self, world: Any) -> Replanner:
        """Gives a policy with a memory, for a graph or an environment.

        Raises:
            ValueError: The states or actions of the world are not those of the model.
        """
        return Replanner(self, world)

    def __call__(self, state: Any, t: int = 0) -> Tensor:
        """Plans from a state at time t, from nothing, and gives the action, `[*batch, m]`; discrete: `[*batch]`."""
        return Replanner(self, self.graph)(state, t)

    def ahead(self, t: int) -> int | None:
        """How many steps a plan made at time t looks ahead; None for an infinite horizon.

        Raises:
            ValueError: The episode has ended by then.
        """
        steps = self.graph.horizon if self.horizon is None else self.horizon
        if self.end is None:
            return steps
        if t >= self.end:
            raise ValueError(f"ReplanningPolicy: asked for an action at time {t}, the episode ends at {self.end}")
        return self.end - t if steps is None else min(steps, self.end - t)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is being followed: made at a time, for a batch of states, in one posterior or in one for each group."""

    made_at: int
    batch: torch.Size
    posteriors: tuple[Posterior, ...]
    group: Tensor | None

    def covers(self, t: int, batch: torch.Size, replan_every: int) -> bool:
        age, horizon = t - self.made_at, self.posteriors[0].graph.horizon
        return self.precedes(t, batch) and age < replan_every and (horizon is None or age < horizon)

    def precedes(self, t: int, batch: torch.Size) -> bool:
        return self.made_at < t and self.batch == batch

    def action(self, state: Tensor, t: int, choose: Callable[[Distribution], Tensor]) -> Tensor:
        age = t - self.made_at
        if self.group is None:
            return choose(self.posteriors[0].policy(state, age))
        flat, actions = state.reshape(-1), torch.zeros_like(state).reshape(-1)
        for index, posterior in enumerate(self.posteriors):
            here = self.group == index
            actions[here] = choose(posterior.policy(flat[here], age))
        return actions.reshape(state.shape)


class Replanner:
    """A `ReplanningPolicy` at work in a world: it remembers its last plan. Made by `ReplanningPolicy.bind`.

    Args:
        policy: What to do.
        world: The graph or environment to act in.

    Raises:
        ValueError: The states or actions of the world are not those of the model.
    """

    def __init__(self, policy: ReplanningPolicy, world: Any) -> None:
        self._settings = policy  # not `policy`: what has one is taken for a posterior
        self._plan: _Plan | None = None
        self._num_plans = 0
        graph, actions = policy.graph, getattr(world, "action_space", None)
        states = getattr(world, "state_space", None) or getattr(world, "observation_space", None)
        _check_space("actions", graph.action_space, actions, "")
        if policy.state_of is None:
            if getattr(world, "observation", None) is not None:
                raise ValueError(
                    "ReplanningPolicy: the world's states are hidden behind its observation factor, and plans start "
                    "from states; give state_of=, or show them: replace(observation=None)"
                )
            _check_space("states", graph.state_space, states, "; give state_of=, a function from one to the other")
        self._action_dtype = actions.dtype if isinstance(actions, gymnasium.spaces.Box) else None

    def __call__(self, state: Any, t: int = 0) -> Tensor:
        """Gives the action for a state or any batch of states at time t: `[*batch, m]`; discrete: `[*batch]`."""
        settings, t = self._settings, int(t)
        state = self._state(state)
        batch = state.shape[: state.dim() - self._state_dim]
        if self._plan is None or not self._plan.covers(t, batch, settings.replan_every):
            self._plan = self._planned(state, t, batch)
        return self._allowed(self._plan.action(state, t, settings.choose))

    @property
    def _state_dim(self) -> int:
        space = self._settings.graph.state_space
        return 1 if space is None or space.shape is None else len(space.shape)

    def _state(self, observation: Any) -> Tensor:
        state_of, space = self._settings.state_of, self._settings.graph.state_space
        if isinstance(observation, np.ndarray | np.generic | numbers.Number):
            observation = torch.as_tensor(observation)
        state = torch.as_tensor(observation if state_of is None else state_of(observation))
        if isinstance(space, gymnasium.spaces.Box):
            state = state.to(_torch_dtype(space.dtype))
        if space is not None and space.shape and state.shape[-len(space.shape) :] != space.shape:
            raise ValueError(
                f"ReplanningPolicy: the model's states are {list(space.shape)}, got {list(state.shape)}"
                + ("" if state_of is None else " from state_of")
            )
        return state

    def _planned(self, state: Tensor, t: int, batch: torch.Size) -> _Plan:
        method, horizon = self._settings.method, self._settings.ahead(t)
        if self._state_dim:
            last = self._plan
            if last is not None and last.precedes(t, batch) and isinstance(method, WarmStartable):
                method = method.warm_started(last.posteriors[0], shift=t - last.made_at)
            return _Plan(t, batch, (self._infer(state, horizon, method),), None)
        distinct, group = state.reshape(-1).unique(return_inverse=True)
        return _Plan(t, batch, tuple(self._infer(one, horizon, method) for one in distinct), group)

    def _infer(self, state: Tensor, horizon: int | None, method: AbstractMethod) -> Posterior:
        graph = self._settings.graph.replace(initial=Delta(state), horizon=horizon)
        with warnings.catch_warnings():
            if isinstance(method, WarmStartable):
                warnings.simplefilter("ignore", NotConverged)
            return infer(graph, method, seed=self._next_seed(), callbacks=self._settings.callbacks)

    def _next_seed(self) -> int:
        """A seed of its own for each plan; nothing is drawn, so that planning never moves the noise of the world."""
        self._num_plans += 1
        seed = torch.initial_seed() if self._settings.seed is None else self._settings.seed
        return int(np.random.SeedSequence([seed % 2**64, self._num_plans]).generate_state(1)[0])

    def _allowed(self, action: Tensor) -> Tensor:
        """The action within the bounds of the model's actions, in the world's type."""
        space = self._settings.graph.action_space
        if isinstance(space, gymnasium.spaces.Box):
            low, high = torch.as_tensor(space.low).to(action), torch.as_tensor(space.high).to(action)
            action = action.clamp(low, high)
        return action if self._action_dtype is None else action.to(_torch_dtype(self._action_dtype))


def _torch_dtype(dtype: Any) -> torch.dtype:
    return torch.as_tensor(np.empty(0, dtype)).dtype


def _check_space(what: str, model: gymnasium.Space | None, world: gymnasium.Space | None, hint: str) -> None:
    if model is None or world is None:
        return
    sizes = [getattr(space, "n", space.shape) for space in (model, world)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"ReplanningPolicy: the model's {what} are {model}, the world's {world}{hint}")
