"""Policy gradients on CartPole-v1: steps and seconds until 20 episodes without chance return 475 on average.

    python benchmarks/policy_gradient.py --peer-python PATH/TO/python    (with stable-baselines3, sb3-contrib 2.9.2)

PPO, TRPO and A2C of Stable-Baselines3 have the hyper-parameters of its zoo; REINFORCE it has not. Evaluations are every
2,048 steps or the first rollout after, reset with seeds 10000 to 10019, and not timed. Runs are processes of their own,
of one thread, and take turns: for each seed and algorithm first ours, then the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENV_ID, TARGET, EVERY = "CartPole-v1", 475.0, 2048


def methods() -> dict[str, Any]:
    """The settings, chosen by seeds 10 to 14: discount and method of each algorithm."""
    import cai
    from cai.methods import ClippedSurrogate, SeparateCritic, TrustRegion

    make = cai.PolicyGradient
    ppo = make.ppo(steps_per_rollout=64, learning_rate=1e-3, update=ClippedSurrogate(num_epochs=20, batch_size=256))
    critic = SeparateCritic(num_epochs=20, batch_size=128)
    return {
        "PPO": (0.98, ppo),
        "TRPO": (0.99, make.trpo(steps_per_rollout=64, update=TrustRegion(radius=0.02), critic=critic)),
        "A2C": (0.98, make.a2c(critic=SeparateCritic(learning_rate=3e-3, num_epochs=5, batch_size=128))),
        "REINFORCE": (0.99, make.reinforce()),
    }


def ours(algorithm: str, seed: str, num_steps: str) -> None:
    """The library's worker: a line of JSON."""
    import logging
    from dataclasses import replace

    import torch
    from evaluation import episode_returns
    from stopwatch import Stopwatch

    import cai
    from cai.factors import greedy_action

    class Evaluation(cai.AbstractCallback):
        """Evaluates now and then; the watch stands still meanwhile."""

        def __init__(self) -> None:
            self.last = 0

        def on_start(self, graph: Any, method: Any) -> None:
            """Starts the watch."""
            watch.start()

        def on_step(self, progress: Any) -> None:
            """Evaluates, if it is time."""
            if progress.num_steps - self.last < EVERY:
                return
            self.last = progress.num_steps
            watch.stop()
            policy = progress.posterior().policy
            watch.note(
                progress.num_steps, episode_returns(ENV_ID, lambda states: greedy_action(policy(states)).numpy())
            )
            if watch.latest >= TARGET:
                raise cai.StopInference("solved")
            watch.start()

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    watch = Stopwatch()
    discount, method = methods()[algorithm]
    graph = cai.from_gym(ENV_ID, discount=discount, temperature=0.0)
    cai.infer(graph, replace(method, num_steps=int(num_steps)), seed=int(seed), callbacks=[Evaluation()])
    watch.report()


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        ours(*sys.argv[2:])
        return
    options = _options()
    commands = {"cai": [sys.executable, str(HERE / "policy_gradient.py"), "worker"]}
    if options.peer_python:
        commands["stable-baselines3"] = [options.peer_python, str(HERE / "peers" / "sb3_policy_gradient.py")]
    rows = []
    for seed in options.seeds:
        for algorithm in options.algorithms:
            for library, command in commands.items():
                if algorithm == "REINFORCE" and library != "cai":
                    continue
                row = _run([*command, algorithm, str(seed), str(options.num_steps)])
                rows.append({"algorithm": algorithm, "library": library, "seed": seed} | row)
                _say(rows[-1])
    _report(rows, options.algorithms)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--algorithms", nargs="+", default=["PPO", "TRPO", "A2C"], choices=["PPO", "TRPO", "A2C", "REINFORCE"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-steps", type=int, default=50_000, help="the most steps of a run")
    parser.add_argument("--peer-python", help="the Python of an environment with stable-baselines3 and sb3-contrib")
    return parser.parse_args()


def _run(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _say(row: dict[str, Any]) -> None:
    means = " ".join(f"{mean:.0f}" for _, mean in row["curve"])
    print(f"{row['algorithm']:10}{row['library']:20}seed {row['seed']}  {_hit(row):>30}   {means}", flush=True)


def _hit(row: dict[str, Any]) -> str:
    steps, mean = row["curve"][-1]
    return f"{steps:,} steps, {row['cpu_seconds']:.2f} s CPU" if mean >= TARGET else "never"


def _report(rows: list[dict[str, Any]], algorithms: list[str]) -> None:
    """Writes a table: steps to the target by seed, CPU seconds to it, and CPU microseconds of a step."""
    print(f"\n{'':32}{'steps to 475':>30}{'CPU s to 475':>24}{'wall s':>24}{'CPU us a step':>16}")
    for algorithm in algorithms:
        for library in dict.fromkeys(row["library"] for row in rows):
            mine = [row for row in rows if (row["algorithm"], row["library"]) == (algorithm, library)]
            if not mine:
                continue
            solved = [row["curve"][-1][1] >= TARGET for row in mine]
            steps = " ".join(
                f"{row['curve'][-1][0]:9,}" if ok else "    never" for row, ok in zip(mine, solved, strict=True)
            )
            cpu, wall = (
                " ".join(f"{row[name]:7.2f}" if ok else "  never" for row, ok in zip(mine, solved, strict=True))
                for name in ("cpu_seconds", "seconds")
            )
            each = statistics.median(1e6 * row["cpu_seconds"] / row["curve"][-1][0] for row in mine)
            print(f"{algorithm:12}{library:20}{steps:>30}{cpu:>24}{wall:>24}{each:16.0f}")


if __name__ == "__main__":
    main()
