"""Running policies in dynamics that is a callable: moments, seeds, ends, times, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import cai

F = cai.factors
Normal = torch.distributions.Normal
A, B = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.5]])
NOISE = np.array([[0.02, 0.01], [0.01, 0.05]])
GAIN, SPREAD = np.array([[-0.4, -0.6]]), np.array([[0.3]])
POLICY = F.LinearGaussianPolicy(GAIN, [0.2], SPREAD)


def graph(**changes: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Gaussian([1.0, -1.0], [[0.3, 0.1], [0.1, 0.2]]),
        "dynamics": F.LinearGaussianDynamics(A, B, NOISE, offset=[0.1, 0.0]),
        "reward": F.QuadraticReward(np.eye(2), [[0.5]], q=[1.0, 0.0]),
        "terminal_reward": F.QuadraticReward(1e6 * np.eye(2)),
        "horizon": 6,
    }
    return cai.TrajectoryGraph(**(parts | changes))


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [NOISE, np.diag([0.0, 0.05]), None], ids=["full", "singular", "none"])
def test_moments_are_those_of_the_closed_loop(noise: Any) -> None:
    """Means and covariances by hand, within five standard errors, at every step."""
    num = 20_000
    dynamics = F.LinearGaussianDynamics(A, B, noise, offset=[0.1, 0.0])
    drawn = cai.rollout(graph(dynamics=dynamics), POLICY, num, seed=0)
    assert drawn.states.shape == (num, 7, 2)
    assert drawn.actions.shape == (num, 6, 1)
    mean, covariance = np.array([1.0, -1.0]), np.array([[0.3, 0.1], [0.1, 0.2]])
    closed = A + B @ GAIN
    for t in range(7):
        states = drawn.states[:, t].numpy()
        spread = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2)
        assert (np.abs(states.mean(0) - mean) < 5 * np.sqrt(covariance.diagonal() / num)).all()
        assert (np.abs(np.cov(states.T) - covariance) < 5 * spread / np.sqrt(num)).all()
        mean = closed @ mean + 0.2 * B[:, 0] + [0.1, 0.0]
        covariance = closed @ covariance @ closed.T + B @ SPREAD @ B.T + (0.0 if noise is None else noise)


def test_rewards_are_of_each_step_and_the_end_is_not_among_them() -> None:
    drawn = cai.rollout(graph(), POLICY, 50, seed=0)
    expected = graph().reward(drawn.states[:, :-1], drawn.actions)
    torch.testing.assert_close(drawn.rewards, expected)
    assert drawn.lengths.tolist() == [6] * 50
    assert drawn.truncated.all()


def test_without_noise_every_step_is_the_dynamics() -> None:
    certain = graph(dynamics=F.LinearGaussianDynamics(A, B), initial=F.Delta([1.0, 2.0]))
    drawn = cai.rollout(certain, F.LinearGaussianPolicy(GAIN), 3, seed=0)
    assert (drawn.states == drawn.states[:1]).all()
    expected = drawn.states[:, :-1] @ torch.as_tensor(A + B @ GAIN).mT
    torch.testing.assert_close(drawn.states[:, 1:], expected)


def test_a_differentiable_dynamics_is_its_linear_twin() -> None:
    def step(state: Tensor, action: Tensor) -> Tensor:
        return state @ torch.as_tensor(A).mT + action @ torch.as_tensor(B).mT + torch.tensor([0.1, 0.0])

    twin = graph(
        dynamics=F.DifferentiableDynamics(step, NOISE, action_size=1),
        reward=F.FunctionReward(lambda x, u: -0.5 * (x.square().sum(-1) + 0.5 * u.square().sum(-1)) - x[..., 0]),
    )
    first, second = (cai.rollout(made, POLICY, 20, seed=4) for made in (graph(), twin))
    torch.testing.assert_close(first.states, second.states)
    torch.testing.assert_close(first.rewards, second.rewards)


def test_steps_that_differ_are_told_the_time() -> None:
    scales = np.array([1.0, 10.0, 100.0])
    made = cai.TrajectoryGraph(
        F.Delta([1.0]),
        F.LinearGaussianDynamics.per_step(scales[:, None, None], np.ones((1, 1, 1))),
        F.QuadraticReward.per_step(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), constant=[1.0, 2.0, 3.0]),
        horizon=3,
    )
    policy = F.LinearGaussianPolicy.per_step(np.zeros((1, 1, 1)), offset=[[0.0], [1.0], [2.0]])
    drawn = cai.rollout(made, policy, 2, seed=0)
    assert drawn.states[..., 0].tolist() == [[1.0, 1.0, 11.0, 1102.0]] * 2
    assert drawn.rewards.tolist() == [[1.0, 2.0, 3.0]] * 2
    assert cai.rollout(made, policy, 2, seed=0, length=2).rewards.tolist() == [[1.0, 2.0]] * 2
    with pytest.raises(ValueError, match="length 4 is beyond the 3 steps of the graph's dynamics"):
        cai.rollout(made, policy, 2, length=4)
    timed = made.replace(
        dynamics=F.DifferentiableDynamics(lambda x, u, t: x + t, time_varying=True, action_size=1),
        reward=F.FunctionReward(lambda x, u, t: t + x[..., 0], time_varying=True),
    )
    drawn = cai.rollout(timed, lambda state, t: torch.zeros(1), 2, seed=0)
    assert drawn.states[..., 0].tolist() == [[1.0, 1.0, 2.0, 4.0]] * 2
    assert drawn.rewards.tolist() == [[1.0, 2.0, 4.0]] * 2


# -- callables of the user --------------------------------------------------------------------------------------------


class Walk:
    """A walk that ends beyond 2, on either side; it is never asked about an episode that has ended."""

    def __call__(self, state: Tensor, action: Tensor) -> torch.distributions.Distribution:
        assert (state.abs() <= 2).all() or isinstance(self, Staying)
        return torch.distributions.Independent(Normal(state + action, 0.5), 1)

    def terminal(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., 0].abs() > 2


def walk(**changes: Any) -> cai.TrajectoryGraph:
    parts = {
        "initial": F.Delta([0.0]),
        "dynamics": Walk(),
        "reward": lambda state, action, next_state: (next_state - state)[..., 0],
    }
    return cai.TrajectoryGraph(**(parts | changes))


@pytest.mark.parametrize("horizon, length", [(None, None), (9, None), (None, 5), (9, 5)])
def test_episodes_stop_on_entering_the_end(horizon: int | None, length: int | None) -> None:
    drawn = cai.rollout(
        walk(horizon=horizon), lambda s, t: Normal(torch.zeros_like(s), 0.3), 100, seed=0, length=length
    )
    last = drawn.states[torch.arange(100), drawn.lengths, 0]
    assert torch.equal(drawn.terminated, last.abs() > 2)
    assert torch.equal(drawn.truncated, ~drawn.terminated)
    limit = length or horizon
    if limit is None:
        assert drawn.terminated.all()
    else:
        assert drawn.actions.shape[1] == limit
        assert set(drawn.lengths[drawn.truncated].tolist()) <= {limit}
    assert len(set(drawn.lengths.tolist())) > 2
    steps = torch.where(drawn.mask, drawn.states[:, 1:, 0] - drawn.states[:, :-1, 0], 0.0)
    torch.testing.assert_close(drawn.rewards, steps)
    torch.testing.assert_close(drawn.returns(), last - drawn.states[:, 0, 0])


class Staying(Walk):
    """A walk that stays, and never ends."""

    def terminal(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return torch.tensor(False)


def test_an_end_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.simulate.callables.LONGEST_EPISODE", 50)
    with pytest.raises(ValueError, match="has not ended after 50 steps; give length="):
        cai.rollout(walk(dynamics=Staying()), lambda state, t: -0.9 * state, 2, seed=0)


def test_discrete_factors_that_are_callables() -> None:
    probs = torch.tensor([[[0.1, 0.9], [0.8, 0.2]], [[0.5, 0.5], [1.0, 0.0]]])
    made = cai.TrajectoryGraph(
        F.Categorical([0.5, 0.5]),
        lambda state, action: torch.distributions.Categorical(probs=probs[state, action]),
        lambda state, action: state + 2.0 * action,
        horizon=8,
        action_space=gymnasium.spaces.Discrete(2),
        state_space=gymnasium.spaces.Discrete(2),
    )
    drawn = cai.rollout(made, cai.UniformPolicy(), 200, seed=0)
    assert drawn.states.dtype == drawn.actions.dtype == torch.int64
    steps = probs[drawn.states[:, :-1], drawn.actions, drawn.states[:, 1:]]
    assert (steps > 0).all()
    assert torch.equal(drawn.rewards, drawn.states[:, :-1] + 2.0 * drawn.actions)


# -- policies ---------------------------------------------------------------------------------------------------------

POLICIES: dict[str, Callable[[], Any]] = {
    "distribution": lambda: lambda state, t: Normal(torch.zeros(len(state), 1), 1.0),
    "with events": lambda: lambda state, t: torch.distributions.Independent(Normal(torch.zeros(len(state), 1), 1.0), 1),
    "tensor": lambda: lambda state, t: state[:, :1],
    "numpy": lambda: lambda state, t: state[:, :1].numpy(),
    "factor": lambda: POLICY,
    "gaussian": lambda: F.Gaussian([0.0], [[1.0]]),
    "with bind": lambda: cai.UniformPolicy(),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_every_kind(name: str) -> None:
    made = graph(action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32))
    drawn = cai.rollout(made, POLICIES[name](), 30, seed=0)
    assert drawn.actions.shape == (30, 6, 1)
    assert drawn.actions.dtype == torch.float64
    assert len(drawn.actions[:, 0].unique()) == 30
    if name == "with bind":
        assert (drawn.actions.abs() <= 1).all()


def test_one_distribution_for_all_states_is_drawn_from_for_each() -> None:
    two = cai.TrajectoryGraph(
        F.Delta([0.0, 0.0]), F.LinearGaussianDynamics(np.eye(2), np.eye(2)), F.QuadraticReward(np.eye(2)), horizon=1
    )
    for policy in (
        lambda state, t: Normal(torch.zeros(2), 1.0),
        lambda state, t: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    ):
        for num in (2, 5):  # as many episodes as coordinates is no special case
            assert len(cai.rollout(two, policy, num, seed=0).actions.unique()) == 2 * num
    same = cai.rollout(two, lambda state, t: torch.tensor([1.0, 2.0]), 3, seed=0)
    assert same.actions[:, 0].tolist() == [[1.0, 2.0]] * 3


def test_uniform_policy_where_nothing_tells_the_state_space() -> None:
    made = walk(horizon=3, action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,)))
    assert made.state_space is None
    assert len(cai.rollout(made, cai.UniformPolicy(), 10, seed=0).actions[:, 0].unique()) == 10


def test_policies_see_state_and_time() -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    def policy(state: Tensor, t: int) -> Tensor:
        seen.append((tuple(state.shape), t))
        return torch.zeros(len(state), 1)

    cai.rollout(graph(), policy, 5, seed=0, length=3)
    assert seen == [((5, 2), 0), ((5, 2), 1), ((5, 2), 2)]


def test_numbers_of_other_types_become_those_of_the_dynamics() -> None:
    drawn = cai.rollout(graph(initial=F.Delta([1, 2])), POLICY, 3, seed=0)
    assert drawn.states.dtype == torch.float64
    assert drawn.states[0, 0].tolist() == [1.0, 2.0]
    small = F.LinearGaussianDynamics(A, B, NOISE, dtype=torch.float32)
    narrow = graph(initial=F.Delta(torch.tensor([1.0, 2.0])), dynamics=small)
    assert cai.rollout(narrow, POLICY, 3, seed=0).states.dtype == torch.float32


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [graph, walk], ids=["linear", "callable"])
def test_seeds(make: Callable[..., cai.TrajectoryGraph]) -> None:
    policy = cai.UniformPolicy(gymnasium.spaces.Box(-1.0, 1.0, (1,)))
    world = make(horizon=5, action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,)))
    before = torch.get_rng_state()
    first, second, other, fresh = (cai.rollout(world, policy, 9, seed=seed) for seed in (1, np.int64(1), 2, None))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.actions, second.actions)
    assert not torch.equal(first.states, other.states)
    assert not torch.equal(first.states, fresh.states)


# -- what is refused --------------------------------------------------------------------------------------------------


def nothing(state: Tensor, t: int) -> Tensor:
    return torch.zeros(len(state), 1)


def diverging(state: Tensor, action: Tensor) -> Tensor:
    return torch.where(state > 3, torch.nan, state + 1 + action)


def grown(fn: Any, noise: Any = None, **changes: Any) -> cai.TrajectoryGraph:
    return graph(dynamics=F.DifferentiableDynamics(fn, noise, action_size=1), initial=F.Delta([1.0, 0.0]), **changes)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no horizon": (lambda: cai.rollout(graph(horizon=None), POLICY, 2), "the dynamics ends no episode; give length="),
    "batch of dynamics": (
        lambda: cai.rollout(graph(dynamics=F.LinearGaussianDynamics(np.stack([A] * 5), B)), POLICY, 2),
        r"rollout: dynamics has batch dimensions \[5\]; run the graphs of a batch one by one",
    ),
    "batch of starts": (
        lambda: cai.rollout(graph(initial=F.Delta(np.zeros((5, 2)))), POLICY, 2),
        r"rollout: initial has batch dimensions \[5\]",
    ),
    "batch of rewards": (
        lambda: cai.rollout(graph(reward=F.QuadraticReward(np.stack([np.eye(2)] * 5))), POLICY, 2),
        r"rollout: reward has batch dimensions \[5\]",
    ),
    "actions": (
        lambda: cai.rollout(graph(), lambda state, t: torch.zeros(2, 3), 2),
        r"the policy gave actions \[2, 3\] for states \[2, 2\], not \[2, 1\]",
    ),
    "actions of another number": (
        lambda: cai.rollout(graph(), lambda state, t: torch.zeros(7, 1), 2),
        r"the policy gave actions \[7, 1\] for states \[2, 2\], not \[2, 1\]",
    ),
    "no distribution": (
        lambda: cai.rollout(graph(dynamics=lambda x, u: x), nothing, 2),
        "dynamics must return a distribution, got Tensor; cai.factors.DifferentiableDynamics makes one",
    ),
    "next states": (
        lambda: cai.rollout(graph(dynamics=lambda x, u: Normal(torch.zeros(3), 1.0)), nothing, 2),
        r"dynamics gave next states \[3\] for states \[2, 2\]",
    ),
    "wrong sizes": (
        lambda: cai.rollout(
            graph(dynamics=F.DifferentiableDynamics(lambda x, u: x[..., :1]), initial=F.Delta([0.0, 1.0])), nothing, 2
        ),
        "rollout: dynamics at time step 0: DifferentiableDynamics: fn must return",
    ),
    "initial": (
        lambda: cai.rollout(graph(dynamics=Walk(), initial=lambda: 0.0), nothing, 2),
        "initial must give a distribution, got float",
    ),
    "rewards": (
        lambda: cai.rollout(graph(reward=lambda x, u: x), nothing, 3),
        r"reward must give one value for each of 3 states, got \[3, 2\]",
    ),
    "uniform on an unbounded space": (
        lambda: cai.rollout(graph(), cai.UniformPolicy(), 2),
        "there is no uniform distribution on Box",
    ),
}


@pytest.mark.parametrize("ask, message", BAD.values(), ids=BAD)
def test_what_cannot_be_run(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


NOT_FINITE: dict[str, tuple[Callable[[], Any], str]] = {
    "state": (
        lambda: cai.rollout(grown(diverging), nothing, 2),
        "dynamics gave a next state .* at time step 3 of episode 0",
    ),
    "state with noise": (
        lambda: cai.rollout(grown(diverging, 1e-6 * np.eye(2)), nothing, 2),
        "dynamics gave a next state that is not finite at time step [23]",
    ),
    "state with singular noise": (
        lambda: cai.rollout(grown(diverging, np.diag([0.0, 1e-6])), nothing, 2),
        "dynamics gave a next state that is not finite at time step 3",
    ),
    "overflow": (lambda: cai.rollout(grown(lambda x, u: 1e200 * x), nothing, 2), "time step 1 of episode 0"),
    "reward": (
        lambda: cai.rollout(graph(reward=lambda x, u: x[..., 0] * torch.inf), POLICY, 2, seed=0),
        "reward gave a value that is not finite at time step 0",
    ),
    "action": (
        lambda: cai.rollout(graph(), lambda state, t: state[:, :1] * torch.nan, 2),
        "the policy gave an action that is not finite at time step 0 of episode 0",
    ),
}


@pytest.mark.parametrize("ask, message", NOT_FINITE.values(), ids=NOT_FINITE)
def test_what_is_not_finite_is_named_with_its_time(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(cai.NonFinite, match=message):
        ask()
