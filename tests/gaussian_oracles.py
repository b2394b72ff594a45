"""Linear-Gaussian control in plain numpy float64: nothing here imports `cai` or torch.

Three routes to the same numbers, held against each other by `test_gaussian_oracles_self.py`:

- **one big Gaussian**: with e_0, w_0, ..., w_{T-1} standard normal and x_{t+1} = A x_t + B u_t + c + L w_t, L L' = W, a
  trajectory is an affine function of z = (e_0, w_0, ..., w_{T-1}, u_0, ..., u_{T-1}), so that log p(tau, O) is one
  quadratic in z. Evidence is its integral, marginals and policies are moments. Noise that is singular or absent, and
  starts that are known, need no special case;
- **dynamic programming** on values -x'Px/2 - p'x + s, in blocks, for any risk parameter eta;
- **moments of a rollout** of given policies in given dynamics: returns, entropies, bounds.

Arrays of the dynamics, the reward and the prior have a leading time axis, of length 1 where all steps are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class Problem:
    """x' = a x + b u + c + w, w ~ N(0, w);  r = -(x'Qx + 2 u'Nx + u'Ru)/2 - q'x - r'u + k;  end -(x'Ex)/2 - e'x.

    The prior on actions is flat where `prior_covariance` is None, else N(prior_gain x + prior_offset, covariance).
    """

    mean: Array
    covariance: Array
    a: Array
    b: Array
    c: Array
    w: Array
    big_q: Array
    big_r: Array
    cross: Array
    q: Array
    r: Array
    constant: Array
    end_q: Array
    end_linear: Array
    horizon: int | None = 3
    temperature: float = 1.0
    discount: float = 1.0
    prior_gain: Array | None = None
    prior_offset: Array | None = None
    prior_covariance: Array | None = None

    @property
    def n(self) -> int:
        return self.b.shape[-2]

    @property
    def m(self) -> int:
        return self.b.shape[-1]

    def replace(self, **changes: Any) -> Problem:
        return replace(self, **changes)

    def at(self, name: str, t: int) -> Array:
        """The parameter of step t."""
        values = getattr(self, name)
        return values[t if len(values) > 1 else 0]

    def reward_form(self, t: int) -> tuple[Array, Array, float]:
        """G, g, k of r = -z'Gz/2 - g'z + k, z = (x, u)."""
        cross = self.at("cross", t)
        form = np.block([[self.at("big_q", t), cross.T], [cross, self.at("big_r", t)]])
        return form, np.concatenate([self.at("q", t), self.at("r", t)]), float(self.at("constant", t))

    def prior_form(self, t: int) -> tuple[Array, Array, float]:
        """G, g, k of log mu(u|x) = -z'Gz/2 - g'z + k, z = (x, u); zeros of the flat measure."""
        n, m = self.n, self.m
        if self.prior_covariance is None:
            return np.zeros((n + m, n + m)), np.zeros(n + m), 0.0
        gain, offset = self.at("prior_gain", t), self.at("prior_offset", t)
        covariance = self.at("prior_covariance", t)
        precision = np.linalg.inv(covariance)
        away = np.hstack([-gain, np.eye(m)])
        constant = -0.5 * (offset @ precision @ offset + m * LOG_2PI + np.linalg.slogdet(covariance)[1])
        return away.T @ precision @ away, -away.T @ precision @ offset, float(constant)


def psd_root(covariance: Array) -> Array:
    """L with L L' = the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    return vectors * np.sqrt(np.clip(values, 0.0, None))


# -- one big Gaussian -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Affine:
    """A vector as matrix @ z + offset."""

    matrix: Array
    offset: Array


@dataclass(frozen=True, eq=False)
class Joint:
    """N(mean, covariance) of z, and every x_t, u_t as a function of z.

    `log_integral` is the logarithm of the integral of exp(log p(tau, O)).
    """

    mean: Array
    covariance: Array
    log_integral: float
    states: list[Affine]
    actions: list[Affine]
    start: int = 0

    def moments(self, *parts: Affine) -> tuple[Array, Array]:
        """Mean and covariance of stacked parts."""
        matrix, offset = np.vstack([x.matrix for x in parts]), np.concatenate([x.offset for x in parts])
        return matrix @ self.mean + offset, matrix @ self.covariance @ matrix.T

    def state(self, t: int) -> tuple[Array, Array]:
        return self.moments(self.states[t - self.start])

    def pair(self, t: int) -> tuple[Array, Array]:
        return self.moments(self.states[t - self.start], self.actions[t - self.start])

    @property
    def entropy(self) -> float:
        """Differential entropy of z, nats."""
        return 0.5 * float(len(self.mean) * (1 + LOG_2PI) + np.linalg.slogdet(self.covariance)[1])


def _unrolled(problem: Problem, start: int, state: Array | None, action: Array | None) -> tuple[list, list, int]:
    """States and actions from `start` on as functions of z; number of standard normals in z, which stand first."""
    n, m, length = problem.n, problem.m, problem.horizon - start
    num_noise = (length + (state is None)) * n
    size = num_noise + (length - (action is not None)) * m
    noise = iter(range(0, num_noise, n))
    free = iter(range(num_noise, size, m))

    def part(columns: slice, matrix: Array) -> Array:
        out = np.zeros((len(matrix), size))
        out[:, columns] = matrix
        return out

    if state is None:
        x = Affine(part(slice(i := next(noise), i + n), psd_root(problem.covariance)), problem.mean)
    else:
        x = Affine(np.zeros((n, size)), np.asarray(state, float))
    states, actions = [x], []
    for t in range(start, problem.horizon):
        if t == start and action is not None:
            u = Affine(np.zeros((m, size)), np.asarray(action, float))
        else:
            u = Affine(part(slice(i := next(free), i + m), np.eye(m)), np.zeros(m))
        a, b, root = problem.at("a", t), problem.at("b", t), psd_root(problem.at("w", t))
        shock = part(slice(i := next(noise), i + n), root)
        x = Affine(a @ x.matrix + b @ u.matrix + shock, a @ x.offset + b @ u.offset + problem.at("c", t))
        states.append(x)
        actions.append(u)
    return states, actions, num_noise


def joint_posterior(problem: Problem, start: int = 0, state: Any = None, action: Any = None) -> Joint:
    """Conditions on O from time `start` on, and on its state and its action where they are given.

    A given action has no prior, so that `log_integral` is log p(O), V / alpha or Q / alpha.
    """
    assert problem.discount == 1.0 and problem.horizon is not None
    states, actions, num_noise = _unrolled(problem, start, state, action)
    size = states[0].matrix.shape[1]
    precision, linear = np.zeros((size, size)), np.zeros(size)
    precision[:num_noise, :num_noise] = np.eye(num_noise)
    constant = -0.5 * num_noise * LOG_2PI

    def add(part: Affine, form: Array, vector: Array, number: float) -> None:
        nonlocal precision, linear, constant
        precision = precision + part.matrix.T @ form @ part.matrix
        linear = linear - part.matrix.T @ (form @ part.offset + vector)
        constant += float(-0.5 * part.offset @ form @ part.offset - vector @ part.offset + number)

    alpha = problem.temperature
    for i, t in enumerate(range(start, problem.horizon)):
        pair = Affine(
            np.vstack([states[i].matrix, actions[i].matrix]), np.concatenate([states[i].offset, actions[i].offset])
        )
        form, vector, number = problem.reward_form(t)
        add(pair, form / alpha, vector / alpha, number / alpha)
        if not (t == start and action is not None):
            add(pair, *problem.prior_form(t))
    add(states[-1], problem.end_q / alpha, problem.end_linear / alpha, 0.0)
    factor = np.linalg.cholesky(0.5 * (precision + precision.T))
    mean = scipy.linalg.cho_solve((factor, True), linear)
    log_det = 2 * np.log(np.diag(factor)).sum()
    log_integral = constant + 0.5 * float(linear @ mean) + 0.5 * size * LOG_2PI - 0.5 * float(log_det)
    covariance = scipy.linalg.cho_solve((factor, True), np.eye(size))
    return Joint(mean, covariance, log_integral, states, actions, start)


def joint_fixed(problem: Problem, policies: Sequence[Policy]) -> Joint:
    """The trajectories of Gaussian policies in the dynamics as it is, in the same coordinates z."""
    states, actions, num_noise = _unrolled(problem, 0, None, None)
    size, m = states[0].matrix.shape[1], problem.m
    mean, root = np.zeros(size), np.zeros((size, size))  # z = mean + root @ standard normals
    root[:num_noise, :num_noise] = np.eye(num_noise)
    for t, policy in enumerate(policies):
        rows = slice(num_noise + t * m, num_noise + (t + 1) * m)
        x = states[t]
        mean[rows] = policy.gain @ (x.matrix @ mean + x.offset) + policy.offset
        root[rows] = policy.gain @ x.matrix @ root
        root[rows, rows] += psd_root(policy.covariance)
    return Joint(mean, root @ root.T, 0.0, states, actions)


def kl(first: Joint, second: Joint) -> float:
    """KL(first || second), nats, of two Gaussians of z; directions that L drops are alike in both and add nothing."""
    inverse = np.linalg.inv(second.covariance)
    away = second.mean - first.mean
    logs = np.linalg.slogdet(second.covariance)[1] - np.linalg.slogdet(first.covariance)[1]
    return 0.5 * float(np.trace(inverse @ first.covariance) + away @ inverse @ away - len(away) + logs)


# -- values, policies and dynamics of the posterior, one state at a time ----------------------------------------------


@dataclass(frozen=True, eq=False)
class Policy:
    """N(gain x + offset, covariance)."""

    gain: Array
    offset: Array
    covariance: Array

    @property
    def entropy(self) -> float:
        return 0.5 * float(len(self.offset) * (1 + LOG_2PI) + np.linalg.slogdet(self.covariance)[1])


def posterior_v(problem: Problem, t: int, state: Array) -> float:
    """V_t(x), reward units: an integral of its own for every state."""
    if t == problem.horizon:
        return float(-0.5 * state @ problem.end_q @ state - problem.end_linear @ state)
    return problem.temperature * joint_posterior(problem, t, state).log_integral


def posterior_q(problem: Problem, t: int, state: Array, action: Array) -> float:
    """Q_t(x, u), reward units."""
    return problem.temperature * joint_posterior(problem, t, state, action).log_integral


def posterior_policy(problem: Problem, t: int) -> Policy:
    """p(u_t | x_t, O): the moments of the action at states 0 and the unit vectors, which an affine function joins."""
    means = []
    for state in [np.zeros(problem.n), *np.eye(problem.n)]:
        joint = joint_posterior(problem, t, state)
        mean, covariance = joint.moments(joint.actions[0])
        means.append(mean)
    return Policy(np.stack(means[1:], 1) - means[0][:, None], means[0], covariance)


def tilted_step(problem: Problem, t: int, state: Array, action: Array) -> tuple[Array, Array]:
    """Mean and covariance of p(x_{t+1} | x_t, u_t, O)."""
    return joint_posterior(problem, t, state, action).state(t + 1)


# -- dynamic programming ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Value:
    """V(x) = -x'Px/2 - p'x + s."""

    form: Array
    linear: Array
    constant: float

    def __call__(self, x: Array) -> float:
        return float(-0.5 * x @ self.form @ x - self.linear @ x + self.constant)


def expected(value: Value, mean: Array, covariance: Array, eta: float) -> float:
    """The certainty equivalent log E exp(eta V) / eta at x ~ N(mean, covariance); E V where eta is 0."""
    return smoothed(value, covariance, eta)(mean)


def smoothed(value: Value, w: Array, eta: float) -> Value:
    """The certainty equivalent of V(x + noise) as a function of x; eta 0 is the expectation."""
    if eta == 0.0:
        return replace(value, constant=value.constant - 0.5 * float(np.trace(value.form @ w)))
    root = psd_root(w)
    inner = np.eye(len(w)) + eta * root.T @ value.form @ root
    if np.linalg.eigvalsh(inner)[0] <= 0:
        raise np.linalg.LinAlgError("no finite certainty equivalent")
    through = root @ np.linalg.inv(inner) @ root.T  # W (I + eta P W)^-1
    form, linear = value.form, value.linear
    return Value(
        form - eta * form @ through @ form,
        linear - eta * form @ through @ linear,
        value.constant + 0.5 * eta * float(linear @ through @ linear) - 0.5 / eta * np.linalg.slogdet(inner)[1],
    )


@dataclass(frozen=True, eq=False)
class Step:
    """Q_t(x, u) = -z'Gz/2 - g'z + k, z = (x, u), what follows of it, and what comes after."""

    form: Array
    vector: Array
    constant: float
    value: Value
    policy: Policy

    def q(self, x: Array, u: Array) -> float:
        z = np.concatenate([x, u])
        return float(-0.5 * z @ self.form @ z - self.vector @ z + self.constant)


def step_back(problem: Problem, after: Value, t: int, eta: float = 0.0) -> Step:
    """One backup."""
    n, m, alpha, gamma = problem.n, problem.m, problem.temperature, problem.discount
    assert gamma == 1.0 or eta == 0.0
    next_value = smoothed(after, problem.at("w", t), eta)
    into, c = np.hstack([problem.at("a", t), problem.at("b", t)]), problem.at("c", t)
    form, vector, constant = problem.reward_form(t)
    form = form + gamma * into.T @ next_value.form @ into
    vector = vector + gamma * into.T @ (next_value.form @ c + next_value.linear)
    constant += gamma * next_value(c)
    prior_form, prior_vector, prior_constant = problem.prior_form(t)
    full, full_vector = form + alpha * prior_form, vector + alpha * prior_vector
    inverse = np.linalg.inv(full[n:, n:])
    np.linalg.cholesky(full[n:, n:])  # or there is no answer
    gain, offset = -inverse @ full[n:, :n], -inverse @ full_vector[n:]
    value = Value(
        full[:n, :n] + full[:n, n:] @ gain,
        full_vector[:n] + gain.T @ full_vector[n:],
        constant - 0.5 * float(full_vector[n:] @ offset) + alpha * prior_constant,
    )
    if alpha:
        normaliser = 0.5 * alpha * (m * (LOG_2PI + np.log(alpha)) - np.linalg.slogdet(full[n:, n:])[1])
        value = replace(value, constant=value.constant + float(normaliser))
    return Step(form, vector, constant, value, Policy(gain, offset, alpha * inverse))


def last_value(problem: Problem) -> Value:
    return Value(problem.end_q, problem.end_linear, 0.0)


def backward(problem: Problem, eta: float = 0.0) -> list[Step]:
    """All steps of a finite horizon, first one first; eta = 0 is fixed dynamics, 1 / temperature the posterior."""
    steps: list[Step] = []
    after = last_value(problem)
    for t in reversed(range(problem.horizon)):
        steps.append(step_back(problem, after, t, eta))
        after = steps[-1].value
    return steps[::-1]


def value_of_start(problem: Problem, eta: float = 0.0) -> float:
    """What the start is worth, reward units; divided by the temperature, the log evidence or its bound."""
    return expected(backward(problem, eta)[0].value, problem.mean, problem.covariance, eta)


# -- moments of a rollout ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rollout:
    """Moments of x_t and (x_t, u_t), and expectations along the way: discounted sums, reward units and nats."""

    means: Array
    covariances: Array
    pair_means: Array
    pair_covariances: Array
    expected_return: float
    entropy: float
    log_prior: float

    def bound(self, temperature: float) -> float:
        """The evidence bound, nats."""
        return self.expected_return / temperature + self.entropy + self.log_prior


def roll_out(problem: Problem, policies: Sequence[Policy], tilt: Sequence[Value] | None = None) -> Rollout:
    """Moments under policies; `tilt` gives (V_0, ..., V_T) / alpha where the dynamics and start are p exp(tilt)."""
    n, m = problem.n, problem.m
    mean, covariance = problem.mean, problem.covariance
    if tilt is not None:
        mean, covariance = _tilted(tilt[0], mean, covariance)
    means, covariances, pair_means, pair_covariances = [mean], [covariance], [], []
    total = entropy = log_prior = 0.0
    for t, policy in enumerate(policies):
        weight = problem.discount**t
        both = np.vstack([np.eye(n), policy.gain])
        pair_mean = np.concatenate([mean, policy.gain @ mean + policy.offset])
        pair_covariance = both @ covariance @ both.T
        pair_covariance[n:, n:] += policy.covariance
        pair_means.append(pair_mean)
        pair_covariances.append(pair_covariance)
        total += weight * _expectation(problem.reward_form(t), pair_mean, pair_covariance)
        log_prior += weight * _expectation(problem.prior_form(t), pair_mean, pair_covariance)
        if np.linalg.matrix_rank(policy.covariance) == m:
            entropy += weight * policy.entropy
        into, w = np.hstack([problem.at("a", t), problem.at("b", t)]), problem.at("w", t)
        if tilt is None:
            mean, covariance = into @ pair_mean + problem.at("c", t), into @ pair_covariance @ into.T + w
        else:
            step = _tilted_map(tilt[t + 1], w)
            mean = step[0] @ (into @ pair_mean + problem.at("c", t)) + step[1]
            covariance = step[0] @ into @ pair_covariance @ into.T @ step[0].T + step[2]
        means.append(mean)
        covariances.append(covariance)
    end = (problem.end_q, problem.end_linear, 0.0)
    total += problem.discount ** len(policies) * _expectation(end, mean, covariance)
    return Rollout(
        np.array(means),
        np.array(covariances),
        np.array(pair_means),
        np.array(pair_covariances),
        total,
        entropy,
        log_prior,
    )


def _expectation(form: tuple[Array, Array, float], mean: Array, covariance: Array) -> float:
    quadratic, linear, constant = form
    return float(-0.5 * (mean @ quadratic @ mean + np.trace(quadratic @ covariance)) - linear @ mean + constant)


def _tilted_map(tilt: Value, w: Array) -> tuple[Array, Array, Array]:
    """N(x, W) exp(tilt) has mean (first @ x + second) and covariance third."""
    through = np.linalg.inv(np.eye(len(w)) + w @ tilt.form)
    return through, -through @ w @ tilt.linear, through @ w


def _tilted(tilt: Value, mean: Array, covariance: Array) -> tuple[Array, Array]:
    first, second, third = _tilted_map(tilt, covariance)
    return first @ mean + second, third


def scaled(value: Value, factor: float) -> Value:
    return Value(factor * value.form, factor * value.linear, factor * value.constant)


def tilts(problem: Problem, eta: float) -> list[Value]:
    """Start and dynamics are tilted by exp(eta V_t), t = 0..T."""
    return [scaled(step.value, eta) for step in backward(problem, eta)] + [scaled(last_value(problem), eta)]


# -- no horizon -------------------------------------------------------------------------------------------------------


def stationary_form(problem: Problem, eta: float = 0.0) -> Array:
    """P of an infinite horizon by scipy's algebraic Riccati equation.

    A discount is a factor sqrt(gamma) of A and B. For eta > 0 the noise is a second player who helps, and pays w'w/2 /
    eta for it; for eta < 0 one who harms.
    """
    root = np.sqrt(problem.discount)
    a, b = root * problem.at("a", 0), root * problem.at("b", 0)
    n, alpha = problem.n, problem.temperature
    form = problem.reward_form(0)[0] + alpha * problem.prior_form(0)[0]
    q, cross, r = form[:n, :n], form[:n, n:], form[n:, n:]
    if eta:
        noise = psd_root(problem.at("w", 0))
        noise = noise[:, np.abs(noise).max(0) > 1e-12]
        b = np.hstack([b, noise])
        r = scipy.linalg.block_diag(r, np.eye(noise.shape[1]) / eta)
        cross = np.hstack([cross, np.zeros((n, noise.shape[1]))])
    return scipy.linalg.solve_discrete_are(a, b, q, r, s=cross)


def stationary_step(problem: Problem, eta: float = 0.0) -> Step:
    """The last of as many backups from zero as it takes; where the constant grows it is what one backup adds."""
    value = Value(np.zeros((problem.n, problem.n)), np.zeros(problem.n), 0.0)
    for _ in range(100_000):
        step = step_back(problem, value, 0, eta)
        moved = max(
            np.abs(step.value.form - value.form).max(),
            np.abs(step.value.linear - value.linear).max(),
            abs(step.value.constant - value.constant) if problem.discount < 1.0 else 0.0,
        )
        if moved <= 1e-13 * max(1.0, np.abs(value.form).max()):
            return step
        value = step.value if problem.discount < 1.0 else replace(step.value, constant=0.0)
    raise np.linalg.LinAlgError("no fixed point")


def gain(problem: Problem, eta: float = 0.0) -> float:
    """What a step is worth in the long run: the constant that one backup of the settled value adds."""
    assert problem.discount == 1.0
    return stationary_step(problem, eta).value.constant


def stationary_moments(problem: Problem, policy: Policy) -> tuple[Array, Array]:
    """Mean and covariance of the state in the long run, under a policy in the dynamics as it is."""
    a, b = problem.at("a", 0), problem.at("b", 0)
    closed = a + b @ policy.gain
    mean = np.linalg.solve(np.eye(problem.n) - closed, b @ policy.offset + problem.at("c", 0))
    noise = problem.at("w", 0) + b @ policy.covariance @ b.T
    return mean, scipy.linalg.solve_discrete_lyapunov(closed, noise)


# -- random problems --------------------------------------------------------------------------------------------------


def random_psd(generator: np.random.Generator, size: int, rank: int | None = None) -> Array:
    root = generator.normal(size=(size, size if rank is None else rank))
    return root @ root.T / size


def random_problem(
    seed: int,
    *,
    n: int = 2,
    m: int = 1,
    horizon: int | None = 4,
    noise: str = "full",
    start: str = "full",
    prior: str = "flat",
    plain: bool = False,
    per_step: Sequence[str] = (),
    terminal: bool = True,
    temperature: float = 0.7,
    discount: float = 1.0,
    radius: float = 1.0,
) -> Problem:
    """A problem with a solution.

    Args:
        seed: The seed.
        n: State coordinates.
        m: Action coordinates.
        horizon: Number of actions.
        noise: "full", "singular" (of rank 1) or "none".
        start: The same words, for the covariance of the start.
        prior: "flat", "gaussian" (with an offset) or "gain".
        plain: No linear terms, cross terms, offsets or constants.
        per_step: Which of "dynamics", "reward", "prior" vary with time.
        terminal: Whether there is a terminal reward.
        temperature: alpha.
        discount: gamma.
        radius: Spectral radius of a.
    """
    generator = np.random.default_rng(seed)
    length = {name: (horizon or 1) if name in per_step else 1 for name in ("dynamics", "reward", "prior")}

    def draw(what: str, *shape: int, scale: float = 1.0) -> Array:
        return scale * generator.normal(size=(length[what], *shape))

    def zero_if_plain(values: Array) -> Array:
        return np.zeros_like(values) if plain else values

    ranks = {"full": n, "singular": 1, "none": 0}
    a = draw("dynamics", n, n)
    a *= radius / np.abs(np.linalg.eigvals(a)).max(-1)[:, None, None]
    steps = range(length["reward"])
    joint = np.stack([random_psd(generator, n + m) + 0.3 * np.eye(n + m) for _ in steps])
    covariance = np.stack([random_psd(generator, m) + 0.3 * np.eye(m) for _ in range(length["prior"])])
    return Problem(
        mean=zero_if_plain(generator.normal(size=n)) + 0.5,
        covariance=random_psd(generator, n, ranks[start]),
        a=a,
        b=draw("dynamics", n, m),
        c=zero_if_plain(draw("dynamics", n, scale=0.4)),
        w=np.stack([0.5 * random_psd(generator, n, ranks[noise]) for _ in range(length["dynamics"])]),
        big_q=joint[:, :n, :n],
        big_r=joint[:, n:, n:],
        cross=zero_if_plain(joint[:, n:, :n]),
        q=zero_if_plain(draw("reward", n, scale=0.5)),
        r=zero_if_plain(draw("reward", m, scale=0.5)),
        constant=zero_if_plain(draw("reward", scale=0.5)),
        end_q=random_psd(generator, n) if terminal else np.zeros((n, n)),
        end_linear=zero_if_plain(generator.normal(size=n)) if terminal else np.zeros(n),
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        prior_gain=None if prior == "flat" else draw("prior", m, n, scale=0.5 if prior == "gain" else 0.0),
        prior_offset=None if prior == "flat" else draw("prior", m, scale=0.5),
        prior_covariance=None if prior == "flat" else covariance,
    )
