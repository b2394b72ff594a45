"""Every exact method on every kind of linear-Gaussian graph: the promises of `test_methods.py`, for vectors.

A new method joins with a line in `METHODS`, a new kind of graph with a line in `GRAPHS`. Nothing here knows the right
answer; the laws do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import graph_of

Make = Callable[[], cai.TrajectoryGraph]


def random_graph(seed: int, **options: Any) -> Make:
    return lambda: graph_of(oracles.random_problem(seed, **options))


def single_graph() -> cai.TrajectoryGraph:
    return graph_of(oracles.random_problem(505, prior="gain"), dtype=torch.float32)


GRAPHS: dict[str, Make] = {
    "plain": random_graph(501, plain=True),
    "per step": random_graph(502, per_step=("dynamics", "reward", "prior"), prior="gain", n=3, m=2),
    "known start, no noise": random_graph(503, start="none", noise="none"),
    "singular": random_graph(504, start="singular", noise="singular", n=3, m=2),
    "float32": single_graph,
    "one step": random_graph(506, horizon=1),
    "infinite": random_graph(507, horizon=None, n=3, m=2),
    "model double_integrator": lambda: cai.load_model("double_integrator"),
    "model linear_quadratic": lambda: cai.load_model("linear_quadratic"),
}
METHODS: dict[str, Callable[[cai.TrajectoryGraph], cai.AbstractMethod]] = {
    "SoftValueIteration": lambda _: cai.SoftValueIteration(),
    "SumProduct": lambda _: cai.SumProduct(),
    "RiskSensitiveControl": lambda graph: cai.RiskSensitiveControl(0.3 / graph.temperature),
    "SoftValueIteration by a scan": lambda _: cai.SoftValueIteration(schedule=cai.methods.AssociativeScan()),
    "SumProduct by a scan": lambda _: cai.SumProduct(schedule=cai.methods.AssociativeScan()),
    "ILQR": lambda _: cai.ILQR(),
}
ENDLESS = {"infinite"}
FINITE = ("by a scan", "ILQR")  # methods that need a horizon
PAIRS = [(m, g) for m in METHODS for g in GRAPHS if not (m.endswith(FINITE) and g in ENDLESS)]
pairs = pytest.mark.parametrize("method, name", PAIRS, ids=[f"{m} on {g}" for m, g in PAIRS])
ENDING = [(m, g) for m, g in PAIRS if g not in ENDLESS]
ending = pytest.mark.parametrize("method, name", ENDING, ids=[f"{m} on {g}" for m, g in ENDING])

_ANSWERS: dict[tuple[str, str], cai.Posterior] = {}


def answer(method: str, name: str) -> cai.Posterior:
    if (method, name) not in _ANSWERS:
        graph = GRAPHS[name]()
        _ANSWERS[method, name] = cai.infer(graph, METHODS[method](graph))
    return _ANSWERS[method, name]


def sizes(posterior: cai.Posterior) -> tuple[int, int]:
    return posterior.graph.state_space.shape[0], posterior.graph.action_space.shape[0]


def precision(posterior: cai.Posterior) -> float:
    return 1e-10 if posterior.v(torch.zeros(sizes(posterior)[0])).dtype == torch.float64 else 1e-4


def vectors(posterior: cai.Posterior, num: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n, m = sizes(posterior)
    return tuple(torch.randn(num, size, generator=generator, dtype=torch.float64) for size in (n, m))  # type: ignore


def draw(posterior: cai.Posterior, num: int = 20, seed: int = 0) -> cai.Trajectories:
    return posterior.sample(num, seed=seed, length=7 if posterior.graph.horizon is None else None)


@pairs
def test_members(method: str, name: str) -> None:
    posterior, horizon = answer(method, name), answer(method, name).graph.horizon
    n, m = sizes(posterior)
    states, joint = posterior.state_marginals, posterior.state_action_marginals
    assert states.mean.shape == ((n,) if horizon is None else (horizon + 1, n))
    assert joint.covariance_matrix.shape == ((n + m,) * 2 if horizon is None else (horizon, n + m, n + m))
    assert posterior.stats.converged
    numbers = ("gain",) if horizon is None else ("log_evidence", "expected_return", "entropy")
    for member in numbers:
        number = getattr(posterior, member)
        assert number.shape == () and torch.isfinite(number)
    missing = ("log_evidence", "expected_return", "entropy") if horizon is None else ("gain",)
    for member in missing:
        with pytest.raises(cai.Unavailable, match=member):
            getattr(posterior, member)
    assert posterior.is_bound is not method.startswith("SumProduct")


@pairs
def test_values_belong_together(method: str, name: str) -> None:
    posterior, tolerance = answer(method, name), precision(answer(method, name))
    x, u = vectors(posterior)
    q, v, alpha = posterior.q(x, u), posterior.v(x), float(posterior.graph.temperature)
    assert_close(posterior.advantage(x, u), q - v, tolerance)
    prior = posterior.graph.action_prior
    log_mu = 0.0 if prior is None or isinstance(prior, cai.factors.FlatPrior) else prior(x, t=0).log_prob(u)
    policy = posterior.policy(x)
    log_pi = policy.log_prob(u.to(policy.mean.dtype))
    assert_close(alpha * (log_pi - log_mu), q - v, 100 * tolerance)


@pairs
def test_marginals_belong_together(method: str, name: str) -> None:
    posterior, tolerance = answer(method, name), precision(answer(method, name))
    n, horizon = sizes(posterior)[0], posterior.graph.horizon
    states, joint = posterior.state_marginals, posterior.state_action_marginals
    now = slice(None) if horizon is None else slice(horizon)
    assert_close(joint.mean[..., :n], states.mean[now], tolerance)
    assert_close(joint.covariance_matrix[..., :n, :n], states.covariance_matrix[now], tolerance)
    assert_close(joint.covariance_matrix, joint.covariance_matrix.mT, 0.0)
    assert np.linalg.eigvalsh(numpy_of(joint.covariance_matrix)).min() > -tolerance
    policy = posterior.policy(states.mean[now], t=0 if horizon is None else torch.arange(horizon))
    assert_close(joint.mean[..., n:], policy.mean, tolerance)


@pairs
def test_samples(method: str, name: str) -> None:
    posterior = answer(method, name)
    (n, m), length = sizes(posterior), posterior.graph.horizon or 7
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    batch, again = draw(posterior), draw(posterior)
    assert torch.equal(before, torch.random.get_rng_state())
    assert batch.states.shape == (20, length + 1, n) and batch.actions.shape == (20, length, m)
    assert batch.rewards.shape == (20, length) and torch.isfinite(batch.rewards).all()
    for member in ("states", "actions", "rewards", "lengths", "terminated", "truncated"):
        assert torch.equal(getattr(batch, member), getattr(again, member)), member
    assert not torch.equal(batch.actions, draw(posterior, seed=1).actions)
    log_prob = posterior.log_prob(batch)
    assert log_prob.shape == (20,) and torch.isfinite(log_prob).all()


@ending
def test_mean_return_is_the_expected_return(method: str, name: str) -> None:
    posterior = answer(method, name)
    batch = draw(posterior, 4000)
    end = posterior.graph.terminal_reward
    returns = batch.returns() if end is None else batch.returns() + end(batch.states[:, -1])
    error = abs(numpy_of(returns).mean() - float(posterior.expected_return))
    assert error <= 6 * numpy_of(returns).std() / math.sqrt(4000) + 1e-6


@pairs
def test_rollout_follows_the_posteriors_policy(method: str, name: str) -> None:
    posterior = answer(method, name)
    batch = cai.rollout(posterior.graph, posterior, 5, seed=0, length=7 if posterior.graph.horizon is None else None)
    assert len(batch) == 5
    assert torch.isfinite(batch.states).all()
    policy = posterior.policy(batch.states[:, 0], t=0)
    assert torch.isfinite(policy.log_prob(batch.actions[:, 0].to(policy.mean.dtype))).all()


@pairs
def test_save_and_load(method: str, name: str, tmp_path: Path) -> None:
    posterior = answer(method, name)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    x, u = vectors(posterior)
    assert repr(again.method) == repr(posterior.method) and again.is_bound == posterior.is_bound
    for read in (
        lambda p: p.v(x),
        lambda p: p.q(x, u),
        lambda p: p.policy(x).mean,
        lambda p: p.state_marginals.covariance_matrix,
        lambda p: p.gain if p.graph.horizon is None else p.log_evidence,
        lambda p: draw(p).states,
    ):
        assert torch.equal(read(again), read(posterior))


@pairs
def test_asking_twice_gives_the_same(method: str, name: str) -> None:
    posterior, graph = answer(method, name), GRAPHS[name]()
    again = cai.infer(graph, METHODS[method](graph), seed=1)
    x, _ = vectors(posterior)
    assert torch.equal(again.v(x), posterior.v(x))
    assert torch.equal(again.state_marginals.mean, posterior.state_marginals.mean)


@ending
def test_gap_to_itself_is_nothing(method: str, name: str) -> None:
    posterior = answer(method, name)
    between = posterior.gap(posterior)
    for number in (between.evidence_gap, between.kl, between.reverse_kl):
        assert abs(float(number)) <= precision(posterior)


@pairs
def test_what_is_missing_says_so(method: str, name: str) -> None:
    posterior = answer(method, name)
    if not method.startswith(("SumProduct", "ILQR")):
        with pytest.raises(cai.Unavailable):
            _ = posterior.most_probable_trajectory
    with pytest.raises(cai.Unavailable):
        _ = posterior.occupancy
