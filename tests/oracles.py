"""Oracles in plain numpy and itertools: nothing here imports `cai` or torch.

Two independent routes to the same numbers, held against each other by `test_oracles_self.py`:

- **enumeration**: every trajectory of a tiny graph is written down with its probability and its rewards, and evidence,
  marginals, policies, the most probable trajectory, KL divergences and bounds are sums over that list;
- **a slow dynamic programme**: loops over time, states, actions and successors, in any arithmetic (`math` for doubles,
  `mpmath.mp` for as many digits as asked), for problems too large to enumerate or too hostile for doubles.

Conventions. Reward `t` belongs to `(s_t, a_t)`. A trajectory ends at the horizon or on entry into a terminal state;
both earn `terminal_reward` of the state where it ends. What a table says in the rows of a terminal state is never used.
With a discount below 1 the *fixed* reading weighs step t by discount^t; the *posterior* reading lets the trajectory die
with probability 1 - discount after each action, on arrival, and death earns nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Reading = Literal["fixed", "posterior"]
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """A tabular trajectory model; a field named in `per_step` has a leading time axis.

    Attributes:
        initial: p(s_0), `[S]`.
        dynamics: p(s' | s, a), `[S, A, S]`.
        reward: `[S]`, `[S, A]` or `[S, A, S]`.
        prior: the measure mu(a | s), `[S, A]`; ones mean the flat measure, rows need not sum to 1.
        horizon: number of actions, None for no end.
        flat: the prior is a counting measure over the actions where it is positive.
    """

    initial: Array
    dynamics: Array
    reward: Array
    prior: Array
    horizon: int | None = 3
    temperature: float = 1.0
    discount: float = 1.0
    terminal: Array | None = None
    terminal_reward: Array | None = None
    flat: bool = False
    per_step: frozenset[str] = frozenset()
    states: dict[int, int] = field(default_factory=dict)
    actions: dict[int, int] = field(default_factory=dict)

    @property
    def num_states(self) -> int:
        return len(self.initial)

    @property
    def num_actions(self) -> int:
        return self.prior.shape[-1]

    @property
    def is_terminal(self) -> Array:
        return np.zeros(self.num_states, bool) if self.terminal is None else self.terminal

    @property
    def end_reward(self) -> Array:
        return np.zeros(self.num_states) if self.terminal_reward is None else self.terminal_reward

    def replace(self, **changes: Any) -> Problem:
        return replace(self, **changes)

    def _table(self, name: str, t: int) -> Array:
        table = getattr(self, name)
        return table[t] if name in self.per_step else table

    def p(self, t: int = 0) -> Array:
        """Transition probabilities of step t, `[S, A, S]`."""
        return self._table("dynamics", t)

    def r(self, t: int = 0) -> Array:
        """Rewards of step t, spread out to `[S, A, S]`."""
        table = self._table("reward", t)
        shape = (self.num_states, self.num_actions, self.num_states)
        return np.broadcast_to(table.reshape(table.shape + (1,) * (3 - table.ndim)), shape)

    def mu(self, t: int = 0) -> Array:
        """Prior measure of step t, `[S, A]`."""
        return self._table("prior", t)

    def mu_normalised(self, t: int = 0) -> Array:
        return self.mu(t) / self.mu(t).sum(-1, keepdims=True)


# -- enumeration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """One trajectory: where it went, what it earned, and the logarithms of its factors.

    A trajectory that died has as many states as actions, and `arrival` is where its last action led before the death.
    """

    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    end_reward: float
    log_dynamics: float
    log_prior: float
    died: bool
    start: int = 0
    arrival: int | None = None

    def state_at(self, t: int) -> int | None:
        """State at time t: absorbed states stay, a dead trajectory has none after its last action."""
        k = t - self.start
        if k < len(self.states):
            return self.states[k]
        return None if self.died else self.states[-1]

    def log_weight(self, temperature: float) -> float:
        """Log p(tau, O) in nats."""
        return self.log_dynamics + self.log_prior + (sum(self.rewards) + self.end_reward) / temperature

    def log_policy(self, policy: Array) -> float:
        steps = enumerate(zip(self.states, self.actions, strict=False), start=self.start)
        return sum(_log(policy[t, s, a]) for t, (s, a) in steps)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def suffixes(problem: Problem, t: int, s: int, *, deaths: bool = False) -> Iterator[Path]:
    """Every trajectory from state s at time t on; with `deaths`, each arrival may be the end."""
    assert problem.horizon is not None
    if t == problem.horizon or problem.is_terminal[s]:
        yield Path((s,), (), (), float(problem.end_reward[s]), 0.0, 0.0, False, t)
        return
    survive = problem.discount if deaths else 1.0
    p, r, mu = problem.p(t), problem.r(t), problem.mu(t)
    for a, s_next in itertools.product(range(problem.num_actions), range(problem.num_states)):
        if mu[s, a] == 0 or p[s, a, s_next] == 0:
            continue
        log_p, log_mu, reward = math.log(p[s, a, s_next]), math.log(mu[s, a]), float(r[s, a, s_next])
        if survive < 1:
            yield Path((s,), (a,), (reward,), 0.0, log_p + math.log1p(-survive), log_mu, True, t, s_next)
        if survive == 0:
            continue
        for rest in suffixes(problem, t + 1, s_next, deaths=deaths):
            yield Path(
                (s, *rest.states),
                (a, *rest.actions),
                (reward, *rest.rewards),
                rest.end_reward,
                log_p + math.log(survive) + rest.log_dynamics,
                log_mu + rest.log_prior,
                rest.died,
                t,
                rest.arrival,
            )


def paths(problem: Problem, *, deaths: bool = False) -> list[Path]:
    """Every trajectory of positive prior probability that agrees with the evidence."""
    found = []
    for s in range(problem.num_states):
        if problem.initial[s] > 0:
            for path in suffixes(problem, 0, s, deaths=deaths):
                if _agrees(problem, path):
                    found.append(replace(path, log_dynamics=path.log_dynamics + math.log(problem.initial[s])))
    return found


def _agrees(problem: Problem, path: Path) -> bool:
    """Whether a path has the known states and actions; where it takes no action, evidence on it says nothing."""
    if any(path.state_at(t) != s for t, s in problem.states.items()):
        return False
    return all(path.actions[t] == a for t, a in problem.actions.items() if t < len(path.actions))


@dataclass(frozen=True, eq=False)
class Enumerated:
    """Sums over all trajectories under one distribution on them."""

    log_evidence: float
    state_marginals: Array
    state_action_marginals: Array
    expected_return: float
    entropy: float
    most_probable: Path
    log_most_probable: float

    @property
    def policy(self) -> Array:
        """p(a_t | s_t), `[T, S, A]`; NaN where the state is never met."""
        mass = self.state_action_marginals
        with np.errstate(invalid="ignore"):
            return mass / mass.sum(-1, keepdims=True)


def log_sum_exp(xs: Any) -> float:
    xs = np.asarray(xs, float)
    top = xs.max()
    return float(top + np.log(np.exp(xs - top).sum())) if np.isfinite(top) else float(top)


def _counts(problem: Problem, found: list[Path], weights: Array) -> tuple[Array, Array]:
    horizon, num_states, num_actions = problem.horizon, problem.num_states, problem.num_actions
    states, pairs = np.zeros((horizon + 1, num_states)), np.zeros((horizon, num_states, num_actions))
    for path, weight in zip(found, weights, strict=True):
        for t in range(horizon + 1):
            if (s := path.state_at(t)) is not None:
                states[t, s] += weight
        for t, (s, a) in enumerate(zip(path.states, path.actions, strict=False)):
            pairs[t, s, a] += weight
    return states, pairs


def enumerate_posterior(problem: Problem) -> Enumerated:
    """p(tau | O) by enumeration, in the absorbing-state form where the discount is below 1."""
    found = paths(problem, deaths=problem.discount < 1)
    logs = np.array([path.log_weight(problem.temperature) for path in found])
    log_evidence = log_sum_exp(logs)
    weights = np.exp(logs - log_evidence)
    states, pairs = _counts(problem, found, weights)
    best = int(logs.argmax())
    returns = np.array([sum(path.rewards) + path.end_reward for path in found])
    policy = Enumerated(0, states, pairs, 0, 0, found[best], 0).policy
    entropies = np.nan_to_num(-(policy * np.log(np.where(policy > 0, policy, 1))).sum(-1))
    return Enumerated(
        log_evidence,
        states,
        pairs,
        float(weights @ returns),
        float((pairs.sum(-1) * entropies).sum()),
        found[best],
        float(logs[best]),
    )


def log_weight_of(problem: Problem, states: list[int], actions: list[int]) -> float:
    """Log p(tau, O) of one given undiscounted trajectory from its tables, minus infinity if it is impossible."""
    total = _log(problem.initial[states[0]]) + float(problem.end_reward[states[-1]]) / problem.temperature
    for t, (s, a, following) in enumerate(zip(states, actions, states[1:], strict=False)):
        total += _log(problem.mu(t)[s, a]) + _log(problem.p(t)[s, a, following])
        total += float(problem.r(t)[s, a, following]) / problem.temperature
    return total


def enumerate_values(problem: Problem) -> tuple[Array, Array]:
    """V `[T+1, S]` and q `[T, S, A]` of the exact posterior, each by its own sum over trajectories."""
    alpha, deaths = problem.temperature, problem.discount < 1
    v = np.empty((problem.horizon + 1, problem.num_states))
    q = np.empty((problem.horizon, problem.num_states, problem.num_actions))
    for t, s in itertools.product(range(problem.horizon + 1), range(problem.num_states)):
        found = list(suffixes(problem, t, s, deaths=deaths))
        v[t, s] = alpha * log_sum_exp([path.log_weight(alpha) for path in found])
        if t < problem.horizon:
            q[t, s] = problem.end_reward[s]
            if not problem.is_terminal[s]:
                free = replace_prior(problem, t, s)
                for a in range(problem.num_actions):
                    logs = [x.log_weight(alpha) for x in suffixes(free, t, s, deaths=deaths) if x.actions[0] == a]
                    q[t, s, a] = alpha * log_sum_exp(logs)
    return v, q


def replace_prior(problem: Problem, t: int, s: int) -> Problem:
    """The same problem with the prior at (t, s) set to ones, so that q carries no prior."""
    prior = np.array([problem.mu(u) for u in range(problem.horizon)])
    prior[t, s] = 1.0
    return problem.replace(prior=prior, per_step=problem.per_step | {"prior"})


def enumerate_policy(problem: Problem, policy: Array, temperature: float | None = None) -> Enumerated:
    """Trajectories of a policy `[T, S, A]` under the true dynamics; `log_evidence` is its bound (ELBO) in nats.

    ELBO = E_q[sum_t discount^t (r_t / alpha - log(pi / mu)) + discount^n end / alpha], q = p(s_0) prod pi p. With
    `temperature` 0 the entropy term is left out and `log_evidence` holds the expected return itself.
    """
    alpha = problem.temperature if temperature is None else temperature
    found = [path for path in paths(problem) if path.log_policy(policy) > -math.inf]
    weights = np.exp([path.log_dynamics + path.log_policy(policy) for path in found])
    states, pairs = _counts(problem, found, weights)
    powers = problem.discount ** np.arange(problem.horizon + 1)
    returns = [np.dot(powers[: len(x.rewards)], x.rewards) + powers[len(x.actions)] * x.end_reward for x in found]
    costs = [_discounted_log_ratio(problem, path, policy, powers) for path in found]
    values = np.array(returns) - alpha * np.array(costs)
    entropies = -(policy * np.log(np.where(policy > 0, policy, 1))).sum(-1)
    best = max(range(len(found)), key=lambda i: weights[i])
    return Enumerated(
        float(weights @ values) / (alpha or 1.0),
        states,
        pairs,
        float(weights @ returns),
        float((powers[:-1, None] * pairs.sum(-1) * entropies).sum()),
        found[best],
        float(np.log(weights[best])),
    )


def _discounted_log_ratio(problem: Problem, path: Path, policy: Array, powers: Array) -> float:
    steps = enumerate(zip(path.states, path.actions, strict=False))
    return sum(powers[t] * (_log(policy[t, s, a]) - _log(problem.mu(t)[s, a])) for t, (s, a) in steps)


def kl_to_posterior(problem: Problem, policy: Array) -> float:
    """KL(q || p(tau | O)) in nats, q = p(s_0) prod pi p, by enumeration (deaths included where discounted)."""
    log_evidence = enumerate_posterior(problem).log_evidence
    total = 0.0
    for path in paths(problem, deaths=problem.discount < 1):
        log_q = path.log_dynamics + path.log_policy(policy)
        if log_q > -math.inf:
            total += math.exp(log_q) * (log_q - path.log_weight(problem.temperature) + log_evidence)
    return total


def kl_from_posterior(problem: Problem, policy: Array) -> float:
    """KL(p(tau | O) || q) in nats; infinite where the policy forbids what the posterior allows."""
    log_evidence = enumerate_posterior(problem).log_evidence
    total = 0.0
    for path in paths(problem, deaths=problem.discount < 1):
        log_p = path.log_weight(problem.temperature) - log_evidence
        total += math.exp(log_p) * (log_p - path.log_dynamics - path.log_policy(policy))
    return total


def deterministic_policies(problem: Problem) -> Iterator[Array]:
    """Every deterministic policy that the prior allows, as `[T, S, A]` tables."""
    slots = list(itertools.product(range(problem.horizon), range(problem.num_states)))
    choices = [np.flatnonzero(problem.mu(t)[s] > 0) for t, s in slots]
    for picks in itertools.product(*choices):
        policy = np.zeros((problem.horizon, problem.num_states, problem.num_actions))
        for (t, s), a in zip(slots, picks, strict=True):
            policy[t, s, a] = 1.0
        yield policy


# -- the slow dynamic programme ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Messages:
    """q `[T, S, A]`, v `[T+1, S]`, policy `[T, S, A]` and log evidence (or bound) in nats."""

    q: Array
    v: Array
    policy: Array
    log_evidence: float


def _lse(ctx: Any, terms: list[tuple[Any, Any]]) -> Any:
    """Log sum w exp(x) over pairs (w, x) with w > 0, in the arithmetic `ctx`."""
    kept = [(w, x) for w, x in terms if w > 0 and x != -math.inf]
    if not kept:
        return -math.inf
    top = max(x for _, x in kept)
    return top + ctx.log(sum(w * ctx.exp(x - top) for w, x in kept))


def _number(ctx: Any, x: Any) -> Any:
    return ctx.mpf(float(x)) if hasattr(ctx, "mpf") else float(x)


def backup_q(problem: Problem, reading: Reading, t: int, s: int, a: int, v_next: Any, ctx: Any = math) -> Any:
    """One entry of q: r + discount E V, or alpha log E exp(r / alpha) (discount exp(V / alpha) + 1 - discount)."""
    p, r = problem.p(t)[s, a], problem.r(t)[s, a]
    alpha, gamma = _number(ctx, problem.temperature), _number(ctx, problem.discount)
    nexts = [j for j in range(problem.num_states) if p[j] > 0]
    if reading == "fixed":
        return sum(_number(ctx, p[j]) * (_number(ctx, r[j]) + gamma * v_next[j]) for j in nexts)
    terms = []
    for j in nexts:
        reward, weight = _number(ctx, r[j]) / alpha, _number(ctx, p[j])
        terms += [(weight * gamma, reward + v_next[j] / alpha), (weight * (1 - gamma), reward)]
    return alpha * _lse(ctx, terms)


def backup_v(problem: Problem, t: int, s: int, q: Any, ctx: Any = math) -> tuple[Any, list[Any]]:
    """V(s) = alpha log sum mu exp(q / alpha) and the policy; at temperature 0 the best action that mu allows."""
    mu, alpha = problem.mu(t)[s], _number(ctx, problem.temperature)
    if alpha == 0:
        best = max(q[a] for a in range(len(mu)) if mu[a] > 0)
        mass = [mu[a] * (mu[a] > 0 and q[a] == best) for a in range(len(mu))]
        return best, [m / sum(mass) for m in mass]
    v = alpha * _lse(ctx, [(_number(ctx, mu[a]), q[a] / alpha) for a in range(len(mu))])
    return v, [_number(ctx, mu[a]) * ctx.exp((q[a] - v) / alpha) if mu[a] > 0 else 0.0 for a in range(len(mu))]


def backward(problem: Problem, reading: Reading, ctx: Any = math) -> Messages:
    """Backward messages by loops; numbers of `ctx` inside, doubles out."""
    horizon, num_states, num_actions = problem.horizon, problem.num_states, problem.num_actions
    q = np.empty((horizon, num_states, num_actions), object)
    policy = np.empty_like(q)
    v = np.empty((horizon + 1, num_states), object)
    v[horizon] = [_number(ctx, x) for x in problem.end_reward]
    for t in reversed(range(horizon)):
        for s in range(num_states):
            if problem.is_terminal[s]:
                v[t, s] = _number(ctx, problem.end_reward[s])
                q[t, s], policy[t, s] = v[t, s], list(problem.mu_normalised(t)[s])
                continue
            q[t, s] = [backup_q(problem, reading, t, s, a, v[t + 1], ctx) for a in range(num_actions)]
            v[t, s], policy[t, s] = backup_v(problem, t, s, q[t, s], ctx)
    return Messages(q.astype(float), v.astype(float), policy.astype(float), _log_evidence(problem, reading, v[0], ctx))


def _log_evidence(problem: Problem, reading: Reading, v: Any, ctx: Any) -> float:
    start = [(_number(ctx, p), v[s]) for s, p in enumerate(problem.initial) if p > 0]
    alpha = _number(ctx, problem.temperature)
    if reading == "fixed":
        return float(sum(p * x for p, x in start) / (alpha or 1))
    return float(_lse(ctx, [(p, x / alpha) for p, x in start]))


def evaluate(problem: Problem, policy: Array, temperature: float | None = None) -> Messages:
    """q, v and bound of a given policy `[T, S, A]`, the entropy term at `temperature` (0 leaves it out)."""
    alpha = problem.temperature if temperature is None else temperature
    q = np.empty((problem.horizon, problem.num_states, problem.num_actions))
    v = np.empty((problem.horizon + 1, problem.num_states))
    v[-1] = problem.end_reward
    for t in reversed(range(problem.horizon)):
        for s in range(problem.num_states):
            if problem.is_terminal[s]:
                v[t, s] = q[t, s] = problem.end_reward[s]
                continue
            q[t, s] = [backup_q(problem, "fixed", t, s, a, v[t + 1]) for a in range(problem.num_actions)]
            v[t, s] = expected_soft(q[t, s], policy[t, s], problem.mu(t)[s], alpha)
    return Messages(q, v, policy, float(problem.initial @ v[0]) / (alpha or 1.0))


def expected_soft(q: Array, pi: Array, mu: Array, alpha: float) -> float:
    """sum_a pi (q - alpha log(pi / mu)); minus infinity where the policy leaves the support of the prior."""
    total = 0.0
    for a in np.flatnonzero(pi > 0):
        total += pi[a] * q[a] - (alpha * pi[a] * (math.log(pi[a]) - _log(mu[a])) if alpha else 0.0)
    return float(total)


def rollout_marginals(problem: Problem, policy: Array) -> tuple[Array, Array]:
    """Marginals of states `[T+1, S]` and pairs `[T, S, A]` under a policy and the true dynamics, absorbed mass kept."""
    states = np.zeros((problem.horizon + 1, problem.num_states))
    pairs = np.zeros((problem.horizon, problem.num_states, problem.num_actions))
    states[0] = problem.initial
    for t in range(problem.horizon):
        for s in range(problem.num_states):
            if problem.is_terminal[s]:
                states[t + 1, s] += states[t, s]
                continue
            pairs[t, s] = states[t, s] * policy[t, s]
            states[t + 1] += pairs[t, s] @ problem.p(t)[s]
    return states, pairs


def posterior_marginals(problem: Problem, messages: Messages) -> tuple[Array, Array]:
    """Marginals under the tilted start, policy and dynamics of the exact posterior (alive mass where discounted)."""
    alpha, gamma = problem.temperature, problem.discount
    states = np.zeros((problem.horizon + 1, problem.num_states))
    pairs = np.zeros((problem.horizon, problem.num_states, problem.num_actions))
    states[0] = problem.initial * np.exp(messages.v[0] / alpha - messages.log_evidence)
    for t in range(problem.horizon):
        for s in range(problem.num_states):
            if problem.is_terminal[s]:
                states[t + 1, s] += states[t, s]
                continue
            pairs[t, s] = states[t, s] * messages.policy[t, s]
            for a, j in zip(*np.nonzero(problem.p(t)[s] * problem.mu(t)[s][:, None]), strict=True):
                tilt = math.exp((problem.r(t)[s, a, j] + messages.v[t + 1, j] - messages.q[t, s, a]) / alpha)
                states[t + 1, j] += pairs[t, s, a] * gamma * problem.p(t)[s, a, j] * tilt
    return states, pairs


# -- infinite horizon -------------------------------------------------------------------------------------------------


def policy_matrices(problem: Problem, policy: Array) -> tuple[Array, Array]:
    """(P_pi, r_pi) of a stationary policy, rows of terminal states set to zero."""
    p, r, alive = problem.p(), problem.r(), ~problem.is_terminal
    p_pi = np.einsum("sa,saj->sj", policy, p) * alive[:, None]
    r_pi = np.einsum("sa,saj,saj->s", policy, p, r) * alive
    return p_pi, r_pi


def soft_bellman(problem: Problem, v: Array) -> tuple[Array, Array, Array]:
    """One fixed-dynamics backup (q, v, policy), in the precision of `v` (long doubles for reference solutions)."""
    kind, alpha = v.dtype.type, problem.temperature
    p, r, mu = problem.p().astype(kind), problem.r().astype(kind), problem.mu().astype(kind)
    terminal = problem.is_terminal
    q = (p * (r + kind(problem.discount) * v)).sum(-1)
    top = np.where(mu > 0, q, -np.inf).max(-1)
    if alpha == 0:
        new, policy = top, (mu * (q == top[:, None])) / (mu * (q == top[:, None])).sum(-1, keepdims=True)
    else:
        weights = mu * np.exp(np.minimum((q - top[:, None]) / kind(alpha), 700))
        new, policy = top + kind(alpha) * np.log(weights.sum(-1)), weights / weights.sum(-1, keepdims=True)
    end = problem.end_reward.astype(kind)
    q, new = np.where(terminal[:, None], end[:, None], q), np.where(terminal, end, new)
    return q, new, np.where(terminal[:, None], problem.mu_normalised(), policy)


def solve_fixed(problem: Problem, *, num_newton: int = 100) -> tuple[Array, Array, Array]:
    """(q, v, policy) of the infinite-horizon soft Bellman equation: Newton with residuals in long doubles."""
    v = np.where(problem.is_terminal, problem.end_reward, 0.0).astype(np.longdouble)
    for _ in range(num_newton):
        _, new, policy = soft_bellman(problem, v)
        residual = new - v
        p_pi, _ = policy_matrices(problem, policy.astype(float))
        step = np.linalg.solve(np.eye(problem.num_states) - problem.discount * p_pi, residual.astype(float))
        v = v + step
        if np.abs(step).max() <= 1e-15 * max(1.0, float(np.abs(v).max())):
            break
    q, v, policy = soft_bellman(problem, v)
    return q.astype(float), v.astype(float), policy.astype(float)


def solve_evaluation(problem: Problem, policy: Array, temperature: float | None = None) -> tuple[Array, Array]:
    """(q, v) of a stationary policy by one dense linear solve."""
    alpha = problem.temperature if temperature is None else temperature
    p_pi, r_pi = policy_matrices(problem, policy)
    zeros = np.zeros(problem.num_actions)
    entropy = [expected_soft(zeros, policy[s], problem.mu()[s], alpha) for s in range(len(r_pi))]
    rhs = np.where(problem.is_terminal, problem.end_reward, r_pi + np.array(entropy))
    v = np.linalg.solve(np.eye(problem.num_states) - problem.discount * p_pi, rhs)
    q = (problem.p() * (problem.r() + problem.discount * v)).sum(-1)
    return np.where(problem.is_terminal[:, None], problem.end_reward[:, None], q), v


def posterior_matrix(problem: Problem) -> Array:
    """M(s, s') = sum_a mu p exp(r / alpha), rows of terminal states zero."""
    weights = problem.mu()[:, :, None] * problem.p() * np.exp(problem.r() / problem.temperature)
    return weights.sum(1) * ~problem.is_terminal[:, None]


def spectral_radius(matrix: Array) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def solve_posterior(problem: Problem) -> tuple[Array, Array]:
    """(q, v) of the infinite-horizon posterior in its absorbing-state form, by the linear system in exp(v / alpha)."""
    gamma, alpha, terminal = problem.discount, problem.temperature, problem.is_terminal
    matrix = posterior_matrix(problem)
    rhs = np.where(terminal, np.exp(problem.end_reward / alpha), (1 - gamma) * matrix.sum(-1))
    z = np.linalg.solve(np.eye(problem.num_states) - gamma * matrix, rhs)
    weights = problem.p() * np.exp(problem.r() / alpha)
    q = alpha * np.log((weights * (gamma * z + 1 - gamma)).sum(-1))
    return np.where(terminal[:, None], problem.end_reward[:, None], q), alpha * np.log(z)


def discounted_occupancy(problem: Problem, policy: Array) -> Array:
    """sum_t discount^t p(s_t, a_t) of a stationary policy, `[S, A]`, zero at terminal states."""
    p_pi, _ = policy_matrices(problem, policy)
    visits = np.linalg.solve((np.eye(problem.num_states) - problem.discount * p_pi).T, problem.initial)
    return visits[:, None] * policy * ~problem.is_terminal[:, None]


def truncated_state_marginals(problem: Problem, policy: Array, num_steps: int) -> Array:
    """(1 - discount) sum_{t < num_steps} discount^t p(s_t = s), absorbed mass staying, by running the chain."""
    p_pi, _ = policy_matrices(problem, policy)
    chain = p_pi + np.diag(problem.is_terminal.astype(float))
    state, total = problem.initial.copy(), np.zeros(problem.num_states)
    for t in range(num_steps):
        total += (1 - problem.discount) * problem.discount**t * state
        state = state @ chain
    return total


# -- random problems --------------------------------------------------------------------------------------------------


def random_rows(rng: np.random.Generator, shape: tuple[int, ...], density: float = 1.0) -> Array:
    """Random distributions over the last axis, about `density` of the entries positive, at least one in each row."""
    weights = rng.gamma(1.0, size=shape) + 1e-3
    keep = rng.random(shape) < density
    keep |= np.arange(shape[-1]) == rng.integers(shape[-1], size=shape[:-1])[..., None]
    weights = weights * keep
    return weights / weights.sum(-1, keepdims=True)


def random_problem(
    seed: int,
    *,
    num_states: int = 3,
    num_actions: int = 2,
    horizon: int | None = 3,
    reward: str = "sas",
    prior: str = "tabular",
    per_step: tuple[str, ...] = (),
    num_terminal: int = 0,
    terminal_reward: bool = False,
    discount: float = 1.0,
    temperature: float = 0.7,
    density: float = 1.0,
    scale: float = 1.0,
    deterministic: bool = False,
) -> Problem:
    """A random problem; the last `num_terminal` states are terminal, and their rows hold noise that must not matter.

    `reward` is "s", "sa" or "sas"; `prior` is "uniform", "flat", "flat-available", "tabular" or "restricted" (tabular
    with forbidden actions); `density` is the share of successors with positive probability, `scale` the standard
    deviation of the rewards; with `deterministic` every row of the dynamics has one successor.
    """
    rng = np.random.default_rng(seed)

    def lead(name: str) -> tuple[int, ...]:
        return (horizon,) if name in per_step else ()

    shape = (num_states, num_actions, num_states)
    dynamics = random_rows(rng, lead("dynamics") + shape, 0.0 if deterministic else density)
    axes = {"s": shape[:1], "sa": shape[:2], "sas": shape}[reward]
    rewards = scale * rng.normal(size=lead("reward") + axes)
    prior_shape = lead("prior") + shape[:2]
    measures = {
        "uniform": lambda: np.full(prior_shape, 1 / num_actions),
        "flat": lambda: np.ones(prior_shape),
        "flat-available": lambda: (random_rows(rng, prior_shape, 0.6) > 0).astype(float),
        "tabular": lambda: random_rows(rng, prior_shape),
        "restricted": lambda: random_rows(rng, prior_shape, 0.6),
    }
    terminal = np.arange(num_states) >= num_states - num_terminal if num_terminal else None
    return Problem(
        initial=random_rows(rng, (num_states,), density),
        dynamics=dynamics,
        reward=rewards,
        prior=measures[prior](),
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        terminal=terminal,
        terminal_reward=scale * rng.normal(size=num_states) if terminal_reward else None,
        flat=prior.startswith("flat"),
        per_step=frozenset(per_step),
    )


def random_policy(problem: Problem, seed: int) -> Array:
    """A random policy inside the support of the prior, `[T, S, A]`, or `[S, A]` without a horizon."""
    rng = np.random.default_rng(seed)
    lead = () if problem.horizon is None else (problem.horizon,)
    support = np.array([problem.mu(t) > 0 for t in range(problem.horizon)]) if lead else problem.mu() > 0
    weights = rng.gamma(1.0, size=lead + problem.mu().shape) * support + 1e-3 * support
    return weights / weights.sum(-1, keepdims=True)


def random_successors(seed: int, num_states: int, num_actions: int, num_next: int) -> tuple[Array, Array]:
    """Sparse tables: successors `[S, A, K]`, duplicates allowed, and their probabilities, some zero (padding)."""
    rng = np.random.default_rng(seed)
    nexts = rng.integers(num_states, size=(num_states, num_actions, num_next))
    return nexts, random_rows(rng, nexts.shape, 0.7)


def dense_successors(nexts: Array, probs: Array) -> Array:
    """The `[S, A, S]` table of a successor list, duplicates added."""
    num_states, num_actions, _ = nexts.shape
    table = np.zeros((num_states, num_actions, num_states))
    for s, a, k in np.ndindex(nexts.shape):
        table[s, a, nexts[s, a, k]] += probs[s, a, k]
    return table


def with_radius(problem: Problem, target: float) -> Problem:
    """The same problem with its rewards shifted so that discount times the spectral radius of M is `target`."""
    current = problem.discount * spectral_radius(posterior_matrix(problem))
    return problem.replace(reward=problem.reward + problem.temperature * math.log(target / current))


# -- more digits, for hostile numbers ---------------------------------------------------------------------------------


def backward_long(problem: Problem, reading: Reading) -> Messages:
    """Backward messages in long doubles, vectorised over states: for horizons of thousands. Needs temperature > 0."""
    kind = np.longdouble
    alpha, gamma, terminal = kind(problem.temperature), kind(problem.discount), problem.is_terminal
    end = problem.end_reward.astype(kind)
    v, tables = [end], []
    with np.errstate(divide="ignore"):
        for t in reversed(range(problem.horizon)):
            p, r, mu = problem.p(t).astype(kind), problem.r(t).astype(kind), problem.mu(t).astype(kind)
            if reading == "fixed":
                q = (p * (r + gamma * v[-1])).sum(-1)
            else:
                arrive = np.logaddexp(np.log(gamma) + v[-1] / alpha, np.log1p(-gamma))
                x = np.where(p > 0, r / alpha + arrive, -np.inf)
                top = x.max(-1, keepdims=True)
                q = alpha * (top[..., 0] + np.log((p * np.exp(x - top)).sum(-1)))
            x = np.where(mu > 0, q / alpha, -np.inf)
            top = x.max(-1, keepdims=True)
            new = alpha * (top[..., 0] + np.log((mu * np.exp(x - top)).sum(-1)))
            policy = mu * np.exp(x - new[:, None] / alpha)
            tables.append((np.where(terminal[:, None], end[:, None], q), np.where(terminal[:, None], mu, policy)))
            v.append(np.where(terminal, end, new))
    q, policy = (np.stack([x[i] for x in reversed(tables)]).astype(float) for i in (0, 1))
    return Messages(
        q, np.stack(v[::-1]).astype(float), policy, _log_evidence(problem, reading, v[-1].astype(float), math)
    )


def solve_posterior_mp(problem: Problem, ctx: Any) -> Array:
    """V of the infinite-horizon posterior in arithmetic without overflow or underflow (`mpmath.mp`)."""
    alpha, gamma = ctx.mpf(problem.temperature), ctx.mpf(problem.discount)
    num_states, zero, one = problem.num_states, ctx.mpf(0), ctx.mpf(1)
    system = [[one if i == j else zero for j in range(num_states)] + [zero] for i in range(num_states)]
    for s in range(num_states):
        if problem.is_terminal[s]:
            system[s][-1] = ctx.exp(ctx.mpf(float(problem.end_reward[s])) / alpha)
            continue
        for a, j in zip(*np.nonzero(problem.p()[s] * problem.mu()[s][:, None]), strict=True):
            mass = ctx.mpf(float(problem.mu()[s, a])) * ctx.mpf(float(problem.p()[s, a, j]))
            weight = mass * ctx.exp(ctx.mpf(float(problem.r()[s, a, j])) / alpha)
            system[s][j] -= gamma * weight
            system[s][-1] += (1 - gamma) * weight
    return np.array([float(alpha * ctx.log(z)) for z in eliminate(system)])


def eliminate(system: list[list[Any]]) -> list[Any]:
    """Gauss's solution of an augmented system `[n][n + 1]`, in whatever arithmetic its entries have."""
    size = len(system)
    for k in range(size):
        pivot = max(range(k, size), key=lambda i: abs(system[i][k]))
        system[k], system[pivot] = system[pivot], system[k]
        for i in range(k + 1, size):
            factor = system[i][k] / system[k][k]
            system[i] = [x - factor * y for x, y in zip(system[i], system[k], strict=True)]
    solution = [system[0][-1]] * size
    for k in reversed(range(size)):
        known = sum(system[k][j] * solution[j] for j in range(k + 1, size))
        solution[k] = (system[k][-1] - known) / system[k][k]
    return solution
