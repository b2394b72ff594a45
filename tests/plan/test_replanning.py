"""Receding horizon: what is planned when, from where, and from which first guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.plan import ReplanningPolicy, WarmStartable, mean_action, sampled_action


@dataclass(frozen=True, eq=False)
class Plan(cai.Posterior):
    """Pushes with the method's bias at each step, more by 10 for every step that the plan is old."""

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Distribution:
        state = torch.as_tensor(state)
        mean = state[..., :1] + 10.0 * t + self.method.bias
        return torch.distributions.Independent(torch.distributions.Normal(mean, 0.1), 1)

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> cai.Trajectories:
        raise NotImplementedError


@dataclass(frozen=True)
class Planner(cai.AbstractMethod):
    """Plans nothing, and notes what it was asked: (start, horizon, seed, warm-started by how many steps)."""

    bias: float = 0.0
    shift: int | None = None
    asked: list[tuple[Tensor, int | None, int | None, int | None]] = field(default_factory=list)

    def accepts(self, graph: Any) -> None:
        assert isinstance(graph.initial, cai.factors.Delta)

    def init(self, graph: Any, seed: int | None) -> Any:
        self.asked.append((graph.initial.value, graph.horizon, seed, self.shift))

    def is_done(self, state: Any) -> bool:
        return True

    def posterior(self, graph: Any, state: Any, seconds: float) -> Plan:
        return Plan(graph, self, cai.Stats())

    def warm_started(self, posterior: Plan, *, shift: int = 1) -> Planner:
        return dataclasses.replace(self, shift=shift)

    def step(self, graph: Any, state: Any) -> Any: ...
    def progress(self, state: Any, seconds: float) -> Any: ...
    def restore(self, state: Any, checkpoint: Any) -> Any: ...


def drift(state: Tensor, action: Tensor) -> Tensor:
    return state + 0.0 * action


def vectors(bound: float = 1e6, **changes: Any) -> cai.TrajectoryGraph:
    """States `[2]` that stay where they are, actions `[1]`."""
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(torch.zeros(2, dtype=torch.float64)),
        dynamics=cai.factors.DifferentiableDynamics(drift, state_size=2, action_size=1),
        reward=cai.factors.FunctionReward(lambda state, action: -state.square().sum(-1)),
        action_space=gymnasium.spaces.Box(-bound, bound, (1,), np.float64),
        **{"horizon": 5, **changes},
    )


def run(policy: Callable[..., Tensor], states: list, start: int = 0) -> list[float]:
    return [float(policy(torch.tensor(state), t)) for t, state in enumerate(states, start)]


STATES = [[float(k), 0.0] for k in range(1, 8)]


def test_plans_at_every_step_from_the_state_at_hand_and_acts_by_the_first_action() -> None:
    method = Planner(bias=0.5)
    policy = ReplanningPolicy(vectors(), method).bind(vectors())
    assert run(policy, STATES) == [k + 0.5 for k in range(1, 8)]
    assert [start.tolist() for start, *_ in method.asked] == STATES
    assert [horizon for _, horizon, *_ in method.asked] == [5] * 7
    assert [shift for *_, shift in method.asked] == [None, 1, 1, 1, 1, 1, 1]


def test_follows_each_plan_for_as_many_steps_as_asked() -> None:
    method = Planner()
    policy = ReplanningPolicy(vectors(), method, replan_every=3).bind(vectors())
    assert run(policy, STATES) == [1.0, 12.0, 23.0, 4.0, 15.0, 26.0, 7.0]
    assert [shift for *_, shift in method.asked] == [None, 3, 3]


def test_a_plan_shorter_than_the_steps_between_plans_is_followed_to_its_end() -> None:
    method = Planner()
    policy = ReplanningPolicy(vectors(), method, horizon=2, replan_every=5).bind(vectors())
    assert run(policy, STATES) == [1.0, 12.0, 3.0, 14.0, 5.0, 16.0, 7.0]


