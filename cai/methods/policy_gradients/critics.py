"""What learns V(s), and by which steps.

minimise  mean_t (V(s_t) - target_t)^2,     targets by the advantage's estimator, of the rollout at hand
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cai.data.serialization import serializable
from cai.factors.networks import MLPBody, OrthogonalInitialisation
from cai.factors.neural_policies import Body
from cai.methods.policy_gradients.batches import Batch
from cai.methods.sampling.annealing import Annealed, at_share
from cai.ops.optimisation import fused_adam

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner

#: The network of values where the user gives none.
VALUE_BODY = MLPBody((64, 64), "tanh", OrthogonalInitialisation())
#: Added to the root of Adam's second moment.
ADAM_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class Outputs:
    """What networks say of a batch.

    Attributes:
        policy: `[B, k]`, for the policy's density.
        values: `[B]`, V in the critic's units; None where this pass does not need them.
    """

    policy: Tensor
    values: Tensor | None


class AbstractCritic(ABC):
    """Says what learns V(s).

    Attributes:
        coefficient: Of the critic's loss in the loss of the policy; 0 where it has its own steps.
    """

    coefficient: float = 0.0

    def policy_body(self, body: Body) -> Body:
        """Gives what makes the policy's network."""
        return body

    @abstractmethod
    def build(self, learner: PolicyGradientLearner) -> list[nn.Parameter]:
        """Adds networks and optimisers to a learner; gives the parameters that the policy's optimiser moves too."""

    @abstractmethod
    def values(self, learner: PolicyGradientLearner, inputs: Tensor) -> Tensor:
        """Gives V in the critic's units, `[*batch]`, of what networks read `[*batch, n]`."""

    @abstractmethod
    def outputs(self, learner: PolicyGradientLearner, inputs: Tensor) -> Outputs:
        """Gives what a loss needs of inputs `[B, n]`: the policy's outputs, and values if they are in the same loss."""

    def fit(self, learner: PolicyGradientLearner, batch: Batch) -> int:
        """Takes steps of its own, if any; gives their number."""
        return 0


@serializable
@dataclass(frozen=True)
class SeparateCritic(AbstractCritic):
    """A network and an optimiser of its own, fitted after each step of the policy.

    Attributes:
        body: What network.
        learning_rate: Of Adam.
        num_epochs: Passes over a rollout.
        batch_size: Rows of a step.
    """

    body: Body = VALUE_BODY
    learning_rate: float | Annealed = 1e-3
    num_epochs: int = 10
    batch_size: int = 64

    def __post_init__(self) -> None:
        need_counts(self, "num_epochs", "batch_size")

    def build(self, learner: PolicyGradientLearner) -> list[nn.Parameter]:
        """Adds the network and its optimiser."""
        network = learner.modules["critic"] = self.body(learner.states.size, 1)
        learner.optimisers["value"] = fused_adam(network.parameters(), at_share(self.learning_rate, 0.0), eps=ADAM_EPS)
        return []

    def values(self, learner: PolicyGradientLearner, inputs: Tensor) -> Tensor:
        """Asks the network."""
        return learner.modules["critic"](inputs).squeeze(-1)

    def outputs(self, learner: PolicyGradientLearner, inputs: Tensor) -> Outputs:
        """Asks the policy alone."""
        return Outputs(learner.policy_module.network(inputs), None)

    def fit(self, learner: PolicyGradientLearner, batch: Batch) -> int:
        """Regresses on the targets."""
        set_learning_rate(learner.optimisers["value"], at_share(self.learning_rate, learner.share))
        count = 0
        for _ in range(self.num_epochs):
            for part in batch.minibatches(self.batch_size):
                loss = nn.functional.mse_loss(self.values(learner, part.inputs), part.targets)
                learner.descend(loss, "value")
                count += 1
        return count


@serializable
@dataclass(frozen=True)
class JointCritic(AbstractCritic):
    """A network of its own, whose loss is added to the policy's: one optimiser, one norm of the gradient.

    Attributes:
        coefficient: Of its loss in the sum.
        body: What network.
    """

    coefficient: float = 0.5
    body: Body = VALUE_BODY

    def __post_init__(self) -> None:
        _need_coefficient(self)

    def build(self, learner: PolicyGradientLearner) -> list[nn.Parameter]:
        """Adds the network."""
        learner.modules["critic"] = self.body(learner.states.size, 1)
        return list(learner.modules["critic"].parameters())

    def values(self, learner: PolicyGradientLearner, inputs: Tensor) -> Tensor:
        """Asks the network."""
        return learner.modules["critic"](inputs).squeeze(-1)

    def outputs(self, learner: PolicyGradientLearner, inputs: Tensor) -> Outputs:
        """Asks both networks."""
        return Outputs(learner.policy_module.network(inputs), self.values(learner, inputs))


@serializable
@dataclass(frozen=True)
class SharedCritic(AbstractCritic):
    """One more output of the policy's network: the two share all hidden layers, and one loss.

    Attributes:
        coefficient: Of its loss in the sum.
    """

    coefficient: float = 0.5

    def __post_init__(self) -> None:
        _need_coefficient(self)

    def policy_body(self, body: Body) -> Body:
        """Gives what makes the network with one more output."""
        return _WithValue(body)

    def build(self, learner: PolicyGradientLearner) -> list[nn.Parameter]:
        """Adds nothing new."""
        return []

    def values(self, learner: PolicyGradientLearner, inputs: Tensor) -> Tensor:
        """Reads the last output."""
        return self._trunk(learner).whole(inputs)[..., -1]

    def outputs(self, learner: PolicyGradientLearner, inputs: Tensor) -> Outputs:
        """Reads both from one pass."""
        whole = self._trunk(learner).whole(inputs)
        return Outputs(whole[..., :-1], whole[..., -1])

    @staticmethod
    def _trunk(learner: PolicyGradientLearner) -> _Trunk:
        return learner.policy_module.network  # type: ignore[return-value]


@dataclass(frozen=True)
class _WithValue:
    """Makes networks with one more output than asked for.

    Attributes:
        body: What network.
    """

    body: Body

    def __call__(self, num_inputs: int, num_outputs: int) -> _Trunk:
        return _Trunk(self.body(num_inputs, num_outputs + 1))


class _Trunk(nn.Module):
    """A network whose last output is kept apart."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, inputs: Tensor) -> Tensor:
        return self.whole(inputs)[..., :-1]


def need_counts(option: object, *names: str) -> None:
    """Raises ValueError unless these attributes are whole numbers of at least 1."""
    for name in names:
        number = getattr(option, name)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{type(option).__name__}: {name} must be a whole number of at least 1, got {number!r}")


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the step size of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def _need_coefficient(critic: JointCritic | SharedCritic) -> None:
    if not 0.0 < critic.coefficient < math.inf:
        raise ValueError(f"{type(critic).__name__}: coefficient must be positive, got {critic.coefficient!r}")
