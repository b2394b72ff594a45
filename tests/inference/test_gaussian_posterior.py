"""Reading a linear-Gaussian posterior: batches, bad questions, samples and densities, the policy as a factor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cai
from cai.inference.gaussian import risk_parameter
from cai.inference.gaussian_paths import roots_of
from cai.ops.gaussian.marginals import arrival_of
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import graph_of

F, F64 = cai.factors, torch.float64
METHODS = [cai.SoftValueIteration(), cai.SumProduct(), cai.RiskSensitiveControl(0.1)]
methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def graph(**changes: Any) -> cai.TrajectoryGraph:
    parts: dict[str, Any] = {
        "initial": F.Gaussian([1.0, 0.0], 0.1 * torch.eye(2)),
        "dynamics": F.LinearGaussianDynamics([[1.0, 0.1], [0.0, 0.9]], [[0.0], [1.0]], 0.1 * torch.eye(2)),
        "reward": F.QuadraticReward(torch.eye(2), [[1.0]]),
        "horizon": 5,
        "temperature": 0.5,
    }
    return cai.TrajectoryGraph(**(parts | changes))


def moving(*sizes: int) -> F.LinearGaussianDynamics:
    """Dynamics of a batch, noise of one half of it."""
    generator = torch.Generator().manual_seed(3)
    a = 0.5 * torch.randn(*sizes, 2, 2, generator=generator, dtype=F64)
    return F.LinearGaussianDynamics(a, [[0.0], [1.0]], 0.1 * torch.eye(2))


def answer(method: cai.AbstractMethod = METHODS[0], **changes: Any) -> Any:
    return cai.infer(graph(**changes), method)


# -- times and batches ------------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("name", ["q", "advantage", "v", "policy"])
def test_tensors_of_times_on_a_batch(method: cai.AbstractMethod, name: str) -> None:
    posterior, times = answer(method, dynamics=moving(3)), torch.tensor([0, 3, 4])
    x, u = torch.randn(3, 2, dtype=F64), torch.randn(3, 1, dtype=F64)

    def read(t: Any) -> Tensor:
        if name == "policy":
            return posterior.policy(x, t).mean
        return getattr(posterior, name)(*([x] if name == "v" else [x, u]), t)

    assert_close(read(times), torch.stack([read(int(t))[i] for i, t in enumerate(times)]), 1e-12)
    column = torch.tensor([[1], [4], [0], [2]])
    assert_close(read(column), torch.stack([read(int(t)) for t in column]), 1e-12)


@methods
@pytest.mark.parametrize("varying", ["mean", "covariance", "both", "known"])
@pytest.mark.parametrize("horizon", [5, None])
def test_a_batch_in_the_start_alone(method: cai.AbstractMethod, varying: str, horizon: int | None) -> None:
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], dtype=F64)
    spreads = torch.stack([s * torch.eye(2, dtype=F64) for s in (0.1, 1.0, 2.0)])
    each = [
        F.Delta(means[k])
        if varying == "known"
        else F.Gaussian(means[0 if varying == "covariance" else k], spreads[0 if varying == "mean" else k])
        for k in range(3)
    ]
    starts = {
        "mean": lambda: F.Gaussian(means, spreads[0]),
        "covariance": lambda: F.Gaussian(means[0], spreads),
        "both": lambda: F.Gaussian(means, spreads),
        "known": lambda: F.Delta(means),
    }
    method = cai.RiskSensitiveControl(0.05) if isinstance(method, cai.RiskSensitiveControl) else method
    together = answer(method, initial=starts[varying](), horizon=horizon)
    alone = [answer(method, initial=initial, horizon=horizon) for initial in each]
    numbers = ["gain"] if horizon is None else ["log_evidence", "expected_return", "entropy"]
    for name in numbers:
        assert_close(getattr(together, name), torch.stack([getattr(one, name) for one in alone]), 1e-10)
    for name in ("state_marginals", "state_action_marginals"):
        axis = 0 if horizon is None else 1
        for moment in ("mean", "covariance_matrix"):
            parts = [getattr(getattr(one, name), moment) for one in alone]
            assert_close(getattr(getattr(together, name), moment), torch.stack(parts, axis), 1e-10)
    assert together.v([1.0, 0.0]).shape == together.q([1.0, 0.0], [0.0]).shape == ()
    assert together.policy([1.0, 0.0]).batch_shape == () and together.policy(means).batch_shape == (3,)
    assert together.v(torch.zeros(4, 3, 2), 0).shape == (4, 3)


def test_discounted_numbers_have_the_batch_of_the_start() -> None:
    starts = F.Gaussian(torch.ones(3, 2), 0.1 * torch.eye(2))
    posterior = answer(initial=starts, horizon=None, discount=0.9)
    for name in ("log_evidence", "expected_return", "entropy"):
        assert getattr(posterior, name).shape == (3,)


def test_batches_of_the_factors_stay() -> None:
    posterior = answer(dynamics=moving(3, 1), initial=F.Gaussian(torch.zeros(4, 2), torch.eye(2)))
    assert posterior.v([0.0, 0.0]).shape == posterior.policy([0.0, 0.0]).batch_shape == (3, 1)
    assert posterior.entropy.shape == posterior.log_evidence.shape == (3, 4)
    assert posterior.state_marginals.batch_shape == (6, 3, 4)
    assert posterior.feedback.gain.shape == (5, 3, 1, 1, 2)
    between = posterior.gap(cai.infer(posterior.graph, cai.SumProduct()))
    assert between.kl.shape == between.evidence_gap.shape == (3, 4)


@pytest.mark.parametrize("sizes", [(1,), (1, 1)])
def test_a_batch_of_one_is_sampled_as_none(sizes: tuple[int, ...]) -> None:
    plain, one = (
        answer(dynamics=moving()),
        answer(dynamics=F.LinearGaussianDynamics(moving().a.expand(*sizes, 2, 2), [[0.0], [1.0]], 0.1 * torch.eye(2))),
    )
    drawn, again = plain.sample(4, seed=0), one.sample(4, seed=0)
    for name in ("states", "actions", "rewards"):
        assert_close(getattr(again, name), getattr(drawn, name), 1e-12)
    assert again.states.shape == (4, 6, 2) and again.rewards.shape == (4, 5)
    assert_close(one.log_prob(again), plain.log_prob(drawn), 1e-10)


# -- samples and densities --------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no noise": {"noise": "none", "start": "none"},
    "singular": {"noise": "singular", "start": "singular", "n": 3, "m": 2},
    "per step": {"per_step": ("dynamics", "reward", "prior"), "prior": "gain", "n": 3},
}


@methods
@pytest.mark.parametrize("name", CASES)
def test_densities_are_those_of_the_chain(method: cai.AbstractMethod, name: str) -> None:
    """One step after the other."""
    posterior = cai.infer(graph_of(oracles.random_problem(61, **CASES[name])), method)
    drawn = posterior.sample(7, seed=1)
    total = posterior.state_marginals[0].log_prob(drawn.states[:, 0])
    eta = risk_parameter(posterior.reading, posterior.problem.temperature)
    arrival = arrival_of(posterior.problem, posterior.messages, eta)
    for t in range(drawn.actions.shape[1]):
        total = total + posterior.policy(drawn.states[:, t], t).log_prob(drawn.actions[:, t])
        ones = torch.ones(7, 1, dtype=F64)
        z = torch.cat([drawn.states[:, t], ones, drawn.actions[:, t]], -1)
        n = drawn.states.shape[-1]
        mean = z @ arrival.dynamics[t if len(arrival.dynamics) > 1 else 0].mT
        noise = torch.zeros(n, n, dtype=F64) if arrival.noise is None else arrival.noise[t % len(arrival.noise)]
        total = total + F.distributions.DegenerateNormal(mean, noise).log_prob(drawn.states[:, t + 1])
    assert torch.isfinite(total).all()
    assert_close(posterior.log_prob(drawn), total, 1e-8)


def test_densities_in_chunks_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = answer()
    drawn = posterior.sample(9, seed=0)
    whole = posterior.log_prob(drawn)
    monkeypatch.setattr("cai.inference.gaussian._MAX_ENTRIES", 200)
    assert_close(posterior.log_prob(drawn), whole, 1e-12)


def test_padding_is_not_read() -> None:
    posterior = answer()
    drawn = posterior.sample(3, seed=0)
    states, actions = drawn.states.clone(), drawn.actions.clone()
    states[1, 3:], actions[1, 2:] = torch.nan, torch.nan
    short = cai.Trajectories(states, actions, lengths=[5, 2, 5])
    whole = posterior.log_prob(cai.Trajectories(drawn.states[1:2, :3], drawn.actions[1:2, :2]))
    assert_close(posterior.log_prob(short)[1:2], whole, 1e-12)
    assert_close(posterior.log_prob(short)[[0, 2]], posterior.log_prob(drawn)[[0, 2]], 1e-12)
    none = cai.Trajectories(drawn.states[:, :1], drawn.actions[:, :0])
    assert_close(posterior.log_prob(none), posterior.state_marginals[0].log_prob(drawn.states[:, 0]), 1e-12)
    assert posterior.log_prob(drawn[[]]).shape == (0,)


def test_densities_have_gradients() -> None:
    a = torch.eye(2, dtype=F64, requires_grad=True)
    drawn = answer().sample(5, seed=0)

    def total(matrix: Tensor) -> Tensor:
        dynamics = F.LinearGaussianDynamics(matrix, [[0.0], [1.0]], 0.1 * torch.eye(2))
        return answer(METHODS[1], dynamics=dynamics).log_prob(drawn).sum()

    (found,) = torch.autograd.grad(total(a), a)
    step, direction = 1e-6, torch.tensor([[0.3, -1.0], [0.7, 0.2]], dtype=F64)
    with torch.no_grad():
        slope = (total(a + step * direction) - total(a - step * direction)) / (2 * step)
    assert_close((found * direction).sum(), slope, 1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_roots_keep_to_the_support(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    wide = torch.randn(4, 3, rank, generator=generator, dtype=F64) * torch.tensor([1.0, 1e-4, 1e3], dtype=F64)[:, None]
    covariances = wide @ wide.mT
    roots = roots_of(covariances)
    scale = 1.0 + covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    assert_close((roots @ roots.mT - covariances) / (scale[:, :, None] * scale[:, None]), torch.zeros(4, 3, 3), 1e-9)
    assert (torch.linalg.matrix_rank(roots / scale[..., None], rtol=1e-10) == rank).all()
    assert torch.equal((roots != 0).any(-2).sum(-1), torch.full((4,), rank))


# -- bad questions ----------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "states that do not fit": (lambda p: p.policy(torch.zeros(7, 2)), r"\[7\] of state, \[3\] of the posterior"),
    "states for v": (lambda p: p.v(torch.zeros(7, 2)), r"\[7\] of state, \[3\]"),
    "states for q": (lambda p: p.q(torch.zeros(7, 2), torch.zeros(7, 1)), r"\[7\] of state, \[7\] of action, \[3\]"),
    "states and actions": (lambda p: p.q(torch.zeros(3, 2), torch.zeros(2, 1)), r"\[2\] of action"),
    "times": (lambda p: p.v(torch.zeros(2), torch.tensor([0, 1])), r"\[2\] of t, \[3\]"),
    "text": (lambda p: p.policy("ab"), "state"),
    "none": (lambda p: p.policy(None), "state"),
    "ragged": (lambda p: p.v([[1.0, 2.0], [1.0]]), "state"),
    "complex": (lambda p: p.v(torch.zeros(2, dtype=torch.complex64)), "state.*complex"),
    "infinite": (lambda p: p.v([np.inf, 0.0]), "state.*not finite"),
    "nan": (lambda p: p.q([0.0, 0.0], [np.nan]), "action.*not finite"),
    "size": (lambda p: p.q([0.0, 0.0], [0.0, 0.0]), r"action: expected \[..., 1\], got \[2\]"),
    "no vector": (lambda p: p.v(1.0), r"state: expected \[..., 2\], got \[\]"),
    "no time": (lambda p: p.v(torch.zeros(3, 2), None), "t must be whole numbers"),
    "a time of text": (lambda p: p.v(torch.zeros(3, 2), "a"), "t must be whole numbers"),
    "half a time": (lambda p: p.v(torch.zeros(3, 2), 0.5), "t must be whole numbers, got 0.5"),
    "a late time": (lambda p: p.policy(torch.zeros(3, 2), 5), "t 5 is outside 0..4"),
    "late times": (lambda p: p.v(torch.zeros(3, 2), [0, 3, 6]), "t 6 is outside 0..5"),
    "samples of a batch": (lambda p: p.sample(3), r"batch of graphs \[3\]"),
    "a number of text": (lambda p: p.sample("a"), "num must be .*'a'"),
    "no number": (lambda p: p.sample(None), "num must be .*None"),
    "infinite number": (lambda p: p.sample(np.inf), "num must be .*inf"),
    "length": (lambda p: p.sample(3, length=6), "1..5"),
}


@pytest.mark.parametrize("ask, message", BAD.values(), ids=BAD)
def test_bad_questions_are_value_errors(ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(answer(dynamics=moving(3)))


def test_trajectories_of_another_world_have_no_density() -> None:
    posterior = answer()
    for states, actions, message in (
        (torch.zeros(3, 6, 3), torch.zeros(3, 5, 1), "states"),
        (torch.zeros(3, 6, 2), torch.zeros(3, 5, 2), "actions"),
        (torch.zeros(3, 6, dtype=torch.int64), torch.zeros(3, 5, 1), "states"),
        (torch.full((3, 6, 2), torch.inf), torch.zeros(3, 5, 1), "states.*not finite"),
        (torch.zeros(3, 8, 2), torch.zeros(3, 7, 1), "7 actions, the horizon is 5"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior.log_prob(cai.Trajectories(states, actions))


def test_gap_names_dtypes_that_differ() -> None:
    world = oracles.random_problem(62)
    pair = [cai.infer(graph_of(world, dtype=dtype), METHODS[0]) for dtype in (F64, torch.float32)]
    with pytest.raises(ValueError, match="dtype: torch.float64 against torch.float32"):
        pair[0].gap(pair[1])


# -- the policy as a factor -------------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize(
    "options",
    [{}, {"dynamics": moving(3)}, {"horizon": None}, {"horizon": 1}],
    ids=["plain", "batch", "endless", "one step"],
)
def test_feedback_is_the_policy(method: cai.AbstractMethod, options: dict[str, Any]) -> None:
    method = cai.RiskSensitiveControl(0.05) if isinstance(method, cai.RiskSensitiveControl) else method
    posterior = answer(method, **options)
    x = torch.randn(4, 1, 2, dtype=F64)
    for t in range(posterior.graph.horizon or 1):
        ours, theirs = posterior.policy(x, t), posterior.feedback(x, t)
        assert_close(theirs.mean.expand(ours.mean.shape), ours.mean, 1e-12)
        assert_close(theirs.covariance_matrix.expand(ours.covariance_matrix.shape), ours.covariance_matrix, 1e-12)
    assert posterior.feedback.time_varying is (posterior.graph.horizon is not None)


def test_feedback_of_temperature_zero_has_no_spread() -> None:
    posterior = answer(temperature=0.0)
    assert posterior.feedback.covariance is None
    assert_close(posterior.feedback.mean([1.0, 2.0], 3), posterior.policy([1.0, 2.0], 3).mean, 1e-12)


def test_feedback_is_a_prior_and_learns() -> None:
    a = torch.eye(2, dtype=F64, requires_grad=True)
    law = answer(dynamics=F.LinearGaussianDynamics(a, [[0.0], [1.0]])).feedback
    (gradient,) = torch.autograd.grad(law.mean([1.0, 2.0], 0).sum(), a)
    assert gradient.abs().sum() > 0
    followed = answer(action_prior=answer().feedback, temperature=1e9)
    assert_close(followed.feedback.gain, answer().feedback.gain, 1e-6)


def test_saved_posteriors_answer_the_same(tmp_path: Path) -> None:
    posterior = answer(dynamics=moving(3))
    posterior.save(tmp_path / "file")
    again = cai.load(tmp_path / "file")
    assert torch.equal(again.feedback.gain, posterior.feedback.gain)
    assert np.array_equal(
        numpy_of(again.q(torch.zeros(2), torch.zeros(1), [1, 2, 0])),
        numpy_of(posterior.q(torch.zeros(2), torch.zeros(1), [1, 2, 0])),
    )
