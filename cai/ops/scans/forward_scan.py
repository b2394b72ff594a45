"""Marginals by a scan over time, equal to `forward_marginals` of `cai.ops.messages` up to rounding.

    posterior       log f_{t+1} = M_t' log f_t,  M_t of the backward pass;  p(s_t | O) ~ f_t exp(V_t / alpha)
    given policy    d_{t+1} = P_t' d_t,  P_t(s, s') = sum_a pi_t p, times the discount where it ends trajectories
    most probable   s_{t+1} = n_t(s_t),  n_t the best next state after the best action

The posterior's kernel varies with time even where the tables do not; its forward message f does without it, and goes by
powers of one matrix as the backward message does. A single trajectory is followed one step after the other, once all
n_t are there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from cai.ops.logspace import NEG_INF, safe_log
from cai.ops.messages import Messages
from cai.ops.readings import FixedDynamics, MostProbable, PosteriorDynamics, Reading
from cai.ops.scans.scan import power_vectors, suffix_vectors
from cai.ops.scans.step_matrices import PosteriorMatrices
from cai.ops.scans.stretches import Stretch, known_states, masked_stack, per_step, stacked_steps, stretches
from cai.ops.semirings import MatrixSemiring, RealSemiring
from cai.ops.tables import StepTables, Tables
from cai.ops.transitions import DenseTransitions


def scanned_marginals(
    tables: Tables, reading: Reading, messages: Messages, initial: Tensor, policy: Tensor, *, discount: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Computes the marginals of a trajectory distribution of finite horizon.

    Args:
        tables: The world.
        reading: Which distribution the messages describe.
        messages: Q `[T, S, A]` and V `[T + 1, S]`.
        initial: `[S]`, its distribution of s_0.
        policy: `[T, S, A]` or `[1, S, A]`, its policy.
        discount: Of a fixed dynamics, the chance to go on after each step; the posterior takes the graph's own.

    Returns:
        States `[T + 1, S]`, absorbed mass included, and states with actions `[T, S, A]`, zero at terminal states.

    Raises:
        ValueError: A reading whose marginals are not known to be a scan.
    """
    if isinstance(reading, PosteriorDynamics):
        states = _posterior_states(tables, messages)
    elif isinstance(reading, FixedDynamics):
        states = _rollout_states(tables, initial, policy, discount)
    elif isinstance(reading, MostProbable):
        states = _best_states(tables, messages, initial, policy)
    else:
        raise ValueError(f"marginals of {type(reading).__name__} have no scan here; forward_marginals computes them")
    acting = policy * tables.alive[:, None] if tables.has_exits else policy
    return states, states[:-1, :, None] * acting


def _posterior_states(tables: Tables, messages: Messages) -> Tensor:
    form = PosteriorMatrices(tables)

    def matrix(step: StepTables, times: slice) -> Tensor:
        return form.matrix(step, form.through(step), times)

    start = pad(safe_log(tables.initial), (0, form.size - tables.num_states), value=NEG_INF)
    forward = _forward_messages(tables, form.semiring, matrix, start)
    return torch.softmax(forward + form.message(messages.v), -1)[..., : tables.num_states]


def _rollout_states(tables: Tables, initial: Tensor, policy: Tensor, discount: float) -> Tensor:
    identity = torch.eye(tables.num_states, dtype=policy.dtype, device=policy.device)

    def matrix(step: StepTables, times: slice) -> Tensor:
        moves = torch.einsum("...sa,...sak->...sk", per_step(policy, times), discount * step.transitions.values)
        return torch.where(tables.terminal[:, None], identity, moves)

    return _forward_messages(tables, RealSemiring(), matrix, initial, policy_varies=len(policy) > 1)


def _forward_messages(
    tables: Tables,
    semiring: MatrixSemiring,
    matrix: Callable[[StepTables, slice], Tensor],
    start: Tensor,
    *,
    policy_varies: bool = False,
) -> Tensor:
    """Computes x_{t+1} = A_t' x_t from x_0 `[K]`: `[T + 1, K]`."""
    parts = [start[None]]
    for stretch in stretches(tables, len(start), policy_varies=policy_varies):
        here, allowed = parts[-1][-1], known_states(tables, stretch)
        matrices = matrix(stacked_steps(tables, stretch), stretch.times)
        if not stretch.is_constant:
            stack = masked_stack(semiring, matrices, stretch.num_steps, allowed).mT.flip(0)
            parts.append(suffix_vectors(semiring, stack, here).flip(0))
            continue
        if allowed is not None:  # at its first step alone
            here = torch.where(pad(allowed[0], (0, len(here) - allowed.shape[1]), value=True), here, semiring.zero)
        parts.append(power_vectors(semiring, matrices.mT, here, stretch.num_steps).flip(0))
    return torch.cat(parts)


def _best_states(tables: Tables, messages: Messages, initial: Tensor, policy: Tensor) -> Tensor:
    pieces = stretches(tables, tables.num_states, policy_varies=True)
    with torch.no_grad():
        following = torch.cat([_best_next_states(tables, messages, policy, piece) for piece in pieces]).cpu().numpy()
    path = [int(initial.argmax())]
    for row in following:
        path.append(int(row[path[-1]]))
    return one_hot(torch.tensor(path, device=initial.device), tables.num_states).to(initial.dtype)


def _best_next_states(tables: Tables, messages: Messages, policy: Tensor, stretch: Stretch) -> Tensor:
    """Gives the best next state after the best action, the first of equals, `[n, S]`; terminal states stay."""
    step, actions = stacked_steps(tables, stretch), policy[stretch.times].argmax(-1)
    states = torch.arange(tables.num_states, device=actions.device)
    times = torch.arange(stretch.num_steps, device=actions.device)[:, None]

    def chosen(entries: Tensor) -> Tensor:
        at_action = entries[states, actions] if entries.dim() == 3 else entries[times, states, actions]
        return at_action[:, :, None]

    arrivals = DenseTransitions(chosen(step.transitions.values))
    entry_rewards = None if step.entry_rewards is None else chosen(step.entry_rewards)
    v_next = messages.v[stretch.start + 1 : stretch.stop + 1]
    best = arrivals.scores(v_next, entry_rewards, step.temperature)[:, :, 0].argmax(-1)
    return torch.where(tables.terminal, states, best)
