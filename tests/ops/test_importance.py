"""Importance weights: estimators whose expectation is written down term by term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from cai.ops import (
    effective_sample_size,
    importance_sampled_soft_value,
    normalised_weights,
    per_decision_advantages,
    per_decision_returns,
    per_decision_weights,
    td_lambda_returns,
    v_trace_returns,
)
from tests.ops.segments import SHAPES, Segment, at_every_row, beyond, random_segment, steps_from

GAMMA = 0.9
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
limits = pytest.mark.parametrize("limit", [math.inf, 1.0, 0.6, 2.0])


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shift", [0.0, 800.0, -800.0])
def test_normalised_weights_and_effective_size(dim: int, shift: float) -> None:
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(4, 5, 6))
    found = normalised_weights(torch.as_tensor(np.log(weights) + shift), dim)
    np.testing.assert_allclose(found, weights / weights.sum(dim, keepdims=True), rtol=1e-12)
    size = effective_sample_size(torch.as_tensor(np.log(weights) + shift), dim)
    np.testing.assert_allclose(size, weights.sum(dim) ** 2 / (weights**2).sum(dim), rtol=1e-12)


def test_limits_of_the_effective_size() -> None:
    nothing, one = torch.full((7,), -math.inf), torch.tensor([-math.inf, 3.0, -math.inf])
    assert float(effective_sample_size(torch.zeros(7))) == pytest.approx(7)
    assert float(effective_sample_size(one)) == 1
    assert float(effective_sample_size(nothing)) == 0
    assert normalised_weights(nothing).tolist() == [0.0] * 7
    assert normalised_weights(one).tolist() == [0.0, 1.0, 0.0]


# -- soft values ------------------------------------------------------------------------------------------------------


def multinomials(num: int, probs: np.ndarray) -> Iterator[tuple[list[int], float]]:
    """How often each of three outcomes can come in so many draws, and with what probability."""
    for first in range(num + 1):
        for second in range(num - first + 1):
            counts = [first, second, num - first - second]
            log_chance = math.lgamma(num + 1) + sum(
                c * math.log(p) - math.lgamma(c + 1) for c, p in zip(counts, probs, strict=True)
            )
            yield counts, math.exp(log_chance)


def soft_value_bias(num: int, q: np.ndarray, proposal: np.ndarray, temperature: float) -> tuple[float, float]:
    """The exact expectation of the estimate from so many draws less the truth, and what the law says of it."""
    outcomes = list(multinomials(num, proposal))
    index = torch.as_tensor(np.stack([np.repeat(np.arange(3), counts) for counts, _ in outcomes]))
    estimates = importance_sampled_soft_value(
        torch.as_tensor(q)[index], torch.as_tensor(np.log(proposal))[index], temperature=temperature, dim=1
    )
    chances = np.array([chance for _, chance in outcomes])
    truth = temperature * math.log(np.exp(q / temperature).sum())
    weights = np.exp(q / temperature) / proposal
    mean = proposal @ weights
    law = -temperature * (proposal @ (weights - mean) ** 2) / (2 * num * mean**2)
    return float(chances @ estimates.numpy()) - truth, law


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_bias_of_sampled_soft_values_follows_its_law(temperature: float) -> None:
    q, proposal = np.array([0.3, -0.4, 1.0]), np.array([0.5, 0.3, 0.2])
    ratios = []
    for num in (20, 80):
        bias, law = soft_value_bias(num, q, proposal, temperature)
        assert law < 0
        ratios.append(bias / law)
    assert abs(ratios[1] - 1) < 0.05
    assert abs(ratios[1] - 1) < 0.4 * abs(ratios[0] - 1)  # the next order is 1/K


def test_sampled_soft_value_of_a_perfect_proposal_is_exact() -> None:
    q = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for temperature in (1e-3, 1.0, 1e6):
        value = importance_sampled_soft_value(q, q / temperature - 2.0, temperature=temperature, dim=1)
        torch.testing.assert_close(value, torch.full_like(value, 2.0 * temperature), rtol=1e-12, atol=1e-9)


def test_limits_of_the_temperature() -> None:
    q = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    flat = torch.zeros_like(q)
    for temperature in (0, 0.0, torch.tensor(0.0)):
        assert importance_sampled_soft_value(q, flat, temperature=temperature, dim=1).tolist() == [3.0, 0.0]
    cold = importance_sampled_soft_value(q, flat, temperature=1e-5, dim=1)
    torch.testing.assert_close(cold, q.amax(1), rtol=0, atol=2e-5)
    hot = importance_sampled_soft_value(q, flat, temperature=1e9, dim=1)
    torch.testing.assert_close(hot, q.mean(1), rtol=0, atol=1e-8)


def test_gradients_of_sampled_soft_values() -> None:
    rng = np.random.default_rng(0)
    q, log_proposal = (torch.as_tensor(rng.normal(size=(3, 4))).requires_grad_() for _ in range(2))
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, p, a: importance_sampled_soft_value(q, p, temperature=a, dim=1), (q, log_proposal, temperature)
    )


# -- steps of an episode ----------------------------------------------------------------------------------------------


def ratio(segment: Segment, row: tuple[int, ...], limit: float) -> float:
    return min(math.exp(float(segment.log_ratios[row])), limit)


@shapes
@limits
def test_weights_of_steps(shape: tuple[int, ...], limit: float) -> None:
    segment = random_segment(shape, 2)

    def product(row: tuple[int, ...]) -> float:
        t, *copy = row
        total = ratio(segment, row, limit)
        while t > 0 and not segment.ended[(t - 1, *copy)]:
            t -= 1
            total *= ratio(segment, (t, *copy), limit)
        return total

    found = per_decision_weights(segment.log_ratios, segment.ended, limit=limit)
    torch.testing.assert_close(found, at_every_row(segment, product), rtol=1e-12, atol=0)


def test_a_weight_of_zero_stays_in_its_episode() -> None:
    log_weights = torch.tensor([0.0, -math.inf, 1.0, 2.0, 3.0])
    ended = torch.tensor([False, False, True, False, True])
    found = per_decision_weights(log_weights, ended)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0, math.exp(2.0), math.exp(5.0)]))


@shapes
@limits
def test_rewards_to_go_of_another_policy(shape: tuple[int, ...], limit: float) -> None:
    segment = random_segment(shape, 3)

    def to_go(row: tuple[int, ...]) -> float:
        total, weight = 0.0, 1.0
        for k, now in enumerate(steps_from(segment, row)):
            weight *= ratio(segment, now, limit) if k else 1.0
            total, weight, last = total + weight * float(segment.rewards[now]), weight * GAMMA, now
        return total + weight * beyond(segment, last)

    found = per_decision_returns(
        segment.rewards,
        segment.next_values,
        segment.log_ratios,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        limit=limit,
    )
    torch.testing.assert_close(found, at_every_row(segment, to_go), rtol=1e-11, atol=1e-11)


@shapes
@limits
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_advantages_of_another_policy(shape: tuple[int, ...], limit: float, decay: float) -> None:
    segment = random_segment(shape, 8)

    def advantage(row: tuple[int, ...]) -> float:
        total, weight = 0.0, 1.0
        for k, now in enumerate(steps_from(segment, row)):
            weight *= GAMMA * decay * ratio(segment, now, limit) if k else 1.0
            error = float(segment.rewards[now]) + GAMMA * beyond(segment, now) - float(segment.values[now])
            total += weight * error
        return total

    found = per_decision_advantages(
        segment.rewards,
        segment.values,
        segment.next_values,
        segment.log_ratios,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        decay=decay,
        limit=limit,
    )
    torch.testing.assert_close(found, at_every_row(segment, advantage), rtol=1e-11, atol=1e-11)


@shapes
@pytest.mark.parametrize("limit, trace_limit", [(1.0, 1.0), (2.0, 0.8)])
def test_v_trace_is_its_sum(shape: tuple[int, ...], limit: float, trace_limit: float) -> None:
    segment = random_segment(shape, 4)

    def target(row: tuple[int, ...]) -> float:
        total, weight = float(segment.values[row]), 1.0
        for now in steps_from(segment, row):
            error = float(segment.rewards[now]) + GAMMA * beyond(segment, now) - float(segment.values[now])
            total += weight * ratio(segment, now, limit) * error
            weight *= GAMMA * ratio(segment, now, trace_limit)
        return total

    found = v_trace(segment, segment.log_ratios, limit=limit, trace_limit=trace_limit)
    torch.testing.assert_close(found, at_every_row(segment, target), rtol=1e-11, atol=1e-11)


def v_trace(segment: Segment, log_weights: Tensor, **limits: float) -> Tensor:
    return v_trace_returns(
        segment.rewards,
        segment.values,
        segment.next_values,
        log_weights,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        **limits,
    )


def test_v_trace_of_the_same_policy_is_monte_carlo() -> None:
    segment = random_segment((25, 3), 6)
    following = torch.cat([segment.values[1:], segment.next_values[-1:]])
    segment.next_values[:] = torch.where(segment.ended, segment.next_values, following)
    returns = td_lambda_returns(
        segment.rewards, segment.next_values, segment.terminated, segment.ended, discount=GAMMA, decay=1.0
    )
    torch.testing.assert_close(v_trace(segment, torch.zeros_like(returns)), returns, rtol=0, atol=1e-12)


def test_refusals() -> None:
    segment = random_segment((9, 2), 1)
    with pytest.raises(ValueError, match="a limit of importance weights must be positive, got 0"):
        per_decision_weights(segment.log_ratios, segment.ended, limit=0.0)
    with pytest.raises(ValueError, match="ended must have the shape of log_weights"):
        per_decision_weights(segment.log_ratios, segment.ended[:, 0])


# -- the gradient of a policy from another one's episodes -------------------------------------------------------------

#: Three steps at most; state 2 is terminal.
P = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 2))
R = np.random.default_rng(1).normal(size=(2, 2))
HORIZON = 3


def paths(state: int = 0, t: int = 0) -> Iterator[list[tuple[int, int, int]]]:
    """Every list of (s, a, s') from a state on, up to the horizon or the terminal state."""
    if t == HORIZON or state == 2:
        yield []
        return
    for action, following in itertools.product(range(2), range(3)):
        for rest in paths(following, t + 1):
            yield [(state, action, following), *rest]


def objective(log_policy: Tensor) -> Tensor:
    """The expected discounted return, by enumeration."""
    total = torch.zeros((), dtype=torch.float64)
    for path in paths():
        chance = math.prod(P[s, a, n] for s, a, n in path)
        chances = chance * torch.stack([log_policy[s, a] for s, a, _ in path]).sum().exp()
        total = total + chances * sum(GAMMA**t * R[s, a] for t, (s, a, _) in enumerate(path))
    return total


def estimate(
    path: list[tuple[int, int, int]], log_policy: Tensor, log_behaviour: Tensor, counted_twice: bool
) -> Tensor:
    """sum_t gamma^t w_t G_t log pi(a_t|s_t) of one path; rho_t once more in G_t, as some lecture slides have it."""
    states, actions, following = torch.tensor(path).T
    log_probs = log_policy[states, actions]
    log_weights = (log_probs - log_behaviour[states, actions]).detach()
    rewards, terminated = torch.as_tensor(R)[states, actions], following == 2
    ended = terminated.clone()
    ended[-1] = True
    weights = per_decision_weights(log_weights, ended)
    returns = per_decision_returns(rewards, torch.zeros_like(rewards), log_weights, terminated, ended, discount=GAMMA)
    if counted_twice:
        returns = returns * log_weights.exp()
    times = GAMMA ** torch.arange(len(path), dtype=torch.float64)
    return (times * weights * returns * log_probs).sum()


@pytest.mark.parametrize("counted_twice", [False, True], ids=["once", "twice"])
def test_expected_gradient_from_another_policys_episodes(counted_twice: bool) -> None:
    logits = torch.tensor([[0.3, -0.5], [1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    log_behaviour = torch.tensor([[0.6, 0.4], [0.2, 0.8]], dtype=torch.float64).log()
    log_policy = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(objective(log_policy), logits, retain_graph=True)
    mean = torch.zeros((), dtype=torch.float64)
    for path in paths():
        chance = math.prod(P[s, a, n] * math.exp(log_behaviour[s, a]) for s, a, n in path)
        mean = mean + chance * estimate(path, log_policy, log_behaviour, counted_twice)
    (found,) = torch.autograd.grad(mean, logits)
    if counted_twice:
        assert (found - exact).abs().max() > 0.02
    else:
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-14)
