"""A finite trajectory graph as tensors: what the message-passing kernels read.

    p(tau, O) = p(s_0) prod_t mu_t(a_t|s_t) p_t(s_{t+1}|s_t,a_t) exp(r_t(s_t,a_t,s_{t+1}) / alpha)

The reward is split in two: `rewards`, which (s, a) alone determine, and `entry_rewards`, which live on the entries of
the transition table, since the two readings of the dynamics treat them differently (E r against log E exp r).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from cai.ops.caching import grad_cached_property
from cai.ops.logspace import safe_log
from cai.ops.transitions import Transitions


def is_hard(temperature: float | Tensor) -> bool:
    """Says whether a temperature is zero: hard optimality. One that may learn, 0-dim, is positive."""
    return not isinstance(temperature, Tensor) and temperature == 0.0


def as_number(temperature: float | Tensor) -> float:
    """Gives a temperature, 0-dim if it may learn, as a plain number of full precision, without its gradient."""
    return float(temperature.detach()) if isinstance(temperature, Tensor) else temperature


@dataclass(frozen=True, eq=False)
class StepTables:
    """The tables of one time step.

    Attributes:
        transitions: p(s'|s,a).
        rewards: `[S, A]`, reward units; zero at terminal states.
        entry_rewards: On the entries of `transitions`, reward units, or None.
        prior: `[S, A]`, the action prior as weights: rows sum to one, or entries are 0 and 1 for the counting measure.
        terminal: `[S]`, bool.
        discount: gamma.
        temperature: alpha, reward units.
        may_die: Whether the absorbing state of the discount is compatible with the evidence ahead.
    """

    transitions: Transitions
    rewards: Tensor
    entry_rewards: Tensor | None
    prior: Tensor
    terminal: Tensor
    discount: float
    temperature: float | Tensor
    may_die: bool = True

    @cached_property
    def ends(self) -> bool:
        """Whether any of its states is terminal."""
        return bool(self.terminal.any())

    @grad_cached_property
    def expected_rewards(self) -> Tensor:
        """r(s, a) = E[r(s, a, s')], `[S, A]`."""
        if self.entry_rewards is None:
            return self.rewards
        transitions = self.transitions
        return self.rewards + transitions.over_next(transitions.values * self.entry_rewards)

    @grad_cached_property
    def log_prior(self) -> Tensor:
        """Log mu(a|s), `[S, A]`, `-inf` where an action is not available."""
        return safe_log(self.prior)

    @grad_cached_property
    def default_policy(self) -> Tensor:
        """The prior with rows normalised: the policy where nothing is at stake, `[S, A]`.

        Uniform where evidence has left a state no action.
        """
        total = self.prior.sum(-1, keepdim=True)
        possible = total > 0
        uniform = torch.full_like(self.prior, 1.0 / self.prior.shape[-1])
        return torch.where(possible, self.prior / torch.where(possible, total, 1.0), uniform)


@dataclass(frozen=True, eq=False)
class Tables:
    """A finite trajectory graph.

    Attributes:
        initial: `[S]`, p(s_0); evidence on s_0 leaves some entries only, not renormalised.
        steps: The tables of each time step, or of all of them if there is one entry.
        terminal: `[S]`, bool: where an episode ends.
        terminal_values: `[S]`, reward units: the value at a terminal state, and of any state at the horizon.
        horizon: Number of actions T, or None for an infinite horizon.
        discount: gamma.
        temperature: alpha, reward units.
        state_masks: For each time t >= 1 with evidence on the state, `[S]`, bool: what remains possible.
        start_is_evidence: Whether `initial` has been cut by evidence on s_0, whose probability then counts.
    """

    initial: Tensor
    steps: tuple[StepTables, ...]
    terminal: Tensor
    terminal_values: Tensor
    horizon: int | None
    discount: float
    temperature: float | Tensor
    state_masks: Mapping[int, Tensor] = field(default_factory=dict)
    start_is_evidence: bool = False

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.terminal.numel()

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.steps[0].prior.shape[-1]

    @property
    def num_entries(self) -> int:
        """Number of entries of one step's transition table."""
        return self.steps[0].transitions.values.numel()

    @property
    def is_hard(self) -> bool:
        """Whether the temperature is zero."""
        return is_hard(self.temperature)

    @property
    def temperature_value(self) -> float:
        """The temperature as a plain number, without its gradient."""
        return as_number(self.temperature)

    @cached_property
    def alive(self) -> Tensor:
        """1.0 at states where an action is taken, 0.0 at terminal states: `[S]`."""
        return (~self.terminal).to(self.initial.dtype)

    @cached_property
    def has_exits(self) -> bool:
        """Whether any state is terminal."""
        return bool(self.terminal.any())

    @grad_cached_property
    def priors(self) -> Tensor:
        """The action prior of every distinct step, `[1 or T, S, A]`."""
        return self._stacked([step.prior for step in self.steps])

    @grad_cached_property
    def default_policies(self) -> Tensor:
        """The normalised prior of every distinct step, `[1 or T, S, A]`."""
        return self._stacked([step.default_policy for step in self.steps])

    @grad_cached_property
    def expected_rewards(self) -> Tensor:
        """E[r_t(s, a, s')] of every distinct step, `[1 or T, S, A]`."""
        return self._stacked([step.expected_rewards for step in self.steps])

    @property
    def learns(self) -> bool:
        """Whether anything in the tables records gradients."""
        parts: list[object] = [self.initial, self.terminal_values, self.temperature]
        for step in self.steps:
            parts += [step.transitions.values, step.rewards, step.entry_rewards, step.prior]
        return any(isinstance(part, Tensor) and part.requires_grad for part in parts)

    def detached(self) -> Tables:
        """Gives the same numbers without their gradients: what an iteration works on, which records none."""
        if not self.learns:
            return self
        temperature = self.temperature_value
        steps = tuple(
            replace(
                step,
                transitions=step.transitions.reweighted(step.transitions.values.detach()),
                rewards=step.rewards.detach(),
                entry_rewards=None if step.entry_rewards is None else step.entry_rewards.detach(),
                prior=step.prior.detach(),
                temperature=temperature,
            )
            for step in self.steps
        )
        initial, ends = self.initial.detach(), self.terminal_values.detach()
        return replace(self, initial=initial, steps=steps, terminal_values=ends, temperature=temperature)

    def step(self, t: int) -> StepTables:
        """The tables of step t."""
        return self.steps[t if len(self.steps) > 1 else 0]

    def masked(self, v: Tensor, t: int) -> Tensor:
        """Puts `-inf` where the evidence on s_t forbids the state: `[S]`."""
        mask = self.state_masks.get(t)
        return v if mask is None else torch.where(mask, v, -torch.inf)

    @staticmethod
    def _stacked(parts: list[Tensor]) -> Tensor:
        if all(part is parts[0] for part in parts):
            return parts[0][None]
        return torch.stack(parts)
