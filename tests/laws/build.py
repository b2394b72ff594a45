"""From the oracles' `Problem` to a `cai.TrajectoryGraph`, from a posterior to plain tables, and the house tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import cai
from tests.oracles import Problem


def table(factor: Any, name: str, problem: Problem, **options: Any) -> Any:
    """The factor class `factor` holding the field `name`, with a time axis where the problem has one."""
    build = factor.per_step if name in problem.per_step else factor
    return build(getattr(problem, name), **options)


def action_prior(problem: Problem) -> Any:
    """None for the uniform prior, `FlatPrior` for a counting measure, else a table."""
    if problem.flat:
        return cai.factors.FlatPrior(None if problem.prior.all() else torch.as_tensor(problem.prior > 0))
    if np.all(problem.prior == 1 / problem.num_actions):
        return None
    return table(cai.factors.TabularPolicy, "prior", problem)


def graph_of(problem: Problem, **changes: Any) -> cai.TrajectoryGraph:
    """The trajectory graph of a problem, evidence included; `changes` replace arguments of the graph."""
    terminal = None if problem.terminal is None else torch.as_tensor(problem.terminal)
    arguments = {
        "initial": cai.factors.Categorical(probs=problem.initial),
        "dynamics": table(cai.factors.TabularDynamics, "dynamics", problem, terminal=terminal),
        "reward": table(cai.factors.TabularReward, "reward", problem),
        "horizon": problem.horizon,
        "discount": problem.discount,
        "temperature": problem.temperature,
        "action_prior": action_prior(problem),
    }
    if problem.terminal_reward is not None:
        arguments["terminal_reward"] = cai.factors.TabularReward(problem.terminal_reward)
    graph = cai.TrajectoryGraph(**(arguments | changes))
    if problem.states or problem.actions:
        graph = graph.condition(states=problem.states, actions=problem.actions)
    return graph


def policy_of(policy: np.ndarray) -> Any:
    """A `TabularPolicy` from `[S, A]` or `[T, S, A]` probabilities."""
    build = cai.factors.TabularPolicy if policy.ndim == 2 else cai.factors.TabularPolicy.per_step
    return build(policy)


@dataclass(frozen=True, eq=False)
class Tables:
    """All that a posterior says, as arrays: q, v, policy with a leading time axis where the horizon is finite."""

    q: np.ndarray
    v: np.ndarray
    policy: np.ndarray


def tables_of(posterior: Any) -> Tables:
    """Read q `[T, S, A]`, v `[T+1, S]` and policy `[T, S, A]`, or `[S, A]`, `[S]`, `[S, A]` without a horizon."""
    graph = posterior.graph
    states, actions = torch.arange(graph.state_space.n), torch.arange(graph.action_space.n)
    if graph.horizon is None:
        return Tables(
            numpy_of(posterior.q(states[:, None], actions)),
            numpy_of(posterior.v(states)),
            numpy_of(posterior.policy(states).probs),
        )
    times = torch.arange(graph.horizon + 1)
    return Tables(
        numpy_of(posterior.q(states[:, None], actions, t=times[:-1, None, None])),
        numpy_of(posterior.v(states, t=times[:, None])),
        numpy_of(posterior.policy(states, t=times[:-1, None]).probs),
    )


def numpy_of(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """|actual - expected| <= tolerance max(1, |expected|), entry by entry, infinities equal, never NaN."""
    actual, expected = np.broadcast_arrays(numpy_of(actual), numpy_of(expected))
    assert not np.isnan(actual).any(), "NaN in the answer"
    same = actual == expected
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected) / np.maximum(1, np.abs(expected)))
    assert (error <= tolerance).all(), (
        f"error {np.nanmax(error):.3g} at {np.unravel_index(error.argmax(), error.shape)}"
    )
