"""Baselines that depend on the action, and what they take from the gradient put back.

    grad J = E grad log pi(a|s) (A - phi(s, a)) + grad E_s E_{a~pi} phi(s, a)

Whatever phi is, the sum is the same; the nearer phi is to the advantage, the less is left to luck. The mean on the
right is a sum over actions, or E_xi phi(s, a(s, xi)) by draws of xi that are differentiated through (Stein's identity),
or of phi made linear in the action, which a normal policy knows the mean of (Q-Prop). phi is a network fitted to the
estimated advantages of earlier rollouts: fitted to those at hand it would know their luck, and the sum be biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import mse_loss

from cai.data.serialization import serializable
from cai.factors.neural_policies import Body
from cai.methods.policy_gradients.batches import Batch
from cai.methods.policy_gradients.critics import ADAM_EPS, VALUE_BODY, need_counts
from cai.methods.policy_gradients.densities import LogitsDensity
from cai.methods.policy_gradients.expectations import AbstractExpectation, Reparameterised, SumOverActions
from cai.ops.optimisation import fused_adam

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


@serializable
@dataclass(frozen=True)
class FittedAdvantage:
    """A network phi(s, a), fitted to the advantages of each rollout after it was used.

    Attributes:
        body: What network.
        learning_rate: Of Adam.
        num_epochs: Passes over a rollout.
        batch_size: Rows of a step.
        expectation: How it is averaged over actions; None is `SumOverActions` or, on boxes, `Reparameterised`.
    """

    body: Body = VALUE_BODY
    learning_rate: float = 1e-3
    num_epochs: int = 10
    batch_size: int = 64
    expectation: AbstractExpectation | None = None

    def __post_init__(self) -> None:
        need_counts(self, "num_epochs", "batch_size")

    def build(self, learner: PolicyGradientLearner) -> None:
        """Adds phi and its optimiser to a learner."""
        num_outputs = self._expectation(learner).num_outputs(learner)
        size = learner.states.size + (0 if num_outputs else learner.actions.size)
        network = learner.modules["control_variate"] = self.body(size, num_outputs or 1)
        learner.optimisers["control_variate"] = fused_adam(network.parameters(), self.learning_rate, eps=ADAM_EPS)

    def values(self, learner: PolicyGradientLearner, batch: Batch) -> Tensor:
        """Gives phi(s, a) of the actions taken, `[B]`, in the critic's units."""
        return self._expectation(learner).values(learner, batch)

    def means(self, learner: PolicyGradientLearner, batch: Batch, outputs: Tensor) -> Tensor:
        """Gives E_{a~pi} phi(s, a), `[B]`, as a function of the policy's outputs."""
        return self._expectation(learner).means(learner, batch, outputs)

    def fit(self, learner: PolicyGradientLearner, batch: Batch) -> int:
        """Regresses on the advantages; gives the number of updates."""
        expectation, count = self._expectation(learner), 0
        for _ in range(self.num_epochs):
            for part in batch.minibatches(self.batch_size):
                learner.descend(mse_loss(expectation.fitted(learner, part), part.worths), "control_variate")
                count += 1
        return count

    def _expectation(self, learner: PolicyGradientLearner) -> AbstractExpectation:
        if self.expectation is not None:
            return self.expectation
        return SumOverActions() if isinstance(learner.density, LogitsDensity) else Reparameterised()
