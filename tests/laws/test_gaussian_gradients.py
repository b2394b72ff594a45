"""Derivatives of linear-Gaussian answers: envelope identities by the oracles, every factor parameter by differences.

Laws: d(alpha log p(O)) / dq_t = -E[x_t | O], and so on for every other coefficient of the reward; under fixed dynamics
the same with the moments of the rollout, discounted. The differences are `torch.autograd.gradcheck`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close
from tests.laws.gaussian_build import METHODS, built, cases, dynamics_of, eta_of, graph_of, readings

F = cai.factors


def moments(problem: oracles.Problem, reading: str) -> oracles.Rollout:
    eta = eta_of(problem, reading)
    policies = [step.policy for step in oracles.backward(problem, eta)]
    return oracles.roll_out(problem, policies, oracles.tilts(problem, eta) if eta else None)


@readings
@cases
def test_envelope_of_every_coefficient_of_the_reward(options: dict, reading: str) -> None:
    problem = oracles.random_problem(71, **options)
    n, steps = problem.n, range(problem.horizon)
    names = ("big_q", "big_r", "cross", "q", "r", "constant")
    values = [np.stack([problem.at(name, t) for t in steps]) for name in names]
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    end = [torch.tensor(value, requires_grad=True) for value in (problem.end_q, problem.end_linear)]
    graph = graph_of(
        problem, reward=F.QuadraticReward.per_step(*tensors), terminal_reward=F.QuadraticReward(end[0], q=end[1])
    )
    evidence = cai.infer(graph, METHODS[reading]()).log_evidence
    gradients = torch.autograd.grad(problem.temperature * evidence, [*tensors, *end])
    expected = moments(problem, reading)
    means = expected.pair_means
    squares = expected.pair_covariances + means[:, :, None] * means[:, None, :]
    last = expected.covariances[-1] + np.outer(expected.means[-1], expected.means[-1])
    truth = [
        *(-0.5 * squares[:, :n, :n], -0.5 * squares[:, n:, n:], -squares[:, n:, :n]),
        *(-means[:, :n], -means[:, n:], np.ones(problem.horizon)),
        *(-0.5 * last, -expected.means[-1]),
    ]
    for gradient, value in zip(gradients, truth, strict=True):
        assert_close(gradient, value, 1e-9)


def test_envelope_with_a_discount() -> None:
    problem = oracles.random_problem(72, n=3, m=2, discount=0.8, horizon=5)
    q = torch.tensor(np.repeat(problem.q, 5, 0), requires_grad=True)
    rest = [getattr(problem, name) for name in ("big_q", "big_r", "cross")]
    reward = F.QuadraticReward.per_step(*rest, q=q, r=problem.r, constant=problem.constant)
    evidence = cai.infer(graph_of(problem, reward=reward), cai.SoftValueIteration()).log_evidence
    (gradient,) = torch.autograd.grad(problem.temperature * evidence, q)
    weights = 0.8 ** np.arange(5)[:, None]
    assert_close(gradient, -weights * moments(problem, "fixed").means[:-1], 1e-9)


@readings
def test_envelope_of_a_shared_coefficient_is_the_sum(reading: str) -> None:
    problem = oracles.random_problem(73)
    q = torch.tensor(problem.q[0], requires_grad=True)
    rest = [getattr(problem, name)[0] for name in ("big_q", "big_r", "cross")]
    reward = F.QuadraticReward(*rest, q=q, r=problem.r[0], constant=problem.constant[0])
    evidence = cai.infer(graph_of(problem, reward=reward), METHODS[reading]()).log_evidence
    (gradient,) = torch.autograd.grad(problem.temperature * evidence, q)
    assert_close(gradient, -moments(problem, reading).means[:-1].sum(0), 1e-9)


# -- every factor parameter, every answer -----------------------------------------------------------------------------


def parameters(problem: oracles.Problem, *, known: bool = False) -> dict[str, Tensor]:
    """Everything that a gradient may be asked of; covariances by their square roots, symmetric forms as they are."""
    values = {
        "a": problem.a,
        "b": problem.b,
        "c": problem.c,
        "w": np.stack([oracles.psd_root(w) for w in problem.w]),
        **{name: getattr(problem, name) for name in ("big_q", "big_r", "cross", "q", "r", "constant")},
        "end_q": problem.end_q,
        "end_linear": problem.end_linear,
        "mean": problem.mean,
        "temperature": np.array(problem.temperature),
    }
    if not known:
        values["covariance"] = oracles.psd_root(problem.covariance)
    if problem.prior_gain is not None:
        values["prior_gain"], values["prior_offset"] = problem.prior_gain, problem.prior_offset
        values["prior_covariance"] = np.stack([oracles.psd_root(s) for s in problem.prior_covariance])
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}


def graph_from(parts: dict[str, Tensor], problem: oracles.Problem) -> cai.TrajectoryGraph:
    """The graph of parameters with a time axis."""
    initial: Any = F.Delta(parts["mean"])
    if "covariance" in parts:
        initial = F.Gaussian(parts["mean"], parts["covariance"] @ parts["covariance"].mT)
    options: dict[str, Any] = {
        "horizon": problem.horizon,
        "discount": problem.discount,
        "temperature": parts["temperature"],
    }
    if "prior_gain" in parts:
        root = parts["prior_covariance"]
        options["action_prior"] = built(
            F.LinearGaussianPolicy, parts["prior_gain"], parts["prior_offset"], root @ root.mT
        )
    if problem.horizon is not None:
        options["terminal_reward"] = F.QuadraticReward(parts["end_q"], q=parts["end_linear"])
    dynamics = built(F.LinearGaussianDynamics, parts["a"], parts["b"], parts["w"] @ parts["w"].mT, parts["c"])
    names = ("big_q", "big_r", "cross", "q", "r", "constant")
    reward = built(F.QuadraticReward, *(parts[name] for name in names))
    return cai.TrajectoryGraph(initial=initial, dynamics=dynamics, reward=reward, **options)


Read = Callable[[cai.Posterior], Tensor]


def _ask(posterior: cai.Posterior) -> tuple[Tensor, Tensor]:
    graph = posterior.graph
    generator = torch.Generator().manual_seed(0)
    sizes = (graph.state_space.shape[0], graph.action_space.shape[0])
    x, u = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return x, u


def _last(posterior: cai.Posterior) -> int:
    return 0 if posterior.graph.horizon is None else posterior.graph.horizon - 1


READS: dict[str, Read] = {
    "log_evidence": lambda p: p.log_evidence,
    "v": lambda p: p.v(_ask(p)[0]),
    "q": lambda p: p.q(*_ask(p)),
    "policy mean": lambda p: p.policy(_ask(p)[0]).mean,
    "policy covariance": lambda p: p.policy(_ask(p)[0], t=_last(p)).covariance_matrix,
    "state means": lambda p: p.state_marginals.mean,
    "pair covariances": lambda p: p.state_action_marginals.covariance_matrix,
    "expected_return": lambda p: p.expected_return,
    "entropy": lambda p: p.entropy,
    "gain": lambda p: p.gain,
}


def assert_gradcheck(problem: oracles.Problem, reading: str, names: Sequence[str], *, known: bool = False) -> None:
    """Checks answers, each weighed at random into one number, by every parameter; warnings of any kind are errors."""
    start = parameters(problem, known=known)
    if problem.horizon is None:
        start = {name: x for name, x in start.items() if name not in ("end_q", "end_linear")}

    def answers(*values: Tensor) -> Tensor:
        parts = dict(zip(start, values, strict=True))
        for name in ("big_q", "big_r", "end_q"):  # only the symmetric part is a parameter
            if name in parts:
                parts[name] = 0.5 * (parts[name] + parts[name].mT)
        posterior = cai.infer(graph_from(parts, problem), METHODS[reading]())
        return torch.stack([weighed(READS[name](posterior)) for name in names])

    assert torch.autograd.gradcheck(answers, tuple(start.values()), eps=1e-6, atol=1e-6, rtol=1e-5)


def weighed(answer: Tensor) -> Tensor:
    """One number of an answer."""
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (answer * weights).sum()


FINITE = [name for name in READS if name != "gain"]


@readings
@pytest.mark.parametrize("options", [{"m": 2, "prior": "gain"}, {"per_step": ("dynamics", "reward", "prior")}])
def test_every_parameter_by_differences(reading: str, options: dict) -> None:
    assert_gradcheck(oracles.random_problem(74, horizon=3, **options), reading, FINITE)


@readings
def test_known_starts_by_differences(reading: str) -> None:
    assert_gradcheck(oracles.random_problem(76, horizon=3, start="none"), reading, FINITE, known=True)


def test_discounted_answers_by_differences() -> None:
    assert_gradcheck(oracles.random_problem(77, horizon=3, discount=0.7), "fixed", FINITE)


@pytest.mark.parametrize("discount", [0.9, 0.6])
def test_infinite_horizons_by_differences(discount: float) -> None:
    names = [name for name in FINITE if "means" not in name and "covariances" not in name]
    assert_gradcheck(oracles.random_problem(78, horizon=None, discount=discount), "fixed", names)


@readings
def test_undiscounted_infinite_horizons_by_differences(reading: str) -> None:
    names = ["gain", "v", "q", "policy mean", "policy covariance", "state means", "pair covariances"]
    assert_gradcheck(oracles.random_problem(79, horizon=None), reading, names)


@readings
@pytest.mark.parametrize("name", ["log_evidence", "policy mean", "state means", "entropy"])
def test_scans_have_the_gradients_of_the_loop(reading: str, name: str) -> None:
    problem = oracles.random_problem(80, n=3, m=2, horizon=9, prior="gain")
    gradients = []
    for schedule in (cai.methods.Sequential(), cai.methods.AssociativeScan()):
        parts = parameters(problem)
        answer = weighed(READS[name](cai.infer(graph_from(parts, problem), METHODS[reading](schedule=schedule))))
        found = torch.autograd.grad(answer, list(parts.values()), allow_unused=True)
        gradients.append(found)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs, 1e-8)


@readings
def test_batches_have_the_gradients_of_each(reading: str) -> None:
    """The gradient of a batch is that of its members; what they share adds up."""
    problem = oracles.random_problem(81)
    means = torch.tensor(np.random.default_rng(0).normal(size=(3, 2)), requires_grad=True)
    b = torch.tensor(problem.b[0], requires_grad=True)
    dynamics = F.LinearGaussianDynamics(problem.a[0], b, problem.w[0], problem.c[0])

    def evidence(mean: Tensor) -> Tensor:
        graph = graph_of(problem, dynamics=dynamics, initial=F.Gaussian(mean, problem.covariance))
        return cai.infer(graph, METHODS[reading]()).log_evidence

    whole = torch.autograd.grad(evidence(means).sum(), [means, b])
    single = [torch.autograd.grad(evidence(mean), [means, b]) for mean in means]
    for i, expected in enumerate(zip(*single, strict=True)):
        assert_close(whole[i], sum(expected), 1e-10)


@readings
def test_a_reward_is_fitted_through_the_solve(reading: str) -> None:
    """Gradient descent on the likelihood of actions finds the weights that they were made with."""
    problem = oracles.random_problem(82, n=2, m=1, horizon=10, plain=True)
    truth = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def answer(logs: Tensor) -> cai.Posterior:
        reward = F.QuadraticReward(torch.diag(logs.exp()), problem.big_r[0])
        return cai.infer(graph_of(problem, reward=reward, dynamics=dynamics_of(problem)), METHODS[reading]())

    expert = answer(truth.log())
    states = expert.sample(20, seed=0).states[:, :-1]
    means = [expert.policy(states[:, t], t=t).mean for t in range(10)]
    logs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = answer(logs)
        away = sum((fitted.policy(states[:, t], t=t).mean - means[t]).square().sum() for t in range(10))
        away.backward()
        return away

    optimizer.step(loss)
    assert_close(logs.exp(), truth, 1e-4)


def test_nothing_is_tracked_where_nothing_is_asked() -> None:
    posterior = cai.infer(graph_of(oracles.random_problem(83)), cai.SoftValueIteration())
    assert not posterior.log_evidence.requires_grad
    assert not posterior.state_marginals.mean.requires_grad
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    graph = graph_of(oracles.random_problem(83), initial=F.Gaussian(mean, torch.eye(2)))
    with torch.no_grad():
        assert not cai.infer(graph, cai.SumProduct()).log_evidence.requires_grad
