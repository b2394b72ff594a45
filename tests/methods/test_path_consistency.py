"""Path consistency: zero residual at the exact answer, gradients, convergence on and off policy, and its bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

import cai
from cai.factors import MLPBody, StateGaussianHead, greedy_action
from cai.methods import (
    Annealed,
    DoubleSampledResidual,
    ReturnRolloutReplay,
    SeparateModels,
    TableBody,
    UnifiedModel,
    UniformRolloutReplay,
)
from cai.methods.paths.learner import PathConsistencyLearner
from cai.methods.sampling.on_policy import Rollout, rollout_of
from cai.simulate.worlds import world_of
from tests.probes import PROBES, ChoiceReward, Probe

F = cai.factors
#: The first of three seeds is always run, the others on request.
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
FALLING = Annealed(0.1, 0.003)
TABLES = {
    "separate": SeparateModels(TableBody(), TableBody(), policy_learning_rate=FALLING, value_learning_rate=FALLING),
    "unified": UnifiedModel(TableBody(), learning_rate=FALLING),
}


def grid(layout: list[str]) -> cai.TrajectoryGraph:
    """Two goals, worth 1 and 2 as terminal rewards."""
    options = {"goal_reward": 2.0, "step_cost": 0.1, "discount": 0.95, "temperature": 0.3}
    return cai.load_model("gridworld", layout=layout, **options)


GRAPHS = {
    "lake": lambda: cai.from_gym("FrozenLake-v1", is_slippery=False, discount=0.9, temperature=0.2),
    "grid": lambda: grid(["S..1", ".#..", "...G"]),
    "prior": lambda: grid(["S..1", "...G"]).replace(
        action_prior=F.TabularPolicy(np.tile([0.0, 0.5, 0.25, 0.25], (8, 1)))
    ),
}


def learner_of(graph: cai.TrajectoryGraph, **options: Any) -> PathConsistencyLearner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cai.PathConsistency(**options).learner(graph)


def uniform_rollout(graph: cai.TrajectoryGraph, num_steps: int, num_envs: int, seed: int = 0) -> Rollout:
    """What a uniform policy does: another behaviour than the learner's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world, steps = world_of(graph, num_envs), []
        world.reset(seed)
        for _ in range(num_steps):
            steps.append(world.step(torch.randint(world.action_space.n, (num_envs,)).numpy()))
    return rollout_of(steps, [np.zeros(num_envs, np.float32)] * num_steps)


def lively(graph: cai.TrajectoryGraph) -> torch.Tensor:
    return (~graph.dynamics.terminal_mask).nonzero().squeeze(1)


def divergence(posterior: cai.Posterior, exact: cai.Posterior, states: torch.Tensor) -> float:
    """Greatest KL(exact || learned) of the policies in some states, nats."""
    pair = (Categorical(probs=p.policy(states).probs.double(), validate_args=False) for p in (exact, posterior))
    return float(kl_divergence(*pair).max())


# -- the equation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", ["lake", "grid"])
@pytest.mark.parametrize("path_length", [1, 4, 20])
def test_residuals_are_zero_at_the_exact_answer(name: str, kind: str, path_length: int) -> None:
    graph = GRAPHS[name]()
    exact = cai.infer(graph, cai.SoftValueIteration())
    learner = learner_of(graph, models=TABLES[kind], path_length=path_length)
    states, actions = torch.arange(learner.states.size), torch.arange(4)
    q = exact.q(states[:, None], actions).T
    with torch.no_grad():
        if kind == "unified":
            learner.model.network.weight.copy_(q)
        else:
            learner.model.policy_network.network.weight.copy_(q / graph.temperature)
            learner.model.value_network.weight.copy_(exact.v(states)[None])
    rollout = uniform_rollout(graph, 20, 32)
    assert rollout.terminated.any()
    assert learner.residuals(rollout).abs().max() < 1e-7  # log mu is float32
    assert torch.allclose(learner.q(states[:, None], actions)[lively(graph)], q.T[lively(graph)], atol=1e-7)


