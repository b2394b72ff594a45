"""What learns in `PolicyGradient`: a policy, a critic if there is one, and what an update asks of them.

The critic works in units of `reward_scale`, and advantages are divided by it. What the regulariser takes is divided by
the same, and by the spread of the advantages where these are standardised, so that no scale changes the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, TransformedDistribution
from torch.nn.functional import mse_loss

from cai.errors import Unavailable
from cai.factors.neural_policies import NeuralPolicy
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.policy_gradients.batches import Batch, batch_of
from cai.methods.policy_gradients.critics import ADAM_EPS, Outputs, set_learning_rate
from cai.methods.policy_gradients.densities import LogitsDensity, density_of
from cai.methods.policy_gradients.experience import Experience, experience_of
from cai.methods.sampling.annealing import at_share
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.on_policy import AbstractOnPolicyLearner, Rollout
from cai.methods.sampling.priors import ConstantPrior
from cai.ops.optimisation import fused_adam
from cai.simulate.worlds.normalising import RunningMoments, RunningRewardScale

if TYPE_CHECKING:
    from cai.methods.policy_gradient import PolicyGradient


@dataclass(frozen=True, eq=False)
class Movement:
    """How far a policy went from the one that acted.

    Attributes:
        divergence: Mean KL(old || new) in the states seen, nats.
        ratios: `[B]`, pi_new / pi_old of the actions taken.
    """

    divergence: float
    ratios: Tensor


class PolicyGradientLearner(AbstractOnPolicyLearner):
    """A policy that climbs its own objective.

    Args:
        graph: The graph.
        method: The options.

    Attributes:
        graph: The graph.
        method: The options.
        density: log pi as a function of the outputs of the policy's network.
        past: The last rollouts, where an update uses them again.
    """

    def __init__(self, graph: TrajectoryGraph, method: PolicyGradient) -> None:
        super().__init__(graph)
        self.graph, self.method = graph, method
        critic = method.critic
        assert graph.state_space is not None and graph.action_space is not None  # `accepts` has seen to it
        policy = self.modules["policy"] = NeuralPolicy(
            graph.state_space,
            graph.action_space,
            head=method.head_for(self.actions),
            body=method.body if critic is None else critic.policy_body(method.body),
            standardisation=method.standardisation,
        )
        self.density, self._like = density_of(policy), next(policy.parameters())
        self._tilts = isinstance(self.density, LogitsDensity) and not isinstance(self.prior, ConstantPrior)
        moved = [*policy.parameters(), *([] if critic is None else critic.build(self))]
        self.optimisers["total"] = fused_adam(moved, at_share(method.learning_rate, 0.0), eps=ADAM_EPS)
        for part in (method.update, method.control_variate):
            if part is not None:
                part.build(self)
        self.past: list[Experience] = []
        self._moments = None if method.standardisation is None else RunningMoments((self.states.size,))
        self._rewards = RunningRewardScale(method.num_envs, self.discount) if method.scaled_rewards else None

    @property
    def policy_module(self) -> NeuralPolicy:
        """The policy's network and head."""
        return self.modules["policy"]  # type: ignore[return-value]

    @property
    def needs_whole_episodes(self) -> bool:
        """Whether rollouts end where episodes do: without a critic nothing stands for what comes after."""
        return self.method.critic is None

    @property
    def reward_scale(self) -> float:
        """What the critic's values are in units of, reward units."""
        return 1.0 if self._rewards is None else self._rewards.scale

    # What networks say. Inputs are features as they read them; offsets are log mu(.|s), where logits count from it.

    def inputs(self, states: Tensor) -> Tensor:
        """Gives what networks read of states `[*batch, ...]`: `[*batch, n]`."""
        features = self.states.features(states).to(self._like)
        standardiser = self.policy_module.standardiser
        return features if standardiser is None else standardiser(features)

    def offsets(self, states: Tensor) -> Tensor | None:
        """Gives log mu(.|s), `[*batch, A]`, that logits are counted from; None where mu is the same for all actions."""
        return self.prior.log_probs(states).to(self._like) if self._tilts else None

    def policy_outputs(self, inputs: Tensor, offsets: Tensor | None) -> Tensor:
        """Gives what the density makes a policy of, `[*batch, k]`."""
        outputs = self.policy_module.network(inputs)
        return outputs if offsets is None else outputs + offsets

    def outputs(self, batch: Batch) -> Outputs:
        """Gives what a loss on a batch needs of policy and critic."""
        critic = self.method.critic
        if critic is None:
            return Outputs(self.policy_outputs(batch.inputs, batch.offsets), None)
        outputs = critic.outputs(self, batch.inputs)
        return outputs if batch.offsets is None else Outputs(outputs.policy + batch.offsets, outputs.values)

    def values(self, inputs: Tensor) -> Tensor:
        """Gives V, reward units, `[*batch]`; zero without a critic."""
        critic = self.method.critic
        return (
            inputs.new_zeros(inputs.shape[:-1]) if critic is None else self.reward_scale * critic.values(self, inputs)
        )

    # Acting, and what was learned.

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the policy."""
        rows = torch.as_tensor(states)
        draw = self.density.draw(self.policy_outputs(self.inputs(rows), self.offsets(rows)))
        log_ratios = draw.log_probs - self.prior.log_prob(rows, draw.actions)
        return Choice(self.actions.to_env(draw.actions), log_ratios.to("cpu", torch.float32).numpy())

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s) on the environment's own actions."""
        if not self._tilts:
            return self.policy_module(state)
        rows = torch.as_tensor(state)
        policy = self.density.distribution(self.policy_outputs(self.inputs(rows), self.offsets(rows)))
        start = int(getattr(self.actions.space, "start", 0))
        return TransformedDistribution(policy, [AffineTransform(start, 1)]) if start else policy

    def q(self, state: Any, action: Any) -> Tensor:
        """Raises `Unavailable`: nothing of the kind is learned."""
        raise Unavailable("PolicyGradient learns a policy and V(s), no q; SoftActorCritic and SoftQLearning learn one")

    def v(self, state: Any) -> Tensor:
        """Gives the critic's V(s), reward units: soft with `InReward`, of rewards alone with `Bonus`."""
        if self.method.critic is None:
            raise Unavailable("PolicyGradient(critic=None) learns no v; give it a critic, such as JointCritic()")
        return self.values(self.inputs(torch.as_tensor(state)))

    # Learning.

    def learn_from(self, rollout: Rollout) -> int:
        """Moves policy and critic by what happened."""
        set_learning_rate(self.optimisers["total"], at_share(self.method.learning_rate, self.share))
        if self._rewards is not None:
            columns = (rollout.rewards, rollout.terminated | rollout.truncated, rollout.valid)
            for rewards, done, valid in zip(*(column.cpu().numpy() for column in columns), strict=True):
                self._rewards.update(rewards, done, valid)
        count = self.method.update(self, experience_of(self, rollout))
        if self._moments is not None:  # for the next rollout: the policy that acted is the one that learns
            self._moments.update(self.states.features(rollout.states[rollout.valid]))
            mean, variance = torch.from_numpy(self._moments.mean), torch.from_numpy(self._moments.variance)
            self.policy_module.observe_moments(mean, variance)
        return count

    def batch(self, experience: Experience) -> Batch:
        """Estimates the advantages of what the policy has just done; logs entropy and explained variance."""
        batch = batch_of(self, experience)
        self.metrics.add("entropy", -batch.log_probs.mean())
        if self.method.critic is not None:
            self.metrics.add("explained_variance", _explained(batch.values, batch.targets))
        return batch

    def surrogate(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Computes mean_t pi / pi_old A_t as a function of the policy's outputs: 0-dim."""
        ratios = (self.density.log_prob(outputs, batch.actions) - batch.log_probs).exp()
        return (ratios * batch.advantages).mean()

    def beside(self, batch: Batch, outputs: Tensor) -> Tensor | float:
        """Computes what is added to a surrogate, in its units: the mean of the control variate, less the penalty."""
        added: Tensor | float = 0.0
        penalty = self.method.regulariser.penalty(self, batch, outputs)
        if penalty is not None:
            added = added - penalty / self.reward_scale
        if self.method.control_variate is not None:
            added = added + self.method.control_variate.means(self, batch, outputs).mean()
        return added / batch.spread

    def objective(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Computes surrogate and what is beside it: 0-dim, of the gradient that the method is named after."""
        return self.surrogate(batch, outputs) + self.beside(batch, outputs)

    def ascend(self, gain: Tensor, batch: Batch, outputs: Outputs) -> None:
        """Takes a step of the optimiser up a gain and what is beside it, and down the loss of a critic in the same."""
        loss = -gain - self.beside(batch, outputs.policy)
        self.metrics.add("policy_loss", loss)
        critic = self.method.critic
        if critic is not None and outputs.values is not None:
            error = mse_loss(outputs.values, batch.targets)
            self.metrics.add("value_loss", error)
            loss = loss + critic.coefficient * error
        self.metrics.add("gradient_norm", self.descend(loss, "total", max_norm=self.method.max_gradient_norm))

    @torch.no_grad()
    def moved(self, batch: Batch) -> Movement:
        """Measures how far the policy has gone from the one that acted, and logs it."""
        outputs = self.policy_outputs(batch.inputs, batch.offsets)
        divergence = float(self.density.divergence(batch.old, batch.outputs, outputs).mean())
        ratios = (self.density.log_prob(outputs, batch.actions) - batch.log_probs).exp()
        self.metrics.add("kl", divergence)
        return Movement(divergence, ratios)

    def fit(self, batch: Batch) -> int:
        """Fits a separate critic and a control variate, after the policy has moved; gives the number of updates."""
        fitted = (self.method.critic, self.method.control_variate)
        return sum(part.fit(self, batch) for part in fitted if part is not None)

    # Files.

    def memory(self) -> dict[str, Any]:
        """Copies all that was learned, running scales included."""
        scales = {"moments": self._moments, "rewards": self._rewards}
        return super().memory() | {name: scale.memory() for name, scale in scales.items() if scale is not None}

    def remember(self, memory: dict[str, Any]) -> None:
        """Puts back what `memory` gave."""
        super().remember(memory)
        for name, scale in (("moments", self._moments), ("rewards", self._rewards)):
            if scale is not None:
                scale.remember(memory[name])


def _explained(values: Tensor, targets: Tensor) -> float:
    """Computes the share of the targets' variance that the values explain; below zero where they make it worse."""
    spread = float(targets.var(correction=0))
    return 1.0 - float((targets - values).var(correction=0)) / spread if spread > 0.0 else 0.0
