"""The peer's worker: crocoddyl 3.2.1's feasibility-driven solver on its own unicycle, in C++, one start after another.

Runs in an environment of its own; `benchmarks/README.md` says how to make it. Models and problems are not timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import crocoddyl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ilqr import unicycle_starts
from worker import serve

HORIZON = 100
running, last = crocoddyl.ActionModelUnicycle(), crocoddyl.ActionModelUnicycle()
running.costWeights, last.costWeights = np.array([10.0, 1.0]), np.array([100.0, 0.0])
starts = [np.array(start) for start in unicycle_starts()]
solvers = [crocoddyl.SolverFDDP(crocoddyl.ShootingProblem(x, [running] * HORIZON, last)) for x in starts]
actions = [np.zeros(2)] * HORIZON


def solve() -> None:
    """All starts, one after the other."""
    for start, solver in zip(starts, solvers, strict=True):
        solver.th_stop = 1e-5  # sum of squared slopes: about as near to the optimum as cai's tolerance
        solver.solve([start] * (HORIZON + 1), actions, 200, False)


if sys.argv[1] == "found":
    solve()
    most = max(solver.iter for solver in solvers)
    print(json.dumps({"mean cost": float(np.mean([solver.cost for solver in solvers])), "iterations": most}))
else:
    serve(solve, calls=1)