@pytest.mark.parametrize("models", [*TABLES.values(), None], ids=[*TABLES, "networks"])
def test_gradient_by_finite_differences(models: Any) -> None:
    graph = GRAPHS["grid"]()
    body = MLPBody((5,), "tanh")
    learner = learner_of(graph, models=SeparateModels(body, body) if models is None else models, path_length=3)
    learner.model.double()
    parameters = list(learner.model.parameters())
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    rollout = uniform_rollout(graph, 6, 4)
    loss = lambda: 0.5 * learner.residuals(rollout).square().mean()  # noqa: E731
    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in range(0, parameter.numel(), 3):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * step
                    values.append(float(loss()))
                    parameter.view(-1)[place] -= sign * step
            assert abs((values[0] - values[1]) / (2 * step) - float(gradient.view(-1)[place])) < 1e-6


# -- convergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_on_and_off_policy_finds_the_exact_answer(seed: int) -> None:
    """Values within .001, policies within .001 nats; seen: 5e-5 and 1e-8."""
    graph = GRAPHS["lake"]()
    exact = cai.infer(graph, cai.SoftValueIteration())
    method = cai.PathConsistency(
        models=TABLES["separate"], num_steps=6_000, num_envs=16, replay_updates=20, replay_batch=8
    )
    posterior = cai.infer(graph, method, seed=seed)
    states = lively(graph)
    assert (posterior.v(states) - exact.v(states)).abs().max() < 1e-3
    assert divergence(posterior, exact, states) < 1e-3
    assert posterior.stats.residual < 1e-3
    assert abs(posterior.log_evidence - exact.log_evidence) < 1e-3
    assert posterior.log_evidence <= exact.log_evidence + 1e-9


@pytest.mark.slow
def test_on_policy_alone() -> None:
    graph = GRAPHS["lake"]().replace(temperature=1.0)
    exact = cai.infer(graph, cai.SoftValueIteration())
    method = cai.PathConsistency(models=TABLES["separate"], num_steps=80_000, num_envs=64, replay=None)
    posterior = cai.infer(graph, method, seed=0)
    assert (posterior.v(lively(graph)) - exact.v(lively(graph))).abs().max() < 0.01


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", ["lake", pytest.param("grid", marks=pytest.mark.slow)])
def test_data_of_another_policy_serve_as_well(name: str, kind: str) -> None:
    """What a uniform policy did, recorded; the learner never acts."""
    graph = GRAPHS[name]()
    exact = cai.infer(graph, cai.SoftValueIteration())
    data = cai.rollout(graph, cai.UniformPolicy(), 150, seed=0, length=50)
    recorded = graph.replace(dynamics=F.RecordedDynamics(data))
    method = cai.PathConsistency(models=TABLES[kind], num_steps=500, path_length=5, replay_batch=64)
    posterior = cai.infer(recorded, method, seed=0)
    assert posterior.stats.num_steps == 500
    states = lively(graph)
    assert (posterior.v(states) - exact.v(states)).abs().max() < 0.01
    assert divergence(posterior, exact, states) < 0.01


def test_actions_that_the_prior_forbids_are_never_taken() -> None:
    graph = GRAPHS["prior"]()
    exact = cai.infer(graph, cai.SoftValueIteration())
    method = cai.PathConsistency(
        models=TABLES["separate"], num_steps=4_000, num_envs=16, replay_updates=20, replay_batch=8
    )
    posterior = cai.infer(graph, method, seed=0)
    states = lively(graph)
    assert (posterior.policy(states).probs[:, 0] == 0).all()
    assert (posterior.v(states) - exact.v(states)).abs().max() < 0.01


