"""Moments of the trajectories that backward messages describe, z = [x; 1; u].

    E[sum_t gamma^t r_t] = -sum_t gamma^t tr(M_t E[z_t z_t']) / 2

so that all that is quadratic follows from second moments. Over a discounted infinite horizon their weighted sum is

    S_z = [I; K] S_y [I; K]' + Sigma / (1 - gamma),     y = [x; 1], Sigma among the actions
    S_y = E[y_0 y_0'] + gamma / (1 - gamma) Omega + gamma Phi_y S_y Phi_y',     Phi_y the closed loop on y
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.affine_scan import scanned_covariances, scanned_means
from cai.ops.gaussian.control_scan import pays_to_scan
from cai.ops.gaussian.marginals import (
    Arrival,
    ClosedLoop,
    Moments,
    arrival_of,
    closed_loop,
    covariances_forward,
    optimal_path,
    start_of,
)
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, symmetric, with_one
from cai.ops.gaussian.stationary import lyapunov, stationary_moments


@dataclass(frozen=True, eq=False)
class PathMoments:
    """Moments of states and actions, each computed once, when it is asked for; all of the problem's whole batch.

    Attributes:
        problem: The problem.
        messages: Its backward messages.
        eta: The risk parameter they were read with, 1 / reward units.
    """

    problem: LinearQuadratic
    messages: QuadraticMessages
    eta: float | Tensor

    @grad_cached_property
    def start(self) -> Moments:
        """Of x_0: `[*batch, ...]`."""
        moments, n = start_of(self.problem, self.messages, self.eta), self.problem.num_states
        batch = self.problem.batch_shape
        return Moments(moments.means.expand(*batch, n), moments.covariances.expand(*batch, n, n))

    @grad_cached_property
    def arrival(self) -> Arrival:
        """The distribution of the next state given state and action."""
        return arrival_of(self.problem, self.messages, self.eta)

    @grad_cached_property
    def chain(self) -> ClosedLoop:
        """The chain of states under the policy."""
        return closed_loop(self.arrival, self.messages)

    @grad_cached_property
    def path(self) -> Tensor:
        """The mean of z, `[T + 1, *batch, d]`, the action of the last time zero."""
        problem, messages, start = self.problem, self.messages, self.start.means
        if not self._scans:
            return optimal_path(problem, messages, self.eta, start)
        chain = self.chain
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
    def states(self) -> Moments:
        """Of x: `[T + 1, *batch, ...]`, or `[*batch, ...]` in the long run."""
        problem, chain, n = self.problem, self.chain, self.problem.num_states
        if problem.horizon is None:
            means, covariances = stationary_moments(chain.transition[0], chain.offset[0], chain.noise[0])
            batch = problem.batch_shape
            return Moments(means.expand(*batch, n), covariances.expand(*batch, n, n))
        start = self.start.covariances
        if self._scans:
            covariances = scanned_covariances(chain.transition, chain.noise, start, self._num_steps)
        else:
            covariances = covariances_forward(chain, start, self._num_steps)
        return Moments(self.path[..., :n], covariances)

    @grad_cached_property
    def joint(self) -> Moments:
        """Of [x; u]: `[T, *batch, ...]`, or `[*batch, ...]` in the long run."""
        states, n = self.states, self.problem.num_states
        gains, spread = self.messages.gains, self.messages.covariances
        if self.problem.horizon is None:
            means, covariances, gains, spread = states.means, states.covariances, gains[0], spread[0]
            actions = (gains @ with_one(means)[..., None]).squeeze(-1)
        else:
            means, covariances, actions = states.means[:-1], states.covariances[:-1], self.path[:-1, ..., n + 1 :]
        feedback = gains[..., :n]
        mixed = feedback @ covariances
        below = torch.cat([mixed, mixed @ feedback.mT + spread], -1)
        above = torch.cat([covariances.expand(*mixed.shape[:-2], n, n), mixed.mT], -1)
        return Moments(torch.cat([means, actions], -1), symmetric(torch.cat([above, below], -2)))

    @grad_cached_property
    def second(self) -> Tensor:
        """E[z_t z_t'], `[T + 1, *batch, d, d]`; without an action at the last time."""
        last, z = self.states.covariances[-1:], self.path
        among = _with_room_for_one(self.joint.covariances, self.problem.num_states)
        spread = torch.cat([among, pad(last, (0, z.shape[-1] - last.shape[-1]) * 2)])
        return z[..., :, None] * z[..., None, :] + spread

    @grad_cached_property
    def discounted_second(self) -> Tensor:
        """sum_t gamma^t E[z_t z_t'] of an infinite horizon, `[*batch, d, d]`."""
        start, chain, n = self.start, self.chain, self.problem.num_states
        gamma = self.problem.discount
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
    def expected_return(self) -> Tensor:
        """The expected (discounted) sum of rewards, terminal reward included: `[*batch]`, reward units."""
        problem, k = self.problem, self.problem.num_states + 1
        if problem.horizon is None:
            return -0.5 * (problem.reward[0] * self.discounted_second).sum((-2, -1))
        rewards = -0.5 * (problem.reward * self.second[:-1]).sum((-2, -1))
        final = -0.5 * (problem.end * self.second[-1, ..., :k, :k]).sum((-2, -1))
        return discounted(rewards, problem.discount).sum(0) + problem.discount**problem.horizon * final


def discounted(steps: Tensor, discount: float) -> Tensor:
    """Weighs what happens at each time, `[T, *batch]`, by gamma^t."""
    weights = discount ** torch.arange(len(steps), dtype=steps.dtype, device=steps.device)
    return weights.reshape(-1, *[1] * (steps.dim() - 1)) * steps


def _with_room_for_one(covariances: Tensor, num_states: int) -> Tensor:
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
