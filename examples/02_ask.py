"""Ask a frozen lake: the soft-optimal policy, what it reaches, where it is when, and what conditioning would say.

`--out DIR` writes the pictures of tutorial 1.
"""

import argparse
import io
from pathlib import Path

import torch

import cai

STATES, HOLES, GOAL = torch.arange(16), [5, 7, 11, 12], 15
ACTIONS = ("left", "down", "right", "up")


def main(*, quick: bool, out: Path | None) -> None:
    """Prints every number of tutorial 1."""
    lake = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01)
    soft = cai.infer(lake, cai.SoftValueIteration())
    exact = cai.infer(lake, cai.SumProduct())
    show_policy(soft)
    compare_temperatures(lake)
    show_marginals(soft)
    compare_samples(soft, num=500 if quick else 5000)
    show_evidence(soft, exact)
    compare_ice(soft, exact)
    if out is not None:
        draw(soft, exact, out)


def show_policy(soft: cai.Posterior) -> None:
    """The policy at the start, at the first step and near the end."""
    for t in (0, 50, 95):
        probs = soft.policy(0, t=t).probs
        print(f"pi(a | start, t = {t:2d}):", ", ".join(f"{a} {p:.3f}" for a, p in zip(ACTIONS, probs, strict=True)))


def compare_temperatures(lake: cai.TrajectoryGraph) -> None:
    """From hard optimality to the random walk."""
    print("temperature   v(start)   expected return   entropy, nats")
    for temperature in (0.0, 0.001, 0.01, 0.1, 1.0):
        answer = cai.infer(lake.replace(temperature=temperature), cai.SoftValueIteration())
        print(f"{temperature:11.3f} {answer.v(0, t=0):10.4f} {answer.expected_return:17.4f} {answer.entropy:15.2f}")


def show_marginals(soft: cai.Posterior) -> None:
    """How much of the mass has reached the goal, how much has fallen into a hole, how much is still on its way."""
    for t in (10, 50, 100):
        mass = soft.state_marginals[t]
        goal, holes = mass[GOAL], mass[HOLES].sum()
        print(f"t = {t:3d}: at the goal {goal:.3f}, in a hole {holes:.3f}, on the way {1 - goal - holes:.3f}")


def compare_samples(soft: cai.Posterior, num: int) -> None:
    """Sampled episodes agree with the exact expectation, within their standard error."""
    returns = soft.sample(num, seed=0).returns()
    error = returns.std() / num**0.5
    print(f"mean return of {num} samples: {returns.mean():.3f} +- {error:.3f}, exactly {soft.expected_return:.3f}")


def show_evidence(soft: cai.Posterior, exact: cai.Posterior) -> None:
    """The bound, the evidence, and how sure each distribution is to arrive."""
    gap = soft.gap(exact)
    print(f"log p(O) = {exact.log_evidence:.3f} nats, bound {soft.log_evidence:.3f} nats")
    print(f"gap {gap.evidence_gap:.3f} nats, KL(policy || posterior) {gap.kl:.3f} nats")
    arrived = [answer.state_marginals[-1, GOAL] for answer in (soft, exact)]
    print(f"at the goal by the end: policy {arrived[0]:.3f}, posterior {arrived[1]:.3f}")


def compare_ice(soft: cai.Posterior, exact: cai.Posterior) -> None:
    """Values on slippery ice against values on dry ice: the posterior cannot tell them apart."""
    dry = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01, is_slippery=False)
    for name, method, answer in (("policy", cai.SoftValueIteration(), soft), ("posterior", cai.SumProduct(), exact)):
        start = cai.infer(dry, method).v(0, t=0)
        print(f"v(start) of the {name:9s} on slippery ice {answer.v(0, t=0):.4f}, on dry ice {start:.4f}")


def draw(soft: cai.Posterior, exact: cai.Posterior, out: Path) -> None:
    """Writes the pictures of tutorial 1."""
    from PIL import Image

    from cai import plots

    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "lake_values": plots.value_map(soft).figure,
        "lake_policy": plots.policy_map(soft).figure,
        "lake_marginals": plots.marginals_over_time(soft),
        "lake_side_by_side": plots.side_by_side(soft, exact),
    }
    for name, figure in pictures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=80)
        picture = Image.open(buffer).convert("RGB").quantize(64)  # a small file: 64 colours are plenty here
        picture.save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
