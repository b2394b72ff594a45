"""What is read of a rollout: rows that are no transitions, ends of both kinds, whole episodes, scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.factors import MLPBody, Standardisation
from cai.methods import GAE, Bonus, JointCritic, MonteCarlo, RewardToGo, SeparateCritic
from cai.methods.policy_gradients.learner import PolicyGradientLearner
from cai.methods.sampling import on_policy
from cai.methods.sampling.on_policy import Rollout
from tests import probes
from tests.methods.policy_gradients import world as w

LOGITS = torch.tensor([[0.3, -0.5, 0.1], [0.8, 0.2, -0.4], [0.0, 0.0, 0.0]], dtype=torch.float64)
V = torch.tensor([1.0, 3.0, 100.0], dtype=torch.float64)


def by_hand(**columns: Any) -> Rollout:
    """One copy: states 0, 1, 0, 1; the second row terminates, the last is cut off by the end of the rollout."""
    standard = {
        "states": [0, 1, 0, 1],
        "actions": [0, 1, 2, 0],
        "rewards": [1.0, 2.0, 3.0, 4.0],
        "next_states": [1, 2, 1, 0],
        "terminated": [False, True, False, False],
        "truncated": [False, False, False, False],
        "valid": [True, True, True, True],
        "log_ratios": [0.1, 0.2, 0.3, 0.4],
    }
    tensors = {name: torch.as_tensor(column)[:, None] for name, column in (standard | columns).items()}
    return Rollout(**tensors)


def learner_of(**options: Any) -> PolicyGradientLearner:
    settings: dict[str, Any] = {"critic": SeparateCritic(body=w.TABLE), "advantage": GAE(0.0)}
    graph = w.world(temperature=options.pop("temperature", 0.0), discount=0.5)
    learner = w.learner_of(graph, LOGITS, **settings | options)
    if learner.method.critic is not None:
        w.set_table(learner.modules["critic"], V[:, None])
    return learner


def worths(learner: PolicyGradientLearner, rollout: Rollout) -> list[float]:
    return w.batch_from(learner, rollout).worths.tolist()


def test_termination_pays_what_the_end_is_worth_and_truncation_the_value_of_what_follows() -> None:
    cut = by_hand(truncated=[False, False, True, False])
    # r + 0.5 V(s') - V(s); the terminal state is worth 0.5
    errors = [1.0 + 1.5 - 1.0, 2.0 + 0.25 - 3.0, 3.0 + 1.5 - 1.0, 4.0 + 0.5 - 3.0]
    assert worths(learner_of(), cut) == pytest.approx(errors)
    chained = [errors[0] + 0.25 * errors[1], errors[1], errors[2], errors[3]]
    assert worths(learner_of(advantage=GAE(0.5)), cut) == pytest.approx(chained)
    going_on = [*chained[:2], errors[2] + 0.25 * errors[3], errors[3]]
    assert worths(learner_of(advantage=GAE(0.5)), by_hand()) == pytest.approx(going_on)


def test_returns() -> None:
    # to go: 1 + 0.5 * 2.25, 2 + 0.25, 3 + 0.5 * 4.5, 4 + 0.5 V(0)
    to_go = [2.125, 2.25, 5.25, 4.5]
    values = [1.0, 3.0, 1.0, 3.0]
    assert worths(learner_of(advantage=RewardToGo()), by_hand()) == pytest.approx(
        [g - v for g, v in zip(to_go, values, strict=True)]
    )
    first = [2.125 - 1.0, 2.125 - 1.0, 5.25 - 1.0, 5.25 - 1.0]
    assert worths(learner_of(advantage=MonteCarlo()), by_hand()) == pytest.approx(first)
    without = learner_of(advantage=RewardToGo(), critic=None)
    assert worths(without, by_hand()) == pytest.approx([2.125, 2.25, 5.0, 4.0])


def test_log_ratios_are_paid_in_the_reward_and_not_with_a_bonus() -> None:
    hard, soft = learner_of(), learner_of(temperature=2.0)
    differences = np.subtract(worths(hard, by_hand()), worths(soft, by_hand()))
    np.testing.assert_allclose(differences, [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    bonus = learner_of(temperature=2.0, regulariser=Bonus())
    assert worths(bonus, by_hand()) == pytest.approx(worths(hard, by_hand()))


@pytest.mark.parametrize("advantage", [GAE(0.7), RewardToGo(), MonteCarlo()], ids=str)
def test_rows_of_resets_have_no_influence(advantage: Any) -> None:
    """The same episodes, with a false row between them as a vector environment makes it, full of nonsense."""
    learner = learner_of(advantage=advantage, temperature=0.3)
    plain = by_hand()
    false = by_hand(
        states=[0, 1, 2, 0, 1],
        actions=[0, 1, 2, 2, 0],
        rewards=[1.0, 2.0, 1e6, 3.0, 4.0],
        next_states=[1, 2, 1, 1, 0],
        terminated=[False, True, False, False, False],
        truncated=[False] * 5,
        valid=[True, True, False, True, True],
        log_ratios=[0.1, 0.2, 1e6, 0.3, 0.4],
    )
    one, other = (w.batch_from(learner, rollout) for rollout in (plain, false))
    for name in ("inputs", "actions", "log_probs", "worths", "targets", "values"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_without_a_critic_rollouts_are_whole_episodes(num_envs: int) -> None:
    graph = probes.EndlessReward().graph(temperature=0.5)  # cut off after 5 steps
    method = cai.PolicyGradient(
        num_envs=num_envs, steps_per_rollout=7, num_steps=100, critic=None, advantage=RewardToGo()
    )
    run = method.init(graph, 0)
    with run.random.active():
        run.start()
        for _ in range(3):
            before = run.num_steps
            rollout = method._acted(run)
            assert rollout.valid.all() and len(rollout.valid) == 10
            assert rollout.truncated.sum(0).tolist() == [2] * num_envs
            assert rollout.truncated[-1].all()
            assert run.num_steps - before == 10 * num_envs


def test_copies_that_are_done_wait_for_the_last() -> None:
    graph = w.world(temperature=0.5)
    rollout = w.episodes(graph, LOGITS, 50, 0)
    for copy in range(50):
        rows = rollout.valid[:, copy].nonzero().squeeze(-1)
        assert rows.tolist() == list(range(len(rows)))
        assert rollout.terminated[rows, copy].tolist() == [False] * (len(rows) - 1) + [True]


def test_episodes_that_never_end_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "_LONGEST", 100)
    endless = cai.TrajectoryGraph(
        cai.factors.Categorical([1.0]),
        cai.factors.TabularDynamics([[[1.0]]]),
        cai.factors.TabularReward([[0.0]]),
        discount=0.9,
    )
    method = cai.PolicyGradient(num_envs=1, steps_per_rollout=1, critic=None, advantage=RewardToGo())
    with pytest.raises(ValueError, match="give the graph a horizon, or the method a critic"):
        cai.infer(endless, method, seed=0)


# -- scales -----------------------------------------------------------------------------------------------------------


def test_scaled_rewards_leave_the_objective() -> None:
    """With rewards and temperature ten times as large nothing changes but the units."""
    found = []
    for unit in (1.0, 10.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            graph = w.world(temperature=0.3 * unit, discount=0.5).replace(
                reward=cai.factors.TabularReward(unit * w.REWARDS),
                terminal_reward=cai.factors.TabularReward(unit * w.END),
            )
            method = cai.PolicyGradient(
                num_envs=4,
                steps_per_rollout=50,
                num_steps=1000,
                scaled_rewards=True,
                standardised_advantages=False,
                body=MLPBody((8,), "tanh"),
                critic=JointCritic(),
                update=cai.methods.ClippedSurrogate(num_epochs=3),
            )
            posterior = cai.infer(graph, method, seed=3)
        found.append((posterior.policy(torch.arange(2)).probs, posterior.v(torch.arange(2)) / unit))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)


def test_bonus_and_advantages_share_a_scale() -> None:
    plain = learner_of(regulariser=Bonus(0.5), advantage=GAE(0.9))
    scaled = learner_of(regulariser=Bonus(0.5), advantage=GAE(0.9), standardised_advantages=True)
    rollout = w.episodes(w.world(temperature=0.0, discount=0.5), LOGITS, 200, 0)
    batch = w.batch_from(scaled, rollout)
    spread = float(batch.worths.std(correction=0))
    assert batch.spread == pytest.approx(spread, rel=1e-6)
    penalties = [
        float(one.beside(b, one.outputs(b).policy).detach())
        for one, b in ((plain, w.batch_from(plain, rollout)), (scaled, batch))
    ]
    assert penalties[0] == pytest.approx(spread * penalties[1], rel=1e-6)


class Shifted(gymnasium.Env):
    """States of mean 100 and standard deviation 20; the action is to tell which side of the mean they are."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._x = self.np_random.normal(100.0, 20.0, 1).astype(np.float32)
        return self._x, {}

    def step(self, action: Any) -> Any:
        return self._x, float((self._x[0] > 100.0) == bool(action)), True, False, {}


