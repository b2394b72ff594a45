"""Linear-Gaussian graphs against the oracles: evidence, values, policies, marginals, expectations and samples.

The posterior is held against one big Gaussian that is conditioned as a whole, fixed dynamics against a rollout of its
policy, and what lies between and beyond, by `RiskSensitiveControl`, against dynamic programming in blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

import cai
from tests import gaussian_oracles as oracles
from tests.laws.build import assert_close, numpy_of
from tests.laws.gaussian_build import (
    METHODS,
    cases,
    eta_of,
    graph_of,
    infer,
    policy_of,
    readings,
    risky,
    some_actions,
    some_states,
)

TOLERANCE = 1e-10


def assert_policy(posterior: cai.Posterior, t: int, expected: oracles.Policy) -> None:
    ours = policy_of(posterior, t)
    for member in ("gain", "offset", "covariance"):
        assert_close(getattr(ours, member), getattr(expected, member), TOLERANCE)


def assert_moments(marginals: object, means: object, covariances: object) -> None:
    assert_close(marginals.mean, means, TOLERANCE)  # type: ignore[attr-defined]
    assert_close(marginals.covariance_matrix, covariances, TOLERANCE)  # type: ignore[attr-defined]


# -- the posterior is the conditioned joint Gaussian ------------------------------------------------------------------


@cases
@pytest.mark.parametrize("seed", [11, 12])
def test_evidence_and_marginals_of_the_joint_gaussian(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    joint, posterior = oracles.joint_posterior(problem), infer(problem, "posterior")
    assert posterior.log_evidence.shape == ()
    assert not posterior.is_bound
    assert_close(posterior.log_evidence, joint.log_integral, TOLERANCE)
    states, pairs = posterior.state_marginals, posterior.state_action_marginals
    assert len(states) == problem.horizon + 1 and len(pairs) == problem.horizon
    for t in range(problem.horizon + 1):
        assert_moments(states[t], *joint.state(t))
    for t in range(problem.horizon):
        assert_moments(pairs[t], *joint.pair(t))


@cases
def test_values_and_policies_of_the_joint_gaussian(options: dict) -> None:
    problem = oracles.random_problem(13, **options)
    posterior = infer(problem, "posterior")
    states, actions = some_states(problem, 3), some_actions(problem, 3)
    for t in range(problem.horizon):
        assert_policy(posterior, t, oracles.posterior_policy(problem, t))
        assert_close(posterior.v(states, t=t), [oracles.posterior_v(problem, t, x) for x in states], TOLERANCE)
        q = [oracles.posterior_q(problem, t, x, u) for x, u in zip(states, actions, strict=True)]
        assert_close(posterior.q(states, actions, t=t), q, TOLERANCE)
    end = [oracles.posterior_v(problem, problem.horizon, x) for x in states]
    assert_close(posterior.v(states, t=problem.horizon), end, TOLERANCE)


@cases
def test_the_most_probable_trajectory_is_the_mean(options: dict) -> None:
    problem = oracles.random_problem(14, **options)
    joint, path = oracles.joint_posterior(problem), infer(problem, "posterior").most_probable_trajectory
    assert len(path) == 1
    for t in range(problem.horizon + 1):
        assert_close(path.states[0, t], joint.state(t)[0], TOLERANCE)
    for t in range(problem.horizon):
        assert_close(path.actions[0, t], joint.pair(t)[0][problem.n :], TOLERANCE)


# -- fixed dynamics is the rollout of its policy ----------------------------------------------------------------------


@cases
@pytest.mark.parametrize("discount", [1.0, 0.85])
def test_fixed_dynamics_is_the_programme_and_its_rollout(options: dict, discount: float) -> None:
    problem = oracles.random_problem(15, **(options | {"discount": discount}))
    posterior, steps = infer(problem), oracles.backward(problem)
    rollout = oracles.roll_out(problem, [step.policy for step in steps])
    assert posterior.is_bound
    assert_close(posterior.log_evidence, rollout.bound(problem.temperature), TOLERANCE)
    assert_moments(posterior.state_marginals, rollout.means, rollout.covariances)
    assert_moments(posterior.state_action_marginals, rollout.pair_means, rollout.pair_covariances)
    assert_close(posterior.expected_return, rollout.expected_return, TOLERANCE)
    assert_close(posterior.entropy, rollout.entropy, TOLERANCE)
    states, actions = some_states(problem), some_actions(problem)
    for t, step in enumerate(steps):
        assert_policy(posterior, t, step.policy)
        assert_close(posterior.v(states, t=t), [step.value(x) for x in states], TOLERANCE)
        pairs = zip(states, actions, strict=True)
        assert_close(posterior.q(states, actions, t=t), [step.q(x, u) for x, u in pairs], TOLERANCE)


@readings
@cases
def test_policy_is_the_soft_maximum(options: dict, reading: str) -> None:
    """Log pi = log mu + (q - v) / alpha, the advantage is q - v, and the covariance alpha times the inverse of Quu."""
    problem = oracles.random_problem(16, **options)
    posterior, alpha = infer(problem, reading), problem.temperature
    states, actions = torch.as_tensor(some_states(problem)), torch.as_tensor(some_actions(problem))
    for t in range(problem.horizon):
        log_pi = posterior.policy(states, t=t).log_prob(actions)
        log_mu = [log_prior(problem, t, x, u) for x, u in zip(numpy_of(states), numpy_of(actions), strict=True)]
        gap = posterior.q(states, actions, t=t) - posterior.v(states, t=t)
        assert_close(posterior.advantage(states, actions, t=t), gap, TOLERANCE)
        assert_close(alpha * numpy_of(log_pi), alpha * np.array(log_mu) + numpy_of(gap), TOLERANCE)


def log_prior(problem: oracles.Problem, t: int, x: np.ndarray, u: np.ndarray) -> float:
    form, vector, constant = problem.prior_form(t)
    z = np.concatenate([x, u])
    return float(-0.5 * z @ form @ z - vector @ z + constant)


@cases
def test_the_posteriors_return_and_entropy_are_its_own(options: dict) -> None:
    problem = oracles.random_problem(17, **options)
    posterior, eta = infer(problem, "posterior"), 1 / problem.temperature
    policies = [step.policy for step in oracles.backward(problem, eta)]
    rollout = oracles.roll_out(problem, policies, oracles.tilts(problem, eta))
    assert_close(posterior.expected_return, rollout.expected_return, TOLERANCE)
    assert_close(posterior.entropy, rollout.entropy, TOLERANCE)


# -- one dial: eta ----------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("share", [-0.1, 0.0, 0.4, 1.0, 1.5])
def test_risk_is_the_programme(options: dict, share: float) -> None:
    """At eta = share / alpha: between fixed dynamics and the posterior, and beyond both ends."""
    problem = oracles.random_problem(18, **options)
    problem = problem.replace(w=0.2 * problem.w, covariance=0.05 * problem.covariance)
    eta = share / problem.temperature if share > 0 else share
    steps, posterior = oracles.backward(problem, eta), risky(problem, eta)
    states, actions = some_states(problem), some_actions(problem)
    for t, step in enumerate(steps):
        assert_policy(posterior, t, step.policy)
        assert_close(posterior.v(states, t=t), [step.value(x) for x in states], TOLERANCE)
        pairs = zip(states, actions, strict=True)
        assert_close(posterior.q(states, actions, t=t), [step.q(x, u) for x, u in pairs], TOLERANCE)
    rollout = oracles.roll_out(problem, [step.policy for step in steps], oracles.tilts(problem, eta))
    assert_moments(posterior.state_marginals, rollout.means, rollout.covariances)
    if share > 1:
        with pytest.raises(cai.Unavailable):
            _ = posterior.log_evidence
    else:
        assert posterior.is_bound or share == 1
        assert_close(posterior.log_evidence, oracles.value_of_start(problem, eta) / problem.temperature, TOLERANCE)


@cases
def test_the_ends_of_the_dial_are_the_two_readings(options: dict) -> None:
    problem = oracles.random_problem(19, **options)
    states = some_states(problem)
    for reading in METHODS:
        ours, theirs = risky(problem, eta_of(problem, reading)), infer(problem, reading)
        for t in range(problem.horizon):
            assert_close(ours.v(states, t=t), theirs.v(states, t=t), 1e-12)
            assert_close(ours.policy(states, t=t).mean, theirs.policy(states, t=t).mean, 1e-12)
        assert_close(ours.log_evidence, theirs.log_evidence, 1e-12)


def test_v_rises_with_eta() -> None:
    problem = oracles.random_problem(20, n=3, m=2, start="none")
    problem = problem.replace(w=0.1 * problem.w)
    states = some_states(problem)
    etas = [-0.1, -0.01, 0.0, 0.01, 0.5, 1 / problem.temperature, 3.0]
    values = np.array([numpy_of(risky(problem, eta).v(states)) for eta in etas])
    assert (np.diff(values, axis=0) > 0).all()


# -- the gap ----------------------------------------------------------------------------------------------------------


@cases
def test_gap_is_the_divergence_of_the_two_big_gaussians(options: dict) -> None:
    problem = oracles.random_problem(21, **options)
    soft, exact = infer(problem), infer(problem, "posterior")
    joint = oracles.joint_posterior(problem)
    fixed = oracles.joint_fixed(problem, [step.policy for step in oracles.backward(problem)])
    between, reverse = soft.gap(exact), exact.gap(soft)
    divergence = oracles.kl(fixed, joint)
    assert_close(between.evidence_gap, exact.log_evidence - soft.log_evidence, TOLERANCE)
    assert_close(between.evidence_gap, divergence, 1e-8)
    assert_close(between.kl, divergence, 1e-8)
    assert_close(between.reverse_kl, oracles.kl(joint, fixed), 1e-8)
    assert_close(reverse.kl, between.reverse_kl, TOLERANCE)
    assert_close(reverse.reverse_kl, between.kl, TOLERANCE)


def test_gap_is_zero_without_chance_and_positive_with_it() -> None:
    for noise, start in (("none", "none"), ("none", "full"), ("full", "none")):
        problem = oracles.random_problem(22, noise=noise, start=start)
        gap = float(infer(problem).gap(infer(problem, "posterior")).evidence_gap)
        assert abs(gap) < 1e-10 if (noise, start) == ("none", "none") else gap > 1e-3


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 0.0])
def test_the_posterior_goes_to_fixed_dynamics_with_the_noise(size: float) -> None:
    problem = oracles.random_problem(23, n=3, m=2)
    calm = problem.replace(w=size * problem.w, covariance=size * problem.covariance)
    soft, exact = infer(calm), infer(calm, "posterior")
    for t in range(problem.horizon):
        ours, theirs = policy_of(soft, t), policy_of(exact, t)
        assert np.abs(ours.gain - theirs.gain).max() <= 20 * size + 1e-13
        assert np.abs(ours.covariance - theirs.covariance).max() <= 20 * size + 1e-13
    assert abs(float(exact.log_evidence - soft.log_evidence)) <= 100 * size + 1e-11


@pytest.mark.parametrize("alpha", [1e3, 1e6, 1e9])
def test_the_posterior_goes_to_fixed_dynamics_with_the_temperature(alpha: float) -> None:
    problem = oracles.random_problem(24, n=3, m=2, temperature=alpha)
    soft, exact = infer(problem), infer(problem, "posterior")
    for t in range(problem.horizon):
        difference = np.abs(policy_of(soft, t).gain - policy_of(exact, t).gain).max()
        assert difference <= 100 / alpha + 1e-13


def test_the_covariance_is_a_temperature_times_the_inverse_curvature() -> None:
    """One step, r = -(x'Qx + u'Ru)/2: the covariance is alpha R^-1; with 1/2 missing in the reward, half of it."""
    for factor in (1.0, 2.0):
        graph = cai.TrajectoryGraph(
            initial=cai.factors.Delta(torch.zeros(1, dtype=torch.float64)),
            dynamics=cai.factors.LinearGaussianDynamics([[1.0]], [[1.0]]),
            reward=cai.factors.QuadraticReward([[1.0]], [[factor * 4.0]]),
            horizon=1,
            temperature=0.6,
        )
        covariance = cai.infer(graph, cai.SoftValueIteration()).policy(torch.zeros(1)).covariance_matrix
        assert_close(covariance, 0.6 / (4.0 * factor), 1e-14)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_under_fixed_dynamics_gains_do_not_depend_on_the_noise(discount: float) -> None:
    problem = oracles.random_problem(25, n=3, m=2, discount=discount)
    loud = infer(problem.replace(w=100 * problem.w))
    for t in range(problem.horizon):
        assert_policy(loud, t, policy_of(infer(problem), t))


def test_optimists_push_less() -> None:
    """Scalar, no prior: the gains of the posterior are smaller than those of fixed dynamics, until the last step."""
    problem = oracles.random_problem(26, n=1, m=1, plain=True, horizon=6)
    soft, exact = infer(problem), infer(problem, "posterior")
    for t in range(5):
        assert abs(policy_of(exact, t).gain.item()) < abs(policy_of(soft, t).gain.item())
    assert_close(policy_of(exact, 5).covariance, oracles.backward(problem, 1 / 0.7)[5].policy.covariance)


@pytest.mark.parametrize("prior", ["flat", "gain"])
def test_temperature_zero_is_hard_control(prior: str) -> None:
    problem = oracles.random_problem(27, n=3, m=2, prior=prior, temperature=0.0)
    posterior = infer(problem)
    states, actions = some_states(problem), some_actions(problem)
    for t, step in enumerate(oracles.backward(problem)):
        ours = policy_of(posterior, t)
        assert_close(ours.gain, step.policy.gain, TOLERANCE)
        assert_close(ours.offset, step.policy.offset, TOLERANCE)
        assert (ours.covariance == 0).all()
        assert_close(posterior.v(states, t=t), [step.value(x) for x in states], TOLERANCE)
        pairs = zip(states, actions, strict=True)
        assert_close(posterior.q(states, actions, t=t), [step.q(x, u) for x, u in pairs], TOLERANCE)
    assert_close(posterior.expected_return, oracles.value_of_start(problem), TOLERANCE)
    sample = posterior.policy(states).sample()
    assert_close(sample, posterior.policy(states).mean, 0.0)
    with pytest.raises(cai.Unavailable, match="temperature 0"):
        _ = posterior.log_evidence
    with pytest.raises(cai.IncompatibleMethod, match="temperature"):
        infer(problem, "posterior")


def test_temperature_zero_is_the_limit() -> None:
    problem = oracles.random_problem(28, n=2, m=2)
    hard = infer(problem.replace(temperature=0.0))
    for t in range(problem.horizon):
        cold = policy_of(infer(problem.replace(temperature=1e-9)), t)
        assert_close(cold.gain, policy_of(hard, t).gain, 1e-12)
        assert np.abs(cold.covariance).max() < 1e-7


# -- samples and densities --------------------------------------------------------------------------------------------

NUM = 20_000


@readings
@pytest.mark.parametrize("options", [{}, {"prior": "gain", "m": 2}, {"noise": "singular", "start": "none", "n": 3}])
def test_samples_have_the_moments(options: dict, reading: str) -> None:
    """Means within six standard errors, and every entry of the covariance too."""
    problem = oracles.random_problem(29, **options)
    posterior = infer(problem, reading)
    batch = posterior.sample(NUM, seed=0)
    assert batch.states.shape == (NUM, problem.horizon + 1, problem.n)
    assert batch.actions.shape == (NUM, problem.horizon, problem.m)
    for t in range(problem.horizon):
        pairs = np.concatenate([numpy_of(batch.states[:, t]), numpy_of(batch.actions[:, t])], -1)
        marginal = posterior.state_action_marginals[t]
        mean, covariance = numpy_of(marginal.mean), numpy_of(marginal.covariance_matrix)
        spread = np.sqrt(np.diag(covariance))
        assert (np.abs(pairs.mean(0) - mean) <= 6 * spread / np.sqrt(NUM) + 1e-9).all()
        # Isserlis: the variance of the product of two coordinates is s_ii s_jj + s_ij^2.
        error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / NUM)
        assert (np.abs(np.cov(pairs.T, bias=True) - covariance) <= 6 * error + 1e-9).all()


@readings
def test_sampled_returns_average_to_the_expected_return(reading: str) -> None:
    problem = oracles.random_problem(30, terminal=False)
    posterior = infer(problem, reading)
    returns = numpy_of(posterior.sample(NUM, seed=1).returns())
    error = abs(returns.mean() - float(posterior.expected_return))
    assert error <= 6 * returns.std() / np.sqrt(NUM)


@readings
def test_log_prob_is_the_density_of_the_big_gaussian(reading: str) -> None:
    """The density of (x_0, w, u) by the joint, times the change of variables to (x, u)."""
    problem = oracles.random_problem(31, n=2, m=2, horizon=3)
    posterior = infer(problem, reading)
    if reading == "posterior":
        joint = oracles.joint_posterior(problem)
    else:
        joint = oracles.joint_fixed(problem, [step.policy for step in oracles.backward(problem)])
    batch = posterior.sample(50, seed=2)
    x, u = numpy_of(batch.states), numpy_of(batch.actions)
    root, noise = oracles.psd_root(problem.covariance), oracles.psd_root(problem.w[0])
    shocks = x[:, 1:] - x[:, :-1] @ problem.a[0].T - u @ problem.b[0].T - problem.c[0]
    z = np.concatenate(
        [(x[:, 0] - problem.mean) @ np.linalg.inv(root).T, (shocks @ np.linalg.inv(noise).T).reshape(50, -1)]
        + [u.reshape(50, -1)],
        -1,
    )
    volume = sum(np.linalg.slogdet(r)[1] for r in (root, noise, noise, noise))
    expected = scipy.stats.multivariate_normal(joint.mean, joint.covariance).logpdf(z) - volume
    assert_close(posterior.log_prob(batch), expected, 1e-8)


@readings
@pytest.mark.parametrize("options", [{}, {"noise": "none", "start": "none"}, {"noise": "singular", "n": 3, "m": 2}])
def test_log_prob_averages_to_minus_the_entropy(options: dict, reading: str) -> None:
    """E log q(tau) = -H(tau), the entropy of the steps' distributions, within six standard errors."""
    problem = oracles.random_problem(32, **options)
    posterior = infer(problem, reading)
    log_probs = numpy_of(posterior.log_prob(posterior.sample(NUM, seed=3)))
    eta = eta_of(problem, reading)
    roots = [problem.covariance, *[problem.w[0]] * problem.horizon]
    chances = 0.0
    for t, covariance in enumerate(roots):
        if eta:
            tilt = oracles.tilts(problem, eta)[t]
            covariance = np.linalg.inv(np.eye(problem.n) + covariance @ tilt.form) @ covariance
        chances += support_entropy(covariance)
    error = abs(log_probs.mean() + float(posterior.entropy) + chances)
    assert error <= 6 * log_probs.std() / np.sqrt(NUM)


