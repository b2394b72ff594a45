"""From a gymnasium environment to a graph: exact tables where it publishes them, the live environment elsewhere."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import scipy.sparse
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from numpy.typing import NDArray

from cai.data.spaces import GridSpace
from cai.errors import EstimatedInitial, warn_user
from cai.factors.dynamics import TabularDynamics
from cai.factors.environment import Environment
from cai.factors.initial import Categorical
from cai.factors.reward import TabularReward
from cai.graph.trajectory_graph import TrajectoryGraph

#: The wrappers that `gymnasium.make` puts on by itself; none of them changes a transition or a reward. The time limit
#: is the graph's horizon.
_DEFAULT_WRAPPERS = (
    gymnasium.wrappers.PassiveEnvChecker,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.TimeLimit,
    gymnasium.wrappers.RenderCollection,
    gymnasium.wrappers.HumanRendering,
)
#: Tables of up to this many entries S * A * S are made dense, which is quicker; beyond they are sparse.
_DENSE_LIMIT = 2**20
#: How many resets estimate an initial distribution that is not published.
_NUM_RESETS = 1000


def from_gym(
    env_or_id: gymnasium.Env | str,
    *,
    horizon: int | None = None,
    discount: float = 1.0,
    temperature: float = 1.0,
    **make_kwargs: Any,
) -> TrajectoryGraph:
    """Makes a graph of a gymnasium environment.

    Where the environment publishes its tables (`env.unwrapped.P`, as the toy-text environments do) and no wrapper
    beyond gymnasium's own defaults stands before them, dynamics, reward, terminal states and initial distribution are
    exact tables. Otherwise the environment itself stands in the graph, and learning methods can step it.

    Args:
        env_or_id: An environment, or the id of a registered one.
        horizon: Number of actions T, or None for an infinite horizon. The environment's own time limit is not read.
        discount: gamma in [0, 1].
        temperature: alpha >= 0, reward units.
        **make_kwargs: Passed to `gymnasium.make` with an id, such as `is_slippery=False`.

    Returns:
        The graph. A state that is entered both as the end of an episode and not (reachably) has a twin, an extra
        absorbing state at the end of the state space, which takes the endings.

    Raises:
        ValueError: Not an environment, an unknown id, or options that it does not take.
    """
    env = make_environment(env_or_id, make_kwargs)
    options: dict[str, Any] = {"horizon": horizon, "discount": discount, "temperature": temperature}
    tables = _published_tables(env)
    if isinstance(tables, str):
        factor = Environment(env, why_not_tables=tables)
        return TrajectoryGraph(factor, factor, factor, **options)
    probs, rewards, terminal = tables.assembled()
    if isinstance(env_or_id, str):
        env.close()
    return TrajectoryGraph(
        initial=Categorical(np.append(tables.initial, np.zeros(tables.num_extra))),
        dynamics=TabularDynamics(probs, terminal=terminal),
        reward=TabularReward(rewards),
        state_space=_grid(env.unwrapped, tables.num_extra),
        **options,
    )


def make_environment(env_or_id: gymnasium.Env | str, make_kwargs: dict[str, Any]) -> gymnasium.Env:
    """Makes an environment of an id, or takes one that is made.

    Raises:
        ValueError: Neither, an unknown id, or options that do not fit.
    """
    if isinstance(env_or_id, gymnasium.Env):
        if make_kwargs:
            raise ValueError(
                f"from_gym: {next(iter(make_kwargs))!r} is an option for an id, not for an environment made"
            )
        return env_or_id
    if not isinstance(env_or_id, str):
        raise ValueError(f"expected a gymnasium.Env or an id, got {type(env_or_id).__name__}")
    try:
        return gymnasium.make(env_or_id, **make_kwargs)
    except (gymnasium.error.Error, TypeError, KeyError, ValueError, ImportError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"cannot make the environment {env_or_id!r}: {reason}") from error


@dataclass(frozen=True)
class _Published:
    """An environment's own transitions as arrays of one entry a (state, action, outcome), endings redirected."""

    sources: NDArray[np.int64]
    actions: NDArray[np.int64]
    probs: NDArray[np.float64]
    targets: NDArray[np.int64]
    rewards: NDArray[np.float64]
    terminal: NDArray[np.bool_]
    initial: NDArray[np.float64]
    num_actions: int
    num_extra: int

    def assembled(self) -> tuple[Any, Any, NDArray[np.bool_]]:
        """Gives p(s'|s,a), r and the terminal mask, dense or sparse by size."""
        num_states = len(self.terminal)
        rows = self.sources * self.num_actions + self.actions
        extra = np.arange(num_states - self.num_extra, num_states)
        own_rows = (extra[:, None] * self.num_actions + np.arange(self.num_actions)).ravel()
        entries = np.append(self.probs, np.ones(len(own_rows)))
        all_rows = np.append(rows, own_rows)
        all_targets = np.append(self.targets, extra.repeat(self.num_actions))
        shape = (num_states * self.num_actions, num_states)
        probs = scipy.sparse.csr_matrix((entries, (all_rows, all_targets)), shape=shape)
        keys, first = np.unique(rows * num_states + self.targets, return_index=True)
        rewards = scipy.sparse.csr_matrix((self.rewards[first], (keys // num_states, keys % num_states)), shape=shape)
        if num_states * shape[0] > _DENSE_LIMIT:
            return probs, rewards, self.terminal
        dense = (num_states, self.num_actions, num_states)
        return probs.toarray().reshape(dense), rewards.toarray().reshape(dense), self.terminal


def _published_tables(env: gymnasium.Env) -> _Published | str:
    """Reads an environment's tables, or says why there are none to read."""
    unwrapped = env.unwrapped
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if not isinstance(layer, _DEFAULT_WRAPPERS):
            return f"the wrapper {type(layer).__name__} may change the tables that it publishes"
        layer = layer.env
    if not hasattr(unwrapped, "P"):
        return "it publishes no tables (no env.unwrapped.P)"
    spaces = (env.observation_space, env.action_space)
    if not all(isinstance(space, gymnasium.spaces.Discrete) and space.start == 0 for space in spaces):
        return f"its tables are not over discrete spaces that start at 0, but over {spaces[0]} and {spaces[1]}"
    if getattr(unwrapped, "fickle_passenger", False):
        return "with fickle_passenger its steps are not those of the tables that it publishes"
    num_states, num_actions = (int(space.n) for space in spaces)  # type: ignore[attr-defined]
    columns = list(zip(*_entries(unwrapped.P, num_states, num_actions), strict=True))
    sources, actions, targets = (np.array(columns[i], dtype=np.int64) for i in (0, 1, 3))
    probs, rewards, done = (np.array(columns[i]) for i in (2, 4, 5))
    initial = _initial_distribution(env, num_states)
    return _redirected(sources, actions, probs, targets, rewards, done, initial, num_actions)


def _entries(table: Any, num_states: int, num_actions: int) -> list[tuple[int, int, float, int, float, bool]]:
    entries = []
    for s, a in itertools.product(range(num_states), range(num_actions)):
        try:
            outcomes = [(float(p), operator.index(n), float(r), bool(d)) for p, n, r, d in table[s][a] if p != 0]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"from_gym: env.unwrapped.P[{s}][{a}] must be a list of (probability, next state, reward, terminated); "
                f"reading it failed with {type(error).__name__}: {error}"
            ) from error
        for prob, target, reward, done in outcomes:
            if not 0 <= target < num_states or not math.isfinite(reward):
                raise ValueError(
                    f"from_gym: env.unwrapped.P[{s}][{a}] leads to state {target} of {num_states} with reward {reward}"
                )
            entries.append((s, a, prob, target, reward, done))
    return entries


def _redirected(
    sources: NDArray, actions: NDArray, probs: NDArray, targets: NDArray, rewards: NDArray, done: NDArray,
    initial: NDArray, num_actions: int,
) -> _Published | str:  # fmt: skip
    """Finds the terminal states, and sends endings in states that also go on to twins of these states."""
    num_states = len(initial)
    goes_on = _reachable(sources[~done], targets[~done], initial > 0)
    from_there = goes_on[sources]
    ends = np.zeros(num_states, dtype=bool)
    ends[targets[done & from_there]] = True
    both = np.flatnonzero(ends & goes_on)
    anywhere = np.zeros(num_states, dtype=bool)
    anywhere[targets[done]] = True
    terminal = np.append((ends | anywhere) & ~goes_on, np.ones(len(both), dtype=bool))
    twin = np.arange(num_states)
    twin[both] = num_states + np.arange(len(both))
    targets = np.where(done, twin[targets], targets)
    keys = (sources * num_actions + actions) * len(terminal) + targets
    clash = _clash(np.where(terminal[sources], -1 - np.arange(len(keys)), keys), rewards)  # terminal rows are not read
    if clash is not None:
        pair = f"state {sources[clash]}, action {actions[clash]} to state {targets[clash]}"
        return f"the transition ({pair}) pays different rewards at random, which no table of r(s, a, s') can say"
    return _Published(sources, actions, probs, targets, rewards, terminal, initial, num_actions, len(both))


def _reachable(sources: NDArray, targets: NDArray, start: NDArray) -> NDArray[np.bool_]:
    """Finds what can be reached from the start along edges, the start included."""
    num_states = len(start)
    edges = scipy.sparse.csr_matrix((np.ones(len(sources)), (sources, targets)), shape=(num_states, num_states))
    reached, frontier = start.copy(), start.copy()
    while frontier.any():
        frontier = (edges.T @ frontier > 0) & ~reached
        reached |= frontier
    return reached


def _clash(keys: NDArray, rewards: NDArray) -> int | None:
    """Finds an entry whose reward differs from that of another entry with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    different = np.flatnonzero(rewards != rewards[first][inverse])
    return int(different[0]) if len(different) else None


def _initial_distribution(env: gymnasium.Env, num_states: int) -> NDArray[np.float64]:
    for name in ("initial_state_distrib", "isd"):
        published = getattr(env.unwrapped, name, None)
        if published is not None:
            initial = np.asarray(published, dtype=np.float64).ravel()
            if len(initial) != num_states:
                raise ValueError(f"from_gym: env.unwrapped.{name} has {len(initial)} entries for {num_states} states")
            return initial
    starts = [env.reset(seed=0)[0]] + [env.reset()[0] for _ in range(_NUM_RESETS - 1)]
    counts = np.bincount(np.array(starts, dtype=np.int64), minlength=num_states)
    if np.count_nonzero(counts) > 1:
        warn_user(
            f"{env} publishes no initial_state_distrib; it was estimated from {_NUM_RESETS} resets", EstimatedInitial
        )
    return counts / counts.sum()


def _grid(unwrapped: Any, num_extra: int) -> GridSpace | None:
    """Knows the grid worlds of gymnasium, so that their answers can be drawn."""
    if isinstance(unwrapped, FrozenLakeEnv):
        letters = np.asarray(unwrapped.desc)
        (rows, columns), moves = letters.shape, ((0, -1), (1, 0), (0, 1), (-1, 0))
        labels = [letter.decode() for letter in letters.ravel()]
    elif isinstance(unwrapped, CliffWalkingEnv):
        (rows, columns), moves = unwrapped.shape, ((-1, 0), (0, 1), (1, 0), (0, -1))
        labels = ["C" if cliff else "" for cliff in unwrapped._cliff.ravel()]
        labels[unwrapped.start_state_index], labels[-1] = "S", "G"
    else:
        return None
    return GridSpace(rows, columns, range(rows * columns), moves, labels).extended(num_extra)
