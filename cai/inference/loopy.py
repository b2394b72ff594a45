"""The posterior of loopy belief propagation: beliefs of variables and of factors, and the Bethe log evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.graph.latent import LatentFactors, latent_factors
from cai.inference.factor_graph import FactorGraphPosterior
from cai.ops.caching import grad_cached_property
from cai.ops.loopy import LoopyKernel, Messages, decoded, group_factors
from cai.ops.semirings import Semiring, TropicalSemiring


def loopy_kernel(factors: LatentFactors, semiring: Semiring, damping: float) -> LoopyKernel:
    """Brings the factors of a graph together for belief propagation; differentiable in every log table.

    Args:
        factors: The factors with the evidence plugged in.
        semiring: Sums, or maxima.
        damping: Share of the old message that a new one keeps.
    """
    return LoopyKernel(group_factors(factors.sizes, factors.scopes, factors.log_tables), semiring, damping)


@serializable
@dataclass(frozen=True, eq=False, repr=False)
class LoopyPosterior(FactorGraphPosterior):
    """The beliefs of loopy belief propagation: exact on a forest, estimates on any other graph.

    Attributes:
        factors: The factors with the evidence plugged in.
        kernel: The same, as belief propagation reads them.
        messages: `[c, E]` a cardinality: what the factors tell their variables, as the kernel keeps them.
    """

    factors: LatentFactors
    kernel: LoopyKernel
    messages: Messages

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; the factors are brought together again from the graph."""
        messages = self.kernel.ordered(self.messages)
        parts = {"graph": self.graph, "method": self.method, "stats": self.stats}
        return parts | {"semiring": self.kernel.semiring, "damping": self.kernel.damping, "messages": messages}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> LoopyPosterior:
        """Makes the posterior of what a file gave."""
        factors = latent_factors(parts["graph"])
        kernel = loopy_kernel(factors, parts.pop("semiring"), parts.pop("damping"))
        return cls(**parts | {"messages": kernel.grouped(parts["messages"])}, factors=factors, kernel=kernel)

    @property
    def log_evidence(self) -> Tensor:
        """The Bethe estimate of log sum_x prod_f f(x), or, with maxima, the log density of the assignment found.

        0-dim, nats. Where the messages have converged the gradient with respect to a factor's log table is the
        factor's marginal, as that of the exact log evidence is.
        """
        return self._log_evidence

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is a lower bound: with maxima it is; the Bethe estimate may lie on either side."""
        return isinstance(self.kernel.semiring, TropicalSemiring)

    @grad_cached_property
    def _log_evidence(self) -> Tensor:
        return self.graph.log_density(self._mode) if self.is_bound else self.kernel.log_evidence(self.messages)

    def log_belief(self, name: str) -> Tensor:
        """Gives the log of a variable's belief, `[cardinality]`, nats, the greatest at 0.

        It is the log marginal up to a constant; with maxima the log max-marginal: what the best assignment with each
        value lacks to the best of all.

        Raises:
            ValueError: An unknown name.
        """
        self._checked((name,))
        if name in self.graph.evidence:
            return self.marginal(name).log()
        kind, column = self.kernel.factors.places[self.factors.numbers[name]]
        belief = self._log_beliefs[kind][:, column]
        return belief - belief.amax()

    def marginal(self, *names: str) -> Tensor:
        """Gives the belief of some variables that stand in one factor; with maxima they are certain.

        Args:
            names: Names of the variables; observed ones are certain, and need no factor.

        Returns:
            Probabilities, one dimension a name in the order given; they carry no gradient.

        Raises:
            ValueError: An unknown name, or one that is given twice.
            Unavailable: No factor holds all the variables.
        """
        latent = [name for name in self._checked(names) if name not in self.graph.evidence]
        if self.is_bound:
            return self._certain(names, self._mode, self.factors.like)
        if not latent:
            return self._with_observed(names, self.factors.like.new_ones(()))
        belief = self.log_belief(latent[0]) if len(latent) == 1 else self._log_joint_belief(latent)
        return self._with_observed(names, torch.softmax(belief.flatten(), 0).reshape(belief.shape))

    @cached_property
    def _members(self) -> dict[int, list[int]]:
        """The factors that hold each variable."""
        members: dict[int, list[int]] = {}
        for member, scope in enumerate(self.kernel.factors.scopes):
            for number in scope:
                members.setdefault(number, []).append(member)
        return members

    def _log_joint_belief(self, names: list[str]) -> Tensor:
        numbers = [self.factors.numbers[name] for name in names]
        scopes = self.kernel.factors.scopes
        first = self._members.get(numbers[0], [])
        holders = [member for member in first if set(numbers) <= set(scopes[member])]
        if not holders:
            self._unavailable(f"joint marginal of {', '.join(names)}", ": no factor holds them all; ask SumProduct")
        member = min(holders, key=lambda member: len(scopes[member]))
        belief = self.kernel.log_factor_belief(self._incoming, member)
        others = [dim for dim, number in enumerate(scopes[member]) if number not in numbers]
        left = [number for number in scopes[member] if number in numbers]
        return self.kernel.semiring.reduce(belief, others).permute([left.index(number) for number in numbers])

    @property
    def most_probable_assignment(self) -> dict[str, int]:
        """The assignment of the greatest beliefs, ties to the first; with maxima only."""
        if not self.is_bound:
            advice = "; ask LoopyBeliefPropagation(semiring=TropicalSemiring()) or MaxProduct"
            self._unavailable("most_probable_assignment", advice)
        return dict(self._mode)

    def sample(self, num: int, seed: int | None = None, length: int | None = None) -> Any:
        """Is unavailable: beliefs of single factors make no joint distribution."""
        self._unavailable("samples", ": beliefs of single factors make no joint distribution; ask SumProduct")

    def log_prob(self, assignment: Any) -> Tensor:
        """Is unavailable, for values of any shape: beliefs of single factors make no joint distribution."""
        self._unavailable("log_prob", ": beliefs of single factors make no joint distribution; ask SumProduct")

    @cached_property
    def _incoming(self) -> Messages:
        return self.kernel.log_incoming(self.messages)

    @cached_property
    def _log_beliefs(self) -> Messages:
        return tuple(belief.detach() for belief in self.kernel.log_beliefs(self.messages))

    @cached_property
    def _mode(self) -> dict[str, int]:
        values = decoded(self.kernel, self.messages)
        return self._with_evidence({self.factors.names[number]: value for number, value in values.items()})
