"""A rollout as a learner reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cai.methods.policy_gradients.advantages import Segment
from cai.methods.sampling.on_policy import Rollout
from cai.methods.sampling.terminal import with_terminal_reward

if TYPE_CHECKING:
    from cai.methods.policy_gradients.learner import PolicyGradientLearner


@dataclass(frozen=True, eq=False)
class Experience:
    """What happened in L steps of E copies, time first, with what the policy that acted said of it.

    Attributes:
        inputs: `[L, E, n]`, what networks read of states.
        next_inputs: `[L, E, n]`, of the true successors.
        actions: `[L, E]` or `[L, E, m]`, the library's own.
        offsets: `[L, E, A]`, log mu(.|s) that logits are counted from, or None.
        rewards: `[L, E]`, reward units, with what a terminal state is worth.
        terminated: `[L, E]`, bool.
        ended: `[L, E]`, bool: the next row is another episode, or no transition.
        valid: `[L, E]`, bool: the row is a transition.
        log_ratios: `[L, E]`, log(pi/mu)(a|s) when it acted, nats.
        log_priors: `[L, E]`, log mu(a|s), nats.
        outputs: `[L, E, k]`, of the policy's network then.
        log_probs: `[L, E]`, log pi(a|s) then, nats.
    """

    inputs: Tensor
    next_inputs: Tensor
    actions: Tensor
    offsets: Tensor | None
    rewards: Tensor
    terminated: Tensor
    ended: Tensor
    valid: Tensor
    log_ratios: Tensor
    log_priors: Tensor
    outputs: Tensor
    log_probs: Tensor

    def segment(self, learner: PolicyGradientLearner, log_ratios: Tensor) -> Segment:
        """Gives what happened as numbers.

        Args:
            learner: Whose critic and regulariser.
            log_ratios: `[L, E]`, log(pi/mu) of the policy in question, nats.
        """
        rewards = learner.method.regulariser.rewards(self.rewards, log_ratios, learner.temperature)
        values, next_values = (learner.values(inputs) for inputs in (self.inputs, self.next_inputs))
        return Segment(rewards, values, next_values, self.terminated, self.ended, learner.discount)


@torch.no_grad()
def experience_of(learner: PolicyGradientLearner, rollout: Rollout) -> Experience:
    """Reads a rollout, with what the policy as it stands says of it.

    Args:
        learner: Whose policy it was.
        rollout: What happened.
    """
    inputs, offsets = learner.inputs(rollout.states), learner.offsets(rollout.states)
    actions = learner.actions.from_env(rollout.actions)
    outputs = learner.policy_outputs(inputs, offsets)
    shape = outputs.shape[:-1]
    log_probs = learner.density.log_prob(outputs.flatten(0, 1), actions.flatten(0, 1)).reshape(shape)
    rewards = with_terminal_reward(learner.graph, rollout.rewards, rollout.next_states, rollout.terminated)
    return Experience(
        inputs=inputs,
        next_inputs=learner.inputs(rollout.next_states),
        actions=actions,
        offsets=offsets,
        rewards=rewards.to(log_probs),
        terminated=rollout.terminated,
        ended=rollout.ended,
        valid=rollout.valid,
        log_ratios=rollout.log_ratios.to(log_probs),
        log_priors=learner.prior.log_prob(rollout.states, actions).to(log_probs).expand(shape),
        outputs=outputs,
        log_probs=log_probs,
    )
