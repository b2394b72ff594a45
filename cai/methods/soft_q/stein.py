"""A free Q on boxes, with a soft value by importance sampling and a sampler trained by Stein's variational gradient.

    V(s) = alpha log E_{a~q} [mu(a) exp(Q(s, a) / alpha) / q(a)]          pi(a|s) = mu(a) exp((Q(s, a) - V(s)) / alpha)
    sampler: u_j = xi_j + f(s, xi_j),  a_j = tanh(u_j),  moved along the direction that takes its draws to pi fastest

The policy may have any number of modes: it is given by Q, not by a parametric family. The sampler only draws from it,
from a hotter one in the first part of a run.
Particles, kernel and gradients all live before squashing, with log p(u) = Q(tanh u) / alpha + log da/du.

Source: Haarnoja, Tang, Abbeel and Levine (2017); Liu and Wang (2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from cai.data.serialization import serializable
from cai.data.transitions import Transitions
from cai.errors import IncompatibleMethod
from cai.factors.networks import MLPBody
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.methods.sampling.annealing import Annealed, at_share
from cai.methods.sampling.learner import Choice
from cai.methods.sampling.off_policy import AbstractOffPolicyLearner
from cai.methods.sampling.priors import ConstantPrior
from cai.methods.soft_q.head import AbstractHead
from cai.methods.soft_q.proposals import AbstractProposal, SamplerProposal, UniformProposal
from cai.ops.importance import effective_sample_size, importance_sampled_soft_value
from cai.ops.optimisation import frozen, fused_adam, polyak
from cai.ops.squashing import log_tanh_slope
from cai.ops.stein import stein_direction

#: Actions that estimate the soft value a posterior is asked for.
_NUM_ANSWER = 1024


@serializable
@dataclass(frozen=True)
class Stein(AbstractHead):
    """A free Q on boxes with a trained sampler.

    Attributes:
        body: Makes the networks of Q.
        sampler_body: Makes the sampler.
        num_critics: Networks of Q whose least is the target; 1 is the paper's.
        num_particles: Draws of the sampler that Stein's direction is taken for, in each state.
        proposal: What estimates the soft value.
        learning_rate: Adam's, of Q.
        sampler_rate: Adam's, of the sampler.
        target_rate: The weight of the new parameters in the target network, at each update.
        heat: The sampler's temperature, in units of the graph's. Hot at first, it goes everywhere while Q is not known
            yet; a sampler that has gone over to one mode does not find the others again. Values are not affected.
    """

    body: MLPBody = MLPBody()
    sampler_body: MLPBody = MLPBody()
    num_critics: int = 1
    num_particles: int = 32
    proposal: AbstractProposal = SamplerProposal()
    learning_rate: float | Annealed = 1e-3
    sampler_rate: float | Annealed = 1e-3
    target_rate: float = 0.005
    heat: float | Annealed = Annealed(10.0, 1.0, share=0.5)

    def accepts(self, graph: TrajectoryGraph) -> None:
        """Raises `IncompatibleMethod` unless the actions are a bounded box and the temperature is positive."""
        space = graph.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not space.is_bounded():
            raise IncompatibleMethod(
                f"Stein: needs actions in a bounded box, got {space}; cai.methods.Quadratic() serves unbounded ones, "
                "cai.methods.Network() finitely many"
            )
        if not float(graph.temperature):
            raise IncompatibleMethod("Stein: at temperature 0 the policy has no density; use cai.methods.Quadratic()")

    def learner(self, graph: TrajectoryGraph, method: Any) -> SteinLearner:
        """Makes the networks, untrained."""
        if method.n_step != 1:
            raise ValueError("Stein: n_step must be 1: the sampler's draws have no density to correct by")
        return SteinLearner(graph, self)


class SteinLearner(AbstractOffPolicyLearner):
    """Networks of Q, their targets and a sampler.

    Args:
        graph: The graph.
        head: The options.

    Raises:
        IncompatibleMethod: A prior that is neither uniform nor flat.
    """

    def __init__(self, graph: TrajectoryGraph, head: Stein) -> None:
        super().__init__(graph)
        if not isinstance(self.prior, ConstantPrior):
            raise IncompatibleMethod("Stein: the action prior must be uniform or flat; SoftActorCritic takes any")
        self._head, size = head, self.actions.size
        for name in ("q", "target"):
            self.modules[name] = head.body.stacked(head.num_critics, self.states.size + size, 1)
        self.modules["target"].load_state_dict(self.modules["q"].state_dict())
        self.modules["target"].requires_grad_(False)
        self.modules["sampler"] = head.sampler_body(self.states.size + size, size)
        self.modules["fixed_noise"] = _Noise(head.num_particles, size)
        self.optimisers["q"] = fused_adam(self.modules["q"].parameters(), at_share(head.learning_rate, 0.0))
        self.optimisers["sampler"] = fused_adam(
            self.modules["sampler"].parameters(), at_share(head.sampler_rate, 0.0), betas=(0.5, 0.999)
        )
        # log mu with respect to units
        self._log_prior = self.prior.log_density + float(self.actions.log_volume or 0.0) - size * math.log(2.0)

    def learn(self, batch: Transitions) -> Tensor:
        """Takes a step of Q, then one of the sampler."""
        rates = {"q": self._head.learning_rate, "sampler": self._head.sampler_rate}
        for name, rate in rates.items():
            for group in self.optimisers[name].param_groups:
                group["lr"] = at_share(rate, self.share)
        errors = self._learn_q(batch)
        self._learn_sampler(self.states.features(batch.states))
        polyak([*self.modules["target"].parameters()], [*self.modules["q"].parameters()], self._head.target_rate)
        return errors

    def _learn_q(self, batch: Transitions) -> Tensor:
        with torch.no_grad():
            following = self._soft_value(self.states.features(batch.next_states), "target", self._head.proposal)
            targets = batch.rewards + batch.discounts * torch.where(batch.terminated, 0.0, following)
        units = self.actions.to_unit(self.actions.from_env(batch.actions))
        errors = self._each_q(self.states.features(batch.states), units, "q") - targets
        self.descend(0.5 * (batch.weights * errors.square()).mean(-1).sum(), "q")
        self.metrics.add("bellman_residual", errors.abs().mean())
        return errors.detach().abs().amax(0)

    def _learn_sampler(self, features: Tensor) -> None:
        u = self._sampled(features, self._head.num_particles).movedim(0, -2)  # [B, K, m]
        particles = u.detach().requires_grad_()
        with frozen(self.modules["q"].parameters()):
            q = self._q(features[:, None].expand(*u.shape[:-1], -1), torch.tanh(particles), "q")
            heat = at_share(self._head.heat, self.share)
            log_density = q / (heat * self.temperature) + log_tanh_slope(particles).sum(-1)
            (scores,) = torch.autograd.grad(log_density.sum(), particles)
        loss = -(stein_direction(particles, scores) * u).sum((-2, -1)).mean()
        self.descend(loss, "sampler")

    def act(self, states: NDArray[Any]) -> Choice:
        """Draws from the sampler."""
        features = self.states.features(states).to(self.device)
        actions = self.actions.from_unit(torch.tanh(self._sampled(features, 1)[0]))
        return Choice(self.actions.to_env(actions), torch.zeros(len(actions)).numpy())

    def policy(self, state: Any) -> EnergyPolicy:
        """Gives pi(a | s): draws of the sampler, density by Q."""
        return EnergyPolicy(self, self.states.features(state).to(self.device))

    def q(self, state: Any, action: Any) -> Tensor:
        """Gives Q(s, a), reward units: the least of the networks."""
        features = self.states.features(state).to(self.device)
        units = self.actions.to_unit(self.actions.from_env(action).to(self.device))
        batch = torch.broadcast_shapes(features.shape[:-1], units.shape[:-1])
        return self._q(features.expand(*batch, -1), units.expand(*batch, -1), "q")

    def v(self, state: Any) -> Tensor:
        """Estimates V(s), reward units, from a thousand actions drawn uniformly."""
        return self._soft_value(self.states.features(state).to(self.device), "q", UniformProposal(_NUM_ANSWER))

    def drawn(self, features: Tensor, num: int) -> Tensor:
        """Draws actions of the sampler: `[num, *batch, m]`, in the environment's own units."""
        return self.actions.from_unit(torch.tanh(self._sampled(features, num)))

    def best(self, features: Tensor) -> Tensor:
        """Gives the best by Q of some draws, always of the same noise: `[*batch, m]`, in the environment's units."""
        noise = self.modules["fixed_noise"]()
        noise = noise.view(len(noise), *[1] * (features.dim() - 1), -1).expand(-1, *features.shape[:-1], -1)
        units = torch.tanh(self._from_noise(features, noise))
        q = self._q(features.expand(*units.shape[:-1], -1), units, "q")
        index = q.argmax(0)[None, ..., None].expand(1, *units.shape[1:])
        return self.actions.from_unit(units.gather(0, index)[0])

    def log_density(self, features: Tensor, actions: Tensor) -> Tensor:
        """Estimates log pi(a | s) = log mu(a) + (Q - V) / alpha, nats, of actions `[*sample, *batch, m]`."""
        units = self.actions.to_unit(actions)
        value = self._soft_value(features, "q", UniformProposal(_NUM_ANSWER))
        q = self._q(features.expand(*units.shape[:-1], -1), units, "q")
        return self.prior.log_density + (q - value) / self.temperature  # type: ignore[attr-defined]

    def _soft_value(self, features: Tensor, name: str, proposal: AbstractProposal) -> Tensor:
        batch = features.shape[:-1]
        proposed = proposal.draw(batch, self.actions.size, lambda num: self._sampled(features, num))
        q = self._q(features.expand(*proposed.units.shape[:-1], -1), proposed.units, name)
        log_ratio = proposed.log_density - self._log_prior
        if name == "target":
            size = effective_sample_size(q / self.temperature - log_ratio)
            self.metrics.add("effective_sample_size", size.mean())
        return importance_sampled_soft_value(q, log_ratio, temperature=self.temperature)

    def _q(self, features: Tensor, units: Tensor, name: str) -> Tensor:
        return self._each_q(features, units, name).amin(0)

    def _each_q(self, features: Tensor, units: Tensor, name: str) -> Tensor:
        return self.modules[name](torch.cat([features, units], -1)).squeeze(-1)

    def _sampled(self, features: Tensor, num: int) -> Tensor:
        noise = torch.randn(num, *features.shape[:-1], self.actions.size, device=features.device)
        return self._from_noise(features, noise)

    def _from_noise(self, features: Tensor, noise: Tensor) -> Tensor:
        # The noise itself is added, so that the untrained sampler is spread over the box and finds all modes.
        return noise + self.modules["sampler"](torch.cat([features.expand(*noise.shape[:-1], -1), noise], -1))


