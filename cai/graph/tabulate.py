"""From the factors of a graph to the tables that the kernels read."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.factors.checks import check_finite
from cai.factors.protocols import TabulatedDynamics, TabulatedInitial, TabulatedPrior, TabulatedReward
from cai.factors.reward import TabularReward
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import Transitions

if TYPE_CHECKING:
    from cai.graph.trajectory_graph import TrajectoryGraph


def tabulate(graph: TrajectoryGraph) -> Tables:
    """Reads a graph as tables of one dtype, on the device of its dynamics; differentiable in every factor.

    Args:
        graph: A graph whose dynamics is tabulated.

    Returns:
        The tables, in the wider dtype of dynamics and reward; nothing sparse is made dense.

    Raises:
        ValueError: A factor that cannot be tabulated, or evidence of probability zero.
    """
    dynamics = graph.dynamics
    assert isinstance(dynamics, TabulatedDynamics)
    transitions = dynamics.transition_tables()
    num_states, num_actions = dynamics.num_states, dynamics.num_actions
    rewards = _reward_tables(graph.reward, transitions, num_states, num_actions)
    prior = _prior_table(graph.action_prior, num_states, num_actions)
    initial = initial_table(graph.initial, num_states)
    ends = _terminal_values(graph.terminal_reward, num_states)
    of_rewards = (part.dtype for pair in rewards for part in pair if part is not None)
    dtype = reduce(torch.promote_types, of_rewards, transitions[0].values.dtype)
    like = torch.zeros((), dtype=dtype, device=transitions[0].values.device)
    prior, initial, ends = prior.to(like), initial.to(like), ends.to(like)
    temperature = graph.temperature.to(like) if isinstance(graph.temperature, Tensor) else graph.temperature
    terminal = dynamics.terminal_mask
    idle = torch.zeros_like(like).expand(num_states, num_actions)
    last_known = max(graph.evidence.states, default=-1)

    priors = prior.unbind(0)
    transitions = tuple(
        table if table.values.dtype == dtype else table.reweighted(table.values.to(like)) for table in transitions
    )
    reward_tables = tuple(
        (idle if pairs is None else pairs.to(like), None if entries is None else entries.to(like))
        for pairs, entries in rewards
    )

    def step(t: int) -> StepTables:
        on_pairs, on_entries = reward_tables[t if len(reward_tables) > 1 else 0]
        allowed = priors[t if len(priors) > 1 else 0]
        if t in graph.evidence.actions:
            known = torch.arange(num_actions, device=like.device) == graph.evidence.actions[t]
            allowed = torch.where(terminal[:, None] | known, allowed, 0.0)
        return StepTables(
            transitions=transitions[t if len(transitions) > 1 else 0],
            rewards=on_pairs,
            entry_rewards=on_entries,
            prior=allowed,
            terminal=terminal,
            discount=graph.discount,
            temperature=temperature,
            may_die=t >= last_known,
        )

    varying = max(len(transitions), len(rewards), len(priors)) > 1 or graph.evidence.actions or last_known > 0
    known = {t: s for t, s in graph.evidence.states.items() if t > 0}
    return Tables(
        initial=_with_known_start(initial, graph.evidence.states.get(0)),
        steps=tuple(step(t) for t in range(graph.horizon or 1)) if varying else (step(0),),
        terminal=terminal,
        terminal_values=ends,
        horizon=graph.horizon,
        discount=graph.discount,
        temperature=temperature,
        state_masks={t: torch.arange(num_states, device=like.device) == s for t, s in known.items()},
        start_is_evidence=0 in graph.evidence.states,
    )


def initial_table(initial: Any, num_states: int) -> Tensor:
    """Reads p(s_0) as `[S]`; a callable must return a Categorical."""
    if isinstance(initial, TabulatedInitial):
        return initial.initial_table(num_states)
    try:
        distribution = initial() if callable(initial) else initial
    except TypeError:
        distribution = None  # it is of another slot, and wants arguments
    probs = getattr(distribution, "probs", None)
    if not isinstance(probs, Tensor) or probs.shape != (num_states,):
        raise ValueError(
            f"initial: expected a distribution on {num_states} states (cai.factors.Categorical), "
            f"got {type(initial).__name__}"
        )
    return probs


def _with_known_start(initial: Tensor, state: int | None) -> Tensor:
    if state is None:
        return initial
    known = torch.where(torch.arange(initial.numel(), device=initial.device) == state, initial, 0.0)
    if not known.any():
        raise ValueError(f"evidence: state {state} at time 0 has probability zero")
    return known


def _prior_table(prior: Any, num_states: int, num_actions: int) -> Tensor:
    if prior is None:
        return torch.full((1, num_states, num_actions), 1.0 / num_actions, dtype=torch.float64)
    if isinstance(prior, TabulatedPrior):
        return prior.prior_table(num_states, num_actions)
    probs = getattr(prior(torch.arange(num_states)), "probs", None) if callable(prior) else None
    if not isinstance(probs, Tensor) or probs.shape != (num_states, num_actions):
        raise ValueError(
            f"action_prior: expected probabilities [{num_states}, {num_actions}] (cai.factors.TabularPolicy), got "
            f"{type(prior).__name__}"
        )
    return probs[None]


def _terminal_values(reward: Any, num_states: int) -> Tensor:
    if reward is None:
        return torch.zeros(num_states, dtype=torch.float64)
    values = reward.values if isinstance(reward, TabulatedReward) else reward(torch.arange(num_states))  # type: ignore[attr-defined]
    values = torch.as_tensor(values)
    if values.shape != (num_states,):
        raise ValueError(f"terminal_reward: expected [{num_states}], got {list(values.shape)}")
    check_finite(values, "terminal_reward", ["state"])
    return values


def _reward_tables(
    reward: Any, transitions: tuple[Transitions, ...], num_states: int, num_actions: int
) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
    if isinstance(reward, TabulatedReward):
        return reward.reward_tables(transitions)
    if not callable(reward):
        raise ValueError(f"reward: expected a reward factor or a callable, got {type(reward).__name__}")
    states, actions = torch.arange(num_states)[:, None], torch.arange(num_actions)
    try:
        pairs = torch.as_tensor(reward(states, actions), dtype=torch.float64)
    except (ValueError, TypeError):
        return tuple((None, _on_entries(reward, table)) for table in transitions)
    return TabularReward(_expanded(pairs, (num_states, num_actions))).reward_tables(transitions)


def _expanded(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return values.expand(shape)
    except RuntimeError:
        raise ValueError(f"reward: the function given must return {list(shape)}, got {list(values.shape)}") from None


def _on_entries(reward: Any, table: Transitions) -> Tensor:
    """Evaluates a user's r(s, a, s') where transitions are possible."""
    try:
        values = reward(*table.triples())
    except TypeError as error:
        raise ValueError(f"reward: {type(reward).__name__} cannot be called as r(s, a, s'): {error}") from error
    values = _expanded(torch.as_tensor(values, dtype=torch.float64), table.values.shape)
    if not torch.isfinite(values.detach()).all():
        raise ValueError("reward: the function given returned a value that is not finite")
    return values
