"""What is learned against what is known: exact messages, closed forms, probes. Minutes, most of it marked slow."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import cai
from cai.factors import MLPBody
from cai.methods import Annealed, DeterministicLimit, PolyakTarget, TargetDivergence, TargetEntropy, UniformReplay
from tests import probes
from tests.methods.actor_critic import build as B

LINEAR = MLPBody(())
#: One table entry, or coefficient, for each: what is learned can be right to the last digit of the noise.
TABULAR: dict[str, Any] = {
    "body": LINEAR,
    "learning_rate": Annealed(0.05, 1e-3),
    "target": PolyakTarget(0.05),
    "learning_starts": 200,
    "batch_size": 128,
}


class Quadratic(nn.Module):
    """Linear in the inputs and their products: Q of a linear-quadratic problem, exactly."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.rows, self.columns = torch.triu_indices(num_inputs, num_inputs)
        self.linear = nn.Linear(num_inputs + len(self.rows), num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([x, x[..., self.rows] * x[..., self.columns]], -1))


def assert_tables(posterior: Any, exact: Any, *, q: float, kl: float) -> None:
    """Q and V within a share of max |Q|, and the policy within a divergence, in every state."""
    num_states, num_actions = exact.graph.dynamics.num_states, exact.graph.dynamics.num_actions
    alive = ~exact.graph.dynamics.terminal_mask
    states = torch.arange(num_states)[alive]
    expected = exact.q(states[:, None], torch.arange(num_actions))
    most = expected.abs().max()
    assert (posterior.q(states[:, None], torch.arange(num_actions)) - expected).abs().max() < q * most
    assert (posterior.v(states) - exact.v(states)).abs().max() < q * most
    divergence = torch.distributions.kl_divergence(exact.policy(states), posterior.policy(states))
    assert divergence.max() < kl


def test_two_states() -> None:
    """Finite actions, a table of everything: the messages of `SoftValueIteration`."""
    graph = cai.load_model("two_state", discount=0.8, horizon=None, temperature=0.5)
    posterior = cai.infer(graph, cai.SoftActorCritic(900, **TABULAR | {"num_envs": 4, "updates_per_step": 1.0}), seed=0)
    assert_tables(posterior, cai.infer(graph, cai.SoftValueIteration()), q=0.03, kl=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["uniform", "flat", "table"])
def test_two_states_and_priors(prior: str) -> None:
    graph = cai.load_model("two_state", discount=0.9, horizon=None, temperature=0.5)
    table = cai.factors.TabularPolicy([[0.8, 0.2], [0.3, 0.7]])
    graph = graph.replace(action_prior={"uniform": None, "flat": cai.factors.FlatPrior(), "table": table}[prior])
    method = cai.SoftActorCritic(24_000, num_envs=8, updates_per_step=0.125, **TABULAR)
    posterior = cai.infer(graph, method, seed=0)
    exact = cai.infer(graph, cai.SoftValueIteration())
    assert_tables(posterior, exact, q=0.03, kl=0.005)
    assert float(posterior.log_evidence) <= float(exact.log_evidence) + 1e-9
    assert float(posterior.log_evidence) == pytest.approx(float(exact.log_evidence), rel=0.01)


@pytest.mark.slow
def test_frozen_lake() -> None:
    """Terminal states and rare rewards; it starts anywhere, or the last step would hardly ever be seen."""
    lake = cai.from_gym("FrozenLake-v1", discount=0.95, temperature=0.05)
    graph = lake.replace(initial=cai.factors.Categorical((~lake.dynamics.terminal_mask).double() / 11))
    options = {"num_envs": 16, "updates_per_step": 0.125, "learning_starts": 16_000, "batch_size": 512}
    method = cai.SoftActorCritic(48_000, **TABULAR | options | {"learning_rate": Annealed(0.02, 2e-4)})
    posterior = cai.infer(graph, method, seed=0)
    exact = cai.infer(graph, cai.SoftValueIteration())
    assert_tables(posterior, exact, q=0.05, kl=0.03)
    assert 0.0 <= float(posterior.gap(exact).kl) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("num_critics", [1, 2])
