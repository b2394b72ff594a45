"""A Q that is quadratic in the action, whose soft value and policy are closed forms: normalised advantages.

    Q(s, a) = V_0(s) - (a - m(s))' P(s) (a - m(s)) / 2
    V(s) = V_0(s) + alpha log int mu(a) exp(-(a - m)'P(a - m) / (2 alpha)) da
    unbounded, flat:   V = V_0 + (alpha / 2) logdet(2 pi alpha P^-1),       pi = N(m, alpha P^-1)
    in a box:          P diagonal, pi that normal cut off at the edges

Exact where the optimal Q is of this form, as on linear-quadratic problems; elsewhere the nearest of its form. At
temperature 0 V = V_0, and the policy is m.

Source: Gu, Lillicrap, Sutskever and Levine (2016); the soft value is a Gaussian integral.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal
from torch.nn.functional import softplus

from cai.data.serialization import serializable
from cai.data.transitions import Transitions
from cai.errors import IncompatibleMethod
from cai.factors.diagonal_normal import HALF_LOG_2PI, PointMass
from cai.factors.networks import MLPBody
from cai.factors.truncated_normal import TruncatedNormal, log_normal_mass
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner
from cai.methods.sampling.priors import ConstantPrior
from cai.methods.soft_q.head import AbstractHead
from cai.ops.optimisation import fused_adam, polyak

#: The least curvature of Q in an action of the box [-1, 1]^m (or in an unbounded one), reward units.
_LEAST_CURVATURE = 1e-3


@serializable
@dataclass(frozen=True)
class LinearQuadraticBody:
    """What a quadratic head is made of where the problem is linear-quadratic: V_0 quadratic, m affine, P constant."""

    def __call__(self, num_inputs: int, num_outputs: int) -> nn.Module:
        """Makes one; the first output is V_0, m and the entries of P's root follow."""
        return _LinearQuadratic(num_inputs, num_outputs)


