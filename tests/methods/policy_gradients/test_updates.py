"""How policies move: what each update promises, on tables where everything else is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import cai
from cai.methods import (
    GAE,
    ClippedSurrogate,
    GradientStep,
    ImportanceWeighted,
    JointCritic,
    KLPenalty,
    NaturalGradient,
    RewardToGo,
    SeparateCritic,
    SharedCritic,
    TrustRegion,
)
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.experience import experience_of
from cai.methods.policy_gradients.importance_weighted import weighted_gain
from cai.methods.policy_gradients.learner import PolicyGradientLearner
from cai.methods.policy_gradients.natural_gradient import Slope
from cai.methods.sampling.on_policy import Rollout
from tests.methods.policy_gradients import world as w

LOGITS = torch.tensor([[0.3, -0.5, 0.1], [0.8, 0.2, -0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
CRITIC = SeparateCritic(body=w.TABLE, num_epochs=1)
STATES = torch.arange(w.NUM_STATES)
K = 4.5


def rollout_of(seed: int = 0, num: int = 200, logits: Tensor = LOGITS) -> Rollout:
    return w.episodes(w.world(temperature=0.5), logits, num, seed)


def log_policy(learner: PolicyGradientLearner) -> Tensor:
    """Log pi, `[S, A]`, from the network's own weights."""
    layer = learner.modules["policy"].network.layers[0]
    return (layer.weight.T + layer.bias).detach().log_softmax(-1)


def parameters(learner: PolicyGradientLearner) -> Tensor:
    return torch.nn.utils.parameters_to_vector(learner.modules.parameters()).detach()


# -- gradient steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", [JointCritic(), SharedCritic(), CRITIC], ids=lambda c: type(c).__name__)
def test_the_first_step_of_ppo_is_that_of_a2c(critic: Any) -> None:
    moved = []
    for update in (GradientStep(), ClippedSurrogate(clip=0.1, num_epochs=1, batch_size=10**6)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            body = cai.factors.MLPBody((8,), "tanh")
            learner = cai.PolicyGradient(update=update, critic=critic, body=body).learner(w.world(temperature=0.5))
            learner.modules.double()
            learner.learn_from(rollout_of())
        moved.append(parameters(learner))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-12, atol=1e-14)


def test_nothing_is_gained_beyond_the_clip() -> None:
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, critic=CRITIC)
    batch = w.batch_from(learner, rollout_of())
    w.set_table(learner.modules["policy"].network, LOGITS + torch.tensor([0.4, 0.0, -0.3]))
    ratios = (log_policy(learner) - LOGITS.log_softmax(-1)).exp()[batch.inputs.argmax(-1), batch.actions]
    inside = torch.where(batch.advantages > 0, ratios < 1.2, ratios > 0.8)
    assert 0.1 < float(inside.double().mean()) < 0.9
    captured = []
    learner.ascend = lambda gain, part, outputs: captured.append(gain)  # type: ignore[method-assign]
    ClippedSurrogate(0.2, num_epochs=1, batch_size=10**6)._climbed(learner, batch, 0.2)
    layer = learner.modules["policy"].network.layers[0]
    (found,) = torch.autograd.grad(captured[0], [layer.bias])
    pi = log_policy(learner).exp()
    scores = torch.eye(3, dtype=torch.float64)[batch.actions] - pi[batch.inputs.argmax(-1)]
    expected = ((inside * ratios * batch.advantages)[:, None] * scores).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_epochs_end_at_the_target() -> None:
    counts = []
    for target in (None, 1e-4):
        update = ClippedSurrogate(num_epochs=50, batch_size=50, target_kl=target)
        learner = w.learner_of(
            w.world(temperature=0.5), LOGITS, update=update, critic=JointCritic(), learning_rate=0.02
        )
        counts.append(learner.learn_from(rollout_of()))
    assert counts[1] < counts[0] / 5


