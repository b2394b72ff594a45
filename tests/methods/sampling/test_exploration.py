"""Behaviour policies of learners of Q: their probabilities, what they draw, and the log-ratios that are recorded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.methods import Annealed, Boltzmann, EpsilonGreedy, EpsilonSoft, SoftPolicy
from cai.methods.sampling.exploration import uniform_on_allowed
from cai.ops.soft_values import soft_log_policy
from tests.probes import MatchingReward

RNG = np.random.default_rng(0)
Q = RNG.normal(size=(6, 4))
FLAT = np.zeros(4)
UNEVEN = np.log(RNG.dirichlet(np.ones(4), 6))
FORBIDDING = np.where(RNG.random((6, 4)) < 0.4, -np.inf, UNEVEN)
FORBIDDING[:, 0] = np.where(np.isneginf(FORBIDDING).all(1), 0.0, FORBIDDING[:, 0])
priors = pytest.mark.parametrize("log_prior", [FLAT, UNEVEN, FORBIDDING], ids=["flat", "uneven", "forbidding"])


def soft(log_prior: np.ndarray, temperature: float, q: np.ndarray = Q) -> np.ndarray:
    return soft_log_policy(torch.from_numpy(q), torch.from_numpy(log_prior), temperature).exp().numpy()


@priors
@pytest.mark.parametrize("temperature", [0.0, 0.01, 0.7, 1e4])
def test_soft_policy_is_that_of_the_tensor_kernels(log_prior: np.ndarray, temperature: float) -> None:
    expected = soft(log_prior, temperature)
    np.testing.assert_allclose(SoftPolicy().probs(Q, log_prior, temperature, 0.0), expected, atol=1e-12)
    np.testing.assert_allclose(Boltzmann(temperature).probs(Q, log_prior, 5.0, 0.0), expected, atol=1e-12)


@priors
def test_mixtures(log_prior: np.ndarray) -> None:
    allowed = np.broadcast_to(log_prior > -np.inf, Q.shape)
    uniform = allowed / allowed.sum(1, keepdims=True)
    np.testing.assert_allclose(np.broadcast_to(uniform_on_allowed(log_prior), Q.shape), uniform)
    greedy = np.eye(4)[np.where(allowed, Q, -np.inf).argmax(1)]
    epsilon = Annealed(1.0, 0.2, share=0.5)
    for share, value in ((0.0, 1.0), (0.25, 0.6), (0.9, 0.2)):
        given = EpsilonGreedy(epsilon).probs(Q, log_prior, 0.7, share)
        np.testing.assert_allclose(given, (1 - value) * greedy + value * uniform, atol=1e-12)
        given = EpsilonSoft(epsilon).probs(Q, log_prior, 0.7, share)
        np.testing.assert_allclose(given, (1 - value) * soft(log_prior, 0.7) + value * uniform, atol=1e-12)


def test_ties_are_shared_as_the_prior_says() -> None:
    q, log_prior = np.array([[1.0, 1.0, 0.0]]), np.log([0.2, 0.6, 0.2])
    np.testing.assert_allclose(SoftPolicy().probs(q, log_prior, 0.0, 0.0), [[0.25, 0.75, 0.0]])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EpsilonGreedy(1.5), r"EpsilonGreedy: epsilon must be in \[0, 1\], got 1.5"),
        (lambda: EpsilonSoft(Annealed(1.0, -0.1)), r"EpsilonSoft: epsilon must be in \[0, 1\]"),
        (lambda: Boltzmann(-1.0), "Boltzmann: temperature must be at least 0"),
        (lambda: Boltzmann(math.inf), "Boltzmann: temperature must be at least 0"),
        (lambda: EpsilonGreedy(math.nan), "EpsilonGreedy: epsilon"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- what a learner draws and records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(
    "exploration", [SoftPolicy(), EpsilonGreedy(0.3), EpsilonSoft(Annealed(1.0, 0.2)), Boltzmann(0.2)], ids=str
)
def test_draws_and_log_ratios_are_of_the_behaviour(exploration: Any, share: float) -> None:
    """2000 draws in each state; each count is within five standard errors, what has no chance is never drawn."""
    world = MatchingReward(states="index")
    prior = cai.factors.TabularPolicy([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]])
    graph = world.graph(temperature=0.5, action_prior=prior)
    learner = cai.SoftQLearning(exploration=exploration).learner(graph)
    learner.table.copy_(torch.tensor([[0.3, 0.0, -0.1], [0.5, 0.2, 0.4], [0.0, 1.0, 2.0]], dtype=torch.float64))
    learner.share, num = share, 2000
    torch.manual_seed(0)
    states = np.repeat(np.arange(3), num)
    choice = learner.act(states)
    log_prior = np.log(prior.probs.numpy(), out=np.full((3, 3), -np.inf), where=prior.probs.numpy() > 0)
    probs = exploration.probs(learner.table.numpy(), log_prior, 0.5, share)
    counts = np.stack([np.bincount(choice.actions[states == s], minlength=3) for s in range(3)])
    assert (np.abs(counts - num * probs) <= 5 * np.sqrt(num * probs * (1 - probs))).all()
    expected = np.log(probs[states, choice.actions]) - log_prior[states, choice.actions]
    np.testing.assert_allclose(choice.log_ratios, expected, atol=1e-5)
    assert choice.log_ratios.dtype == np.float32


def test_the_first_steps_are_uniform_on_what_is_allowed() -> None:
    world = MatchingReward(states="index")
    prior = cai.factors.TabularPolicy([[0.5, 0.3, 0.2], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]])
    learner = cai.SoftQLearning().learner(world.graph(temperature=0.5, action_prior=prior))
    torch.manual_seed(0)
    states = np.repeat(np.arange(3), 900)
    choice = learner.explore(states)
    counts = np.stack([np.bincount(choice.actions[states == s], minlength=3) for s in range(3)])
    assert (counts[prior.probs.numpy() == 0] == 0).all()
    assert (np.abs(counts[0] - 300) < 5 * np.sqrt(200)).all()
    np.testing.assert_allclose(
        choice.log_ratios[:900], np.log(1 / 3) - np.log(prior.probs[0].numpy()[choice.actions[:900]]), atol=1e-5
    )
