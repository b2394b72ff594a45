"""How far what was learned is from the exact answer, where the tables are known too.

q_error             max over reachable, non-terminal (s, a) of |q(s, a) - q*(s, a)|
v_error             max over reachable, non-terminal s of |v(s) - v*(s)|
policy_kl           sum_s w(s) KL(pi(. | s) || pi*(. | s)),     w in proportion to the exact discounted visits
marginal_distance   1/2 sum_s |d(s) - d*(s)|,                   d the state marginals of the infinite horizon
evidence_gap        log evidence minus the bound on it of the learned policy
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from cai.errors import IncompatibleMethod, Unavailable
from cai.factors.protocols import TabulatedDynamics
from cai.graph.tabulate import tabulate
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.callbacks.base import AbstractCallback, earlier_rows, need_answers
from cai.inference.method import AbstractMethod, Progress
from cai.inference.posterior import Posterior


class ExactComparison(AbstractCallback):
    """Logs the distance of what is learned to the exact answer, on graphs with tables.

    Adds `q_error` and `v_error` (reward units), `policy_kl` and `evidence_gap` (nats) and `marginal_distance` (between
    0 and 1) to the metrics of the step; the doc string of the module has the equations. What the learned posterior does
    not have is left out, and so is what needs a positive temperature where it is zero. The last step is compared too.

    What learns from samples answers the stationary problem: the horizon that cuts its episodes off does not count.

    Args:
        exact: The exact answer of the same graph with `horizon=None`, such as
            `cai.infer(graph.replace(horizon=None), cai.SoftValueIteration())`.
        interval: Environment steps between two comparisons.

    Raises:
        ValueError: The answer is not one of an infinite horizon on tables.
    """

    def __init__(self, exact: Posterior, interval: int = 1000) -> None:
        if not isinstance(exact, Posterior):
            raise ValueError(f"ExactComparison: expected a posterior, got {type(exact).__name__}")
        graph = exact.graph
        if not isinstance(graph, TrajectoryGraph) or not isinstance(graph.dynamics, TabulatedDynamics):
            raise ValueError("ExactComparison: the exact answer is not one of a graph with tables")
        if graph.horizon is not None:
            raise ValueError(
                f"ExactComparison: the exact answer has the horizon {graph.horizon}, and what learns from samples has "
                "none; ask the exact method about graph.replace(horizon=None)"
            )
        if operator.index(interval) < 1:
            raise ValueError(f"ExactComparison: interval must be at least 1, got {interval}")
        self.exact, self.interval = exact, interval

    def on_start(self, graph: Any, method: AbstractMethod) -> None:
        """Reads the exact answer.

        Raises:
            IncompatibleMethod: The method has no answer before it is done, or learns on a graph of other sizes.
        """
        need_answers(self, method)
        dynamics, tables = graph.dynamics, self.exact.graph.dynamics
        sizes = (tables.num_states, tables.num_actions)
        if not isinstance(dynamics, TabulatedDynamics) or (dynamics.num_states, dynamics.num_actions) != sizes:
            raise IncompatibleMethod(
                f"ExactComparison: the exact answer has {sizes[0]} states and {sizes[1]} actions, and the graph of the "
                "run has not; a live environment with tables is a graph with tables by cai.from_gym"
            )
        self._last: int | None = None
        self._answer = _Answer(self.exact)

    def on_step(self, progress: Progress) -> None:
        """Compares if it is time."""
        if self._last is None:
            rows = earlier_rows(progress)
            self._last = int(rows[-1]["num_steps"]) if rows else 0
        over = progress.total_steps is not None and progress.num_steps >= progress.total_steps
        if progress.num_steps // self.interval > self._last // self.interval or over:
            assert progress.posterior is not None
            progress.metrics.update(self._answer.distances(progress.posterior()))
        self._last = progress.num_steps


class _Answer:
    """The exact answer, read once.

    Args:
        exact: The answer.
    """

    def __init__(self, exact: Posterior) -> None:
        self.exact = exact
        self.states = _reachable(exact.graph)
        self.actions = torch.arange(exact.graph.dynamics.num_actions)
        self.visits = exact.occupancy.detach().sum(-1)[self.states]
        self.policy = self._policy_of(exact)

    def distances(self, learned: Posterior) -> dict[str, float]:
        """Computes what there is of the distances."""
        stationary = replace(learned, graph=learned.graph.replace(horizon=None))
        measures: dict[str, Callable[[], Tensor]] = {
            "q_error": lambda: self._furthest(
                lambda posterior: posterior.q(self.states[:, None], self.actions), learned
            ),
            "v_error": lambda: self._furthest(lambda posterior: posterior.v(self.states), learned),
            "policy_kl": lambda: self._policy_kl(learned),
            "marginal_distance": lambda: self._total_variation(stationary),
            "evidence_gap": lambda: self._evidence_gap(stationary),
        }
        found = {}
        for name, measure in measures.items():
            with suppress(Unavailable):
                found[name] = float(measure())
        return found

    def _furthest(self, read: Callable[[Posterior], Tensor], learned: Posterior) -> Tensor:
        mine, theirs = read(learned).detach().to(torch.float64).cpu(), read(self.exact).detach()
        same = mine == theirs  # minus infinity, where an action is not available
        return torch.where(same, 0.0, (mine - theirs).abs()).max()

    def _policy_kl(self, learned: Posterior) -> Tensor:
        kl = kl_divergence(self._policy_of(learned), self.policy)
        return (torch.where(self.visits > 0, kl, 0.0) * self.visits).sum() / self.visits.sum()

    def _policy_of(self, posterior: Posterior) -> Categorical:
        logits = posterior.policy(self.states).logits  # type: ignore[attr-defined]
        return Categorical(logits=logits.detach().to(torch.float64).cpu(), validate_args=False)

    def _total_variation(self, learned: Posterior) -> Tensor:
        return 0.5 * (learned.state_marginals - self.exact.state_marginals).detach().abs().sum()

    def _evidence_gap(self, learned: Posterior) -> Tensor:
        return (self.exact.log_evidence - learned.log_evidence).detach()


def _reachable(graph: TrajectoryGraph) -> Tensor:
    """Finds the states that are not terminal and that allowed actions lead to from a first state: indices, `[n]`."""
    tables = tabulate(graph).detached()
    step = tables.step(0)
    reached = (tables.initial > 0) & ~tables.terminal
    frontier = reached
    while frontier.any():
        mass = frontier[:, None].to(step.prior) * step.prior
        frontier = (step.transitions.push(mass) > 0) & ~reached & ~tables.terminal
        reached = reached | frontier
    return reached.nonzero().squeeze(-1).cpu()
