"""How good an action was: estimates of the advantage from what followed it.

    grad J ~ mean_t grad log pi(a_t|s_t) A_t,     A_t an estimate of Q(s_t, a_t) - V(s_t)

Rewards are those that the regulariser gives: with log(pi/mu) in them Q and V are soft. Where an episode goes on beyond
what was seen, V of the last successor stands for the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cai.data.serialization import serializable
from cai.ops.importance import per_decision_advantages, per_decision_returns, per_decision_weights
from cai.ops.returns import discounted_returns, episode_returns, generalised_advantages, steps_in_episode
from cai.ops.segments import times


@dataclass(frozen=True, eq=False)
class Segment:
    """What happened, as numbers, time first.

    Attributes:
        rewards: `[L, E]`, with the regulariser's part.
        values: `[L, E]`, V(s_t), zero without a critic.
        next_values: `[L, E]`, V of the true successor; not read where `terminated`.
        terminated: `[L, E]`, bool.
        ended: `[L, E]`, bool: the next row is another episode, or no transition.
        discount: gamma.
    """

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    ended: Tensor
    discount: float


@dataclass(frozen=True, eq=False)
class Estimates:
    """What the actions were worth, and what a critic should have said.

    Attributes:
        advantages: `[L, E]`.
        targets: `[L, E]`, estimates of V(s_t).
    """

    advantages: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class WeightedEstimates:
    """What the actions of another policy were worth to this one.

    Attributes:
        weights: `[L, E]`, of each row in the sum over rows.
        advantages: `[L, E]`.
    """

    weights: Tensor
    advantages: Tensor


class AbstractAdvantage(ABC):
    """Says how advantages are estimated.

    Attributes:
        needs_critic: Whether there must be one.
    """

    needs_critic: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, segment: Segment) -> Estimates:
        """Estimates advantages under the policy that acted."""

    def weigh(self, segment: Segment, log_weights: Tensor, clip: float) -> WeightedEstimates:
        """Estimates advantages under another policy than the one that acted.

        Args:
            segment: What happened, with the regulariser and the values of the policy in question.
            log_weights: log pi(a_t|s_t) - log b(a_t|s_t), `[L, E]`, nats.
            clip: What each factor pi / b is truncated at.
        """
        raise ValueError(f"{type(self).__name__} has no weights per decision; use RewardToGo() or GAE()")


@serializable
@dataclass(frozen=True)
class MonteCarlo(AbstractAdvantage):
    """The return of the whole episode for each of its actions, less the value of its first state.

        A_t = sum_{k>=0} gamma^k r_k - V(s_0)

    The plainest estimator and the one of greatest variance. The past is in it too: the sum over steps is then the
    gradient of the discounted objective itself, without the convention that `PolicyGradient` speaks of.

    Source: Williams (1992).
    """

    def estimate(self, segment: Segment) -> Estimates:
        """Estimates advantages by whole returns; targets of the critic are rewards to go."""
        what = (segment.rewards, segment.next_values, segment.terminated, segment.ended)
        first = times(segment.values) - steps_in_episode(segment.terminated | segment.ended)
        whole = episode_returns(*what, discount=segment.discount)
        targets = discounted_returns(*what, discount=segment.discount)
        return Estimates(whole - segment.values.gather(0, first), targets)


@serializable
@dataclass(frozen=True)
class RewardToGo(AbstractAdvantage):
    """What followed the action, less the value of the state.

        A_t = sum_{k>=t} gamma^(k-t) r_k - V(s_t)

    Source: Sutton, McAllester, Singh and Mansour (2000).
    """

    def estimate(self, segment: Segment) -> Estimates:
        """Estimates advantages by rewards to go."""
        targets = discounted_returns(
            segment.rewards, segment.next_values, segment.terminated, segment.ended, discount=segment.discount
        )
        return Estimates(targets - segment.values, targets)

    def weigh(self, segment: Segment, log_weights: Tensor, clip: float) -> WeightedEstimates:
        """Estimates advantages with weights per decision: unbiased without a clip.

        Source: Precup, Sutton and Singh (2000).
        """
        weights = per_decision_weights(log_weights, segment.ended, limit=clip)
        returns = per_decision_returns(
            segment.rewards,
            segment.next_values,
            log_weights,
            segment.terminated,
            segment.ended,
            discount=segment.discount,
            limit=clip,
        )
        return WeightedEstimates(weights, returns - segment.values)


@serializable
@dataclass(frozen=True)
class GAE(AbstractAdvantage):
    """Generalised advantage estimation: between the error of one step and all that followed.

        A_t = sum_{k>=t} (gamma lambda)^(k-t) delta_k,     delta_k = r_k + gamma V(s_{k+1}) - V(s_k)

    Attributes:
        decay: lambda in [0, 1]. 0 trusts the critic, 1 is `RewardToGo`.

    Source: Schulman, Moritz, Levine, Jordan and Abbeel (2016).
    """

    decay: float = 0.95

    needs_critic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"GAE: decay must be in [0, 1], got {self.decay!r}")

    def estimate(self, segment: Segment) -> Estimates:
        """Estimates advantages; targets of the critic are lambda-returns."""
        advantages = generalised_advantages(
            segment.rewards,
            segment.values,
            segment.next_values,
            segment.terminated,
            segment.ended,
            discount=segment.discount,
            decay=self.decay,
        )
        return Estimates(advantages, advantages + segment.values)

    def weigh(self, segment: Segment, log_weights: Tensor, clip: float) -> WeightedEstimates:
        """Estimates advantages with a weight for each later error, and a row's own weight.

        What came before the row is not weighed: the gradient is the one in the states that the other policy met.

        Source: Espeholt et al. (2018) for the truncation; Degris, White and Sutton (2012) for the states.
        """
        advantages = per_decision_advantages(
            segment.rewards,
            segment.values,
            segment.next_values,
            log_weights,
            segment.terminated,
            segment.ended,
            discount=segment.discount,
            decay=self.decay,
            limit=clip,
        )
        return WeightedEstimates(log_weights.clamp(max=math.log(clip)).exp(), advantages)
