"""Linear-quadratic control and the Kalman smoother by a scan over time, against the loop.

    python benchmarks/linear_quadratic_scan.py                       (some ten minutes on one thread)
    python benchmarks/linear_quadratic_scan.py --states 4 --batches 1 --horizons 10000
    python benchmarks/linear_quadratic_scan.py --device cuda         (the same on a CUDA device)

Random problems whose matrices differ at every step (or are the same at all, as marked), n states, n / 2 actions or
observed coordinates, float64. Of control a number is all backward messages: values, constants, gains and covariances
of the policy; of the smoother all means and covariances given all observations. Loop and scan take turns, and the
medians of their turns are compared. One process, one thread. What `schedule=None` takes is marked; its rule
(`cai.ops.gaussian.control_scan.pays_to_scan`) follows from these numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cai.ops.gaussian.control_scan import pays_to_scan, solve_by_scan
from cai.ops.gaussian.kalman import LOOP, SCAN, Passes, kalman_filter
from cai.ops.gaussian.marginals import Moments
from cai.ops.gaussian.problem import LinearQuadratic, homogeneous_dynamics, homogeneous_form
from cai.ops.gaussian.riccati import solve
from cai.ops.gaussian.smoother import kalman_smoother
from cai.ops.gaussian.state_space import StateSpace

#: Numbers in the matrices of all steps beyond which a problem is left out.
LARGEST = 2**25


class Draws:
    """Standard normal tensors of one generator."""

    def __init__(self, device: str) -> None:
        self._generator, self._device = torch.Generator().manual_seed(0), device

    def __call__(self, *shape: int) -> Tensor:
        """Draws a tensor of a shape."""
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64).to(self._device)


def transitions(draw: Draws, *shape: int) -> Tensor:
    """Rotations, a little shrunk and disturbed, so that values neither grow nor vanish."""
    rotation = torch.linalg.qr(draw(shape[-1], shape[-1]))[0]
    return 0.98 * rotation + 0.02 * draw(*shape)


def control(horizon: int, num_states: int, batch: int, steps: int, device: str) -> LinearQuadratic:
    """A problem with mixed and linear terms, without noise."""
    draw, n, m = Draws(device), num_states, max(1, num_states // 2)
    root = 0.3 * draw(steps, batch, n + 1 + m, n + 1 + m)
    cost = root @ root.mT + 0.5 * torch.eye(n + 1 + m, dtype=torch.float64, device=device)
    a = transitions(draw, steps, batch, n, n)
    return LinearQuadratic(
        dynamics=homogeneous_dynamics(a, 0.3 * draw(steps, batch, n, m), 0.1 * draw(steps, batch, n)),
        noise=None,
        cost=cost,
        reward=cost,
        end=homogeneous_form(torch.eye(n, device=device).double(), 0.1 * draw(n), draw(1)[0]).expand(batch, -1, -1),
        initial_mean=draw(batch, n),
        initial_covariance=None,
        temperature=1.0,
        discount=1.0,
        horizon=horizon,
    )


def hidden(horizon: int, num_states: int, batch: int, steps: int, device: str) -> tuple[StateSpace, Tensor]:
    """A state space with observations to smooth."""
    draw, n, k = Draws(device), num_states, max(1, num_states // 2)
    times = steps + 1 if steps > 1 else 1
    noise, seen = 0.3 * draw(steps, batch, n, n), 0.5 * draw(times, batch, k, k)
    space = StateSpace(
        transition=transitions(draw, steps, batch, n, n),
        offset=draw(steps, batch, n),
        noise=noise @ noise.mT,
        observation=draw(times, batch, k, n),
        observation_offset=draw(times, batch, k),
        observation_noise=seen @ seen.mT + torch.eye(k, dtype=torch.float64, device=device),
        initial=Moments(draw(batch, n), torch.eye(n, dtype=torch.float64, device=device).expand(batch, n, n)),
        horizon=horizon,
    )
    return space, draw(horizon + 1, batch, k)


def smoothed(passes: Passes, space: StateSpace, observations: Tensor) -> Moments:
    """The filter and the smoother."""
    return kalman_smoother(kalman_filter(space, observations, passes), passes)


def pair(kind: str, horizon: int, num_states: int, batch: int, device: str) -> list[Callable[[], object]]:
    """Loop and scan of a kind of problem."""
    steps = 1 if "constant" in kind else horizon
    if "control" in kind:
        problem = control(horizon, num_states, batch, steps, device)
        return [lambda: solve(problem, 0.0), lambda: solve_by_scan(problem, 0.0)]
    space, observations = hidden(horizon, num_states, batch, steps, device)
    return [lambda: smoothed(LOOP, space, observations), lambda: smoothed(SCAN, space, observations)]


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of one answer."""
    started = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(ways: list[Callable[[], object]], device: str, budget: float) -> list[float]:
    """Median milliseconds of each way; they take turns for so many seconds, at least three times."""
    turns: list[list[float]] = [[] for _ in ways]
    for way in ways:
        seconds(way, device)
    started = time.perf_counter()
    while len(turns[0]) < 3 or (time.perf_counter() - started < budget and len(turns[0]) < 25):
        for way, own in zip(ways, turns, strict=True):
            own.append(seconds(way, device))
    return [1e3 * statistics.median(own) for own in turns]


def from_where(ratios: dict[int, float]) -> str:
    """The shortest horizon from which on the scan is quicker at all that were measured."""
    paying = None
    for horizon in sorted(ratios, reverse=True):
        if ratios[horizon] <= 1.0:
            break
        paying = horizon
    return "never" if paying is None else f"T = {paying:,}"


KINDS = ("control", "control, constant", "smoother")


def main() -> None:
    """Prints a table for each kind of problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--states", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--horizons", nargs="+", type=int, default=[30, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of turns a cell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("milliseconds of loop / scan, and their ratio; * is what schedule=None takes")
    for kind in options.kinds:
        header = "".join(f"{f'T = {horizon:,}':>28}" for horizon in options.horizons)
        print(f"\n{kind}\n{'n':>4}{'batch':>7}{header}    the scan pays from")
        for num_states in options.states:
            for batch in options.batches:
                cells, ratios = [], {}
                for horizon in options.horizons:
                    if horizon * batch * (2 * num_states + 1) ** 2 > LARGEST:
                        cells.append("-")
                        continue
                    ways = pair(kind, horizon, num_states, batch, options.device)
                    with torch.no_grad():
                        loop, scan = in_turns(ways, options.device, options.budget)
                    taken = pays_to_scan(batch, horizon, num_states)
                    ratios[horizon] = loop / scan
                    cells.append(f"{loop:.1f} / {scan:.1f} = {loop / scan:.1f}{'*' if taken else ' '}")
                print(f"{num_states:4}{batch:7}" + "".join(f"{cell:>28}" for cell in cells), end="")
                print(f"    {from_where(ratios)}", flush=True)


if __name__ == "__main__":
    main()
