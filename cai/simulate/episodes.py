"""`rollout`: run a policy in a graph's dynamics, or in a gymnasium environment."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from cai.data.trajectories import Trajectories
from cai.factors.checks import state_index
from cai.factors.protocols import Stepped, TabulatedDynamics
from cai.graph.environments import make_environment
from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.ops.readings import Kernel
from cai.ops.sampling import sample_index
from cai.ops.threads import threads_for
from cai.simulate.callables import CallableSampler, first_state, with_state_space
from cai.simulate.chains import LONGEST_EPISODE, ChainSampler
from cai.simulate.seeding import seeded


def rollout(
    graph_or_env: TrajectoryGraph | gymnasium.Env | str,
    policy: Any,
    num_episodes: int,
    *,
    seed: int | None = None,
    length: int | None = None,
) -> Trajectories:
    """Runs a policy and returns what happened.

    In tables, and in dynamics that is a callable, the true dynamics is sampled, all episodes at once; a posterior over
    trajectories with tilted dynamics is sampled by `posterior.sample` instead. In an environment episodes run one after
    another, reset with seed, seed + 1, ... A terminal reward is not among the rewards. Actions reach a callable as the
    policy gives them: limits of the action space are the policy's business. Where the graph has an observation factor
    the policy is shown observations in the place of states, and they are recorded.

    Args:
        graph_or_env: A graph, an environment, or an environment's id.
        policy: A posterior, a policy (`policy(state, t)` gives a distribution or an action, of states `[N, ...]` where
            all episodes run at once), or one with `bind(graph)`, such as `cai.plan.BeliefPolicy`.
        num_episodes: Number of episodes N.
        seed: The seed; None takes fresh entropy.
        length: The most actions an episode may take; by default the graph's horizon, or the environment's own limit.

    Returns:
        N episodes. Padding follows where one ended early.

    Raises:
        ValueError: Nothing ends an episode and no length is given; a bad number of episodes; a graph with batch
            dimensions.
        NonFinite: Callable dynamics, reward or policy gave NaN or infinity: at which time step.
    """
    for name, number in (("num_episodes", num_episodes), ("length", length)):
        if number is not None and (not isinstance(number, numbers.Integral) or number < 1):
            raise ValueError(f"rollout: {name} must be a whole number of at least 1, got {number}")
    if not isinstance(graph_or_env, TrajectoryGraph):
        graph_or_env = make_environment(graph_or_env, {})
    elif not isinstance(graph_or_env.dynamics, Stepped | TabulatedDynamics):
        graph_or_env = _with_callable_dynamics(graph_or_env)
    act = _as_callable(policy, graph_or_env)
    if isinstance(graph_or_env, gymnasium.Env):
        return _in_environment(graph_or_env, act, num_episodes, seed, length)
    if length is None:
        length = graph_or_env.horizon
    if isinstance(graph_or_env.dynamics, Stepped):
        return _in_environment(graph_or_env.dynamics.env, act, num_episodes, seed, length)
    if isinstance(graph_or_env.dynamics, TabulatedDynamics):
        return _in_tables(graph_or_env, act, num_episodes, seed, length)
    return _in_callable(graph_or_env, act, num_episodes, seed, length)


def drawn(choice: Any, generator: torch.Generator) -> Tensor:
    """Draws from what a policy returned: a distribution, or an action itself."""
    if isinstance(choice, torch.distributions.Categorical):
        return sample_index(choice.probs, generator)
    if isinstance(choice, torch.distributions.Distribution):
        return choice.sample()
    return torch.as_tensor(choice)


def _as_callable(policy: Any, world: Any) -> Callable[[Any, int], Any]:
    if hasattr(policy, "bind"):
        policy = policy.bind(world)
    act = getattr(policy, "policy", policy)  # a posterior has a policy
    if act is not policy and getattr(world, "observation", None) is not None:
        raise ValueError(
            "rollout: the graph's states are hidden behind its observation factor, and a posterior's policy is one of "
            "states; wrap the posterior in cai.plan.BeliefPolicy, or show it the states: replace(observation=None)"
        )
    if not callable(act):
        raise ValueError(f"rollout: the policy must be callable as policy(state, t), got {type(policy).__name__}")
    return act


def _in_tables(graph: TrajectoryGraph, act: Any, num: int, seed: int | None, length: int | None) -> Trajectories:
    tables = tabulate(graph)
    if length is not None and len(tables.steps) > 1 and length > len(tables.steps):
        raise ValueError(f"rollout: length {length} is beyond the {len(tables.steps)} steps of the graph's tables")
    if length is None and not tables.terminal.any():
        raise ValueError("rollout: the horizon is infinite and no state is terminal; give length=")
    with seeded(seed, tables.initial.device) as generator, torch.no_grad(), threads_for(tables.num_entries):
        sampler = ChainSampler(
            tables,
            tables.initial / tables.initial.sum(),
            lambda state, t: _actions(drawn(act(state, t), generator), state, tables.num_actions),
            lambda t: Kernel(tables.step(t).transitions),
        )
        return sampler.sample(num, length, generator)


def _with_callable_dynamics(graph: TrajectoryGraph) -> TrajectoryGraph:
    if not callable(graph.dynamics):
        raise ValueError(
            f"rollout: cannot run {type(graph.dynamics).__name__}; it has neither tables nor an environment, and is no "
            "callable that gives a distribution"
        )
    return with_state_space(graph)


def _in_callable(graph: TrajectoryGraph, act: Any, num: int, seed: int | None, length: int | None) -> Trajectories:
    for slot in ("dynamics", "reward"):
        num_steps = getattr(getattr(graph, slot), "num_steps", None)
        if length is not None and num_steps is not None and length > num_steps:
            raise ValueError(f"rollout: length {length} is beyond the {num_steps} steps of the graph's {slot}")
    num_times = getattr(graph.observation, "num_times", None)
    if length is not None and num_times is not None and length >= num_times > 1:
        raise ValueError(f"rollout: length {length} is beyond the {num_times} times of the graph's observation")
    if length is None and not callable(getattr(graph.dynamics, "terminal", None)):
        raise ValueError("rollout: the horizon is infinite and the dynamics ends no episode; give length=")
    with seeded(seed, first_state(graph).device) as generator, torch.no_grad():
        return CallableSampler(graph, act, lambda choice: drawn(choice, generator)).sample(num, length)


def _actions(actions: Tensor, state: Tensor, num_actions: int) -> Tensor:
    index = state_index(actions, num_actions, "rollout: action").to(state.device)
    if index.shape not in ((), state.shape):
        raise ValueError(f"rollout: the policy gave actions {list(index.shape)} for states {list(state.shape)}")
    return index.expand(state.shape)


def _in_environment(env: gymnasium.Env, act: Any, num: int, seed: int | None, length: int | None) -> Trajectories:
    with seeded(seed, "cpu") as generator, torch.no_grad():
        episodes = [_episode(env, act, None if seed is None else int(seed) + n, length, generator) for n in range(num)]
    longest = max(len(episode["rewards"]) for episode in episodes)
    return Trajectories(
        states=_padded([episode["states"] for episode in episodes], longest + 1),
        actions=_padded([episode["actions"] for episode in episodes], longest),
        rewards=_padded([episode["rewards"] for episode in episodes], longest),
        lengths=torch.tensor([len(episode["rewards"]) for episode in episodes]),
        terminated=torch.tensor([episode["terminated"] for episode in episodes]),
    )


def _episode(
    env: gymnasium.Env, act: Any, seed: int | None, length: int | None, generator: torch.Generator
) -> dict[str, Any]:
    state, _ = env.reset(seed=seed)
    states: list[Any] = [state]
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated) and (length is None or len(rewards) < length):
        if len(rewards) >= LONGEST_EPISODE:
            raise ValueError(f"rollout: an episode has not ended after {LONGEST_EPISODE:,} steps; give length=")
        action = drawn(act(state, len(rewards)), generator).cpu().numpy()
        discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
        state, reward, terminated, truncated, _ = env.step(int(action) if discrete else action)
        states.append(state)
        actions.append(action)
        rewards.append(float(reward))
    return {"states": states, "actions": actions, "rewards": rewards, "terminated": bool(terminated)}


def _padded(sequences: list[list[Any]], length: int) -> Tensor:
    arrays = [np.asarray(sequence) for sequence in sequences]
    padded = [np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)]) for array in arrays]
    return torch.as_tensor(np.stack(padded))
