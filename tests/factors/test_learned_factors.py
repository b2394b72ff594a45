"""Factors kept while their tensors learn: what is asked later sees the change, and gradients arrive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pyro.distributions
import pytest
import torch
from torch import Tensor

import cai
from cai.factors.distributions import DegenerateNormal

F, F64 = cai.factors, torch.float64
EYE, PUSH, X, U = torch.eye(2, dtype=F64), [[0.0], [1.0]], torch.ones(2, dtype=F64), torch.ones(1, dtype=F64)
Kind = Callable[[], AbstractContextManager]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, F64])


def graph(**changes: Any) -> cai.TrajectoryGraph:
    parts: dict[str, Any] = {
        "initial": F.Gaussian([1.0, 0.0], 0.1 * EYE),
        "dynamics": F.LinearGaussianDynamics([[1.0, 0.1], [0.0, 0.9]], PUSH, 0.1 * EYE),
        "reward": F.QuadraticReward(EYE, [[1.0]]),
        "observation": F.LinearGaussianObservation([[1.0, 0.0]], [[1.0]]),
        "horizon": 3,
        "temperature": 0.5,
    }
    return cai.TrajectoryGraph(**(parts | changes))


def evidence(made: cai.TrajectoryGraph) -> Tensor:
    return cai.infer(made, cai.SumProduct()).log_evidence


def likelihood(made: cai.TrajectoryGraph) -> Tensor:
    """What was observed tells of the observation factor."""
    record = made.condition(observations=np.ones((4, 1)), actions=np.zeros((3, 1)))
    return cai.infer(record, cai.KalmanSmoother()).log_evidence


#: What learns -> the slot, the factor of a learned tensor, the tensor's first value, and what depends on it.
LEARNED: dict[str, tuple[str, Callable[[Tensor], Any], Tensor, Callable[[cai.TrajectoryGraph], Tensor]]] = {
    "A": ("dynamics", lambda a: F.LinearGaussianDynamics(a, PUSH, 0.1 * EYE), EYE, evidence),
    "B": ("dynamics", lambda b: F.LinearGaussianDynamics(EYE, b), torch.ones(2, 1), evidence),
    "W": ("dynamics", lambda w: F.LinearGaussianDynamics(EYE, PUSH, w), EYE, evidence),
    "W of steps": (
        "dynamics",
        lambda w: F.LinearGaussianDynamics.per_step(EYE[None], torch.ones(1, 2, 1), w),
        torch.stack([EYE] * 3),
        evidence,
    ),
    "c": ("dynamics", lambda c: F.LinearGaussianDynamics(EYE, PUSH, offset=c), torch.ones(2), evidence),
    "Q": ("reward", lambda q: F.QuadraticReward(q, [[1.0]]), EYE, evidence),
    "r": ("reward", lambda r: F.QuadraticReward(EYE, [[1.0]], r=r), torch.ones(1), evidence),
    "Q_T": ("terminal_reward", lambda q: F.QuadraticReward(q), EYE, evidence),
    "mean": ("initial", lambda m: F.Gaussian(m, EYE), torch.ones(2), evidence),
    "covariance": ("initial", lambda s: F.Gaussian([1.0, 0.0], s), EYE, evidence),
    "prior gain": ("action_prior", lambda k: F.LinearGaussianPolicy(k, [0.3], [[1.0]]), torch.ones(1, 2), evidence),
    "prior spread": ("action_prior", lambda s: F.Gaussian([0.1], s), torch.ones(1, 1), evidence),
    "C": ("observation", lambda c: F.LinearGaussianObservation(c, [[1.0]]), torch.ones(1, 2), likelihood),
    "R": ("observation", lambda r: F.LinearGaussianObservation([[1.0, 0.0]], r), torch.ones(1, 1), likelihood),
}


@dtypes
@pytest.mark.parametrize("what", LEARNED)
def test_a_factor_follows_its_parameter(what: str, dtype: torch.dtype) -> None:
    """After a look without gradients and a change in place: the answer and the gradient of a factor made anew."""
    slot, factor, value, ask = LEARNED[what]
    leaf = torch.nn.Parameter(value.to(dtype, copy=True))
    made = graph(**{slot: factor(leaf)})
    for look in (torch.no_grad, torch.inference_mode):
        with look():
            ask(made)
    with torch.no_grad():
        leaf.mul_(1.25)  # exact in both types
    anew = (1.25 * value).to(F64).requires_grad_()
    found, expected = ask(made), ask(graph(**{slot: factor(anew)}))
    assert found.dtype == F64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    found.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad, anew.grad.to(dtype), rtol=1e-6, atol=1e-12)


@dtypes
def test_calls_follow_the_parameter(dtype: torch.dtype) -> None:
    a, w, q = (torch.nn.Parameter(EYE.to(dtype, copy=True)) for _ in range(3))
    dynamics, reward = F.LinearGaussianDynamics(a, PUSH, w), F.QuadraticReward(q, [[1.0]])
    step = F.DifferentiableDynamics(lambda x, u: x, w)
    with torch.no_grad():
        for leaf in (a, w, q):
            leaf.mul_(4.0)
    assert dynamics(X, 0 * U).mean.tolist() == [4.0, 4.0]
    assert dynamics(X, U).variance.tolist() == step(X, U).variance.tolist() == [4.0, 4.0]
    assert torch.equal(dynamics.noise(2)[0], 4 * EYE)
    assert reward(X, 0 * U).item() == -4.0
    (dynamics(X, U).log_prob(X) + reward(X, U)).backward()
    assert all(leaf.grad.dtype == dtype for leaf in (a, w, q))


def test_an_optimiser_finds_the_dynamics() -> None:
    """Of the default type of torch, with one factor kept all along."""
    truth, x = torch.tensor([[0.5, 0.2], [-0.1, 0.8]], dtype=F64), torch.eye(2, dtype=F64)
    a = torch.nn.Parameter(torch.eye(2))
    dynamics = F.LinearGaussianDynamics(a, PUSH, EYE)
    optimiser = torch.optim.SGD([a], lr=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        (-dynamics(x, torch.zeros(2, 1)).log_prob(x @ truth.mT).sum()).backward()
        optimiser.step()
    torch.testing.assert_close(a.detach().double(), truth, rtol=1e-5, atol=1e-5)


def test_a_float32_factor_of_a_float64_parameter() -> None:
    q = torch.nn.Parameter(EYE.clone())
    reward = F.QuadraticReward(q, [[1.0]], dtype=torch.float32)
    assert reward.Q.dtype == reward.quadratic_parts(2, 1).form.dtype == torch.float32
    reward(X, U).backward()
    assert q.grad.dtype == F64


# -- what is kept between questions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_parts_are_kept_only_where_nothing_learns(look: Kind) -> None:
    fixed = F.LinearGaussianDynamics(EYE, PUSH, EYE), F.QuadraticReward(EYE, [[1.0]])
    learned = (
        F.LinearGaussianDynamics(EYE, PUSH, EYE.clone().requires_grad_()),
        F.QuadraticReward(EYE.clone().requires_grad_(), [[1.0]]),
    )
    for dynamics, reward in (fixed, learned):
        with look():
            first = dynamics.linear_parts(), reward.quadratic_parts(2, 1).form
        then = dynamics.linear_parts(), reward.quadratic_parts(2, 1).form
        kept = dynamics is fixed[0] and look is not torch.inference_mode
        assert (then[0] is first[0]) == (then[1] is first[1]) == kept
        assert not then[1].is_inference()
        assert not then[0].a.is_inference()


@pytest.mark.parametrize("slot", ["dynamics", "reward"])
def test_a_look_in_inference_mode_does_no_harm_to_training(slot: str) -> None:
    made = graph(observation=None)
    with torch.inference_mode():
        evidence(made)
    leaf = EYE.clone().requires_grad_()
    new = F.LinearGaussianDynamics(leaf, PUSH) if slot == "dynamics" else F.QuadraticReward(leaf, [[1.0]])
    answer = cai.infer(made.replace(**{slot: new}), cai.SumProduct())
    (answer.log_evidence + answer.state_marginals.mean.sum()).backward()
    assert leaf.grad.any()


# -- covariances that learn -------------------------------------------------------------------------------------------


def test_the_kind_is_that_of_the_present_value() -> None:
    w = torch.zeros(2, 2, dtype=F64, requires_grad=True)
    gaussian, dynamics = F.Gaussian([0.0, 0.0], w), F.LinearGaussianDynamics(EYE, PUSH, w)
    function = F.DifferentiableDynamics(lambda x, u: x, w)
    for ask in (gaussian, lambda: dynamics(X, U), lambda: function(X, U)):
        for value, kind in (
            (torch.zeros(2, 2), pyro.distributions.Delta),
            (torch.ones(2, 2), DegenerateNormal),
            (EYE, torch.distributions.MultivariateNormal),
        ):
            with torch.no_grad():
                w.copy_(value)
            assert isinstance(ask(), kind)
            assert torch.equal(ask().variance, value.diagonal())


def test_the_kind_of_a_step_is_that_of_its_present_value() -> None:
    w = torch.zeros(2, 2, 2, dtype=F64, requires_grad=True)
    dynamics = F.LinearGaussianDynamics.per_step(EYE[None], torch.ones(1, 2, 1), w)
    with torch.no_grad():
        w[1] += EYE
    assert isinstance(dynamics(X, U, 0), pyro.distributions.Delta)
    assert isinstance(dynamics(X, U, 1), torch.distributions.MultivariateNormal)
    assert isinstance(dynamics(X.expand(2, 2), U.expand(2, 1), [0, 1]), DegenerateNormal)


def test_a_prior_that_has_lost_its_density_is_refused() -> None:
    w = EYE.clone().requires_grad_()
    prior = F.Gaussian([0.0, 0.0], w)
    prior.prior_parts(3, 2)
    with torch.no_grad():
        w[1, 1] = 0.0
    with pytest.raises(ValueError, match="action_prior: Gaussian has a singular covariance"):
        prior.prior_parts(3, 2)


def test_a_covariance_that_is_none_any_more_is_noticed() -> None:
    w = torch.stack([EYE, EYE]).requires_grad_()
    dynamics = F.LinearGaussianDynamics.per_step(EYE[None], torch.ones(1, 2, 1), w)
    gaussian, step = F.Gaussian(X, w), F.DifferentiableDynamics(lambda x, u: x, w)
    with torch.no_grad():
        w[1, 0, 0] = -0.25
    asked: list[tuple[Callable[[], Any], str]] = [
        (dynamics.linear_parts, r"LinearGaussianDynamics covariance at \(time 1\)"),
        (lambda: dynamics.covariance, r"LinearGaussianDynamics covariance at \(time 1\)"),
        (lambda: dynamics(X, U, 1), r"LinearGaussianDynamics covariance at \(time 1\)"),
        (gaussian, r"Gaussian covariance at \(batch 1\)"),
        (lambda: gaussian.initial_moments(2), r"Gaussian covariance at \(batch 1\)"),
        (lambda: step.noise(2), r"DifferentiableDynamics covariance at \(batch 1\)"),
    ]
    for ask, where in asked:
        with pytest.raises(ValueError, match=where + " is not positive semi-definite: least eigenvalue -0.25; .* L"):
            ask()
    assert dynamics(X, U, 0).variance.tolist() == [1.0, 1.0]  # a step that is right is answered
    with torch.no_grad():
        w[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"covariance: \(time 1, row 0, column 0\) is nan"):
        dynamics.linear_parts()
