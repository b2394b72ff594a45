"""Infinite horizons near discount one: Newton's method against sweeps, ours and plain ones in numpy and scipy.

    python benchmarks/infinite.py

Every row answers the same question, the soft value at temperature 0.01, to an error of 1e-6 in the maximum norm: ours
is certified, the plain sweeps stop by the same bound, residual * discount / (1 - discount). One process and one thread;
errors are measured against Newton's answer at tolerance 1e-12.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from problems import graph_500

import cai
from cai.methods import Newton, ValueIteration

ERROR = 1e-6


def plain_sweeps(graph: cai.TrajectoryGraph) -> np.ndarray:
    """Soft value iteration as a reader would write it: V `[S]`."""
    table = graph.dynamics.probs
    matrix = _scipy(table)
    num_states, num_actions = graph.dynamics.num_states, graph.dynamics.num_actions
    reward = _expected_reward(graph)
    alive, alpha = ~graph.dynamics.terminal_mask.numpy(), graph.temperature
    ends = np.zeros(num_states) if graph.terminal_reward is None else graph.terminal_reward.values.numpy()
    v = np.where(alive, 0.0, ends)
    while True:
        q = (reward + graph.discount * (matrix @ v)).reshape(num_states, num_actions) / alpha
        top = q.max(1)
        new = np.where(alive, alpha * (top + np.log(np.exp(q - top[:, None]).mean(1))), ends)
        residual, v = np.abs(new - v).max(), new
        if residual * graph.discount <= ERROR * (1.0 - graph.discount):
            return v


def _scipy(table: torch.Tensor) -> object:
    import scipy.sparse

    if table.layout == torch.strided:
        return scipy.sparse.csr_matrix(table.flatten(0, 1).numpy())
    parts = (table.values().numpy(), table.col_indices().numpy(), table.crow_indices().numpy())
    return scipy.sparse.csr_matrix(parts, shape=tuple(table.shape))


def _expected_reward(graph: cai.TrajectoryGraph) -> np.ndarray:
    """E[r(s, a, s')], `[S * A]`, from our own one-step messages at discount zero."""
    one_step = cai.infer(graph.replace(discount=0.0), cai.SoftValueIteration())
    pairs = torch.arange(graph.dynamics.num_states)[:, None], torch.arange(graph.dynamics.num_actions)
    return one_step.q(*pairs).flatten().numpy()


def best_of(run: Callable[[], object], times: int = 3) -> tuple[float, object]:
    """Seconds of the quickest run, and its answer."""
    seconds, answer = [], None
    for _ in range(times):
        started = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - started)
    return min(seconds), answer


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    lake = cai.from_gym("FrozenLake-v1", map_name="8x8")
    grid = cai.load_model("gridworld", size=100, slip=0.2)
    random = graph_500().replace(action_prior=None)
    print(f"{'world':24}{'discount':>10}  {'method':18}{'seconds':>10}{'steps':>9}{'certified':>12}{'true error':>12}")
    for name, world, discount in [
        ("FrozenLake 8x8", lake, 0.9999),
        ("grid 100 x 100", grid, 0.999),
        ("random, 500 states", random, 0.99),
        ("random, 500 states", random, 0.9999),
    ]:
        graph = world.replace(horizon=None, discount=discount, temperature=0.01)
        states = torch.arange(graph.dynamics.num_states)
        exact = cai.infer(graph, cai.SoftValueIteration(Newton(), tolerance=1e-12)).v(states).numpy()
        scale = max(1.0, np.abs(exact).max())
        for solver in (Newton(), ValueIteration()):
            method = cai.SoftValueIteration(solver, tolerance=ERROR / scale)
            seconds, posterior = best_of(lambda graph=graph, method=method: cai.infer(graph, method), times=2)
            error = np.abs(posterior.v(states).numpy() - exact).max()
            row = f"{type(solver).__name__:18}{seconds:10.3f}{posterior.stats.num_steps:9d}"
            print(f"{name:24}{discount:10}  {row}{posterior.stats.certified_error:12.1e}{error:12.1e}")
        seconds, v = best_of(lambda graph=graph: plain_sweeps(graph), times=1)
        print(f"{name:24}{discount:10}  {'plain sweeps':18}{seconds:10.3f}{'':21}{np.abs(v - exact).max():12.1e}")


if __name__ == "__main__":
    main()