@pytest.mark.parametrize(
    "probe",
    [probe if probe is ChoiceReward else pytest.param(probe, marks=pytest.mark.slow) for probe in PROBES],
    ids=[probe.__name__ for probe in PROBES],
)
@pytest.mark.parametrize("kind", ["separate", "unified", "box"])
def test_probes(probe: type[Probe], kind: str) -> None:
    """A squashed normal cannot be uniform up to the edge of a box: there V is compared, and the mean action."""
    temperature, discount = 0.5, 0.9
    env = probe("box" if kind == "box" else "discrete")
    body, rate = MLPBody((32,), "tanh"), Annealed(0.02, 0.001)
    models = SeparateModels(body, body, policy_learning_rate=rate, value_learning_rate=rate)
    method = cai.PathConsistency(
        models=UnifiedModel(body, learning_rate=rate) if kind == "unified" else models,
        num_steps=3_000,
        num_envs=10,
        steps_per_rollout=5,
        path_length=3,
        replay_updates=3,
    )
    posterior = cai.infer(env.graph(temperature=temperature, discount=discount), method, seed=0)
    options = {"temperature": temperature, "discount": discount}
    np.testing.assert_allclose(posterior.v(env.states), env.v(env.states, **options), atol=0.15)
    if kind == "box":
        mean = posterior.policy(env.states).sample((4_000,)).mean(0).flatten() / 2
        np.testing.assert_allclose(mean, env.mean_coordinate(env.states, **options), atol=0.15)
        return
    states, actions = env.pairs_of_both
    np.testing.assert_allclose(posterior.q(states, actions), env.q(states, actions, **options), atol=0.15)
    log_policy = posterior.policy(states).log_prob(torch.as_tensor(actions))
    np.testing.assert_allclose(log_policy, env.log_policy(states, actions, **options), atol=0.15)


