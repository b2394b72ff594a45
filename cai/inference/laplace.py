"""The posterior around an optimal trajectory: the trajectory, and a Gaussian policy near it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.factors.distributions import DegenerateNormal
from cai.inference.gaussian import GaussianPosterior
from cai.inference.posterior import Gap, Posterior
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages
from cai.ops.readings import FixedDynamics
from cai.ops.shooting.problem import Limits
from cai.simulate import rollout

serializable(Limits)


@serializable
@dataclass(frozen=True, eq=False)
class LaplacePosterior(Posterior):
    """An optimal trajectory, and the maximum-entropy policy around it.

    The optimum is `most_probable_trajectory`. Around it the graph is linear-quadratic: policy, q, v, marginals,
    evidence and entropy are those of that local problem, good near the trajectory and marked as estimates in `stats`,
    unless the graph is linear-quadratic itself and without limits. `sample` runs the policy in the graph's own
    dynamics.

    Where the graph has batch dimensions, everything that is read has them too, after time: `[T + 1, *batch, n]`.

    Attributes:
        problem: The local problem, in states and actions themselves.
        messages: Its backward messages.
        trajectory: The optimum: `[N, T + 1, n]`, `[N, T, m]` and rewards `[N, T]`, one for each element of the batch.
        best_return: The (discounted) sum of rewards along the optimum without noise, terminal reward included,
            `[*batch]`, reward units.
        limits: Bounds of the actions, `[m]` each, or None.
    """

    problem: LinearQuadratic
    messages: QuadraticMessages
    trajectory: Trajectories
    best_return: Tensor
    limits: Limits | None = None

    @cached_property
    def _local(self) -> GaussianPosterior:
        parts = (self.graph, self.method, self.stats, FixedDynamics(), self.problem, self.messages)
        return GaussianPosterior(*parts)

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The optimum that was found: states, actions and rewards, one trajectory for each element of the batch."""
        return self.trajectory

    @property
    def plan(self) -> Tensor:
        """The actions of the optimum, `[*batch, T, m]`."""
        actions = self.trajectory.actions
        return actions.reshape(*self.problem.batch_shape, *actions.shape[1:])

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Distribution:
        """Gives N(u*_t + K_t (x - x*_t), alpha H_uu^-1), its mean within the limits; see `Posterior.policy`.

        At temperature 0 a point mass. Where some action stands at its limit, the distribution is a `DegenerateNormal`.
        """
        policy = self._local.policy(state, t)
        if self.limits is None:
            return policy
        mean = policy.mean.clamp(self.limits.low, self.limits.high)
        if isinstance(policy, torch.distributions.MultivariateNormal):
            scale = policy.scale_tril
            return torch.distributions.MultivariateNormal(mean, scale_tril=scale, validate_args=False)
        return DegenerateNormal(mean, policy.covariance_matrix)  # type: ignore[attr-defined]

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) of the local problem, reward units; see `Posterior.q`."""
        return self._local.q(state, action, t)

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives V_t(x) of the local problem, reward units; see `Posterior.v`."""
        return self._local.v(state, t)

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) - V_t(x) of the local problem, reward units."""
        return self._local.advantage(state, action, t)

    @property
    def log_evidence(self) -> Tensor:
        """Laplace's approximation of log p(O), 0-dim (or `[*batch]`), nats; where there is noise, that of its bound."""
        return self._local.log_evidence

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound: of a graph that is linear-quadratic itself; otherwise not known."""
        return not self.stats.estimates and self._local.is_bound

    @property
    def state_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """A Gaussian a step around the optimum: a batch `[T + 1, *batch]`."""
        return self._local.state_marginals

    @property
    def state_action_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """A Gaussian a step over [state; action]: a batch `[T, *batch]`."""
        return self._local.state_action_marginals

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards in the local problem: 0-dim (or `[*batch]`), reward units."""
        return self._local.expected_return

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's differential entropies: 0-dim (or `[*batch]`), nats."""
        return self._local.entropy

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Runs the policy in the graph's own dynamics, actions kept within the limits; see `Posterior.sample`."""
        if self.problem.batch_shape.numel() != 1:
            raise ValueError(
                f"sample: this posterior plans for a batch of starts {list(self.problem.batch_shape)} at once; ask for "
                "one of them"
            )
        return rollout(self.graph, self._drawn, num, seed=seed, length=length)

    def _drawn(self, state: Tensor, t: int) -> Tensor:
        action = self.policy(state, t).sample()
        return action if self.limits is None else action.clamp(self.limits.low, self.limits.high)

    def log_prob(self, trajectories: Trajectories) -> Tensor:
        """Gives log q(tau), `[N]`, nats, where the graph is linear-quadratic itself; see `Posterior.log_prob`."""
        self._need_exactness("log_prob", "policy(state, t).log_prob(action) gives that of the actions")
        return self._local.log_prob(trajectories)

    def gap(self, other: Posterior) -> Gap:
        """Puts two posteriors side by side where the graph is linear-quadratic itself; see `Posterior.gap`."""
        self._need_exactness("gap", "log_evidence and best_return can be compared")
        return self._local.gap(other._local if isinstance(other, LaplacePosterior) else other)

    def _need_exactness(self, name: str, instead: str) -> None:
        if self.stats.estimates:
            self._unavailable(
                name, f": its samples follow the graph's own dynamics, its messages a local model; {instead}"
            )
