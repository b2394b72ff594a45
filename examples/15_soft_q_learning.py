"""Soft Q-learning meets its exact answer: on the frozen lake, on the cliff, and of records alone.

Some ten seconds. `--out DIR` writes the picture of the tutorial.
"""

import argparse
from pathlib import Path

import torch

import cai
from cai.methods import PolynomialSteps, Tabular, UniformReplay

SEEDS = (0, 1, 2)
STEPS = (10_000, 30_000, 100_000, 300_000, 1_000_000)


def main(*, out: Path | None) -> None:
    """Prints every number of the tutorial."""
    runs = on_the_lake()
    on_the_cliff()
    of_records()
    if out is not None:
        from matplotlib import rcParams

        rcParams.update({"font.size": 9, "savefig.dpi": 110})
        out.mkdir(parents=True, exist_ok=True)
        draw(runs, out)


def on_the_lake() -> list[cai.Posterior]:
    """A hundred lakes at once, and how far what is learned is from the exact messages."""
    lake = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    exact = cai.infer(lake, cai.SoftValueIteration())
    method = cai.SoftQLearning(
        num_steps=STEPS[-1],
        num_envs=100,
        batch_size=8192,
        updates_per_step=1 / 500,
        replay=UniformReplay(STEPS[-1]),
    )
    runs = []
    for seed in SEEDS:
        comparison = cai.ExactComparison(exact, interval=10_000)
        runs.append(cai.infer(lake, method, seed=seed, callbacks=[comparison]))
    states, actions = torch.arange(16)[:, None], torch.arange(4)
    greatest = float(exact.q(states, actions).max())
    print(f"the lake: exact evidence bound {exact.log_evidence:.4f} nats, greatest q {greatest:.3f}")
    print(
        "     steps   KL(learned || exact) of the policies, nats   greatest error of q, per cent   evidence gap, nats"
    )
    for steps in STEPS:
        rows = [next(row for row in run.history.rows if row["num_steps"] >= steps and "q_error" in row) for run in runs]
        kls = "  ".join(f"{row['policy_kl']:.5f}" for row in rows)
        errors = "  ".join(f"{100 * row['q_error'] / greatest:4.1f}" for row in rows)
        gaps = "  ".join(f"{row['evidence_gap']:.5f}" for row in rows)
        print(f"{steps:10,}   {kls:>41}   {errors:>30}   {gaps}")
    return runs


def on_the_cliff() -> None:
    """Where nothing is random an update may go all the way, and the messages are found to rounding."""
    cliff = cai.from_gym("CliffWalking-v1", discount=0.99, temperature=0.1)
    exact = cai.infer(cliff, cai.SoftValueIteration())
    method = cai.SoftQLearning(
        num_steps=20_000, num_envs=50, batch_size=512, updates_per_step=0.04, head=Tabular(PolynomialSteps(0.0))
    )
    learned = cai.infer(cliff, method, seed=0)
    gap = float(exact.log_evidence - learned.log_evidence)
    print(
        f"the cliff: after 20,000 steps the bound is within {max(abs(gap), 1e-9):.0e} nats of {exact.log_evidence:.3f}"
    )


def of_records() -> None:
    """Records of somebody who walked at random, swept until nothing changes: the answer of the empirical model."""
    lake = cai.from_gym("FrozenLake-v1", discount=0.99, temperature=0.1)
    exact = cai.infer(lake, cai.SoftValueIteration())
    for num in (300, 3_000, 30_000):
        data = cai.rollout(lake, cai.UniformPolicy(), num, seed=0, length=100)
        recorded = cai.factors.RecordedDynamics(data)
        graph = lake.replace(dynamics=recorded, reward=recorded)
        learned = cai.infer(graph, cai.SoftQLearning(num_steps=3_000))
        evaluated = cai.infer(lake, cai.PolicyEvaluation(learned.policy))
        print(
            f"records: {num:6,} episodes, {data.num_steps:7,} transitions: evidence gap "
            f"{float(exact.log_evidence - evaluated.log_evidence):.5f} nats, last change {learned.stats.residual:.0e}"
        )


def draw(runs: list[cai.Posterior], out: Path) -> None:
    """The distance of policies and values to the exact ones, against steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    panels = {
        "policy_kl": "KL of the policies [nats]",
        "q_error": "greatest error of q",
        "evidence_gap": "evidence gap [nats]",
    }
    for axes, (name, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for seed, run in zip(SEEDS, runs, strict=True):
            curve = run.history.curve(name)
            axes.plot(curve.steps, curve.values, color=f"C{seed}", linewidth=1.2, label=f"seed {seed}")
        axes.set(xlabel="transitions", ylabel=label, xscale="log", yscale="log")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out / "soft_q_learning.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: without pictures this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(out=parser.parse_args().out)
