"""The posterior of a linear-Gaussian graph: quadratic messages, and everything that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import Unavailable
from cai.factors.distributions import DegenerateNormal
from cai.factors.linear_parts import part_at
from cai.inference.posterior import Gap, Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.affine_scan import scanned_covariances, scanned_means
from cai.ops.gaussian.control_scan import pays_to_scan
from cai.ops.gaussian.marginals import (
    Arrival,
    Moments,
    arrival_of,
    closed_loop,
    covariances_forward,
    optimal_path,
    start_of,
)
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, quadratic_form, symmetric, with_one
from cai.ops.gaussian.riccati import noise_constants, scaled_noise, through_noise
from cai.ops.gaussian.stationary import lyapunov, stationary_moments
from cai.ops.readings import PosteriorDynamics, Reading, RiskSensitive
from cai.simulate.seeding import seeded

serializable(LinearQuadratic)
serializable(QuadraticMessages)


def risk_parameter(reading: Reading, temperature: float | Tensor) -> float | Tensor:
    """Gives eta of (1/eta) log E exp(eta V), 1 / reward units: 0 where the dynamics stays, 1/alpha of the posterior."""
    if isinstance(reading, RiskSensitive):
        return reading.eta
    return 1.0 / temperature if isinstance(reading, PosteriorDynamics) else 0.0


@serializable
@dataclass(frozen=True, eq=False)
class GaussianPosterior(Posterior):
    """Backward messages that are quadratics, with marginals, evidence and samples computed when they are asked for.

    States are vectors `[..., n]` and actions `[..., m]`. Where the graph has batch dimensions, everything that is read
    has them too, after time: `[T + 1, *batch, n]`.

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
        state = self._vector(state, self.problem.num_states, "state")
        time = self._time(t, self._last_step)
        gains = self._part(self.messages.gains, time)
        mean = (gains @ with_one(state)[..., None]).squeeze(-1)
        if self.problem.is_hard or self.messages.factors is None:
            covariance = self._part(self.messages.covariances, time)
            return DegenerateNormal(mean, covariance.expand(*mean.shape, mean.shape[-1]))
        scale = self._part(self._policy_scale, time).expand(*mean.shape, mean.shape[-1])
        return torch.distributions.MultivariateNormal(mean, scale_tril=scale, validate_args=False)

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) = r + gamma (1/eta) log E exp(eta V_{t+1}), reward units; see `Posterior.q`."""
        problem = self.problem
        state = self._vector(state, problem.num_states, "state")
        action = self._vector(action, problem.num_actions, "action")
        time = self._time(t, self._last_step)
        z = _joined(state, action)
        reward = -0.5 * quadratic_form(self._part(self._reward_form, time), z)
        following = (self._part(problem.dynamics, time) @ z[..., None]).squeeze(-1)
        later = self._part(self._later_constants, time)
        value = -0.5 * quadratic_form(self._part(self._tilted, time), following)
        return reward + problem.discount * (value + later.to(value.dtype))

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives V_t(x) for 0 <= t <= T, reward units; see `Posterior.v`."""
        state = self._vector(state, self.problem.num_states, "state")
        time = self._time(t, self.problem.horizon or 0)
        value = -0.5 * quadratic_form(self._part(self.messages.values, time), with_one(state))
        return value + self._part(self.messages.constants, time, event_dims=0).to(value.dtype)

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(x, u) - V_t(x), reward units."""
        return self.q(state, action, t) - self.v(state, t)

    @property
    def _last_step(self) -> int:
        return 0 if self.problem.horizon is None else self.problem.horizon - 1

    def _vector(self, value: Any, size: int, name: str) -> Tensor:
        vector = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        if vector.dim() == 0 or vector.shape[-1] != size or vector.is_complex():
            raise ValueError(f"{name}: expected vectors [..., {size}], got shape {list(vector.shape)}")
        if vector.is_floating_point() and torch.isnan(vector).any():
            raise ValueError(f"{name}: there is NaN among the numbers given")
        return vector.to(self.messages.values)

    def _time(self, t: Any, last: int) -> int | Tensor:
        if self.problem.horizon is None:
            return 0
        time = torch.as_tensor(np.asarray(t) if not isinstance(t, Tensor) else t)
        whole = time.to(torch.int64)
        if (time != whole).any() or (whole < 0).any() or (whole > last).any():
            raise ValueError(f"t: expected whole numbers within 0..{last}, got {t!r}")
        return whole if whole.dim() else int(whole)

    def _part(self, part: Tensor, time: int | Tensor, event_dims: int = 2) -> Tensor:
        if len(part) == 1:
            return part[0]
        return part_at(part, time, event_dims, "t")

    @grad_cached_property
    def _policy_scale(self) -> Tensor:
        return torch.linalg.cholesky(self.messages.covariances)

    @property
    def _eta(self) -> float | Tensor:
        return risk_parameter(self.reading, self.problem.temperature)

    @grad_cached_property
    def _reward_form(self) -> Tensor:
        """M without the action prior's part: r = -z'Mz/2."""
        return self.problem.reward

    @property
    def _after(self) -> Tensor:
        return self.messages.values if self.problem.horizon is None else self.messages.values[1:]

    @grad_cached_property
    def _tilted(self) -> Tensor:
        return through_noise(self._after, scaled_noise(self.problem, self._eta))

    @grad_cached_property
    def _later_constants(self) -> Tensor:
        """What q's later part adds to its quadratic form, `[T or 1, *batch, 1, 1]` squeezed: see `q`."""
        constants = self.messages.constants
        later = constants if self.problem.horizon is None else constants[1:]
        if self.problem.noise is not None:
            n = self.problem.num_states
            later = later + noise_constants(self._after[..., :n, :n], self.problem.noise, self._eta)
        if self.messages.gain is not None:
            later = later - self.messages.gain
        return later

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
        return self._value_of_start / self.problem.temperature

    @grad_cached_property
    def _value_of_start(self) -> Tensor:
        problem, eta, value = self.problem, self._eta, self.messages.values[0]
        constant = self.messages.constants[0]
        covariance, start = problem.initial_covariance, with_one(problem.initial_mean)
        if covariance is None:
            return constant - 0.5 * quadratic_form(value, start)
        risky = isinstance(eta, Tensor) or eta != 0.0
        tilted = through_noise(value, eta * covariance) if risky else value
        n = problem.num_states
        spread = noise_constants(value[..., :n, :n], covariance, eta)
        return constant - 0.5 * quadratic_form(tilted, start) + spread

    @property
    def gain(self) -> Tensor:
        """What every further step is worth in the long run: 0-dim (or `[*batch]`), reward units."""
        return super().gain if self.messages.gain is None else self.messages.gain

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

    @grad_cached_property
    def _start(self) -> Moments:
        return start_of(self.problem, self.messages, self._eta)

    @grad_cached_property
    def _arrival(self) -> Arrival:
        return arrival_of(self.problem, self.messages, self._eta)

    @grad_cached_property
    def _path(self) -> Tensor:
        """The mean of [x; 1; u], `[T + 1, *batch, d]`, the action of the last time zero."""
        problem, messages, start = self.problem, self.messages, self._start.means
        if not self._scans:
            return optimal_path(problem, messages, self._eta, start)
        chain = closed_loop(problem, messages, self._eta)
        y = with_one(scanned_means(chain.transition, chain.offset, start, self._num_steps))
        actions = (messages.gains @ y[:-1, ..., None]).squeeze(-1)
        return torch.cat([y, pad(actions, (0, 0) * (actions.dim() - 1) + (0, 1))], -1)

    @property
    def _scans(self) -> bool:
        """Whether moments go through time by a scan."""
        problem = self.problem
        return not problem.learns and pays_to_scan(problem.batch_shape.numel(), self._num_steps, problem.num_states)

    @property
    def _num_steps(self) -> int:
        assert self.problem.horizon is not None
        return self.problem.horizon

    @grad_cached_property
    def _state_moments(self) -> Moments:
        """`[T + 1, *batch, ...]`, or `[*batch, ...]` in the long run."""
        problem, n = self.problem, self.problem.num_states
        chain = closed_loop(problem, self.messages, self._eta)
        if problem.horizon is None:
            return Moments(*stationary_moments(chain.transition[0], chain.offset[0], chain.noise[0]))
        start = self._start.covariances
        if self._scans:
            covariances = scanned_covariances(chain.transition, chain.noise, start, self._num_steps)
        else:
            covariances = covariances_forward(chain, start, self._num_steps)
        means = self._path[..., :n]
        return Moments(means, covariances.expand(*means.shape, n))

    def _need_one_gaussian(self, name: str) -> None:
        if self.problem.horizon is None and self.messages.gain is None:
            self._unavailable(
                name,
                ": the discounted occupancy of an infinite horizon is a mixture of Gaussians, one a step; take a "
                "finite horizon, or sample(num, length=...)",
            )

    @property
    def state_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """Distribution of the state, a Gaussian a step: a batch `[T + 1, *batch]`; without horizon the long-run one."""
        self._need_one_gaussian("state_marginals")
        moments = self._state_moments
        return DegenerateNormal(moments.means, moments.covariances)

    @property
    def state_action_marginals(self) -> DegenerateNormal:  # type: ignore[override]
        """Distribution of [state; action], a Gaussian a step: `[T, *batch]`; without horizon the long-run one."""
        self._need_one_gaussian("state_action_marginals")
        return DegenerateNormal(self._joint_moments.means, self._joint_moments.covariances)

    @grad_cached_property
    def _joint_moments(self) -> Moments:
        """Moments of [x; u], `[T, *batch, ...]`, or `[*batch, ...]` in the long run."""
        states, n = self._state_moments, self.problem.num_states
        gains, spread = self.messages.gains, self.messages.covariances
        if self.problem.horizon is None:
            means, covariances, gains, spread = states.means, states.covariances, gains[0], spread[0]
            actions = (gains @ with_one(means)[..., None]).squeeze(-1)
        else:
            means, covariances, actions = states.means[:-1], states.covariances[:-1], self._path[:-1, ..., n + 1 :]
        feedback = gains[..., :n]
        mixed = feedback @ covariances
        below = torch.cat([mixed, mixed @ feedback.mT + spread], -1)
        above = torch.cat([covariances.expand(*mixed.shape[:-2], n, n), mixed.mT], -1)
        return Moments(torch.cat([means, actions], -1), symmetric(torch.cat([above, below], -2)))

    @grad_cached_property
    def _second_moments(self) -> Tensor:
        """E[z_t z_t'], z = [x; 1; u], `[T + 1, *batch, d, d]`; without an action at the last time."""
        last = Moments(self._state_moments.means[-1:], self._state_moments.covariances[-1:])
        z, d = self._path, self._path.shape[-1]
        among = _pad_all(self._joint_moments.covariances, self.problem.num_states)
        spread = torch.cat([among, pad(last.covariances, (0, d - last.means.shape[-1]) * 2).expand_as(among[:1])])
        return z[..., :, None] * z[..., None, :] + spread

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards, terminal reward included: 0-dim (or `[*batch]`), reward units."""
        self._need_an_end("expected_return")
        problem, n = self.problem, self.problem.num_states
        if problem.horizon is None:
            return -0.5 * (self._reward_form[0] * self._discounted_moments).sum((-2, -1))
        moments = self._second_moments
        rewards = -0.5 * (self._reward_form * moments[:-1]).sum((-2, -1))
        final = -0.5 * (problem.end * moments[-1, ..., : n + 1, : n + 1]).sum((-2, -1))
        return self._discounted(rewards).sum(0) + problem.discount**problem.horizon * final

    def _discounted(self, steps: Tensor) -> Tensor:
        """Weighs what happens at each time, `[T, *batch]`, by gamma^t."""
        weights = self.problem.discount ** torch.arange(len(steps), dtype=steps.dtype, device=steps.device)
        return weights.reshape(-1, *[1] * (steps.dim() - 1)) * steps

    @grad_cached_property
    def _discounted_moments(self) -> Tensor:
        """sum_t gamma^t E[z_t z_t'] of an infinite horizon, `[*batch, d, d]`, z = [x; 1; u]."""
        problem, start, n = self.problem, self._start, self.problem.num_states
        gamma = problem.discount
        chain = closed_loop(problem, self.messages, self._eta)
        top = torch.cat([chain.transition[0], chain.offset[0][..., None]], -1)
        closed = pad(top, (0, 0, 0, 1)) + _last_corner(n + 1, top)
        y = with_one(start.means)
        source = y[..., :, None] * y[..., None, :] + pad(start.covariances, (0, 1, 0, 1))
        source = source + gamma / (1 - gamma) * pad(chain.noise[0], (0, 1, 0, 1))
        moments = lyapunov(gamma**0.5 * closed, source)
        gains = self.messages.gains[0]
        identity = torch.eye(n + 1, dtype=moments.dtype, device=moments.device)
        acts = torch.cat([identity.expand(*gains.shape[:-2], n + 1, n + 1), gains], -2)
        return acts @ moments @ acts.mT + pad(self.messages.covariances[0], (n + 1, 0, n + 1, 0)) / (1 - gamma)

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's differential entropies: 0-dim (or `[*batch]`), nats."""
        self._need_an_end("entropy")
        if self.problem.is_hard or self.messages.factors is None:
            self._unavailable("entropy", ": the policy is a point mass in some direction, without a density")
        m = self.problem.num_actions
        logdet = 2 * self._policy_scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        entropies = 0.5 * (logdet + m * (1.0 + np.log(2 * np.pi)))
        if self.problem.horizon is None:
            return entropies[0] / (1 - self.problem.discount)
        return self._discounted(entropies).sum(0)

    @property
    def mean_trajectory(self) -> Trajectories:
        """The means of states and actions, one trajectory for each graph of the batch: `[N, T + 1, n]`, `[N, T, m]`.

        Under a fixed dynamics it is what the policy's mean does without noise. Its gradient costs two sweeps of
        vectors, with the gains and factors of the messages.
        """
        if self.problem.horizon is None:
            self._unavailable("mean_trajectory", " without a horizon")
        path, n = self._path, self.problem.num_states
        path = path.reshape(len(path), -1, path.shape[-1]).transpose(0, 1)
        return Trajectories(path[..., :n], path[:, :-1, n + 1 :])

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The mode of p(tau | O), which is its mean: a batch of one, or of the graph's batch; of `SumProduct` only."""
        if not isinstance(self.reading, PosteriorDynamics) or self.problem.horizon is None:
            self._unavailable("most_probable_trajectory", "; ask SumProduct, on a finite horizon")
        with torch.no_grad():
            rewards = -0.5 * quadratic_form(self._reward_form, self._path[:-1])
            means = self.mean_trajectory
        return replace(means, rewards=rewards.reshape(len(rewards), -1).transpose(0, 1))

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of this posterior, `[N]` of them, in its own dynamics; see `Posterior.sample`."""
        length = self._checked_length(num, length)
        self._need_no_batch("sample")
        with torch.no_grad(), seeded(seed, self.messages.values.device):
            x = _drawn(num, self._start.means, self._start.covariances)
            states, actions, rewards = [x], [], []
            arrival, messages = self._arrival, self.messages
            for t in range(length):
                u = _drawn(num, self._at(messages.gains, t) @ with_one(x)[..., None], self._at(messages.covariances, t))
                z = _joined(x, u)
                rewards.append(-0.5 * quadratic_form(self._at(self._reward_form, t), z))
                noise = None if arrival.noise is None else self._at(arrival.noise, t)
                x = _drawn(num, self._at(arrival.dynamics, t) @ z[..., None], noise)
                states.append(x)
                actions.append(u)
        return Trajectories(torch.stack(states, 1), torch.stack(actions, 1), torch.stack(rewards, 1))

    @staticmethod
    def _at(part: Tensor, t: int) -> Tensor:
        return part[t if len(part) > 1 else 0]

    def _checked_length(self, num: Any, length: Any) -> int:
        for name, number in (("num", num), ("length", length)):
            if number is not None and (isinstance(number, bool) or int(number) != number or number < 1):
                raise ValueError(f"sample: {name} must be a whole number of at least 1, got {number!r}")
        horizon = self.problem.horizon
        if length is None and horizon is None:
            raise ValueError("sample: the horizon is infinite and no state is terminal; give length=")
        if horizon is not None and length is not None and length > horizon:
            raise ValueError(f"sample: length must be within 1..{horizon}, the horizon, got {length}")
        return int(horizon if length is None else length)  # type: ignore[arg-type]

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
        n, m, horizon = self.problem.num_states, self.problem.num_actions, self.problem.horizon
        num_steps = int(trajectories.lengths.max()) if len(trajectories) else 0
        if horizon is not None and num_steps > horizon:
            raise ValueError(f"log_prob: a trajectory takes {num_steps} actions, the horizon is {horizon}")
        states = self._vector(trajectories.states, n, "log_prob: states").transpose(0, 1)
        actions = self._vector(trajectories.actions, m, "log_prob: actions").transpose(0, 1)
        start, arrival = self._start, self._arrival
        total = DegenerateNormal(start.means, start.covariances).log_prob(states[0])
        mask = trajectories.mask.to(total.device).transpose(0, 1)
        for t in range(num_steps):
            z = _joined(states[t], actions[t])
            mean = (self._at(arrival.dynamics, t) @ z[..., None]).squeeze(-1)
            noise = mean.new_zeros(n, n) if arrival.noise is None else self._at(arrival.noise, t)
            step = self.policy(states[t], t).log_prob(actions[t])
            step = step + DegenerateNormal(mean, noise.expand(*mean.shape, n)).log_prob(states[t + 1])
            total = total + torch.where(mask[t], step, 0.0)
        return total

    # Side by side.

    def gap(self, other: Posterior) -> Gap:
        """Puts two posteriors on the same graph side by side, nats; see `Posterior.gap`.

        With p the graph without its optimality, log q - log p is a sum of soft advantages, (Q - V) / alpha, and of what
        tilts the dynamics and the start, eta (V - (1/eta) log E exp(eta V)): quadratics, so that second moments do.
        """
        if not isinstance(other, GaussianPosterior):
            raise ValueError(f"gap: the other posterior is a {type(other).__name__}, on no linear-Gaussian graph")
        self._need_same_world(other)
        self._need_an_end("gap")
        if self.problem.horizon is None:
            self._unavailable("gap", ": on an infinite horizon; take a finite one")
        difference = self.log_evidence - other.log_evidence
        sign = -1.0 if self.is_bound and not other.is_bound else 1.0
        return Gap(sign * difference, self._kl_to(other), other._kl_to(self))

    def _kl_to(self, other: GaussianPosterior) -> Tensor:
        return self._expected_log_ratio(self._second_moments) - other._expected_log_ratio(self._second_moments)

    def _expected_log_ratio(self, moments: Tensor) -> Tensor:
        """E[log q(tau) - log p(tau)], p the graph without optimality, under E[z_t z_t'], `[T + 1, *batch, d, d]`."""
        problem, k, eta = self.problem, self.problem.num_states + 1, self._eta
        constants = self.messages.constants
        values = constants - 0.5 * (self.messages.values * moments[..., :k, :k]).sum((-2, -1))
        later = problem.dynamics.mT @ self._tilted @ problem.dynamics
        later = self._later_constants - 0.5 * (later * moments[:-1]).sum((-2, -1))
        rewards = -0.5 * (self._reward_form * moments[:-1]).sum((-2, -1))
        advantages = rewards + problem.discount * later - values[:-1]
        total = self._discounted(advantages).sum(0) / problem.temperature
        if not isinstance(eta, Tensor) and eta == 0.0:
            return total
        return total + eta * ((values[1:] - later).sum(0) + values[0] - self._value_of_start)

    def _need_same_world(self, other: GaussianPosterior) -> None:
        mine, theirs = self.problem, other.problem
        for name in ("horizon", "discount", "temperature_value"):
            if getattr(mine, name) != getattr(theirs, name):
                raise ValueError(
                    f"gap: the graphs differ: {name} {getattr(mine, name)} against {getattr(theirs, name)}"
                )
        for name in ("dynamics", "noise", "cost", "reward", "end", "prior_covariance", "initial_mean", "initial_covariance"):
            first, second = getattr(mine, name), getattr(theirs, name)
            if first is second:
                continue
            if first is None or second is None or first.shape != second.shape or not torch.equal(first, second):
                raise ValueError(f"gap: the graphs differ in their {name.replace('_', ' ')}")


def _joined(state: Tensor, action: Tensor) -> Tensor:
    """Puts z = [x; 1; u] together, `[..., d]`."""
    batch = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
    state, action = state.expand(*batch, state.shape[-1]), action.expand(*batch, action.shape[-1])
    return torch.cat([with_one(state), action], -1)


def _pad_all(covariances: Tensor, num_states: int) -> Tensor:
    """Lays covariances of [x; u] out over z = [x; 1; u]: `[..., d, d]`, zero for the one."""
    size = covariances.shape[-1]
    places = torch.arange(size, device=covariances.device)
    places = places + (places >= num_states)
    laid = covariances.new_zeros(*covariances.shape[:-2], size + 1, size + 1)
    laid[..., places[:, None], places] = covariances
    return laid


def _last_corner(size: int, like: Tensor) -> Tensor:
    corner = torch.zeros(size, size, dtype=like.dtype, device=like.device)
    corner[-1, -1] = 1.0
    return corner


def _drawn(num: int, mean: Tensor, covariance: Tensor | None) -> Tensor:
    """Draws `[N, k]` of means `[k]`, `[N, k]` or `[N, k, 1]` and a covariance `[k, k]`, or None."""
    mean = mean.squeeze(-1) if mean.dim() == 3 else mean
    mean = mean.reshape(-1, mean.shape[-1]).expand(num, -1)
    if covariance is None:
        return mean
    covariance = covariance.reshape(covariance.shape[-2:])
    return mean + DegenerateNormal(torch.zeros_like(mean[0]), covariance).sample((num,))
