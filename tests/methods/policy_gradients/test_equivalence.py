"""Policy gradient = soft Q-learning: one identity of gradients, with the library's own policy gradient on one side.

With Q = V + alpha log(pi / mu), actions of pi and targets y that are held fixed,

    grad E_pi (Q - y)^2 / 2 = - alpha grad (E_pi y - alpha KL(pi || mu)) + grad (V - V_hat)^2 / 2
    V_hat = E_pi y - alpha KL(pi || mu), held fixed

Source: Schulman, Chen and Abbeel (2017), section 3.2.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cai
from cai.methods import InReward, SharedCritic
from cai.methods.policy_gradients.batches import Batch
from tests.methods.policy_gradients import world as w


@pytest.mark.parametrize("prior", [None, cai.factors.TabularPolicy([[0.5, 0.3, 0.2]] * 3)], ids=["uniform", "table"])
@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_of_soft_q_learning_is_a_policy_gradient_and_a_value_gradient(seed: int, prior: Any) -> None:
    alpha = 0.2 + 0.4 * seed
    graph = w.world(temperature=alpha, discount=0.9, prior=prior)
    body = cai.factors.MLPBody((7,), "tanh")
    critic = SharedCritic(coefficient=0.5 / alpha)  # half the squared error, in the units of the policy's part
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = cai.PolicyGradient(body=body, critic=critic, regulariser=InReward(), standardised_advantages=False)
        learner = method.learner(graph)
        learner.modules.double()
        for parameter in learner.modules.parameters():
            parameter.data += torch.randn_like(parameter)
        y = torch.randn(2, 3, dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    inputs, offsets, actions = learner.inputs(pairs[:, 0]), learner.offsets(pairs[:, 0]), pairs[:, 1]
    parameters = list(learner.modules.parameters())

    def parts() -> tuple[Tensor, Tensor, Tensor]:
        """V `[S]`, log pi `[S, A]`, log mu `[S, A]`."""
        outputs = learner.policy_outputs(inputs, offsets).reshape(2, 3, 3)[:, 0]
        mu = torch.full((2, 3), 1 / 3, dtype=torch.float64) if prior is None else prior.probs[:2]
        return learner.values(inputs).reshape(2, 3)[:, 0], outputs.log_softmax(-1), mu.log()

    v, logs, log_mu = parts()
    pi = logs.exp().detach()
    q = v[:, None] + alpha * (logs - log_mu)
    soft_q_loss = (pi * (q - y).square() / 2).sum(-1).mean()
    expected = torch.autograd.grad(soft_q_loss, parameters)

    v, logs, log_mu = parts()
    gaps = (logs - log_mu).detach()
    v_hat = (pi * (y - alpha * gaps)).sum(-1, keepdim=True)
    worths = (y - alpha * gaps - v_hat).flatten()  # one-step soft advantages, log(pi / mu) in the reward
    targets = v_hat.expand(2, 3).flatten()
    # every pair once, in the place of as often as pi takes it
    worths = 3 * pi.flatten() * worths
    log_probs = logs.detach().flatten()
    outputs = learner.policy_outputs(inputs, offsets).detach()
    rows = {"inputs": inputs, "actions": actions, "offsets": offsets, "log_probs": log_probs, "targets": targets}
    batch = Batch(
        **rows,
        log_ratios=gaps.flatten(),
        worths=worths,
        advantages=worths,
        values=targets,
        outputs=outputs,
        old=learner.density.frozen(),
    )
    losses: list[Tensor] = []
    learner.descend = lambda loss, name, **options: losses.append(loss) or torch.zeros(())  # type: ignore
    outputs = learner.outputs(batch)
    learner.ascend(learner.surrogate(batch, outputs.policy), batch, outputs)
    found = torch.autograd.grad(alpha * losses[0], parameters)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
