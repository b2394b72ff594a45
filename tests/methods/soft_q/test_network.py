"""Soft Q-learning with networks: targets and losses by hand, options, and answers in closed form."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cai
from cai.data.transitions import Transitions
from cai.methods import (
    Annealed,
    DoubleBackup,
    Dueling,
    HuberLoss,
    Network,
    PeriodicTarget,
    PolyakTarget,
    PrioritisedReplay,
    SoftBackup,
    SquaredLoss,
    TwinBackup,
)
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import PROBES, ChoiceReward, MatchingReward, Probe

SMALL = cai.factors.MLPBody((16, 16))
QUICK = Network(body=SMALL, learning_rate=Annealed(1e-2, 1e-4), target=PolyakTarget(0.1))
BACKUPS = (SoftBackup(), DoubleBackup(), TwinBackup())


def named(value: object) -> str:
    return type(value).__name__


def vector_graph(**options: Any) -> cai.TrajectoryGraph:
    return MatchingReward().graph(**({"temperature": 0.5, "discount": 0.8} | options))


def some_batch(num: int = 8, seed: int = 0, **changes: Any) -> Transitions:
    rng = torch.Generator().manual_seed(seed)
    parts = {
        "states": torch.randn(num, 2, generator=rng),
        "actions": torch.randint(3, (num,), generator=rng),
        "rewards": torch.randn(num, generator=rng),
        "next_states": torch.randn(num, 2, generator=rng),
        "terminated": torch.arange(num) % 3 == 0,
        "discounts": torch.full((num,), 0.8),
        "log_ratios": torch.randn(num, generator=rng),
        "weights": torch.rand(num, generator=rng),
        "indices": torch.arange(num),
    }
    return Transitions(**(parts | changes))


def outputs(network: nn.Module, states: Tensor) -> np.ndarray:
    """Q of each network, `[C, B, A]`, in float64."""
    with torch.no_grad():
        return network(states).double().numpy()


# -- targets and losses by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("backup", BACKUPS, ids=named)
def test_targets_by_hand(backup: Any, temperature: float) -> None:
    graph = vector_graph(temperature=temperature, terminal_reward=lambda state: 3.0 * state[..., 0])
    torch.manual_seed(0)
    learner = cai.SoftQLearning(head=Network(body=SMALL, backup=backup)).learner(graph)
    for parameter in learner.modules["target"].parameters():
        parameter.data.normal_(0.0, 0.5)
    batch = some_batch()
    target = outputs(learner.modules["target"], batch.next_states)
    online = outputs(learner.modules["online"], batch.next_states)
    if isinstance(backup, TwinBackup):
        assert len(target) == 2
        target = target.min(0, keepdims=True)
    q, chooses = target[0], (online if isinstance(backup, DoubleBackup) else target)[0]
    if temperature == 0:
        v = q[np.arange(len(q)), chooses.argmax(1)]
    else:
        weights = np.exp(chooses / temperature)
        policy = weights / weights.sum(1, keepdims=True)
        v = (policy * (q - temperature * np.log(policy * 3))).sum(1)
    following = torch.where(batch.terminated, 3.0 * batch.next_states[:, 0].double(), torch.from_numpy(v))
    expected = batch.rewards + batch.discounts * following - temperature * batch.log_ratios
    torch.testing.assert_close(learner._target_values(batch).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [SquaredLoss(), HuberLoss(0.5)], ids=named)
def test_the_step_is_adams_on_the_weighted_loss(loss: Any) -> None:
    torch.manual_seed(1)
    head = Network(body=SMALL, loss=loss, learning_rate=1e-2, max_gradient_norm=None, target=PeriodicTarget(2))
    learner = cai.SoftQLearning(head=head).learner(vector_graph())
    network = copy.deepcopy(learner.modules["online"])
    reference = torch.optim.Adam(network.parameters(), 1e-2)
    old = copy.deepcopy(learner.modules["target"])
    for seed in range(3):
        batch = some_batch(seed=seed)
        targets = learner._target_values(batch)
        errors = network(batch.states)[0, torch.arange(8), batch.actions] - targets
        own = 0.5 * errors**2 if isinstance(loss, SquaredLoss) else nn.functional.huber_loss(
            errors, torch.zeros(8), reduction="none", delta=0.5
        )  # fmt: skip
        reference.zero_grad()
        (batch.weights * own).mean().backward()
        reference.step()
        sizes = learner.learn(batch)
        torch.testing.assert_close(sizes, errors.detach().abs())
        torch.testing.assert_close([*learner.modules["online"].parameters()], [*network.parameters()])
        if seed == 0:
            torch.testing.assert_close(learner.modules["target"].state_dict(), old.state_dict())
        if seed == 1:
            torch.testing.assert_close(
                [*learner.modules["target"].parameters()], [*learner.modules["online"].parameters()]
            )
    logged = learner.metrics.means()
    assert {"bellman_residual", "q_loss", "entropy", "gradient_norm"} <= set(logged)


def test_gradients_are_clipped() -> None:
    def moved(max_norm: float | None) -> float:
        torch.manual_seed(1)
        learner = cai.SoftQLearning(head=Network(body=SMALL, max_gradient_norm=max_norm)).learner(vector_graph())
        learner.optimisers["q"] = torch.optim.SGD(learner.modules["online"].parameters(), 1.0)
        before = nn.utils.parameters_to_vector(learner.modules["online"].parameters()).detach()
        learner.learn(some_batch())
        return float((nn.utils.parameters_to_vector(learner.modules["online"].parameters()).detach() - before).norm())

    assert moved(None) > 0.1
    assert moved(0.1) == pytest.approx(0.1, rel=1e-4)


def test_learning_rate_falls_with_the_run() -> None:
    learner = cai.SoftQLearning(head=Network(body=SMALL, learning_rate=Annealed(1e-2, 1e-4))).learner(vector_graph())
    learner.share = 0.5
    learner.learn(some_batch())
    assert learner.optimisers["q"].param_groups[0]["lr"] == pytest.approx(5.05e-3)


def test_target_rules() -> None:
    online, target = [torch.full((2,), 4.0)], [torch.zeros(2)]
    PolyakTarget(0.25).follow(target, online, 1)
    assert target[0].tolist() == [1.0, 1.0]
    PeriodicTarget(3).follow(target, online, 2)
    assert target[0].tolist() == [1.0, 1.0]
    PeriodicTarget(3).follow(target, online, 3)
    assert target[0].tolist() == [4.0, 4.0]


def test_a_bad_loss_leaves_the_network() -> None:
    learner = cai.SoftQLearning(head=Network(body=SMALL)).learner(vector_graph())
    learner.learn(some_batch())
    before = copy.deepcopy(learner.memory())
    with pytest.raises(cai.NonFinite, match="q loss"):
        learner.learn(some_batch(rewards=torch.full((8,), torch.inf)))
    for old, new in zip(before["modules"].values(), learner.memory()["modules"].values(), strict=True):
        assert torch.equal(old, new)


# -- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 2])
def test_dueling_by_hand(num: int) -> None:
    torch.manual_seed(0)
    body = Dueling(trunk=(8, 6), streams=(5,))
    network = body(4, 3) if num == 1 else body.stacked(num, 4, 3)
    x = torch.randn(7, 4)
    q = network(x)
    assert q.shape == ((7, 3) if num == 1 else (2, 7, 3))
    features = network.trunk(x).relu()
    each = (lambda part, y: part(y)) if num == 1 else (lambda part, y: part.forward_each(y))
    value, advantage = each(network.value, features), each(network.advantage, features)
    torch.testing.assert_close(q.mean(-1, keepdim=True), value)
    torch.testing.assert_close(q - value, advantage - advantage.mean(-1, keepdim=True))
    members = [q[None]] if num == 1 else q
    assert num == 1 or not torch.allclose(members[0], members[1])


def test_any_callable_is_a_body() -> None:
    def linear(num_inputs: int, num_outputs: int) -> nn.Module:
        return nn.Linear(num_inputs, num_outputs)

    for backup in BACKUPS:
        learner = cai.SoftQLearning(head=Network(body=linear, backup=backup)).learner(vector_graph())
        assert learner.values(torch.zeros(5, 2)).shape == (5, 3)
        learner.learn(some_batch())


# -- answers --------------------------------------------------------------------------------------------------------


def learned(graph: cai.TrajectoryGraph, seed: int = 0, **options: Any) -> cai.LearnedPosterior:
    method = cai.SoftQLearning(**({"num_steps": 800, "head": QUICK, "learning_starts": 50} | options))
    return cai.infer(graph, method, seed=seed)  # type: ignore[return-value]


QUICK_PROBES = ("EndlessReward", "ChoiceReward", "MatchingReward")


@pytest.mark.parametrize(
    "probe",
    [pytest.param(probe, marks=() if probe.__name__ in QUICK_PROBES else pytest.mark.slow) for probe in PROBES],
    ids=[probe.__name__ for probe in PROBES],
)
def test_probes(probe: type[Probe]) -> None:
    world = probe()
    options = {"temperature": 0.3, "discount": 0.6}
    posterior = learned(world.graph(**options), num_steps=600, num_envs=2)
    states, actions = world.pairs_of_both
    tolerance = 0.25 if probe.__name__ == "RandomReward" else 0.02
    np.testing.assert_allclose(posterior.q(states, actions), world.q(states, actions, **options), atol=tolerance)
    np.testing.assert_allclose(posterior.v(world.states), world.v(world.states, **options), atol=tolerance)
    expected = world.log_policy(states, actions, **options)
    given = posterior.policy(states).log_prob(torch.as_tensor(actions))
    np.testing.assert_allclose(given, expected, atol=3 * tolerance / 0.3)


VARIANTS = {
    "soft, periodic": {"head": Network(SMALL, SoftBackup(), PeriodicTarget(10), learning_rate=Annealed(1e-2, 1e-4))},
    "twin": {"head": Network(SMALL, TwinBackup(), PolyakTarget(0.1), learning_rate=Annealed(1e-2, 1e-4))},
    "dueling, squared": {
        "head": Network(Dueling((16,), (16,)), loss=SquaredLoss(), target=PolyakTarget(0.1), learning_rate=3e-3)
    },
    "prioritised": {"replay": PrioritisedReplay(1000)},
    "two steps": {"n_step": 2},
    "epsilon": {"exploration": cai.methods.EpsilonSoft(0.5)},
    "Boltzmann": {"exploration": cai.methods.Boltzmann(2.0)},
    "linear dueling twin": {
        "head": Network(Dueling((32,), ()), TwinBackup(), PolyakTarget(0.1), learning_rate=Annealed(1e-2, 1e-4))
    },
}


QUICK_VARIANTS = ("twin", "two steps")


@pytest.mark.parametrize(
    "options",
    [pytest.param(VARIANTS[name], marks=() if name in QUICK_VARIANTS else pytest.mark.slow) for name in VARIANTS],
    ids=VARIANTS,
)
def test_options_have_the_same_answer(options: dict) -> None:
    """On a choice that pays a step later; two steps with the soft policy itself as the behaviour are unbiased."""
    world = ChoiceReward()
    alpha_gamma = {"temperature": 0.5, "discount": 0.8}
    posterior = learned(world.graph(**alpha_gamma), **options)
    states, actions = world.pairs_of_both
    np.testing.assert_allclose(posterior.q(states, actions), world.q(states, actions, **alpha_gamma), atol=0.05)


def test_temperature_zero() -> None:
    world = MatchingReward()
    posterior = learned(world.graph(temperature=0.0))
    assert posterior.policy(world.states).probs.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(posterior.v(world.states), [1.0, 1.0], atol=0.05)


@pytest.mark.parametrize("start", [0, 2])
def test_several_choices_at_once_need_not_be_independent(start: int) -> None:
    """The reward is whether two choices agree: no product of independent choices has that policy."""

    class Agreement(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 3], start=[start, start])

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), float(action[0] == action[1]), True, False, {}

    graph = cai.from_gym(Agreement(), discount=0.9, temperature=0.5)
    posterior = learned(graph, num_steps=600)
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(3)) + start
    agree = (pairs[:, 0] == pairs[:, 1]).double()
    state = torch.zeros(1)
    q = posterior.q(state.expand(6, 1), pairs)
    torch.testing.assert_close(q.double(), agree, atol=0.05, rtol=0)
    policy = posterior.policy(state)
    probs = policy.log_prob(pairs).double().exp()
    torch.testing.assert_close(probs, torch.softmax(agree / 0.5, 0), atol=0.05, rtol=0)
    drawn = policy.sample((200,))
    assert drawn.shape == (200, 2)
    assert int(drawn.min()) >= start
    assert posterior.sample(3, seed=0).actions.shape == (3, 1, 2)


def test_prior_that_forbids() -> None:
    """A prior that depends on the state, in a callable: what it forbids is never done, nor counted."""
    world = MatchingReward()

    def prior(state: Tensor) -> torch.distributions.Categorical:
        logits = torch.zeros(*state.shape[:-1], 3)
        return torch.distributions.Categorical(logits=torch.where(
            (state[..., :1] > 0) & (torch.arange(3) == 2), -torch.inf, logits
        ), validate_args=False)  # fmt: skip

    posterior = learned(world.graph(temperature=0.5, action_prior=prior))
    probs = posterior.policy(world.states).probs
    assert probs[1, 2] == 0.0
    weights = np.exp(np.array([-1.0, 0.0]) / 0.5)
    assert float(posterior.v(world.states)[1]) == pytest.approx(0.5 * np.log(weights.mean()), abs=0.05)
    drawn = posterior.sample(100, seed=0)
    assert (drawn.actions[drawn.states[:, 0, 0] > 0] != 2).all()


def test_soft_returns_of_several_steps_are_unbiased() -> None:
    """Targets at the exact V, with the exact policy acting, have the exact Q as their mean; without entropy, not."""
    problem = oracles.random_problem(7, num_states=3, horizon=None, discount=0.8, prior="flat")
    graph = graph_of(problem)
    exact = cai.infer(graph, cai.SoftValueIteration())
    method = cai.SoftQLearning(
        num_steps=60_000, num_envs=200, n_step=4, learning_starts=0, updates_per_step=1e-9,
        exploration=cai.methods.SoftPolicy(),
    )  # fmt: skip
    run = method.init(graph, 0)
    run.learner._table.q.copy_(exact.q(torch.arange(3)[:, None], torch.arange(2)))
    while not method.is_done(run):
        method.step(graph, run)
    batch = run.replay._rows.read(torch.arange(50_000))  # each once, and each with its successors
    following = exact.v(batch.next_states)
    where = batch.states * 2 + batch.actions
    true = exact.q(batch.states, batch.actions)
    for targets, unbiased in (
        (run.learner.targets(batch, following), True),
        (batch.rewards + batch.discounts * following, False),
    ):
        errors = (targets - true).double()
        of_pairs = [errors[where == pair] for pair in range(6)]
        # Windows of 4 steps overlap: a quarter of them are independent.
        scores = torch.stack([some.mean().abs() / (some.std() / (len(some) / 4) ** 0.5) for some in of_pairs])
        assert bool((scores < 5).all()) == unbiased


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Network(backup="double"), "backup must be such as DoubleBackup"),
        (lambda: Network(loss=None), "loss must be such as SquaredLoss"),
        (lambda: Network(target=0.005), "target must be such as PolyakTarget"),
        (lambda: Network(learning_rate=-1.0), "learning_rate must be at least 0"),
        (lambda: Network(learning_rate=Annealed(1.0, float("inf"))), "learning_rate must be at least 0"),
        (lambda: Network(body=(256, 256)), "body must make a network"),
        (lambda: Network(max_gradient_norm=0.0), "max_gradient_norm must be positive"),
        (lambda: PolyakTarget(0.0), "weight of the learned parameters"),
        (lambda: PeriodicTarget(0), "interval must be a whole number"),
        (lambda: HuberLoss(-1.0), "threshold must be positive"),
        (lambda: Dueling(trunk=()), "at least one hidden layer"),
        (lambda: cai.methods.Tabular(step_size=0.1), "step_size must be such as"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