def test_linear_quadratic(num_critics: int) -> None:
    """Q quadratic, the mean linear, the standard deviation alike everywhere: V, Q and policy of the Riccati equation.

    A horizon only truncates: episodes of five steps give the answer of the endless problem.
    """
    graph = cai.load_model(
        "linear_quadratic",
        num_states=2,
        num_actions=1,
        radius=0.6,
        noise=0.3,
        horizon=None,
        discount=0.8,
        temperature=0.5,
    )
    exact = cai.infer(graph, cai.SoftValueIteration())
    method = cai.SoftActorCritic(
        8_000,
        num_envs=4,
        updates_per_step=0.25,
        num_critics=num_critics,
        body=LINEAR,
        critic_body=Quadratic,
        learning_rate=Annealed(3e-2, 1e-4),
        target=PolyakTarget(0.05),
        replay=UniformReplay(4_000),  # what the first policies did is far off, and spoils the condition of the squares
    )
    posterior = cai.infer(graph.replace(horizon=5), method, seed=0)
    states = torch.tensor(np.random.default_rng(0).normal(size=(40, 2)))
    actions = exact.policy(states).mean + 0.5
    scale = float(exact.q(states, actions).std())
    assert float((posterior.v(states) - exact.v(states)).abs().max()) < 0.1 * scale
    assert float((posterior.q(states, actions) - exact.q(states, actions)).abs().max()) < 0.15 * scale
    mean, std = exact.policy(states).mean, exact.policy(states).variance.sqrt()
    assert float((posterior.policy(states).mean - mean).abs().max()) < 0.15
    torch.testing.assert_close(posterior.policy(states).stddev.double(), std, rtol=0.1, atol=0.0)


