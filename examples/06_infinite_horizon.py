"""Without a horizon: value iteration against policy iteration as the discount nears one, with certified errors.

The world is an inventory of up to 50 items, every month a decision, for ever.
"""

import argparse
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints steps, certified errors, and how far the two answers are apart."""
    compare((0.9, 0.99) if quick else (0.9, 0.99, 0.999))
    near_one()


def inventory(discount: float) -> cai.TrajectoryGraph:
    """The shop, for ever."""
    return cai.load_model("inventory", capacity=50).replace(horizon=None, discount=discount)


def compare(discounts: tuple[float, ...]) -> None:
    """Both methods on the same graphs."""
    states = torch.arange(51)
    print("discount   sweeps   certified   solves   certified   largest v   difference in v")
    for discount in discounts:
        graph = inventory(discount)
        sweeps = cai.infer(graph, cai.SoftValueIteration(solver=cai.methods.ValueIteration()))
        solves = cai.infer(graph, cai.SoftPolicyIteration())
        apart = (sweeps.v(states) - solves.v(states)).abs().max()
        print(
            f"{discount:8.3f} {sweeps.stats.num_steps:8d} {sweeps.stats.certified_error:11.0e} "
            f"{solves.stats.num_steps:8d} {solves.stats.certified_error:11.0e} {solves.v(states).max():11.1f} "
            f"{'below' if apart < 1e-6 else 'ABOVE'} 1e-6"
        )


def near_one() -> None:
    """Policy iteration alone, where sweeps would take minutes to hours."""
    print("discount   solves   largest v   certified, relative to it")
    for discount in (0.9999, 0.99999):
        answer = cai.infer(inventory(discount), cai.SoftPolicyIteration())
        largest = answer.v(torch.arange(51)).max()
        small = answer.stats.certified_error / largest < 1e-10
        print(f"{discount:8.5f} {answer.stats.num_steps:8d} {largest:11.1f}   {'below' if small else 'ABOVE'} 1e-10")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller discounts")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
