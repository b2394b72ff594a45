"""The posterior of a factor graph: marginals of any variables; of an unrolled trajectory, its states and actions."""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.data.trajectories import Trajectories
from cai.errors import IncompatibleMethod, Unavailable
from cai.factors.checks import state_index
from cai.graph.factor_graph import FactorGraph
from cai.graph.tabulate import tabulate
from cai.inference.posterior import Posterior
from cai.ops.caching import grad_cached_property
from cai.ops.semirings import LogSemiring, TropicalSemiring, aligned
from cai.ops.tables import Tables
from cai.simulate.chains import episodes_of

for _class in (LogSemiring, TropicalSemiring):
    serializable(_class)


@dataclass(frozen=True, eq=False)
class FactorGraphPosterior(Posterior):
    """The answer to a `FactorGraph`: p(x | evidence), read by the names of its variables.

    Of a graph that was unrolled from a trajectory, `state_marginals`, `state_action_marginals` and `policy` are there
    too, whatever factors were added since; `policy` is then p(a_t | s_t, O), the conditional on the state alone.
    """

    graph: FactorGraph

    def __repr__(self) -> str:
        log_evidence = float(self.log_evidence.detach())
        return f"{type(self).__name__}({self.graph!r}, {self.method!r}, log_evidence={log_evidence:.6g})"

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
        return episodes_of(self._tables, *states_and_actions(self.sample(num, seed), trajectory.horizon))

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
            if not isinstance(name, str):
                raise ValueError(f"marginal: expected names one by one, such as marginal('a', 'b'), got {name!r}")
            if name not in known:
                raise ValueError(f"marginal: there is no variable {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"marginal: variable {name!r} is given twice")
        return names

    def _with_observed(self, names: tuple[str, ...], of_latent: Tensor) -> Tensor:
        """Puts the observed variables' certainty beside a table on the latent ones, both in the order of `names`."""
        for place, name in enumerate(names):
            if name in self.graph.evidence:
                certain = self._certain((name,), self.graph.evidence, of_latent)
                of_latent = of_latent.unsqueeze(place) * aligned(certain, [place], of_latent.dim() + 1)
        return of_latent

    def _certain(self, names: tuple[str, ...], values: Mapping[str, int], like: Tensor) -> Tensor:
        """Gives the joint distribution of variables whose values are certain, one dimension a name."""
        certain = like.new_zeros([self.graph.cardinalities[name] for name in names])
        certain[tuple(values[name] for name in names)] = 1.0
        return certain

    def _with_evidence(self, values: Mapping[str, Any], num: int | None = None) -> dict[str, Any]:
        """Adds the observed variables to a value, or `num` draws, of each latent one; in the graph's order."""
        known: Mapping[str, Any] = self.graph.evidence
        if num is not None:
            known = {name: torch.full((num,), value, device=self.log_evidence.device) for name, value in known.items()}
        full = {**known, **values}
        return {variable.name: full[variable.name] for variable in self.graph.variables}

    def _log_density(self, assignment: Any) -> Tensor:
        """Computes the graph's log-density, not normalised, of what should be an assignment, nats."""
        if not isinstance(assignment, Mapping):  # Trajectories, as of other posteriors
            raise ValueError(
                f"log_prob: expected a mapping from names of variables to values, got {type(assignment).__name__}"
            )
        return self.graph.log_density(assignment)


def states_and_actions(values: Mapping[str, Tensor], horizon: int) -> tuple[Tensor, Tensor]:
    """Stacks draws `[N, ...]` of s0, a0, s1, ... to states `[N, T + 1, ...]` and actions `[N, T, ...]`."""
    states = torch.stack([values[f"s{t}"] for t in range(horizon + 1)], 1)
    return states, torch.stack([values[f"a{t}"] for t in range(horizon)], 1)


def num_draws(num: int, length: int | None) -> int:
    """Checks what `sample` of a factor graph is asked for.

    Raises:
        ValueError: A length, or anything but a whole number of at least 1.
    """
    if length is not None:
        raise ValueError("sample: assignments have no length; sample_trajectories gives trajectories")
    if isinstance(num, bool) or not isinstance(num, numbers.Integral) or num < 1:
        raise ValueError(f"sample: the number of draws must be a whole number of at least 1, got {num!r}")
    return int(num)


def need_support(possible: bool) -> None:
    """Raises `IncompatibleMethod` where no assignment is possible."""
    if not possible:
        raise IncompatibleMethod(
            "the evidence has probability zero: no assignment of this graph's variables agrees with it and with every "
            "factor"
        )
