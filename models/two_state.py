r"""Two states, two actions, everything by hand.

A coin that one can try to turn: action a aims at state a and hits it with probability `accuracy` = q, else the other;
where the coin lay does not matter. A step in state s pays `rewards[s]`. With x_s = exp(rewards[s] / alpha) and
D = rewards[1] - rewards[0], the value with n = T - t >= 1 steps to go is V_t(s) = rewards[s] + (n - 1) g, where

    fixed dynamics (`SoftValueIteration`):   g = rewards[0] + alpha log((exp(q D / alpha) + exp((1 - q) D / alpha)) / 2)
                                             pi_t(1) = sigmoid((2 q - 1) D / alpha)      for t < T - 1
    posterior (`SumProduct`):                g = alpha log((x_0 + x_1) / 2)
                                             pi_t(1) = (q x_1 + (1 - q) x_0) / (x_0 + x_1)      for t < T - 1

and pi = 1/2 at the last step, which no reward follows. The posterior's evidence does not depend on q, not even at q =
1/2, where the actions do nothing: exact conditioning turns the coin itself. Its marginals are p(s_t = 1 | O) = x_1 /
(x_0 + x_1) for 0 < t < T, and 1/2 at t = T; those of fixed dynamics are q pi(1) + (1 - q) pi(0). As alpha falls to 0,
fixed dynamics aims at the better state for sure, the posterior only with probability q: it counts on its luck.

Without a horizon, discounted by gamma, V(s) = rewards[s] + C with

    fixed dynamics:   C = (gamma rewards[0] + alpha log((exp(gamma q D / alpha) + exp(gamma (1 - q) D / alpha)) / 2))
                          / (1 - gamma)
    posterior:        C = alpha log((1 - gamma) / (1 - gamma (x_0 + x_1) / 2)), only if gamma (x_0 + x_1) / 2 < 1.

Without a horizon, undiscounted, the gain is g of either reading, and the relative values are V(s) = rewards[s] - m, m =
(1 - d) rewards[0] + d rewards[1], with d = p(s = 1) in the long run as above: q pi(1) + (1 - q) pi(0) under fixed
dynamics, x_1 / (x_0 + x_1) in the posterior. pi is that of t < T - 1.

Source: the recursions are Levine (2018), section 2 (posterior) and 3 (fixed dynamics), solved by hand.
"""

from __future__ import annotations

import math

import numpy as np

import cai


def build(
    *,
    accuracy: float = 0.8,
    rewards: tuple[float, float] = (0.0, 1.0),
    initial: tuple[float, float] = (0.5, 0.5),
    horizon: int | None = 10,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the coin: S = A = 2.

    Args:
        accuracy: Probability in [0, 1] of hitting the state that the action aims at.
        rewards: What a step in either state pays, in reward units.
        initial: Probabilities of the two states at the start.
        horizon: Number of steps; None for ever.
        discount: Discount per step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: An accuracy outside [0, 1]; rewards that are not two finite numbers; probabilities that are not two.
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"two_state: accuracy is a probability in [0, 1], got {accuracy}")
    if len(rewards) != 2 or not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"two_state: rewards must be two finite numbers, got {rewards}")
    if len(initial) != 2:
        raise ValueError(f"two_state: initial must be two probabilities, got {initial}")
    hits = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=np.array(initial, dtype=float)),
        dynamics=cai.factors.TabularDynamics(np.stack([hits, hits])),
        reward=cai.factors.TabularReward(np.array(rewards, dtype=float)),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )
