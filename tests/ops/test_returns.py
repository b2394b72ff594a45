"""Returns and advantages of random segments, against loops over single steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.ops import (
    discounted_returns,
    episode_returns,
    generalised_advantages,
    n_step_returns,
    steps_in_episode,
    td_lambda_returns,
)
from cai.ops.segments import reverse_recursion
from tests.ops.segments import SHAPES, Segment, at_every_row, beyond, random_segment, steps_from

GAMMA, ALPHA = 0.9, 0.7

segments = pytest.mark.parametrize(
    "segment",
    [random_segment(shape, seed) for shape in SHAPES for seed in range(3)],
    ids=[f"{'x'.join(map(str, shape))}-{seed}" for shape in SHAPES for seed in range(3)],
)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def to_go(segment: Segment, row: tuple[int, ...], num_steps: int | None = None) -> float:
    """Discounted rewards from a row on and V of the last state: the n-step return, without log-ratios."""
    total, weight = 0.0, 1.0
    for now in steps_from(segment, row, num_steps):
        total, weight, last = total + weight * float(segment.rewards[now]), weight * GAMMA, now
    return total + weight * beyond(segment, last)


def parts(segment: Segment) -> tuple[Any, ...]:
    return segment.rewards, segment.next_values, segment.terminated, segment.ended


# -- rewards to go ----------------------------------------------------------------------------------------------------


@segments
def test_rewards_to_go(segment: Segment) -> None:
    close(discounted_returns(*parts(segment), discount=GAMMA), at_every_row(segment, lambda row: to_go(segment, row)))


def test_values_that_are_not_needed_are_not_read() -> None:
    segment = random_segment((20, 3), 0)
    known = segment.ended & ~segment.terminated
    known[-1] = True
    hidden = torch.where(known, segment.next_values, math.nan)
    returns = discounted_returns(segment.rewards, hidden, segment.terminated, segment.ended, discount=GAMMA)
    close(returns, at_every_row(segment, lambda row: to_go(segment, row)))


@segments
def test_steps_and_returns_of_whole_episodes(segment: Segment) -> None:
    def first(row: tuple[int, ...]) -> tuple[int, ...]:
        t, *copy = row
        while t > 0 and not segment.ended[(t - 1, *copy)]:
            t -= 1
        return (t, *copy)

    counted = at_every_row(segment, lambda row: row[0] - first(row)[0])
    assert torch.equal(steps_in_episode(segment.ended), counted.long())
    whole = at_every_row(segment, lambda row: to_go(segment, first(row)))
    close(episode_returns(*parts(segment), discount=GAMMA), whole)


# -- lambda -----------------------------------------------------------------------------------------------------------


@segments
@pytest.mark.parametrize("decay", [0.0, 0.8, 1.0])
def test_lambda_returns_by_the_forward_view(segment: Segment, decay: float) -> None:
    """(1 - lambda) sum_n lambda^(n-1) G^(n), the rest of the weight on the longest."""

    def mixed(row: tuple[int, ...]) -> float:
        longest = len(list(steps_from(segment, row)))
        total = decay ** (longest - 1) * to_go(segment, row)
        return total + sum((1 - decay) * decay ** (n - 1) * to_go(segment, row, n) for n in range(1, longest))

    found = td_lambda_returns(*parts(segment), discount=GAMMA, decay=decay)
    close(found, at_every_row(segment, mixed))


@segments
@pytest.mark.parametrize("decay", [0.0, 0.95, 1.0])
def test_advantages_are_sums_of_errors(segment: Segment, decay: float) -> None:
    def error(row: tuple[int, ...]) -> float:
        return float(segment.rewards[row]) + GAMMA * beyond(segment, row) - float(segment.values[row])

    def advantage(row: tuple[int, ...]) -> float:
        return sum((GAMMA * decay) ** k * error(now) for k, now in enumerate(steps_from(segment, row)))

    found = generalised_advantages(
        segment.rewards,
        segment.values,
        segment.next_values,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        decay=decay,
    )
    close(found, at_every_row(segment, advantage))


def consistent(seed: int) -> Segment:
    """A segment whose V of a successor is the V of the next row, as one network gives it."""
    segment = random_segment((30, 4), seed)
    following = torch.cat([segment.values[1:], segment.next_values[-1:]])
    segment.next_values[:] = torch.where(segment.ended, segment.next_values, following)
    return segment


@pytest.mark.parametrize("seed", range(5))
def test_limits_of_advantages(seed: int) -> None:
    segment = consistent(seed)
    names = ("rewards", "values", "next_values", "terminated", "ended")
    arguments = [getattr(segment, name) for name in names]
    monte_carlo = discounted_returns(*parts(segment), discount=GAMMA)
    close(generalised_advantages(*arguments, discount=GAMMA, decay=1.0), monte_carlo - segment.values)
    one_step = n_step_returns(
        segment.rewards,
        segment.next_values,
        segment.log_ratios,
        *arguments[3:],
        discount=GAMMA,
        temperature=ALPHA,
        num_steps=1,
    )
    close(generalised_advantages(*arguments, discount=GAMMA, decay=0.0), one_step - segment.values)
    mixed = td_lambda_returns(*parts(segment), discount=GAMMA, decay=0.8)
    close(generalised_advantages(*arguments, discount=GAMMA, decay=0.8), mixed - segment.values)


def test_terminated_and_truncated_at_once_is_terminated() -> None:
    one, true = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool)
    found = generalised_advantages(one, 0 * one, 100 * one, true, true, discount=GAMMA, decay=0.9)
    assert found.tolist() == [1.0]


# -- n steps ----------------------------------------------------------------------------------------------------------


@segments
@pytest.mark.parametrize("num_steps", [1, 2, 5, 1000])
def test_n_step_returns(segment: Segment, num_steps: int) -> None:
    def target(row: tuple[int, ...]) -> float:
        later = list(steps_from(segment, row, num_steps))[1:]
        paid = sum(GAMMA ** (k + 1) * float(segment.log_ratios[now]) for k, now in enumerate(later))
        return to_go(segment, row, num_steps) - ALPHA * paid

    found = n_step_returns(
        segment.rewards,
        segment.next_values,
        segment.log_ratios,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        temperature=ALPHA,
        num_steps=num_steps,
    )
    close(found, at_every_row(segment, target))


def test_soft_n_step_returns_have_no_bias_and_without_the_middle_term_they_do() -> None:
    """Every path of three steps from (s, a) under the soft-optimal policy, weighed by its probability."""
    rng = np.random.default_rng(0)
    P, R = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2))
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0, 0.0, 0.0]),
        cai.factors.TabularDynamics(P),
        cai.factors.TabularReward(R),
        discount=GAMMA,
        temperature=ALPHA,
        action_prior=cai.factors.FlatPrior(),
    )
    exact = cai.infer(graph, cai.SoftValueIteration(tolerance=1e-12))
    policy = exact.policy(torch.arange(3)).probs.numpy()
    v, q = exact.v(torch.arange(3)), exact.q(torch.arange(3)[:, None], torch.arange(2))
    paths = [(2, 1, *rest) for rest in np.ndindex(3, 2, 3, 2, 3)]  # s0, a0, s1, a1, s2, a2, s3
    chances = torch.tensor(
        [
            P[s0, a0, s1] * policy[s1, a1] * P[s1, a1, s2] * policy[s2, a2] * P[s2, a2, s3]
            for s0, a0, s1, a1, s2, a2, s3 in paths
        ]
    )
    states, actions = torch.tensor(paths)[:, ::2].T, torch.tensor(paths)[:, 1::2].T  # [4, N], [3, N]
    log_ratios = torch.as_tensor(np.log(policy))[states[:-1], actions]
    never = torch.zeros(actions.shape, dtype=torch.bool)

    def mean(paid: torch.Tensor) -> float:
        targets = n_step_returns(
            torch.as_tensor(R)[states[:-1], actions],
            v[states[1:]],
            paid,
            never,
            never,
            discount=GAMMA,
            temperature=ALPHA,
            num_steps=3,
        )
        return float(chances @ targets[0])

    assert float(chances.sum()) == pytest.approx(1.0)
    assert mean(log_ratios) == pytest.approx(float(q[2, 1]), abs=1e-9)
    dropped = ALPHA * float(chances @ (GAMMA * log_ratios[1] + GAMMA**2 * log_ratios[2]))
    assert dropped < -0.4
    assert mean(torch.zeros_like(log_ratios)) == pytest.approx(float(q[2, 1]) + dropped, abs=1e-9)


# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 100])
def test_recursion_is_the_loop(length: int) -> None:
    inputs, factors = (torch.as_tensor(np.random.default_rng(k).normal(size=(length, 3))) for k in range(2))
    expected = torch.zeros(length + 1, 3, dtype=torch.float64)
    for t in reversed(range(length)):
        expected[t] = inputs[t] + factors[t] * expected[t + 1]
    torch.testing.assert_close(reverse_recursion(inputs, factors), expected[:-1], rtol=1e-9, atol=1e-9)


def test_gradients() -> None:
    segment = random_segment((9, 2), 1)
    rewards, values, log_ratios = (
        x.clone().requires_grad_() for x in (segment.rewards, segment.values, segment.log_ratios)
    )
    next_values = segment.next_values.nan_to_num(0.0).requires_grad_()
    ends = (segment.terminated, segment.ended)
    options = {"discount": GAMMA, "temperature": ALPHA, "num_steps": 4}
    assert torch.autograd.gradcheck(
        lambda r, v, w: generalised_advantages(r, v, w, *ends, discount=GAMMA, decay=0.8),
        (rewards, values, next_values),
    )
    assert torch.autograd.gradcheck(
        lambda r, w, x: n_step_returns(r, w, x, *ends, **options), (rewards, next_values, log_ratios)
    )


def test_float32_stays_float32() -> None:
    segment = random_segment((9, 2), 1)
    rewards, values, following, ratios = (
        getattr(segment, name).float() for name in ("rewards", "values", "next_values", "log_ratios")
    )
    ends = (segment.terminated, segment.ended)
    options = {"discount": GAMMA, "temperature": ALPHA, "num_steps": 4}
    found = [
        td_lambda_returns(rewards, following, *ends, discount=GAMMA, decay=0.9),
        generalised_advantages(rewards, values, following, *ends, discount=GAMMA, decay=0.9),
        n_step_returns(rewards, following, ratios, *ends, **options),
    ]
    assert {tensor.dtype for tensor in found} == {torch.float32}


def test_refusals() -> None:
    segment = random_segment((9, 2), 1)
    rewards, following, terminated, ended = parts(segment)
    with pytest.raises(ValueError, match=r"next_values must have the shape of rewards, \[9, 2\], got \[9\]"):
        discounted_returns(rewards, following[:, 0], terminated, ended, discount=GAMMA)
    with pytest.raises(ValueError, match=r"rewards must be \[T, ...\] with at least one step, got \[0, 2\]"):
        discounted_returns(rewards[:0], following[:0], terminated[:0], ended[:0], discount=GAMMA)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        n_step_returns(
            rewards, following, segment.log_ratios, terminated, ended, discount=1.0, temperature=1.0, num_steps=0
        )
