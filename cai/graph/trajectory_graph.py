"""The time-plated graph of a controlled trajectory: what every method of the library is asked about.

Factors tied to the variables of one time step, repeated:

    p(tau, O) = p(s_0) prod_t mu(a_t|s_t) p(s_{t+1}|s_t,a_t) p(O_t=1|s_t,a_t),     p(O_t=1|s,a) ~ exp(r(s,a) / alpha)
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium
from torch import Tensor

from cai.data.serialization import serializable
from cai.factors.checks import state_index
from cai.factors.protocols import (
    DifferentiableFactor,
    Stepped,
    TabulatedDynamics,
    TabulatedInitial,
    TabulatedPrior,
    TabulatedReward,
)
from cai.factors.recorded import RecordedDynamics
from cai.graph.recording import Recording, check_observation, recorded
from cai.graph.tabulate import initial_table
from cai.graph.vectors import check_vectors, fits_vectors, vector_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cai.graph.factor_graph import FactorGraph


@serializable
@dataclass(frozen=True)
class Evidence:
    """What is known of a trajectory beside the optimality.

    Attributes:
        states: State at each time that has one known.
        actions: Action at each time that has one known.
        recording: Observations and actions of a whole trajectory of vectors, or of several.
    """

    states: Mapping[int, int] = field(default_factory=dict)
    actions: Mapping[int, int] = field(default_factory=dict)
    recording: Recording | None = None

    def __bool__(self) -> bool:
        return bool(self.states or self.actions or self.recording is not None)


@serializable
@dataclass(frozen=True, eq=False)
class TrajectoryGraph:
    """A trajectory with optimality variables, as factors tied to the plate of time.

    Attributes:
        initial: p(s_0): `cai.factors.Categorical`, `Gaussian`, `Delta`, or any callable that returns a distribution.
        dynamics: p(s'|s, a): `cai.factors.TabularDynamics`, `LinearGaussianDynamics`, `DifferentiableDynamics`, an
            `Environment`, or any callable; None while it is unknown.
        reward: r(s, a) or r(s, a, s'), reward units: `TabularReward`, `LinearReward`, `QuadraticReward`,
            `FunctionReward`, or any callable.
        horizon: Number of actions T, or None for an infinite horizon.
        discount: gamma in [0, 1]: a chance 1 - gamma a step that everything ends with value zero.
        temperature: alpha >= 0, reward units; 0 is hard optimality. A 0-dim tensor may carry a gradient.
        action_prior: mu(a|s); None is the uniform distribution on a finite or bounded action space, the flat measure
            on an unbounded one. `FlatPrior()` is the plain entropy bonus, `TabularPolicy(probs)`, `Gaussian` and
            `LinearGaussianPolicy` are other priors.
        terminal_reward: A reward of the state alone, `TabularReward` of `[S]` or `QuadraticReward(Q)`: the value at a
            terminal state, and of any state at the horizon.
        state_space: A gymnasium space, inferred where the factors tell.
        action_space: A gymnasium space, inferred where the factors tell.
        evidence: Known states, actions and observations; made by `condition`.
        observation: p(y_t|s_t) at the times 0..T, where the state itself is not seen: `LinearGaussianObservation`, or
            any callable that returns a distribution. Policies of `rollout` then see y_t; planning methods plan in the
            states.

    Raises:
        ValueError: Factors that do not fit each other, or a horizon, discount or temperature out of range.
    """

    initial: Any
    dynamics: Any
    reward: Any
    horizon: int | None = field(default=None, kw_only=True)
    discount: float = field(default=1.0, kw_only=True)
    temperature: float | Tensor = field(default=1.0, kw_only=True)
    action_prior: Any = field(default=None, kw_only=True)
    terminal_reward: Any = field(default=None, kw_only=True)
    state_space: gymnasium.Space | None = field(default=None, kw_only=True)
    action_space: gymnasium.Space | None = field(default=None, kw_only=True)
    evidence: Evidence = field(default=Evidence(), kw_only=True)
    observation: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "horizon", _checked_horizon(self.horizon))
        object.__setattr__(self, "discount", _checked_discount(self.discount))
        object.__setattr__(self, "temperature", _checked_temperature(self.temperature))
        for slot, protocol in (("state_space", "observation_space"), ("action_space", "action_space")):
            if getattr(self, slot) is None and isinstance(self.dynamics, Stepped):
                object.__setattr__(self, slot, getattr(self.dynamics.env, protocol))
            elif getattr(self, slot) is None and isinstance(self.dynamics, RecordedDynamics):
                object.__setattr__(self, slot, getattr(self.dynamics, slot))
        if self.terminal_reward is not None and not callable(self.terminal_reward):
            raise ValueError(
                "terminal_reward: expected a factor such as cai.factors.TabularReward([S]) or QuadraticReward(Q), got "
                f"{type(self.terminal_reward).__name__}"
            )
        if isinstance(self.dynamics, TabulatedDynamics):
            self._check_tables(self.dynamics)
        elif isinstance(self.dynamics, DifferentiableFactor):
            for slot in ("state_space", "action_space"):
                object.__setattr__(self, slot, vector_space(self, slot))
            check_vectors(self)
        check_observation(self)
        self._check_steps()

    def _check_tables(self, dynamics: TabulatedDynamics) -> None:
        num_states, num_actions = dynamics.num_states, dynamics.num_actions
        for slot, size in (("state_space", num_states), ("action_space", num_actions)):
            space = getattr(self, slot)
            if space is None:
                object.__setattr__(self, slot, gymnasium.spaces.Discrete(size))
            elif not isinstance(space, gymnasium.spaces.Discrete) or space.n != size or space.start != 0:
                raise ValueError(f"{slot}: the dynamics has values 0..{size - 1}, the space given is {space}")
        if isinstance(self.initial, TabulatedInitial):
            initial_table(self.initial, num_states)
        if isinstance(self.action_prior, TabulatedPrior):
            self.action_prior.prior_table(num_states, num_actions)
        for slot in ("reward", "terminal_reward"):
            _check_reward(slot, getattr(self, slot), num_states, num_actions)
        last = 0 if self.horizon is None else self.horizon
        _merged("state", {}, self.evidence.states, num_states, last)
        _merged("action", {}, self.evidence.actions, num_actions, last - 1)

    def _check_steps(self) -> None:
        for slot in ("dynamics", "reward", "action_prior"):
            num_steps = getattr(getattr(self, slot), "num_steps", None)
            if num_steps is not None and num_steps != self.horizon:
                horizon = "infinite" if self.horizon is None else self.horizon
                raise ValueError(f"{slot}: it is for {num_steps} steps, the horizon is {horizon}")

    def replace(self, **changes: Any) -> TrajectoryGraph:
        """Makes a changed copy: `graph.replace(temperature=0.1)`.

        Raises:
            ValueError: An unknown name, or a graph that does not fit together.
        """
        names = {f.name for f in dataclasses.fields(self)}
        unknown = sorted(set(changes) - names)
        if unknown:
            raise ValueError(
                f"replace: {unknown[0]!r} is not a part of the graph; the parts are {', '.join(sorted(names))}"
            )
        if self._outgrown(changes.get("dynamics")):
            changes = {"state_space": None, "action_space": None, **changes}
        return dataclasses.replace(self, **changes)

    def _outgrown(self, dynamics: Any) -> bool:
        """Whether other dynamics has other spaces than the graph's."""
        if isinstance(dynamics, TabulatedDynamics):
            sizes = (getattr(self.state_space, "n", None), getattr(self.action_space, "n", None))
            return sizes != (dynamics.num_states, dynamics.num_actions)
        if isinstance(dynamics, DifferentiableFactor):
            return not fits_vectors(dynamics, self)
        return isinstance(dynamics, Stepped)

    def condition(
        self, states: Mapping[int, int] | None = None, actions: Any = None, *, observations: Any = None
    ) -> TrajectoryGraph:
        """Adds evidence: a copy in which some states and actions are known, or a record of observations and actions.

        A record is of a graph with an `observation` factor; the copy takes its horizon, and `KalmanSmoother` asks where
        the states were.

        On tables, under `SumProduct`, this is conditioning; `log_evidence` becomes log p(O, evidence). Under a fixed
        dynamics a known action restricts the policy, and a known state asks for a policy that is there with certainty.

        Args:
            states: The state at each given time, 0..T.
            actions: The action at each given time, 0..T-1; where the episode has ended by then it says nothing. With a
                record, the actions taken, `[T, m]` or `[N, T, m]`.
            observations: y_0, ..., y_T, `[T + 1, k]` or `[N, T + 1, k]`; NaN where nothing was observed.

        Raises:
            ValueError: Neither tables nor an observation factor, times outside the horizon, values outside the spaces,
                shapes that do not fit, or evidence that contradicts what the graph has.
        """
        if observations is not None or (actions is not None and not isinstance(actions, Mapping)):
            if states is not None:
                raise ValueError("condition: states and observations cannot both be known")
            recording = recorded(self, observations, actions)
            return self.replace(evidence=Evidence(recording=recording), horizon=recording.horizon)
        if not isinstance(self.dynamics, TabulatedDynamics):
            raise ValueError("condition: evidence on states and actions needs a tabular dynamics factor")
        last = 0 if self.horizon is None else self.horizon
        new_states = _merged("state", self.evidence.states, states or {}, self.dynamics.num_states, last)
        new_actions = _merged("action", self.evidence.actions, actions or {}, self.dynamics.num_actions, last - 1)
        return self.replace(evidence=Evidence(new_states, new_actions))

    def unroll(self) -> FactorGraph:
        """Writes the graph out over time: variables s0..sT and a0..a{T-1}, one factor of each kind a step.

        Raises:
            ValueError: An infinite horizon, no tables, or temperature 0.
        """
        from cai.graph.unrolling import unrolled

        return unrolled(self)

    def to_pyro(self) -> Callable[[], None]:
        """Makes a Pyro program with the same joint density; its enumeration gives log p(O).

        Raises:
            ValueError: An infinite horizon, no tables, or temperature 0.
        """
        from cai.graph.conversions import pyro_program

        return pyro_program(self)

    def draw(self, ax: Axes | None = None) -> Axes:
        """Draws one slice of time with its plate; needs matplotlib.

        Args:
            ax: Where to draw; a new figure by default.
        """
        from cai.graph.drawing import draw_slice

        return draw_slice(self, ax)


def _checked_horizon(horizon: Any) -> int | None:
    if horizon is None:
        return None
    whole = isinstance(horizon, numbers.Integral) or (isinstance(horizon, float) and horizon.is_integer())
    if isinstance(horizon, bool) or not whole or horizon < 1:
        raise ValueError(f"horizon: expected a whole number of at least 1, or None for infinite, got {horizon!r}")
    return int(horizon)


def _as_number(value: Any, slot: str) -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{slot}: expected a number, got {value!r}") from None


def _checked_discount(discount: Any) -> float:
    value = _as_number(discount, "discount")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"discount: expected a number in [0, 1], got {value}")
    return value


def _checked_temperature(temperature: Any) -> float | Tensor:
    if isinstance(temperature, Tensor) and temperature.dim():
        raise ValueError(f"temperature: expected a number, got a tensor of shape {list(temperature.shape)}")
    value = _as_number(temperature, "temperature")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"temperature: expected a finite number of at least 0 (in reward units), got {value}")
    return temperature if isinstance(temperature, Tensor) and value > 0 else value


