"""What must not change a linear-Gaussian answer: units, constants, shaping, coordinates, batches, scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import METHODS, cases, graph_of, infer, policy_of, readings, some_states

TOLERANCE = 1e-10


@readings
@cases
def test_scaling_reward_and_temperature(options: dict, reading: str) -> None:
    """(r, alpha) -> (c r, c alpha) keeps policies, evidence and marginals, and scales v."""
    problem, factor = oracles.random_problem(51, **options), 7.5
    names = ("big_q", "big_r", "cross", "q", "r", "constant", "end_q", "end_linear")
    larger = problem.replace(
        temperature=factor * problem.temperature, **{name: factor * getattr(problem, name) for name in names}
    )
    ours, theirs = infer(problem, reading), infer(larger, reading)
    states = some_states(problem)
    for t in range(problem.horizon):
        assert_close(policy_of(theirs, t).gain, policy_of(ours, t).gain, TOLERANCE)
        assert_close(policy_of(theirs, t).covariance, policy_of(ours, t).covariance, TOLERANCE)
        assert_close(theirs.v(states, t=t), factor * ours.v(states, t=t), TOLERANCE)
    assert_close(theirs.log_evidence, ours.log_evidence, TOLERANCE)
    assert_close(theirs.state_marginals.covariance_matrix, ours.state_marginals.covariance_matrix, TOLERANCE)


@readings
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_constant_adds_to_every_step(reading: str, discount: float) -> None:
    problem, extra = oracles.random_problem(52, m=2, discount=discount), 3.25
    if reading == "posterior" and discount < 1:
        pytest.skip("refused")
    more = problem.replace(constant=problem.constant + extra)
    ours, theirs, states = infer(problem, reading), infer(more, reading), some_states(problem)
    for t in range(problem.horizon + 1):
        added = extra * sum(discount**k for k in range(problem.horizon - t))
        assert_close(theirs.v(states, t=t), ours.v(states, t=t) + added, TOLERANCE)
    added = extra * sum(discount**k for k in range(problem.horizon)) / problem.temperature
    assert_close(theirs.log_evidence, ours.log_evidence + added, TOLERANCE)
    assert_close(theirs.policy(states).mean, ours.policy(states).mean, 1e-12)


def shaped(problem: oracles.Problem, seed: int) -> tuple[oracles.Problem, oracles.Value]:
    """Adds gamma E Phi(x') - Phi(x) to the reward, and -Phi(x) at the end, of a quadratic potential."""
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(problem.n, problem.n))
    phi = oracles.Value(0.3 * (root + root.T), generator.normal(size=problem.n), 0.7)
    gamma, n = problem.discount, problem.n
    steps = range(problem.horizon)
    into = [np.hstack([problem.at("a", t), problem.at("b", t)]) for t in steps]
    later = [oracles.smoothed(phi, problem.at("w", t), 0.0) for t in steps]
    # r = -z'Gz/2 - g'z + k: a potential -f'Ff/2 - p'f + s at f = into z + c moves G, g and k so.
    forms = [gamma * i.T @ phi.form @ i for i in into]
    linears = [gamma * i.T @ (phi.form @ problem.at("c", t) + phi.linear) for t, i in enumerate(into)]
    constants = [gamma * value(problem.at("c", t)) for t, value in enumerate(later)]

    def every(name: str) -> np.ndarray:
        return np.stack([problem.at(name, t) for t in steps])

    return problem.replace(
        big_q=every("big_q") + np.stack([f[:n, :n] for f in forms]) - phi.form,
        big_r=every("big_r") + np.stack([f[n:, n:] for f in forms]),
        cross=every("cross") + np.stack([f[n:, :n] for f in forms]),
        q=every("q") + np.stack([g[:n] for g in linears]) - phi.linear,
        r=every("r") + np.stack([g[n:] for g in linears]),
        constant=every("constant") + np.array(constants) - phi.constant,
        end_q=problem.end_q - phi.form,
        end_linear=problem.end_linear - phi.linear,
    ), phi


