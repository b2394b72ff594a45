"""The uniform policy on every kind of space."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import cai


def test_must_be_bound() -> None:
    with pytest.raises(ValueError, match="bind it to a graph first"):
        cai.UniformPolicy()(0)


def test_binding_makes_a_copy() -> None:
    policy, env = cai.UniformPolicy(), gymnasium.make("CartPole-v1")
    assert policy.bind(env).action_space is env.action_space
    assert policy.action_space is None
    env.close()


def test_one_state_and_a_batch_of_states() -> None:
    policy = cai.UniformPolicy(spaces.Discrete(3), spaces.Discrete(7))
    np.testing.assert_allclose(policy(0).probs, [1 / 3] * 3)
    assert policy(torch.zeros(4, 2, dtype=torch.int64)).sample().shape == (4, 2)
    of_vectors = cai.UniformPolicy(spaces.Discrete(3), spaces.Box(-1, 1, (5,)))
    assert of_vectors(np.zeros(5)).sample().shape == ()
    assert of_vectors(np.zeros((4, 5))).sample().shape == (4,)


def test_several_discrete_actions() -> None:
    policy = cai.UniformPolicy(spaces.MultiDiscrete([2, 3]))
    drawn = policy(0).sample((1000,))
    assert drawn.shape == (1000, 2)
    assert drawn.amax(0).tolist() == [1, 2]
    assert float(policy(0).log_prob(torch.tensor([1, 2]))) == pytest.approx(-np.log(6))


def test_actions_that_do_not_start_at_zero() -> None:
    drawn = cai.UniformPolicy(spaces.Discrete(2, start=5))(0).sample((100,))
    assert set(drawn.tolist()) == {5, 6}


def test_bounded_box() -> None:
    policy = cai.UniformPolicy(spaces.Box(np.float32([-1, 2]), np.float32([1, 4])))
    drawn = policy(np.zeros(3, dtype=np.float32)).sample((1000,))
    assert drawn.shape == (1000, 2)
    assert (drawn.amin(0) >= torch.tensor([-1.0, 2.0])).all()
    assert (drawn.amax(0) <= torch.tensor([1.0, 4.0])).all()
    assert float(policy(np.zeros(3, dtype=np.float32)).log_prob(torch.tensor([0.0, 3.0]))) == pytest.approx(-np.log(4))


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Text(3)], ids=str)
def test_spaces_without_a_uniform_distribution(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="no uniform distribution"):
        cai.UniformPolicy(space)(0)


@pytest.mark.parametrize("env_id", ["Blackjack-v1", "Taxi-v4", "Pendulum-v1", "MountainCar-v0"])
def test_in_environments_of_every_kind(env_id: str) -> None:
    drawn = cai.rollout(env_id, cai.UniformPolicy(), 2, seed=0, length=3)
    assert len(drawn) == 2
    assert (drawn.lengths >= 1).all()


class Pixels(gymnasium.Env):
    """Integer observations that are one state, not a batch of states."""

    observation_space = spaces.Box(0, 255, (4, 4), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros((4, 4), np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return np.ones((4, 4), np.uint8), 1.0, False, False, {}


def test_integer_observations_are_one_state() -> None:
    drawn = cai.rollout(Pixels(), cai.UniformPolicy(), 2, seed=0, length=5)
    assert drawn.states.shape == (2, 6, 4, 4)
    assert drawn.actions.shape == (2, 5)
