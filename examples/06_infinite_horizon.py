"""Without a horizon: value iteration against policy iteration as the discount nears one, with certified errors."""

import argparse
from pathlib import Path

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints steps and certified errors for a slippery grid."""
    size = 6 if quick else 20
    print("discount   value iteration: sweeps, certified   policy iteration: solves, certified   difference in v")
    for discount in (0.9, 0.99, 0.999, 0.9999):
        grid = cai.load_model("gridworld", size=size).replace(horizon=None, discount=discount)
        sweeps = cai.infer(grid, cai.SoftValueIteration())
        solves = cai.infer(grid, cai.SoftPolicyIteration())
        states = range(grid.dynamics.num_states)
        apart = (sweeps.v(list(states)) - solves.v(list(states))).abs().max()
        print(
            f"{discount:8.4f} {sweeps.stats.num_steps:25d}   {sweeps.stats.certified_error:.1e} "
            f"{solves.stats.num_steps:27d}   {solves.stats.certified_error:.1e} {apart:19.1e}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller grid")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
