"""Policy evaluation from samples, against its exact form, textbooks' algorithms by hand, and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

import cai
from cai.factors import MLPBody
from cai.methods import (
    Annealed,
    EveryVisitMonteCarlo,
    FirstVisitMonteCarlo,
    HarmonicSteps,
    NetworkValues,
    SampledEvaluation,
    TableValues,
    TemporalDifference,
)
from cai.methods.evaluation.estimators import ValueTable
from cai.methods.evaluation.experience import Experience
from cai.methods.soft_q.step_sizes import AbstractStepSize
from tests import oracles
from tests.laws.build import graph_of
from tests.probes import ChoiceReward, DelayedReward, EndlessReward, Probe, StateReward

F = cai.factors
ESTIMATORS = {
    "TD(0)": TemporalDifference(),
    "TD(.7)": TemporalDifference(0.7),
    "TD(1)": TemporalDifference(1.0),
    "every visit": EveryVisitMonteCarlo(),
    "first visit": FirstVisitMonteCarlo(),
}


def random_graph(seed: int, **options: Any) -> cai.TrajectoryGraph:
    options = {"horizon": None, "num_states": 4, "num_actions": 3, "discount": 0.8} | options
    return graph_of(oracles.random_problem(seed, **options))


def some_policy(graph: cai.TrajectoryGraph, seed: int = 0) -> F.TabularPolicy:
    shape = (graph.state_space.n, graph.action_space.n)
    return F.TabularPolicy(np.random.default_rng(seed).dirichlet(np.ones(shape[1]), shape[0]))


def lively(graph: cai.TrajectoryGraph) -> torch.Tensor:
    return (~graph.dynamics.terminal_mask).nonzero().squeeze(1)


def sampled(graph: cai.TrajectoryGraph, policy: Any, estimator: Any, num_steps: int, **options: Any) -> cai.Posterior:
    options = {"num_envs": 50, "steps_per_rollout": 100, "seed": 0} | options
    seed = options.pop("seed")
    return cai.infer(
        graph, cai.PolicyEvaluation(policy, estimator=estimator, num_steps=num_steps, **options), seed=seed
    )


# -- against the exact form -------------------------------------------------------------------------------------------

WORLDS: dict[str, Callable[[], cai.TrajectoryGraph]] = {
    "endless": lambda: random_graph(1),
    "terminal": lambda: random_graph(2, num_states=5, num_terminal=1, terminal_reward=True),
    "undiscounted": lambda: random_graph(3, num_states=5, num_terminal=1, discount=1.0),
    "flat prior": lambda: random_graph(4, prior="flat"),
}


@pytest.mark.parametrize("name", ["endless", "terminal", "flat prior"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_estimates_are_those_of_the_exact_form(kind: str, name: str) -> None:
    graph = WORLDS[name]()
    policy, states = some_policy(graph), lively(graph)
    exact = cai.infer(graph, cai.PolicyEvaluation(policy))
    posterior = sampled(graph, policy, ESTIMATORS[kind], 80_000, num_envs=200, steps_per_rollout=25)
    spread = float(exact.v(states).std()) + 1.0
    assert (posterior.v(states) - exact.v(states)).abs().max() < 0.06 * spread
    assert torch.allclose(posterior.log_evidence, exact.log_evidence)
    assert torch.allclose(posterior.policy(states).probs, policy.probs[states])


def test_without_discount_too() -> None:
    graph = WORLDS["undiscounted"]()
    policy, states = some_policy(graph), lively(graph)
    exact = cai.infer(graph, cai.PolicyEvaluation(policy, temperature=0.0))
    for estimator in (TemporalDifference(0.9), FirstVisitMonteCarlo()):
        posterior = sampled(graph, policy, estimator, 40_000, temperature=0.0)
        assert (posterior.v(states) - exact.v(states)).abs().max() < 0.3


@pytest.mark.parametrize(
    "kind", ["TD(0)", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(ESTIMATORS)[1:])]
)
def test_errors_fall_with_the_root_of_the_number_of_steps(kind: str) -> None:
    """The slope of log error against log steps is -1/2, over two magnitudes; its standard error here is about .08."""
    graph = random_graph(1)
    policy, states = some_policy(graph), torch.arange(4)
    exact = cai.infer(graph, cai.PolicyEvaluation(policy)).v(states)
    options = {"num_envs": 20, "steps_per_rollout": 25}
    errors = []
    for num_steps in (800, 12_800):
        runs = [sampled(graph, policy, ESTIMATORS[kind], num_steps, seed=seed, **options) for seed in range(6)]
        errors.append(torch.stack([(run.v(states) - exact).square().mean() for run in runs]).mean().sqrt())
    slope = float((errors[1] / errors[0]).log() / np.log(16))
    assert -0.75 < slope < -0.25, slope


def test_no_estimator_is_exact_on_tables_and_td_in_an_environment() -> None:
    graph = random_graph(1)
    assert isinstance(cai.infer(graph, cai.PolicyEvaluation(some_policy(graph))).method, cai.PolicyEvaluation)
    probe = DelayedReward(states="index").graph(temperature=0.5, discount=0.9)
    posterior = cai.infer(probe, cai.PolicyEvaluation(cai.UniformPolicy(), num_steps=2_000), seed=0)
    assert isinstance(posterior, cai.LearnedPosterior)
    assert posterior.method.estimator == TemporalDifference(0.9)
    np.testing.assert_allclose(posterior.v(torch.arange(2)), [0.9, 1.0], atol=0.05)


# -- algorithms by hand -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant(AbstractStepSize):
    """Always the same step."""

    size: float

    def __call__(self, num_updates: torch.Tensor) -> torch.Tensor:
        return torch.full_like(num_updates, self.size)


def some_experience(num_steps: int, num_envs: int, seed: int = 0) -> tuple[Experience, torch.Tensor, torch.Tensor]:
    """Random transitions among five states, with ends of both kinds and rows that are none."""
    rng = np.random.default_rng(seed)
    states = rng.integers(5, size=(num_steps, num_envs))
    ended = rng.random((num_steps, num_envs)) < 0.3
    terminated = ended & (rng.random((num_steps, num_envs)) < 0.5)
    following = np.where(ended, rng.integers(5, size=states.shape), np.roll(states, -1, 0))
    following[-1] = rng.integers(5, size=num_envs)
    index, next_index = torch.as_tensor(states), torch.as_tensor(following)
    payoffs = torch.as_tensor(rng.normal(size=states.shape))
    valid = torch.ones(num_steps, num_envs, dtype=torch.bool)
    parts = (torch.as_tensor(terminated), torch.as_tensor(ended), valid)
    return Experience(index, next_index, payoffs, *parts, 0.9), index, next_index


def returns_by_hand(experience: Experience, next_values: torch.Tensor) -> np.ndarray:
    """The discounted rewards up to the end, and V of the last successor where it was cut off."""
    num_steps, num_envs = experience.payoffs.shape
    returns = np.zeros((num_steps, num_envs))
    for e in range(num_envs):
        for t in range(num_steps):
            weight, k = 1.0, t
            while True:
                returns[t, e] += weight * float(experience.payoffs[k, e])
                weight *= experience.discount
                if experience.ended[k, e] or k == num_steps - 1:
                    returns[t, e] += weight * float(next_values[k, e]) * (not experience.terminated[k, e])
                    break
                k += 1
    return returns


@pytest.mark.parametrize("first", [False, True], ids=["every visit", "first visit"])
def test_monte_carlo_is_the_mean_of_returns(first: bool) -> None:
    experience, index, next_index = some_experience(40, 3)
    table = ValueTable(5, 0)
    estimator = FirstVisitMonteCarlo() if first else EveryVisitMonteCarlo()
    estimator.update(table, experience, index, next_index)
    returns, by_state = returns_by_hand(experience, torch.zeros(40, 3)), [[] for _ in range(5)]
    for e in range(3):
        seen: set[int] = set()
        for t in range(40):
            state = int(index[t, e])
            if not (first and state in seen):
                by_state[state].append(returns[t, e])
            seen = set() if experience.ended[t, e] else seen | {state}
    assert table.num_visits.tolist() == [len(values) for values in by_state]
    np.testing.assert_allclose(table.v, [np.mean(values) for values in by_state], rtol=1e-12)
    before = table.v.clone()
    estimator.update(table, experience, index, next_index)  # what is cut off is now worth something
    again = returns_by_hand(experience, before[next_index])
    counted = experience.first_visits(index).numpy() if first else np.ones((40, 3), bool)
    second = [again[counted & (index.numpy() == state)].mean() for state in range(5)]
    np.testing.assert_allclose(table.v, (before.numpy() + second) / 2, rtol=1e-12)


def test_rows_that_are_no_transitions_count_for_nothing() -> None:
    experience, index, next_index = some_experience(30, 4, seed=1)
    ended_before = torch.zeros_like(experience.ended)
    ended_before[1:] = experience.ended[:-1]
    holes = Experience(**(vars(experience) | {"valid": ~ended_before, "ended": experience.ended | ended_before}))
    wild = Experience(**(vars(holes) | {"payoffs": torch.where(ended_before, 1e6, holes.payoffs)}))
    for estimator in ESTIMATORS.values():
        tables = [ValueTable(5, 4) for _ in range(2)]
        for table, data in zip(tables, (holes, wild), strict=True):
            estimator.update(table, data, index, next_index)
        assert torch.equal(tables[0].v, tables[1].v)
        assert torch.equal(tables[0].num_visits, tables[1].num_visits)


def test_one_copy_goes_as_the_textbook_says() -> None:
    """Tabular TD(lambda) with dutch traces, a state at a time."""
    experience, index, next_index = some_experience(50, 1, seed=2)
    estimator, rate = TemporalDifference(0.6, Constant(0.3)), 0.3
    table, v, z = ValueTable(5, 1), np.zeros(5), np.zeros(5)
    estimator.update(table, experience, index, next_index)
    for t in range(50):
        s, following, over = int(index[t]), int(next_index[t]), bool(experience.terminated[t])
        error = float(experience.payoffs[t]) + 0.9 * v[following] * (not over) - v[s]
        z *= 0.9 * 0.6
        z[s] = (1 - rate) * z[s] + 1
        v = v + rate * error * z
        z *= not experience.ended[t]
    np.testing.assert_allclose(table.v, v, rtol=1e-10)


def test_small_steps_of_td_with_decay_one_are_monte_carlo() -> None:
    """To first order in the step, the change is its size times the sum of G - V over all visits."""
    experience, index, next_index = some_experience(30, 2, seed=3)
    experience.ended[-1] = True  # traces end where returns are cut
    size, table = 1e-7, ValueTable(5, 2)
    table.v += torch.linspace(-1, 1, 5, dtype=torch.float64)
    start = table.v.clone()
    TemporalDifference(1.0, Constant(size)).update(table, experience, index, next_index)
    errors = returns_by_hand(experience, start[next_index]) - start[index].numpy()
    expected = [errors[index.numpy() == state].sum() for state in range(5)]
    np.testing.assert_allclose((table.v - start) / size, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_cutting_a_rollout_in_two_changes_nothing_for_td(decay: float) -> None:
    experience, index, next_index = some_experience(20, 3, seed=4)
    whole, halves = ValueTable(5, 3), ValueTable(5, 3)
    estimator = TemporalDifference(decay)
    estimator.update(whole, experience, index, next_index)
    for rows in (slice(0, 7), slice(7, 20)):
        part = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in vars(experience).items()}
        estimator.update(halves, Experience(**part), index[rows], next_index[rows])
    assert torch.equal(whole.v, halves.v)


def test_td_on_recorded_data_is_the_value_in_the_model_of_its_frequencies() -> None:
    graph = random_graph(5, num_states=3, num_actions=2)
    policy = some_policy(graph)
    data = cai.rollout(graph, policy, 6, seed=0, length=8)
    counts, payoffs = np.zeros((3, 3)), np.zeros(3)
    log_ratios = (policy.probs / graph.action_prior.prior_table(3, 2)[0]).log().numpy()
    for n in range(6):
        for t in range(8):
            s, a, following = int(data.states[n, t]), int(data.actions[n, t]), int(data.states[n, t + 1])
            counts[s, following] += 1
            payoffs[s] += float(data.rewards[n, t]) - float(graph.temperature) * log_ratios[s, a]
    visits = counts.sum(1)
    expected = np.linalg.solve(np.eye(3) - graph.discount * counts / visits[:, None], payoffs / visits)
    recorded = graph.replace(dynamics=F.RecordedDynamics(data), reward=F.RecordedDynamics(data))
    method = cai.PolicyEvaluation(policy, estimator=TemporalDifference(0.0, HarmonicSteps(50.0)), num_steps=48 * 300)
    posterior = cai.infer(recorded, method)
    np.testing.assert_allclose(posterior.v(torch.arange(3)), expected, rtol=0.01, atol=0.01)
    monte_carlo = cai.infer(recorded, cai.PolicyEvaluation(policy, estimator=EveryVisitMonteCarlo(), num_steps=48))
    assert monte_carlo.stats.num_steps == 48


# -- environments, boxes, networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", [EndlessReward, StateReward, DelayedReward], ids=lambda probe: probe.__name__)
@pytest.mark.parametrize("estimator", [TemporalDifference(), EveryVisitMonteCarlo()], ids=["TD", "MC"])
def test_networks_on_probes(probe: type[Probe], estimator: Any) -> None:
    """What is done makes no difference there, so that the uniform policy has the optimal values."""
    env = probe()
    graph = env.graph(temperature=0.5, discount=0.9)
    values = NetworkValues(MLPBody((32,), "tanh"), learning_rate=Annealed(0.02, 0.001), batch_size=64)
    method = cai.PolicyEvaluation(
        cai.UniformPolicy(), estimator=estimator, values=values, num_steps=4_000, num_envs=8, steps_per_rollout=20
    )
    posterior = cai.infer(graph, method, seed=0)
    expected = env.v(env.states, temperature=0.5, discount=0.9)
    np.testing.assert_allclose(posterior.v(env.states), expected, atol=0.3 if probe is EndlessReward else 0.1)


def test_a_linear_gaussian_world_by_a_network() -> None:
    """The world x' = .8 x + u + w, u ~ N(-.3 x, .04), r = -x^2 / 2, flat measure: V is a quadratic and the entropy."""
    graph = cai.TrajectoryGraph(
        F.Gaussian(np.zeros(1), np.eye(1)),
        F.LinearGaussianDynamics([[0.8]], [[1.0]], [[0.09]]),
        F.QuadraticReward([[1.0]], [[0.0]]),
        discount=0.8,
        temperature=0.1,
    )
    policy = F.LinearGaussianPolicy([[-0.3]], covariance=[[0.04]])
    p = 1.0 / (1.0 - 0.8 * 0.5**2)
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.04)
    constant = (-0.8 * p * 0.13 / 2 + 0.1 * entropy) / (1 - 0.8)
    values = NetworkValues(learning_rate=Annealed(0.01, 0.001))
    method = cai.PolicyEvaluation(
        policy, estimator=TemporalDifference(0.5), values=values, num_steps=20_000, num_envs=50, steps_per_rollout=20
    )
    posterior = cai.infer(graph.replace(horizon=20), method, seed=0)
    x = torch.linspace(-1.0, 1.0, 5)[:, None]
    expected = constant - p * x.numpy().ravel() ** 2 / 2
    np.testing.assert_allclose(posterior.v(x), expected, atol=0.12)


