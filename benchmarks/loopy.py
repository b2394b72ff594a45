"""Loopy belief propagation on a 64 x 64 grid of 8 labels: 1,000 sweeps, against numpy, PGMax and the memory's speed.

    python benchmarks/loopy.py
    python benchmarks/loopy.py --peer-python PATH/TO/python      (an environment with pgmax 0.6.1 and jax 0.4.20)
    python benchmarks/loopy.py --schedules                       (which schedules settle on spin glasses)

All potentials are random normal numbers, strong enough that the messages do not settle. `cai` is timed from the graph
to all marginals, the others for their sweeps alone. Workers are processes of their own and take turns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SIZE, NUM_LABELS, NUM_SWEEPS, SCALE = 64, 8, 1_000, 2.5


def grid(tables: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives unary log potentials `[N, 8]`, edges `[F, 2]` and pairwise ones `[F, 8, 8]`, "different" or "shared"."""
    random = np.random.default_rng(0)
    cells = np.arange(SIZE**2).reshape(SIZE, SIZE)
    right = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], 1)
    down = np.stack([cells[:-1].ravel(), cells[1:].ravel()], 1)
    edges = np.concatenate([right, down])
    unary = SCALE * random.normal(size=(SIZE**2, NUM_LABELS))
    count = 1 if tables == "shared" else len(edges)
    pairs = SCALE * random.normal(size=(count, NUM_LABELS, NUM_LABELS))
    return unary, edges, np.broadcast_to(pairs, (len(edges), NUM_LABELS, NUM_LABELS))


def cai_sweeps(tables: str) -> None:
    """From the graph to all marginals."""
    import warnings

    from worker import serve

    import cai

    warnings.simplefilter("ignore", cai.NotConverged)
    unary, edges, pairs = grid(tables)
    names = [f"x{i}" for i in range(len(unary))]
    factors = [cai.Factor((name,), table) for name, table in zip(names, unary, strict=True)]
    factors += [cai.Factor((names[i], names[j]), table) for (i, j), table in zip(edges, pairs, strict=True)]
    graph = cai.FactorGraph(tuple(cai.Variable(name, NUM_LABELS) for name in names), tuple(factors))
    method = cai.LoopyBeliefPropagation(max_steps=NUM_SWEEPS)

    def run() -> None:
        posterior = cai.infer(graph, method)
        assert posterior.stats.num_steps == NUM_SWEEPS
        assert len(posterior.marginals) == SIZE**2

    serve(run, calls=1)


def numpy_sweeps(tables: str) -> None:
    """The same in logarithms: whole arrays, each message normalised, sums over neighbours by sorted edges."""
    from worker import serve

    unary, edges, pairs = grid(tables)
    count = len(edges)
    target = np.concatenate([edges[:, 0], edges[:, 1]])
    order = np.argsort(target, kind="stable")
    starts = np.flatnonzero(np.diff(target[order], prepend=-1))

    def reduced(logs: np.ndarray, axis: int) -> np.ndarray:
        top = logs.max(axis, keepdims=True)
        logs -= top
        np.exp(logs, out=logs)
        return np.log(logs.sum(axis)) + top.squeeze(axis)

    def run() -> None:
        told = np.zeros((2 * count, NUM_LABELS))
        for _ in range(NUM_SWEEPS):
            beliefs = unary + np.add.reduceat(told[order], starts)
            heard = beliefs[target] - told
            heard -= heard.max(1, keepdims=True)
            told[:count] = reduced(pairs + heard[count:, None, :], 2)
            told[count:] = reduced(pairs + heard[:count, :, None], 1)

    serve(run, calls=1)


def copies(tables: str) -> None:
    """The floor: as many bytes moved as 1,000 sweeps must read and write, by copies too large for any cache."""
    from worker import serve

    _, edges, _ = grid(tables)
    messages = 2 * 2 * len(edges) * NUM_LABELS * 8  # read once, written once
    moved = NUM_SWEEPS * (messages + (1 if tables == "shared" else len(edges)) * NUM_LABELS**2 * 8)
    source = np.ones(2**25)
    target = np.empty_like(source)
    num_copies = max(1, round(moved / (2 * source.nbytes)))

    def run() -> None:
        for _ in range(num_copies):
            np.copyto(target, source)

    serve(run, calls=1)


def spin_glass(seed: int) -> Any:
    """A 10 x 10 grid of spins s = +-1: couplings from -1.5 to 1.5, fields of standard deviation 0.5."""
    import cai

    random, spin = np.random.default_rng(seed), np.array([-1.0, 1.0])
    cells = [(row, column) for row in range(10) for column in range(10)]
    factors = [cai.Factor((f"x{cell}",), 0.5 * random.normal() * spin) for cell in cells]
    for row, column in cells:
        for other in ((row + 1, column), (row, column + 1)):
            if other in cells:
                table = random.uniform(-1.5, 1.5) * np.outer(spin, spin)
                factors.append(cai.Factor((f"x{(row, column)}", f"x{other}"), table))
    return cai.FactorGraph(tuple(cai.Variable(f"x{cell}", 2) for cell in cells), tuple(factors))


def schedules(count: int = 10) -> None:
    """Prints how many spin glasses each schedule settles on within 3,000 sweeps."""
    import statistics
    import warnings

    import cai

    warnings.simplefilter("ignore", cai.NotConverged)
    options = {"Flooding()": {}, "Flooding(), damping 0.5": {"damping": 0.5}}
    options |= {f"Residual({share})": {"schedule": cai.methods.Residual(share)} for share in (0.2, 0.1, 0.05, 0.02)}
    print(f"{'':28}settled of {count}   sweeps, median of those")
    for name, chosen in options.items():
        method = cai.LoopyBeliefPropagation(max_steps=3_000, **chosen)
        stats = [cai.infer(spin_glass(seed), method).stats for seed in range(count)]
        sweeps = [one.num_steps for one in stats if one.converged]
        print(f"{name:28}{len(sweeps):13}{statistics.median(sweeps):26.0f}")


WORKERS = {"cai": cai_sweeps, "numpy": numpy_sweeps, "copies": copies}


def main() -> None:
    """Runs the director, or one of its workers."""
    from interleave import director_options, interleaved, report

    flags = {"--schedules": "count on how many spin glasses each settles"}
    options = director_options(
        __doc__.splitlines()[0], WORKERS, peer="pgmax 0.6.1 and jax 0.4.20", rounds=5, flags=flags
    )
    if options is None:
        return
    if options.schedules:
        schedules()
        return

    me = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    for tables in ("different", "shared"):
        names = {"cai LoopyBeliefPropagation": "cai", "numpy": "numpy", "the bytes of it, copied": "copies"}
        workers = {name: [*me, worker, tables] for name, worker in names.items()}
        print(f"\n64 x 64 variables of 8 labels, 1,000 sweeps, {tables} tables")
        print(report(interleaved(workers, options.rounds), "numpy"))
    if options.peer_python:
        peer = [options.peer_python, str(HERE / "peers" / "pgmax_sweeps.py")]
        workers = {"cai LoopyBeliefPropagation": [*me, "cai", "different"], "PGMax": [*peer, str(NUM_SWEEPS)]}
        print("\nthe same against PGMax on the CPU, different tables")
        print(report(interleaved(workers, 1), "PGMax"))


if __name__ == "__main__":
    main()
