"""PolicyGradient as a whole: what it finds against closed forms and exact messages, what it answers and refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.data.encodings import ActionEncoding
from cai.factors import (
    CategoricalHead,
    DeterministicHead,
    FlatPrior,
    GaussianHead,
    MLPBody,
    StateGaussianHead,
    TabularPolicy,
)
from cai.methods import (
    GAE,
    Bonus,
    ClippedSurrogate,
    GradientStep,
    ImportanceWeighted,
    JointCritic,
    KLPenalty,
    MonteCarlo,
    NaturalGradient,
    RewardToGo,
    SeparateCritic,
    SharedCritic,
    TrustRegion,
)
from cai.methods.sampling.annealing import Annealed
from tests import probes

SMALL = MLPBody((32,), "tanh")
TABLE = MLPBody(())


def short(**options: Any) -> cai.PolicyGradient:
    settings: dict[str, Any] = {
        "num_envs": 8,
        "steps_per_rollout": 16,
        "learning_rate": Annealed(2e-2, 0.0),
        "body": SMALL,
        "critic": JointCritic(body=SMALL),
        "update": ClippedSurrogate(num_epochs=4, batch_size=256),
    }
    return cai.PolicyGradient(**settings | options)


# -- what it finds ----------------------------------------------------------------------------------------------------


def errors_on(probe: probes.Probe, method: cai.PolicyGradient, seed: int) -> tuple[float, float]:
    """The greatest KL(pi || pi*) over states, nats, and the greatest |v - v*|, at temperature 0.5."""
    temperature = 0.5
    posterior = cai.infer(probe.graph(temperature=temperature, discount=0.9), method, seed=seed)
    states = torch.as_tensor(probe.states)
    v = probe.v(probe.states, temperature=temperature, discount=0.9)
    policy = posterior.policy(states)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actions = policy.sample((2000,)).numpy()
    every = np.broadcast_to(probe.states, (2000, *probe.states.shape)).reshape(-1, *probe.states.shape[1:])
    exact = probe.log_policy(every, actions.reshape(-1, *actions.shape[2:]), temperature=temperature, discount=0.9)
    gaps = policy.log_prob(torch.as_tensor(actions)).numpy() - exact.reshape(2000, -1)
    return float(gaps.mean(0).max()), float(np.abs(posterior.v(states).numpy() - v).max())


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes(probe: Any) -> None:
    divergence, error = errors_on(probe("discrete"), short(num_steps=4000), seed=0)
    assert divergence < 0.02 and error < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("actions", ["discrete", "box"])
@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes_on_three_seeds(probe: Any, actions: str, seed: int) -> None:
    update = ClippedSurrogate(num_epochs=8, batch_size=128)
    method = short(num_steps=15_000, steps_per_rollout=32, learning_rate=Annealed(5e-3, 0.0), update=update)
    divergence, error = errors_on(probe(actions), method, seed)
    assert divergence < (0.02 if actions == "discrete" else 0.08)  # no squashed normal is uniform
    assert error < 0.15


UPDATES = {
    "REINFORCE": cai.PolicyGradient.reinforce(steps_per_rollout=250),
    "A2C": cai.PolicyGradient.a2c(critic=SharedCritic(), learning_rate=1e-2),
    "PPO": short(),
    "KL penalty": short(update=KLPenalty(0.01, num_epochs=4, batch_size=128)),
    "natural": cai.PolicyGradient.natural(steps_per_rollout=64),
    "TRPO": cai.PolicyGradient.trpo(steps_per_rollout=64, update=TrustRegion(radius=0.02)),
    "importance": short(update=ImportanceWeighted(), critic=SeparateCritic(body=SMALL), learning_rate=0.02),
    "control variate": short(control_variate=cai.methods.FittedAdvantage(body=SMALL)),
}


@pytest.mark.parametrize("name", UPDATES)
def test_updates_find_the_same(name: str) -> None:
    probe = probes.MatchingReward("discrete", states="index")
    method = replace(UPDATES[name], body=SMALL, num_steps=5000)
    posterior = cai.infer(probe.graph(temperature=0.5), method, seed=1)
    states, actions = probe.pairs_of_both
    exact = probe.log_policy(states, actions, temperature=0.5, discount=0.9)
    found = posterior.policy(torch.as_tensor(states)).log_prob(torch.as_tensor(actions)).numpy()
    divergence = (np.exp(found) * (found - exact)).reshape(2, -1).sum(1)
    assert divergence.max() < 0.06, divergence


@pytest.mark.parametrize("temperature", [0.5, 0.0])
def test_a_bonus_is_greedier_than_the_posterior(temperature: float) -> None:
    """Two steps, the second free of choice: what certainty costs there counts in the reward and not with a bonus."""
    probe = probes.ActionReward("discrete")
    method = short(num_steps=4000, regulariser=Bonus(0.5))
    posterior = cai.infer(probe.graph(temperature=temperature), method, seed=0)
    found = posterior.policy(torch.as_tensor(probe.states)).probs[0]
    exact = np.exp(probe.log_policy(probe.states.repeat(3, 0), probe.actions, temperature=0.5, discount=0.9))
    np.testing.assert_allclose(found, exact, atol=0.05)  # of one step both are the same
    v = float(posterior.v(torch.as_tensor(probe.states))[0])
    assert v == pytest.approx(float(found @ torch.tensor([-1.0, 0.0, 1.0])), abs=0.1)  # of rewards alone


def exact_of(graph: cai.TrajectoryGraph) -> cai.Posterior:
    return cai.infer(graph.replace(horizon=None), cai.SoftValueIteration())


@pytest.mark.parametrize(
    "update",
    [ClippedSurrogate(num_epochs=4, batch_size=512), TrustRegion(radius=Annealed(0.01, 1e-5)), "natural"],
    ids=["PPO", "TRPO", "natural"],
)
@pytest.mark.parametrize("seed", range(3))
def test_tables_approach_the_exact_policy(update: Any, seed: int) -> None:
    graph = cai.load_model("two_state", horizon=None, discount=0.9, temperature=0.5)
    options: dict[str, Any] = {"standardised_advantages": update != "natural"}
    if update == "natural":  # from the step of soft policy iteration down
        update = NaturalGradient(step=Annealed(2.0, 0.1))
    method = cai.PolicyGradient(
        num_envs=32,
        steps_per_rollout=32,
        num_steps=10_000,
        body=TABLE,
        update=update,
        max_gradient_norm=None,
        learning_rate=Annealed(0.1, 0.0),
        critic=SeparateCritic(TABLE, Annealed(0.2, 0.01), 10, 256),
        **options,
    )
    posterior, exact = cai.infer(graph, method, seed=seed), exact_of(graph)
    states = torch.arange(2)
    p, q = posterior.policy(states).probs.double(), exact.policy(states).probs
    assert float((p * (p / q).log()).sum(-1).max()) < 0.01
    assert float((posterior.v(states) - exact.v(states)).abs().max()) < 0.2  # of 5 to 6
    assert 0.0 <= float(exact.log_evidence - posterior.log_evidence) < 0.1  # of 11.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_frozen_lake(seed: int) -> None:
    graph = cai.from_gym("FrozenLake-v1", discount=0.95, temperature=0.02)
    method = cai.PolicyGradient.trpo(
        num_envs=32,
        steps_per_rollout=128,
        num_steps=100_000,
        body=TABLE,
        update=TrustRegion(Annealed(0.02, 1e-4)),
        critic=SeparateCritic(TABLE, Annealed(0.1, 1e-3), 8, 256),
    )
    comparison = cai.ExactComparison(exact_of(graph), interval=100_000)
    row = cai.infer(graph, method, seed=seed, callbacks=[comparison]).history.rows[-1]
    assert row["policy_kl"] < 0.06
    assert row["marginal_distance"] < 0.08
    assert row["v_error"] < 0.15  # of at most 1, in states that are hardly seen


CART_POLE = {
    "PPO": (
        cai.PolicyGradient.ppo(
            steps_per_rollout=64, learning_rate=1e-3, update=ClippedSurrogate(num_epochs=20, batch_size=256)
        ),
        15_000,
    ),
    "TRPO": (
        cai.PolicyGradient.trpo(
            steps_per_rollout=64, update=TrustRegion(0.02), critic=SeparateCritic(num_epochs=20, batch_size=128)
        ),
        27_000,
    ),
    "A2C": (
        cai.PolicyGradient.a2c(critic=SeparateCritic(learning_rate=3e-3, num_epochs=5, batch_size=128)),
        27_000,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CART_POLE)
def test_cart_pole(name: str, seed: int) -> None:
    """475 on average over 20 episodes without chance, in an evaluation within so many steps."""
    method, budget = CART_POLE[name]
    graph = cai.from_gym("CartPole-v1", discount=0.99 if name == "TRPO" else 0.98, temperature=0.0)
    stopping = cai.EarlyStopping(threshold=475.0)
    cai.infer(graph, replace(method, num_steps=budget), seed=seed, callbacks=[cai.Evaluation(interval=2048), stopping])
    assert stopping.reason is not None


# -- actions of every kind --------------------------------------------------------------------------------------------


class Matching(gymnasium.Env):
    """One step; the reward is the number of components of the action that are right."""

    def __init__(self, space: gymnasium.Space, right: Any) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space, self.right = space, np.asarray(right)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        reward = float(-np.abs(np.asarray(action, float) - self.right).sum())
        return np.zeros(2, np.float32), reward, True, False, {}


@pytest.mark.parametrize(
    ("space", "right"),
    [
        (gymnasium.spaces.Discrete(3, start=-1), 1),
        (gymnasium.spaces.MultiDiscrete([3, 2]), [2, 0]),
        (gymnasium.spaces.MultiBinary(2), [1, 0]),
        (gymnasium.spaces.Box(-2.0, 3.0, (1, 2)), [[1.0, -1.0]]),
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), [0.5, -0.5]),
    ],
    ids=["discrete", "multi-discrete", "multi-binary", "box", "unbounded"],
)
@pytest.mark.parametrize("regulariser", [cai.methods.InReward(), Bonus()], ids=["reward", "bonus"])
def test_actions_of_every_kind(space: gymnasium.Space, right: Any, regulariser: Any) -> None:
    graph = cai.from_gym(Matching(space, right), discount=0.9, temperature=0.05)
    posterior = cai.infer(graph, short(num_steps=4000, regulariser=regulariser), seed=0)
    state = torch.zeros(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actions = posterior.policy(state).sample((500,))
    assert all(space.contains(np.asarray(action, space.dtype)) for action in actions[:20].numpy())
    wrong = (actions.double() - torch.as_tensor(right)).abs().reshape(500, -1).sum(1).mean()
    assert float(wrong) < (0.35 if ActionEncoding(space).log_volume is not None else 0.7)  # at first 1.8
    log_ratio = posterior.learner.log_ratio(state.expand(500, 2), actions)
    assert log_ratio.shape == (500,) and log_ratio.isfinite().all()
    assert math.isfinite(posterior.bound(20).mean)


# -- what it answers --------------------------------------------------------------------------------------------------


def test_what_is_logged_and_what_is_there() -> None:
    graph = probes.MatchingReward("discrete").graph(temperature=0.5)
    posterior = cai.infer(graph, short(num_steps=600), seed=0)
    names = {"policy_loss", "value_loss", "kl", "entropy", "clip_fraction", "explained_variance", "gradient_norm"}
    assert names | {"return", "episode_length"} <= set(posterior.history.names)
    assert posterior.stats.estimates == ("policy", "v", "log_evidence")
    with pytest.raises(cai.Unavailable, match="no q"):
        posterior.q(torch.zeros(2), 0)
    without = cai.infer(graph, short(num_steps=600, critic=None, advantage=RewardToGo()), seed=0)
    with pytest.raises(cai.Unavailable, match="give it a critic"):
        without.v(torch.zeros(2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"critic": SharedCritic(), "standardisation": cai.factors.Standardisation(), "scaled_rewards": True},
        {"update": KLPenalty(), "control_variate": cai.methods.FittedAdvantage()},
        {"update": TrustRegion(), "critic": SeparateCritic()},
    ],
    ids=["PPO", "scales", "price", "TRPO"],
)
def test_runs_repeat_and_go_on(options: Any, tmp_path: Any) -> None:
    """Same seed, same run; on tables a run that was interrupted ends as one that was not."""
    graph = cai.from_gym("FrozenLake-v1", discount=0.9, temperature=0.1)
    method = replace(short(num_steps=1200, learning_rate=5e-3), **options)
    answers = [cai.infer(graph, method, seed=5) for _ in range(2)]
    path = tmp_path / "checkpoint"
    cai.infer(graph, replace(method, num_steps=500), seed=5, callbacks=[cai.Checkpoint(path)])
    answers.append(cai.infer(graph, method, seed=5, resume=path))
    states = torch.arange(16)
    for answer in answers[1:]:
        assert torch.equal(answer.policy(states).probs, answers[0].policy(states).probs)
        assert torch.equal(answer.v(states), answers[0].v(states))
    answers[0].save(tmp_path / "answer")
    again = cai.load(tmp_path / "answer", graph=graph)
    assert torch.equal(again.policy(states).probs, answers[0].policy(states).probs)
    assert torch.equal(again.v(states), answers[0].v(states))


def test_named_settings() -> None:
    make = cai.PolicyGradient
    assert isinstance(make.reinforce().update, GradientStep) and make.reinforce().critic is None
    assert isinstance(make.a2c().update, GradientStep) and make.a2c().critic is not None
    assert isinstance(make.ppo(num_steps=7).update, ClippedSurrogate) and make.ppo(num_steps=7).num_steps == 7
    assert isinstance(make.natural().update, NaturalGradient)
    assert isinstance(make.trpo(update=TrustRegion(0.5)).update, TrustRegion)


# -- what it refuses --------------------------------------------------------------------------------------------------

BOX = cai.from_gym(probes.ActionReward("box"), discount=0.9)
DISCRETE = cai.from_gym(probes.ActionReward("discrete"), discount=0.9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"critic": None}, "GAE needs a critic"),
        ({"update": TrustRegion()}, "JointCritic moves with it"),
        ({"update": NaturalGradient(), "critic": SharedCritic()}, "SharedCritic moves with it"),
        ({"update": NaturalGradient(step=1.0), "critic": SeparateCritic()}, "standardised_advantages=False"),
        ({"update": ImportanceWeighted(), "critic": SeparateCritic(), "advantage": MonteCarlo()}, "per decision"),
        (
            {
                "update": ImportanceWeighted(),
                "critic": SeparateCritic(),
                "control_variate": cai.methods.FittedAdvantage(),
            },
            "the policy that acted",
        ),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm"),
        ({"steps_per_rollout": 0}, "steps_per_rollout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_do_not_go_together(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cai.infer(DISCRETE, cai.PolicyGradient(**options))


@pytest.mark.parametrize(
    ("graph", "head", "words"),
    [
        (BOX, GaussianHead(), "reaches beyond the box"),
        (BOX, StateGaussianHead(), "reaches beyond the box"),
        (BOX, CategoricalHead(), "Discrete"),
        (BOX, DeterministicHead(), "density"),
        (DISCRETE, GaussianHead(), "Box"),
    ],
    ids=["normal", "state normal", "categorical", "deterministic", "of a box"],
)
def test_heads_that_do_not_fit(graph: Any, head: Any, words: str) -> None:
    with pytest.raises(cai.IncompatibleMethod, match=words):
        cai.infer(graph, cai.PolicyGradient(head=head))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GAE(1.5), "decay"),
        (lambda: ClippedSurrogate(num_epochs=0), "num_epochs"),
        (lambda: ClippedSurrogate(clip=-0.1), "clip"),
        (lambda: KLPenalty(target=0.0), "target"),
        (lambda: NaturalGradient(radius=0.1, step=0.1), "not both"),
        (lambda: NaturalGradient(radius=-1.0), "radius"),
        (lambda: TrustRegion(shrinkage=1.0), "shrinkage"),
        (lambda: TrustRegion(damping=-1.0), "damping"),
        (lambda: ImportanceWeighted(clip=0.0), "clip"),
        (lambda: ImportanceWeighted(num_reuses=0), "num_reuses"),
        (lambda: SeparateCritic(batch_size=0), "batch_size"),
        (lambda: JointCritic(coefficient=0.0), "coefficient"),
        (lambda: Bonus(-1.0), "coefficient"),
        (lambda: cai.methods.Reparameterised(0), "num_samples"),
    ],
    ids=range(14),
)
def test_bad_numbers(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


class Broken(gymnasium.Env):
    """Its rewards are huge from the third step on."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.num_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.num_steps += 1
        return np.zeros(1, np.float32), 1e30 if self.num_steps > 40 else 1.0, True, False, {}


