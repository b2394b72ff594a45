"""What backward messages are worth: a step ahead, at the start, and as the log-ratio of two trajectory distributions.

    Q_t(x, u) = r_t + gamma (L_t - z' D' P~_{t+1} D z / 2),     P~ and L of (1/eta) log E exp(eta V_{t+1})

With p the graph without its optimality, log q - log p of what the messages describe is a sum of soft advantages,
(Q - V) / alpha, and of what tilts the dynamics and the start, eta (V - (1/eta) log E exp(eta V)): quadratics, whose
expectations second moments give.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cai.ops.caching import grad_cached_property
from cai.ops.gaussian.moments import discounted
from cai.ops.gaussian.problem import LinearQuadratic, QuadraticMessages, quadratic_form, with_one
from cai.ops.gaussian.risk import is_zero, noise_constants, scaled_noise, through_noise


@dataclass(frozen=True, eq=False)
class QuadraticValues:
    """Values of linear-quadratic messages, each computed once, when it is asked for.

    Attributes:
        problem: The problem.
        messages: Its backward messages.
        eta: The risk parameter they were read with, 1 / reward units.
    """

    problem: LinearQuadratic
    messages: QuadraticMessages
    eta: float | Tensor

    @property
    def _after(self) -> Tensor:
        return self.messages.values if self.problem.horizon is None else self.messages.values[1:]

    @grad_cached_property
    def tilted(self) -> Tensor:
        """P~ of the value a step ahead, `[T or 1, *batch, n + 1, n + 1]`."""
        return through_noise(self._after, scaled_noise(self.problem, self.eta))

    @grad_cached_property
    def later(self) -> Tensor:
        """L, the constant of the value a step ahead, less the gain where there is one: `[T or 1, *batch]`."""
        constants = self.messages.constants
        later = constants if self.problem.horizon is None else constants[1:]
        if self.problem.noise is not None:
            n = self.problem.num_states
            later = later + noise_constants(self._after[..., :n, :n], self.problem.noise, self.eta)
        return later if self.messages.gain is None else later - self.messages.gain

    @grad_cached_property
    def of_start(self) -> Tensor:
        """(1/eta) log E exp(eta V_0(x_0)), `[*batch]`, reward units."""
        problem, value, constant = self.problem, self.messages.values[0], self.messages.constants[0]
        covariance, start = problem.initial_covariance, with_one(problem.initial_mean)
        if covariance is None:
            total = constant - 0.5 * quadratic_form(value, start)
        else:
            tilted = value if is_zero(self.eta) else through_noise(value, self.eta * covariance)
            n = problem.num_states
            spread = noise_constants(value[..., :n, :n], covariance, self.eta)
            total = constant - 0.5 * quadratic_form(tilted, start) + spread
        return total.expand(problem.batch_shape)

    def log_ratio(self, second: Tensor) -> Tensor:
        """Computes E[log q(tau) - log p(tau)], p the graph without its optimality: `[*batch]`, nats.

        Args:
            second: E[z_t z_t'] of the distribution that the expectation is over, `[T + 1, *batch, d, d]`.
        """
        problem, k = self.problem, self.problem.num_states + 1
        values = self.messages.constants - 0.5 * (self.messages.values * second[..., :k, :k]).sum((-2, -1))
        ahead = problem.dynamics.mT @ self.tilted @ problem.dynamics
        ahead = self.later - 0.5 * (ahead * second[:-1]).sum((-2, -1))
        rewards = -0.5 * (problem.reward * second[:-1]).sum((-2, -1))
        advantages = rewards + problem.discount * ahead - values[:-1]
        total = discounted(advantages, problem.discount).sum(0) / problem.temperature
        if is_zero(self.eta):
            return total
        return total + self.eta * ((values[1:] - ahead).sum(0) + values[0] - self.of_start)
