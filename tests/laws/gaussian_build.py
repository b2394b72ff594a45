"""From the oracles' linear-Gaussian `Problem` to a `cai.TrajectoryGraph`, and the variants that every law survives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cai
from tests.gaussian_oracles import Policy, Problem
from tests.laws.build import numpy_of

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "plain": {"plain": True},
    "known start": {"start": "none"},
    "no noise": {"noise": "none"},
    "no noise, known start": {"noise": "none", "start": "none"},
    "singular noise and start": {"noise": "singular", "start": "singular", "n": 3, "m": 2},
    "Gaussian prior": {"prior": "gaussian", "m": 2},
    "prior with a gain": {"prior": "gain", "m": 2},
    "dynamics per step": {"per_step": ("dynamics",), "n": 3},
    "reward per step": {"per_step": ("reward",), "m": 2},
    "all per step": {"per_step": ("dynamics", "reward", "prior"), "prior": "gain", "n": 3, "m": 2},
    "more actions than states": {"n": 1, "m": 2},
    "hot": {"temperature": 20.0},
    "cold": {"temperature": 0.03},
    "no terminal reward": {"terminal": False},
    "one step": {"horizon": 1},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)

METHODS = {"fixed": cai.SoftValueIteration, "posterior": cai.SumProduct}
readings = pytest.mark.parametrize("reading", METHODS)


def eta_of(problem: Problem, reading: str) -> float:
    """The risk parameter that a reading is."""
    return 0.0 if reading == "fixed" else 1 / problem.temperature


def dynamics_of(problem: Problem, **options: Any) -> Any:
    factor = cai.factors.LinearGaussianDynamics
    return built(factor, problem.a, problem.b, problem.w, problem.c, **options)


def reward_of(problem: Problem, **options: Any) -> Any:
    parts = [problem.big_q, problem.big_r, problem.cross, problem.q, problem.r, problem.constant]
    return built(cai.factors.QuadraticReward, *parts, **options)


def prior_of(problem: Problem, **options: Any) -> Any:
    """The action prior: None for the flat measure."""
    if problem.prior_covariance is None:
        return None
    parts = [problem.prior_gain, problem.prior_offset, problem.prior_covariance]
    return built(cai.factors.LinearGaussianPolicy, *parts, **options)


def built(factor: Any, *parts: Any, **options: Any) -> Any:
    """A factor of parts with a time axis: `factor.per_step` where any of them is longer than one."""
    if max(len(part) for part in parts) == 1:
        return factor(*(part[0] for part in parts), **options)
    return factor.per_step(*parts, **options)


def initial_of(problem: Problem, **options: Any) -> Any:
    """The start: a `Delta` where it is known."""
    if not problem.covariance.any():
        return cai.factors.Delta(torch.as_tensor(problem.mean, dtype=options.get("dtype")))
    return cai.factors.Gaussian(problem.mean, problem.covariance, **options)


def graph_of(problem: Problem, *, dtype: torch.dtype | None = None, **changes: Any) -> cai.TrajectoryGraph:
    """The graph of a problem; `changes` replace arguments of it."""
    options = {} if dtype is None else {"dtype": dtype}
    arguments = {
        "initial": initial_of(problem, **options),
        "dynamics": dynamics_of(problem, **options),
        "reward": reward_of(problem, **options),
        "horizon": problem.horizon,
        "discount": problem.discount,
        "temperature": problem.temperature,
        "action_prior": prior_of(problem, **options),
    }
    if problem.horizon is not None and (problem.end_q.any() or problem.end_linear.any()):
        arguments["terminal_reward"] = cai.factors.QuadraticReward(problem.end_q, q=problem.end_linear, **options)
    return cai.TrajectoryGraph(**(arguments | changes))


def infer(problem: Problem, reading: str = "fixed", **changes: Any) -> cai.Posterior:
    """The answer of a problem, by the method of a reading."""
    return cai.infer(graph_of(problem, **changes), METHODS[reading]())


def risky(problem: Problem, eta: float) -> cai.Posterior:
    """The answer of risk-sensitive control."""
    return cai.infer(graph_of(problem), cai.RiskSensitiveControl(eta))


def policy_of(posterior: cai.Posterior, t: int = 0) -> Policy:
    """Gain, offset and covariance of the policy at time t, read off its distributions at 0 and the unit vectors."""
    n = posterior.graph.state_space.shape[0]
    states = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    answers = posterior.policy(states, t=t)
    means, covariances = numpy_of(answers.mean), numpy_of(answers.covariance_matrix)
    assert (covariances == covariances[0]).all()
    return Policy((means[1:] - means[0]).T, means[0], covariances[0])


def some_states(problem: Problem, num: int = 5, seed: int = 0) -> np.ndarray:
    """States anywhere, `[num, n]`."""
    return 2 * np.random.default_rng(seed).normal(size=(num, problem.n))


def some_actions(problem: Problem, num: int = 5, seed: int = 1) -> np.ndarray:
    """Actions anywhere, `[num, m]`."""
    return 2 * np.random.default_rng(seed).normal(size=(num, problem.m))
