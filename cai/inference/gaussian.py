"""The posterior of a linear-Gaussian graph: quadratic messages, and everything that follows from them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import Unavailable
from cai.factors.checks import state_index
from cai.factors.distributions import DegenerateNormal
from cai.factors.gaussian import LinearGaussianPolicy
from cai.factors.linear_parts import part_at, times
from cai.inference.gaussian_gap import need_same_world
from cai.inference.gaussian_paths import (
    checked_length,
    drawn_paths,
    finite_vector,
    joined,
    log_density_of_states,
    steps_taken,
)
from cai.inference.posterior import Gap, Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.moments import PathMoments, discounted
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, quadratic_form, symmetric, with_one
from cai.ops.gaussian.values import QuadraticValues
from cai.ops.readings import PosteriorDynamics, Reading, RiskSensitive
from cai.simulate.seeding import seeded

serializable(LinearQuadratic)
serializable(QuadraticMessages)

#: Numbers that `log_prob` holds at once for a product of matrices.
_MAX_ENTRIES = 2**24


def risk_parameter(reading: Reading, temperature: float | Tensor) -> float | Tensor:
    """Gives eta of (1/eta) log E exp(eta V), 1 / reward units: 0 where the dynamics stays, 1/alpha of the posterior."""
    if isinstance(reading, RiskSensitive):
        return reading.eta
    return 1.0 / temperature if isinstance(reading, PosteriorDynamics) else 0.0


@serializable
@dataclass(frozen=True, eq=False)
class GaussianPosterior(Posterior):
    """Backward messages that are quadratics, with marginals, evidence and samples computed when they are asked for.

    States are vectors `[..., n]` and actions `[..., m]`. Where the graph has batch dimensions, what is read of whole
    trajectories has them too, after time: `[T + 1, *batch, n]`. What is read at a state broadcasts the state's batch,
    that of the times and the batch of the messages, which is that of all factors but the start: leading dimensions of
    size 1 are not counted, so that a lone state of a graph with a batch in its start alone gives a lone answer.

    Attributes:
        reading: What the messages mean: which trajectory distribution they describe.
        problem: The graph as matrices.
        messages: V as quadratic forms, and the policy's gains and covariances.
    """

    reading: Reading
    problem: LinearQuadratic
    messages: QuadraticMessages

    # What is read at a state, an action and a time.

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Distribution:
        """Gives pi_t(u|x) = N(K_t x + k_t, alpha H_uu^-1); a point mass at temperature 0; see `Posterior.policy`."""
        state, time = self._vector(state, self.problem.num_states, "state"), self._time(t, self._last_step)
        batch, m = self._batch_of(time, state=state), self.problem.num_actions
        mean = times(self._part(self.messages.gains, time), with_one(state)).expand(*batch, m)
        if self.problem.is_hard or self.messages.factors is None:
            return DegenerateNormal(mean, self._part(self.messages.covariances, time).expand(*batch, m, m))
        scale = self._part(self._policy_scale, time).expand(*batch, m, m)
        return torch.distributions.MultivariateNormal(mean, scale_tril=scale, validate_args=False)

    @property
    def feedback(self) -> LinearGaussianPolicy:
        """The policy as a factor, N(K_t x + k_t, S_t): gains `[T, *batch, m, n]`, without time on an infinite horizon.

        The batch is that of the messages. It learns where the graph does.
        """
        messages, n = self.messages, self.problem.num_states
        gains = _lead(messages.gains, 2)
        covariance = None if self.problem.is_hard else symmetric(_lead(messages.covariances, 2))
        parts = (gains[..., :n], gains[..., n], covariance)
        if self.problem.horizon is None:
            return LinearGaussianPolicy(*(part if part is None else part[0] for part in parts), dtype=gains.dtype)
        return LinearGaussianPolicy.per_step(*parts, dtype=gains.dtype)

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) = r + gamma (1/eta) log E exp(eta V_{t+1}), reward units; see `Posterior.q`."""
        problem = self.problem
        state, action = self._vector(state, problem.num_states, "state"), self._action(action)
        time = self._time(t, self._last_step)
        batch, z = self._batch_of(time, state=state, action=action), joined(state, action)
        reward = -0.5 * quadratic_form(self._part(problem.reward, time), z)
        following = times(self._part(problem.dynamics, time), z)
        value = -0.5 * quadratic_form(self._part(self._values.tilted, time), following)
        later = self._part(self._values.later, time, event_dims=0)
        return (reward + problem.discount * (value + later.to(value.dtype))).expand(batch)

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives V_t(x) for 0 <= t <= T, reward units; see `Posterior.v`."""
        state = self._vector(state, self.problem.num_states, "state")
        time = self._time(t, self.problem.horizon or 0)
        batch = self._batch_of(time, state=state)
        value = -0.5 * quadratic_form(self._part(self.messages.values, time), with_one(state))
        constant = self._part(self.messages.constants, time, event_dims=0)
        return (value + constant.to(value.dtype)).expand(batch)

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) - V_t(x), reward units."""
        return self.q(state, action, t) - self.v(state, t)

    @property
    def _last_step(self) -> int:
        return 0 if self.problem.horizon is None else self.problem.horizon - 1

    def _vector(self, value: Any, size: int, name: str) -> Tensor:
        return finite_vector(value, size, self.messages.values, name)

    def _action(self, action: Any) -> Tensor:
        return self._vector(action, self.problem.num_actions, "action")

    def _time(self, t: Any, last: int) -> int | Tensor:
        if self.problem.horizon is None:
            return 0
        time = state_index(t, last + 1, "t")
        return time if time.dim() else int(time)

    def _batch_of(self, time: int | Tensor, **vectors: Tensor) -> torch.Size:
        """The batch that vectors, times and messages broadcast to."""
        shapes = {name: vector.shape[:-1] for name, vector in vectors.items()}
        shapes |= {"t": time.shape} if isinstance(time, Tensor) else {}
        shapes["the posterior"] = _without_leading_ones(self.problem.message_batch)
        try:
            return torch.broadcast_shapes(*shapes.values())
        except RuntimeError:
            found = ", ".join(f"{list(shape)} of {name}" for name, shape in shapes.items())
            raise ValueError(f"these batches do not broadcast with each other: {found}") from None

    def _part(self, part: Tensor, time: int | Tensor, event_dims: int = 2) -> Tensor:
        part = _lead(part, event_dims)
        return part[0] if len(part) == 1 else part_at(part, time, event_dims, "t")

    @grad_cached_property
    def _policy_scale(self) -> Tensor:
        return torch.linalg.cholesky(self.messages.covariances)

    @grad_cached_property
    def _values(self) -> QuadraticValues:
        return QuadraticValues(self.problem, self.messages, risk_parameter(self.reading, self.problem.temperature))

    @grad_cached_property
    def _moments(self) -> PathMoments:
        return PathMoments(self.problem, self.messages, risk_parameter(self.reading, self.problem.temperature))

    # Evidence.

    @property
    def log_evidence(self) -> Tensor:
        """The log evidence log p(O), or a lower bound of it: 0-dim (or `[*batch]`), nats; see `Posterior.log_evidence`.

        Under a flat action prior it is a density with respect to the Lebesgue measure of the actions.
        """
        if self.problem.is_hard:
            raise Unavailable("log_evidence is undefined at temperature 0, where the optimality has no density")
        self._need_an_end("log_evidence")
        self._need_bound("log_evidence")
        return self._values.of_start / self.problem.temperature

    @property
    def gain(self) -> Tensor:
        """What every further step is worth in the long run: 0-dim (or `[*batch]`), reward units."""
        return super().gain if self.messages.gain is None else self.messages.gain.expand(self.problem.batch_shape)

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound of log p(O)."""
        self._need_bound("is_bound")
        return self.reading.is_bound

    def _need_bound(self, name: str) -> None:
        if reason := self.reading.why_no_evidence(self.problem.temperature):
            self._unavailable(name, reason)

    def _need_an_end(self, name: str) -> None:
        if self.messages.gain is not None:
            self._unavailable(
                name,
                ": on an infinite horizon without discount it grows without bound; `gain` is what a step is worth, "
                "`state_marginals` the long-run distribution",
            )

    # The trajectory distribution that the messages describe.

    @property
    def state_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """Distribution of the state, a Gaussian a step: a batch `[T + 1, *batch]`; without horizon the long-run one."""
        self._need_one_gaussian("state_marginals")
        return DegenerateNormal(self._moments.states.means, self._moments.states.covariances)

    @property
    def state_action_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """Distribution of [state; action], a Gaussian a step: `[T, *batch]`; without horizon the long-run one."""
        self._need_one_gaussian("state_action_marginals")
        return DegenerateNormal(self._moments.joint.means, self._moments.joint.covariances)

    def _need_one_gaussian(self, name: str) -> None:
        if self.problem.horizon is None and self.messages.gain is None:
            self._unavailable(
                name,
                ": the discounted occupancy of an infinite horizon is a mixture of Gaussians, one a step; take a "
                "finite horizon, or sample(num, length=...)",
            )

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards, terminal reward included: 0-dim (or `[*batch]`), reward units."""
        self._need_an_end("expected_return")
        return self._moments.expected_return

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's differential entropies: 0-dim (or `[*batch]`), nats."""
        self._need_an_end("entropy")
        if self.problem.is_hard or self.messages.factors is None:
            self._unavailable("entropy", ": the policy is a point mass in some direction, without a density")
        gamma, m = self.problem.discount, self.problem.num_actions
        logdet = 2 * self._policy_scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        entropies = 0.5 * (logdet + m * (1.0 + math.log(2 * math.pi)))
        endless = self.problem.horizon is None
        total = entropies[0] / (1 - gamma) if endless else discounted(entropies, gamma).sum(0)
        return total.expand(self.problem.batch_shape)

    @property
    def mean_trajectory(self) -> Trajectories:
        """The means of states and actions, one trajectory for each graph of the batch: `[N, T + 1, n]`, `[N, T, m]`.

        Under a fixed dynamics it is what the policy's mean does without noise. Its gradient costs two sweeps of
        vectors, with the gains and factors of the messages.
        """
        if self.problem.horizon is None:
            self._unavailable("mean_trajectory", " without a horizon")
        path, n = self._moments.path, self.problem.num_states
        path = path.reshape(len(path), -1, path.shape[-1]).transpose(0, 1)
        return Trajectories(path[..., :n], path[:, :-1, n + 1 :])

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The mode of p(tau | O), which is its mean: a batch of one, or of the graph's batch; of `SumProduct` only."""
        if not isinstance(self.reading, PosteriorDynamics) or self.problem.horizon is None:
            self._unavailable("most_probable_trajectory", "; ask SumProduct, on a finite horizon")
        with torch.no_grad():
            rewards = -0.5 * quadratic_form(self.problem.reward, self._moments.path[:-1])
            means = self.mean_trajectory
        return replace(means, rewards=rewards.reshape(len(rewards), -1).transpose(0, 1))

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of this posterior, `[N]` of them, in its own dynamics; see `Posterior.sample`."""
        length = checked_length(num, length, self.problem.horizon)
        self._need_no_batch("sample")
        with torch.no_grad(), seeded(seed, self.messages.values.device):
            return drawn_paths(self._moments, int(num), length)

    def _need_no_batch(self, name: str) -> None:
        if self.problem.batch_shape.numel() != 1:
            raise ValueError(
                f"{name}: this posterior answers a batch of graphs {list(self.problem.batch_shape)} at once; ask it of "
                "a graph without batch dimensions"
            )

    def log_prob(self, trajectories: Trajectories) -> Tensor:
        """Gives log q(tau): start, actions and transitions, `[N]`, nats; see `Posterior.log_prob`.

        Where a covariance is singular it is the density on what can be reached, minus infinity elsewhere.
        """
        self._need_no_batch("log_prob")
        problem = self.problem
        steps = steps_taken(trajectories, problem, self.messages.values)
        chunk = max(1, _MAX_ENTRIES // (max(1, steps.actions.shape[1]) * problem.cost.shape[-1] ** 2))
        parts = zip(*(part.split(chunk) for part in (steps.states, steps.actions, steps.mask)), strict=True)
        return torch.cat([self._log_density(*part) for part in parts])

    def _log_density(self, states: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        of_states = log_density_of_states(states, actions, self._moments)
        if not actions.numel():
            return of_states.sum(1)
        policy = self.policy(states[:, :-1], torch.arange(actions.shape[1]))
        of_actions = torch.nn.functional.pad(policy.log_prob(actions), (1, 0))
        return torch.where(mask, of_states + of_actions, 0.0).sum(1)

    # Side by side.

    def gap(self, other: Posterior) -> Gap:
        """Puts two posteriors on the same graph side by side, `[*batch]`, nats; see `Posterior.gap`."""
        if not isinstance(other, GaussianPosterior):
            raise ValueError(f"gap: the other posterior is a {type(other).__name__}, on no linear-Gaussian graph")
        need_same_world(self.problem, other.problem)
        self._need_an_end("gap")
        if self.problem.horizon is None:
            self._unavailable("gap", ": on an infinite horizon; take a finite one")
        difference = self.log_evidence - other.log_evidence
        sign = -1.0 if self.is_bound and not other.is_bound else 1.0
        return Gap(sign * difference, self._kl_to(other), other._kl_to(self))

    def _kl_to(self, other: GaussianPosterior) -> Tensor:
        second = self._moments.second
        return self._values.log_ratio(second) - other._values.log_ratio(second)


def _without_leading_ones(batch: torch.Size) -> torch.Size:
    return torch.Size(itertools.dropwhile(lambda size: size == 1, batch))


def _lead(part: Tensor, event_dims: int) -> Tensor:
    """Drops leading batch dimensions of size 1, which are there to broadcast: `[T or 1, *batch, *event]`."""
    last = part.dim() - event_dims
    return part.reshape(len(part), *_without_leading_ones(part.shape[1:last]), *part.shape[last:])
