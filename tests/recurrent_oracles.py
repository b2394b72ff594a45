"""Oracles of undiscounted infinite horizons, in plain numpy: nothing here imports `cai` or torch.

Gain and bias by bordered dense systems, with residuals in long doubles; Perron pairs by a dense eigendecomposition; the
graph of a chain by powers of its boolean matrix; hard optimality by all deterministic policies.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mpmath
import numpy as np

from tests import oracles
from tests.oracles import Array, Problem


@dataclass(frozen=True, eq=False)
class Gained:
    """The answer to an undiscounted infinite horizon; v is normalised to marginals @ v = 0, q = v where averaged.

    Attributes:
        gain: Reward units a step.
        v: `[S]`.
        q: `[S, A]`, with V = alpha log sum mu exp(Q / alpha), or sum pi (Q - alpha log pi / mu).
        policy: `[S, A]`.
        arrival: `[S, A, S]`, the distribution of the next state.
        marginals: `[S]`, the stationary distribution.
    """

    gain: float
    v: Array
    q: Array
    policy: Array
    arrival: Array
    marginals: Array

    @property
    def pairs(self) -> Array:
        """The stationary distribution of (state, action)."""
        return self.marginals[:, None] * self.policy


# -- graphs -----------------------------------------------------------------------------------------------------------


def support(problem: Problem) -> Array:
    """What is possible in a step, `[S, S]`, bool."""
    return ((problem.mu()[:, :, None] > 0) & (problem.p() > 0)).any(1)


def reachable(edges: Array) -> Array:
    """Who can reach whom in any number of steps, zero included."""
    closure = edges | np.eye(len(edges), dtype=bool)
    for _ in range(len(edges)):
        closure = (closure.astype(int) @ closure.astype(int)) > 0
    return closure


def num_closed_classes(edges: Array) -> int:
    """How many sets of states that communicate and are never left."""
    reach = reachable(edges)
    return len({tuple(row & reach[:, s]) for s, row in enumerate(reach) if (reach[row][:, s]).all()})


def is_irreducible(edges: Array) -> bool:
    return bool(reachable(edges).all())


def period_of(edges: Array) -> int:
    """The greatest common divisor of the lengths, up to S^2 + S, of the ways from state 0 back to it."""
    walk, lengths = np.eye(len(edges), dtype=int), []
    for length in range(1, len(edges) ** 2 + len(edges) + 1):
        walk = ((walk @ edges.astype(int)) > 0).astype(int)
        if walk[0, 0]:
            lengths.append(length)
    return math.gcd(*lengths)


# -- answers ----------------------------------------------------------------------------------------------------------


def stationary(chain: Array) -> Array:
    """The one stationary distribution of a chain with one closed class."""
    size = len(chain)
    system = np.vstack([np.eye(size) - chain.T, np.ones(size)])
    solution, *_ = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)
    return solution


def poisson(chain: Array, rewards: Array) -> tuple[float, Array]:
    """(g, v) of v + g = rewards + chain v with v[0] = 0, by one bordered solve."""
    size = len(chain)
    system = np.zeros((size + 1, size + 1))
    system[:size, :size], system[:size, size], system[size, 0] = np.eye(size) - chain, 1.0, 1.0
    solution = np.linalg.solve(system, np.append(rewards, 0.0))
    return float(solution[size]), solution[:size]


def evaluate(problem: Problem, policy: Array, temperature: float | None = None) -> Gained:
    """Gain and bias of a stationary policy."""
    alpha = problem.temperature if temperature is None else temperature
    chain, rewards = oracles.policy_matrices(problem, policy)
    zeros = np.zeros(problem.num_actions)
    entropies = [oracles.expected_soft(zeros, policy[s], problem.mu()[s], alpha) for s in range(problem.num_states)]
    gain, v = poisson(chain, rewards + np.array(entropies))
    marginals = stationary(chain)
    v = v - marginals @ v
    q = (problem.p() * (problem.r() + v)).sum(-1) - gain
    return Gained(gain, v, q, policy, problem.p(), marginals)


def solve_fixed(problem: Problem, *, num_newton: int = 100) -> Gained:
    """Soft-optimal gain and relative values under fixed dynamics: Newton on the bordered system, in long doubles."""
    v, gain = np.zeros(problem.num_states, np.longdouble), np.longdouble(0.0)
    for _ in range(num_newton):
        _, new, policy = oracles.soft_bellman(problem, v)
        chain, _ = oracles.policy_matrices(problem, policy.astype(float))
        more, step = poisson(chain, (new - v - gain).astype(float))
        gain, v = gain + more, v + step
        if max(abs(more), np.abs(step).max()) <= 1e-15 * max(1.0, float(np.abs(v).max()), abs(float(gain))):
            break
    q, _, policy = (part.astype(float) for part in oracles.soft_bellman(problem, v))
    chain, _ = oracles.policy_matrices(problem, policy)
    marginals = stationary(chain)
    level = marginals @ v.astype(float)
    return Gained(float(gain), v.astype(float) - level, q - level - float(gain), policy, problem.p(), marginals)


def solve_posterior(problem: Problem) -> Gained:
    """The Perron pairs of M; d = left times right, q by the rows of M exp(V / alpha)."""
    alpha = problem.temperature
    matrix = oracles.posterior_matrix(problem)
    log_root, log_x = perron(matrix)
    _, log_y = perron(matrix.T)
    marginals = np.exp(log_x + log_y - (log_x + log_y).max())
    marginals = marginals / marginals.sum()
    v = alpha * (log_x - marginals @ log_x)
    with np.errstate(divide="ignore"):
        exponents = np.log(problem.p()) + (problem.r() + v) / alpha
        log_total = np.logaddexp.reduce(exponents, axis=-1)
        q = alpha * (log_total - log_root)
        policy = np.exp(np.log(problem.mu()) + (q - v[:, None]) / alpha)
    return Gained(alpha * log_root, v, q, policy, np.exp(exponents - log_total[..., None]), marginals)


def perron(matrix: Array) -> tuple[float, Array]:
    """The logarithms of the Perron root and of its right vector: M + c I squared until all its columns agree.

    In mpmath for the range of its exponents; sums of positive numbers lose no digits. The shift c, about the root, is
    for cycles that dominate.
    """
    with mpmath.workdps(30):
        exact = mpmath.matrix(matrix.tolist())
        power = exact + mpmath.mpf(oracles.spectral_radius(matrix)) * mpmath.eye(len(matrix))
        for _ in range(40):
            power = power * power
            power = power / sum(power)
        x = power * mpmath.ones(len(matrix), 1)
        return float(mpmath.log(sum(exact * x) / sum(x))), np.array([float(mpmath.log(entry)) for entry in x])


def solve_hard(problem: Problem) -> Array:
    """The greatest gain from each state, `[S]`, by all deterministic policies: limits of powers of their chains."""
    choices = [np.flatnonzero(row > 0) for row in problem.mu()]
    best = np.full(problem.num_states, -np.inf)
    for picks in itertools.product(*choices):
        policy = np.eye(problem.num_actions)[list(picks)]
        chain, rewards = oracles.policy_matrices(problem, policy)
        limit = np.linalg.matrix_power(0.5 * (chain + np.eye(problem.num_states)), 1 << 30)
        best = np.maximum(best, limit / limit.sum(-1, keepdims=True) @ rewards)
    return best
