r"""A random stable linear system with quadratic costs and Gaussian noise: a problem of any size.

Drawn from the seed, n = `num_states` and m = `num_actions`:

    x' = A x + B u + w,  w ~ N(0, W)        r(x, u) = -(x'Qx + u'Ru) / 2        x_0 ~ N(0, I)

A is normal, scaled to the spectral radius `radius`; B is normal, with rows of about unit length; Q and R are halfway
between the identity and a product of normal matrices; W is `noise`^2 times such a matrix. The end costs what a state
costs, x'Qx / 2. The measure of actions is flat.

Known answers. Without a horizon, V(x) = -x'Px / 2 + constant with P the stabilising solution of the discrete algebraic
Riccati equation, `scipy.linalg.solve_discrete_are(A, B, Q, R)`, and the policy is N(K x, alpha (R + B'PB)^{-1}) with
K = -(R + B'PB)^{-1} B'PA; with a discount, of sqrt(discount) A and sqrt(discount) B. Over T steps P follows the Riccati
recursion from Q, K is the same whatever the noise, and the noise costs tr(P W) / 2 a step. Of the posterior
(`SumProduct`) P is replaced by (P^{-1} + W / alpha)^{-1} before each step.

Source: Bertsekas (2005), volume 1, section 4.1; Jacobson (1973) for the posterior's recursion, with the sign of an
optimist.
"""

from __future__ import annotations

import math

import numpy as np

import cai


def build(
    *,
    num_states: int = 4,
    num_actions: int = 2,
    seed: int = 0,
    radius: float = 0.95,
    noise: float = 0.1,
    horizon: int | None = 50,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the system: states `[n]`, actions `[m]`.

    Args:
        num_states: n, number of state coordinates.
        num_actions: m, number of action coordinates.
        seed: Seed of the system.
        radius: Spectral radius of A; below 1 the state decays by itself.
        noise: Standard deviation of the noise in a direction of average size.
        horizon: Number of steps; None for ever.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: No states or actions, or a negative radius or noise.
    """
    for name, size in (("num_states", num_states), ("num_actions", num_actions)):
        if size < 1:
            raise ValueError(f"linear_quadratic: {name} must be at least 1, got {size}")
    for name, value in (("radius", radius), ("noise", noise)):
        if not 0.0 <= value < math.inf:
            raise ValueError(f"linear_quadratic: {name} must be at least 0, got {value}")
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(num_states, num_states))
    b = rng.normal(size=(num_states, num_actions)) / math.sqrt(num_actions)
    state_cost, action_cost, spread = (_product(rng, size) for size in (num_states, num_actions, num_states))
    return cai.TrajectoryGraph(
        initial=cai.factors.Gaussian(np.zeros(num_states), np.eye(num_states)),
        dynamics=cai.factors.LinearGaussianDynamics(
            a * (radius / np.abs(np.linalg.eigvals(a)).max()), b, noise**2 * spread if noise else None
        ),
        reward=cai.factors.QuadraticReward(state_cost, action_cost),
        terminal_reward=None if horizon is None else cai.factors.QuadraticReward(state_cost),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )


def _product(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size))
    return 0.5 * (np.eye(size) + root @ root.T / size)
