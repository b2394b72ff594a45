"""One update against its arithmetic by hand, in double precision: errors of the critics, gradients of the actor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete

import cai
from cai.methods import DeterministicLimit
from tests.methods.actor_critic import build as B

ALPHA = 0.3
LOG_BOX = float(np.log(B.HIGH - B.LOW).sum())


def targets_by_hand(batch: Any, following: np.ndarray) -> np.ndarray:
    """y, with nothing beyond a terminal state."""
    alive = ~batch.terminated.numpy()
    lost = ALPHA * B.numbers(batch.log_ratios)
    return B.numbers(batch.rewards) - lost + B.numbers(batch.discounts) * alive * following


def errors_by_hand(learner: Any, batch: Any, following: np.ndarray, unit: np.ndarray) -> np.ndarray:
    inputs = np.concatenate([B.numbers(batch.states), unit], -1)
    q = B.stacked(B.parameters_of(learner.modules["critics"].online), inputs)[..., 0]
    return np.abs(q - targets_by_hand(batch, following)).mean(0)


def learned(learner: Any, batch: Any, seed: int = 5) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Takes the update with known noise: errors, and the noise of the targets and of the actor."""
    shape = (len(batch), 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        noise = [torch.randn(shape), torch.randn(shape)]
        torch.manual_seed(seed)
        errors = learner.learn(batch)
    return B.numbers(errors), noise


@pytest.mark.parametrize("num_critics", [1, 2])
@pytest.mark.parametrize("prior", ["uniform", "flat"])
def test_critic_errors_on_a_box(num_critics: int, prior: str) -> None:
    graph = B.graph_of(B.box(), action_prior=None if prior == "uniform" else cai.factors.FlatPrior())
    learner, batch = B.learner_of(graph, num_critics=num_critics), B.box_batch()
    target = B.parameters_of(learner.modules["critics"].target)
    actor = B.parameters_of(learner.modules["actor"])
    online = B.learner_of(graph, num_critics=num_critics)  # the same, as it was
    errors, (noise, _) = learned(learner, batch)
    following = B.numbers(batch.next_states)
    actions, log_prob = B.squashed_draw(B.network(actor, following), B.numbers(noise))
    q = B.stacked(target, np.concatenate([following, B.to_unit(actions)], -1))[..., 0].min(0)
    log_prior = -LOG_BOX if prior == "uniform" else 0.0
    values = q - ALPHA * (log_prob - log_prior)
    expected = errors_by_hand(online, batch, values, B.to_unit(B.numbers(batch.actions)))
    np.testing.assert_allclose(errors, expected, rtol=2e-5, atol=1e-5)


def test_terminal_reward_is_the_value_beyond() -> None:
    def worth(state: torch.Tensor) -> torch.Tensor:
        return 3.0 * state[..., 0]

    batch = B.box_batch()
    plain, _ = learned(B.learner_of(B.graph_of(B.box()), num_critics=1), batch)
    learner = B.learner_of(B.graph_of(B.box()).replace(terminal_reward=worth), num_critics=1)
    q = B.learner_of(B.graph_of(B.box()), num_critics=1).q(batch.states, batch.actions).detach()
    ended, _ = learned(learner, batch)
    beyond = batch.rewards + 0.9 * worth(batch.next_states)
    np.testing.assert_array_equal(np.delete(plain, 1), np.delete(ended, 1))
    assert ended[1] == pytest.approx(abs(float(q[1] - beyond[1])), rel=1e-5)


def test_several_steps_lose_the_entropy_between() -> None:
    """14i: of n-step returns the log-ratios of the later actions are taken, and the discount is gamma^n."""
    log_ratios, discounts = (
        torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0, -1.0]),
        torch.tensor([0.9, 0.81, 0.81, 0.9, 0.9, 0.81]),
    )
    batch = B.box_batch(log_ratios=log_ratios, discounts=discounts)
    graph = B.graph_of(B.box())
    learner, before = B.learner_of(graph, n_step=2), B.learner_of(graph, n_step=2)
    errors, (noise, _) = learned(learner, batch)
    following = B.numbers(batch.next_states)
    actor, target = (B.parameters_of(before.modules[name]) for name in ("actor", "critics"))
    target = B.parameters_of(before.modules["critics"].target)
    actions, log_prob = B.squashed_draw(B.network(actor, following), B.numbers(noise))
    q = B.stacked(target, np.concatenate([following, B.to_unit(actions)], -1))[..., 0].min(0)
    expected = errors_by_hand(before, batch, q - ALPHA * (log_prob + LOG_BOX), B.to_unit(B.numbers(batch.actions)))
    np.testing.assert_allclose(errors, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("space", [Discrete(3, start=2), MultiDiscrete([2, 3])], ids=["discrete", "several"])
@pytest.mark.parametrize("prior", [False, True], ids=["uniform", "prior"])
def test_critic_errors_on_finite_actions(space: gymnasium.Space, prior: bool) -> None:
    graph = B.graph_of(space)
    log_prior = np.full(
        6 if isinstance(space, MultiDiscrete) else 3, -np.log(6 if isinstance(space, MultiDiscrete) else 3)
    )
    if prior and isinstance(space, Discrete):
        probs = torch.tensor([0.5, 0.2, 0.3])
        graph = graph.replace(
            action_prior=lambda state: torch.distributions.Categorical(probs.expand(*state.shape[:-1], 3))
        )
        log_prior = probs.double().log().numpy()
    learner = B.learner_of(graph)
    chosen = [2, 4, 3, 3, 2, 4] if isinstance(space, Discrete) else [[0, 2], [1, 1], [0, 0], [1, 2], [0, 1], [1, 0]]
    index = np.asarray(chosen) - 2 if isinstance(space, Discrete) else np.asarray(chosen) @ [3, 1]
    batch = B.batch_of(chosen)
    before = B.learner_of(graph)
    errors = B.numbers(learner.learn(batch))
    following = B.numbers(batch.next_states)
    log_pi = B.log_softmax(B.network(B.parameters_of(before.modules["actor"]), following) + log_prior)
    q = B.stacked(B.parameters_of(before.modules["critics"].target), following).min(0)
    values = (np.exp(log_pi) * (q - ALPHA * (log_pi - log_prior))).sum(-1)
    online = B.stacked(B.parameters_of(before.modules["critics"].online), B.numbers(batch.states))
    taken = online[:, np.arange(6), index]
    np.testing.assert_allclose(errors, np.abs(taken - targets_by_hand(batch, values)).mean(0), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(
        B.numbers(before.v(batch.next_states)), values, rtol=2e-5, atol=1e-5
    )  # targets are copies
    np.testing.assert_allclose(B.numbers(before.q(batch.states, batch.actions)), taken.min(0), rtol=2e-5, atol=1e-5)


def test_critic_errors_at_temperature_zero() -> None:
    """TD3: the least of the targets at the target actor's action with clipped noise; nothing is drawn otherwise."""
    limit = DeterministicLimit(target_noise=0.4, noise_clip=0.3, policy_delay=2)
    graph = B.graph_of(B.box(), temperature=0.0)
    learner, before, batch = B.learner_of(graph, limit=limit), B.learner_of(graph, limit=limit), B.box_batch()
    errors, (noise, _) = learned(learner, batch)
    following = B.numbers(batch.next_states)
    unit = np.tanh(B.network(B.parameters_of(before.modules["actor"]), following))
    unit = np.clip(unit + np.clip(0.4 * B.numbers(noise), -0.3, 0.3), -1, 1)
    assert (np.abs(0.4 * B.numbers(noise)) > 0.3).any()
    q = B.stacked(B.parameters_of(before.modules["critics"].target), np.concatenate([following, unit], -1))[..., 0].min(
        0
    )
    expected = errors_by_hand(before, batch, q, B.to_unit(B.numbers(batch.actions)))
    np.testing.assert_allclose(errors, expected, rtol=2e-5, atol=1e-5)
    np.testing.assert_array_equal(*(B.parameters_of(x.modules["actor"])[0] for x in (learner, before)))  # not yet
    learner.learn(batch)
    assert (B.parameters_of(learner.modules["actor"])[0] != B.parameters_of(before.modules["actor"])[0]).all()


def test_ddpg_is_a_special_case() -> None:
    """One critic, no noise in targets, the actor at every update: y = r + gamma Q'(s', a'(s'))."""
    limit = DeterministicLimit(target_noise=0.0, policy_delay=1)
    graph = B.graph_of(B.unbounded(), temperature=0.0)
    learner, before = (B.learner_of(graph, limit=limit, num_critics=1) for _ in range(2))
    batch = B.box_batch()
    errors, _ = learned(learner, batch)
    following = B.numbers(batch.next_states)
    chosen = B.network(B.parameters_of(before.modules["actor"]), following)
    q = B.stacked(B.parameters_of(before.modules["critics"].target), np.concatenate([following, chosen], -1))[0, :, 0]
    np.testing.assert_allclose(errors, errors_by_hand(before, batch, q, B.numbers(batch.actions)), rtol=2e-5, atol=1e-5)
    assert (B.parameters_of(learner.modules["actor"])[0] != B.parameters_of(before.modules["actor"])[0]).all()
    rate = 0.005
    for name in ("actor", "target_actor"):
        assert learner.modules[name] is not before.modules[name]
    old, new, slow = (
        B.parameters_of(x)[2]
        for x in (before.modules["actor"], learner.modules["actor"], learner.modules["target_actor"])
    )
    np.testing.assert_allclose(slow, (1 - rate) * old + rate * new, atol=1e-7)


def differences(loss: Callable[[list[np.ndarray]], float], parameters: list[np.ndarray]) -> list[np.ndarray]:
    """Central differences of a loss in every parameter."""
    gradients = []
    for parameter in parameters:
        gradient = np.zeros_like(parameter)
        for place in np.ndindex(parameter.shape):
            kept = parameter[place]
            ends = []
            for step in (1e-5, -1e-5):
                parameter[place] = kept + step
                ends.append(loss(parameters))
            parameter[place] = kept
            gradient[place] = (ends[0] - ends[1]) / 2e-5
        gradients.append(gradient)
    return gradients


def assert_gradients(learner: Any, loss: Callable[[list[np.ndarray]], float], before: Any) -> None:
    expected = differences(loss, B.parameters_of(before.modules["actor"]))
    for parameter, gradient in zip(learner.modules["actor"].parameters(), expected, strict=True):
        np.testing.assert_allclose(B.numbers(parameter.grad), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_gradient_of_the_actor_on_a_box(prior: str) -> None:
    """Through the draw, its log-density, the critics (which one is least differs by row) and the prior."""

    def normal(state: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(0.5 * state, 0.7), 1)

    graph = B.graph_of(B.box(), action_prior=None if prior == "uniform" else normal)
    learner, before, batch = B.learner_of(graph), B.learner_of(graph), B.box_batch()
    _, (_, noise) = learned(learner, batch)
    states = B.numbers(batch.states)
    critics = B.parameters_of(learner.modules["critics"].online)  # the actor climbs them as they are after their step

    def loss(parameters: list[np.ndarray]) -> float:
        actions, log_prob = B.squashed_draw(B.network(parameters, states), B.numbers(noise))
        log_prior = np.full(6, -LOG_BOX)
        if prior == "normal":
            log_prior = (-0.5 * ((actions - 0.5 * states) / 0.7) ** 2 - np.log(0.7 * math.sqrt(2 * np.pi))).sum(-1)
        q = B.stacked(critics, np.concatenate([states, B.to_unit(actions)], -1))[..., 0]
        return float((ALPHA * (log_prob - log_prior) - q.min(0)).mean())

    assert_gradients(learner, loss, before)


def test_gradient_of_the_actor_on_finite_actions() -> None:
    graph = B.graph_of(Discrete(3))
    learner, before, batch = B.learner_of(graph), B.learner_of(graph), B.batch_of([0, 1, 2, 2, 1, 0])
    learner.learn(batch)
    states = B.numbers(batch.states)
    q = B.stacked(B.parameters_of(learner.modules["critics"].online), states).min(0)

    def loss(parameters: list[np.ndarray]) -> float:
        log_pi = B.log_softmax(B.network(parameters, states))
        return float((np.exp(log_pi) * (ALPHA * (log_pi + np.log(3)) - q)).sum(-1).mean())

    assert_gradients(learner, loss, before)


def test_gradient_of_the_actor_at_temperature_zero() -> None:
    graph = B.graph_of(B.box(), temperature=0.0)
    limit = DeterministicLimit(policy_delay=1)
    learner, before, batch = B.learner_of(graph, limit=limit), B.learner_of(graph, limit=limit), B.box_batch()
    learner.learn(batch)
    states = B.numbers(batch.states)
    critics = B.parameters_of(learner.modules["critics"].online)

    def loss(parameters: list[np.ndarray]) -> float:
        unit = np.tanh(B.network(parameters, states))
        return float(-B.stacked(critics, np.concatenate([states, unit], -1))[0, :, 0].mean())

    assert_gradients(learner, loss, before)


def test_gradients_of_the_critics_and_their_clipping() -> None:
    """Half the weighted squared error, summed over critics; scaled down to a norm where it is asked for."""
    graph, batch = B.graph_of(Discrete(3)), B.batch_of([0, 1, 2, 2, 1, 0])
    free, bound, before = B.learner_of(graph), B.learner_of(graph, max_gradient_norm=0.01), B.learner_of(graph)
    for learner in (free, bound):
        learner.learn(batch)
    values = B.numbers(before.v(batch.next_states))
    parameters, states = B.parameters_of(before.modules["critics"].online), B.numbers(batch.states)
    y, weights, index = targets_by_hand(batch, values), B.numbers(batch.weights), batch.actions.numpy()

    def loss(parameters: list[np.ndarray]) -> float:
        taken = B.stacked(parameters, states)[:, np.arange(6), index]
        return float((weights * (taken - y) ** 2).mean(-1).sum() / 2)

    expected = differences(loss, parameters)
    norm = math.sqrt(sum((gradient**2).sum() for gradient in expected))
    assert norm > 0.01
    for learner, scale in ((free, 1.0), (bound, 0.01 / norm)):
        for parameter, gradient in zip(learner.modules["critics"].online.parameters(), expected, strict=True):
            np.testing.assert_allclose(B.numbers(parameter.grad), scale * gradient, rtol=1e-3, atol=1e-5 * scale)


def test_slow_critics_follow_by_the_stated_weight() -> None:
    graph = B.graph_of(B.box())
    learner, before = (B.learner_of(graph, target=cai.methods.PolyakTarget(0.2)) for _ in range(2))
    learner.learn(B.box_batch())
    old, new, slow = (
        B.parameters_of(x)
        for x in (
            before.modules["critics"].online,
            learner.modules["critics"].online,
            learner.modules["critics"].target,
        )
    )
    for a, b, c in zip(old, new, slow, strict=True):
        np.testing.assert_allclose(c, 0.8 * a + 0.2 * b, atol=1e-7)
        assert (a != b).any()
