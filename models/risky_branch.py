r"""A sure thing or a gamble: where the two posteriors disagree.

No world in which they do is smaller. From the start, action 0 leads to the safe end, worth m = `safe`; action 1
gambles: with probability p it wins x = `prize`, else nothing. One step, and the episode is over. Known answers, alpha
the temperature, L = alpha log(p exp(x / alpha) + 1 - p) >= p x:

    fixed dynamics (`SoftValueIteration`):   pi(risky) = sigmoid((p x - m) / alpha)
                                             v = alpha log((exp(m / alpha) + exp(p x / alpha)) / 2)
    posterior (`SumProduct`):                pi(risky) = sigmoid((L - m) / alpha)
                                             v = alpha log((exp(m / alpha) + exp(L / alpha)) / 2)
                                             p(win | risky, O) = p exp((x - L) / alpha)

With p = 1/2, x = 4, m = 2 and alpha = 1 the gamble is worth exactly the sure thing, and the fixed-dynamics answer is
even, .5; the exact posterior gambles with .790, since it also conditions the luck on success: given the gamble it
wins with .982. As alpha falls to 0, the values go to max(m, p x) and max(m, x). What lies between the two evidences
is the KL divergence of the first trajectory distribution from the second.

Source: the backups are Levine (2018), sections 2 (posterior, and its optimism) and 3 (fixed dynamics), solved by
hand.
"""

from __future__ import annotations

import math

import numpy as np

import cai


def build(
    *,
    safe: float = 2.0,
    prize: float = 4.0,
    probability: float = 0.5,
    horizon: int | None = 1,
    discount: float = 1.0,
    temperature: float = 1.0,
) -> cai.TrajectoryGraph:
    """Builds the choice: states start, safe, won, lost (the last three terminal), actions safe, risky.

    Args:
        safe: Worth of the sure thing, in reward units.
        prize: Worth of the prize, in reward units.
        probability: Probability in [0, 1] that the gamble wins the prize.
        horizon: Number of steps, at least 1; None until the end, which is the same.
        discount: Discount of the one step.
        temperature: Temperature, in reward units; 0 is hard optimality.

    Raises:
        ValueError: A probability outside [0, 1], a worth that is not finite.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"risky_branch: probability must be in [0, 1], got {probability}")
    if not all(math.isfinite(value) for value in (safe, prize)):
        raise ValueError(f"risky_branch: safe and prize must be finite, got {safe} and {prize}")
    dynamics = np.tile(np.eye(4)[:, None], (1, 2, 1))
    dynamics[0] = np.array([[0, 1, 0, 0], [0, 0, probability, 1 - probability]])
    return cai.TrajectoryGraph(
        initial=cai.factors.Categorical(probs=np.array([1.0, 0.0, 0.0, 0.0])),
        dynamics=cai.factors.TabularDynamics(dynamics, terminal=np.array([False, True, True, True])),
        reward=cai.factors.TabularReward(np.zeros(4)),
        terminal_reward=cai.factors.TabularReward(np.array([0.0, safe, prize, 0.0])),
        horizon=horizon,
        discount=discount,
        temperature=temperature,
    )