def test_live_and_soft_in_an_environment() -> None:
    """A bonus of entropy and a given prior in a live world: one decision a step, log(pi / mu) by hand."""
    env = ChoiceReward(states="index")
    probs = np.tile([0.5, 0.25, 0.25], (env.observation_space.n, 1))
    for prior, bonus in ((F.FlatPrior(), -(0.5 * np.log(0.5) + 0.5 * np.log(0.25))), (F.TabularPolicy(probs), 0.0)):
        graph = env.graph(temperature=0.4, discount=0.9, action_prior=prior)
        posterior = sampled(graph, F.TabularPolicy(probs), EveryVisitMonteCarlo(), 6_000, num_envs=10)
        later = np.array([-1.0, 0.0, 1.0]) + 0.4 * bonus
        first = 0.4 * bonus + 0.9 * (probs[0] @ later)
        np.testing.assert_allclose(posterior.v(torch.arange(4)), [first, *later], atol=0.08)


def test_policies_of_every_kind() -> None:
    graph = random_graph(1)
    table = some_policy(graph)
    soft = cai.infer(graph, cai.SoftValueIteration())
    for policy in (
        table.probs.numpy(),
        soft,
        lambda state, t: Categorical(probs=table.probs[state]),
        cai.UniformPolicy(),
    ):
        posterior = sampled(graph, policy, TemporalDifference(), 500)
        assert isinstance(posterior.method.policy, F.TabularPolicy)
        assert posterior.policy(0).probs.shape == (3,)
    assert torch.equal(sampled(graph, soft, TemporalDifference(), 500).policy(1).probs, soft.policy(1).probs)


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_resumed_run_is_the_same_run(kind: str, tmp_path: Path) -> None:
    graph = random_graph(2, num_terminal=1)
    method = cai.PolicyEvaluation(some_policy(graph), estimator=ESTIMATORS[kind], num_steps=900, steps_per_rollout=10)
    whole = cai.infer(graph, method, seed=3)

    class Stop(cai.AbstractCallback):
        def on_step(self, progress: Any) -> None:
            if progress.num_steps >= 400:
                raise cai.StopInference("half way")

    file = tmp_path / "checkpoint"
    half = cai.infer(graph, method, seed=3, callbacks=[cai.Checkpoint(file, interval=0.0), Stop()])
    assert half.stats.num_steps < 900
    resumed = cai.infer(graph, method, seed=3, resume=file)
    assert torch.equal(resumed.v(torch.arange(4)), whole.v(torch.arange(4)))


