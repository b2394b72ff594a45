"""Soft Q-learning on the multi-goal point mass: are all four modes found, and what does an answer cost?

    python benchmarks/multi_goal.py --seeds 0 1 2 --picture docs/assets/multi_goal.png

Each seed learns from 60,000 steps of the point mass. Printed: the shares of the four directions among actions drawn at
the origin, the shares of the four goals among 200 episodes, V at the origin, and CPU seconds. Exact answers stand in
`models/multi_goal.py`: every share is 1/4, V(0) = -225.7 on the finest lattice tried there.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

import cai
from cai.methods import Annealed, Stein

GOALS = torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, 0.0], [0.0, -5.0]])


def method() -> cai.SoftQLearning:
    """The settings, the same for every seed."""
    small = cai.factors.MLPBody((64, 64))
    head = Stein(small, small, num_particles=16, target_rate=0.01, heat=Annealed(10.0, 1.0, share=0.5))
    return cai.SoftQLearning(
        num_steps=60_000, num_envs=16, learning_starts=5000, updates_per_step=0.5, batch_size=64, head=head
    )


def main() -> None:
    """Learns, prints, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    answers = []
    for seed in options.seeds:
        started = time.process_time()
        answers.append(cai.infer(cai.load_model("multi_goal"), method(), seed=seed, callbacks=[cai.ProgressBar()]))
        report(seed, answers[-1], time.process_time() - started)
    if options.picture:
        draw(answers, options.picture)


def report(seed: int, posterior: cai.LearnedPosterior, seconds: float) -> None:
    """Prints one line."""
    origin = torch.zeros(2)
    directions = shares(quarter(posterior.policy(origin).sample((2000,))))
    runs = posterior.sample(200, seed=0)
    ends = runs.states[torch.arange(200), runs.lengths]
    reached = shares(quarter(ends[runs.terminated]))
    print(
        f"seed {seed}: directions at the origin {directions}, goals {reached} "
        f"(ended at one: {float(runs.terminated.float().mean()):.2f}), V(0) = {float(posterior.v(origin)):.1f}, "
        f"{seconds:.0f} CPU seconds",
        flush=True,
    )


def quarter(points: torch.Tensor) -> torch.Tensor:
    """Which of the four goals points `[N, 2]` are nearest to in direction, `[N]`."""
    angle = torch.atan2(points[:, 1], points[:, 0]) + math.pi / 4
    return (angle / (math.pi / 2)).floor().long() % 4


def shares(index: torch.Tensor) -> list[float]:
    """The share of each of the four."""
    counts = torch.bincount(index, minlength=4)
    return [round(share, 2) for share in (counts / counts.sum()).tolist()]


def draw(answers: list[cai.LearnedPosterior], path: Path) -> None:
    """Draws episodes, and Q at the origin with draws of the policy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(answers), figsize=(3.4 * len(answers), 6.8), squeeze=False)
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 81), torch.linspace(-1, 1, 81))
    for column, posterior in zip(axes.T, answers, strict=True):
        runs = posterior.sample(60, seed=1)
        for states, length in zip(runs.states, runs.lengths.tolist(), strict=True):
            column[0].plot(*states[: length + 1].T, color="tab:blue", alpha=0.4, linewidth=0.8)
        column[0].scatter(*GOALS.T, color="tab:red", zorder=3)
        column[0].set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal", title="60 episodes", xlabel="x", ylabel="y")
        q = posterior.q(torch.zeros(2), grid).reshape(81, 81)
        image = column[1].imshow(q.T, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis")
        column[1].scatter(*posterior.policy(torch.zeros(2)).sample((200,)).T, s=3, color="white")
        column[1].set(title="Q(0, a) and draws", xlabel="velocity x", ylabel="velocity y")
        figure.colorbar(image, ax=column[1], shrink=0.75)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
