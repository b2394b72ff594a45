"""Large sparse worlds: a grid of a million states against plain sweeps and QuantEcon, one sweep, cost against size.

    python benchmarks/scale.py grid [--size 1000] [--rounds 1] [--peer-python PYTHON]
    python benchmarks/scale.py sweep [--size 1000]
    python benchmarks/scale.py cost [--picture FILE]
    python benchmarks/scale.py solvers
    python benchmarks/scale.py gradient [--size 320]

Every part runs its workers one after the other, each in a process of its own. `grid`: the soft value at temperature 0.1
(and the hard one) of the grid of `grids.py` at discount 0.999, to an error of 1e-6 in the maximum norm.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from grids import DISCOUNT, ERROR, GOAL, TEMPERATURE, matrix, successors

HERE = Path(__file__).resolve().parent


def graph_of(size: int, temperature: float = TEMPERATURE) -> Any:
    """The grid as a graph."""
    import torch

    import cai

    nexts, probs = successors(size)
    terminal, start = np.zeros(size * size, dtype=bool), np.zeros(size * size)
    terminal[-1], start[0] = True, 1.0
    ends = np.zeros(size * size)
    ends[-1] = GOAL
    return cai.TrajectoryGraph(
        cai.factors.Categorical(start),
        cai.factors.TabularDynamics.from_successors(nexts, probs, terminal=torch.as_tensor(terminal)),
        cai.factors.TabularReward(np.full(size * size, -1.0)),
        terminal_reward=cai.factors.TabularReward(ends),
        discount=DISCOUNT,
        temperature=temperature,
    )


def plain_sweeps(table: scipy.sparse.csr_matrix, temperature: float) -> tuple[np.ndarray, int]:
    """Value iteration with span stopping, as a reader would write it: V `[S]` and the number of sweeps."""
    v, steps = np.zeros(table.shape[1]), 0
    v[-1] = GOAL
    while True:
        q = (DISCOUNT * (table @ v) - 1.0).reshape(-1, 4)
        new = q.max(1)
        if temperature > 0.0:
            new += temperature * np.log(np.exp((q - new[:, None]) / temperature).mean(1))
        new[-1] = GOAL
        change, v, steps = new - v, new, steps + 1
        reach = DISCOUNT / (1.0 - DISCOUNT) / 2
        if reach * (change.max() - change.min()) <= ERROR:
            v[:-1] += reach * (change.max() + change.min())
            return v, steps


def grid_plain(size: str, temperature: str) -> dict[str, float]:
    """Plain sweeps on the grid."""
    table = matrix(int(size))
    started = time.perf_counter()
    v, steps = plain_sweeps(table, float(temperature))
    return {"seconds": time.perf_counter() - started, "steps": steps, "value": float(v[0])}


def grid_cai(size: str, temperature: str, solver: str = "None") -> dict[str, float]:
    """The library on the grid, from the graph to the certified answer."""
    import cai

    graph = graph_of(int(size), float(temperature))
    with_solver = None if solver == "None" else getattr(cai.methods, solver)()
    scale = 1.0 / (1.0 - DISCOUNT)  # no value is larger
    started = time.perf_counter()
    posterior = cai.infer(graph, cai.SoftValueIteration(with_solver, tolerance=ERROR / scale))
    seconds, stats = time.perf_counter() - started, posterior.stats
    value = float(posterior.v(0))
    return {"seconds": seconds, "steps": stats.num_steps, "certified": stats.certified_error, "value": value}


def one_sweep(size: str, threads: str) -> dict[str, float]:
    """A sweep, a bare scipy product with the same table, a sweep in plain torch, a copy: seconds, in turns."""
    import torch

    from cai.graph.tabulate import tabulate
    from cai.ops.infinite.fixed_point import Stationary
    from cai.ops.readings import FixedDynamics
    from cai.ops.threads import threads_for

    torch.set_num_threads(int(threads))
    table, tables = matrix(int(size)), tabulate(graph_of(int(size)))
    v = torch.randn(tables.num_states, dtype=torch.float64)
    sweep = Stationary(tables, FixedDynamics()).sweep_once
    parts = (torch.as_tensor(table.indptr), torch.as_tensor(table.indices), torch.as_tensor(table.data))
    product = torch.sparse_csr_tensor(*parts, table.shape)
    vector, target, source = v.numpy(), np.empty(2**24), np.ones(2**24)

    def naive() -> torch.Tensor:
        q = (DISCOUNT * (product @ v) - 1.0).view(-1, 4) / TEMPERATURE
        return TEMPERATURE * torch.logsumexp(q - np.log(4.0), -1)

    runs: dict[str, Callable[[], Any]] = {
        "cai": lambda: sweep(v),
        "scipy": lambda: table @ vector,
        "torch": naive,
        "copy": lambda: np.copyto(target, source),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with threads_for(tables.num_entries):  # as the methods do
        for _ in range(9):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    # What a sweep must read and write: values, columns and row starts of the table, V twice.
    moved = table.nnz * 12 + table.shape[0] * 4 + 16 * table.shape[1]
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return medians | {"bytes": moved, "bandwidth": 2 * target.nbytes / medians.pop("copy")}


def gradient(size: str) -> dict[str, float]:
    """Gradient of all values with respect to rewards and transitions: seconds, and how much memory it added."""
    import torch

    import cai

    graph = graph_of(int(size))
    table = graph.dynamics.transition_tables()[0]
    values = table.values.clone().requires_grad_()
    rewards = torch.full((table.num_states, 4), -1.0, dtype=torch.float64, requires_grad=True)
    parts = {"tables": (table.reweighted(values),), "terminal": graph.dynamics.terminal_mask, "time_varying": False}
    learning = graph.replace(
        reward=cai.factors.TabularReward(rewards), dynamics=cai.factors.TabularDynamics.unpack(parts)
    )
    started = time.perf_counter()
    posterior = cai.infer(learning, cai.SoftValueIteration(tolerance=1e-9))
    solved = time.perf_counter()
    torch.autograd.grad(posterior.v(torch.arange(table.num_states)).mean(), [rewards, values])
    done = time.perf_counter()
    return {"seconds": solved - started, "adjoint": done - solved, "states": table.num_states}


def solver_on(world: str, solver: str) -> dict[str, float]:
    """One solver on one world."""
    import cai

    graph = WORLDS[world]()
    with_solver = None if solver == "None" else getattr(cai.methods, solver)()
    started = time.perf_counter()
    posterior = cai.infer(graph, cai.SoftValueIteration(with_solver, tolerance=1e-8, max_steps=20_000))
    stats = posterior.stats
    return {"seconds": time.perf_counter() - started, "steps": stats.num_steps, "certified": stats.certified_error}


def maze(size: int, **options: Any) -> Callable[[], Any]:
    """Four rooms."""
    import cai

    common = {"slip": 0.2, "discount": 0.999, "temperature": 0.1}
    return lambda: cai.load_model("gridworld", size=size, **(common | options))


def mixing(num_states: int, discount: float) -> Callable[[], Any]:
    """Random successors: states mix within a few steps."""
    import cai

    def build() -> Any:
        rng = np.random.default_rng(0)
        return cai.TrajectoryGraph(
            cai.factors.Categorical(np.full(num_states, 1.0 / num_states)),
            cai.factors.TabularDynamics.from_successors(
                rng.integers(0, num_states, (num_states, 4, 4)), rng.dirichlet(np.ones(4), (num_states, 4))
            ),
            cai.factors.TabularReward(rng.normal(size=(num_states, 4))),
            discount=discount,
            temperature=0.1,
        )

    return build


WORLDS: dict[str, Callable[[], Any]] = {
    "maze 30 x 30, 0.99": maze(30, discount=0.99),
    "maze 200 x 200, 0.999": maze(200),
    "maze 200 x 200, dry, first exit": maze(200, slip=0.0, discount=1.0),
    "maze 200 x 200, hot": maze(200, temperature=3.0),
    "maze 200 x 200, hard": maze(200, temperature=0.0),
    "mixing, 1,000 states, 0.9": mixing(1_000, 0.9),
    "mixing, 100,000 states, 0.9999": mixing(100_000, 0.9999),
}
SOLVERS = (
    "None", "ValueIteration", "ModifiedPolicyIteration", "Newton", "NewtonKrylov", "Anderson", "PrioritisedSweeps",
)  # fmt: skip


def ask(worker: str, *arguments: Any, python: str = sys.executable, script: Path = Path(__file__)) -> dict[str, Any]:
    """Runs a worker in a process of its own: what it found, and the most memory it held."""
    flags = ["--worker", worker] if script == Path(__file__) else []
    command = [python, str(script), *flags, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE)
    return json.loads(done.stdout.splitlines()[-1])


def show_grid(options: argparse.Namespace) -> None:
    """The grid, in turns."""
    for _ in range(options.rounds):
        for temperature in (TEMPERATURE, 0.0):
            rows = {
                "plain sweeps (scipy)": ask("grid_plain", options.size, temperature),
                "cai": ask("grid_cai", options.size, temperature),
            }
            if options.peer_python and temperature == 0.0:
                for method in ("modified_policy_iteration", "value_iteration"):
                    peer = HERE / "peers" / "quantecon_grid.py"
                    arguments = (options.size, method)
                    rows[f"quantecon, {method}"] = ask("", *arguments, python=options.peer_python, script=peer)
            print(f"{options.size} x {options.size}, temperature {temperature}")
            for name, row in rows.items():
                ratio = rows["plain sweeps (scipy)"]["seconds"] / row["seconds"]
                details = "  ".join(f"{key} {value:.10g}" for key, value in row.items() if key != "seconds")
                print(f"  {name:40}{row['seconds']:10.2f} s  {ratio:7.1f} x  {details}", flush=True)


def show_sweep(options: argparse.Namespace) -> None:
    """One sweep against a bare product."""
    for threads in (1, 2):
        row = ask("one_sweep", options.size, threads)
        floor = row["bytes"] / row["bandwidth"]
        for name in ("cai", "torch", "scipy"):
            print(
                f"{threads} threads  {name:8}{1e3 * row[name]:10.2f} ms  {row[name] / row['scipy']:6.2f} products  "
                f"{row[name] / floor:6.2f} times the copy of its {row['bytes'] / 1e6:.0f} MB",
                flush=True,
            )


def show_cost(options: argparse.Namespace) -> None:
    """Cost against size."""
    rows = []
    for size in (32, 100, 200, 500, 1000, 1500, 2000):
        sweep, solved = ask("one_sweep", size, 2), ask("grid_cai", size, TEMPERATURE)
        floor = sweep["bytes"] / sweep["bandwidth"]
        rows.append((size * size, sweep["cai"], floor, solved["steps"], solved["seconds"], solved["memory"]))
        states, seconds, least, steps, total, memory = rows[-1]
        print(
            f"{states:10,} states  sweep {1e3 * seconds:9.3f} ms  floor {1e3 * least:8.3f} ms  {seconds / least:6.1f}  "
            f"steps {steps:3d}  solved in {total:8.2f} s  {memory:6.2f} GiB",
            flush=True,
        )
    if options.picture:
        _draw(np.array(rows), options.picture)


def _draw(rows: np.ndarray, file: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    states, sweep, floor, _, total, memory = rows.T
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    axes[0].loglog(states, total, "o-", label="certified answer (1e-6)")
    axes[0].loglog(states, sweep, "s-", label="one sweep")
    axes[0].loglog(states, floor, "--", color="grey", label="copying a sweep's bytes")
    axes[0].set(xlabel="states", ylabel="seconds", title="Time")
    axes[0].legend(frameon=False)
    axes[1].loglog(states, memory, "o-")
    axes[1].set(xlabel="states", ylabel="GiB", title="Peak memory of the process")
    figure.savefig(file, dpi=120)


def show_solvers(_: argparse.Namespace) -> None:
    """Every solver on every world."""
    for world in WORLDS:
        for solver in SOLVERS:
            try:
                row = ask("solver_on", world, solver)
                text = f"{row['seconds']:9.3f} s  {row['steps']:6d} steps  certified {row['certified']:.1e}"
            except subprocess.CalledProcessError as error:
                text = error.stderr.strip().splitlines()[-1][:80]
            print(f"{world:34}{solver:26}{text}", flush=True)


def show_gradient(options: argparse.Namespace) -> None:
    """Gradients of 100,000 states."""
    row = ask("gradient", min(options.size, 320))
    print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def main() -> None:
    """Runs one part."""
    shows = {"grid": show_grid, "sweep": show_sweep, "cost": show_cost, "solvers": show_solvers}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=[*shows, "gradient"], default="grid")
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer-python", help="the Python of an environment with quantecon 0.11.4")
    parser.add_argument("--picture", help="where `cost` draws its figure")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.worker:
        (shows | {"gradient": show_gradient})[options.part](options)
        return
    name, *arguments = options.worker
    workers = (grid_plain, grid_cai, one_sweep, solver_on, gradient)
    found = next(worker for worker in workers if worker.__name__ == name)(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found | {"memory": memory}))


if __name__ == "__main__":
    main()
