"""Backward recursions as products of matrices over a semiring: what a scan over time multiplies.

Three of the recursions of `cai.ops.messages` are linear in a message x of K numbers, x_t = M_t x_{t+1}:

    posterior       x = V / alpha   log semiring   M(s, s') = log sum_a mu exp(r / alpha) p(s'|s,a) exp(r_e / alpha)
    most probable   x = V           tropical       M(s, s') = max_a [alpha log mu + r + alpha log p + r_e]
    evaluation      x = (V, 1)      plain numbers  M(s, s') = gamma sum_a pi p,  M(s, 1) = sum_a pi E[r] - cost

A discount of the posterior is one more state, at which x is zero for ever: log gamma is added to the row of s, and
log(1 - gamma) of its sum stands in the column of that state. A terminal state has the row of the identity. Summed over
s' alone, action by action, the same table takes x_{t+1} to Q_t.

The best policy under a fixed dynamics, V = alpha log sum_a mu exp((r + gamma E V') / alpha), is linear in no semiring:
it is a log-sum-exp of expectations, and has no such matrices.

Steps come one at a time or stacked, with a leading dimension n.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.logspace import NEG_INF, logsumexp, safe_log
from cai.ops.readings import FixedDynamics, MostProbable, PosteriorDynamics, Reading
from cai.ops.scans.matrix_products import log_matmul, max_plus_matmul
from cai.ops.scans.stretches import per_step
from cai.ops.semirings import LogSemiring, MatrixSemiring, RealSemiring, TropicalSemiring
from cai.ops.tables import StepTables, Tables


@dataclass(frozen=True, eq=False)
class StepMatrices(ABC):
    """How one recursion is written in matrices.

    Attributes:
        tables: The world, of finite horizon.
    """

    tables: Tables

    @property
    @abstractmethod
    def semiring(self) -> MatrixSemiring:
        """How the matrices are multiplied."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Entries K of a message: S, or one more."""

    @abstractmethod
    def through(self, step: StepTables) -> Tensor:
        """Gives the table that takes messages through the dynamics, `[..., S, A, K]`."""

    @abstractmethod
    def rows(self, step: StepTables, through: Tensor, times: slice) -> Tensor:
        """Gives M in the states where an action is taken, `[..., S, K]`."""

    @abstractmethod
    def message(self, v: Tensor) -> Tensor:
        """Writes values `[..., S]`, reward units, as messages `[..., K]`."""

    @abstractmethod
    def q(self, step: StepTables, product: Tensor) -> Tensor:
        """Gives Q `[n, S, A]`, reward units, of messages taken through the dynamics."""

    @abstractmethod
    def v(self, step: StepTables, q: Tensor, times: slice) -> Tensor:
        """Gives V `[n, S]`, reward units."""

    @property
    def varies(self) -> bool:
        """Whether the matrices vary even where the tables do not."""
        return False

    @property
    def rounding(self) -> float:
        """What one unit of a product's rounding is worth, reward units; zero where it is relative to the values."""
        return 0.0

    def matrix(self, step: StepTables, through: Tensor, times: slice) -> Tensor:
        """Gives M, `[K, K]` or `[n, K, K]`, the rows of terminal and absorbing states included."""
        rows, num_states = self.rows(step, through, times), self.tables.num_states
        identity = rows.new_full((self.size, self.size), self.semiring.zero).fill_diagonal_(self.semiring.one)
        if self.tables.has_exits:
            rows = torch.where(self.tables.terminal[:, None], identity[:num_states], rows)
        if self.size == num_states:
            return rows
        return torch.cat([rows, identity[num_states:].expand(*rows.shape[:-2], -1, -1)], -2)

    def apply(self, through: Tensor, following: Tensor) -> Tensor:
        """Takes messages x_{t+1} `[n, K]` through the dynamics, `[n, S, A]`."""
        shape = (len(following), *through.shape[-3:-1])
        if through.dim() == 3:
            return self.semiring.matmul(through.flatten(0, 1), following.mT).mT.reshape(shape)
        return self.semiring.matmul(through.flatten(1, 2), following[..., None]).reshape(shape)


@dataclass(frozen=True, eq=False)
class PosteriorMatrices(StepMatrices):
    """The exact posterior: sum-product."""

    @property
    def semiring(self) -> MatrixSemiring:
        """Sums of exponentials."""
        return LogSemiring()

    @property
    def size(self) -> int:
        """S, and the absorbing state of a discount."""
        return self.tables.num_states + (self.tables.discount < 1.0)

    def through(self, step: StepTables) -> Tensor:
        """Gives log p + r_e / alpha, `[..., S, A, K]`, nats."""
        log_p = safe_log(step.transitions.values)
        if step.entry_rewards is not None:
            log_p = log_p + step.entry_rewards / step.temperature
        if step.discount == 1.0:
            return log_p
        log_discount = math.log(step.discount) if step.discount > 0.0 else NEG_INF
        log_rest = math.log(1.0 - step.discount) if step.may_die else NEG_INF
        return torch.cat([log_p + log_discount, (logsumexp(log_p) + log_rest)[..., None]], -1)

    def rows(self, step: StepTables, through: Tensor, times: slice) -> Tensor:
        """Sums over actions, weighed by mu exp(r / alpha)."""
        weights = step.log_prior + step.rewards / step.temperature
        if through.dim() == 3 and weights.dim() == 3:  # one dynamics for all steps
            return log_matmul(weights.transpose(0, 1), through).transpose(0, 1)
        return logsumexp(weights[..., None] + through, -2)

    def message(self, v: Tensor) -> Tensor:
        """Divides by the temperature, and adds the absorbing state."""
        x = _quotient(v, self.tables.temperature)
        return pad(x, (0, self.size - v.shape[-1]))

    def q(self, step: StepTables, product: Tensor) -> Tensor:
        """Computes r + alpha log E exp(...)."""
        dead = torch.isneginf(product)
        return torch.where(dead, NEG_INF, step.rewards + step.temperature * torch.where(dead, 0.0, product))

    def v(self, step: StepTables, q: Tensor, times: slice) -> Tensor:
        """Computes alpha log sum_a mu exp(Q / alpha)."""
        return PosteriorDynamics().v(step, q)

    @property
    def rounding(self) -> float:
        """The temperature: rounding of sums of exponentials is in nats."""
        return self.tables.temperature_value


