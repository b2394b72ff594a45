"""Running policies in dynamics that is a callable, all episodes at once: vectors as states, usually.

    s_0 ~ initial(),   a_t ~ policy(s_t, t),   s_{t+1} ~ dynamics(s_t, a_t),   until terminal(s_t, a_t, s_{t+1})

Where the graph has an observation factor, y_t ~ observation(s_t), the policy is shown y_t in the place of s_t. One
vectorised step per time step: every factor is called on a batch `[N, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from cai.data.trajectories import Trajectories
from cai.errors import NonFinite
from cai.factors.calling import at_time, reward_of_transition
from cai.factors.protocols import Batched
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.simulate.chains import LONGEST_EPISODE
from cai.simulate.seeding import seeded


@dataclass(frozen=True, eq=False)
class CallableSampler:
    """Episodes of a graph whose dynamics is a callable that returns a distribution.

    Attributes:
        graph: The graph.
        act: Gives what the policy says, for states `[N, ...]` at time t: a distribution or actions.
        draw: Draws from a distribution.
    """

    graph: TrajectoryGraph
    act: Callable[[Tensor, int], Any]
    draw: Callable[[Distribution], Tensor]

    def sample(self, num: int, length: int | None) -> Trajectories:
        """Draws N episodes of at most `length` actions; one stops on entering a terminal state.

        Raises:
            ValueError: A factor that returns something else than it should, or an episode that does not end.
            NonFinite: An action, a state or a reward that is NaN or infinite, of a running episode.
        """
        ends = getattr(self.graph.dynamics, "terminal", None)
        reward_of = reward_of_transition(self.graph.reward)
        state = start(self.graph, num)
        _check_finite(state, "initial gave a state", 0, torch.arange(num, device=state.device))
        running = torch.ones(num, dtype=torch.bool, device=state.device)
        lengths = torch.zeros(num, dtype=torch.int64, device=state.device)
        states, actions, rewards = [state], list[Tensor](), list[Tensor]()
        seen = [self._observed(state, 0)]
        while running.any() and (length is None or len(actions) < length):
            t = len(actions)
            if t >= LONGEST_EPISODE:
                raise ValueError(f"rollout: an episode has not ended after {LONGEST_EPISODE:,} steps; give length=")
            going = running.nonzero()[:, 0]
            action = self._actions(state, seen[-1], t)
            here, there = state[going], action[going]
            _check_finite(there, "the policy gave an action", t, going)
            arrived = next_states(self.graph, here, there, t, self.draw)
            _check_finite(arrived, "dynamics gave a next state", t, going)
            reward = one_each(reward_of(t, here, there, arrived), len(going), "reward")
            _check_finite(reward, "reward gave a value", t, going)
            dtype = torch.promote_types(state.dtype, arrived.dtype)
            state = state.to(dtype).index_copy(0, going, arrived.to(dtype))
            actions.append(torch.zeros_like(action).index_copy(0, going, there))
            rewards.append(torch.zeros(num, dtype=reward.dtype, device=state.device).index_copy(0, going, reward))
            states.append(state)
            seen.append(self._observed(state, t + 1))
            lengths += running
            if callable(ends):
                over = one_each(ends(here, there, arrived), len(going), "dynamics.terminal")
                running = running.index_copy(0, going, ~over.bool())
        missing = (length or len(actions)) - len(actions)
        return Trajectories(
            states=torch.stack([visited.to(state.dtype) for visited in states] + [state] * missing, 1),
            actions=torch.stack(actions + [torch.zeros_like(actions[0])] * missing, 1),
            rewards=torch.stack(rewards + [torch.zeros_like(rewards[0])] * missing, 1),
            lengths=lengths,
            terminated=~running,
            observations=None if self.graph.observation is None else torch.stack(seen + [seen[-1]] * missing, 1),
        )

    def _observed(self, state: Tensor, t: int) -> Tensor:
        """What a policy is shown of states `[N, ...]`: an observation, or the states themselves."""
        if self.graph.observation is None:
            return state
        made = at_time(self.graph.observation, t)(state)
        if not isinstance(made, Distribution):
            raise ValueError(f"rollout: observation must return a distribution, got {type(made).__name__}")
        seen = self.draw(made)
        if seen.shape[:1] != state.shape[:1]:
            raise ValueError(f"rollout: observation gave {list(seen.shape)} for states {list(state.shape)}")
        return seen

    def _actions(self, state: Tensor, seen: Tensor, t: int) -> Tensor:
        """Gives actions `[N, ...]`; a policy that gives one distribution or action for all states means it for each."""
        choice, num, space = self.act(seen, t), len(state), self.graph.action_space
        shape = None if space is None else torch.Size(space.shape or ())
        if isinstance(choice, Distribution):
            drawn = choice.batch_shape + choice.event_shape
            single = drawn == shape if shape is not None else drawn[:1] != (num,)
            action = self.draw(choice.expand((num, *choice.batch_shape)) if single else choice)
        else:
            action = torch.as_tensor(choice, device=state.device)
            if action.shape == (() if shape is None else shape):
                action = action.expand(num, *action.shape)
        if action.shape[:1] != (num,) or (shape is not None and action.shape[1:] != shape):
            expected = f"[{num}, ...]" if shape is None else str([num, *shape])
            raise ValueError(
                f"rollout: the policy gave actions {list(action.shape)} for states {list(state.shape)}, not {expected}"
            )
        both_floating = action.is_floating_point() and state.is_floating_point()
        return action.to(state) if both_floating else action


def next_states(
    graph: TrajectoryGraph,
    state: Tensor,
    action: Tensor,
    t: int,
    draw: Callable[[Distribution], Tensor],
    *,
    caller: str = "rollout",
) -> Tensor:
    """Draws next states, `[N, ...]`, of states `[N, ...]` and actions `[N, ...]` at time t.

    Raises:
        ValueError: Dynamics that gives no distribution, or next states of another shape than the states.
    """
    try:
        made = at_time(graph.dynamics, t)(state, action)
    except ValueError as error:
        raise ValueError(f"{caller}: dynamics at time step {t}: {error}") from error
    if not isinstance(made, Distribution):
        raise ValueError(
            f"{caller}: dynamics must return a distribution, got {type(made).__name__}; "
            "cai.factors.DifferentiableDynamics makes one of a function of tensors"
        )
    following = draw(made)
    if following.shape != state.shape:
        raise ValueError(f"{caller}: dynamics gave next states {list(following.shape)} for states {list(state.shape)}")
    return following


def start(graph: TrajectoryGraph, num: int, *, caller: str = "rollout") -> Tensor:
    """Draws first states, `[N, ...]`.

    Raises:
        ValueError: A graph with batch dimensions, or an initial factor that gives no distribution.
    """
    for slot in ("initial", "dynamics", "reward", "action_prior", "observation"):
        factor = getattr(graph, slot)
        if isinstance(factor, Batched) and not isinstance(factor, Distribution) and factor.batch_shape:
            raise ValueError(
                f"{caller}: {slot} has batch dimensions {list(factor.batch_shape)}; run the graphs of a batch one "
                "by one"
            )
    initial = graph.initial if isinstance(graph.initial, Distribution) else graph.initial()
    if not isinstance(initial, Distribution):
        raise ValueError(f"{caller}: initial must give a distribution, got {type(initial).__name__}")
    return initial.sample((num,))


def first_state(graph: TrajectoryGraph) -> Tensor:
    """Draws one first state, which tells shape, type and device; no seed is used up."""
    with seeded(None):
        return start(graph, 1)[0]


def with_state_space(graph: TrajectoryGraph) -> TrajectoryGraph:
    """Gives a graph without a state space the unbounded box of its first state: policies tell states from batches."""
    if graph.state_space is not None:
        return graph
    state = first_state(graph)
    if not state.is_floating_point():
        return graph
    return graph.replace(state_space=gymnasium.spaces.Box(-np.inf, np.inf, tuple(state.shape), np.float64))


def one_each(values: Any, num: int, slot: str, *, caller: str = "rollout") -> Tensor:
    """Reads what a factor gave for N states as `[N]`; raises ValueError where it gave another number."""
    tensor = torch.as_tensor(values)
    if tensor.shape not in ((), (num,)):
        raise ValueError(f"{caller}: {slot} must give one value for each of {num} states, got {list(tensor.shape)}")
    return tensor.expand(num)


def _check_finite(values: Tensor, what: str, t: int, episodes: Tensor) -> None:
    if not values.is_floating_point():
        return
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else ~torch.isfinite(values)
    if bad.any():
        raise NonFinite(
            f"rollout: {what} that is not finite at time step {t} of episode {int(episodes[bad][0])}: "
            f"{values[bad][0].tolist()}"
        )
