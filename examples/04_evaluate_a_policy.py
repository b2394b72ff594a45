"""Judge policies: exact values of any policy, its distance from the best, and the performance difference lemma."""

import argparse
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints the values of three policies on a frozen lake, and checks them against rollouts."""
    lake = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01)
    best = cai.infer(lake, cai.SoftValueIteration())
    hard = cai.infer(lake.replace(temperature=0.0), cai.SoftValueIteration())

    print("policy             return   soft value   KL to the best, nats   sampled return")
    for name, policy in [("uniform", cai.UniformPolicy()), ("hard optimal", hard), ("soft optimal", best)]:
        judged = cai.infer(lake, cai.PolicyEvaluation(policy))
        returns = cai.rollout(lake, policy, 500 if quick else 5000, seed=0).returns()
        error = returns.std() / len(returns) ** 0.5
        print(
            f"{name:15s} {judged.expected_return:9.4f} {lake.temperature * judged.log_evidence:12.4f} "
            f"{judged.gap(best).kl:22.3f}   {returns.mean():.3f} +- {error:.3f}"
        )
    difference(lake.replace(horizon=None, discount=0.99))


def difference(lake: cai.TrajectoryGraph) -> None:
    """J(new) - J(old) = sum_s d_new(s) E_new[A_old - alpha log(new / mu) ...], the performance difference lemma."""
    old = cai.infer(lake, cai.PolicyEvaluation(cai.UniformPolicy()))
    new = cai.infer(lake, cai.SoftPolicyIteration())
    states = torch.arange(lake.dynamics.num_states)
    actions = torch.arange(lake.dynamics.num_actions)
    log_new = new.policy(states).logits
    log_prior = torch.full_like(log_new, -torch.log(torch.tensor(4.0, dtype=torch.float64)))
    inner = old.q(states[:, None], actions) - lake.temperature * (log_new - log_prior) - old.v(states)[:, None]
    gain = lake.temperature * (new.log_evidence - old.log_evidence)
    print(f"J(soft) - J(uniform) = {gain:.10f}")
    print(f"by the lemma         = {(new.occupancy * inner).sum():.10f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
