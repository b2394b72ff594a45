"""Scans over time against the loop: one table for all steps, rewards that vary, dynamics that varies.

    python benchmarks/scan.py                              (some ten minutes on one thread)
    python benchmarks/scan.py --methods SumProduct --horizons 10 100 1000
    python benchmarks/scan.py --device cuda                (the same on a CUDA device)

Each number is a whole answer: from a graph to all marginals p(s_t, a_t), dense tables of 4 actions. Loop and scan take
turns, and the medians of their turns are compared. One process, one thread. What `schedule=None` takes is marked; its
rule (`cai.ops.scans.time_schedules.quicker_schedule`) follows from these numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import cai
from cai.methods import AssociativeScan, Sequential

NUM_ACTIONS = 4
KINDS = {"one table": (), "rewards vary": ("reward",), "dynamics varies": ("reward", "dynamics")}
METHODS = ("SumProduct", "MaxProduct", "PolicyEvaluation")
#: Numbers in the tables of all steps beyond which a world is left out.
LARGEST = 2**26


def world(num_states: int, horizon: int, varying: tuple[str, ...], device: str) -> cai.TrajectoryGraph:
    """A random dense world; what varies has tables of its own at every step."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(device)

    def steps(name: str) -> tuple[int, ...]:
        return (horizon,) if name in varying else ()

    rows, initial = uniform(*steps("dynamics"), num_states, NUM_ACTIONS, num_states), uniform(num_states)
    rewards = uniform(*steps("reward"), num_states, NUM_ACTIONS)
    dynamics, reward = cai.factors.TabularDynamics, cai.factors.TabularReward
    return cai.TrajectoryGraph(
        cai.factors.Categorical(initial / initial.sum()),
        (dynamics.per_step if steps("dynamics") else dynamics)(rows / rows.sum(-1, keepdim=True)),
        (reward.per_step if steps("reward") else reward)(rewards),
        horizon=horizon,
        temperature=0.5,
    )


def method(name: str, graph: cai.TrajectoryGraph, schedule: object) -> cai.AbstractMethod:
    """A method by name; the policy to evaluate is uniform."""
    if name != "PolicyEvaluation":
        return getattr(cai, name)(schedule=schedule)
    policy = torch.full((graph.dynamics.num_states, NUM_ACTIONS), 1.0 / NUM_ACTIONS, dtype=torch.float64)
    return cai.PolicyEvaluation(policy, schedule=schedule)


def seconds(name: str, graph: cai.TrajectoryGraph, schedule: object, device: str) -> float:
    """Seconds of one answer."""
    chosen = method(name, graph, schedule)
    started = time.perf_counter()
    cai.infer(graph, chosen).state_action_marginals  # noqa: B018
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(name: str, graph: cai.TrajectoryGraph, device: str, budget: float) -> tuple[float, float]:
    """Median milliseconds of loop and scan, which take turns for so many seconds, at least three times."""
    schedules = (Sequential(), AssociativeScan())
    turns: list[list[float]] = [[], []]
    for schedule in schedules:
        seconds(name, graph, schedule, device)
    started = time.perf_counter()
    while len(turns[0]) < 3 or (time.perf_counter() - started < budget and len(turns[0]) < 25):
        for schedule, own in zip(schedules, turns, strict=True):
            own.append(seconds(name, graph, schedule, device))
    return 1e3 * statistics.median(turns[0]), 1e3 * statistics.median(turns[1])


def main() -> None:
    """Prints a table a method and a kind of world."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--states", nargs="+", type=int, default=[2, 8, 16, 32, 64, 128])
    parser.add_argument("--horizons", nargs="+", type=int, default=[10, 100, 1_000, 10_000])
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of turns a cell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("milliseconds of loop / scan, and their ratio; * is what schedule=None takes")
    for name in options.methods:
        for kind in options.kinds:
            print(f"\n{name}, {kind}\n{'S':>5}" + "".join(f"{f'T = {horizon:,}':>28}" for horizon in options.horizons))
            for num_states in options.states:
                cells = []
                for horizon in options.horizons:
                    numbers = horizon * num_states * NUM_ACTIONS * (num_states if "dynamics" in KINDS[kind] else 1)
                    if numbers > LARGEST:
                        cells.append("-")
                        continue
                    graph = world(num_states, horizon, KINDS[kind], options.device)
                    loop, scan = in_turns(name, graph, options.device, options.budget)
                    taken = isinstance(cai.infer(graph, method(name, graph, None)).schedule, AssociativeScan)
                    cells.append(f"{loop:.1f} / {scan:.1f} = {loop / scan:.1f}{'*' if taken else ' '}")
                print(f"{num_states:5}" + "".join(f"{cell:>28}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
