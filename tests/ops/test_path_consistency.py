"""Residuals of paths: against loops, zero on every path of a deterministic world, zero on average in a random one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.ops import path_residuals
from tests.ops.segments import SHAPES, Segment, at_every_row, beyond, random_segment, steps_from

GAMMA, ALPHA, S, A = 0.9, 0.5, 5, 3


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("num_steps", [1, 3, 1000])
def test_residuals_of_random_segments(shape: tuple[int, ...], num_steps: int) -> None:
    segment = random_segment(shape, 5)

    def residual(row: tuple[int, ...]) -> float:
        total, weight = -float(segment.values[row]), 1.0
        for now in steps_from(segment, row, num_steps):
            soft = float(segment.rewards[now]) - ALPHA * float(segment.log_ratios[now])
            total, weight, last = total + weight * soft, weight * GAMMA, now
        return total + weight * beyond(segment, last)

    found = residuals_of(segment, segment.log_ratios, num_steps)
    torch.testing.assert_close(found, at_every_row(segment, residual), rtol=0, atol=1e-12)


def residuals_of(segment: Segment, log_ratios: Tensor, num_steps: int) -> Tensor:
    return path_residuals(
        segment.rewards,
        log_ratios,
        segment.values,
        segment.next_values,
        segment.terminated,
        segment.ended,
        discount=GAMMA,
        temperature=ALPHA,
        num_steps=num_steps,
    )


def world(noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, cai.TrajectoryGraph]:
    """A world whose last state is terminal; `noise` is how much of each transition is spread over all states."""
    rng = np.random.default_rng(seed)
    P = (1 - noise) * np.eye(S)[rng.integers(S, size=(S, A))] + noise / S
    R = rng.normal(size=(S, A))
    graph = cai.TrajectoryGraph(
        cai.factors.Categorical(np.full(S, 1 / S)),
        cai.factors.TabularDynamics(P, terminal=[False] * (S - 1) + [True]),
        cai.factors.TabularReward(R),
        discount=GAMMA,
        temperature=ALPHA,
    )
    return P, R, graph


def random_walks(
    P: np.ndarray, R: np.ndarray, graph: cai.TrajectoryGraph, shape: tuple[int, int], seed: int
) -> Segment:
    """Steps of a policy that has nothing to do with the optimal one, whose values and log-ratios they bear."""
    rng = np.random.default_rng(seed)
    exact = cai.infer(graph, cai.SoftValueIteration(tolerance=1e-12))
    v, log_ratios = exact.v(torch.arange(S)), exact.policy(torch.arange(S)).logits + np.log(A)
    states, actions, following = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    now = rng.integers(S - 1, size=shape[1])
    ended = rng.random(shape) < 0.05
    for t in range(shape[0]):
        states[t], actions[t] = now, rng.integers(A, size=shape[1])
        following[t] = (P[now, actions[t]].cumsum(-1) < rng.random(shape[1])[:, None]).sum(-1)
        ended[t] |= following[t] == S - 1
        now = np.where(ended[t], rng.integers(S - 1, size=shape[1]), following[t])
    return Segment(
        rewards=torch.as_tensor(R[states, actions]),
        values=v[states],
        next_values=torch.where(torch.as_tensor(following == S - 1), torch.nan, v[following]),
        log_ratios=log_ratios[states, actions],
        terminated=torch.as_tensor(following == S - 1),
        ended=torch.as_tensor(ended),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_exact_values_leave_nothing_on_any_path_of_a_deterministic_world(seed: int, num_steps: int) -> None:
    segment = random_walks(*world(0.0, seed), (40, 30), seed)
    assert segment.terminated.any() and (segment.ended & ~segment.terminated).any()
    assert residuals_of(segment, segment.log_ratios, num_steps).abs().max() < 1e-9
    assert residuals_of(segment, segment.log_ratios + 0.1, num_steps).abs().min() > 0.01


@pytest.mark.parametrize("num_steps", [1, 4])
def test_in_a_random_world_only_the_mean_is_zero(num_steps: int) -> None:
    segment = random_walks(*world(0.5, 1), (num_steps, 40_000), 1)
    first = residuals_of(segment, segment.log_ratios, num_steps)[0]
    assert first.mean().abs() < 4 * first.std() / len(first) ** 0.5
    assert first.square().mean().sqrt() > 0.1
