"""What a step is taken on: rows of experience, in no order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.methods.policy_gradients.densities import AbstractDensity
from cai.methods.policy_gradients.experience import Experience

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner

#: Added to the standard deviation of advantages.
_LITTLE = 1e-8


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of experience with what the policy that acted made of them.

    Attributes:
        inputs: `[B, n]`, what networks read of states.
        actions: `[B]` or `[B, m]`, the library's own.
        offsets: `[B, A]`, log mu(.|s) that logits are counted from, or None.
        log_probs: `[B]`, log pi_old(a|s), nats.
        log_ratios: `[B]`, log(pi_old/mu)(a|s), nats.
        worths: `[B]`, estimates of the advantage, in the critic's units.
        advantages: `[B]`, what multiplies the ratio pi / pi_old: worths, less a control variate, divided by `spread`.
        targets: `[B]`, what the critic is to say, in its own units.
        values: `[B]`, what it said.
        outputs: `[B, k]`, of the policy's network then.
        old: The density that made a policy of them.
        spread: What advantages were divided by; what is added to the surrogate is divided by it too.
    """

    inputs: Tensor
    actions: Tensor
    offsets: Tensor | None
    log_probs: Tensor
    log_ratios: Tensor
    worths: Tensor
    advantages: Tensor
    targets: Tensor
    values: Tensor
    outputs: Tensor
    old: AbstractDensity
    spread: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)

    def minibatches(self, batch_size: int) -> Iterator[Batch]:
        """Gives all rows once, `batch_size` at a time, in an order that torch's generator draws."""
        num = len(self)
        if batch_size >= num:
            yield self
            return
        order = torch.randperm(num, device=self.inputs.device)
        shuffled = self.map(lambda column: column.index_select(0, order))  # once, so that minibatches are views
        for start in range(0, num, batch_size):
            yield shuffled.map(lambda column: column[start : start + batch_size])  # noqa: B023  (called at once)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Gives the batch with every column changed by a function."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        changed = {name: None if column is None else function(column) for name, column in columns.items()}
        return Batch(**changed, old=self.old, spread=self.spread)  # type: ignore[arg-type]

    def scaled(self, advantages: Tensor, *, standardised: bool) -> Batch:
        """Gives the batch with advantages `[B]`, brought to mean zero and variance one if asked for."""
        if not standardised:
            return replace(self, advantages=advantages)
        spread = float(advantages.std(correction=0)) + _LITTLE
        return replace(self, advantages=(advantages - advantages.mean()) / spread, spread=spread)


_COLUMNS = tuple(field.name for field in fields(Batch) if field.name not in ("old", "spread"))


@torch.no_grad()
def batch_of(learner: PolicyGradientLearner, experience: Experience) -> Batch:
    """Estimates advantages of what the policy has just done, and makes rows of all that is a transition."""
    method, unit, rows = learner.method, learner.reward_scale, experience.valid
    segment = experience.segment(learner, experience.log_ratios)
    estimates = method.advantage.estimate(segment)
    charge = method.regulariser.charge(learner, experience.log_ratios)
    worths = (estimates.advantages - charge)[rows] / unit
    batch = Batch(
        inputs=experience.inputs[rows],
        actions=experience.actions[rows],
        offsets=None if experience.offsets is None else experience.offsets[rows],
        log_probs=experience.log_probs[rows],
        log_ratios=experience.log_ratios[rows],
        worths=worths,
        advantages=worths,
        targets=estimates.targets[rows] / unit,
        values=segment.values[rows] / unit,
        outputs=experience.outputs[rows],
        old=learner.density.frozen(),
    )
    control = method.control_variate
    rest = worths if control is None else worths - control.values(learner, batch)
    return batch.scaled(rest, standardised=method.standardised_advantages)
