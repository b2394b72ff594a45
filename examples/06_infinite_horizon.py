"""Without a horizon: value iteration against policy iteration as the discount nears one, with certified errors.

The world is an inventory of up to 50 items, every month a decision, for ever.
"""

import argparse
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints steps and certified errors."""
    compare((0.9, 0.99) if quick else (0.9, 0.99, 0.999))
    near_one()


def inventory(discount: float) -> cai.TrajectoryGraph:
    """The shop, for ever."""
    return cai.load_model("inventory", capacity=50).replace(horizon=None, discount=discount)


def compare(discounts: tuple[float, ...]) -> None:
    """Both methods on the same graphs."""
    states = torch.arange(51)
    print("discount   sweeps   solves   largest |v|   both certified to")
    for discount in discounts:
        graph = inventory(discount)
        sweeps = cai.infer(graph, cai.SoftValueIteration(solver=cai.methods.ValueIteration()))
        solves = cai.infer(graph, cai.SoftPolicyIteration())
        largest = solves.v(states).abs().max()
        certified = max(sweeps.stats.certified_error, solves.stats.certified_error)
        num_sweeps = float(f"{sweeps.stats.num_steps:.1e}")  # two digits: the last ones depend on the machine
        print(
            f"{discount:8.3f} {num_sweeps:8.0f} {few(solves.stats.num_steps):>8s} {largest:13.1f}   "
            f"{'1e-8' if certified < 1e-8 * largest else 'worse than 1e-8'} of it"
        )


def few(num: int) -> str:
    """A number of linear solves; the last one or two depend on the machine's rounding."""
    return "6 to 9" if 6 <= num <= 9 else str(num)


def near_one() -> None:
    """Policy iteration alone, where sweeps would take minutes to hours."""
    print("discount   solves   largest |v|   certified to")
    for discount in (0.9999, 0.99999):
        answer = cai.infer(inventory(discount), cai.SoftPolicyIteration())
        largest = answer.v(torch.arange(51)).abs().max()
        certified = "1e-9" if answer.stats.certified_error < 1e-9 * largest else "worse than 1e-9"
        print(f"{discount:8.5f} {few(answer.stats.num_steps):>8s} {largest:13.1f}   {certified} of it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller discounts")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
