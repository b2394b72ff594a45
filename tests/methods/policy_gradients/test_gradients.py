"""The estimator's mean against gradients by linear algebra, for every advantage, regulariser and baseline."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.methods import GAE, Bonus, InReward, MonteCarlo, RewardToGo, SeparateCritic
from cai.methods.sampling.on_policy import Rollout
from tests.methods.policy_gradients import world as w

LOGITS = torch.tensor([[0.3, -0.5, 0.1], [0.8, 0.2, -0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
NUM_ROLLOUTS, NUM_EPISODES = 30, 500
#: Standard errors that a mean may be off.
K = 4.5


def tilted(graph: cai.TrajectoryGraph) -> torch.Tensor:
    """The logits that the policy has in the end: counted from log mu where mu is not uniform."""
    return LOGITS if graph.action_prior is None else LOGITS + graph.action_prior.probs.log()


def sampled(graph: cai.TrajectoryGraph, **options: Any) -> torch.Tensor:
    """Gradients of independent rollouts, one episode a copy, divided by the number of episodes: `[K, S, A]`."""
    learner = w.learner_of(graph, LOGITS, **options)
    if learner.method.critic is not None:
        regulariser = learner.method.regulariser
        alpha = graph.temperature if isinstance(regulariser, InReward) else 0.0
        values = w.exact(graph, tilted(graph), in_reward=alpha).v
        if not isinstance(learner.method.advantage, GAE):  # any baseline will do
            values = values + torch.tensor([1.0, -2.0, 3.0])
        w.set_table(learner.modules["critic"], values[:, None])
    batches = [w.batch_from(learner, rollout) for rollout in rollouts(graph.action_prior)]
    return torch.stack([w.gradient(learner, batch) / NUM_EPISODES for batch in batches])


@cache
def rollouts(prior: Any) -> list[Rollout]:
    """Rollouts of one whole episode a copy; what happens depends neither on temperature nor on discount."""
    graph = w.world(temperature=1.0, prior=prior)
    return [w.episodes(graph, LOGITS, NUM_EPISODES, seed) for seed in range(NUM_ROLLOUTS)]


CRITIC = SeparateCritic(body=w.TABLE)
ESTIMATORS = {
    "whole returns": {"advantage": MonteCarlo(), "critic": None},
    "whole returns less a baseline": {"advantage": MonteCarlo(), "critic": CRITIC},
    "rewards to go": {"advantage": RewardToGo(), "critic": None},
    "rewards to go less a baseline": {"advantage": RewardToGo(), "critic": CRITIC},
    "one-step errors": {"advantage": GAE(0.0), "critic": CRITIC},
    "generalised": {"advantage": GAE(0.7), "critic": CRITIC},
}
REGULARISERS = {
    "nothing": (0.0, InReward()),
    "in the reward": (0.7, InReward()),
    "bonus": (0.7, Bonus()),
    "another bonus": (0.0, Bonus(0.4)),
}


def assert_means(samples: torch.Tensor, expected: torch.Tensor) -> None:
    mean, error = w.mean_and_error(samples)
    assert (error.norm() < 0.1 * expected.norm()) and (error.norm() > 0), "the test has no power"
    assert ((mean - expected).abs() <= K * error + 1e-12).all(), ((mean - expected) / error, expected)


@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("prior", [None, w.PRIOR], ids=["uniform", "table"])
def test_undiscounted(estimator: str, regulariser: str, prior: Any) -> None:
    temperature, option = REGULARISERS[regulariser]
    graph = w.world(temperature=temperature, prior=prior)
    in_reward = temperature if isinstance(option, InReward) else 0.0
    bonus = 0.0 if isinstance(option, InReward) else (option.coefficient or temperature)
    answer = w.exact(graph, tilted(graph), in_reward=in_reward, bonus=bonus)
    if not bonus:
        torch.testing.assert_close(answer.by_rows, answer.discounted, rtol=1e-10, atol=1e-12)
    assert_means(sampled(graph, regulariser=option, **ESTIMATORS[estimator]), answer.by_rows)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_with_a_discount_rows_count_alike_but_for_whole_returns(estimator: str) -> None:
    graph = w.world(temperature=0.5, discount=0.4)
    answer = w.exact(graph, LOGITS, in_reward=0.5)
    samples = sampled(graph, **ESTIMATORS[estimator])
    assert_means(samples, answer.discounted if "whole" in estimator else answer.by_rows)
    _, error = w.mean_and_error(samples)
    assert ((answer.by_rows - answer.discounted).abs() > 2 * K * error).any(), "the conventions do not differ here"


# -- the bonus on boxes -----------------------------------------------------------------------------------------------

BOX = gymnasium.spaces.Box(-2.0, 3.0, (1,), np.float32)
LINE = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


def tilted_prior(state: torch.Tensor) -> torch.distributions.Distribution:
    """A prior that is no constant."""
    mean = torch.full((*state.shape[:-1], 1), 0.5, dtype=torch.float64)
    return torch.distributions.Independent(torch.distributions.Normal(mean, 2.0), 1)


@pytest.mark.parametrize(
    ("space", "head", "prior"),
    [
        (BOX, cai.factors.SquashedGaussianHead(), None),
        (BOX, cai.factors.SquashedGaussianHead(), tilted_prior),
        (LINE, cai.factors.StateGaussianHead(), None),
        (LINE, cai.factors.StateGaussianHead(), tilted_prior),
    ],
    ids=["squashed", "squashed, prior", "normal", "normal, prior"],
)
def test_the_bonus_on_boxes_is_a_divergence(space: gymnasium.Space, head: Any, prior: Any) -> None:
    """Gradients by the outputs of the policy's network against a divergence by quadrature."""
    num = 100_000
    states = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    graph = cai.from_gym(Idle(states, space), discount=0.9, temperature=0.7).replace(action_prior=prior)
    method = cai.PolicyGradient(
        head=head, body=w.TABLE, regulariser=Bonus(), critic=None, advantage=RewardToGo(), standardised_advantages=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = method.learner(graph)
        learner.modules.double()
        point = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
        outputs = point.expand(num, 2)
        with torch.no_grad():
            draw = learner.density.draw(outputs)
            rows = torch.zeros(num, 1, dtype=torch.float64)
            log_ratios = draw.log_probs - learner.prior.log_prob(rows, draw.actions)
        batch = SimpleNamespace(offsets=None, inputs=rows)
        penalty = method.regulariser.penalty(learner, batch, outputs)  # type: ignore[arg-type]
        charge = method.regulariser.charge(learner, log_ratios)
    assert (penalty is None) == isinstance(charge, torch.Tensor) == (prior is not None)
    # each row's own gradient, for an error of the mean
    leaves = outputs.detach().clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner.density.draw(leaves.detach())
        if penalty is None:
            total = (charge * learner.density.log_prob(leaves, draw.actions)).sum()
        else:
            total = num * method.regulariser.penalty(learner, batch, leaves)  # type: ignore[arg-type, operator]
    samples = torch.autograd.grad(total, leaves)[0]
    mean, error = w.mean_and_error(samples)
    low, high = (-2.0, 3.0) if space is BOX else (-12.0, 12.0)
    grid = torch.linspace(low, high, 40_001, dtype=torch.float64)[1:-1, None]
    policy = learner.density.distribution(point[None])
    logs = policy.log_prob(grid)
    log_prior = learner.prior.log_prob(torch.zeros(len(grid), 1, dtype=torch.float64), grid)
    divergence = (logs.exp() * (logs - log_prior)).sum() * float(grid[1] - grid[0])
    (exact,) = torch.autograd.grad(0.7 * divergence, point)
    assert ((mean - exact).abs() <= K * error + 1e-5).all(), (mean, exact, error)


class Idle(gymnasium.Env):
    """Spaces, and nothing that happens."""

    def __init__(self, states: gymnasium.Space, actions: gymnasium.Space) -> None:
        self.observation_space, self.action_space = states, actions