class OneStep(gymnasium.Env):
    """One step from a place c in [-1, 1], reward -k (a - c)^2 / 2: pi* ~ mu exp(-k (a - c)^2 / (2 alpha))."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, space: gymnasium.Space, stiffness: float) -> None:
        self.action_space, self.stiffness = space, stiffness

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.place, -0.5 * self.stiffness * float(action[0] - self.place[0]) ** 2, True, False, {}


ONE_STEP: dict[str, Any] = {
    "critic_body": Quadratic,
    "learning_rate": Annealed(1e-2, 1e-4),
    "num_envs": 8,
    "updates_per_step": 0.25,
    "learning_starts": 400,
}


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["flat", "normal"])
def test_one_step_with_a_normal_answer(prior: str) -> None:
    """Unbounded: N(c, alpha / k); with a prior N(0, s^2) the product of the two. KL to the closed form, exactly."""
    alpha, k, s = 0.4, 2.0, 0.5

    def normal(state: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(state), s), 1)

    graph = cai.from_gym(OneStep(B.unbounded(1), k), discount=0.9, temperature=alpha)
    graph = graph.replace(action_prior=normal if prior == "normal" else None)
    posterior = cai.infer(graph, cai.SoftActorCritic(10_000, body=LINEAR, **ONE_STEP), seed=0)
    places = torch.linspace(-1.0, 1.0, 9)[:, None]
    precision = k / alpha + (1 / s**2 if prior == "normal" else 0.0)
    truth = cai.factors.DiagonalNormal(places * (k / alpha) / precision, torch.tensor(-0.5 * math.log(precision)))
    assert float(torch.distributions.kl_divergence(posterior.policy(places), truth).max()) < 0.01


@pytest.mark.slow
def test_one_step_on_a_box() -> None:
    """Bounded, with the uniform prior: the answer is a truncated normal, the actor the nearest squashed one.

    Its divergence, by quadrature, is the least of the family, found by another optimiser; and it is what V lacks of
    alpha log E exp(r / alpha).
    """
    alpha, k = 0.4, 2.0
    graph = cai.from_gym(OneStep(B.box([-2.0], [2.0]), k), discount=0.9, temperature=alpha)
    method = cai.SoftActorCritic(12_000, body=MLPBody((32, 32)), **ONE_STEP)
    posterior = cai.infer(graph, method, seed=0)
    places = torch.linspace(-0.8, 0.8, 5)[:, None]
    grid = torch.linspace(-2.0, 2.0, 4002)[1:-1, None]
    density = -0.5 * k * (grid[:, 0] - places) ** 2 / alpha
    log_mean = torch.logsumexp(density, 1, keepdim=True) - math.log(len(grid))

    def lacks(policy: Any) -> torch.Tensor:
        """KL(policy || pi*), `[5]`, of a policy with batch [5, 1]."""
        log_prob = policy.log_prob(grid)
        return (log_prob.exp() * (log_prob - density + log_mean + math.log(4.0))).mean(1) * 4.0

    best = torch.zeros(2, 5, 1, 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = lacks(cai.factors.SquashedNormal(*best, torch.tensor([-2.0]), torch.tensor([2.0]))).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    least = lacks(cai.factors.SquashedNormal(*best.detach(), torch.tensor([-2.0]), torch.tensor([2.0])))
    assert float(least.min()) > 0.0 and float(least.max()) < 0.05  # the family is not far from the answer
    learned = lacks(posterior.policy(places[:, None]))
    assert float((learned - least).max()) < 0.01
    np.testing.assert_allclose(posterior.v(places), alpha * (log_mean[:, 0] - learned), atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_probes(probe: type[probes.Probe], kind: str) -> None:
    """Values in closed form: one-step, two-step, truncated and terminated, in units that are not [-1, 1]."""
    problem = probe(kind)
    given = {"temperature": 0.5, "discount": 0.8}
    method = cai.SoftActorCritic(
        6_000,
        body=MLPBody((32, 32)),
        learning_rate=Annealed(1e-2, 1e-4),
        target=PolyakTarget(0.05),
        num_envs=4,
        updates_per_step=0.5,
    )
    posterior = cai.infer(problem.graph(**given), method, seed=0)
    states, actions = problem.pairs_of_both
    np.testing.assert_allclose(posterior.q(states, actions), problem.q(states, actions, **given), atol=0.1)
    np.testing.assert_allclose(posterior.v(problem.states), problem.v(problem.states, **given), atol=0.1)
    if kind == "box":
        mean = posterior.policy(problem.states).sample(torch.Size([2000])).mean(0)[:, 0] / probes.REACH
        np.testing.assert_allclose(mean, problem.mean_coordinate(problem.states, **given), atol=0.1)
    else:
        log_policy = posterior.policy(states).log_prob(torch.as_tensor(actions))
        np.testing.assert_allclose(log_policy, problem.log_policy(states, actions, **given), atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("probe", [probes.MatchingReward, probes.ChoiceReward], ids=lambda probe: probe.__name__)
@pytest.mark.parametrize("limit", ["td3", "ddpg"])
def test_probes_at_temperature_zero(probe: type[probes.Probe], limit: str) -> None:
    """The deterministic limit: the best action, at the edge of the box, and max Q."""
    problem = probe("box")
    options: dict[str, Any] = {"num_critics": 2}
    if limit == "ddpg":
        options = {"num_critics": 1, "limit": DeterministicLimit(0.3, target_noise=0.0, policy_delay=1)}
    method = cai.SoftActorCritic(
        6_000, body=MLPBody((32, 32)), learning_rate=3e-3, target=PolyakTarget(0.05), learning_starts=1_000, **options
    )
    posterior = cai.infer(problem.graph(temperature=0.0, discount=0.8), method, seed=0)
    states = problem.states
    expected = problem.v(states, temperature=0.0, discount=0.8)
    np.testing.assert_allclose(posterior.v(states), expected, atol=0.15)
    best = posterior.policy(states).mean[:, 0] / probes.REACH
    slopes = problem._line(states, 0.0, 0.8)[1]
    np.testing.assert_allclose(best[slopes != 0], np.sign(slopes[slopes != 0]), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_target_entropy_is_reached(kind: str) -> None:
    """Where reward pulls to one side, the temperature settles where the entropy is the target, and not elsewhere."""
    problem = probes.ActionReward(kind)
    target = -0.5 if kind == "box" else 0.6
    method = cai.SoftActorCritic(
        5_000,
        body=MLPBody((32, 32)),
        learning_rate=Annealed(1e-2, 1e-4),
        temperature=TargetEntropy(target),
        num_envs=4,
        updates_per_step=0.5,
    )
    posterior = cai.infer(problem.graph(temperature=1.0), method, seed=0)
    policy = posterior.policy(problem.states)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        entropy = -policy.log_prob(policy.sample(torch.Size([4000]))).mean()
    unit = math.log(probes.REACH) if kind == "box" else 0.0
    assert float(entropy) - unit == pytest.approx(target, abs=0.08)
    given = {"temperature": posterior.graph.temperature, "discount": 0.9}
    np.testing.assert_allclose(posterior.v(problem.states), problem.v(problem.states, **given), atol=0.1)


@pytest.mark.slow
def test_target_divergence_is_reached() -> None:
    alpha, k, s, target = 1.0, 2.0, 0.5, 0.3

    def normal(state: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(state), s), 1)

    graph = cai.from_gym(OneStep(B.unbounded(1), k), discount=0.9, temperature=alpha).replace(action_prior=normal)
    tuning = TargetDivergence(target, learning_rate=1e-2)
    method = cai.SoftActorCritic(10_000, body=LINEAR, temperature=tuning, **ONE_STEP)
    posterior = cai.infer(graph, method, seed=0)
    places = torch.linspace(-1.0, 1.0, 201)[:, None]
    prior = cai.factors.DiagonalNormal(torch.zeros_like(places), torch.tensor(math.log(s)))
    divergence = torch.distributions.kl_divergence(posterior.policy(places), prior).mean()
    assert float(divergence) == pytest.approx(target, rel=0.15)