@pytest.mark.parametrize("options", [{}, {"discount": 0.8, "m": 2}, {"per_step": ("dynamics",), "n": 3}])
def test_shaping_keeps_the_policy_of_fixed_dynamics(options: dict) -> None:
    problem = oracles.random_problem(53, **options)
    other, phi = shaped(problem, 53)
    assert_shaped(problem, other, phi, "fixed")


@readings
def test_shaping_keeps_both_policies_without_noise(reading: str) -> None:
    problem = oracles.random_problem(54, noise="none", m=2)
    other, phi = shaped(problem, 54)
    assert_shaped(problem, other, phi, reading)


def assert_shaped(problem: oracles.Problem, other: oracles.Problem, phi: oracles.Value, reading: str) -> None:
    # The corner of the terminal potential is a constant, which a terminal reward of the problem does not have.
    ours, theirs, states = infer(problem, reading), infer(other, reading), some_states(problem)
    values = np.array([phi(x) for x in states])
    for t in range(problem.horizon):
        left = phi.constant * problem.discount ** (problem.horizon - t)
        assert_close(theirs.v(states, t=t), numpy_of(ours.v(states, t=t)) - values + left, TOLERANCE)
        assert_close(policy_of(theirs, t).gain, policy_of(ours, t).gain, TOLERANCE)
        assert_close(policy_of(theirs, t).covariance, policy_of(ours, t).covariance, TOLERANCE)


@readings
@cases
def test_coordinates_do_not_matter(options: dict, reading: str) -> None:
    """With x = S y everything is the same in y; the evidence does not change, for the flat measure is on actions."""
    problem = oracles.random_problem(55, **options)
    generator = np.random.default_rng(55)
    s = generator.normal(size=(problem.n, problem.n)) + 2 * np.eye(problem.n)
    inverse = np.linalg.inv(s)
    other = problem.replace(
        mean=inverse @ problem.mean,
        covariance=inverse @ problem.covariance @ inverse.T,
        a=inverse @ problem.a @ s,
        b=inverse @ problem.b,
        c=problem.c @ inverse.T,
        w=inverse @ problem.w @ inverse.T,
        big_q=s.T @ problem.big_q @ s,
        cross=problem.cross @ s,
        q=problem.q @ s,
        end_q=s.T @ problem.end_q @ s,
        end_linear=s.T @ problem.end_linear,
        prior_gain=None if problem.prior_gain is None else problem.prior_gain @ s,
    )
    ours, theirs, states = infer(problem, reading), infer(other, reading), some_states(problem)
    for t in range(problem.horizon):
        assert_close(theirs.v(states @ inverse.T, t=t), ours.v(states, t=t), TOLERANCE)
        assert_close(theirs.policy(states @ inverse.T, t=t).mean, ours.policy(states, t=t).mean, TOLERANCE)
    assert_close(theirs.log_evidence, ours.log_evidence, TOLERANCE)
    assert_close(numpy_of(theirs.state_marginals.mean) @ s.T, ours.state_marginals.mean, TOLERANCE)


@readings
@cases
def test_steps_spelled_out_are_the_same(options: dict, reading: str) -> None:
    """A constant factor and the same one repeated over time give the same answers."""
    problem = oracles.random_problem(56, **options)

    def repeated(name: str) -> Any:
        values = getattr(problem, name)
        return None if values is None else np.stack([problem.at(name, t) for t in range(problem.horizon)])

    names = ("a", "b", "c", "w", "big_q", "big_r", "cross", "q", "r", "constant")
    prior = () if problem.prior_gain is None else ("prior_gain", "prior_offset", "prior_covariance")
    spelled = problem.replace(**{name: repeated(name) for name in (*names, *prior)})
    ours, theirs, states = infer(problem, reading), infer(spelled, reading), some_states(problem)
    assert_close(theirs.log_evidence, ours.log_evidence, 1e-12)
    for t in range(problem.horizon):
        assert_close(theirs.v(states, t=t), ours.v(states, t=t), 1e-12)
        assert_close(theirs.policy(states, t=t).mean, ours.policy(states, t=t).mean, 1e-12)


