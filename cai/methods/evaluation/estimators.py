"""Estimators of the value of a policy from what it does, as option objects.

    one step        V(s) <- V(s) + eta delta,             delta_t = r_t - alpha l_t + gamma V(s_{t+1}) - V(s_t)
    with traces     V    <- V + eta delta_t z_t,          z_t = gamma lambda z_{t-1} + (a visit of s_t)
    Monte Carlo     V(s) = mean of G over the visits of s,    G_t = sum_k gamma^k (r_{t+k} - alpha l_{t+k})

l is log(pi / mu) of the action taken. Where something is cut off from outside, at a truncation or at the end of a
rollout, the present V stands for the rest; a terminated episode has none. All have the policy's own value as their only
fixed point. On networks the two first are the regression on lambda-returns.

Source: Sutton (1988); Sutton and Barto (2018), chapters 5, 6 and 12; Singh and Sutton (1996).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.methods.evaluation.experience import Experience
from cai.methods.soft_q.step_sizes import AbstractStepSize, HarmonicSteps

#: The scale of harmonic steps where nothing is discounted, so that no contraction is known.
_UNDISCOUNTED_SCALE = 30.0


class ValueTable(nn.Module):
    """V(s) of finitely many states, how often each was visited, and the traces of the copies.

    Args:
        num_states: S.
        num_envs: E; 0 where there are no traces.
    """

    v: Tensor
    num_visits: Tensor
    traces: Tensor

    def __init__(self, num_states: int, num_envs: int) -> None:
        super().__init__()
        self.register_buffer("v", torch.zeros(num_states, dtype=torch.float64))
        self.register_buffer("num_visits", torch.zeros(num_states, dtype=torch.float64))
        self.register_buffer("traces", torch.zeros(num_envs, num_states if num_envs else 0, dtype=torch.float64))


class AbstractEstimator(ABC):
    """Says how values follow from what a policy did.

    Attributes:
        restarts: Whether every rollout begins with new episodes.
        needs_index: Whether it serves discrete states only.
    """

    restarts: ClassVar[bool] = False
    needs_index: ClassVar[bool] = False

    @property
    @abstractmethod
    def decay(self) -> float:
        """Lambda: the weight of later rewards beyond the first, against V."""

    @property
    def has_traces(self) -> bool:
        """Whether a table needs traces."""
        return False

    @abstractmethod
    def update(self, table: ValueTable, experience: Experience, index: Tensor, next_index: Tensor) -> None:
        """Moves a table.

        Args:
            table: The table.
            experience: What happened.
            index: Of the states, `[L, E]`, int64.
            next_index: Of the successors, `[L, E]`, int64.
        """


@serializable
@dataclass(frozen=True)
class TemporalDifference(AbstractEstimator):
    """TD(lambda): on tables online, by traces; on networks by regression on lambda-returns of rollouts.

    The traces are those of a table under which a repeated visit never counts for more than all (dutch traces).
    Memory and time of a step are in proportion to the number of states where lambda is above 0.

    Attributes:
        decay: Lambda, in [0, 1]; 0 learns from one step, 1 from all that follows.
        step_size: How far the n-th visit of a state moves it: `HarmonicSteps(scale)`, `PolynomialSteps(exponent)`; None
            is the harmonic with scale (1 - gamma lambda) / (1 - gamma), one over the rate at which errors contract, so
            that they fall as fast as noise allows: with the square root of the number of steps.
    """

    decay: float = 0.0
    step_size: AbstractStepSize | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"TemporalDifference: decay must be in [0, 1], got {self.decay!r}")

    @property
    def has_traces(self) -> bool:
        """Whether a table needs traces: not for TD(0)."""
        return self.decay > 0.0

    def update(self, table: ValueTable, experience: Experience, index: Tensor, next_index: Tensor) -> None:
        """Goes through the steps in order, all copies at once."""
        num_envs, steps = index.shape[1], self._steps(experience.discount)
        live = experience.discount * (~experience.terminated).to(table.v.dtype)
        payoffs = experience.payoffs.to(table.v.dtype)
        for t in range(len(index)):
            here, valid = index[t], experience.valid[t].to(table.v.dtype)
            error = valid * (payoffs[t] + live[t] * table.v[next_index[t]] - table.v[here])
            table.num_visits.index_add_(0, here, valid)
            if not self.has_traces:
                rates = steps(table.num_visits[here].clamp(min=1.0)).clamp(max=1.0 / num_envs)
                table.v.index_add_(0, here, rates * error)
                continue
            rates = steps(table.num_visits.clamp(min=1.0)).clamp(max=1.0 / num_envs)
            table.traces.mul_(experience.discount * self.decay)
            kept = table.traces.gather(1, here[:, None]) * (1.0 - num_envs * rates[here])[:, None]
            table.traces.scatter_(1, here[:, None], kept + valid[:, None])
            table.v.add_(rates * (error @ table.traces))
            table.traces.mul_(~experience.ended[t][:, None])

    def _steps(self, discount: float) -> AbstractStepSize:
        if self.step_size is not None:
            return self.step_size
        if discount == 1.0:
            return HarmonicSteps(_UNDISCOUNTED_SCALE)
        return HarmonicSteps((1.0 - discount * self.decay) / (1.0 - discount))


class AbstractMonteCarlo(AbstractEstimator):
    """Means of returns: no step size, and no bias but that of the present V where something was cut off."""

    @property
    def decay(self) -> float:
        """One: V is read only where something was cut off."""
        return 1.0

    @abstractmethod
    def counted(self, experience: Experience, index: Tensor) -> Tensor:
        """Says which visits count: `[L, E]`, bool, of states with these indices `[L, E]`."""

    def update(self, table: ValueTable, experience: Experience, index: Tensor, next_index: Tensor) -> None:
        """Takes the returns of a rollout into the means."""
        returns = experience.returns(table.v[next_index], 1.0)
        counted = experience.valid & self.counted(experience, index)
        num = torch.zeros_like(table.v).index_add_(0, index[counted], torch.ones_like(returns[counted]))
        total = torch.zeros_like(table.v).index_add_(0, index[counted], returns[counted])
        table.num_visits += num
        table.v += (total - num * table.v) / table.num_visits.clamp(min=1.0)


@serializable
@dataclass(frozen=True)
class EveryVisitMonteCarlo(AbstractMonteCarlo):
    """The mean return from all visits of a state."""

    def counted(self, experience: Experience, index: Tensor) -> Tensor:
        """All, `[L, E]`."""
        return torch.ones_like(experience.valid)


@serializable
@dataclass(frozen=True)
class FirstVisitMonteCarlo(AbstractMonteCarlo):
    """The mean return from the first visit of a state in each episode: independent samples, of discrete states."""

    restarts: ClassVar[bool] = True
    needs_index: ClassVar[bool] = True

    def counted(self, experience: Experience, index: Tensor) -> Tensor:
        """The first of their state in their episode, `[L, E]`."""
        return experience.first_visits(index)
