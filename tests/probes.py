"""Probe environments: tiny, with soft values known in closed form, each for one thing that a learner can get wrong.

    ConstantReward    every episode is one step of reward 1            the value of a terminated step is its reward
    EndlessReward     reward 1 for ever, cut off after 5 steps         bootstrapping where an episode is truncated
    StateReward       one step, reward = what is seen                  values depend on states
    DelayedReward     two steps, reward at the second                  credit through time, discounted
    ActionReward      one step, reward = what is done                  the policy and the soft maximum
    MatchingReward    one step, reward = state times action            policies depend on states
    ChoiceReward      what is done first is rewarded at the second     credit of actions through time
    RandomReward      one step, reward 1 + noise                       the mean is learned, not the luck

An action has a coordinate u in [-1, 1]: a discrete one of n is u = -1 + 2 a / (n - 1), one of the box [-2, 2] is
u = a / 2 (a learner that mixes up units fails). In every state Q is linear in it, so that with the uniform prior, which
is action_prior=None,

    Q(s, a) = offset(s) + slope(s) u,    V(s) = offset(s) + softened(slope(s)),    log pi / mu = (Q - V) / alpha

    softened(k) = alpha log mean_j exp(k u_j / alpha)      or, on the box,  alpha log(sinh(k / alpha) / (k / alpha))

With `FlatPrior()` a decision is worth alpha log(number of actions, or 4 of the box) more: `flat=True`.

Use: `graph = StateReward("box").graph(temperature=0.5, discount=0.9)`, learn, then compare `posterior.q(states,
actions)` with `probe.q(states, actions, temperature=..., discount=...)`. Several copies are deep copies: num_envs=4.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

import cai

#: Half the side of the box of actions.
REACH = 2.0


class Probe(gymnasium.Env):
    """A probe environment. Its internal state is a pair (x, phase).

    Args:
        actions: "discrete", of `num_actions` actions, or "box", [-2, 2].
        states: "vector", seen as float32 [x, phase], or "index", seen as its place in `pairs`; the latter needs
            discrete actions.
        num_actions: Number of discrete actions, at least 2.

    Attributes:
        pairs: All states in which an action is taken, as pairs; on the box some of them.
    """

    def __init__(self, actions: str = "discrete", *, states: str = "vector", num_actions: int = 3) -> None:
        self.num_actions = num_actions if actions == "discrete" else None
        self.by_index = states == "index"
        self.pairs = self._pairs(np.linspace(-1.0, 1.0, num_actions))
        if actions == "discrete":
            self.action_space: gymnasium.Space = Discrete(num_actions)
        else:
            self.action_space = Box(-REACH, REACH, (1,), np.float32)
        self.observation_space = (
            Discrete(len(self.pairs) + 1) if self.by_index else Box(-np.inf, np.inf, (2,), np.float32)
        )
        self._pair = (0.0, 0.0)

    # The environment.

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._num_steps = 0
        self._pair = self._first()
        return self._seen(self._pair), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._num_steps += 1
        u = float(self.coordinate(np.asarray(action)).reshape(()))
        reward, self._pair, terminated = self._after(self._pair, u)
        return self._seen(self._pair), reward, terminated, self._num_steps == self.limit, {}

    #: After how many steps an episode is cut off.
    limit = -1

    def _first(self) -> tuple[float, float]:
        return (0.0, 0.0)

    def _after(self, pair: tuple[float, float], u: float) -> tuple[float, tuple[float, float], bool]:
        raise NotImplementedError

    def _seen(self, pair: tuple[float, float]) -> Any:
        if not self.by_index:
            return np.array(pair, dtype=np.float32)
        places = np.flatnonzero(np.isclose(self.pairs, pair).all(1))
        return np.int64(places[0] if len(places) else len(self.pairs))

    # The answer. States and actions are the environment's own, `[N, 2]` or `[N]`, and `[N, 1]` or `[N]`.

    def graph(self, *, temperature: float, discount: float = 0.9, **parts: Any) -> cai.TrajectoryGraph:
        """Makes the graph, with other parts such as an action prior."""
        return cai.from_gym(self, temperature=temperature, discount=discount).replace(**parts)

    @property
    def states(self) -> np.ndarray:
        """All states in which an action is taken, as they are seen; on the box some of them."""
        return np.arange(len(self.pairs)) if self.by_index else self.pairs.astype(np.float32)

    @property
    def actions(self) -> np.ndarray:
        """All actions; of the box nine, `[9, 1]`."""
        if self.num_actions is not None:
            return np.arange(self.num_actions)
        return np.linspace(-REACH, REACH, 9, dtype=np.float32)[:, None]

    @property
    def pairs_of_both(self) -> tuple[np.ndarray, np.ndarray]:
        """Every state with every action of the above, two arrays of equal length."""
        num_states, num_actions = len(self.states), len(self.actions)
        return self.states.repeat(num_actions, 0), np.concatenate([self.actions] * num_states)

    def coordinate(self, actions: np.ndarray) -> np.ndarray:
        """Gives u, `[N]`."""
        if self.num_actions is None:
            return np.clip(np.asarray(actions, dtype=np.float64).reshape(-1) / REACH, -1.0, 1.0)
        return -1.0 + 2.0 * np.asarray(actions, dtype=np.float64) / (self.num_actions - 1)

    @property
    def log_volume(self) -> float:
        """Log of the number of actions, or of the length of the box."""
        return math.log(2.0 * REACH if self.num_actions is None else self.num_actions)

    def q(
        self, states: np.ndarray, actions: np.ndarray, *, temperature: float, discount: float, flat: bool = False
    ) -> np.ndarray:
        """Gives the soft-optimal Q(s, a), `[N]`, reward units."""
        offset, slope = self._line(states, temperature, discount)
        later = (self._num_decisions(states, discount) - 1.0) * self._bonus(temperature, flat)
        return offset + slope * self.coordinate(actions) + later

    def v(self, states: np.ndarray, *, temperature: float, discount: float, flat: bool = False) -> np.ndarray:
        """Gives the soft-optimal V(s), `[N]`, reward units."""
        offset, slope = self._line(states, temperature, discount)
        bonus = self._num_decisions(states, discount) * self._bonus(temperature, flat)
        return offset + self.softened(slope, temperature) + bonus

    def log_policy(self, states: np.ndarray, actions: np.ndarray, *, temperature: float, discount: float) -> np.ndarray:
        """Gives the soft-optimal log pi(a | s), `[N]`, nats; a density in the units of the actions on the box."""
        q = self.q(states, actions, temperature=temperature, discount=discount)
        return (q - self.v(states, temperature=temperature, discount=discount)) / temperature - self.log_volume

    def mean_coordinate(self, states: np.ndarray, *, temperature: float, discount: float) -> np.ndarray:
        """Gives E u under the soft-optimal policy, `[N]`: the derivative of `softened`."""
        _, slope = self._line(states, temperature, discount)
        k = np.atleast_1d(slope / temperature)
        if self.num_actions is not None:
            u = np.linspace(-1.0, 1.0, self.num_actions)
            weights = np.exp(k[:, None] * u - np.abs(k)[:, None])
            return (weights * u).sum(1) / weights.sum(1)
        small = np.abs(k) < 1e-4
        safe = np.where(small, 1.0, k)
        return np.where(small, k / 3.0, 1.0 / np.tanh(safe) - 1.0 / safe)

    def softened(self, slope: np.ndarray, temperature: float) -> np.ndarray:
        """Computes alpha log E exp(slope u / alpha) over the uniform prior; |slope| at temperature 0."""
        if temperature == 0.0:
            return np.abs(slope)
        k = np.abs(slope) / temperature
        if self.num_actions is not None:
            u = np.linspace(-1.0, 1.0, self.num_actions)
            return temperature * (k + np.log(np.exp(k[..., None] * (u - 1.0)).mean(-1)))
        safe = np.where(k < 1e-4, 1.0, k)
        large = safe + np.log1p(-np.exp(-2.0 * safe)) - np.log(2.0 * safe)
        return temperature * np.where(k < 1e-4, k**2 / 6.0, large)

    def _pairs(self, u: np.ndarray) -> np.ndarray:
        return np.zeros((1, 2))

    def _pair_of(self, states: np.ndarray) -> np.ndarray:
        return self.pairs[np.asarray(states)] if self.by_index else np.asarray(states, dtype=np.float64)

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> tuple[np.ndarray, np.ndarray]:
        """Offset and slope of Q in each state."""
        raise NotImplementedError

    def _num_decisions(self, states: np.ndarray, discount: float) -> np.ndarray:
        """Discounted number of actions from here on."""
        return np.ones(len(states))

    def _bonus(self, temperature: float, flat: bool) -> float:
        return temperature * self.log_volume if flat else 0.0


class ConstantReward(Probe):
    """One step, reward 1."""

    def _after(self, pair: Any, u: float) -> Any:
        return 1.0, pair, True

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return np.ones(len(states)), np.zeros(len(states))


class EndlessReward(Probe):
    """Reward 1 for ever; an episode is truncated after 5 steps, and V is 1 / (1 - discount)."""

    limit = 5

    def _after(self, pair: Any, u: float) -> Any:
        return 1.0, pair, False

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return np.full(len(states), 1.0 / (1.0 - discount)), np.zeros(len(states))

    def _num_decisions(self, states: np.ndarray, discount: float) -> np.ndarray:
        return np.full(len(states), 1.0 / (1.0 - discount))


class StateReward(Probe):
    """One step from x = -1 or 1, reward x."""

    def _pairs(self, u: np.ndarray) -> np.ndarray:
        return np.array([[-1.0, 0.0], [1.0, 0.0]])

    def _first(self) -> tuple[float, float]:
        return (float(self.np_random.choice([-1.0, 1.0])), 0.0)

    def _after(self, pair: Any, u: float) -> Any:
        return pair[0], pair, True

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return self._pair_of(states)[:, 0], np.zeros(len(states))


class DelayedReward(Probe):
    """Two steps, reward 0, then 1."""

    def _pairs(self, u: np.ndarray) -> np.ndarray:
        return np.array([[0.0, 0.0], [0.0, 1.0]])

    def _after(self, pair: Any, u: float) -> Any:
        return pair[1], (0.0, 1.0), pair[1] == 1.0

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return np.where(self._pair_of(states)[:, 1] == 1.0, 1.0, discount), np.zeros(len(states))

    def _num_decisions(self, states: np.ndarray, discount: float) -> np.ndarray:
        return np.where(self._pair_of(states)[:, 1] == 1.0, 1.0, 1.0 + discount)


class ActionReward(Probe):
    """One step, reward u."""

    def _after(self, pair: Any, u: float) -> Any:
        return u, pair, True

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return np.zeros(len(states)), np.ones(len(states))


class MatchingReward(StateReward):
    """One step from x = -1 or 1, reward x u."""

    def _after(self, pair: Any, u: float) -> Any:
        return pair[0] * u, pair, True

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        return np.zeros(len(states)), self._pair_of(states)[:, 0]


class ChoiceReward(Probe):
    """Two steps: the first leads to x = u and gives nothing, the second gives x whatever is done."""

    def __init__(self, actions: str = "discrete", *, states: str = "vector", num_actions: int = 3) -> None:
        if actions == "box" and states == "index":
            raise ValueError("ChoiceReward: after an action of a box there are no finitely many states")
        super().__init__(actions, states=states, num_actions=num_actions)

    def _pairs(self, u: np.ndarray) -> np.ndarray:
        return np.array([[0.0, 0.0], *([x, 1.0] for x in u)])

    def _after(self, pair: Any, u: float) -> Any:
        return (pair[0], pair, True) if pair[1] == 1.0 else (0.0, (u, 1.0), False)

    def _line(self, states: np.ndarray, temperature: float, discount: float) -> Any:
        x, phase = self._pair_of(states).T
        return np.where(phase == 1.0, x, 0.0), np.where(phase == 1.0, 0.0, discount)

    def _num_decisions(self, states: np.ndarray, discount: float) -> np.ndarray:
        return np.where(self._pair_of(states)[:, 1] == 1.0, 1.0, 1.0 + discount)


class RandomReward(ConstantReward):
    """One step, reward 1 + a coin's 0.5 or -0.5."""

    def _after(self, pair: Any, u: float) -> Any:
        return 1.0 + float(self.np_random.choice([-0.5, 0.5])), pair, True


#: All of them.
PROBES: tuple[type[Probe], ...] = (
    ConstantReward,
    EndlessReward,
    StateReward,
    DelayedReward,
    ActionReward,
    MatchingReward,
    ChoiceReward,
    RandomReward,
)