@readings
def test_an_uncertain_start_is_a_first_step_of_noise(reading: str) -> None:
    """x_0 ~ N(mean, S) is x_1 of a step from 0 with offset mean and noise S, on which the action has no effect."""
    problem = oracles.random_problem(57, n=2, m=1, horizon=3)
    posterior = infer(problem, reading)

    def led_by(name: str, first: np.ndarray) -> np.ndarray:
        return np.stack([first, *[problem.at(name, t) for t in range(3)]])

    zeros = {name: led_by(name, 0 * getattr(problem, name)[0]) for name in ("a", "b", "big_q", "cross", "q", "r")}
    longer = problem.replace(
        horizon=4,
        mean=np.zeros(2),
        covariance=np.zeros((2, 2)),
        c=led_by("c", problem.mean),
        w=led_by("w", problem.covariance),
        big_r=led_by("big_r", np.eye(1)),
        constant=led_by("constant", np.array(-0.5 * problem.temperature * np.log(2 * np.pi * problem.temperature))),
        **zeros,
    )
    later = infer(longer, reading)
    assert_close(later.log_evidence, posterior.log_evidence, TOLERANCE)
    assert_close(later.state_marginals.mean[1:], posterior.state_marginals.mean, TOLERANCE)
    assert_close(later.state_marginals.covariance_matrix[1:], posterior.state_marginals.covariance_matrix, TOLERANCE)


# -- batches ----------------------------------------------------------------------------------------------------------

SHAPES = [(3,), (2, 2)]


def batched(problems: np.ndarray, name: str) -> np.ndarray:
    """One parameter of an array of problems: `[steps, *batch, ...]`."""
    parts = [getattr(problem, name) for problem in problems.ravel()]
    stacked = np.stack(parts, 1) if name not in ("mean", "covariance", "end_q", "end_linear") else np.stack(parts)
    lead = problems.shape
    if name in ("mean", "covariance", "end_q", "end_linear"):
        return stacked.reshape(*lead, *stacked.shape[1:])
    return stacked.reshape(len(stacked), *lead, *stacked.shape[2:])


def batched_graph(problems: np.ndarray) -> cai.TrajectoryGraph:
    whole = problems.ravel()[0].replace(
        **{
            name: batched(problems, name)
            for name in (
                *("mean", "covariance", "a", "b", "c", "w", "big_q", "big_r", "cross", "q", "r", "constant"),
                *("end_q", "end_linear"),
                *(() if problems.ravel()[0].prior_gain is None else ("prior_gain", "prior_offset", "prior_covariance")),
            )
        }
    )
    return graph_of(whole)


@readings
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"per_step": ("dynamics", "reward", "prior"), "prior": "gain", "m": 2}])
def test_batch_is_a_loop(options: dict, reading: str, shape: tuple[int, ...]) -> None:
    problems = np.empty(shape, dtype=object)
    for i, index in enumerate(np.ndindex(shape)):
        problems[index] = oracles.random_problem(58 + i, **options)
    posterior = cai.infer(batched_graph(problems), METHODS[reading]())
    first = problems.ravel()[0]
    assert posterior.log_evidence.shape == shape
    states = np.stack([some_states(first, 1, seed=i)[0] for i in range(len(problems.ravel()))]).reshape(*shape, first.n)
    for t in range(first.horizon):
        values, policies = posterior.v(states, t=t), posterior.policy(states, t=t)
        assert values.shape == shape
        for index in np.ndindex(shape):
            single = infer(problems[index], reading)
            assert_close(values[index], single.v(states[index], t=t), 1e-10)
            assert_close(policies.mean[index], single.policy(states[index], t=t).mean, 1e-10)
            assert_close(policies.covariance_matrix[index], single.policy(states[index], t=t).covariance_matrix, 1e-10)
    marginals, pairs = posterior.state_marginals, posterior.state_action_marginals
    for index in np.ndindex(shape):
        single = infer(problems[index], reading)
        assert_close(posterior.log_evidence[index], single.log_evidence, 1e-10)
        assert_close(posterior.expected_return[index], single.expected_return, 1e-10)
        assert_close(posterior.entropy[index], single.entropy, 1e-10)
        assert_close(marginals.mean[:, *index], single.state_marginals.mean, 1e-10)
        assert_close(pairs.covariance_matrix[:, *index], single.state_action_marginals.covariance_matrix, 1e-10)


