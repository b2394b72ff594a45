"""`PathConsistency` and `CrossEntropyPolicySearch`: learning curves on CartPole-v1, and what noise does to paths.

    python benchmarks/paths_and_search.py

On CartPole-v1 the mean return of 20 episodes without chance, reset with seeds 10000 to 10019, every 5,000 steps (every
generation for the search, whose steps between two are its own). On FrozenLake-v1, dry and slippery, the learned answer
against the exact one: the greatest error of v, and what the learned policy loses of the soft value at the start.
"""

from __future__ import annotations

import argparse
import logging
import time

import torch

import cai
from cai.methods import Annealed, DoubleSampledResidual, SeparateModels, TableBody

TARGET = 475.0


def curves(seeds: list[int]) -> None:
    """Prints the evaluations of each seed, and when they first reach the target."""
    methods = {
        "PathConsistency": (0.1, cai.PathConsistency(num_steps=40_000)),
        "CrossEntropyPolicySearch": (0.0, cai.CrossEntropyPolicySearch(num_steps=60_000)),
    }
    for name, (temperature, method) in methods.items():
        for seed in seeds:
            graph = cai.from_gym("CartPole-v1", discount=0.99, temperature=temperature)
            watch, started = cai.Evaluation(20, 5_000), time.process_time()
            posterior = cai.infer(graph, method, seed=seed, callbacks=[watch])
            seconds = time.process_time() - started
            curve = posterior.history.curve("evaluation_return")
            reached = [int(n) for n, value in zip(curve.steps, curve.values, strict=True) if value >= TARGET]
            shown = " ".join(f"{n / 1000:.0f}k:{value:.0f}" for n, value in zip(curve.steps, curve.values, strict=True))
            print(f"{name} seed {seed}  475 at {reached[0] if reached else 'never'}, {seconds:.0f} s CPU   {shown}")


def noise(seeds: list[int]) -> None:
    """Prints the errors of path consistency on a dry and on a slippery lake."""
    rate = Annealed(0.05, 0.0005)
    models = SeparateModels(TableBody(), TableBody(), policy_learning_rate=rate, value_learning_rate=rate)
    options = {"models": models, "num_steps": 100_000, "num_envs": 64, "replay_updates": 10, "replay_batch": 64}
    kinds = {
        "paths of 20 steps": {"path_length": 20},
        "paths of one step": {"path_length": 1},
        "one step, double sampled": {"path_length": 1, "residual": DoubleSampledResidual()},
    }
    for slippery in (False, True):
        lake = cai.from_gym("FrozenLake-v1", is_slippery=slippery, discount=0.95, temperature=0.05)
        exact = cai.infer(lake, cai.SoftValueIteration())
        states = (~lake.dynamics.terminal_mask).nonzero().squeeze(1)
        for kind, more in kinds.items():
            for seed in seeds:
                posterior = cai.infer(lake, cai.PathConsistency(**options, **more), seed=seed)
                error = float((posterior.v(states) - exact.v(states)).abs().max())
                best, got = (float(p.log_evidence * lake.temperature) for p in (exact, posterior))
                print(
                    f"{'slippery' if slippery else 'dry':9} {kind:25} seed {seed}  max |v - v*| {error:.4f}  "
                    f"soft value {got:.4f} of {best:.4f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    curves(seeds)
    noise(seeds)


if __name__ == "__main__":
    main()
