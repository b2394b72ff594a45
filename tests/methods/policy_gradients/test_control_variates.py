"""Baselines that depend on the action leave the mean gradient as it is, and take from its variance."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.factors import GaussianHead, MLPBody, SquashedGaussianHead
from cai.methods import (
    FittedAdvantage,
    LinearInAction,
    Reparameterised,
    RewardToGo,
    SeparateCritic,
    SumOverActions,
)
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.learner import PolicyGradientLearner
from tests.methods.policy_gradients import world as w

LOGITS = torch.tensor([[0.3, -0.5, 0.1], [0.8, 0.2, -0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
K = 4.5


def test_of_finitely_many_actions() -> None:
    graph = w.world(temperature=0.5)
    answer = w.exact(graph, LOGITS, in_reward=0.5)
    options = {"advantage": RewardToGo(), "critic": SeparateCritic(body=w.TABLE)}
    plain = w.learner_of(graph, LOGITS, **options)
    others = {}
    anything = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    for name, phi in (("any", anything), ("good", answer.advantages)):
        others[name] = w.learner_of(graph, LOGITS, control_variate=FittedAdvantage(body=w.TABLE), **options)
        w.set_table(others[name].modules["control_variate"], phi)
    for learner in (plain, *others.values()):
        w.set_table(learner.modules["critic"], answer.v[:, None])
    rollouts = [w.episodes(graph, LOGITS, 100, seed) for seed in range(60)]
    found = {
        name: torch.stack([w.gradient(learner, w.batch_from(learner, rollout)) / 100 for rollout in rollouts])
        for name, learner in {"plain": plain, **others}.items()
    }
    for samples in found.values():
        mean, error = w.mean_and_error(samples)
        assert error.norm() < 0.1 * answer.by_rows.norm()
        assert ((mean - answer.by_rows).abs() <= K * error + 1e-12).all()
    assert found["good"].var(0).sum() < 0.8 * found["plain"].var(0).sum()


class Target(gymnasium.Env):
    """One step from x ~ U(-1, 1): a is to be x, and pays -(a - x)^2 + a noise."""

    def __init__(self, bound: float = np.inf) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-bound, bound, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._x = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self._x, {}

    def step(self, action: Any) -> Any:
        reward = -float((action - self._x).sum() ** 2) + 0.1 * self.np_random.normal()
        return self._x, reward, True, False, {}


class Square(torch.nn.Module):
    """phi(x, a) = -(a - x)^2 c, of x and a in its unit beside each other."""

    def __init__(self, size: float, unit: float) -> None:
        super().__init__()
        self.size = torch.nn.Parameter(torch.tensor(size, dtype=torch.float64))
        self.unit = unit

    def forward(self, both: Tensor) -> Tensor:
        return -self.size * (self.unit * both[..., 1:] - both[..., :1]) ** 2


def flat_gradient(learner: PolicyGradientLearner, batch: Batch) -> Tensor:
    objective = learner.objective(batch, learner.outputs(batch).policy)
    return torch.nn.utils.parameters_to_vector(
        torch.autograd.grad(objective, list(learner.modules["policy"].parameters()))
    )


@pytest.mark.parametrize(
    ("head", "bound", "expectation"),
    [
        (GaussianHead(-0.5), np.inf, LinearInAction()),
        (GaussianHead(-0.5), np.inf, Reparameterised()),
        (SquashedGaussianHead(), 2.0, Reparameterised(num_samples=3)),
    ],
    ids=["linear", "normal", "squashed"],
)
@pytest.mark.parametrize("size", [1.0, -0.7])
def test_of_boxes(head: Any, bound: float, expectation: Any, size: float) -> None:
    graph = cai.from_gym(Target(bound), discount=0.9, temperature=0.1)
    method = cai.PolicyGradient(
        num_envs=20,
        steps_per_rollout=10,
        head=head,
        body=MLPBody(()),
        advantage=RewardToGo(),
        critic=None,
        standardised_advantages=False,
    )
    controlled = cai.PolicyGradient(**vars(method) | {"control_variate": FittedAdvantage(expectation=expectation)})
    run = method.init(graph, 0)
    with run.random.active():
        run.start()
        rollouts = [method._acted(run) for _ in range(50)]
        learner = controlled.learner(graph)
        learner.modules["policy"].load_state_dict(run.learner.modules["policy"].state_dict())
        learner.modules["control_variate"] = Square(size, 1.0 if bound == np.inf else bound)
        for one in (run.learner, learner):
            one.modules.double()
        plain, other = (
            torch.stack([flat_gradient(one, w.batch_from(one, rollout)) for rollout in rollouts])
            for one in (run.learner, learner)
        )
    mean, error = w.mean_and_error(other - plain)
    assert error.norm() < 0.3 * plain.mean(0).norm() or size < 0
    assert (mean.abs() <= K * error).all(), mean / error
    assert (other.var(0).sum() < 0.8 * plain.var(0).sum()) == (size > 0)


def test_phi_is_fitted_to_advantages() -> None:
    option = FittedAdvantage(body=w.TABLE, num_epochs=400, learning_rate=0.05, batch_size=10**6)
    options = {"advantage": RewardToGo(), "critic": SeparateCritic(body=w.TABLE)}
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, control_variate=option, **options)
    batch = w.batch_from(learner, w.episodes(w.world(temperature=0.5), LOGITS, 300, 0))
    option.fit(learner, batch)
    said = option.values(learner, batch)
    pairs = batch.inputs.argmax(-1) * 3 + batch.actions
    for pair in pairs.unique():
        rows = pairs == pair
        assert float(said[rows][0].detach()) == pytest.approx(float(batch.worths[rows].mean()), abs=0.02)


def test_what_does_not_fit_is_refused() -> None:
    tabular, box = w.world(temperature=0.5), cai.from_gym(Target(2.0), discount=0.9)
    for graph, expectation in ((tabular, Reparameterised()), (tabular, LinearInAction()), (box, SumOverActions())):
        with pytest.raises(cai.IncompatibleMethod, match=type(expectation).__name__):
            cai.infer(graph, cai.PolicyGradient(control_variate=FittedAdvantage(expectation=expectation)))
    with pytest.raises(cai.IncompatibleMethod, match="whose mean is known"):
        cai.infer(box, cai.PolicyGradient(control_variate=FittedAdvantage(expectation=LinearInAction())))


def test_a_rollout_is_used_before_it_is_learned_from() -> None:
    control = FittedAdvantage(body=w.TABLE, learning_rate=0.1)
    learner = w.learner_of(w.world(temperature=0.5), LOGITS, control_variate=control, update=cai.methods.GradientStep())
    phi = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    w.set_table(learner.modules["control_variate"], phi)
    seen: list[Batch] = []
    learner.ascend = lambda gain, batch, outputs: seen.append(batch)  # type: ignore[method-assign]
    learner.learn_from(w.episodes(w.world(temperature=0.5), LOGITS, 50, 0))
    (batch,) = seen
    expected = phi[batch.inputs.argmax(-1), batch.actions]
    torch.testing.assert_close(batch.worths - batch.advantages, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(learner.modules["control_variate"].layers[0].weight.T, phi, atol=0.05)
