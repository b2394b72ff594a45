"""log pi(a|s) as a function of a network's outputs, for the loops where building distributions would cost the most.

At 64 units a layer a step of a policy is some twenty calls into torch; a `Categorical` doubles that.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from cai.factors.heads import CategoricalHead
from cai.factors.neural_policies import NeuralPolicy
from cai.factors.squashed import SquashedNormal


@dataclass(frozen=True, eq=False)
class Draw:
    """What a policy chose.

    Attributes:
        actions: `[B]` or `[B, m]`, the library's own.
        log_probs: `[B]`, nats.
    """

    actions: Tensor
    log_probs: Tensor


class AbstractDensity(ABC):
    """A policy's distribution over actions, given the outputs `[B, k]` of its network."""

    @abstractmethod
    def draw(self, outputs: Tensor) -> Draw:
        """Draws an action for each row."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Computes log pi(a|s), `[B]`, nats."""

    @abstractmethod
    def divergence(self, old: AbstractDensity, old_outputs: Tensor, outputs: Tensor) -> Tensor:
        """Computes KL(old || this), `[B]`, nats."""

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Distribution:
        """Gives the distribution over the library's own actions."""

    @abstractmethod
    def frozen(self) -> AbstractDensity:
        """Gives a copy that stays as it is while the policy learns."""


class LogitsDensity(AbstractDensity):
    """Finitely many actions, the outputs their logits; `-inf` where an action is not available."""

    def draw(self, outputs: Tensor) -> Draw:
        """Draws indices."""
        logs = outputs.log_softmax(-1)
        actions = torch.multinomial(logs.exp(), 1)
        return Draw(actions.squeeze(-1), logs.gather(-1, actions).squeeze(-1))

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Looks the log-probabilities up."""
        return outputs.log_softmax(-1).gather(-1, actions[:, None]).squeeze(-1)

    def divergence(self, old: AbstractDensity, old_outputs: Tensor, outputs: Tensor) -> Tensor:
        """Sums over the actions."""
        return expected_difference(old_outputs.log_softmax(-1), outputs.log_softmax(-1))

    def distribution(self, outputs: Tensor) -> Distribution:
        """Gives a `Categorical`."""
        return torch.distributions.Categorical(logits=outputs, validate_args=False)

    def frozen(self) -> LogitsDensity:
        """Gives itself: it has no parameters."""
        return self


class HeadDensity(AbstractDensity):
    """Any other head of a `NeuralPolicy`.

    Args:
        output: The module that makes distributions of outputs.
    """

    def __init__(self, output: nn.Module) -> None:
        self._output = output

    def draw(self, outputs: Tensor) -> Draw:
        """Draws actions; a squashed normal keeps what it squashed, and with it the digits of the density."""
        made = self.distribution(outputs)
        if isinstance(made, SquashedNormal):
            return Draw(*made.rsample_with_log_prob())
        actions = made.sample()
        return Draw(actions, made.log_prob(actions))

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Asks the distribution."""
        return self.distribution(outputs).log_prob(actions)

    def divergence(self, old: AbstractDensity, old_outputs: Tensor, outputs: Tensor) -> Tensor:
        """Asks torch's register of divergences."""
        return kl_divergence(old.distribution(old_outputs), self.distribution(outputs))

    def distribution(self, outputs: Tensor) -> Distribution:
        """Gives what the head makes."""
        return self._output(outputs)

    def frozen(self) -> HeadDensity:
        """Gives a copy of the head: its standard deviation may be a parameter."""
        return HeadDensity(copy.deepcopy(self._output).requires_grad_(False))


def density_of(policy: NeuralPolicy) -> AbstractDensity:
    """Gives the density of a policy's head."""
    return LogitsDensity() if isinstance(policy.head, CategoricalHead) else HeadDensity(policy.output)


def expected_difference(logs: Tensor, others: Tensor) -> Tensor:
    """Computes sum_a p(a) (log p(a) - others(a)), `[*batch]`, of log p `[*batch, A]`; nothing where p is zero."""
    return (logs.exp() * torch.where(torch.isneginf(logs), 0.0, logs - others)).sum(-1)