@readings
def test_many_starts_of_one_problem(reading: str) -> None:
    """A batch of starts alone: the messages are shared, marginals and evidence are not."""
    problem = oracles.random_problem(62)
    means = np.random.default_rng(0).normal(size=(6, 2))
    posterior = cai.infer(
        graph_of(problem, initial=cai.factors.Gaussian(means, problem.covariance)), METHODS[reading]()
    )
    for i, mean in enumerate(means):
        single = infer(problem.replace(mean=mean), reading)
        assert_close(posterior.log_evidence[i], single.log_evidence, 1e-10)
        assert_close(posterior.state_marginals.mean[:, i], single.state_marginals.mean, 1e-10)


SLOTS = ["initial", "dynamics", "noise", "reward", "terminal_reward", "action_prior"]


def one_slot(slot: str, problem: oracles.Problem) -> dict[str, Any]:
    """The factor of one slot of a problem."""
    graph = graph_of(problem)
    if slot == "noise":
        noise = cai.factors.LinearGaussianDynamics(problem.a[0], problem.b[0], problem.w[0], problem.c[0])
        return {"dynamics": noise}
    return {slot: getattr(graph, slot)}


def stacked_slot(slot: str, problems: list[oracles.Problem], common: oracles.Problem) -> dict[str, Any]:
    """The factor of one slot with a batch dimension."""
    first = {
        "initial": ("mean", "covariance"),
        "dynamics": ("a", "b", "w", "c"),
        "noise": ("w",),
        "reward": ("big_q", "big_r", "cross", "q", "r", "constant"),
        "terminal_reward": ("end_q", "end_linear"),
        "action_prior": ("prior_gain", "prior_offset", "prior_covariance"),
    }[slot]
    array = np.empty(len(problems), dtype=object)
    array[:] = problems
    return one_slot(slot, common.replace(**{name: batched(array, name) for name in first}))


@readings
@pytest.mark.parametrize("slot", SLOTS)
def test_any_factor_alone_may_have_a_batch(reading: str, slot: str) -> None:
    common = oracles.random_problem(65, prior="gain", m=2)
    others = [oracles.random_problem(66 + i, prior="gain", m=2) for i in range(3)]
    if slot == "noise":
        others = [common.replace(w=other.w) for other in others]
    graph = graph_of(common)
    posterior = cai.infer(graph.replace(**stacked_slot(slot, others, common)), METHODS[reading]())
    assert posterior.log_evidence.shape == (3,)
    states = some_states(common, 3)
    marginals, path = posterior.state_marginals, posterior.state_action_marginals
    for i, other in enumerate(others):
        single = cai.infer(graph.replace(**one_slot(slot, other)), METHODS[reading]())
        assert_close(posterior.log_evidence[i], single.log_evidence, 1e-10)
        assert_close(posterior.expected_return[i], single.expected_return, 1e-10)
        assert_close(posterior.entropy.expand(3)[i], single.entropy, 1e-10)
        assert_close(marginals.mean[:, i], single.state_marginals.mean, 1e-10)
        assert_close(path.covariance_matrix[:, i], single.state_action_marginals.covariance_matrix, 1e-10)
        for t in (0, common.horizon - 1):
            assert_close(posterior.v(states, t=t)[i], single.v(states[i], t=t), 1e-10)
            assert_close(posterior.policy(states, t=t).mean[i], single.policy(states[i], t=t).mean, 1e-10)