# -- steps measured by divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_natural_gradient_of_one_over_alpha_is_soft_policy_iteration(temperature: float) -> None:
    graph = w.world(temperature=temperature, discount=0.8)
    update = NaturalGradient(step=1.0 / temperature, damping=0.0, num_cg_steps=30)
    learner = w.learner_of(graph, LOGITS, update=update, critic=CRITIC)
    answer = w.exact(graph, LOGITS, in_reward=temperature)
    advantages = answer.advantages + 0.0
    pairs = torch.cartesian_prod(STATES[:2], torch.arange(3))
    pi = LOGITS.log_softmax(-1).exp()
    weights = 3 * pi[pairs[:, 0], pairs[:, 1]]  # every pair once, in the place of as often as pi takes it
    batch = batch_of_pairs(learner, pairs, weights * advantages[pairs[:, 0], pairs[:, 1]])
    learner.batch = lambda experience: batch  # type: ignore[method-assign, assignment]
    learner.fit = lambda batch: 0  # type: ignore[method-assign]
    update(learner, None)  # type: ignore[arg-type]
    gap = LOGITS.log_softmax(-1) + torch.tensor(3.0).log()
    q = answer.advantages + temperature * gap + answer.v[:, None]
    expected = (q / temperature).log_softmax(-1)
    torch.testing.assert_close(log_policy(learner)[:2], expected[:2], rtol=1e-8, atol=1e-10)


def batch_of_pairs(learner: PolicyGradientLearner, pairs: Tensor, advantages: Tensor) -> Batch:
    inputs, actions = learner.inputs(pairs[:, 0]), pairs[:, 1]
    with torch.no_grad():
        outputs = learner.policy_outputs(inputs, None)
        log_probs = learner.density.log_prob(outputs, actions)
    zeros = torch.zeros_like(log_probs)
    return Batch(
        inputs, actions, None, log_probs, zeros, advantages, advantages, zeros, zeros, outputs, learner.density.frozen()
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("radius", [1e-3, 0.03])
def test_a_trust_region_step_is_inside_its_radius_and_gains(seed: int, radius: float) -> None:
    graph = w.world(temperature=0.5, discount=0.8)
    logits = LOGITS + torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(seed))
    learner = w.learner_of(graph, logits, update=TrustRegion(radius=radius), critic=CRITIC)
    rollout = rollout_of(seed, 50, logits)
    batch = w.batch_from(learner, rollout)
    assert learner.learn_from(rollout) > 0
    old, new, rows = logits.log_softmax(-1), log_policy(learner), batch.inputs.argmax(-1)
    divergence = (old.exp() * (old - new)).sum(-1)[rows].mean()
    gains = ((new - old).exp()[rows, batch.actions] * batch.advantages).mean() - batch.advantages.mean()
    assert 0.2 * radius < divergence <= radius * (1 + 1e-9)
    assert gains > 0
    assert learner.metrics.means()["kl"] == pytest.approx(float(divergence), rel=1e-9)


def test_a_trust_region_that_is_never_inside_leaves_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slope, "divergence", lambda self: math.inf)
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, update=TrustRegion(), critic=CRITIC)
    before = log_policy(learner)
    learner.learn_from(rollout_of())
    torch.testing.assert_close(log_policy(learner), before, rtol=0, atol=0)


def test_a_natural_gradient_goes_as_far_as_it_is_told() -> None:
    learner = w.learner_of(
        w.world(temperature=0.5), LOGITS, update=NaturalGradient(radius=1e-5, damping=0.0), critic=CRITIC
    )
    learner.learn_from(rollout_of())
    assert learner.metrics.means()["kl"] == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize("update", [NaturalGradient(), TrustRegion()], ids=lambda u: type(u).__name__)
def test_without_advantages_nothing_moves(update: Any) -> None:
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, update=update, critic=CRITIC)
    rollout = rollout_of()
    batch = w.batch_from(learner, rollout)
    learner.batch = lambda experience: batch.scaled(0 * batch.advantages, standardised=False)  # type: ignore
    learner.learn_from(rollout)
    torch.testing.assert_close(log_policy(learner), LOGITS.log_softmax(-1), rtol=0, atol=1e-15)


