r"""One number to steer, whose Riccati equation is solved by the golden ratio.

State and action are numbers, x' = x + u + w with w ~ N(0, `noise`^2), and the reward of a step is -(x^2 + u^2) / 2; the
end is worth nothing. The measure of actions is flat.

Known answers, alpha the temperature and V_t(x) = -P_k x^2 / 2 + constant with k = T - t steps to go.

Under the dynamics as it is (`SoftValueIteration`), P_{k+1} = 1 + P_k / (1 + P_k) from P_0 = 0: ratios of Fibonacci
numbers, F_1 = F_2 = 1, whatever the noise and the temperature,

    P_k = F_{2k} / F_{2k-1} = 1, 3/2, 8/5, 21/13, ...  ->  phi = (1 + sqrt(5)) / 2 = 1.618...
    u ~ N(-K_k x, alpha / (1 + P_{k-1})),   K_k = P_{k-1} / (1 + P_{k-1}) = F_{2k-2} / F_{2k-1}  ->  1 / phi

so that without a horizon x' = x / phi^2 + noise, and the constant grows by (alpha log(2 pi alpha / (1 + phi)) -
phi noise^2) / 2 a step. The stationary variance of the state, the spread of actions included, is (noise^2 + alpha /
phi^2) / (1 - phi^-4).

Of the posterior (`SumProduct`) P_{k+1} = 1 + R / (1 + R) with R = P_k / (1 + P_k w), w = noise^2 / alpha: the optimist
counts on the noise to help, and P_k grows to

    P = 1/2 + sqrt(1/4 + 1 / (1 + w))

which is phi without noise, and 1 where the noise is all.

Source: Bertsekas (2005), volume 1, section 4.1, for the scalar Riccati equation; the Fibonacci numbers follow by
induction from F_{2k+2} = F_{2k+1} + F_{2k} and F_{2k+1} = F_{2k} + F_{2k-1}.
"""

from __future__ import annotations

import math

import cai


def build(
    *,
    start: float = 1.0,
    noise: float = 0.0,
    horizon: int | None = 20,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the graph: states `[1]`, actions `[1]`.

    Args:
        start: The state at the start.
        noise: Standard deviation of what is added to the state at each step.
        horizon: Number of steps; None for ever.
        discount: Discount per step; the answers above are for 1.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A start that is not finite, or a negative noise.
    """
    if not math.isfinite(start):
        raise ValueError(f"golden_ratio: start must be finite, got {start}")
    if not 0.0 <= noise < math.inf:
        raise ValueError(f"golden_ratio: noise is a standard deviation, at least 0, got {noise}")
    return cai.TrajectoryGraph(
        initial=cai.factors.Delta([float(start)]),
        dynamics=cai.factors.LinearGaussianDynamics([[1.0]], [[1.0]], [[noise**2]] if noise else None),
        reward=cai.factors.QuadraticReward([[1.0]], [[1.0]]),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )
