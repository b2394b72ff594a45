"""Trajectories: what is checked, what is masked, what slicing keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cai import Trajectories


def example(num: int = 4, length: int = 3) -> Trajectories:
    states = torch.arange(num * (length + 1)).reshape(num, length + 1)
    actions, rewards = torch.arange(num * length).reshape(num, length), torch.rand(num, length)
    lengths = torch.arange(num) % (length + 1)
    return Trajectories(states, actions, rewards, lengths, lengths == 2)


def test_defaults() -> None:
    trajectories = Trajectories(np.zeros((2, 4, 3)), np.zeros((2, 3)))
    assert trajectories.lengths.tolist() == [3, 3]
    assert trajectories.terminated.tolist() == [False, False]
    assert trajectories.truncated.tolist() == [True, True]
    assert trajectories.rewards is None
    assert len(trajectories) == 2
    assert trajectories.num_steps == 6


def test_what_is_terminated_is_not_truncated_unless_said() -> None:
    states, actions = torch.zeros(2, 2), torch.zeros(2, 1)
    assert Trajectories(states, actions, terminated=[True, False]).truncated.tolist() == [False, True]
    assert Trajectories(states, actions, terminated=[True, False], truncated=[True, False]).truncated.tolist() == [
        True,
        False,
    ]


def test_masks_follow_the_lengths() -> None:
    trajectories = example()
    for n, length in enumerate(trajectories.lengths.tolist()):
        assert trajectories.mask[n].tolist() == [t < length for t in range(3)]
        assert trajectories.state_mask[n].tolist() == [t <= length for t in range(4)]
    assert trajectories.num_steps == int(trajectories.mask.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_returns(dtype: torch.dtype) -> None:
    rewards = torch.tensor([[1, 2, 4], [8, 99, 99]], dtype=dtype)
    trajectories = Trajectories(torch.zeros(2, 4), torch.zeros(2, 3), rewards, [3, 1])
    assert trajectories.returns().tolist() == [7.0, 8.0]
    assert trajectories.returns(0.5).tolist() == [3.0, 8.0]
    assert trajectories.returns(0.0).tolist() == [1.0, 8.0]


def test_padding_is_never_read() -> None:
    nan = torch.nan
    trajectories = Trajectories(
        torch.tensor([[0.0, 1.0, nan]]), torch.tensor([[0.0, nan]]), torch.tensor([[5.0, nan]]), [1]
    )
    assert trajectories.returns(0.9).tolist() == [5.0]


def test_returns_need_rewards() -> None:
    with pytest.raises(ValueError, match="no rewards"):
        Trajectories(torch.zeros(1, 2), torch.zeros(1, 1)).returns()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(3), torch.zeros(2)), r"states must be \[N, T \+ 1, ...\].*got \[3\] and \[2\]"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), r"need states of shape \[2, 4, ...\], got \[2, 3\]"),
        ((torch.zeros(3, 4), torch.zeros(2, 3)), r"got \[3, 4\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2, 4)), r"rewards must be \[2, 3\], got \[2, 4\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), None, [1, 4]), r"episode 1 has length 4, not in 0..3"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), None, [-1, 0]), r"episode 0 has length -1"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), None, [1.7, 1.0]), r"lengths?.*1\.7"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), None, [1, 1, 1]), r"must be \[2\], got \[3\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 3), None, None, [True]), r"must be \[2\], got \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trajectories(*arguments)


@pytest.mark.parametrize("name, place", [("states", 2), ("actions", 1), ("rewards", 1)])
def test_nan_is_named_with_its_place(name: str, place: int) -> None:
    values = {"states": torch.zeros(2, 4, 5), "actions": torch.zeros(2, 3, 2), "rewards": torch.zeros(2, 3)}
    values[name][1, place] = torch.nan
    with pytest.raises(ValueError, match=f"{name} of episode 1 is NaN at time {place}"):
        Trajectories(**values, lengths=[3, 2])
    assert len(Trajectories(**values, lengths=[3, place - 1])) == 2  # now it is padding


@pytest.mark.parametrize(
    "index", [slice(1, 3), [3, 0], torch.tensor([2, 2, 1]), torch.tensor([True, False, True, True])]
)
def test_picking_episodes(index: object) -> None:
    whole = example()
    part = whole[index]
    for name in ("states", "actions", "rewards", "lengths", "terminated", "truncated"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[index]), name


@pytest.mark.parametrize("index", [2, -2, np.int64(2), (2,)])
def test_one_episode_is_a_batch_of_one(index: object) -> None:
    assert example()[index].states.tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize("index", [4, -5])
def test_an_episode_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError, match=f"{index} of 4"):
        example()[index]


def test_iteration_and_moving() -> None:
    whole = example()
    assert [int(part.states[0, 0]) for part in whole] == [0, 4, 8, 12]
    moved = whole.to("cpu")
    assert torch.equal(moved.states, whole.states)
    assert moved.rewards is not None


def test_slicing_keeps_missing_rewards_missing() -> None:
    assert Trajectories(torch.zeros(2, 3), torch.zeros(2, 2))[:1].rewards is None


def test_observations_go_along() -> None:
    seen = torch.arange(24.0).reshape(4, 3, 2)
    seen[1, 0] = torch.nan
    episodes = Trajectories(torch.zeros(4, 3), torch.zeros(4, 2), observations=seen)
    assert torch.equal(episodes[2:].observations, seen[2:])
    assert torch.equal(episodes[3].observations, seen[3:])
    assert episodes.to("cpu").observations.shape == seen.shape
    assert Trajectories(torch.zeros(4, 3), torch.zeros(4, 2))[:1].observations is None
    with pytest.raises(ValueError, match=r"observations must be \[4, 3, \.\.\.\], got \[4, 2, 2\]"):
        Trajectories(torch.zeros(4, 3), torch.zeros(4, 2), observations=seen[:, 1:])


def test_no_episodes_and_no_actions() -> None:
    assert len(Trajectories(torch.zeros(0, 4), torch.zeros(0, 3))) == 0
    still = Trajectories(torch.zeros(2, 1), torch.zeros(2, 0), torch.zeros(2, 0))
    assert still.lengths.tolist() == [0, 0]
    assert still.returns().tolist() == [0.0, 0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_cuda() -> None:
    trajectories = Trajectories(torch.zeros(2, 4, device="cuda"), torch.zeros(2, 3, device="cuda"))
    assert trajectories.lengths.is_cuda
    assert trajectories.mask.all()