def support_entropy(covariance: np.ndarray) -> float:
    """Entropy on the support of a normal distribution: from the eigenvalues that are not zero."""
    values = np.linalg.eigvalsh(0.5 * (covariance + covariance.T))
    values = values[values > 1e-12]
    return 0.5 * float((1 + oracles.LOG_2PI + np.log(values)).sum())


def test_log_prob_says_what_cannot_be() -> None:
    problem = oracles.random_problem(33, noise="none", start="none")
    posterior = infer(problem)
    batch = posterior.sample(3, seed=0)
    states = batch.states.clone()
    states[1, 2] += 0.1
    moved = cai.Trajectories(states, batch.actions)
    log_probs = posterior.log_prob(moved)
    assert torch.isfinite(log_probs[[0, 2]]).all()
    assert log_probs[1] == -torch.inf


def test_same_seed_same_samples() -> None:
    posterior = infer(oracles.random_problem(34))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = (posterior.sample(5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.states, second.states) and torch.equal(first.actions, second.actions)
    assert not torch.equal(first.states, other.states)
    assert posterior.sample(5, seed=0, length=2).actions.shape == (5, 2, 1)


def test_a_rollout_in_the_world_has_the_marginals_of_fixed_dynamics() -> None:
    """A risk-seeking policy, run in the dynamics as it is, goes where a rollout goes and not where it believes."""
    problem = oracles.random_problem(35, n=2, m=1)
    exact = infer(problem, "posterior")
    batch = cai.rollout(exact.graph, exact, NUM, seed=0)
    rollout = oracles.roll_out(problem, [step.policy for step in oracles.backward(problem, 1 / problem.temperature)])
    spread = np.sqrt(np.diagonal(rollout.covariances, axis1=1, axis2=2))
    error = np.abs(numpy_of(batch.states).mean(0) - rollout.means)
    assert (error <= 6 * spread / np.sqrt(NUM)).all()
    believed = numpy_of(exact.state_marginals.mean)
    assert (np.abs(believed - rollout.means)[1:] > 6 * spread[1:] / np.sqrt(NUM)).any()


# -- files ------------------------------------------------------------------------------------------------------------


@readings
@pytest.mark.parametrize("options", [{}, {"per_step": ("dynamics", "reward"), "start": "none"}, {"prior": "gain"}])
def test_save_and_load(options: dict, reading: str, tmp_path: Path) -> None:
    problem = oracles.random_problem(36, **options)
    posterior = infer(problem, reading)
    posterior.save(tmp_path / "posterior")
    again = cai.load(tmp_path / "posterior")
    states, actions = some_states(problem), some_actions(problem)
    assert type(again.method) is type(posterior.method) and again.is_bound == posterior.is_bound
    assert torch.equal(again.log_evidence, posterior.log_evidence)
    for t in range(problem.horizon):
        assert torch.equal(again.v(states, t=t), posterior.v(states, t=t))
        assert torch.equal(again.q(states, actions, t=t), posterior.q(states, actions, t=t))
        assert torch.equal(again.policy(states, t=t).mean, posterior.policy(states, t=t).mean)
    assert torch.equal(again.state_marginals.mean, posterior.state_marginals.mean)
    assert torch.equal(again.sample(4, seed=0).states, posterior.sample(4, seed=0).states)


# -- arguments --------------------------------------------------------------------------------------------------------


def test_states_actions_and_times_broadcast() -> None:
    problem = oracles.random_problem(37, n=3, m=2)
    posterior = infer(problem)
    states, actions = torch.as_tensor(some_states(problem, 4)), torch.as_tensor(some_actions(problem, 6))
    grid = posterior.q(states[:, None], actions)
    assert grid.shape == (4, 6)
    assert_close(grid[2, 5], posterior.q(states[2], actions[5]), 1e-14)
    times = torch.arange(problem.horizon)
    values = posterior.v(states, t=times[:, None])
    assert values.shape == (problem.horizon, 4)
    for t in range(problem.horizon):
        assert_close(values[t], posterior.v(states, t=t), 1e-14)
    policies = posterior.policy(states, t=times[:, None])
    assert policies.mean.shape == (problem.horizon, 4, 2)
    assert policies.sample().shape == (problem.horizon, 4, 2)
    for state in (some_states(problem, 4)[0], states[0], states[0].tolist()):
        assert posterior.v(state).shape == ()
        assert_close(posterior.v(state), posterior.v(states)[0], 1e-14)
    single = posterior.policy(states[0].float())
    assert single.mean.dtype == torch.float64
    assert_close(single.mean, posterior.policy(states[0]).mean, 1e-6)


@pytest.mark.parametrize("bad", [-1, 4, 0.5])
def test_bad_times_are_refused(bad: object) -> None:
    posterior = infer(oracles.random_problem(38, horizon=4))
    state, action = torch.zeros(2), torch.zeros(1)
    for ask in (posterior.policy, lambda x, t: posterior.q(x, action, t=t)):
        with pytest.raises(ValueError):
            ask(state, t=bad)
    posterior.v(state, t=4)
    with pytest.raises(ValueError):
        posterior.v(state, t=5)


@pytest.mark.parametrize("bad", [0.0, [0.0], [0.0, 1.0, 2.0], [0.0, float("nan")]])
def test_bad_states_are_refused(bad: object) -> None:
    posterior = infer(oracles.random_problem(39))
    with pytest.raises(ValueError):
        posterior.v(bad)
    with pytest.raises(ValueError):
        posterior.policy(bad)
    with pytest.raises(ValueError):
        posterior.q([0.0, 1.0], [0.0, 1.0])


def test_graphs_of_another_kind_have_no_gap() -> None:
    problem = oracles.random_problem(40)
    other = problem.replace(q=problem.q + 1.0)
    with pytest.raises(ValueError):
        infer(problem).gap(infer(other, "posterior"))
    assert graph_of(problem).state_space.shape == (2,)
