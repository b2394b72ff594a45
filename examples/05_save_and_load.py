"""Keep an answer: save a posterior, load it, and find the same numbers in it. Loading executes no code."""

import argparse
import tempfile
from pathlib import Path

import torch

import cai


def main(*, quick: bool, out: Path | None) -> None:
    """Saves, loads, compares, and shows what a damaged file says."""
    lake = cai.from_gym("FrozenLake-v1", horizon=100, temperature=0.01)
    soft = cai.infer(lake, cai.SoftValueIteration())
    with tempfile.TemporaryDirectory() as folder:
        path = (out or Path(folder)) / "lake.cai"
        path.parent.mkdir(parents=True, exist_ok=True)
        soft.save(path)
        back = cai.load(path)
        print("same evidence: ", torch.equal(back.log_evidence, soft.log_evidence))
        print("same marginals:", torch.equal(back.state_marginals, soft.state_marginals))
        print("same samples:  ", torch.equal(back.sample(100, seed=0).states, soft.sample(100, seed=0).states))
        print("temperature:   ", back.graph.temperature)

        damaged = Path(folder) / "damaged.cai"
        damaged.write_bytes(path.read_bytes()[:1000])
        try:
            cai.load(damaged)
        except cai.CorruptFile as error:
            print("damaged file:  ", type(error).__name__)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: this example takes seconds")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    main(**vars(parser.parse_args()))