def test_the_price_of_divergence_rises_and_falls() -> None:
    for target, rate in ((1e-6, 0.5), (10.0, 0.25)):
        update = KLPenalty(target, rate=rate)
        learner = w.learner_of(w.world(temperature=0.5), LOGITS, update=update, critic=JointCritic())
        learner.learn_from(rollout_of())
        excess = rate * (learner.metrics.means()["kl"] / target - 1.0)
        log_price = float(learner.modules["kl_penalty"].log_price)
        assert log_price == pytest.approx(min(excess, math.log(2.0)), rel=1e-9)
        assert (log_price > 0) == (target == 1e-6)


def test_the_price_brings_the_divergence_to_its_target() -> None:
    target = 0.003
    learner = w.learner_of(
        w.world(temperature=0.5), LOGITS, update=KLPenalty(target), critic=CRITIC, learning_rate=0.01
    )
    found = []
    for seed in range(40):
        learner.learn_from(rollout_of(seed, 60, log_policy(learner)))
        found.append(learner.metrics.means()["kl"])
    assert 0.5 * target < sum(found[20:]) / 20 < 2.0 * target


# -- importance weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [RewardToGo(), GAE(0.6), GAE(1.0)], ids=str)
def test_weights_make_another_policys_rollouts_this_ones(advantage: Any) -> None:
    graph = w.world(temperature=0.5)
    target = LOGITS + torch.tensor([[0.3, -0.2, 0.0], [-0.3, 0.1, 0.2], [0.0, 0.0, 0.0]])
    answer = w.exact(graph, target, in_reward=0.5)
    update = ImportanceWeighted(clip=torch.inf)
    acted = w.learner_of(graph, LOGITS, update=update, advantage=advantage, critic=CRITIC)
    learner = w.learner_of(graph, target, update=update, advantage=advantage, critic=CRITIC)
    w.set_table(learner.modules["critic"], answer.v[:, None])
    layer, samples = learner.modules["policy"].network.layers[0], []
    for seed in range(30):
        experience = experience_of(acted, w.episodes(graph, LOGITS, 500, seed))
        gain = weighted_gain(learner, experience, torch.inf).gain / 500
        samples.append(torch.autograd.grad(gain, [layer.weight])[0].T)
    mean, error = w.mean_and_error(torch.stack(samples))
    expected = answer.by_rows
    if isinstance(advantage, GAE):  # in the states that the other policy met
        visits = w.exact(graph, LOGITS).visits
        expected = expected * (visits / answer.visits.clamp(min=1e-12))[:, None]
    assert error.norm() < 0.15 * expected.norm()
    assert ((mean - expected).abs() <= K * error + 1e-12).all(), (mean - expected) / error


def test_a_rollout_of_the_policy_itself_weighs_one() -> None:
    graph = w.world(temperature=0.5)
    learner = w.learner_of(graph, LOGITS, update=ImportanceWeighted(), advantage=RewardToGo(), critic=None)
    rollout = rollout_of()
    experience = experience_of(learner, rollout)
    gain = weighted_gain(learner, experience, 2.0)
    layer = learner.modules["policy"].network.layers[0]
    found = torch.autograd.grad(gain.gain, [layer.weight])[0].T
    torch.testing.assert_close(found, w.gradient(learner, w.batch_from(learner, rollout)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gain.log_weights, torch.zeros_like(gain.log_weights), rtol=0, atol=1e-12)


def test_rollouts_are_used_again_as_often_as_told() -> None:
    update = ImportanceWeighted(num_reuses=3)
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, update=update, advantage=RewardToGo(), critic=None)
    sizes = []
    for seed in range(5):
        learner.learn_from(rollout_of(seed, 20, log_policy(learner)))
        sizes.append(len(learner.past))
    assert sizes == [1, 2, 3, 3, 3]
    assert 0.5 < learner.metrics.means()["effective_sample_size"] <= 1.0
