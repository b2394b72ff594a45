r"""A mass to push to a place and stop there: the double integrator, in one dimension or more.

The state is (p, v), positions before velocities, in metres and metres per second; the action is an acceleration a,
held for dt = `step` seconds:

    p' = p + dt v + dt^2 a / 2,   v' = v + dt a         (with a + w for a, w ~ N(0, `noise`^2), where there is noise)

so that the covariance of the noise has half the rank of the state. A step costs dt (`effort` |a|^2 +
`error` |(p - g, v)|^2) / 2, the end (`position_weight` |p - g|^2 + `velocity_weight` |v|^2) / 2, g the `goal`. The
dimensions do not mix.

Known answers, temperature 0, no noise and no `error` on the way, T steps. With F the free flight (p + T dt v - g, v) of
one dimension, and G what accelerations can reach at unit effort,

    V(p, v) = -F' (S + G / effort)^{-1} F / 2,      S = diag(1 / position_weight, 1 / velocity_weight),
    G = [dt^3 T (4 T^2 - 1) / 12, dt^2 T^2 / 2; dt^2 T^2 / 2, dt T]

and as the weights of the end grow, the cost of going from rest to rest over a distance D is 6 effort D^2 / (dt^3 T (T^2
- 1)), by accelerations that fall in a straight line, a_k = 6 D (T - 1 - 2k) / (dt^2 T (T^2 - 1)). At a temperature
alpha the mean of the policy is the same, and V differs by a constant.

Source: Bryson and Ho (1975), for the minimum-effort transfer in continuous time, 6 D^2 / tau^3; here for accelerations
held over steps, by summing T squares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import cai


def build(
    *,
    dimensions: int = 1,
    step: float = 0.1,
    start: Any = None,
    goal: Any = None,
    noise: float = 0.0,
    effort: float = 1.0,
    error: float = 0.0,
    position_weight: float = 100.0,
    velocity_weight: float = 100.0,
    horizon: int | None = 30,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the mass: states `[2 d]`, actions `[d]`.

    Args:
        dimensions: d, how many dimensions the mass moves in.
        step: dt, seconds.
        start: State at the start, `[2 d]` or any batch; at rest one metre below the goal in each dimension by default.
        goal: g, metres, `[d]`; the origin by default.
        noise: Standard deviation of the acceleration's noise, metres per second squared.
        effort: What accelerations cost; positive.
        error: What being away from the goal, or moving, costs on the way.
        position_weight: What the last distance from the goal costs.
        velocity_weight: What the last velocity costs.
        horizon: Number of steps; None for ever, with an `error`.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: Less than one dimension, a step or effort that is not positive, a negative noise or weight, or a
            start or goal of another size.
    """
    if dimensions < 1:
        raise ValueError(f"double_integrator: dimensions must be at least 1, got {dimensions}")
    for name, value in (("step", step), ("effort", effort)):
        if not 0.0 < value < math.inf:
            raise ValueError(f"double_integrator: {name} must be positive, got {value}")
    weights = {"noise": noise, "error": error, "position_weight": position_weight, "velocity_weight": velocity_weight}
    for name, value in weights.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"double_integrator: {name} must be at least 0, got {value}")
    target = np.zeros(2 * dimensions)
    target[:dimensions] = _vector("goal", goal, dimensions, np.zeros(dimensions))
    rest = target - np.repeat([1.0, 0.0], dimensions)
    each = np.eye(dimensions)
    push = np.kron([[step**2 / 2], [step]], each)
    ends = np.kron(np.diag([position_weight, velocity_weight]), each)
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta(_vector("start", start, 2 * dimensions, rest)),
        dynamics=cai.factors.LinearGaussianDynamics(
            np.kron([[1.0, step], [0.0, 1.0]], each), push, noise**2 * push @ push.T if noise else None
        ),
        reward=cai.factors.QuadraticReward.around(target, step * error * np.eye(2 * dimensions), step * effort * each),
        terminal_reward=None if horizon is None else cai.factors.QuadraticReward.around(target, ends),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )


def _vector(name: str, given: Any, size: int, default: np.ndarray) -> np.ndarray:
    vector = default if given is None else np.asarray(given, dtype=float)
    if vector.shape[-1:] != (size,) or (name == "goal" and vector.ndim != 1):
        raise ValueError(f"double_integrator: {name} must have {size} coordinates, got shape {list(vector.shape)}")
    return vector