def test_save_and_load(tmp_path: Path) -> None:
    graph = random_graph(1)
    posterior = sampled(
        graph, lambda state, t: Categorical(logits=torch.zeros(*state.shape, 3)), TemporalDifference(), 500
    )
    posterior.save(tmp_path / "values")
    again = cai.load(tmp_path / "values")
    assert torch.equal(again.v(torch.arange(4)), posterior.v(torch.arange(4)))
    assert isinstance(again.method, SampledEvaluation)


def test_what_is_there_and_what_is_not() -> None:
    posterior = sampled(random_graph(1), some_policy(random_graph(1)), TemporalDifference(), 5_000)
    for name in ("entropy", "bellman_residual", "temperature"):
        assert len(posterior.history.curve(name).values) > 0, name
    with pytest.raises(cai.Unavailable, match="learns no q"):
        posterior.q(0, 0)
    assert posterior.is_bound and posterior.stats.estimates == ("v", "log_evidence")


def test_what_cannot_be_is_refused() -> None:
    graph = random_graph(1)
    policy = some_policy(graph)
    box = StateReward().graph(temperature=0.5)
    with pytest.raises(ValueError, match="estimator must be such as"):
        sampled(graph, policy, 0.5, 100)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
        TemporalDifference(1.5)
    with pytest.raises(cai.IncompatibleMethod, match="counts visits of states"):
        sampled(box, cai.UniformPolicy(), FirstVisitMonteCarlo(), 100)
    with pytest.raises(cai.IncompatibleMethod, match="needs a Discrete state space"):
        sampled(box, cai.UniformPolicy(), TemporalDifference(), 100, values=TableValues())
    with pytest.raises(ValueError, match=r"expected probabilities \[4, 3\], got \[3, 4\]"):
        sampled(graph, np.full((3, 4), 0.25), TemporalDifference(), 100)
    with pytest.raises(cai.IncompatibleMethod, match="changes with time"):
        sampled(graph, F.TabularPolicy.per_step(np.full((5, 4, 3), 1 / 3)), TemporalDifference(), 100)
    with pytest.raises(cai.IncompatibleMethod, match="discount below 1"):
        sampled(graph.replace(discount=1.0), policy, TemporalDifference(), 100)
    with pytest.raises(ValueError, match="must return a distribution, got Tensor"):
        sampled(box, lambda state, t: torch.zeros(len(state), dtype=torch.int64), TemporalDifference(), 100)