@pytest.mark.parametrize("update", [GradientStep(), TrustRegion()], ids=lambda update: type(update).__name__)
def test_numbers_that_are_not_finite_leave_what_was_learned(update: Any) -> None:
    graph = cai.from_gym(Broken(), discount=0.9, temperature=0.1)
    method = cai.PolicyGradient(
        num_envs=1,
        steps_per_rollout=30,
        num_steps=300,
        update=update,
        critic=SeparateCritic(),
        body=SMALL,
        standardised_advantages=False,
    )
    with pytest.raises(cai.NonFinite, match="PolicyGradient: after update") as caught:
        cai.infer(graph, method, seed=0)
    probs = caught.value.posterior.policy(torch.zeros(1)).probs
    assert probs.isfinite().all()


def test_priors() -> None:
    """A flat prior only adds a constant to every step; a tabular one tilts the policy, and forbids."""
    probe = probes.ActionReward("discrete", states="index")
    flat = cai.infer(probe.graph(temperature=0.5, action_prior=FlatPrior()), short(num_steps=4000), seed=0)
    expected = probe.v(probe.states, temperature=0.5, discount=0.9, flat=True)
    assert float(flat.v(torch.tensor(0))) == pytest.approx(float(expected[0]), abs=0.1)
    prior = TabularPolicy([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    tilted = cai.infer(probe.graph(temperature=0.5, action_prior=prior), short(num_steps=4000), seed=0)
    weights = np.exp(np.array([-1.0, 0.0]) / 0.5)
    found = tilted.policy(torch.tensor(0)).probs
    np.testing.assert_allclose(found, [*(weights / weights.sum()), 0.0], atol=0.04)


def test_a_prior_that_forbids_joint_actions_is_refused() -> None:
    class Two(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(2)
        action_space = gymnasium.spaces.MultiDiscrete([2, 2])

    graph = cai.from_gym(Two(), discount=0.9).replace(action_prior=TabularPolicy([[0.5, 0.0, 0.25, 0.25]] * 2))
    with pytest.raises(cai.IncompatibleMethod, match="number the joint actions"):
        cai.infer(graph, short())