class _Noise(nn.Module):
    """Noise that is drawn once, and stays."""

    def __init__(self, num: int, size: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.randn(num, size))

    def forward(self) -> Tensor:
        return self.values  # type: ignore[return-value]


class EnergyPolicy(Distribution):
    """pi(a|s) ~ mu(a) exp(Q(s, a) / alpha): drawn from by a trained sampler, its density estimated by Q.

    Args:
        learner: What knows Q and the sampler.
        features: Of the states, `[*batch, n]`.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(self, learner: SteinLearner, features: Tensor) -> None:
        self._learner, self._features = learner, features
        super().__init__(features.shape[:-1], torch.Size([learner.actions.size]), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """The box."""
        actions = self._learner.actions
        return constraints.independent(constraints.interval(actions.low, actions.high), 1)

    @property
    def mode(self) -> Tensor:
        """The best of some draws of the sampler, `[*batch, m]`; the same every time."""
        with torch.no_grad():
            return self._learner.best(self._features)

    def expand(self, batch_shape: Any, _instance: Any = None) -> EnergyPolicy:
        """Gives the distribution with a larger batch; see torch."""
        return EnergyPolicy(self._learner, self._features.expand(*batch_shape, self._features.shape[-1]))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the sampler, `[*sample, *batch, m]`."""
        with torch.no_grad():
            drawn = self._learner.drawn(self._features, max(1, torch.Size(sample_shape).numel()))
        return drawn.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Estimates the log-density of actions, `[*sample, *batch, m]` to `[*sample, *batch]`, nats."""
        with torch.no_grad():
            return self._learner.log_density(self._features, value)
