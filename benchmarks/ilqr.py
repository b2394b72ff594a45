"""Iterative LQR: batches of trajectories in one call, against two peers.

    python benchmarks/ilqr.py pendulum --peer-python PATH/TO/python    (an environment with mpc 0.0.6, torch 2.13.0)
    python benchmarks/ilqr.py unicycle --peer-python PATH/TO/python    (an environment with crocoddyl 3.2.1)

pendulum: 128 pendulums of `mpc`'s own, T = 20, torques within +-2, against its box-constrained iterative LQR, batched
in torch as well. unicycle: 128 starts, T = 100, no limits, against crocoddyl's solver in C++, one start after another.
Workers are processes of their own and take turns. A row is the whole solve; below the table is what each one found.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BATCH = 128


def pendulum() -> Any:
    """The pendulum of `mpc.env_dx`, its objective, and its first states."""
    import gymnasium
    import numpy as np
    import torch

    import cai

    def move(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        cos, sin, speed = state.unbind(-1)
        speed = speed + 0.05 * (15.0 * sin + 3.0 * action[..., 0])
        angle = torch.atan2(sin, cos) + 0.05 * speed
        return torch.stack([torch.cos(angle), torch.sin(angle), speed], -1)

    generator = torch.Generator().manual_seed(0)
    angles = (torch.rand(BATCH, generator=generator) - 0.5) * 6.28
    speeds = (torch.rand(BATCH, generator=generator) - 0.5) * 2
    return cai.TrajectoryGraph(
        cai.factors.Delta(torch.stack([torch.cos(angles), torch.sin(angles), speeds], 1).double()),
        cai.factors.DifferentiableDynamics(move, state_size=3, action_size=1),
        cai.factors.QuadraticReward(np.diag([1.0, 1.0, 0.1]), [[0.001]], q=[-1.0, 0.0, 0.0]),
        horizon=20,
        temperature=0.0,
        action_space=gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float64),
    )


def unicycle() -> Any:
    """The action model of crocoddyl's unicycle, with its weights, from starts around (-1, -1, 1)."""
    import numpy as np
    import torch

    import cai

    def move(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        (x, y, theta), (speed, turn) = state.unbind(-1), (0.1 * action).unbind(-1)
        return torch.stack([x + speed * torch.cos(theta), y + speed * torch.sin(theta), theta + turn], -1)

    return cai.TrajectoryGraph(
        cai.factors.Delta(torch.as_tensor(np.array(unicycle_starts()))),
        cai.factors.DifferentiableDynamics(move, state_size=3, action_size=2),
        cai.factors.QuadraticReward(100.0 * np.eye(3), np.eye(2)),
        terminal_reward=cai.factors.QuadraticReward(1e4 * np.eye(3)),
        horizon=100,
        temperature=0.0,
    )


def unicycle_starts() -> list[list[float]]:
    """128 starts, made with the standard library, so that a peer's environment makes the same."""
    import random

    generator = random.Random(0)
    return [[centre + generator.uniform(-0.5, 0.5) for centre in (-1.0, -1.0, 1.0)] for _ in range(BATCH)]


PROBLEMS = {"pendulum": pendulum, "unicycle": unicycle}


def solver(problem: str, max_iterations: str, tolerance: str, expansion: str) -> Callable[[], Any]:
    """Sets a problem up, and gives its solve."""
    import warnings

    import cai

    warnings.simplefilter("ignore", cai.NotConverged)  # a few iterations are not meant to
    graph = PROBLEMS[problem]()
    expansions = {"gauss-newton": cai.methods.GaussNewton(), "second-order": cai.methods.SecondOrder(below=1e-2)}
    method = cai.ILQR(max_iterations=int(max_iterations), tolerance=float(tolerance), expansion=expansions[expansion])
    return lambda: cai.infer(graph, method)


def solve(*arguments: str) -> None:
    """One batched call."""
    from worker import serve

    serve(solver(*arguments), calls=1)


def found(*arguments: str) -> None:
    """Prints what the batched call finds."""
    posterior = solver(*arguments)()
    cost = -float(posterior.best_return.mean())
    print(json.dumps({"mean cost": cost, "iterations": posterior.stats.num_steps}))


WORKERS = {"solve": solve, "found": found}


def compared(problem: str, peer_python: str | None) -> dict[str, list[str]]:
    """The command line of each row but for its last word, `solve` or `found`, by name; the peer first."""
    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    rows: dict[str, list[str]] = {}
    if problem == "pendulum":
        if peer_python:
            peer = [peer_python, str(HERE / "peers" / "mpc_pendulum.py")]
            rows["mpc, to the end"], rows["mpc, 10 iterations"] = [*peer, "100"], [*peer, "10"]
        rows["cai, to the end"] = [*me, "{}", problem, "200", "1e-6", "gauss-newton"]
        rows["cai, 6 iterations"] = [*me, "{}", problem, "6", "1e-6", "gauss-newton"]
        return rows
    if peer_python:
        rows["crocoddyl, one by one"] = [peer_python, str(HERE / "peers" / "crocoddyl_unicycle.py")]
    rows["cai"] = [*me, "{}", problem, "200", "1e-8", "gauss-newton"]
    rows["cai, second order"] = [*me, "{}", problem, "200", "1e-8", "second-order"]
    return rows


def worded(command: list[str], word: str) -> list[str]:
    """A row's command line for `solve` or `found`."""
    return [word if part == "{}" else part for part in command] + ([] if "{}" in command else [word])


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    problem = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in PROBLEMS else "pendulum"
    options = director_options(__doc__.splitlines()[0], WORKERS, peer="mpc or crocoddyl", rounds=7)
    if options is None:
        return
    rows = compared(problem, options.peer_python)
    times = interleaved({name: worded(row, "solve") for name, row in rows.items()}, options.rounds)
    print(f"\n{problem}, {BATCH} starts")
    print(report(times, next(iter(rows))))
    for name, row in rows.items():
        answer = subprocess.run(worded(row, "found"), capture_output=True, text=True, check=True)
        print(f"{name:34}{answer.stdout.strip()}")


if __name__ == "__main__":
    main()
