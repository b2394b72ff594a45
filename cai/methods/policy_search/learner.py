"""What `CrossEntropyPolicySearch` learns: a normal distribution over the parameters of a policy."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from cai.factors.diagonal_normal import DiagonalNormal
from cai.factors.heads import AbstractHead
from cai.factors.multi_categorical import MultiCategorical
from cai.factors.networks import MLPBody
from cai.factors.neural_policies import in_units_of
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.policy_search.policies import VectorPolicies
from cai.methods.sampling.learner import AbstractLearner, Choice
from cai.methods.sampling.priors import ConstantPrior


class PolicySearchLearner(AbstractLearner):
    """N(mean, diag std^2) over vectors of parameters; its mean is the answer.

    Args:
        graph: The graph.
        body: The network's form.
        head: The distribution's form; None is the usual one.
        initial_std: Standard deviation of every parameter at first.

    Attributes:
        graph: The graph.
        policies: What vectors of parameters say of states.
    """

    def __init__(self, graph: TrajectoryGraph, *, body: MLPBody, head: AbstractHead | None, initial_std: float) -> None:
        super().__init__(graph)
        self.graph = graph
        self.policies = VectorPolicies(
            self.states, self.actions, self.prior, body=body, head=head, greedy=self.temperature == 0.0
        )
        search = nn.Module()
        search.register_buffer("mean", torch.zeros(self.policies.num_parameters))
        search.register_buffer("std", torch.full((self.policies.num_parameters,), float(initial_std)))
        self.modules["search"] = search

    @property
    def mean(self) -> Tensor:
        """The mean of the parameters, `[P]`."""
        return self.modules["search"].get_buffer("mean")

    @property
    def std(self) -> Tensor:
        """Their standard deviations, `[P]`."""
        return self.modules["search"].get_buffer("std")

    def draw(self, num: int) -> Tensor:
        """Draws vectors of parameters, `[num, P]`."""
        return self.mean + self.std * torch.randn(num, len(self.mean), device=self.mean.device)

    def move_to(self, elites: Tensor, noise: float) -> None:
        """Takes the moments of the elites `[n, P]`, and adds a variance of `noise` squared."""
        self.mean.copy_(elites.mean(0))
        self.std.copy_((elites.var(0, unbiased=False) + noise**2).sqrt())

    def act_as(self, num: int, states: NDArray[Any]) -> Choice:
        """Draws an action of each of the `num` policies that were loaded last, in states of their own `[num, ...]`.

        The log-ratios are their means over actions where these have a closed form: a sampled log-ratio rewards luck,
        since -log pi of an action that was unlikely is great, and elites are chosen among the lucky.
        """
        with torch.no_grad():
            policy = self.policies.each(states, num)
            actions = policy.sample()
            log_ratios = torch.zeros(num)
            if self.temperature > 0.0:
                log_ratios = self._mean_log_ratios(policy, torch.as_tensor(states), actions)
        return Choice(self.actions.to_env(actions), log_ratios.to(torch.float32).numpy())

    def _mean_log_ratios(self, policy: Distribution, states: Tensor, actions: Tensor) -> Tensor:
        """Computes KL(pi || mu), `[E]`, nats, or where it is no closed form log pi / mu of the actions drawn."""
        if isinstance(policy, Categorical):
            ratios = torch.where(policy.probs > 0.0, policy.logits - self.prior.log_probs(states), 0.0)
            self.metrics.add("entropy", policy.entropy().mean())
            return (policy.probs * ratios).sum(-1)
        log_prior = self.prior.log_prob(states, actions)
        if isinstance(self.prior, ConstantPrior) and isinstance(policy, MultiCategorical | DiagonalNormal):
            entropies = policy.entropy()
        else:
            entropies = -policy.log_prob(actions)
        self.metrics.add("entropy", entropies.mean())
        return -entropies - log_prior

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the policy of the mean."""
        self.policies.load(self.mean.expand(len(states), -1))
        return self.act_as(len(states), states)

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s) of the mean."""
        assert self.graph.action_space is not None
        return in_units_of(self.graph.action_space, self.policies.one(self.mean, state))