@pytest.mark.parametrize(
    ("options", "horizons"),
    [
        ({}, [5, 5, 5, 5, 5, 5, 5]),
        ({"horizon": 3}, [3, 3, 3, 3, 3, 3, 3]),
        ({"horizon": 3, "end": 7}, [3, 3, 3, 3, 3, 2, 1]),
        ({"end": 7}, [5, 5, 5, 4, 3, 2, 1]),
        ({"horizon": 7, "end": 7, "replan_every": 3}, [7, 4, 1]),
    ],
)
def test_how_far_plans_look(options: dict, horizons: list[int]) -> None:
    method = Planner()
    run(ReplanningPolicy(vectors(), method, **options).bind(vectors()), STATES)
    assert [horizon for _, horizon, *_ in method.asked] == horizons


def test_a_graph_without_horizon_is_planned_without_or_up_to_the_end() -> None:
    method = Planner()
    run(ReplanningPolicy(vectors(horizon=None), method).bind(vectors()), STATES[:2])
    run(ReplanningPolicy(vectors(horizon=None), method, end=4).bind(vectors()), STATES[:2])
    assert [horizon for _, horizon, *_ in method.asked] == [None, None, 4, 3]


def test_no_action_after_the_end() -> None:
    with pytest.raises(ValueError, match="action at time 3, the episode ends at 3"):
        run(ReplanningPolicy(vectors(), Planner(), end=3), STATES)


def test_time_zero_and_a_bind_forget_and_a_direct_call_never_remembers() -> None:
    method = Planner()
    policy = ReplanningPolicy(vectors(), method, replan_every=2)
    bound = policy.bind(vectors())
    for _ in range(2):
        assert run(bound, STATES[:2]) == [1.0, 12.0]
    assert run(policy.bind(vectors()), STATES[1:3], start=1) == [2.0, 13.0]
    assert [policy(torch.tensor(STATES[t]), t).item() for t in range(3)] == [1.0, 2.0, 3.0]
    assert [shift for *_, shift in method.asked] == [None] * 6


def test_another_batch_is_another_plan() -> None:
    method = Planner()
    bound = ReplanningPolicy(vectors(), method, replan_every=3).bind(vectors())
    one, three = torch.ones(2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    assert bound(three, 0).shape == (3, 1) and bound(three, 1).tolist() == [[11.0]] * 3
    assert bound(one, 2).tolist() == [1.0]
    assert [tuple(start.shape) for start, *_ in method.asked] == [(3, 2), (2,)]
    assert [shift for *_, shift in method.asked] == [None, None]


def test_a_method_that_cannot_be_warm_started_plans_from_nothing() -> None:
    assert isinstance(Planner(), WarmStartable)
    assert not isinstance(cai.SoftValueIteration(), WarmStartable)


def test_seeds_differ_from_plan_to_plan_and_repeat_from_run_to_run() -> None:
    def seeds(seed: int | None, rollout_seed: int = 0) -> list[int | None]:
        method = Planner()
        cai.rollout(Plain(), ReplanningPolicy(vectors(), method, seed=seed), 2, seed=rollout_seed)
        return [number for _, _, number, _ in method.asked]

    assert len(set(seeds(3))) == 8 and seeds(3) == seeds(3, rollout_seed=1) != seeds(4)
    assert len(set(seeds(None))) == 8 and seeds(None) == seeds(None) != seeds(None, rollout_seed=1)


def test_draws_where_asked_to_and_keeps_to_the_bounds_of_the_actions() -> None:
    world = vectors()
    bound = ReplanningPolicy(world, Planner(), choose=sampled_action).bind(world)
    draws = bound(torch.ones(1000, 2, dtype=torch.float64), 0)
    assert abs(draws.mean() - 1.0) < 5 * 0.1 / 1000**0.5 and 0.08 < draws.std() < 0.12
    limited = ReplanningPolicy(vectors(bound=1.5), Planner())
    assert limited(torch.tensor([[-9.0, 0.0], [1.0, 0.0], [9.0, 0.0]])).tolist() == [[-1.5], [1.0], [1.5]]


def test_mean_action_of_finitely_many_is_the_most_probable() -> None:
    choice = torch.distributions.Categorical(probs=torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]))
    assert mean_action(choice).tolist() == [1, 0]


