"""A tiny world that ends, a softmax policy on it, and the gradients that estimators are to have, by linear algebra.

N(s) is the expected number of visits, without a discount; Q and V are of the policy, soft where alpha > 0:

    by rows        sum_s N(s) sum_a grad pi(a|s) (Q(s, a) - alpha log(pi/mu)(a|s)) - c sum_s N(s) grad KL(pi || mu)(s)
    discounted     grad of E sum_t gamma^t [r_t - alpha log(pi/mu)(a_t|s_t)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cai
from cai.factors import MLPBody
from cai.methods.policy_gradient import PolicyGradient
from cai.methods.policy_gradients.batches import Batch, batch_of
from cai.methods.policy_gradients.experience import experience_of
from cai.methods.policy_gradients.learner import PolicyGradientLearner
from cai.methods.sampling.on_policy import Rollout

#: No hidden layer: on one-hot features a table.
TABLE = MLPBody(())
#: Two states, three actions, and an end that pays by itself.
NUM_STATES, NUM_ACTIONS = 3, 3
_RNG = np.random.default_rng(3)
DYNAMICS = 0.7 * _RNG.dirichlet(np.ones(NUM_STATES), (NUM_STATES, NUM_ACTIONS)) + 0.3 * np.eye(NUM_STATES)[2]
REWARDS = _RNG.normal(size=(NUM_STATES, NUM_ACTIONS))
END = np.array([0.0, 0.0, 1.0])


def world(*, temperature: float, discount: float = 1.0, prior: Any = None) -> cai.TrajectoryGraph:
    """State 2 is terminal and worth 0.5; from the others it is reached with probability 0.3 or more."""
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical([0.6, 0.4, 0.0]),
        dynamics=cai.factors.TabularDynamics(DYNAMICS, terminal=END > 0),
        reward=cai.factors.TabularReward(REWARDS),
        terminal_reward=cai.factors.TabularReward(0.5 * END),
        discount=discount,
        temperature=temperature,
        action_prior=prior,
    )


PRIOR = cai.factors.TabularPolicy([[0.5, 0.3, 0.2], [0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])


@dataclass(frozen=True, eq=False)
class Exact:
    """Exact gradients by the logits, `[S, A]`, and values `[S]`."""

    by_rows: Tensor
    discounted: Tensor
    v: Tensor
    advantages: Tensor
    visits: Tensor


def exact(graph: cai.TrajectoryGraph, logits: Tensor, *, in_reward: float = 0.0, bonus: float = 0.0) -> Exact:
    """Solves for values, visits and gradients of a softmax policy of logits `[S, A]`, log mu included."""
    logits = logits.detach().clone().requires_grad_()
    logs = logits.log_softmax(-1)
    pi = logs.exp()
    prior = graph.action_prior
    mu = torch.full_like(pi, 1 / NUM_ACTIONS) if prior is None else prior.probs
    gap = torch.where(pi > 0, logs - mu.log(), 0.0)
    table, end = torch.from_numpy(DYNAMICS), torch.from_numpy(END)
    rewards = torch.from_numpy(REWARDS) + graph.discount * table @ (0.5 * end)
    alive = table * (1 - end)
    paid = torch.where(pi > 0, rewards - in_reward * gap, 0.0)
    kernel = torch.einsum("sa,sat->st", pi, alive)
    eye = torch.eye(NUM_STATES, dtype=torch.float64)
    v = torch.linalg.solve(eye - graph.discount * kernel, (pi * paid).sum(-1)) * (1 - end)
    initial = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    (discounted,) = torch.autograd.grad(initial @ v, logits, retain_graph=True)
    visits = torch.linalg.solve(eye - kernel.detach().T, initial)
    advantages = (paid + graph.discount * alive @ v - v[:, None]).detach()
    divergence = (pi * gap).sum(-1)
    (by_rows,) = torch.autograd.grad(visits @ ((pi * advantages).sum(-1) - bonus * divergence), logits)
    return Exact(by_rows, discounted, v.detach(), advantages, visits)


def learner_of(graph: cai.TrajectoryGraph, logits: Tensor, **options: Any) -> PolicyGradientLearner:
    """A learner in float64 whose policy is a table of logits, counted from the prior where that is not uniform."""
    settings: dict[str, Any] = {"body": TABLE, "standardised_advantages": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = PolicyGradient(**settings | options).learner(graph)
    learner.modules.double()
    set_table(learner.modules["policy"].network, logits)
    return learner


def set_table(network: Any, table: Tensor) -> None:
    """Makes a network without hidden layers a table `[S, A]`."""
    with torch.no_grad():
        network.layers[0].weight.copy_(table.T)
        network.layers[0].bias.zero_()


def episodes(graph: cai.TrajectoryGraph, logits: Tensor, num: int, seed: int) -> Rollout:
    """One whole episode of each of `num` copies."""
    method = PolicyGradient(
        num_envs=num, steps_per_rollout=1, body=TABLE, critic=None, advantage=cai.methods.RewardToGo()
    )
    run = method.init(graph, seed)
    run.learner.modules.double()
    set_table(run.learner.modules["policy"].network, logits)
    with run.random.active():
        run.start()
        return method._acted(run)


def batch_from(learner: PolicyGradientLearner, rollout: Rollout) -> Batch:
    """What an update sees of a rollout."""
    return batch_of(learner, experience_of(learner, rollout))


def gradient(learner: PolicyGradientLearner, batch: Batch) -> Tensor:
    """The gradient of the sum over rows by the logits, `[S, A]`."""
    objective = learner.objective(batch, learner.outputs(batch).policy) * len(batch)
    layer = learner.modules["policy"].network.layers[0]
    weight, bias = torch.autograd.grad(objective, [layer.weight, layer.bias])
    assert torch.allclose(weight.sum(1), bias)
    return weight.T


def mean_and_error(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of independent samples `[K, ...]`, and its standard error."""
    return samples.mean(0), samples.std(0) / len(samples) ** 0.5