class Target(gymnasium.Env):
    """One step from x in [-1, 1], reward -2 (a - x)^2: over the flat measure the answer is N(x, alpha / 4)."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.x, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.x, -2.0 * float((action - self.x)[0] ** 2), True, False, {}


def test_a_normal_policy_that_can_be_exact_is() -> None:
    """V = (alpha / 2) log(2 pi alpha / 4)."""
    body, rate = MLPBody(()), Annealed(0.1, 0.001)
    models = SeparateModels(body, body, head=StateGaussianHead(), policy_learning_rate=rate, value_learning_rate=rate)
    method = cai.PathConsistency(
        models=models, num_steps=4_000, num_envs=20, steps_per_rollout=4, path_length=1, replay_updates=10
    )
    posterior = cai.infer(cai.from_gym(Target(), discount=0.9, temperature=0.5), method, seed=0)
    states = torch.linspace(-1, 1, 5)[:, None]
    policy = posterior.policy(states)
    torch.testing.assert_close(policy.mean, states, atol=0.01, rtol=0)
    torch.testing.assert_close(policy.stddev, torch.full((5, 1), 0.125**0.5), atol=0.01, rtol=0)
    expected = 0.25 * np.log(2 * np.pi * 0.125)
    torch.testing.assert_close(posterior.v(states), torch.full((5,), expected, dtype=torch.float32), atol=0.01, rtol=0)
    q = posterior.q(states, states + 0.2)
    torch.testing.assert_close(q, torch.full((5,), -0.08), atol=0.02, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cart_pole(seed: int) -> None:
    """475 of 500 within 40,000 steps, by sampled and by greedy actions; seen: 500 and at least 486."""
    env = cai.from_gym("CartPole-v1", discount=0.99, temperature=0.1)
    posterior = cai.infer(env, cai.PathConsistency(num_steps=40_000), seed=seed)
    assert posterior.sample(20, seed=10_000).lengths.double().mean() >= 475
    greedy = cai.rollout(env, lambda state, t: greedy_action(posterior.policy(state)), 20, seed=10_000)
    assert greedy.lengths.double().mean() >= 475


# -- noise ------------------------------------------------------------------------------------------------------------


def fork() -> cai.TrajectoryGraph:
    """From 0 by chance to 1, which pays 1, or to 2, which pays -1: V = (0, 1, -1)."""
    moves = np.zeros((4, 1, 4))
    moves[0, 0, 1:3], moves[1:, 0, 3] = 0.5, 1.0
    return cai.TrajectoryGraph(
        F.Categorical([1.0, 0, 0, 0]),
        F.TabularDynamics(moves, terminal=[False, False, False, True]),
        F.TabularReward([0.0, 1.0, -1.0, 0.0]),
        discount=0.9,
        temperature=1.0,
    )


def forked(residual: Any, seed: int) -> torch.Tensor:
    rate = Annealed(0.05, 0.0005)
    models = SeparateModels(TableBody(), TableBody(), policy_learning_rate=rate, value_learning_rate=rate)
    method = cai.PathConsistency(
        models=models,
        residual=residual,
        path_length=1,
        num_steps=10_000,
        num_envs=64,
        steps_per_rollout=2,
        replay_updates=5,
        replay_batch=256,
    )
    return cai.infer(fork(), method, seed=seed).v(torch.arange(3))


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_biases_the_square_as_computed(seed: int) -> None:
    """E C^2 is least where V(1) = -V(2) = 1 / (1 + gamma^2), by its derivative; the truth is 1."""
    biased = 1 / (1 + 0.9**2)
    values = forked(cai.methods.SquaredResidual(), seed)
    np.testing.assert_allclose(values, [0.0, biased, -biased], atol=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_double_sampling_has_no_such_bias(seed: int) -> None:
    np.testing.assert_allclose(forked(DoubleSampledResidual(), seed), [0.0, 1.0, -1.0], atol=0.05)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_memories_of_rollouts() -> None:
    graph = GRAPHS["lake"]()
    first, second = uniform_rollout(graph, 5, 3, seed=1), uniform_rollout(graph, 5, 3, seed=2)
    buffer = UniformRolloutReplay(capacity=4).buffer()
    buffer.add(first)
    assert len(buffer) == 3 and torch.equal(buffer.take(torch.arange(3)).states, first.states)
    buffer.add(second)
    assert len(buffer) == 4
    kept = buffer.take(torch.arange(4))
    assert torch.equal(
        kept.states, torch.stack([second.states[:, i] for i in (1, 2)] + [first.states[:, 2], second.states[:, 0]], 1)
    )
    again = UniformRolloutReplay(capacity=4).buffer()
    again.remember(buffer.memory())
    again.add(first), buffer.add(first)
    assert torch.equal(again.take(torch.arange(4)).states, buffer.take(torch.arange(4)).states)
    huge = UniformRolloutReplay(capacity=2).buffer()
    huge.add(first)
    assert torch.equal(huge.take(torch.arange(2)).states.sum(1), first.states[:, 1:].sum(1))


def test_rollouts_by_return() -> None:
    graph = GRAPHS["lake"]()
    rollout = uniform_rollout(graph, 5, 3)
    rewards = torch.zeros(5, 3, dtype=torch.float64)
    rewards[0] = torch.tensor([0.0, 1.0, 2.0])
    rollout = Rollout(**{**vars(rollout), "rewards": rewards})
    replay = ReturnRolloutReplay(capacity=10, scale=0.5, share=0.3)
    buffer = replay.buffer()
    buffer.add(rollout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = replay.sample(buffer, 20_000).rewards[0]
    expected = 0.3 / 3 + 0.7 * np.exp([0.0, 2.0, 4.0]) / np.exp([0.0, 2.0, 4.0]).sum()
    shares = np.array([float((drawn == value).double().mean()) for value in (0.0, 1.0, 2.0)])
    assert (np.abs(shares - expected) < 5 * np.sqrt(expected / 20_000)).all()


def test_choices_of_a_multi_discrete_space() -> None:
    """One step, reward 1 for doing (1, 2) together: Q is exact in the joint form."""

    class Both(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(1)
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
            return 0, {}

        def step(self, action: np.ndarray) -> tuple[int, float, bool, bool, dict]:
            return 0, float(tuple(action) == (1, 2)), True, False, {}

    graph = cai.from_gym(Both(), discount=0.9, temperature=0.5)
    rate = Annealed(0.1, 0.001)
    models = UnifiedModel(TableBody(), learning_rate=rate)
    options = {"num_steps": 2_000, "num_envs": 10, "steps_per_rollout": 4, "path_length": 1, "replay_updates": 5}
    posterior = cai.infer(graph, cai.PathConsistency(models=models, **options), seed=0)
    actions = torch.tensor([[i, j] for i in range(2) for j in range(3)])
    np.testing.assert_allclose(posterior.q(0, actions), [0, 0, 0, 0, 0, 1], atol=0.01)
    np.testing.assert_allclose(posterior.v(0), 0.5 * np.log((5 + np.exp(2)) / 6), atol=0.01)
    separate = cai.infer(graph, cai.PathConsistency(**options), seed=0)  # independent choices cannot be exact
    assert separate.policy(0).log_prob(torch.tensor([1, 2])) > np.log(1 / 6)


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    graph, method = GRAPHS["lake"](), cai.PathConsistency(num_steps=2_000, num_envs=4)
    whole = cai.infer(graph, method, seed=3)

    class Stop(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps >= 1_000:
                raise cai.StopInference("half way")

    file = tmp_path / "checkpoint"
    cai.infer(graph, method, seed=3, callbacks=[cai.Checkpoint(file, interval=0.0), Stop()])
    resumed = cai.infer(graph, method, seed=3, resume=file)
    states = torch.arange(16)
    assert torch.equal(resumed.v(states), whole.v(states))
    assert torch.equal(resumed.policy(states).probs, whole.policy(states).probs)


def test_save_and_load(tmp_path: Path) -> None:
    posterior = cai.infer(GRAPHS["lake"](), cai.PathConsistency(num_steps=400), seed=0)
    posterior.save(tmp_path / "learned")
    again = cai.load(tmp_path / "learned")
    states = torch.arange(16)
    assert torch.equal(again.v(states), posterior.v(states))
    assert torch.equal(again.policy(states).probs, posterior.policy(states).probs)
    assert again.history.names == posterior.history.names


def test_what_is_logged() -> None:
    posterior = cai.infer(GRAPHS["lake"](), cai.PathConsistency(num_steps=400, num_envs=4), seed=0)
    for name in ("return", "episode_length", "entropy", "bellman_residual", "path_loss", "temperature"):
        assert len(posterior.history.curve(name).values) > 0, name
    assert float(posterior.history.curve("entropy").values[0]) == pytest.approx(np.log(4))


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "path longer than rollout": ({"path_length": 30}, ValueError, "path_length 30 is beyond the 20 steps"),
    "no path": ({"path_length": 0}, ValueError, "path_length must be a whole number"),
    "models": ({"models": TableBody()}, ValueError, r"models must be such as cai.methods.SeparateModels\(\)"),
    "replay": ({"replay": 100}, ValueError, "replay must be such as"),
    "norm": ({"max_norm": 0.0}, ValueError, "max_norm must be positive"),
    "double sampling of long paths": ({"residual": DoubleSampledResidual()}, ValueError, "path_length must be 1"),
}


@pytest.mark.parametrize("options, kind, message", BAD.values(), ids=BAD)
def test_bad_options_are_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        cai.infer(GRAPHS["lake"](), cai.PathConsistency(**options))


def test_graphs_that_it_cannot_serve_are_refused() -> None:
    with pytest.raises(cai.IncompatibleMethod, match="positive temperature.*SoftQLearning"):
        cai.infer(GRAPHS["lake"]().replace(temperature=0.0), cai.PathConsistency())
    box = cai.from_gym(Target(), discount=0.9)
    with pytest.raises(cai.IncompatibleMethod, match=r"finitely many actions.*SeparateModels"):
        cai.infer(box, cai.PathConsistency(models=UnifiedModel()))
    with pytest.raises(cai.IncompatibleMethod, match="needs tables"):
        cai.infer(box, cai.PathConsistency(residual=DoubleSampledResidual(), path_length=1))
    with pytest.raises(ValueError, match="scale must be positive"):
        ReturnRolloutReplay(scale=0.0)


def test_a_reward_that_is_too_great_keeps_what_was_learned() -> None:
    rewards = np.zeros((16, 4))
    rewards[14] = 1e200
    graph = GRAPHS["lake"]().replace(reward=F.TabularReward(rewards))
    with pytest.raises(cai.NonFinite, match="PathConsistency: after update") as caught:
        cai.infer(graph, cai.PathConsistency(num_steps=40_000, num_envs=16), seed=0)
    assert torch.isfinite(caught.value.posterior.v(torch.arange(16))).all()
