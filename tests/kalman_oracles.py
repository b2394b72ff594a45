"""Hidden linear-Gaussian chains in plain numpy: the joint normal distribution, built whole and conditioned.

    x_0 ~ N(mean, spread),   x_{t+1} = a x_t + push + w,   y_t = h x_t + d + v

Arrays but for the first state's have a leading time axis, of length 1 where all times are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Chain:
    mean: Array
    spread: Array
    a: Array
    push: Array
    w: Array
    h: Array
    d: Array
    r: Array
    horizon: int

    def at(self, name: str, t: int) -> Array:
        part = getattr(self, name)
        return part[t if len(part) > 1 else 0]

    def simulated(self, seed: int, missing: float = 0.0) -> Array:
        """Draws observations `[T + 1, k]`, some of them missing."""
        rng = np.random.default_rng(seed)
        x, seen = rng.multivariate_normal(self.mean, self.spread), []
        for t in range(self.horizon + 1):
            seen.append(rng.multivariate_normal(self.at("h", t) @ x + self.at("d", t), self.at("r", t)))
            if t < self.horizon:
                x = rng.multivariate_normal(self.at("a", t) @ x + self.at("push", t), self.at("w", t))
        y = np.stack(seen)
        y[rng.uniform(size=y.shape) < missing] = np.nan
        return y


@dataclass(frozen=True, eq=False)
class Hidden:
    """All states given the observations: means, the whole covariance, and log p(y)."""

    means: Array
    covariance: Array
    log_likelihood: float

    def block(self, t: int) -> Array:
        n = self.means.shape[1]
        return self.covariance[n * t : n * t + n, n * t : n * t + n]

    @property
    def blocks(self) -> Array:
        return np.stack([self.block(t) for t in range(len(self.means))])


def conditioned(chain: Chain, y: Array) -> Hidden:
    """Builds the joint normal of all states and observations, and conditions it on those that are not NaN."""
    n, k, times = len(chain.mean), y.shape[-1], chain.horizon + 1
    system, source, noise = np.eye(n * times), np.zeros(n * times), np.zeros((n * times, n * times))
    h, r, d = np.zeros((k * times, n * times)), np.zeros((k * times, k * times)), np.zeros(k * times)
    source[:n], noise[:n, :n] = chain.mean, chain.spread
    for t in range(times):
        here, seen = slice(n * t, n * t + n), slice(k * t, k * t + k)
        h[seen, here], r[seen, seen], d[seen] = chain.at("h", t), chain.at("r", t), chain.at("d", t)
        if t < chain.horizon:
            there = slice(n * t + n, n * t + 2 * n)
            system[there, here], source[there], noise[there, there] = (
                -chain.at("a", t),
                chain.at("push", t),
                chain.at("w", t),
            )
    inverse = np.linalg.inv(system)
    mean, prior = inverse @ source, inverse @ noise @ inverse.T
    flat = y.ravel()
    known = ~np.isnan(flat)
    h, r, away = h[known], r[np.ix_(known, known)], (flat - d)[known] - h[known] @ mean
    total = h @ prior @ h.T + r
    gain = np.linalg.solve(total, h @ prior).T
    fit = away @ np.linalg.solve(total, away)
    log_likelihood = -0.5 * (fit + np.linalg.slogdet(total)[1] + len(away) * np.log(2 * np.pi))
    return Hidden((mean + gain @ away).reshape(times, n), prior - gain @ h @ prior, log_likelihood)
