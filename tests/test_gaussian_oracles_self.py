"""The linear-Gaussian oracles held against each other: one big Gaussian, dynamic programming, rollouts, quadrature.

A mistake in an oracle would otherwise become a mistake in every test that trusts it.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tests import gaussian_oracles as oracles

VARIANTS = {
    "full": {},
    "plain": {"plain": True},
    "no noise, known start": {"noise": "none", "start": "none"},
    "singular noise and start": {"noise": "singular", "start": "singular", "n": 3, "m": 2},
    "Gaussian prior": {"prior": "gaussian", "m": 2},
    "prior with a gain": {"prior": "gain", "m": 2},
    "time-varying": {"per_step": ("dynamics", "reward", "prior"), "prior": "gain", "n": 3, "m": 2},
    "hot": {"temperature": 8.0},
    "cold": {"temperature": 0.05},
    "no terminal reward": {"terminal": False},
    "one step": {"horizon": 1},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def close(actual: object, expected: object, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@variants
@pytest.mark.parametrize("seed", [0, 1])
def test_the_big_gaussian_equals_the_programme(options: dict, seed: int) -> None:
    problem = oracles.random_problem(seed, **options)
    eta = 1 / problem.temperature
    steps = oracles.backward(problem, eta)
    joint = oracles.joint_posterior(problem)
    close(problem.temperature * joint.log_integral, oracles.value_of_start(problem, eta))
    generator = np.random.default_rng(seed)
    for t, step in enumerate(steps):
        x, u = generator.normal(size=problem.n), generator.normal(size=problem.m)
        close(oracles.posterior_v(problem, t, x), step.value(x))
        close(oracles.posterior_q(problem, t, x, u), step.q(x, u))
        policy = oracles.posterior_policy(problem, t)
        for member in ("gain", "offset", "covariance"):
            close(getattr(policy, member), getattr(step.policy, member))


@variants
def test_the_big_gaussian_equals_the_tilted_rollout(options: dict) -> None:
    problem = oracles.random_problem(2, **options)
    eta = 1 / problem.temperature
    policies = [step.policy for step in oracles.backward(problem, eta)]
    rollout = oracles.roll_out(problem, policies, oracles.tilts(problem, eta))
    joint = oracles.joint_posterior(problem)
    for t in range(problem.horizon):
        for ours, theirs in zip((rollout.pair_means[t], rollout.pair_covariances[t]), joint.pair(t), strict=True):
            close(ours, theirs)
    close(rollout.means[-1], joint.state(problem.horizon)[0])
    close(rollout.covariances[-1], joint.state(problem.horizon)[1])


@variants
def test_the_bound_is_what_a_rollout_of_the_policies_gives(options: dict) -> None:
    problem = oracles.random_problem(3, **options)
    policies = [step.policy for step in oracles.backward(problem)]
    bound = oracles.roll_out(problem, policies).bound(problem.temperature)
    close(problem.temperature * bound, oracles.value_of_start(problem))
    generator = np.random.default_rng(3)
    for _ in range(10):
        others = [disturbed(policy, generator) for policy in policies]
        assert oracles.roll_out(problem, others).bound(problem.temperature) < bound


def disturbed(policy: oracles.Policy, generator: np.random.Generator) -> oracles.Policy:
    return oracles.Policy(
        policy.gain + 0.1 * generator.normal(size=policy.gain.shape),
        policy.offset + 0.1 * generator.normal(size=policy.offset.shape),
        policy.covariance * np.exp(0.2 * generator.normal()),
    )


def test_discounted_bounds_are_what_a_rollout_gives() -> None:
    problem = oracles.random_problem(4, discount=0.8, prior="gain", m=2)
    policies = [step.policy for step in oracles.backward(problem)]
    bound = oracles.roll_out(problem, policies).bound(problem.temperature)
    close(problem.temperature * bound, oracles.value_of_start(problem))


@variants
def test_evidence_minus_bound_is_the_divergence(options: dict) -> None:
    problem = oracles.random_problem(5, **options)
    exact = oracles.joint_posterior(problem)
    policies = [step.policy for step in oracles.backward(problem)]
    fixed = oracles.joint_fixed(problem, policies)
    gap = exact.log_integral - oracles.value_of_start(problem) / problem.temperature
    close(gap, oracles.kl(fixed, exact), 1e-8)
    if options.get("noise") == "none":
        assert abs(gap) < 1e-9
    else:
        assert gap > 1e-6


@variants
def test_the_two_rollouts_of_fixed_dynamics_agree(options: dict) -> None:
    problem = oracles.random_problem(6, **options)
    policies = [step.policy for step in oracles.backward(problem)]
    rollout, joint = oracles.roll_out(problem, policies), oracles.joint_fixed(problem, policies)
    for t in range(problem.horizon):
        close(rollout.pair_means[t], joint.pair(t)[0])
        close(rollout.pair_covariances[t], joint.pair(t)[1])


def test_evidence_is_a_mean_over_the_prior() -> None:
    """The evidence is E exp(sum r / alpha), here by simulation, within six standard errors."""
    problem = oracles.random_problem(7, prior="gain", horizon=3, temperature=6.0)
    generator, num = np.random.default_rng(7), 200_000
    x = generator.multivariate_normal(problem.mean, problem.covariance, size=num)
    total = np.zeros(num)
    for t in range(problem.horizon):
        noise = generator.multivariate_normal(np.zeros(problem.m), problem.at("prior_covariance", t), size=num)
        u = x @ problem.at("prior_gain", t).T + problem.at("prior_offset", t) + noise
        form, vector, constant = problem.reward_form(t)
        z = np.hstack([x, u])
        total += -0.5 * ((z @ form) * z).sum(-1) - z @ vector + constant
        shock = generator.multivariate_normal(np.zeros(problem.n), problem.at("w", t), size=num)
        x = x @ problem.at("a", t).T + u @ problem.at("b", t).T + problem.at("c", t) + shock
    total += -0.5 * ((x @ problem.end_q) * x).sum(-1) - x @ problem.end_linear
    weights = np.exp(total / problem.temperature)
    evidence = np.exp(oracles.joint_posterior(problem).log_integral)
    assert abs(weights.mean() - evidence) <= 6 * weights.std() / np.sqrt(num)


@pytest.mark.parametrize("eta", [-0.5, -1e-3, 0.0, 1e-3, 0.4, 2.0])
def test_certainty_equivalents_are_integrals(eta: float) -> None:
    value = oracles.Value(np.array([[0.8]]), np.array([-0.3]), 0.2)
    w, x = np.array([[0.6]]), np.array([0.7])
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    values = np.array([value(x + np.sqrt(w[0, 0]) * node) for node in nodes])
    mean = weights @ (values if eta == 0 else np.exp(eta * values)) / np.sqrt(2 * np.pi)
    close(oracles.smoothed(value, w, eta)(x), mean if eta == 0 else np.log(mean) / eta)


def test_certainty_equivalents_that_do_not_exist_are_refused() -> None:
    value = oracles.Value(np.array([[0.8]]), np.zeros(1), 0.0)
    with pytest.raises(np.linalg.LinAlgError):
        oracles.smoothed(value, np.array([[0.6]]), -2.1)


@pytest.mark.parametrize("prior", ["flat", "gain"])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("eta", [0.0, 0.6, -0.2])
def test_riccati_equation_is_the_limit_of_the_programme(prior: str, discount: float, eta: float) -> None:
    if eta and discount < 1:
        pytest.skip("quadratics do not stay quadratic")
    problem = oracles.random_problem(8, n=3, m=2, horizon=None, discount=discount, prior=prior, noise="singular")
    problem = problem.replace(w=0.05 * problem.w)  # small enough for every eta to have an answer
    step = oracles.stationary_step(problem, eta)
    close(step.value.form, oracles.stationary_form(problem, eta))


def test_gain_is_the_mean_reward_of_the_stationary_distribution() -> None:
    problem = oracles.random_problem(9, n=2, m=2, horizon=None, prior="gaussian")
    step = oracles.stationary_step(problem)
    mean, covariance = oracles.stationary_moments(problem, step.policy)
    one = problem.replace(mean=mean, covariance=covariance, horizon=1, end_q=np.zeros((2, 2)), end_linear=np.zeros(2))
    rollout = oracles.roll_out(one, [step.policy])
    close(problem.temperature * rollout.bound(problem.temperature), oracles.gain(problem))
    close(rollout.means[1], mean)
    close(rollout.covariances[1], covariance)


def test_golden_ratio() -> None:
    """With a = b = q = r = 1, P is the golden ratio and the gain 1 - P."""
    one, zero = np.ones((1, 1, 1)), np.zeros((1, 1))
    problem = oracles.random_problem(0, n=1, m=1, horizon=None, plain=True)
    problem = problem.replace(a=one, b=one, big_q=one, big_r=one, cross=0 * one, q=zero, r=zero)
    golden = (1 + np.sqrt(5)) / 2
    close(oracles.stationary_form(problem), golden)
    close(oracles.stationary_step(problem).policy.gain, 1 - golden)


def test_roots_of_singular_covariances() -> None:
    covariance = oracles.random_psd(np.random.default_rng(0), 4, 2)
    root = oracles.psd_root(covariance)
    close(root @ root.T, covariance)
    assert scipy.linalg.norm(oracles.psd_root(np.zeros((3, 3)))) == 0


def test_quadratic_is_normalised() -> None:
    """Without rewards and with a proper prior the integral is one."""
    problem = oracles.random_problem(10, prior="gain", plain=True)
    nothing = {name: 0 * getattr(problem, name) for name in ("big_q", "big_r", "cross", "end_q")}
    joint = oracles.joint_posterior(problem.replace(**nothing))
    assert abs(joint.log_integral) < 1e-12
    entropy = scipy.stats.multivariate_normal(joint.mean, joint.covariance).entropy()
    close(joint.entropy, entropy)
