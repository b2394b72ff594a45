"""The mean of a control variate phi(s, a) over the actions of a policy, as a function of that policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.errors import IncompatibleMethod
from cai.factors.heads import GaussianHead, StateGaussianHead
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.critics import need_counts
from cai.methods.policy_gradients.densities import LogitsDensity
from cai.ops.optimisation import frozen

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


class AbstractExpectation(ABC):
    """Says how phi is averaged over the actions of a policy."""

    @abstractmethod
    def num_outputs(self, learner: PolicyGradientLearner) -> int:
        """Gives how many outputs phi has; 0: it reads the action too and has one.

        Raises:
            IncompatibleMethod: The policy is not of the kind.
        """

    def fitted(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Gives phi(s, a) of the actions taken, `[B]`, to be fitted: differentiable by its parameters."""
        return value_at(learner, batch.inputs, batch.actions)

    @abstractmethod
    def values(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Gives phi(s, a) of the actions taken, `[B]`, in the critic's units."""

    @abstractmethod
    def means(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor:
        """Gives E_{a~pi} phi(s, a), `[B]`, as a function of the policy's outputs."""


@serializable
@dataclass(frozen=True)
class SumOverActions(AbstractExpectation):
    """Finitely many actions: sum_a pi(a|s) phi(s, a)."""

    def num_outputs(self, learner: PolicyGradientLearner) -> int:
        """One for each action."""
        if not isinstance(learner.density, LogitsDensity):
            raise IncompatibleMethod("SumOverActions is for Discrete actions; Reparameterised() is for boxes")
        return learner.actions.num_actions

    def fitted(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Looks the actions' outputs up."""
        return _phi(learner)(batch.inputs).gather(-1, batch.actions[:, None]).squeeze(-1)

    def values(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Looks the actions' outputs up."""
        return self.fitted(learner, batch)

    def means(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor:
        """Sums over the actions."""
        with torch.no_grad():
            values = _phi(learner)(batch.inputs)
        return (outputs.softmax(-1) * values).sum(-1)


@serializable
@dataclass(frozen=True)
class Reparameterised(AbstractExpectation):
    """A box: the mean over fresh actions that are differentiated through; unbiased, whatever phi.

    Attributes:
        num_samples: Fresh actions for each state.

    Source: Liu, Feng, Mao, Zhou, Peng and Liu (2018).
    """

    num_samples: int = 1

    def __post_init__(self) -> None:
        need_counts(self, "num_samples")

    def num_outputs(self, learner: PolicyGradientLearner) -> int:
        """It reads the action."""
        _need_box(self, learner)
        return 0

    def values(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Reads the actions taken."""
        return value_at(learner, batch.inputs, batch.actions)

    def means(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor:
        """Averages over fresh actions."""
        actions = learner.density.distribution(outputs).rsample((self.num_samples,))
        with frozen(_phi(learner).parameters()):
            return value_at(learner, batch.inputs.expand(self.num_samples, *batch.inputs.shape), actions).mean(0)


@serializable
@dataclass(frozen=True)
class LinearInAction(AbstractExpectation):
    """A box with a normal policy: phi made linear about the mean m of the policy that acted, whose mean is known.

        phi(s, a) -> g (a - m),     E_pi = g (m_pi - m),     g the derivative of phi by the action at m

    Source: Gu, Lillicrap, Ghahramani, Turner and Levine (2017).
    """

    def num_outputs(self, learner: PolicyGradientLearner) -> int:
        """It reads the action."""
        _need_box(self, learner)
        if not isinstance(learner.policy_module.head, _WITH_MEAN):
            raise IncompatibleMethod(
                f"LinearInAction needs a policy whose mean is known, not {learner.policy_module.head}; "
                "Reparameterised() takes any"
            )
        return 0

    def values(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Evaluates the line at the actions taken."""
        return (_slope(learner, batch) * (batch.actions - _old_mean(batch))).sum(-1)

    def means(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor:
        """Evaluates the line at the policy's mean."""
        mean = learner.density.distribution(outputs).mean
        return (_slope(learner, batch) * (mean - _old_mean(batch))).sum(-1)


def value_at(learner: PolicyGradientLearner, inputs: Tensor, actions: Tensor) -> Tensor:
    """Gives phi(s, a), `[*batch]`, of inputs `[*batch, n]` and actions of a box `[*batch, m]`."""
    units = learner.actions.to_unit(actions)
    return _phi(learner)(torch.cat([inputs, units.to(inputs)], -1)).squeeze(-1)


def _phi(learner: PolicyGradientLearner) -> nn.Module:
    return learner.modules["control_variate"]


def _old_mean(batch: Batch) -> Tensor:
    return batch.old.distribution(batch.outputs).mean


@torch.enable_grad()
def _slope(learner: PolicyGradientLearner, batch: Batch) -> Tensor:
    """Gives the derivative of phi by the action at the mean of the policy that acted, `[B, m]`."""
    mean = _old_mean(batch).detach().requires_grad_()
    with frozen(_phi(learner).parameters()):
        return torch.autograd.grad(value_at(learner, batch.inputs, mean).sum(), mean)[0]


def _need_box(option: AbstractExpectation, learner: PolicyGradientLearner) -> None:
    if learner.actions.is_discrete:
        raise IncompatibleMethod(f"{type(option).__name__} is for boxes of actions; SumOverActions() is for Discrete")


#: Heads whose distributions have a mean in closed form.
_WITH_MEAN = (GaussianHead, StateGaussianHead)
