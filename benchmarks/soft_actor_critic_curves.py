"""Learning curves of soft actor-critic and of Stable-Baselines3's, at equal steps and hyper-parameters.

    python benchmarks/soft_actor_critic_curves.py Pendulum-v1 --learning-rate 1e-3
    python benchmarks/soft_actor_critic_curves.py HalfCheetah-v5 --num-steps 100000 --every 10000 \
        --learning-starts 10000 --peer-python PATH/TO/python
        (with stable-baselines3 2.9.2 and the environment)

Evaluations are 20 episodes without chance, reset with seeds 10000 to 10019. Each is a line of JSON in `--out`; a run
that is complete there is not run again, so that a benchmark that was stopped goes on where it was. Runs follow each
other, of one thread each. At the end, or by `--report`, a table of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS, PEER = "cai", "stable-baselines3"


def ours(env_id: str, seed: str, num_steps: str, every: str, options: str) -> None:
    """The library's worker: a line of JSON for each evaluation."""
    import torch
    from evaluation import episode_returns

    import cai
    from cai.factors import greedy_action

    class Evaluation(cai.AbstractCallback):
        """Evaluates now and then, and counts the CPU time between."""

        def __init__(self) -> None:
            self.seconds, self.started = 0.0, time.process_time()

        def on_step(self, progress: Any) -> None:
            """Evaluates, if it is time."""
            if progress.num_steps % int(every):
                return
            self.seconds += time.process_time() - self.started
            posterior = progress.posterior()
            returns = episode_returns(env_id, lambda states: greedy_action(posterior.policy(states)).numpy())
            row = {"step": progress.num_steps, "returns": returns, "cpu_seconds": round(self.seconds, 2)}
            print(json.dumps(row), flush=True)
            self.started = time.process_time()

    torch.set_num_threads(1)
    given = json.loads(options)
    graph = cai.from_gym(env_id, discount=0.99).replace(action_prior=cai.factors.FlatPrior())
    method = cai.SoftActorCritic(
        num_steps=int(num_steps),
        learning_rate=given["learning_rate"],
        learning_starts=given["learning_starts"],
        temperature=cai.methods.TargetEntropy(),
    )
    cai.infer(graph, method, seed=int(seed), callbacks=[Evaluation()])


def main() -> None:
    options = _options()
    if options.env_id == "worker":
        ours(*options.rest)
        return
    rows = _rows(options.out)
    if not options.report:
        commands = {OURS: [sys.executable, str(HERE / "soft_actor_critic_curves.py"), "worker"]}
        if options.peer_python:
            commands[PEER] = [options.peer_python, str(HERE / "peers" / "sb3_curves.py")]
        for seed in options.seeds:
            for library, command in commands.items():
                if not _is_complete(rows, options, library, seed):
                    _run(options, library, seed, command)
    _report([row for row in _rows(options.out) if row["env_id"] == options.env_id])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_id", help="the environment's name")
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1_000, help="steps between evaluations, a multiple of 100")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--learning-starts", type=int, default=100)
    parser.add_argument("--peer-python", help="the Python of an environment with stable-baselines3 2.9.2")
    parser.add_argument("--out", type=Path, default=Path("soft_actor_critic_curves.jsonl"))
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser.parse_args()


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _is_complete(rows: list[dict[str, Any]], options: argparse.Namespace, library: str, seed: int) -> bool:
    mine = [row for row in rows if (row["env_id"], row["library"], row["seed"]) == (options.env_id, library, seed)]
    return any(row["step"] >= options.num_steps for row in mine)


def _run(options: argparse.Namespace, library: str, seed: int, command: list[str]) -> None:
    """Runs a worker and writes what it says; what an earlier attempt wrote of the same run stands before it."""
    given = json.dumps({"learning_rate": options.learning_rate, "learning_starts": options.learning_starts})
    numbers = [str(number) for number in (seed, options.num_steps, options.every)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, options.env_id, *numbers, given], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with options.out.open("a") as file:
        for line in process.stdout:
            row = {"env_id": options.env_id, "library": library, "seed": seed} | json.loads(line)
            file.write(json.dumps(row) + "\n")
            file.flush()
            mean = statistics.mean(row["returns"])
            print(
                f"{library:20}seed {seed}  step {row['step']:8,}  {mean:10.1f}  {row['cpu_seconds']:8.1f} s", flush=True
            )
    if process.wait():
        raise RuntimeError(f"the worker of {library}, seed {seed}, ended with status {process.returncode}")


def _report(rows: list[dict[str, Any]]) -> None:
    """Writes a table: mean return of each seed at each evaluation, the last row of those that were repeated."""
    found = {(row["library"], row["step"], row["seed"]): row for row in rows}
    for library in dict.fromkeys(key[0] for key in found):
        steps = sorted({key[1] for key in found if key[0] == library})
        seeds = sorted({key[2] for key in found if key[0] == library})
        print(f"\n{library}: mean return by seed {seeds}, and CPU seconds of the slowest")
        for step in steps:
            there = [found[library, step, seed] for seed in seeds if (library, step, seed) in found]
            means = "".join(f"{statistics.mean(row['returns']):10.1f}" for row in there)
            print(f"{step:10,}{means}{max(row['cpu_seconds'] for row in there):12.1f}")


if __name__ == "__main__":
    main()
