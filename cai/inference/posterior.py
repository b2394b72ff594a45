"""The answer: one kind for every method, and an error that speaks where a method does not give something."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import torch
from torch import Tensor

from cai.data import serialization
from cai.data.trajectories import Trajectories
from cai.errors import CorruptFile, Unavailable
from cai.graph.factor_graph import FactorGraph
from cai.graph.trajectory_graph import TrajectoryGraph
from cai.inference.stats import Stats


@dataclass(frozen=True)
class Gap:
    """Two posteriors on the same graph, side by side; every quantity is a 0-dim tensor, or `[*batch]`.

    Attributes:
        evidence_gap: Evidence minus bound, nats: of the two, the exact evidence minus the bound; where both or neither
            is a bound, the first minus the second.
        kl: KL(first || second) over trajectories, nats.
        reverse_kl: KL(second || first), nats.
    """

    evidence_gap: Tensor
    kl: Tensor
    reverse_kl: Tensor


@dataclass(frozen=True, eq=False)
class Posterior(ABC):
    """The answer to a graph: soft values, a policy, marginals and evidence.

    `policy` and `sample` are there for every method. The rest is there where the method and the graph give it, and
    raises `Unavailable` with the reason otherwise. States, actions and times broadcast:
    `q(torch.arange(S)[:, None], torch.arange(A))` is `[S, A]`.

    On vectors, states are `[..., n]` and actions `[..., m]`, marginals are distributions, and a graph with batch
    dimensions is a batch of questions: what is a 0-dim number otherwise is `[*batch]`, and what has a time axis is
    `[T, *batch, ...]`.

    Attributes:
        graph: The graph that was asked, with the temperature actually used: a `TrajectoryGraph` or a `FactorGraph`.
        method: The method that answered.
        stats: How the answer was reached.
    """

    graph: Any
    method: Any
    stats: Stats

    @abstractmethod
    def policy(self, state: Any, t: Any = 0) -> torch.distributions.Distribution:
        """Gives pi_t(a | s).

        Args:
            state: One state or any batch, as numbers, array or tensor; vectors are `[..., n]`.
            t: Time, broadcast with the state; ignored where the horizon is infinite.

        Returns:
            A distribution over actions, batched as `state` and `t` broadcast.

        Raises:
            ValueError: A state or time out of range.
        """

    @abstractmethod
    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Trajectories:
        """Draws trajectories of this posterior: its policy, in its dynamics (tilted, where the posterior tilts it).

        Args:
            num: Number of trajectories N.
            seed: The seed; None takes fresh entropy.
            length: The most actions in each; required where nothing ends an episode.
        """

    def q(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives the soft action value Q_t(s, a), reward units: the shape that the arguments broadcast to."""
        self._unavailable("q")

    def v(self, state: Any, t: Any = 0) -> Tensor:
        """Gives the soft value V_t(s), reward units: the shape that the arguments broadcast to."""
        self._unavailable("v")

    def advantage(self, state: Any, action: Any, t: Any = 0) -> Tensor:
        """Gives Q_t(s, a) - V_t(s), reward units; zero at terminal states."""
        self._unavailable("advantage")

    def log_prob(self, trajectories: Trajectories) -> Tensor:
        """Gives the log-density of whole trajectories under this posterior: `[N]`, nats; of a graph without batch."""
        self._unavailable("log_prob")

    @property
    def log_evidence(self) -> Tensor:
        """The log evidence log p(O), or a lower bound of it where `is_bound`: 0-dim or `[*batch]`, nats."""
        self._unavailable("log_evidence")

    @property
    def gain(self) -> Tensor:
        """What every further step is worth in the long run, where nothing ends or is discounted, reward units.

        0-dim or `[*batch]`. It is temperature times the growth of `log_evidence` (or of its bound) with the horizon,
        per step.
        """
        self._unavailable("gain", ": only an infinite horizon with discount 1 and without terminal states has one")

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound."""
        self._unavailable("is_bound")

    @property
    def state_marginals(self) -> Tensor:
        """Distribution of the state: `[T + 1, S]`, or `[S]` where the horizon is infinite; absorbed mass included.

        On vectors a `cai.factors.distributions.DegenerateNormal`, of the batch `[T + 1, *batch]`, or `[*batch]` in the
        long run.
        """
        self._unavailable("state_marginals")

    @property
    def state_action_marginals(self) -> Tensor:
        """Distribution of (state, action): `[T, S, A]`, or `[S, A]`; zero at terminal states.

        On vectors a Gaussian over [state; action], of the batch `[T, *batch]`, or `[*batch]` in the long run.
        """
        self._unavailable("state_action_marginals")

    @property
    def occupancy(self) -> Tensor:
        """Expected (discounted) visits, not normalised: d(alpha log_evidence) / dr, `[T, S, A]` or `[S, A]`."""
        self._unavailable("occupancy")

    @property
    def expected_return(self) -> Tensor:
        """Expected (discounted) sum of rewards, terminal reward included: 0-dim or `[*batch]`, reward units."""
        self._unavailable("expected_return")

    @property
    def entropy(self) -> Tensor:
        """Expected (discounted) sum of the policy's entropies (differential, of vectors): 0-dim or `[*batch]`, nats."""
        self._unavailable("entropy")

    @property
    def most_probable_trajectory(self) -> Trajectories:
        """The mode of the posterior, as a batch of one; one trajectory for each graph of a batch."""
        self._unavailable("most_probable_trajectory", "; ask MaxProduct")

    def gap(self, other: Posterior) -> Gap:
        """Puts two posteriors on the same graph side by side: evidence minus bound, and KL in both directions, nats.

        Raises:
            ValueError: The graphs differ; the message says in what.
        """
        self._unavailable("gap")

    def save(self, path: str | os.PathLike) -> None:
        """Writes the posterior to one file, atomically; `cai.load(path)` reads it back.

        Callables of the user and live environments are left out as named holes, which `load(path, graph=...)` fills.

        Args:
            path: The file; an old one is replaced.
        """
        serialization.save(path, "posterior", self)

    def _unavailable(self, name: str, reason: str = "") -> NoReturn:
        raise Unavailable(f"{type(self.method).__name__} gives no {name} on this graph{reason}")


def load(
    path: str | os.PathLike, *, graph: TrajectoryGraph | FactorGraph | None = None, method: Any = None
) -> Posterior:
    """Reads a posterior that `Posterior.save` wrote. Executes no code from the file.

    Args:
        path: The file.
        graph: Fills what could not be saved (callables, environments) from the same slot of this graph.
        method: Fills what could not be saved of the method, such as a guide of your own.

    Returns:
        The posterior, equal to the one saved.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: The file is truncated, foreign or damaged.
        ValueError: The file has a hole, and neither `graph` nor `method` fills it.
    """

    def fill(hole: str) -> Any:
        root, *slots = hole.split(".")
        if slots[:1] == ["trajectory"] and isinstance(graph, TrajectoryGraph):
            slots = slots[1:]  # of an unrolled graph
        value = reduce(
            lambda owner, name: getattr(owner, name, None), slots, {"graph": graph, "method": method}.get(root)
        )
        if value is None:
            what = ".".join(slots)
            raise serialization.UnfilledHole(f"load: {str(path)!r} was saved without its {what}; give {root}= with one")
        return value

    posterior = serialization.load(path, "posterior", fill)
    if not isinstance(posterior, Posterior):
        raise CorruptFile(f"{str(path)!r} is damaged: it holds a {type(posterior).__name__}")
    return posterior
