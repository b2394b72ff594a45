"""Control under partial observation: the separation principle, in closed form and in rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cai
from cai.plan import BeliefPolicy, mean_action

F = cai.factors
A, B = np.array([[1.0, 0.2], [0.0, 0.9]]), np.array([[0.0], [0.2]])
W, C, R = np.diag([0.02, 0.05]), np.array([[1.0, 0.0]]), np.array([[0.2]])
MEAN, SPREAD = np.array([1.0, -0.5]), np.diag([0.3, 0.1])
Q, Q_U, Q_T = np.diag([1.0, 0.1]), np.array([[0.3]]), np.diag([2.0, 1.0])
HORIZON = 12


def graph(**changes: Any) -> cai.TrajectoryGraph:
    options: dict[str, Any] = {
        "initial": F.Gaussian(MEAN, SPREAD),
        "dynamics": F.LinearGaussianDynamics(A, B, W),
        "reward": F.QuadraticReward(Q, Q_U),
        "terminal_reward": F.QuadraticReward(Q_T),
        "horizon": HORIZON,
        "temperature": 0.1,
        "observation": F.LinearGaussianObservation(C, R),
    }
    return cai.TrajectoryGraph(**options | changes)


def gains_of(posterior: cai.Posterior) -> np.ndarray:
    """K_t, read off the policy at the unit vectors; there are no linear terms."""
    units = torch.eye(2, dtype=torch.float64)
    return np.stack([posterior.policy(units, t).mean.numpy().T for t in range(HORIZON)])


def filter_gains() -> list[np.ndarray]:
    covariance, gains = SPREAD, []
    for _ in range(HORIZON + 1):
        gain = covariance @ C.T @ np.linalg.inv(C @ covariance @ C.T + R)
        covariance = A @ (covariance - gain @ C @ covariance) @ A.T + W
        gains.append(gain)
    return gains


def cost_of(gains: np.ndarray, spreads: np.ndarray) -> float:
    """Expected cost of u ~ N(K_t xhat_t, S_t): second moments of [x; prediction of x], one step after the other."""
    moment = np.outer(np.tile(MEAN, 2), np.tile(MEAN, 2))
    moment[:2, :2] += SPREAD
    cost, eye = 0.0, np.eye(2)
    for gain, spread, kalman in zip(gains, spreads, filter_gains(), strict=False):
        estimate = np.hstack([kalman @ C, eye - kalman @ C])
        action = gain @ estimate
        noise = gain @ kalman @ R @ kalman.T @ gain.T + spread
        cost += 0.5 * np.trace(Q @ moment[:2, :2]) + 0.5 * np.trace(Q_U @ (action @ moment @ action.T + noise))
        closed = np.vstack([np.hstack([A, 0 * A]) + B @ action, A @ estimate + B @ action])
        seen = np.vstack([B @ gain @ kalman, (A + B @ gain) @ kalman])
        both = np.vstack([B, B])
        moment = closed @ moment @ closed.T + seen @ R @ seen.T + both @ spread @ both.T
        moment[:2, :2] += W
    return cost + 0.5 * np.trace(Q_T @ moment[:2, :2])


def total(episodes: cai.Trajectories) -> torch.Tensor:
    last = episodes.states[:, -1]
    return episodes.rewards.sum(1) - 0.5 * torch.einsum("ni,ij,nj->n", last, torch.as_tensor(Q_T), last)


@pytest.fixture(scope="module")
def posterior() -> cai.Posterior:
    return cai.infer(graph(), cai.SoftValueIteration())


def spreads_of(posterior: cai.Posterior) -> np.ndarray:
    return np.stack([posterior.policy([0.0, 0.0], t).covariance_matrix.numpy() for t in range(HORIZON)])


def test_the_cost_of_not_seeing_is_that_of_the_separation_principle(posterior: cai.Posterior) -> None:
    gains, spreads = gains_of(posterior), spreads_of(posterior)
    covariance, extra = SPREAD, 0.0
    for t, kalman in enumerate(filter_gains()[:-1]):
        after = covariance - kalman @ C @ covariance
        curvature = 0.1 * np.linalg.inv(spreads[t])
        extra += 0.5 * np.trace(gains[t].T @ curvature @ gains[t] @ after)
        covariance = A @ after @ A.T + W
    expected = -float(posterior.expected_return) + extra
    assert abs(cost_of(gains, spreads) - expected) < 1e-10
    episodes = cai.rollout(graph(), BeliefPolicy(posterior), 20_000, seed=0)
    returns = total(episodes)
    assert abs(float(returns.mean()) + expected) < 4 * float(returns.std()) / 20_000**0.5
    seen = total(cai.rollout(graph(observation=None), posterior, 20_000, seed=0))
    assert float(seen.mean() - returns.mean()) > 0.5 * extra


def test_the_gains_of_full_information_are_best(posterior: cai.Posterior) -> None:
    gains, spreads = gains_of(posterior), spreads_of(posterior)
    best, rng = cost_of(gains, spreads), np.random.default_rng(0)
    for _ in range(20):
        direction = rng.normal(size=gains.shape)
        ends = [cost_of(gains + step * direction, spreads) for step in (1e-4, -1e-4)]
        assert min(ends) > best
        assert abs(ends[0] - ends[1]) / 2e-4 < 1e-6


def test_gains_do_not_depend_on_what_is_seen() -> None:
    answers = [cai.infer(graph(**x), cai.SoftValueIteration()) for x in ({}, {"observation": None})]
    assert np.array_equal(*map(gains_of, answers))


def test_belief_is_that_of_the_filter(posterior: cai.Posterior) -> None:
    episodes = cai.rollout(graph(), BeliefPolicy(posterior, choose=mean_action), 3, seed=1)
    assert episodes.observations.shape == (3, HORIZON + 1, 1)
    record = graph().condition(observations=episodes.observations, actions=episodes.actions)
    means = cai.infer(record, cai.KalmanFilter()).state_marginals.mean
    for t in range(HORIZON):
        torch.testing.assert_close(posterior.policy(means[t], t).mean, episodes.actions[:, t], rtol=1e-10, atol=1e-10)


def test_missing_observations_are_skipped(posterior: cai.Posterior) -> None:
    policy = BeliefPolicy(posterior, choose=mean_action).bind(graph())
    seen = torch.tensor([[0.3], [torch.nan]], dtype=torch.float64)
    first = policy(seen, 0)
    torch.testing.assert_close(first[1], posterior.policy(MEAN, 0).mean)
    assert policy.belief.covariances.shape == (2, 2, 2)
    policy(seen, 1)


def test_a_policy_of_states_is_not_shown_observations(posterior: cai.Posterior) -> None:
    with pytest.raises(ValueError, match=r"wrap the posterior in cai.plan.BeliefPolicy"):
        cai.rollout(graph(), posterior, 3)
    uniform = cai.rollout(graph(), lambda seen, t: torch.zeros(len(seen), 1), 5, seed=0)
    assert uniform.observations.shape == (5, HORIZON + 1, 1)
    noise = (uniform.observations - uniform.states @ torch.as_tensor(C).mT).flatten()
    assert 0.2 < float(noise.std()) < 0.8


def test_observations_may_be_any_distribution() -> None:
    def loud(state: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Laplace(state, 0.1), 1)

    episodes = cai.rollout(graph(observation=loud), lambda seen, t: -seen[..., :1], 4, seed=0)
    assert episodes.observations.shape == (4, HORIZON + 1, 2)
    assert torch.equal(episodes.actions[:, 3], -episodes.observations[:, 3, :1])
    with pytest.raises(ValueError, match="observation must return a distribution, got Tensor"):
        cai.rollout(graph(observation=lambda state: state), lambda seen, t: -seen[..., :1], 4)


def test_time_varying_observations() -> None:
    factor = F.LinearGaussianObservation.per_step(C[None], R * np.linspace(0.1, 2.0, HORIZON + 1)[:, None, None])
    world = graph(observation=factor)
    posterior = cai.infer(world, cai.SoftValueIteration())
    assert len(cai.rollout(world, BeliefPolicy(posterior), 10, seed=0)) == 10
    with pytest.raises(ValueError, match="beyond the 13 times of the graph.s observation"):
        cai.rollout(world, BeliefPolicy(posterior), 2, length=HORIZON + 1)


def test_infinite_horizon() -> None:
    world = graph(horizon=None, discount=0.95, terminal_reward=None)
    posterior = cai.infer(world, cai.SoftValueIteration())
    episodes = cai.rollout(world, BeliefPolicy(posterior), 50, seed=0, length=100)
    assert torch.isfinite(episodes.rewards).all()


def test_order_of_time(posterior: cai.Posterior) -> None:
    policy = BeliefPolicy(posterior).bind(graph())
    policy([0.1], 0)
    policy([0.1], 1)
    with pytest.raises(ValueError, match="expected t = 2 or 0, got 3"):
        policy([0.1], 3)
    policy([0.1], 0)  # begins again
    with pytest.raises(ValueError, match="expected t = 0, got 1"):
        BeliefPolicy(posterior).bind(graph())([0.1], 1)
    with pytest.raises(ValueError, match="without the observations before"):
        BeliefPolicy(posterior)([0.1], 1)
    assert BeliefPolicy(posterior)([0.1]).shape == (1,)


@pytest.mark.parametrize("method", [cai.SumProduct(), cai.RiskSensitiveControl(eta=-0.05)], ids=["tilted", "averse"])
def test_risk_breaks_certainty_equivalence(method: Any) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="certainty equivalence does not hold"):
        BeliefPolicy(cai.infer(graph(), method))


def test_refusals(posterior: cai.Posterior) -> None:
    with pytest.raises(cai.IncompatibleMethod, match="needs LinearGaussianObservation as the observation"):
        BeliefPolicy(cai.infer(graph(observation=None), cai.SoftValueIteration()))
    with pytest.raises(cai.IncompatibleMethod, match="posterior of SoftValueIteration on a linear-Gaussian graph"):
        BeliefPolicy(cai.infer(cai.load_model("two_state", horizon=2), cai.SoftValueIteration()))  # type: ignore[arg-type]
    wide = graph(initial=F.Gaussian(np.stack([MEAN, MEAN]), SPREAD))
    with pytest.raises(cai.IncompatibleMethod, match=r"a batch of graphs \[2\]"):
        BeliefPolicy(cai.infer(wide, cai.SoftValueIteration()))
    other = graph(observation=F.LinearGaussianObservation(np.eye(2), np.eye(2)))
    with pytest.raises(ValueError, match="observations have 1 coordinates, the world's 2"):
        cai.rollout(other, BeliefPolicy(posterior), 2)
    with pytest.raises(ValueError, match=r"expected observations \[\*batch, 1\]"):
        BeliefPolicy(posterior)([0.1, 0.2])
