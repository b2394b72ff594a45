"""Cross-entropy search: known optima, many policies at once as one by one, and a linear policy for the pole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

import cai
from cai.factors import GaussianHead, MLPBody, StateGaussianHead, greedy_action
from cai.methods import Annealed
from cai.methods.policy_search.episodes import Tournament
from cai.methods.policy_search.learner import PolicySearchLearner
from cai.simulate.worlds import world_of

F = cai.factors


class Still:
    """Dynamics in which every episode is one step."""

    def __call__(self, state: Tensor, action: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(state, 1e-9), 1)

    def terminal(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return torch.ones(state.shape[:-1], dtype=torch.bool)


def quadratic(action_space: gymnasium.Space, *, temperature: float) -> cai.TrajectoryGraph:
    """One step from x ~ N(0, 1), reward -2 (a - x / 2 - 1/4)^2."""
    return cai.TrajectoryGraph(
        F.Gaussian(np.zeros(1), np.eye(1), dtype=torch.float32),
        Still(),
        F.FunctionReward(lambda state, action: -2.0 * (action - 0.5 * state - 0.25)[..., 0].square()),
        discount=0.9,
        temperature=temperature,
        state_space=Box(-np.inf, np.inf, (1,), np.float32),
        action_space=action_space,
    )


def bandit(rewards: list[float], *, temperature: float, **parts: Any) -> cai.TrajectoryGraph:
    num = len(rewards)
    moves = np.zeros((2, num, 2))
    moves[:, :, 1] = 1.0
    return cai.TrajectoryGraph(
        F.Categorical([1.0, 0.0]),
        F.TabularDynamics(moves, terminal=[False, True]),
        F.TabularReward([rewards, [0.0] * num]),
        discount=0.9,
        temperature=temperature,
        **parts,
    )


# -- known optima -----------------------------------------------------------------------------------------------------


def test_a_linear_policy_finds_the_optimum_of_a_quadratic() -> None:
    graph = quadratic(Box(-np.inf, np.inf, (1,), np.float32), temperature=0.0)
    method = cai.CrossEntropyPolicySearch(
        num_steps=400_000, population=40, num_envs=1000, episodes=100, noise=Annealed(0.3, 0.001, 0.8)
    )
    posterior = cai.infer(graph, method, seed=0)
    states = torch.tensor([[-1.0], [0.0], [2.0]])
    torch.testing.assert_close(posterior.policy(states).mean, 0.5 * states + 0.25, atol=0.02, rtol=0)
    assert posterior.expected_return > -0.01
    with pytest.raises(cai.Unavailable, match="temperature 0"):
        posterior.bound()


def test_a_soft_policy_finds_the_optimum_with_its_spread() -> None:
    """Over the flat measure the best normal has variance alpha / 4, and J = (alpha / 2) log(2 pi alpha / 4)."""
    graph = quadratic(Box(-np.inf, np.inf, (1,), np.float32), temperature=0.5)
    method = cai.CrossEntropyPolicySearch(
        num_steps=400_000, population=40, num_envs=1000, episodes=100, noise=Annealed(0.3, 0.01, 0.8)
    )
    posterior = cai.infer(graph, method, seed=0)
    states = torch.tensor([[-1.0], [0.0], [1.0]])
    policy = posterior.policy(states)
    torch.testing.assert_close(policy.mean, 0.5 * states + 0.25, atol=0.15, rtol=0)
    torch.testing.assert_close(policy.stddev, torch.full((3, 1), 0.125**0.5), atol=0.15, rtol=0)
    best = 0.25 * np.log(2 * np.pi * 0.125) / 0.5
    bound = posterior.bound(num_episodes=4_000)
    assert best - 0.05 < bound.mean < best + 4 * bound.standard_error


@pytest.mark.parametrize("prior", [None, [0.1, 0.2, 0.3, 0.4]], ids=["uniform", "given"])
def test_a_soft_bandit(prior: list[float] | None) -> None:
    """The best is mu exp(r / alpha), worth alpha log sum mu exp(r / alpha)."""
    given = {} if prior is None else {"action_prior": F.TabularPolicy(np.tile(prior, (2, 1)))}
    graph = bandit([0.0, 1.0, 2.0, -1.0], temperature=0.8, **given)
    method = cai.CrossEntropyPolicySearch(
        num_steps=400_000, population=40, num_envs=1000, episodes=100, noise=Annealed(0.3, 0.01, 0.8)
    )
    posterior, exact = cai.infer(graph, method, seed=0), cai.infer(graph, cai.SoftValueIteration())
    np.testing.assert_allclose(posterior.policy(0).probs, exact.policy(0).probs, atol=0.1)
    assert exact.log_evidence - 0.1 < posterior.log_evidence <= exact.log_evidence + 1e-9


def test_a_forbidden_action_is_never_taken() -> None:
    prior = F.TabularPolicy([[0.5, 0.5, 0.0, 0.0], [0.25] * 4])
    for temperature in (0.0, 0.5):
        graph = bandit([0.0, 1.0, 2.0, 3.0], temperature=temperature, action_prior=prior)
        posterior = cai.infer(graph, cai.CrossEntropyPolicySearch(num_steps=2_000), seed=0)
        assert (posterior.policy(0).probs[2:] == 0).all()
        assert posterior.policy(0).probs[1] > 0.5


def test_at_temperature_zero_nothing_is_left_to_chance() -> None:
    posterior = cai.infer(
        bandit([0.0, 1.0, 2.0], temperature=0.0), cai.CrossEntropyPolicySearch(num_steps=2_000), seed=0
    )
    assert posterior.policy(0).probs.tolist() == [0.0, 0.0, 1.0]
    assert float(posterior.expected_return) == 2.0


def test_terminal_rewards_count() -> None:
    """A near goal worth 1 and a far one worth 10, three moves away, at no cost of moving: 10 * .95^3."""
    graph = cai.load_model("gridworld", layout=["1S..G"], step_cost=0.0, discount=0.95, temperature=0.0, horizon=20)
    posterior = cai.infer(graph, cai.CrossEntropyPolicySearch(num_steps=20_000), seed=0)
    assert posterior.history.curve("elite_objective").values[-1] == pytest.approx(10.0 * 0.95**3)
    assert (posterior.policy(torch.arange(1, 4)).probs.argmax(-1) == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cart_pole(seed: int) -> None:
    """475 of 500 by a linear policy within 60,000 steps; seen: 500 on all seeds."""
    graph = cai.from_gym("CartPole-v1", discount=0.99, temperature=0.0)
    posterior = cai.infer(graph, cai.CrossEntropyPolicySearch(num_steps=60_000), seed=seed)
    run = cai.rollout(graph, lambda state, t: greedy_action(posterior.policy(state)), 20, seed=10_000)
    assert run.lengths.double().mean() >= 475


# -- many at once, one by one -----------------------------------------------------------------------------------------


def learner_on(graph: cai.TrajectoryGraph, **options: Any) -> PolicySearchLearner:
    return cai.CrossEntropyPolicySearch(**options).learner(graph)


SPACES = {
    "discrete": (Discrete(3), 0.5),
    "multi-discrete": (MultiDiscrete([2, 3]), 0.5),
    "bounded": (Box(-2.0, 1.0, (2,), np.float32), 0.5),
    "unbounded": (Box(-np.inf, np.inf, (2,), np.float32), 0.5),
    "discrete, hard": (Discrete(3), 0.0),
    "multi-discrete, hard": (MultiDiscrete([2, 3]), 0.0),
    "bounded, hard": (Box(-2.0, 1.0, (2,), np.float32), 0.0),
}


@pytest.mark.parametrize("body", [MLPBody(()), MLPBody((5, 4), "tanh")], ids=["linear", "layers"])
@pytest.mark.parametrize("space, temperature", SPACES.values(), ids=SPACES)
def test_stacked_policies_are_the_single_ones(space: gymnasium.Space, temperature: float, body: MLPBody) -> None:
    learner = learner_on(quadratic(space, temperature=temperature), body=body)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, learner.policies.num_parameters, generator=generator)
    states = torch.randn(6, 1, generator=generator)
    learner.policies.load(vectors)
    together = learner.policies.each(states, 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actions = together.sample()
    log_probs = together.log_prob(actions)
    assert log_probs.shape == (6,)
    for i in range(6):
        alone = learner.policies.one(vectors[i], states[i])
        torch.testing.assert_close(alone.log_prob(actions[i]), log_probs[i])
        layers = by_hand(vectors[i], states[i], body.hidden)
        torch.testing.assert_close(learner.policies._stack(1)(states[i])[0], layers)


def by_hand(vector: Tensor, x: Tensor, hidden: tuple[int, ...]) -> Tensor:
    """The network of a vector: all weights first, `[in, out]` each, then all biases."""
    sizes = [len(x), *hidden]
    num_outputs = (len(vector) - sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))) // (sizes[-1] + 1)
    sizes.append(num_outputs)
    shapes = [*zip(sizes, sizes[1:], strict=False)]
    parts = vector.split([a * b for a, b in shapes] + [b for _, b in shapes])
    for i, (a, b) in enumerate(shapes):
        x = x @ parts[i].reshape(a, b) + parts[len(shapes) + i]
        x = x if i == len(shapes) - 1 else x.tanh()
    return x


@pytest.mark.parametrize("num_envs", [1, 3, 8, 11])
def test_scores_do_not_depend_on_the_number_of_copies(num_envs: int) -> None:
    """A deterministic world and deterministic policies; some never arrive, and are cut off."""
    graph = cai.load_model("gridworld", layout=["3S.G"], discount=0.9, temperature=0.0, horizon=9)
    learner = learner_on(graph)
    vectors = torch.randn(20, learner.policies.num_parameters, generator=torch.Generator().manual_seed(0))
    expected = []
    for vector in vectors:
        learner.mean.copy_(vector)
        run = cai.rollout(graph, lambda state, t: greedy_action(learner.policy(state)), 1)
        steps = int(run.lengths[0])
        rewards = run.rewards[0, :steps].double().numpy()
        end = float(graph.terminal_reward(run.states[0, steps])) if run.terminated[0] else 0.0
        expected.append((rewards * 0.9 ** np.arange(steps)).sum() + 0.9**steps * end)
    assert len(set(expected)) > 2
    scores = Tournament(learner, world_of(graph, num_envs), vectors, 2).play(0)
    np.testing.assert_allclose(scores.objectives, expected, rtol=1e-6)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    """In a live environment too: each generation begins its episodes anew, by a seed of its own."""
    graph = cai.from_gym("CartPole-v1", discount=0.99, temperature=0.1)
    method = cai.CrossEntropyPolicySearch(num_steps=4_000, population=10)
    whole = cai.infer(graph, method, seed=3)

    class Stop(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps >= 2_000:
                raise cai.StopInference("half way")

    file = tmp_path / "checkpoint"
    cai.infer(graph, method, seed=3, callbacks=[cai.Checkpoint(file, interval=0.0), Stop()])
    resumed = cai.infer(graph, method, seed=3, resume=file)
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert resumed.stats.num_steps == whole.stats.num_steps
    assert torch.equal(resumed.policy(states).probs, whole.policy(states).probs)


def test_save_and_load(tmp_path: Path) -> None:
    graph = bandit([0.0, 1.0, 2.0], temperature=0.5)
    posterior = cai.infer(graph, cai.CrossEntropyPolicySearch(num_steps=500), seed=0)
    posterior.save(tmp_path / "found")
    again = cai.load(tmp_path / "found")
    assert torch.equal(again.policy(0).probs, posterior.policy(0).probs)


def test_what_is_there_and_what_is_not() -> None:
    posterior = cai.infer(bandit([0.0, 1.0], temperature=0.5), cai.CrossEntropyPolicySearch(num_steps=500), seed=0)
    for name in ("return", "episode_length", "entropy", "objective", "elite_objective", "parameter_std"):
        assert len(posterior.history.curve(name).values) > 0, name
    for ask in (lambda: posterior.q(0, 0), lambda: posterior.v(0)):
        with pytest.raises(cai.Unavailable, match="learns no"):
            ask()
    assert posterior.is_bound


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "share": ({"elite_share": 1.0}, ValueError, "elite_share must be in"),
    "population": ({"population": 1}, ValueError, "population must be a whole number of at least 2"),
    "spread": ({"initial_std": 0.0}, ValueError, "initial_std must be positive"),
    "body": ({"body": lambda a, b: None}, ValueError, "body must be a cai.factors.MLPBody"),
}


@pytest.mark.parametrize("options, kind, message", BAD.values(), ids=BAD)
def test_bad_options_are_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        cai.infer(bandit([0.0, 1.0], temperature=0.5), cai.CrossEntropyPolicySearch(**options))


def test_graphs_that_it_cannot_serve_are_refused() -> None:
    graph = cai.load_model("gridworld")
    with pytest.raises(cai.IncompatibleMethod, match="give the graph a horizon, or a discount below 1"):
        cai.infer(graph, cai.CrossEntropyPolicySearch())
    box = quadratic(Box(-np.inf, np.inf, (1,), np.float32), temperature=0.5)
    with pytest.raises(ValueError, match="GaussianHead has parameters of its own"):
        cai.infer(box, cai.CrossEntropyPolicySearch(head=GaussianHead()))
    cai.infer(box, cai.CrossEntropyPolicySearch(head=StateGaussianHead(), num_steps=100))


def test_without_an_end_episodes_are_cut_where_nothing_counts() -> None:
    """Reward 1 for ever at discount .5: cut after 10 steps, worth 2 - 2^-9."""
    moves = np.ones((1, 2, 1))
    graph = cai.TrajectoryGraph(
        F.Categorical([1.0]), F.TabularDynamics(moves), F.TabularReward([1.0]), discount=0.5, temperature=0.0
    )
    posterior = cai.infer(graph, cai.CrossEntropyPolicySearch(num_steps=500), seed=0)
    assert posterior.history.curve("objective").values[-1] == pytest.approx(2.0 - 2.0**-9)
