"""Soft Q-learning: CartPole-v1 and LunarLander-v3 at temperature zero, the slippery lake against its exact answer.

    python benchmarks/soft_q_learning.py cart-pole            (three seeds, about a minute each)
    python benchmarks/soft_q_learning.py lunar-lander         (three seeds, some minutes each)
    python benchmarks/soft_q_learning.py lake                 (three seeds, some seconds each)

The first two print the mean return of 20 episodes without chance, reset with seeds 10000 to 10019, and when the bar was
reached: three evaluations running at 475, or 200. One thread.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import cai
from cai.methods import Annealed, EpsilonGreedy, HuberLoss, Network, PolyakTarget, UniformReplay

CART_POLE = cai.SoftQLearning(
    num_steps=50_000,
    head=Network(
        body=cai.factors.MLPBody((128, 128)),
        learning_rate=Annealed(2e-3, 1e-5),
        target=PolyakTarget(0.01),
        loss=HuberLoss(),
    ),
    n_step=5,
    batch_size=64,
    learning_starts=1000,
    train_every=256,
    updates_per_step=0.5,
    replay=UniformReplay(100_000),
    exploration=EpsilonGreedy(Annealed(1.0, 0.04, share=0.16)),
)
LUNAR_LANDER = cai.SoftQLearning(
    num_steps=100_000,
    head=Network(
        body=cai.factors.MLPBody((128, 128)),
        learning_rate=Annealed(1e-3, 5e-5),
        target=PolyakTarget(0.005),
        loss=HuberLoss(),
    ),
    n_step=3,
    batch_size=128,
    learning_starts=1000,
    train_every=4,
    updates_per_step=0.5,
    replay=UniformReplay(100_000),
    exploration=EpsilonGreedy(Annealed(1.0, 0.03, share=0.15)),
)
#: The world, the method, environment steps between evaluations, and the bar.
PROBLEMS: dict[str, tuple[str, cai.SoftQLearning, int, float]] = {
    "cart-pole": ("CartPole-v1", CART_POLE, 2_000, 475.0),
    "lunar-lander": ("LunarLander-v3", LUNAR_LANDER, 10_000, 200.0),
}


def control(name: str, seeds: list[int]) -> None:
    """Runs a problem at temperature zero."""
    world, method, interval, bar = PROBLEMS[name]
    for seed in seeds:
        graph = cai.from_gym(world, discount=0.99, temperature=0.0)
        started = time.process_time()
        posterior: Any = cai.infer(graph, method, seed=seed, callbacks=[cai.Evaluation(20, interval, length=1000)])
        curve = posterior.history.curve("evaluation_return")
        good = (curve.values >= bar).tolist()
        first = next((int(curve.steps[i]) for i in range(len(good)) if good[i]), None)
        running = next((int(curve.steps[i]) for i in range(2, len(good)) if all(good[i - 2 : i + 1])), None)
        print(
            f"{world} seed {seed}: first at {bar:g} after {first}, three running after {running}; last "
            f"{float(curve.values[-1]):.1f}; {time.process_time() - started:.0f} CPU seconds, evaluations included"
        )
        print("   ", " ".join(f"{value:.0f}" for value in curve.values.tolist()))


def lake(seeds: list[int]) -> None:
    """Runs the slippery lake against its exact answer."""
    graph = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    exact = cai.infer(graph, cai.SoftValueIteration())
    states, actions = torch.arange(16)[:, None], torch.arange(4)
    method = cai.SoftQLearning(
        num_steps=4_000_000,
        num_envs=1000,
        batch_size=16_384,
        updates_per_step=0.001,
        replay=UniformReplay(4_000_000),
    )
    for seed in seeds:
        started = time.process_time()
        posterior = cai.infer(graph, method, seed=seed)
        seconds = time.process_time() - started
        q = exact.q(states, actions)
        error = float((posterior.q(states, actions) - q).abs().max() / q.abs().max())
        gap = float(exact.log_evidence - posterior.log_evidence)
        kl = torch.distributions.kl_divergence(posterior.policy(states[:, 0]), exact.policy(states[:, 0])).max()
        print(
            f"lake seed {seed}: greatest error of q {100 * error:.2f} per cent, greatest KL {float(kl):.5f} nats, "
            f"evidence gap {gap:.1e} nats; {seconds:.1f} CPU seconds"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*PROBLEMS, "lake"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.problem == "lake":
        lake(options.seeds)
    else:
        control(options.problem, options.seeds)
