"""Stochastic variational inference: the exact loss against Pyro's enumeration of it, and how near the bounds come.

    python benchmarks/svi.py

One thread. Times are medians over turns that the competitors take one after the other, in one process.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import TraceEnum_ELBO

import cai
from cai.methods.guides.family import AbstractFamily, Effort
from cai.methods.guides.fixed_dynamics import FixedDynamicsGuide
from cai.methods.guides.mean_field import MeanFieldGuide


def world(num_states: int, horizon: int) -> cai.TrajectoryGraph:
    """Random dense dynamics with four actions, random rewards, temperature one half."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(num_states, 4, num_states, generator=generator, dtype=torch.float64) ** 4
    return cai.TrajectoryGraph(
        cai.factors.Categorical(torch.full((num_states,), 1 / num_states)),
        cai.factors.TabularDynamics(probs / probs.sum(-1, keepdim=True)),
        cai.factors.TabularReward(torch.randn(num_states, 4, generator=generator, dtype=torch.float64)),
        horizon=horizon,
        temperature=0.5,
    )


def ising(rows: int, columns: int, coupling: float) -> cai.FactorGraph:
    """A grid of spins with random fields, which like to agree."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    fields = torch.randn(len(cells), generator=generator, dtype=torch.float64)
    factors = [cai.Factor((f"x{i},{j}",), 0.3 * field * signs) for (i, j), field in zip(cells, fields, strict=True)]
    for i, j in cells:
        for other in ((i + 1, j), (i, j + 1)):
            if other in cells:
                pair = (f"x{i},{j}", f"x{other[0]},{other[1]}")
                factors.append(cai.Factor(pair, coupling * signs[:, None] * signs))
    return cai.FactorGraph(tuple(cai.Variable(f"x{i},{j}", 2) for i, j in cells), tuple(factors))


def chain(horizon: int) -> cai.TrajectoryGraph:
    """A linear-Gaussian chain of one dimension, whose posterior is a Gaussian of 2 T + 1 numbers."""
    normal, zero = pyro.distributions.Normal, torch.zeros((), dtype=torch.float64)
    return cai.TrajectoryGraph(
        normal(zero, 0.5),
        lambda state, action: normal(0.9 * state + 0.5 * action, 0.3),
        lambda state, action: -((state - 1.0) ** 2) - 0.1 * action**2,
        horizon=horizon,
        action_prior=lambda state: normal(torch.zeros_like(state), 1.5),
    )


def chain_evidence(graph: cai.TrajectoryGraph) -> float:
    """The exact log evidence of the chain, by the Hessian of its log density."""
    program = graph.to_pyro()
    assert graph.horizon is not None
    names = [*(f"s{t}" for t in range(graph.horizon + 1)), *(f"a{t}" for t in range(graph.horizon))]

    def log_density(x: torch.Tensor) -> torch.Tensor:
        data = dict(zip(names, x, strict=True))
        return pyro.poutine.trace(pyro.poutine.condition(program, data=data)).get_trace().log_prob_sum()

    zero = torch.zeros(len(names), dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(log_density, zero)
    precision = -torch.autograd.functional.hessian(log_density, zero)
    log_volume = 0.5 * len(names) * torch.log(torch.tensor(2 * torch.pi)) - 0.5 * precision.logdet()
    return float(log_density(zero) + 0.5 * slope @ torch.linalg.solve(precision, slope) + log_volume)


def losses(title: str, family: AbstractFamily) -> None:
    """Times the loss with its gradient, exact and by Pyro's enumeration, in turns."""
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    runs: dict[str, Callable[[], Any]] = {
        "exact": lambda: family.loss().backward(),
        "TraceEnum_ELBO": lambda: elbo.loss_and_grads(family.model, family.guide),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with family.store.opened():
        for turn in range(6):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if turn:  # the first warms the caches
                    times[name].append(time.perf_counter() - started)
    ours, theirs = (1e3 * statistics.median(seconds) for seconds in times.values())
    print(f"{title:46}{ours:10.2f}{theirs:16.1f}{theirs / ours:10.0f}")


def bounds(title: str, graph: Any, method: cai.AbstractMethod, best: float) -> None:
    """Runs the method, and says what its bound lacks."""
    found = cai.infer(graph, method, seed=0)
    lacks = best - float(found.log_evidence)
    print(f"{title:46}{found.stats.num_steps:8}{found.stats.seconds:10.2f}{lacks:14.2e}  {found.stats.converged}")


def main() -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", cai.NotConverged)
    from cai.methods.svi import SVI

    effort = Effort(1, 1)
    print(f"{'loss and gradient, ms':46}{'exact':>10}{'TraceEnum_ELBO':>16}{'ratio':>10}")
    losses("policies, 20 states, horizon 20", FixedDynamicsGuide().family(world(20, 20), effort, 0))
    losses("independent variables, Ising 4 x 4", MeanFieldGuide().family(ising(4, 4, 0.2), effort, 0))

    print(f"\n{'what the bound lacks, nats':46}{'steps':>8}{'seconds':>10}{'gap':>14}  converged")
    graph = world(20, 20)
    soft = float(cai.infer(graph, cai.SoftValueIteration()).log_evidence)
    bounds("policies, against SoftValueIteration", graph, SVI(), soft)
    for coupling in (0.1, 0.3, 0.6):
        grid = ising(12, 6, coupling)
        exact = float(cai.infer(grid, cai.SumProduct()).log_evidence)
        bounds(f"Ising 12 x 6, coupling {coupling}, against SumProduct", grid, SVI(), exact)
    line = chain(10)
    exact = chain_evidence(line)
    bounds("Gaussian chain, T = 10, AutoMultivariateNormal", line, SVI(), exact)
    bounds("Gaussian chain, T = 10, AutoNormal", line, SVI(guide=pyro.infer.autoguide.AutoNormal), exact)


if __name__ == "__main__":
    main()