class _LinearQuadratic(nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        rest = num_outputs - 1
        size = int(math.isqrt(9 + 8 * rest) - 3) // 2  # rest = m + m (m + 1) / 2
        self.form = nn.Parameter(torch.zeros(num_inputs + 1, num_inputs + 1))
        self.gain = nn.Linear(num_inputs, size)
        self.root = nn.Parameter(torch.zeros(rest - size))
        nn.init.zeros_(self.gain.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        value = ((y @ self.form) * y).sum(-1, keepdim=True)
        return torch.cat([value, self.gain(x), self.root.expand(*x.shape[:-1], -1)], -1)


@serializable
@dataclass(frozen=True)
class Quadratic(AbstractHead):
    """A quadratic Q on boxes.

    Attributes:
        body: Makes the network, `(num_inputs, num_outputs)`: `MLPBody()`, `LinearQuadraticBody()` where the actions are
            unbounded, or a callable of your own.
        learning_rate: Adam's.
        target_rate: The weight of the new parameters in the target network, at each update.
        noise: Standard deviation of exploration at temperature 0, in the box [-1, 1]^m.
    """

    body: Callable[[int, int], nn.Module] = MLPBody()
    learning_rate: float | Annealed = 1e-3
    target_rate: float = 0.005
    noise: float = 0.1

    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` unless the actions are a box with a constant prior."""
        if not isinstance(graph.action_space, gymnasium.spaces.Box):
            raise IncompatibleMethod(
                "Quadratic: the actions are no box; cai.methods.Network() serves finitely many actions"
            )

    def learner(self, graph: TrajectoryGraph, method: Any) -> QuadraticLearner:
        """Makes the networks, untrained."""
        return QuadraticLearner(graph, self)


@dataclass(frozen=True, eq=False)
class Form:
    """Q of a batch of states.

    Attributes:
        peak: V_0, `[*batch]`.
        mean: m, `[*batch, m]`, in the box [-1, 1]^m where bounded.
        root: L with P = L L', `[*batch, m, m]`; where bounded the diagonal of P's root, `[*batch, m]`.
    """

    peak: Tensor
    mean: Tensor
    root: Tensor


class QuadraticLearner(AbstractOffPolicyLearner):
    """A quadratic Q and its target.

    Args:
        graph: The graph.
        head: The options.

    Raises:
        IncompatibleMethod: A prior that is neither uniform nor flat.
    """

    def __init__(self, graph: TrajectoryGraph, head: Quadratic) -> None:
        super().__init__(graph)
        if not isinstance(self.prior, ConstantPrior):
            raise IncompatibleMethod("Quadratic: the action prior must be uniform or flat; SoftActorCritic takes any")
        self._head, size = head, self.actions.size
        self._bounded = self.actions.low is not None
        num_roots = size if self._bounded else size * (size + 1) // 2
        for name in ("q", "target"):
            self.modules[name] = head.body(self.states.size, 1 + size + num_roots)
        self.modules["target"].load_state_dict(self.modules["q"].state_dict())
        self.modules["target"].requires_grad_(False)
        self.optimisers["q"] = fused_adam(self.modules["q"].parameters(), at_share(head.learning_rate, 0.0))
        self._below = torch.tril_indices(size, size)

    def learn(self, batch: Transitions) -> Tensor:
        """Takes a step on (Q(s, a) - r - gamma V(s'))^2 / 2."""
        with torch.no_grad():
            following = self._value(self._form(self.states.features(batch.next_states), "target"))
            targets = batch.rewards + batch.discounts * torch.where(batch.terminated, 0.0, following)
            targets = targets - self.temperature * batch.log_ratios
        form = self._form(self.states.features(batch.states), "q")
        errors = self._q(form, self.actions.to_unit(self.actions.from_env(batch.actions))) - targets
        for group in self.optimisers["q"].param_groups:
            group["lr"] = at_share(self._head.learning_rate, self.share)
        self.descend(0.5 * (batch.weights * errors.square()).mean(), "q")
        polyak([*self.modules["target"].parameters()], [*self.modules["q"].parameters()], self._head.target_rate)
        self.metrics.add("bellman_residual", errors.abs().mean())
        return errors.detach()

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the policy; at temperature 0 adds noise to it."""
        policy = self.policy(states)
        actions = policy.sample()
        if self.temperature == 0.0:
            noisy = self.actions.to_unit(actions) + self._head.noise * torch.randn(actions.shape)
            actions = self.actions.from_unit(noisy.clamp(-1.0, 1.0) if self._bounded else noisy)
        density = self.prior.log_prob(actions, actions)
        log_ratios = torch.zeros(len(actions)) if self.temperature == 0.0 else policy.log_prob(actions) - density
        return Choice(self.actions.to_env(actions), log_ratios.to(torch.float32).cpu().numpy())

    def policy(self, state: Any) -> Distribution:
        """Gives pi(a | s): normal, cut off at the edges of a box; at temperature 0 a point."""
        form = self._form(self.states.features(state).to(self.device), "q")
        mean = self.actions.from_unit(form.mean)
        if self.temperature == 0.0:
            return PointMass(mean)
        spread = math.sqrt(self.temperature)
        if not self._bounded:
            precision = form.root @ form.root.mT / self.temperature
            return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)
        assert self.actions.low is not None and self.actions.high is not None
        half = 0.5 * (self.actions.high - self.actions.low).to(mean)
        return TruncatedNormal(mean, spread * half / form.root, self.actions.low, self.actions.high)

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives Q(s, a), reward units."""
        form = self._form(self.states.features(state).to(self.device), "q")
        return self._q(form, self.actions.to_unit(self.actions.from_env(action).to(self.device)))

    def v(self, state: Any) -> Tensor:
        """Gives V(s), reward units, in closed form."""
        return self._value(self._form(self.states.features(state).to(self.device), "q"))

    def _form(self, features: Tensor, name: str) -> Form:
        out, size = self.modules[name](features), self.actions.size
        peak, mean, entries = out[..., 0], out[..., 1 : 1 + size], out[..., 1 + size :]
        least = math.sqrt(_LEAST_CURVATURE)
        if self._bounded:
            return Form(peak, torch.tanh(mean), softplus(entries) + least)
        root = entries.new_zeros(*entries.shape[:-1], size, size)
        root[..., self._below[0], self._below[1]] = entries
        diagonal = torch.diagonal(root, dim1=-2, dim2=-1)
        return Form(peak, mean, root.tril(-1) + torch.diag_embed(softplus(diagonal) + least))

    def _q(self, form: Form, units: Tensor) -> Tensor:
        offset = units - form.mean
        scaled = form.root * offset if self._bounded else (form.root.mT @ offset[..., None]).squeeze(-1)
        return form.peak - 0.5 * scaled.square().sum(-1)

    def _value(self, form: Form) -> Tensor:
        alpha = self.temperature
        if alpha == 0.0:
            return form.peak
        size = self.actions.size
        log_density = float(self.prior.log_prob(form.peak, form.peak))
        if not self._bounded:
            log_root = torch.diagonal(form.root, dim1=-2, dim2=-1).log().sum(-1)
            return form.peak + alpha * (log_density + size * (HALF_LOG_2PI + 0.5 * math.log(alpha)) - log_root)
        std = math.sqrt(alpha) / form.root
        masses = log_normal_mass((-1.0 - form.mean) / std, (1.0 - form.mean) / std)
        log_units = log_density + float(self.actions.log_volume or 0.0) - size * math.log(2.0)
        return form.peak + alpha * (log_units + (masses + HALF_LOG_2PI + std.log()).sum(-1))
