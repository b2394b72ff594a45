"""The posterior of a factor graph: marginals of any variables; of an unrolled trajectory, its states and actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from cai.data.trajectories import Trajectories
from cai.errors import Unavailable
from cai.factors.checks import state_index
from cai.graph.factor_graph import FactorGraph
from cai.graph.tabulate import tabulate
from cai.inference.posterior import Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.tables import Tables
from cai.simulate.chains import episodes_of


@dataclass(frozen=True, eq=False)
class FactorGraphPosterior(Posterior):
    """The answer to a `FactorGraph`: p(x | evidence), read by the names of its variables.

    Of a graph that was unrolled from a trajectory, `state_marginals`, `state_action_marginals` and `policy` are there
    too, whatever factors were added since; `policy` is then p(a_t | s_t, O), the conditional on the state alone.
    """

    graph: FactorGraph

    @abstractmethod
    def marginal(self, *names: str) -> Tensor:
        """Gives the joint distribution of some variables, others summed out.

        Args:
            names: Names of the variables; observed ones are certain.

        Returns:
            Probabilities, one dimension a name in the order given.

        Raises:
            ValueError: An unknown name, or one that is given twice.
        """

    @property
    def marginals(self) -> dict[str, Tensor]:
        """The distribution of each variable by name, `[cardinality]`."""
        return {name: self.marginal(name) for name in self.graph.cardinalities}

    @property
    def most_probable_assignment(self) -> dict[str, int]:
        """The value of each variable in the mode of the joint."""
        self._unavailable("most_probable_assignment", "; ask MaxProduct")

    def sample(  # type: ignore[override]
        self, num: int, seed: int | None = None, length: int | None = None
    ) -> dict[str, Tensor]:
        """Draws assignments from the joint: int64 `[num]` for each variable by name, observed ones included.

        Args:
            num: Number of draws.
            seed: The seed; None takes fresh entropy.
            length: Nothing here; for trajectories cut short take `sample_trajectories`.

        Raises:
            ValueError: A number below 1, or a length.
        """
        self._unavailable("samples", "; ask SumProduct")

    def log_prob(self, assignment: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        """Gives log p(x | evidence), nats: the shape that the values broadcast to.

        Args:
            assignment: A value, or a batch of values, for every variable without evidence, by name.
        """
        self._unavailable("log_prob")

    # An unrolled trajectory's own names.

    @property
    def state_marginals(self) -> Tensor:
        """Distribution of the state at each time, `[T + 1, S]`; under a discount of what has not ended."""
        trajectory = self._trajectory("state_marginals")
        num_states = self._tables.num_states
        return torch.stack([self.marginal(f"s{t}")[:num_states] for t in range(trajectory.horizon + 1)])

    @property
    def state_action_marginals(self) -> Tensor:
        """Distribution of (state, action) at each time, `[T, S, A]`; zero at terminal states."""
        self._trajectory("state_action_marginals")
        return self._pairs

    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Categorical:
        """Gives p(a_t | s_t, O), and the action prior at states of probability zero; see `Posterior.policy`.

        Where factors tie distant times, the past before s_t would say more; give it as evidence.
        """
        trajectory = self._trajectory("policy")
        state = state_index(state, self._tables.num_states).to(self._conditionals.device)
        t = state_index(t, trajectory.horizon, "t").to(state.device)
        return torch.distributions.Categorical(probs=self._conditionals[t, state], validate_args=False)

    def sample_trajectories(self, num: int, seed: int | None = None) -> Trajectories:
        """Draws `[num]` trajectories of an unrolled graph, with the rewards of the graph that was unrolled.

        Raises:
            Unavailable: The graph was not unrolled, or has a discount, under which a path's last state is not drawn.
        """
        trajectory = self._trajectory("sample_trajectories")
        if trajectory.discount < 1.0:
            self._unavailable("sample_trajectories", ": under a discount an episode may end between two states")
        drawn = self.sample(num, seed)
        states = torch.stack([drawn[f"s{t}"] for t in range(trajectory.horizon + 1)], 1)
        actions = torch.stack([drawn[f"a{t}"] for t in range(trajectory.horizon)], 1)
        return episodes_of(self._tables, states, actions)

    def _trajectory(self, what: str) -> Any:
        if self.graph.trajectory is None:
            self._unavailable(what, ", which was not unrolled from a trajectory; ask marginal(*names)")
        return self.graph.trajectory

    @grad_cached_property
    def _tables(self) -> Tables:
        return tabulate(self._trajectory("tables"))

    @grad_cached_property
    def _pairs(self) -> Tensor:
        times = range(self._trajectory("state_action_marginals").horizon)
        pairs = [self.marginal(f"s{t}", f"a{t}")[: self._tables.num_states] for t in times]
        return torch.where(self._tables.terminal[:, None], 0.0, torch.stack(pairs))

    @grad_cached_property
    def _conditionals(self) -> Tensor:
        """p(a_t | s_t, O), `[T, S, A]`."""
        total = self._pairs.sum(-1, keepdim=True)
        reached = total > 0
        return torch.where(reached, self._pairs / torch.where(reached, total, 1.0), self._tables.default_policies)

    def _unavailable(self, name: str, reason: str = "") -> NoReturn:
        if not reason:
            reason = ": a factor graph no longer says what is dynamics and what reward; ask the trajectory graph"
        raise Unavailable(f"{type(self.method).__name__} gives no {name} on this factor graph{reason}")

    def _checked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = self.graph.cardinalities
        for name in names:
            if name not in known:
                raise ValueError(f"marginal: there is no variable {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"marginal: variable {name!r} is given twice")
        return names

    def _with_observed(self, names: tuple[str, ...], of_latent: Tensor) -> Tensor:
        """Puts the observed variables' certainty beside a table on the latent ones, both in the order of `names`."""
        for place, name in enumerate(names):
            if name in self.graph.evidence:
                certain = of_latent.new_zeros(self.graph.cardinalities[name])
                certain[self.graph.evidence[name]] = 1.0
                shape = [1] * (of_latent.dim() + 1)
                shape[place] = -1
                of_latent = of_latent.unsqueeze(place) * certain.reshape(shape)
        return of_latent