def _check_reward(slot: str, reward: Any, num_states: int, num_actions: int) -> None:
    if not isinstance(reward, TabulatedReward):
        return
    sizes = (getattr(reward, "num_states", num_states), getattr(reward, "num_actions", None))
    if sizes[0] != num_states or (sizes[1] is not None and sizes[1] != num_actions):
        actions = "" if sizes[1] is None else f" and {sizes[1]} actions"
        raise ValueError(
            f"{slot}: {type(reward).__name__} is for {sizes[0]} states{actions}, the dynamics has {num_states} states "
            f"and {num_actions} actions"
        )
    if slot == "terminal_reward" and (sizes[1] is not None or getattr(reward, "num_steps", None) is not None):
        raise ValueError(f"terminal_reward: expected a reward of states alone, [S] with S = {num_states}")


def _merged(what: str, old: Mapping[int, int], new: Mapping[int, Any], size: int, last: int) -> dict[int, int]:
    merged = dict(old)
    for t, value in new.items():
        if not isinstance(t, numbers.Integral) or not 0 <= t <= last:
            allowed = f"0..{last}" if last >= 0 else "no time at all on an infinite horizon"
            raise ValueError(f"evidence: {what} at time {t}; evidence on {what}s is possible at {allowed}")
        index = state_index(value, size, f"evidence: {what} at time {t}")
        if index.dim():
            raise ValueError(f"evidence: {what} at time {t} must be one {what}, got shape {list(index.shape)}")
        known = int(index)
        if merged.setdefault(int(t), known) != known:
            raise ValueError(f"evidence: {what} at time {t} is known to be {merged[int(t)]} already, not {known}")
    return merged
