"""Posteriors of stochastic variational inference: a guide's plan, and independent variables of a factor graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.factors.checks import state_index
from cai.factors.protocols import TabulatedDynamics
from cai.graph.tabulate import tabulate
from cai.inference.factor_graph import FactorGraphPosterior, num_draws, states_and_actions
from cai.inference.guided import GuidedProgram
from cai.inference.posterior import Posterior
from cai.ops.sampling import sample_index
from cai.simulate.chains import episodes_of
from cai.simulate.seeding import seeded


@serializable
@dataclass(frozen=True, eq=False)
class PlanPosterior(Posterior):
    """A guide's distribution over trajectories: an open-loop plan for the graph's own start.

    `sample` replays draws of the guide in the graph, `log_evidence` estimates the bound by the mean of many. The guide
    does not wait for the states that come: `policy(state, t)` is its marginal of a_t, whatever the state; for actions
    of real numbers a Normal with the moments of the draws, for discrete ones their frequencies. Plan anew from a new
    start.

    Attributes:
        program: The graph as a Pyro program, and the guide.
        bound: 0-dim, nats: the mean of log p - log q over the draws that evaluate the guide.
        states: `[n, T + 1, ...]`, the states of these draws.
        actions: `[n, T, ...]`, their actions.
    """

    program: GuidedProgram
    bound: Tensor
    states: Tensor
    actions: Tensor

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; program and guide are made again from graph and method."""
        names = ("graph", "method", "stats", "bound", "states", "actions")
        return {name: getattr(self, name) for name in names} | {"params": self.program.store.values()}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> PlanPosterior:
        """Makes the posterior of what a file gave."""
        params = parts.pop("params")
        program = parts["method"].guided(parts["graph"])
        program.store.fill(params)
        return cls(**parts, program=program)

    @property
    def log_evidence(self) -> Tensor:
        """An estimate of the bound E_q[log p(tau, O) - log q(tau)]: 0-dim, nats."""
        if not self.program.is_random:
            self._unavailable("log_evidence", ": its guide is a point, which has no density")
        return self.bound

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound: it estimates one."""
        return True

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Distribution:
        """Gives the guide's marginal of a_t, the same for every state.

        Args:
            state: A state or any batch of states; only the shape of the batch counts.
            t: Time, one number in 0..T-1.

        Returns:
            A Normal with independent dimensions for actions of real numbers, a Categorical for discrete ones.

        Raises:
            ValueError: A time outside the horizon.
        """
        drawn, batch = self.actions[:, int(state_index(t, self.graph.horizon, "t"))], self._batch_of(state)
        if not drawn.is_floating_point():
            counts = torch.bincount(drawn).double()
            return torch.distributions.Categorical(probs=(counts / counts.sum()).expand((*batch, -1)))
        mean, scale = drawn.mean(0), drawn.std(0).clamp(min=torch.finfo(drawn.dtype).tiny)
        shape = (*batch, *mean.shape)
        normal = torch.distributions.Normal(mean.expand(shape), scale.expand(shape))
        return torch.distributions.Independent(normal, mean.dim())

    def _batch_of(self, state: Any) -> tuple[int, ...]:
        shape = tuple(state.shape if isinstance(state, Tensor) else np.shape(state))
        return shape[: len(shape) - (self.states.dim() - 2)]

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of the guide, replayed in the graph; see `Posterior.sample`."""
        horizon = self.graph.horizon
        length = horizon if length is None else length
        if num < 1 or not 0 < length <= horizon:
            raise ValueError(f"sample: a number of at least 1 and a length within 1..{horizon}, got {num} and {length}")
        particles = self.program.draw(num, seed)
        states, actions = states_and_actions(particles.values, horizon)
        if isinstance(self.graph.dynamics, TabulatedDynamics):
            return episodes_of(tabulate(self.graph), states[:, : length + 1], actions[:, :length])
        rewards = torch.stack([particles.log_factors[f"O{t}"] for t in range(length)], 1) * float(
            self.graph.temperature
        )
        return Trajectories(states[:, : length + 1], actions[:, :length], rewards)


@serializable
@dataclass(frozen=True, eq=False, repr=False)
class MeanFieldPosterior(FactorGraphPosterior):
    """Independent variables, as near to the posterior of a factor graph as such can be: q(x) = prod_i q_i(x_i).

    Attributes:
        log_probs: Log q_i of each latent variable by name, `[cardinality]`, nats.
        bound: 0-dim, nats: E_q[log f(x)] + H(q), exactly.
    """

    log_probs: Mapping[str, Tensor]
    bound: Tensor

    @property
    def log_evidence(self) -> Tensor:
        """The bound E_q[log prod_f f(x)] + H(q) of log sum_x prod_f f(x), exactly: 0-dim, nats."""
        return self.bound

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound: always."""
        return True

    def marginal(self, *names: str) -> Tensor:
        """Gives the joint distribution of some variables, a product; see `FactorGraphPosterior.marginal`."""
        joint = self.bound.new_ones(())
        latent = tuple(name for name in self._checked(names) if name not in self.graph.evidence)
        for name in latent:
            joint = joint[..., None] * self.log_probs[name].exp()
        return self._with_observed(names, joint)

    def sample(  # type: ignore[override]
        self, num: int, seed: int | None = None, length: int | None = None
    ) -> dict[str, Tensor]:
        """Draws assignments, each variable by itself; see `FactorGraphPosterior.sample`."""
        num = num_draws(num, length)
        with seeded(seed, self.bound.device) as generator:
            drawn = {n: sample_index(p.exp().expand(num, -1), generator) for n, p in self.log_probs.items()}
        return self._with_evidence(drawn, num)

    def log_prob(self, assignment: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        """Gives log q(x), nats: the shape that the values broadcast to; see `FactorGraphPosterior.log_prob`."""
        total = torch.zeros_like(self._log_density(assignment).detach())  # it checks names and values
        for name, log_probs in self.log_probs.items():
            total = total + log_probs[state_index(assignment[name], len(log_probs), name)]
        for name, value in self.graph.evidence.items():
            total = torch.where(torch.as_tensor(assignment.get(name, value)) == value, total, -torch.inf)
        return total
