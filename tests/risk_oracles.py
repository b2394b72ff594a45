"""Oracles of risk-sensitive control, in plain numpy and mpmath: nothing here imports `cai` or torch.

The recursion by loops, in any arithmetic; the risk of a chain by enumeration; the value of a policy in a dynamics that
somebody else chose and paid for; fixed points to 40 digits; growth rates by sweeps.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np

from tests import oracles
from tests.oracles import Array, Problem


def certainty_equivalent(terms: list[tuple[Any, Any]], eta: Any, ctx: Any = math) -> Any:
    """Computes log sum w exp(eta x) / eta over pairs (w, x); the weights, of positive sum, are normalised first."""
    kept = [(w, eta * x) for w, x in terms if w > 0]
    total, top = sum(w for w, _ in kept), max(x for _, x in kept)
    return (top + ctx.log(sum(w * ctx.exp(x - top) for w, x in kept) / total)) / eta


def backup(problem: Problem, eta: Any, v_next: Any, t: int = 0, ctx: Any = math) -> tuple[Array, Array]:
    """One backup: q `[S, A]` and v `[S]`, numbers of `ctx`; terminal states keep their reward."""
    number = float if ctx is math else ctx.mpf
    gamma, eta = number(problem.discount), number(eta)
    q = np.empty((problem.num_states, problem.num_actions), object)
    v = np.array([number(x) for x in problem.end_reward], object)
    ends = problem.is_terminal
    arrived = [number(problem.end_reward[s]) if ends[s] else v_next[s] for s in range(problem.num_states)]
    for s in range(problem.num_states):
        for a in range(problem.num_actions):
            terms = []
            for j in np.flatnonzero(problem.p(t)[s, a]):
                weight, reward = number(float(problem.p(t)[s, a, j])), number(float(problem.r(t)[s, a, j]))
                terms += [(weight * gamma, reward + arrived[j]), (weight * (1 - gamma), reward)]
            q[s, a] = v[s] if ends[s] else certainty_equivalent(terms, eta, ctx)
        if not ends[s]:
            v[s] = oracles.backup_v(problem, t, s, q[s], ctx)[0] - _lack(problem, t, s, ctx)
    return q, v


def _lack(problem: Problem, t: int, s: int, ctx: Any) -> Any:
    """What a prior that sums to one but for rounding adds to a value: a temperature multiplies it."""
    if ctx is math or problem.flat:
        return 0.0
    return ctx.mpf(problem.temperature) * ctx.log(sum(ctx.mpf(float(m)) for m in problem.mu(t)[s]))


def backward(problem: Problem, eta: float, ctx: Any = math) -> tuple[Array, Array]:
    """Gives q `[T, S, A]` and v `[T + 1, S]`; at the horizon every state is worth its terminal reward."""
    v, q = [np.array(problem.end_reward, object)], []
    for t in reversed(range(problem.horizon)):
        once, new = backup(problem, eta, v[0], t, ctx)
        q, v = [once, *q], [new, *v]
    return np.array(q).astype(float), np.array(v).astype(float)


def policy_of(problem: Problem, q: Array, v: Array) -> Array:
    """Computes mu exp((q - v) / alpha), `[T, S, A]`; the normalised prior at terminal states."""
    mu = np.array([problem.mu(t) for t in range(len(q))])
    policy = mu * np.exp((q - v[: len(q), :, None]) / problem.temperature)
    idle = np.broadcast_to(problem.is_terminal[:, None], policy.shape)
    return np.where(idle, mu / mu.sum(-1, keepdims=True), policy)


def tilted(problem: Problem, eta: float, v_next: Array, t: int = 0) -> Array:
    """p(s'|s,a) exp(eta (r + v_next(s'))), normalised: the other player's choice, `[S, A, S]`; undiscounted."""
    with np.errstate(divide="ignore"):
        x = np.log(problem.p(t)) + eta * (problem.r(t) + v_next)
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def value_in(problem: Problem, eta: float, dynamics: Array) -> Array:
    """Values `[T + 1, S]` of the best policy where the dynamics is q_t `[T, S, A, S]`, and pays KL(q || p) a step.

    The one who chooses it pays: r + log(q / p) / |eta| for eta < 0, and r - log(q / p) / eta for eta > 0.
    """
    horizon = problem.horizon
    p = np.array([problem.p(t) for t in range(horizon)])
    ratio = np.log(np.where(dynamics > 0, dynamics, 1.0) / np.where(p > 0, p, 1.0))
    rewards = np.array([problem.r(t) for t in range(horizon)]) - ratio / eta
    changed = problem.replace(dynamics=dynamics, reward=rewards, per_step=problem.per_step | {"dynamics", "reward"})
    return oracles.backward(changed, "fixed").v


