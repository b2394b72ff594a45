"""The peer's worker: QuantEcon's `DiscreteDP` (numba) on the slippery grid at temperature 0, to the same error.

Runs in an environment of its own with quantecon 0.11.4; `benchmarks/README.md` says how to make it. Compilation is not
timed: a small grid is solved first. The goal pays its worth once and is then left for a state that pays nothing, since
the peer knows no terminal states.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse
from quantecon.markov import DiscreteDP

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from grids import DISCOUNT, ERROR, GOAL, matrix


def problem(size: int) -> DiscreteDP:
    """The grid with one more state, in which it rests after the goal."""
    table, num_states = matrix(size), size * size
    last = np.zeros(num_states * 4)
    last[-4:] = 1.0
    table = scipy.sparse.diags(1.0 - last) @ table
    table = scipy.sparse.bmat([[table, last[:, None]], [None, np.ones((4, 1))]], format="csr")
    rewards = np.concatenate([np.full(num_states * 4, -1.0), np.zeros(4)])
    rewards[num_states * 4 - 4 : num_states * 4] = GOAL
    states, actions = np.divmod(np.arange((num_states + 1) * 4), 4)
    return DiscreteDP(rewards, table, DISCOUNT, states, actions)


def main() -> None:
    """Prints seconds, steps and the value of the start as a line of JSON."""
    size, method = int(sys.argv[1]), sys.argv[2]
    problem(10).solve(method=method, epsilon=2 * ERROR)
    grid = problem(size)
    started = time.perf_counter()
    # Its value iteration stops at an error of epsilon / 2 in the maximum norm, modified policy iteration by the span.
    found = grid.solve(method=method, epsilon=2 * ERROR, max_iter=10**6)
    print(json.dumps({"seconds": time.perf_counter() - started, "steps": found.num_iter, "value": float(found.v[0])}))


if __name__ == "__main__":
    main()
