r"""A random walk between two ends: gambler's ruin with a will.

Positions 0 .. N stand on a line, N = `num_positions` + 1; 0 and N are terminal, worth `left_reward` and
`right_reward`. The two actions step left and right, and go the way they say with probability `accuracy`, else the
other way. Every step costs c = `step_cost`.

Known answers, alpha the temperature. Under the uniform action prior both steps have probability 1/2 whatever the
accuracy, so `z = exp(V / alpha)` of the posterior messages (`SumProduct`) satisfies, with y = exp(-c / alpha) and the
chance 1 - gamma of dying on a step,

    z_i = y (gamma (z_{i-1} + z_{i+1}) / 2 + 1 - gamma),
    z_0 = exp(left_reward / alpha),   z_N = exp(right_reward / alpha).

A constant solves it but for the ends, w = y (1 - gamma) / (1 - gamma y) (0 where gamma = 1), and what remains is
hyperbolic:

    z_i = w + ((z_0 - w) sinh((N - i) theta) + (z_N - w) sinh(i theta)) / sinh(N theta),   cosh(theta) = 1 / (gamma y),

linear between the ends where gamma y = 1, and with sines and `cos(theta) = 1 / (gamma y)` where gamma y > 1: then it
exists only for N theta < pi, that is gamma y cos(pi / N) < 1. The policy is `pi(right | i) = z_{i+1} / (z_{i-1} +
z_{i+1})` where accuracy and gamma are 1.

For fixed dynamics (`SoftValueIteration`), undiscounted, with k the slope of V and b = 2 accuracy - 1:

    V_i = -c + (V_{i-1} + V_{i+1}) / 2 + alpha log cosh(b (V_{i+1} - V_{i-1}) / (2 alpha))

- accuracy 1: the same as the posterior;
- accuracy 1/2: the plain walk, `V_i = left_reward + (right_reward - left_reward) i / N - c i (N - i)`;
- c = alpha log cosh(b k / alpha) and right_reward - left_reward = k N: linear, `V_i = left_reward + k i`, `pi(right)
  = sigmoid(2 b k / alpha)` everywhere: the cost is just what the drift is worth.

Evaluating the uniform policy on the default graph (without its entropy term) gives the textbook's 1/6, 2/6, .., 5/6.

Source: Sutton and Barto (2018), example 6.2 (page 125); Feller (1968), volume 1, XIV.2-4: ruin, duration i (N - i),
generating function.
"""

from __future__ import annotations

import math

import numpy as np

import cai


def build(
    *,
    num_positions: int = 5,
    accuracy: float = 1.0,
    step_cost: float = 0.0,
    left_reward: float = 0.0,
    right_reward: float = 1.0,
    start: int | None = None,
    horizon: int | None = None,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the walk: S = num_positions + 2 states, A = 2 actions (left, right), sparse dynamics.

    Args:
        num_positions: Positions between the ends.
        accuracy: Probability in [0, 1] that a step goes the way its action says.
        step_cost: What a step costs, in reward units.
        left_reward: Worth of position 0, in reward units.
        right_reward: Worth of position num_positions + 1, in reward units.
        start: Position at the start, 0 < start < num_positions + 1; None for the middle.
        horizon: Number of steps; None until an end is reached.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: No position between the ends, an accuracy outside [0, 1], a start that is not between the ends, a
            cost or reward that is not finite.
    """
    if num_positions < 1:
        raise ValueError(f"random_walk: num_positions must be at least 1, got {num_positions}")
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"random_walk: accuracy is a probability in [0, 1], got {accuracy}")
    if not all(math.isfinite(value) for value in (step_cost, left_reward, right_reward)):
        raise ValueError(
            f"random_walk: costs and rewards must be finite, got {step_cost}, {left_reward}, {right_reward}"
        )
    last = num_positions + 1
    start = last // 2 if start is None else start
    if not 0 < start < last:
        raise ValueError(f"random_walk: start must lie between the ends 0 and {last}, got {start}")
    positions = np.arange(last + 1)
    terminal = (positions == 0) | (positions == last)
    # [S, A, K]: both neighbours, for both actions; an end stays where it is.
    neighbours = np.where(terminal[:, None], positions[:, None], positions[:, None] + np.array([-1, 1]))
    probs = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=(positions == start).astype(float)),
        dynamics=cai.factors.TabularDynamics.from_successors(
            np.repeat(neighbours[:, None], 2, axis=1), np.tile(probs, (last + 1, 1, 1)), terminal=terminal
        ),
        reward=cai.factors.TabularReward(np.full(last + 1, -float(step_cost))),
        terminal_reward=cai.factors.TabularReward(left_reward * (positions == 0) + right_reward * (positions == last)),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
        state_space=cai.GridSpace(1, last + 1, cells=positions.tolist(), moves=((0, -1), (0, 1))),
    )
