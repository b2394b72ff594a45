"""Two conventions for the action prior: a uniform distribution, or the counting measure with its entropy bonus."""

import argparse
from pathlib import Path

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Prints what a cliff walker does under each."""
    cliff = cai.from_gym("CliffWalking-v1", horizon=30)
    goal = 47
    print("temperature   action prior   expected return   p(arrived)")
    for temperature in (0.1, 1.0, 2.0):
        for name, prior in (("uniform", None), ("flat", cai.factors.FlatPrior())):
            graph = cliff.replace(temperature=temperature, action_prior=prior)
            soft = cai.infer(graph, cai.SoftValueIteration())
            print(
                f"{temperature:11.1f}   {name:12s} {soft.expected_return:17.2f} {soft.state_marginals[-1, goal]:12.3f}"
            )

    # Without a horizon and without a discount, entropy can outweigh every cost. Then there is no answer.
    try:
        cai.infer(cliff.replace(horizon=None, action_prior=cai.factors.FlatPrior()), cai.SoftValueIteration())
    except cai.IncompatibleMethod as error:
        print("refused:", error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