class Still(gymnasium.Env):
    """Shows (cos, sin, speed) in float32, and stays; four steps an episode."""

    observation_space = gymnasium.spaces.Box(-8.0, 8.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        self.actions: list[np.ndarray] = []
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(action)
        return self._seen(), 0.0, False, len(self.actions) == 4, {}

    def _seen(self) -> np.ndarray:
        return np.array([np.cos(0.5), np.sin(0.5), 0.25], dtype=np.float32)


class Plain(Still):
    """The same, showing (angle, speed)."""

    observation_space = gymnasium.spaces.Box(-8.0, 8.0, (2,), np.float32)

    def _seen(self) -> np.ndarray:
        return np.array([0.5, 0.25], dtype=np.float32)


def angle(observation: Tensor) -> Tensor:
    return torch.stack([torch.atan2(observation[..., 1], observation[..., 0]), observation[..., 2]], -1)


def test_in_an_environment_whose_observations_are_not_the_states() -> None:
    method, world = Planner(), Still()
    cai.rollout(world, ReplanningPolicy(vectors(), method, state_of=angle), 2, seed=0)
    assert all(start.dtype == torch.float64 for start, *_ in method.asked)
    np.testing.assert_allclose(torch.stack([start for start, *_ in method.asked]), [[0.5, 0.25]] * 8, atol=1e-7)
    assert [action.dtype for action in world.actions] == [np.float32] * 4  # as the environment wants them
    assert [shift for *_, shift in method.asked] == [None, 1, 1, 1] * 2  # each episode starts anew


def test_a_world_of_other_states_or_actions_is_refused() -> None:
    policy = ReplanningPolicy(vectors(), Planner())
    with pytest.raises(ValueError, match="the model's states are Box.*; give state_of="):
        cai.rollout(Still(), policy, 1, seed=0)
    cai.rollout(Plain(), policy, 1, seed=0)
    with pytest.raises(ValueError, match="the model's actions are Box.*, the world's Discrete"):
        cai.rollout("CartPole-v1", policy, 1, seed=0)
    with pytest.raises(ValueError, match=r"states are \[2\], got \[3\] from state_of"):
        cai.rollout(Still(), ReplanningPolicy(vectors(), Planner(), state_of=lambda seen: seen), 1, seed=0)


def test_a_world_that_hides_its_states_is_refused() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    hidden = vectors().replace(observation=cai.factors.LinearGaussianObservation(eye, eye))
    with pytest.raises(ValueError, match="hidden behind its observation"):
        cai.rollout(hidden, ReplanningPolicy(vectors(), Planner()), 1, seed=0)
    guess = ReplanningPolicy(vectors(), Planner(), state_of=lambda seen: seen)
    assert cai.rollout(hidden, guess, 3, seed=0).actions.shape == (3, 5, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"end": 2.5}, "end must be a whole number"),
        ({"replan_every": None}, "replan_every must be a whole number"),
        ({"graph": "pendulum"}, "graph must be a TrajectoryGraph, got str"),
        ({"method": cai.SumProduct}, "expected a method such as"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    arguments = {"graph": vectors(), "method": Planner(), **options}
    with pytest.raises(ValueError, match=message):
        ReplanningPolicy(arguments.pop("graph"), arguments.pop("method"), **arguments)


def test_graphs_that_change_with_absolute_time_are_refused() -> None:
    maze = cai.load_model("gridworld", horizon=3)
    slowly = cai.factors.TabularReward.per_step(torch.zeros(3, maze.dynamics.num_states, dtype=torch.float64))
    with pytest.raises(ValueError, match="the reward changes with time"):
        ReplanningPolicy(maze.replace(reward=slowly), cai.MaxProduct())
    moving = cai.factors.FunctionReward(lambda state, action, t: t * state[..., 0], time_varying=True)
    with pytest.raises(ValueError, match="the reward changes with time"):
        ReplanningPolicy(vectors().replace(reward=moving), Planner())
    with pytest.raises(ValueError, match="evidence at given times"):
        ReplanningPolicy(maze.condition(states={2: 4}), cai.MaxProduct())


# In tables: every answer is exact, so that planning again up to the end changes nothing.


@pytest.mark.parametrize("every", [1, 3])
def test_replanning_up_to_the_end_is_the_first_plan_in_tables(every: int) -> None:
    maze = cai.load_model("gridworld", slip=0.3, horizon=6, temperature=0.3)
    exact = cai.infer(maze, cai.SoftValueIteration())
    policy = ReplanningPolicy(maze, cai.SoftValueIteration(), end=6, replan_every=every).bind(maze)
    states = torch.arange(maze.dynamics.num_states)
    for t in range(6):
        best = exact.policy(states, t).probs
        chosen = best.gather(-1, policy(states, t)[:, None])[:, 0]
        torch.testing.assert_close(chosen, best.max(-1).values, rtol=0, atol=1e-12)


def test_batches_of_discrete_states_are_planned_each_from_its_own() -> None:
    """The most probable trajectory is a plan for its own start only."""
    maze = cai.load_model("gridworld", horizon=12, temperature=0.1)
    policy = ReplanningPolicy(maze, cai.MaxProduct())
    states = torch.tensor([[0, 5, 0], [7, 5, 9]])
    together = policy(states)
    assert together.shape == (2, 3) and together.dtype == torch.int64
    assert together.tolist() == [[int(policy(state)) for state in row] for row in states]


def test_an_episode_in_tables_and_in_its_environment() -> None:
    maze = cai.load_model("gridworld", horizon=15, temperature=0.05)
    done = cai.rollout(maze, ReplanningPolicy(maze, cai.MaxProduct()), 4, seed=0)
    assert done.terminated.all() and done.lengths.tolist() == [10] * 4  # the shortest way to the far goal
    lake = cai.from_gym("FrozenLake-v1", horizon=12, temperature=0.01, is_slippery=False)
    policy = ReplanningPolicy(lake, cai.SoftValueIteration(), replan_every=4)
    done = cai.rollout(gymnasium.make("FrozenLake-v1", is_slippery=False), policy, 2, seed=0)
    assert done.returns().tolist() == [1.0, 1.0] and done.lengths.tolist() == [6, 6]


# Linear-quadratic: the feedback law of the first plan is exact, so that planning again gives the same actions.


def regulator(horizon: int | None = 12) -> cai.TrajectoryGraph:
    """A noisy point mass that is pushed towards the origin."""
    return cai.TrajectoryGraph(
        initial=cai.factors.Gaussian(torch.zeros(2), torch.eye(2)),
        dynamics=cai.factors.LinearGaussianDynamics(
            [[1.0, 0.1], [0.0, 1.0]], [[0.005], [0.1]], 0.01 * torch.eye(2, dtype=torch.float64)
        ),
        reward=cai.factors.QuadraticReward(torch.eye(2), [[0.1]]),
        terminal_reward=cai.factors.QuadraticReward(5 * torch.eye(2)),
        horizon=horizon,
        temperature=0.1,
    )


def feedback(posterior: cai.Posterior) -> Callable[..., Tensor]:
    return lambda state, t: posterior.policy(state, t).mean


@pytest.mark.parametrize("method", [cai.SoftValueIteration(), cai.SumProduct()], ids=["fixed", "posterior"])
def test_replanning_up_to_the_end_is_the_feedback_law(method: cai.AbstractMethod) -> None:
    world = regulator()
    law = feedback(cai.infer(world, method))
    again = cai.rollout(world, ReplanningPolicy(world, method, end=12), 20, seed=0)
    followed = cai.rollout(world, law, 20, seed=0)
    torch.testing.assert_close(again.actions, followed.actions, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again.states, followed.states, rtol=1e-9, atol=1e-9)


def test_a_receding_horizon_is_the_first_gain_and_far_enough_the_stationary_one() -> None:
    world = regulator()
    states = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for horizon in (3, 12):
        first = cai.infer(world.replace(horizon=horizon), cai.SoftValueIteration())
        policy = ReplanningPolicy(world, cai.SoftValueIteration(), horizon=horizon).bind(world)
        for t in (0, 1, 50):
            torch.testing.assert_close(policy(states, t), first.policy(states, 0).mean, rtol=1e-12, atol=1e-12)
    stationary = cai.infer(world.replace(horizon=None, terminal_reward=None), cai.SoftValueIteration())
    far = ReplanningPolicy(world, cai.SoftValueIteration(), horizon=300)
    torch.testing.assert_close(far(states), stationary.policy(states).mean, rtol=1e-9, atol=1e-9)


def test_following_a_plan_by_its_feedback_is_replanning_where_the_plan_is_exact() -> None:
    world = regulator()
    every = [ReplanningPolicy(world, cai.SoftValueIteration(), end=12, replan_every=k) for k in (1, 4)]
    one, four = (cai.rollout(world, policy, 5, seed=1) for policy in every)
    torch.testing.assert_close(one.actions, four.actions, rtol=1e-9, atol=1e-9)