@dataclass(frozen=True, eq=False)
class TropicalMatrices(StepMatrices):
    """The most probable trajectory: max-product."""

    @property
    def semiring(self) -> MatrixSemiring:
        """Maxima of sums."""
        return TropicalSemiring()

    @property
    def size(self) -> int:
        """The number of states: there is no discount."""
        return self.tables.num_states

    def through(self, step: StepTables) -> Tensor:
        """Gives alpha log p + r_e, `[..., S, A, S]`, reward units."""
        nothing = torch.zeros_like(self.tables.terminal_values)
        return step.transitions.scores(nothing, step.entry_rewards, step.temperature)

    def rows(self, step: StepTables, through: Tensor, times: slice) -> Tensor:
        """Takes the best action."""
        possible = step.prior > 0
        log_prior = torch.where(possible, step.log_prior, 0.0)
        weights = torch.where(possible, step.temperature * log_prior + step.rewards, NEG_INF)
        if through.dim() == 3 and weights.dim() == 3:  # one dynamics for all steps
            return max_plus_matmul(weights.transpose(0, 1), through).transpose(0, 1)
        return (weights[..., None] + through).amax(-2)

    def message(self, v: Tensor) -> Tensor:
        """Gives the values themselves."""
        return v

    def q(self, step: StepTables, product: Tensor) -> Tensor:
        """Computes r + max_s' [alpha log p + r_e + V']."""
        return step.rewards + product

    def v(self, step: StepTables, q: Tensor, times: slice) -> Tensor:
        """Computes max_a [alpha log mu + Q]."""
        return MostProbable().v(step, q)


@dataclass(frozen=True, eq=False)
class EvaluationMatrices(StepMatrices):
    """The value of a given policy.

    Attributes:
        policy: `[1 or T, S, A]`, probabilities.
        costs: `[1 or T, S]`, reward units: what the policy pays for leaving the prior.
    """

    policy: Tensor
    costs: Tensor

    @property
    def semiring(self) -> MatrixSemiring:
        """Plain sums."""
        return RealSemiring()

    @property
    def size(self) -> int:
        """S, and the constant."""
        return self.tables.num_states + 1

    @property
    def varies(self) -> bool:
        """Whether the policy does."""
        return max(len(self.policy), len(self.costs)) > 1

    def through(self, step: StepTables) -> Tensor:
        """Gives gamma p, `[..., S, A, K]`; no dynamics leads to the constant."""
        return pad(step.discount * step.transitions.values, (0, 1))

    def rows(self, step: StepTables, through: Tensor, times: slice) -> Tensor:
        """Averages over the actions of the policy; what they earn stands in the column of the constant."""
        policy = per_step(self.policy, times)
        moves = torch.einsum("...sa,...sak->...sk", policy, through[..., :-1])
        earned = (policy * step.expected_rewards).sum(-1) - per_step(self.costs, times)
        return torch.cat([moves, earned.expand(moves.shape[:-1])[..., None]], -1)

    def message(self, v: Tensor) -> Tensor:
        """Adds the constant."""
        return pad(v, (0, 1), value=1.0)

    def q(self, step: StepTables, product: Tensor) -> Tensor:
        """Computes E[r] + gamma E V'."""
        return step.expected_rewards + product

    def v(self, step: StepTables, q: Tensor, times: slice) -> Tensor:
        """Computes sum_a pi Q - cost."""
        return (per_step(self.policy, times) * q).sum(-1) - per_step(self.costs, times)


def step_matrices(
    tables: Tables, reading: Reading, policy: Tensor | None = None, costs: Tensor | None = None
) -> StepMatrices:
    """Writes a recursion in matrices.

    Args:
        tables: The world, of finite horizon.
        reading: How its dynamics is read.
        policy: `[1 or T, S, A]`, the policy to evaluate under a fixed dynamics, or None for the optimal one.
        costs: `[1 or T, S]`, reward units: what the given policy pays for leaving the prior.

    Raises:
        ValueError: The recursion is linear in no semiring, or the tables have batch dimensions.
    """
    if tables.terminal_values.dim() > 1 or tables.step(0).rewards.dim() > 2:
        raise ValueError("a scan takes one reward [S, A] and one terminal value [S] at a time; batches need the loop")
    if policy is not None and costs is not None and isinstance(reading, FixedDynamics):
        return EvaluationMatrices(tables, policy, costs)
    if isinstance(reading, PosteriorDynamics):
        return PosteriorMatrices(tables)
    if isinstance(reading, MostProbable):
        return TropicalMatrices(tables)
    raise ValueError(
        f"the optimal backup of {type(reading).__name__} is nonlinear in V (a log-sum-exp of expectations): it has no "
        "associative product, and no scan; PosteriorDynamics, MostProbable and the evaluation of a policy have one"
    )


def _quotient(v: Tensor, temperature: float | Tensor) -> Tensor:
    """Computes V / alpha; where V is -inf a temperature that learns has gradient zero."""
    if not isinstance(temperature, Tensor):
        return v / temperature
    dead = torch.isneginf(v)
    return torch.where(dead, NEG_INF, torch.where(dead, 0.0, v) / temperature)
