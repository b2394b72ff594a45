"""Batched linear-quadratic control, forward and with gradients, against a bare torch loop and locuslab's mpc.

    python benchmarks/linear_quadratic.py --peer-python PATH/TO/python      (an environment with mpc 0.0.6)
    python benchmarks/linear_quadratic.py                                   (without that peer)

128 problems of 50 steps, 8 state and 4 action coordinates, everything different at every step and in every problem,
float64. Forward: gains and the mean trajectory. Backward: the gradient of sum x^2 + sum u^2 with respect to all
matrices, vectors and starts. The bare loop is the Riccati recursion that one would write by hand, with batched Cholesky
factors, and autograd through it. `infer` starts from factors in memory, `matrices` from the tensors that they become.
Workers are processes of their own and take turns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BATCH, HORIZON, NUM_STATES, NUM_ACTIONS = 128, 50, 8, 4


def arrays() -> dict[str, np.ndarray]:
    """The problem: cost C, c over [x; u], dynamics F, f of the next state, start x; time first, then the batch."""
    g, size = np.random.default_rng(0), NUM_STATES + NUM_ACTIONS
    steps = g.normal(size=(HORIZON, BATCH, NUM_STATES, NUM_STATES))
    acts = g.normal(size=(HORIZON, BATCH, NUM_STATES, NUM_ACTIONS))
    root = 0.3 * g.normal(size=(HORIZON, BATCH, size, size))
    return {
        "C": root @ root.transpose(0, 1, 3, 2) + 0.1 * np.eye(size),
        "c": 0.3 * g.normal(size=(HORIZON, BATCH, size)),
        "F": np.concatenate([np.eye(NUM_STATES) + 0.1 * steps, 0.3 * acts], -1),
        "f": 0.1 * g.normal(size=(HORIZON, BATCH, NUM_STATES)),
        "x": g.normal(size=(BATCH, NUM_STATES)),
    }


def _tensors(*, learned: bool) -> list[Any]:
    import torch

    return [torch.tensor(value).requires_grad_(learned) for value in arrays().values()]


def _serve(solve: Any, direction: str, *, leaves: list[Any] | None = None) -> None:
    import torch
    from worker import serve

    if direction == "forward":
        with torch.no_grad():
            serve(solve, calls=3)
        return

    def run() -> Any:
        states, actions = solve()
        return torch.autograd.grad((states**2).sum() + (actions**2).sum(), leaves)

    serve(run, calls=2)


def bare(direction: str) -> None:
    """The Riccati recursion as one writes it, and autograd through it."""
    import torch

    leaves = _tensors(learned=direction == "backward")
    c2, c1, f2, f1, start = leaves
    n = NUM_STATES

    def solve() -> Any:
        p, linear, gains, feeds = None, None, [], []
        for t in range(HORIZON - 1, -1, -1):
            h, g = c2[t], c1[t]
            if p is not None:
                fp = f2[t].mT @ p
                h = h + fp @ f2[t]
                g = g + (fp @ f1[t][..., None] + f2[t].mT @ linear[..., None])[..., 0]
            factor = torch.linalg.cholesky(h[:, n:, n:])
            both = -torch.cholesky_solve(torch.cat([h[:, n:, :n], g[:, n:, None]], -1), factor)
            gain, feed = both[..., :n], both[..., n]
            p = h[:, :n, :n] + h[:, n:, :n].mT @ gain
            p = 0.5 * (p + p.mT)
            linear = g[:, :n] + (h[:, n:, :n].mT @ feed[..., None])[..., 0]
            gains.append(gain)
            feeds.append(feed)
        x, states, actions = start, [], []
        for t in range(HORIZON):
            u = (gains[-1 - t] @ x[..., None])[..., 0] + feeds[-1 - t]
            states.append(x)
            actions.append(u)
            x = (f2[t] @ torch.cat([x, u], -1)[..., None])[..., 0] + f1[t]
        return torch.stack(states), torch.stack(actions)

    _serve(solve, direction, leaves=leaves)


def by_infer(direction: str) -> None:
    """The public way: factors, `infer`, the means of the marginals."""
    import cai
    from cai import factors

    c2, c1, f2, f1, start = _tensors(learned=False)
    n = NUM_STATES
    parts = [f2[..., :n], f2[..., n:], f1, c2[..., :n, :n], c2[..., n:, n:], c2[..., n:, :n], c1[..., :n], c1[..., n:]]
    leaves = [part.contiguous().requires_grad_(direction == "backward") for part in (start, *parts)]
    start, a, b, offset, *reward = leaves
    method = cai.SoftValueIteration(schedule=cai.methods.Sequential())

    def build() -> cai.TrajectoryGraph:
        return cai.TrajectoryGraph(
            factors.Delta(start),
            factors.LinearGaussianDynamics.per_step(a, b, offset=offset),
            factors.QuadraticReward.per_step(*reward),
            horizon=HORIZON,
        )

    graph = build()

    def solve() -> Any:
        means = cai.infer(graph if direction == "forward" else build(), method).mean_trajectory
        return means.states[:, :-1], means.actions

    _serve(solve, direction, leaves=leaves)


def by_matrices(direction: str) -> None:
    """The kernel: homogeneous matrices, the recursion, the mean trajectory."""
    import torch

    from cai.ops.gaussian.marginals import optimal_path
    from cai.ops.gaussian.problem import LinearQuadratic, homogeneous_dynamics
    from cai.ops.gaussian.riccati import solve as solve_riccati

    with torch.no_grad():
        c2, c1, f2, f1, start = _tensors(learned=False)
        n, k = NUM_STATES, NUM_STATES + 1
        cost = torch.zeros(HORIZON, BATCH, k + NUM_ACTIONS, k + NUM_ACTIONS, dtype=c2.dtype)
        places = torch.tensor([i for i in range(k + NUM_ACTIONS) if i != n])
        cost[..., places[:, None], places] = c2
        cost[..., places, n] = cost[..., n, places] = c1
        dynamics = homogeneous_dynamics(f2[..., :n], f2[..., n:], f1)
        end = torch.zeros(BATCH, k, k, dtype=c2.dtype)
    leaves = [part.requires_grad_(direction == "backward") for part in (dynamics, cost, start)]

    def solve() -> Any:
        problem = LinearQuadratic(dynamics, None, cost, cost, end, start, None, 1.0, 1.0, HORIZON)
        path = optimal_path(problem, solve_riccati(problem, 0.0), 0.0, start)
        return path[:-1, ..., :n], path[:-1, ..., k:]

    _serve(solve, direction, leaves=leaves)


WORKERS = {"bare": bare, "infer": by_infer, "matrices": by_matrices}


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    options = director_options(__doc__.splitlines()[0], WORKERS, peer="mpc 0.0.6", rounds=7)
    if options is None:
        return
    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    for direction in ("forward", "backward"):
        workers = {
            "cai, matrices": [*me, "matrices", direction],
            "cai, infer": [*me, "infer", direction],
            "bare loop": [*me, "bare", direction],
        }
        if options.peer_python:
            workers["mpc"] = [options.peer_python, str(HERE / "peers" / "mpc_linear_quadratic.py"), direction]
        times = interleaved(workers, options.rounds)
        for against in ("bare loop", "mpc"):
            if against in workers:
                print(f"\n{direction}, against {against}")
                print(report(times, against))


if __name__ == "__main__":
    main()
