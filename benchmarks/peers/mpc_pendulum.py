"""The peer's worker: box-constrained iterative LQR of locuslab's mpc 0.0.6 on its own pendulum, in float32.

Runs in an environment of its own; `benchmarks/README.md` says how to make it. The first argument is the most
iterations; it ends before where no action moves by more than 0.01. Its own code prints warnings, which are held back.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
from mpc import mpc
from mpc.env_dx import pendulum

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from worker import serve

BATCH, HORIZON = 128, 20
model = pendulum.PendulumDx()
generator = torch.Generator().manual_seed(0)
angles = (torch.rand(BATCH, generator=generator) - 0.5) * 6.28
speeds = (torch.rand(BATCH, generator=generator) - 0.5) * 2
starts = torch.stack([torch.cos(angles), torch.sin(angles), speeds], 1)
quadratic, linear = model.get_true_obj()
cost = mpc.QuadCost(torch.diag(quadratic).repeat(HORIZON, BATCH, 1, 1), linear.repeat(HORIZON, BATCH, 1))


def solve() -> torch.Tensor:
    """One batched call: the cost of each plan."""
    controller = mpc.MPC(
        model.n_state,
        model.n_ctrl,
        HORIZON,
        u_lower=model.lower,
        u_upper=model.upper,
        lqr_iter=int(sys.argv[1]),
        verbose=-1,
        exit_unconverged=False,
        detach_unconverged=False,
        linesearch_decay=model.linesearch_decay,
        max_linesearch_iter=model.max_linesearch_iter,
        grad_method=mpc.GradMethods.AUTO_DIFF,
        eps=1e-2,
        n_batch=BATCH,
        backprop=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return controller(starts, cost, model)[2]


if sys.argv[2] == "found":
    print(json.dumps({"mean cost": float(solve().mean())}))
else:
    serve(solve, calls=1)