@readings
@pytest.mark.parametrize("schedule", [cai.methods.Sequential(), cai.methods.AssociativeScan()])
def test_batches_of_factors_broadcast(reading: str, schedule: object) -> None:
    """Two starts down, three noises across: six answers."""
    common = oracles.random_problem(70)
    means = np.random.default_rng(1).normal(size=(2, 1, 2))
    noises = np.stack([scale * common.w[0] for scale in (0.0, 0.5, 2.0)])
    dynamics = cai.factors.LinearGaussianDynamics(common.a[0], common.b[0], noises, common.c[0])
    initial = cai.factors.Gaussian(means, common.covariance)
    method = METHODS[reading](schedule=schedule)
    posterior = cai.infer(graph_of(common, dynamics=dynamics, initial=initial), method)
    assert posterior.log_evidence.shape == (2, 3)
    assert posterior.state_marginals.mean.shape == (5, 2, 3, 2)
    for i, j in np.ndindex(2, 3):
        single = infer(common.replace(mean=means[i, 0], w=noises[j][None]), reading)
        assert_close(posterior.log_evidence[i, j], single.log_evidence, 1e-9)
        assert_close(posterior.state_marginals.mean[:, i, j], single.state_marginals.mean, 1e-9)


def test_batches_are_not_sampled() -> None:
    problem = oracles.random_problem(62)
    initial = cai.factors.Gaussian(np.zeros((3, 2)), problem.covariance)
    posterior = cai.infer(graph_of(problem, initial=initial), cai.SumProduct())
    with pytest.raises(ValueError, match=r"batch of graphs \[3\]"):
        posterior.sample(2, seed=0)
    with pytest.raises(ValueError, match=r"batch of graphs \[3\]"):
        posterior.log_prob(infer(problem).sample(2, seed=0))


# -- scans ------------------------------------------------------------------------------------------------------------


@readings
@cases
@pytest.mark.parametrize("horizon", [1, 2, 13])
def test_scan_is_the_loop(options: dict, reading: str, horizon: int) -> None:
    problem = oracles.random_problem(63, **(options | {"horizon": horizon}))
    graph, states = graph_of(problem), some_states(problem)
    loop, scan = (
        cai.infer(graph, METHODS[reading](schedule=schedule))
        for schedule in (cai.methods.Sequential(), cai.methods.AssociativeScan())
    )
    for t in range(horizon):
        assert_close(scan.v(states, t=t), loop.v(states, t=t), TOLERANCE)
        for member in ("gain", "offset", "covariance"):
            assert_close(getattr(policy_of(scan, t), member), getattr(policy_of(loop, t), member), TOLERANCE)
    assert_close(scan.log_evidence, loop.log_evidence, TOLERANCE)
    for member in ("state_marginals", "state_action_marginals"):
        ours, theirs = getattr(scan, member), getattr(loop, member)
        assert_close(ours.mean, theirs.mean, TOLERANCE)
        assert_close(ours.covariance_matrix, theirs.covariance_matrix, TOLERANCE)


def test_scan_is_the_loop_with_a_discount() -> None:
    problem = oracles.random_problem(64, n=3, m=2, horizon=20, discount=0.9)
    loop, scan = (
        cai.infer(graph_of(problem), cai.SoftValueIteration(schedule=schedule))
        for schedule in (cai.methods.Sequential(), cai.methods.AssociativeScan())
    )
    states = torch.as_tensor(some_states(problem))
    for t in range(20):
        assert_close(scan.v(states, t=t), loop.v(states, t=t), TOLERANCE)
    assert_close(scan.log_evidence, loop.log_evidence, TOLERANCE)