def risk_of_chain(problem: Problem, eta: float, s: int) -> float:
    """Computes log E exp(eta sum r) / eta from state s by enumeration: one action; deaths where discounted."""
    logs = []
    for path in oracles.suffixes(problem, 0, s, deaths=problem.discount < 1):
        logs.append(path.log_dynamics + eta * (sum(path.rewards) + path.end_reward))
    return oracles.log_sum_exp(logs) / eta


# -- fixed points -----------------------------------------------------------------------------------------------------


def linearised(problem: Problem, eta: float, v: Array) -> Array:
    """dB/dV at v, `[S, S]`, in doubles."""
    p, r, mu, gamma = problem.p(), problem.r(), problem.mu(), problem.discount
    v = np.where(problem.is_terminal, problem.end_reward, v)
    q = backup(problem, eta, v)[0].astype(float)
    with np.errstate(divide="ignore"):
        arriving = np.logaddexp(np.log(gamma) + eta * v, np.log1p(-gamma)) if gamma < 1 else eta * v
        x = np.log(p) + eta * r + arriving
    moves = np.exp(x - x.max(-1, keepdims=True))
    moves /= moves.sum(-1, keepdims=True)
    if problem.temperature == 0:
        acting = (mu > 0) * (q >= np.where(mu > 0, q, -np.inf).max(-1, keepdims=True)).astype(float)
    else:
        scaled = np.where(mu > 0, q / problem.temperature, -np.inf)
        acting = mu * np.exp(scaled - scaled.max(-1, keepdims=True))
    acting /= acting.sum(-1, keepdims=True)
    survives = gamma * np.exp(eta * v - arriving) if gamma < 1 else np.ones(len(v))
    alive = ~problem.is_terminal
    return np.einsum("sa,saj->sj", acting, moves) * np.where(alive, survives, 0.0) * alive[:, None]


def solve(problem: Problem, eta: float, near: Array, *, digits: int = 40, num_steps: int = 12) -> tuple[Array, float]:
    """The fixed point next to `near`, by Newton steps with residuals of many digits, and the last residual."""
    with mpmath.workdps(digits):
        v = np.array([mpmath.mpf(float(x)) for x in near], object)
        for _ in range(num_steps):
            residual = backup(problem, eta, v, ctx=mpmath.mp)[1] - v
            size = float(max(abs(x) for x in residual))
            if size < 1e-25:
                break
            step = np.linalg.solve(np.eye(len(v)) - linearised(problem, eta, v.astype(float)), residual.astype(float))
            v = v + np.array([mpmath.mpf(x) for x in step], object)
        return v.astype(float), size


def growth(problem: Problem, eta: float, num_steps: int = 10_000) -> float:
    """What a step is worth in the long run where nothing ends, by sweeps of numpy: the greatest, or least if eta < 0.

    The difference of two long horizons; the world is to be without terminal states and aperiodic.
    """
    p, r, mu, alpha = problem.p(), problem.r(), problem.mu(), problem.temperature
    v, change = np.zeros(problem.num_states), np.zeros(problem.num_states)
    for _ in range(num_steps):
        x = np.where(p > 0, eta * (r + v), -np.inf)
        top = x.max(-1, keepdims=True)
        q = (top[..., 0] + np.log((p * np.exp(x - top)).sum(-1))) / eta
        best = np.where(mu > 0, q, -np.inf).max(-1, keepdims=True)
        new = best[:, 0]
        if alpha > 0:
            new = new + alpha * np.log((mu * np.exp((np.where(mu > 0, q, best) - best) / alpha)).sum(-1))
        change = new - v
        v = new - new.max()
        if np.ptp(change) < 1e-13:
            break
    return float(change.max() if eta > 0 else change.min())
