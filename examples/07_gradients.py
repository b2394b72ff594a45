"""Derivatives are answers: expected visits, marginals and entropies as gradients of one number.

d(E v(s_0)) / d r(s, a)         = expected visits of (s, a) under the soft-optimal policy
d(alpha log p(O)) / d r_t(s, a) = p(s_t = s, a_t = a | O)
d(E v(s_0)) / d alpha           = -KL(pi || mu) along the trajectory, summed
"""

import argparse
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints how well autograd and the forward messages agree."""
    lake = cai.from_gym("FrozenLake-v1", horizon=100)
    costs = torch.full((16, 4), -0.1, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    arrival = cai.factors.TabularReward(torch.eye(16)[15])
    graph = lake.replace(reward=cai.factors.TabularReward(costs), terminal_reward=arrival, temperature=alpha)

    for method in (cai.SoftValueIteration(), cai.SumProduct()):
        answer = cai.infer(graph, method)
        value = alpha * answer.log_evidence
        by_reward, by_alpha = torch.autograd.grad(value, (costs, alpha))
        visits = answer.occupancy.sum(0)
        print(f"{type(method).__name__}: value {value:.6f}")
        print(f"  gradient by the reward: {by_reward.sum():.6f} steps in all, expected {visits.sum():.6f}")
        print(f"  equal entry by entry:   {torch.allclose(by_reward, visits, rtol=0, atol=1e-12)}")
        print(f"  gradient by alpha:      {by_alpha:.6f}, (value - expected return) / alpha {deviation(answer):.6f}")


def deviation(answer: cai.Posterior) -> float:
    """(E v - E sum r) / alpha: minus the divergence of the policy from the prior, if the dynamics is fixed."""
    alpha = answer.graph.temperature
    return float(((alpha * answer.log_evidence - answer.expected_return) / alpha).detach())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