def test_states_are_standardised_by_the_policy_itself(tmp_path: Any) -> None:
    graph = cai.from_gym(Shifted(), discount=0.9, temperature=0.01)
    method = cai.PolicyGradient(
        num_envs=4, steps_per_rollout=64, num_steps=4000, standardisation=Standardisation(), learning_rate=3e-3
    )
    posterior = cai.infer(graph, method, seed=0)
    standardiser = posterior.learner.modules["policy"].standardiser
    assert float(standardiser.mean) == pytest.approx(100.0, abs=2.0)
    assert float(standardiser.std) == pytest.approx(20.0, abs=1.5)
    states = torch.tensor([[60.0], [85.0], [115.0], [140.0]])
    assert (posterior.policy(states).probs[:, 1] > 0.5).tolist() == [False, False, True, True]
    posterior.save(tmp_path / "answer")
    again = cai.load(tmp_path / "answer", graph=graph)
    torch.testing.assert_close(again.policy(states).probs, posterior.policy(states).probs, rtol=0, atol=0)
    torch.testing.assert_close(again.v(states), posterior.v(states), rtol=0, atol=0)


def test_an_action_prior_tilts_the_policy() -> None:
    graph = w.world(temperature=0.5, prior=w.PRIOR)
    learner = cai.PolicyGradient().learner(graph)
    probs = learner.policy(torch.arange(3)).probs
    torch.testing.assert_close(probs, w.PRIOR.probs.float(), rtol=0.1, atol=0.05)  # the network says nearly nothing yet
    assert (probs[w.PRIOR.probs == 0] == 0).all()
    rollout = w.episodes(graph, LOGITS, 500, 0)
    rows = rollout.states[rollout.valid]
    assert not (w.PRIOR.probs[rows, rollout.actions[rollout.valid]] == 0).any()
    assert replace(rollout).log_ratios[rollout.valid].isfinite().all()
