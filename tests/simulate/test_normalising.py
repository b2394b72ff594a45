"""Running moments against numpy, and what normalising must not do to a problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cai.simulate.worlds.normalising import EPSILON, LIMIT, RunningMoments, RunningRewardScale


@pytest.mark.parametrize("offset", [0.0, 1e7], ids=["near zero", "far from zero"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_moments_in_batches_are_those_of_everything(shape: tuple[int, ...], offset: float) -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(500, *shape)) * 3 + offset
    moments, at = RunningMoments(shape), 0
    for size in (1, 1, 7, 0, 100, 391):
        batch = items[at : at + size]
        moments.update(torch.as_tensor(batch) if size % 2 else batch)
        at += size
    assert moments.count == 500
    np.testing.assert_allclose(moments.mean, items.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, items.var(0), rtol=1e-7)


def test_batches_of_more_dimensions() -> None:
    items = np.random.default_rng(0).normal(size=(4, 5, 3))
    one, other = RunningMoments((3,)), RunningMoments((3,))
    one.update(items)
    other.update(items.reshape(-1, 3))
    np.testing.assert_array_equal(one.mean, other.mean)
    assert one.count == 20
    with pytest.raises(ValueError, match=r"RunningMoments: expected \[\*batch, \(3,\)\], got \[4, 5\]"):
        one.update(items[..., 0])


def test_normalised_items_have_mean_zero_and_variance_one() -> None:
    items = torch.as_tensor(np.random.default_rng(0).normal(2.0, 5.0, size=(300, 4)), dtype=torch.float32)
    moments = RunningMoments((4,))
    moments.update(items)
    normalised = moments.normalise(items)
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(0, correction=0), 1, rtol=1e-5)
    expected = (items[0].double() - items.double().mean(0)) / items.double().std(0, correction=0)
    torch.testing.assert_close(moments.normalise(items[0]), expected.float(), rtol=1e-5, atol=1e-5)
    again = moments.normalise(items[:1])
    moments.update(items + 100)
    assert not torch.equal(moments.normalise(items[:1]), again)


def test_what_is_seen_once_or_never_changes_is_not_blown_up() -> None:
    moments = RunningMoments((2,))
    items = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(moments.normalise(items), items)
    moments.update(items)
    torch.testing.assert_close(moments.normalise(items), torch.zeros(1, 2))
    torch.testing.assert_close(moments.normalise(items + 2), torch.full((1, 2), 2.0))
    for _ in range(5):
        moments.update(items)
    assert moments.normalise(items + 1).tolist() == [[LIMIT, LIMIT]]
    assert moments.normalise(items - 1).tolist() == [[-LIMIT, -LIMIT]]


def test_a_memory_goes_on_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    moments, scale = RunningMoments((2,)), RunningRewardScale(3, 0.9)
    for _ in range(5):
        moments.update(rng.normal(size=(3, 2)))
        scale.update(rng.normal(size=3), rng.random(3) < 0.3)
    other, other_scale = RunningMoments((2,)), RunningRewardScale(3, 0.9)
    other.remember(moments.memory())
    other_scale.remember(scale.memory())
    for _ in range(5):
        items, rewards, done = rng.normal(size=(3, 2)), rng.normal(size=3), rng.random(3) < 0.3
        for one in (moments, other):
            one.update(items)
        for two in (scale, other_scale):
            two.update(rewards, done)
    np.testing.assert_array_equal(moments.mean, other.mean)
    np.testing.assert_array_equal(moments.variance, other.variance)
    assert scale.scale == other_scale.scale
    with pytest.raises(ValueError, match=r"the memory is of items \(2,\), not \(3,\)"):
        RunningMoments((3,)).remember(moments.memory())
    with pytest.raises(ValueError, match="the memory is of 3 copies, not 2"):
        RunningRewardScale(2, 0.9).remember(scale.memory())


@pytest.mark.parametrize("resting", [False, True], ids=["all transitions", "some resets"])
def test_the_scale_is_that_of_discounted_returns(resting: bool) -> None:
    """Returns up to each time, by a loop over episodes, each counted from its own start."""
    rng = np.random.default_rng(1)
    rewards, done = rng.normal(3.0, 2.0, size=(60, 4)), rng.random((60, 4)) < 0.2
    valid = rng.random((60, 4)) < 0.7 if resting else np.ones((60, 4), dtype=bool)
    done &= valid
    scale, returns = RunningRewardScale(4, 0.8), []
    for t in range(60):
        scale.update(rewards[t], done[t], valid[t] if resting else None)
        for i in range(4):
            before = [k for k in range(t) if done[k, i]]
            episode = [k for k in range(before[-1] + 1 if before else 0, t + 1) if valid[k, i]]
            if valid[t, i]:
                returns.append(sum(0.8 ** (len(episode) - 1 - n) * rewards[k, i] for n, k in enumerate(episode)))
    assert scale.scale == pytest.approx(np.sqrt(np.var(returns) + EPSILON), rel=1e-10)
    given = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(scale.scaled(given), given / np.std(returns))
    with pytest.raises(ValueError, match=r"expected 4 rewards and ends, got \[3\] and \[4\]"):
        scale.update(rewards[0, :3], done[0])


def test_rewards_are_not_scaled_before_two_are_seen() -> None:
    scale = RunningRewardScale(1, 0.9)
    assert scale.scale == pytest.approx(1.0)
    scale.update(np.array([5.0]), np.array([False]))
    assert scale.scale == pytest.approx(1.0)
