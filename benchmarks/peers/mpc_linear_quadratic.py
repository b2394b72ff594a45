"""The peer's worker: the problem of `linear_quadratic.py` by locuslab's mpc 0.0.6, one iteration each time."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from mpc import mpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from linear_quadratic import BATCH, HORIZON, NUM_ACTIONS, NUM_STATES, arrays
from worker import serve

warnings.filterwarnings("ignore")
direction = sys.argv[1]
leaves = [torch.tensor(value).requires_grad_(direction == "backward") for value in arrays().values()]
c2, c1, f2, f1, start = leaves
solver = mpc.MPC(
    NUM_STATES,
    NUM_ACTIONS,
    HORIZON,
    lqr_iter=1,
    verbose=-1,
    exit_unconverged=False,
    detach_unconverged=False,
    backprop=True,
    n_batch=BATCH,
)


def solve() -> tuple[torch.Tensor, torch.Tensor]:
    """Gives states and actions."""
    states, actions, _ = solver(start, mpc.QuadCost(c2, c1), mpc.LinDx(f2[:-1], f1[:-1]))
    return states, actions


def solve_and_differentiate() -> None:
    """Takes the gradient of sum x^2 + sum u^2."""
    states, actions = solve()
    torch.autograd.grad((states**2).sum() + (actions**2).sum(), leaves)


serve(solve if direction == "forward" else solve_and_differentiate, calls=1)
