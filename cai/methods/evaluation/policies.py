"""Reading a policy to evaluate, in whatever form it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torch import Tensor
from torch.distributions import Distribution

from cai.data.encodings import ActionEncoding, StateEncoding
from cai.errors import IncompatibleMethod
from cai.factors.checks import as_table
from cai.factors.policy import TabularPolicy
from cai.graph.trajectory_graph import TrajectoryGraph


def readable_policy(policy: Any, graph: TrajectoryGraph) -> Any:
    """Gives a policy that can be called and, over discrete states and actions, saved: a `TabularPolicy`.

    Args:
        policy: As `PolicyEvaluation` takes it.
        graph: The graph that it acts in.

    Raises:
        ValueError: No policy, or a table of other states and actions.
        IncompatibleMethod: A policy that changes with time.
    """
    if hasattr(policy, "bind"):
        policy = policy.bind(graph)
    act = getattr(policy, "policy", policy)
    if not callable(act):
        policy = act = TabularPolicy(as_table(act, "PolicyEvaluation: the policy's probabilities", None))
    if getattr(act, "num_steps", None) is not None:
        raise IncompatibleMethod(
            "PolicyEvaluation: the policy changes with time, and what is estimated from samples is stationary; put "
            "time into the state"
        )
    table = act if isinstance(act, TabularPolicy) else _tabulated(act, graph)
    if table is None:
        return policy
    sizes = (StateEncoding(graph.state_space).size, ActionEncoding(graph.action_space).num_actions)
    if tuple(table.probs.shape) != sizes:
        raise ValueError(
            f"PolicyEvaluation: expected probabilities [{sizes[0]}, {sizes[1]}], got {list(table.probs.shape)}"
        )
    return table


def _tabulated(act: Callable[..., Any], graph: TrajectoryGraph) -> TabularPolicy | None:
    spaces = (graph.state_space, graph.action_space)
    if not all(isinstance(space, gymnasium.spaces.Discrete) and space.start == 0 for space in spaces):
        return None
    with torch.no_grad():
        probs = getattr(act(torch.arange(StateEncoding(graph.state_space).size), 0), "probs", None)
    return TabularPolicy(probs, dtype=torch.float64) if isinstance(probs, Tensor) and probs.dim() == 2 else None


def choice_of(policy: Any, state: Any) -> Distribution:
    """Asks a readable policy for pi(a | s).

    Raises:
        ValueError: It gives something else than a distribution.
    """
    act = getattr(policy, "policy", policy)
    made = act(state, 0)
    if not isinstance(made, Distribution):
        raise ValueError(
            f"PolicyEvaluation: policy(state, t) must return a distribution, got {type(made).__name__}; "
            "cai.factors.PointMass is one of a single vector"
        )
    return made
