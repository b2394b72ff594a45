"""The exact posterior of a discrete factor graph, read off a junction tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.data.serialization import serializable
from cai.graph.latent import LatentFactors, latent_factors
from cai.inference.factor_graph import FactorGraphPosterior, num_draws
from cai.ops.elimination import JunctionTree, junction_tree
from cai.ops.memory import GIB, available_bytes, need_memory
from cai.ops.semirings import LogSemiring, TropicalSemiring
from cai.ops.tree_messages import Collected, collect
from cai.simulate.seeding import seeded


@serializable
@dataclass(frozen=True, eq=False, repr=False)
class JunctionTreePosterior(FactorGraphPosterior):
    """The exact answer to a discrete factor graph: a junction tree, calibrated when marginals are asked for.

    Attributes:
        factors: The factors with the evidence plugged in.
        collected: The junction tree after its first pass.
    """

    factors: LatentFactors
    collected: Collected

    def pack(self) -> dict[str, Any]:
        """Gives what a file needs; the tree is made again from the graph."""
        semiring = self.collected.semiring
        return {"graph": self.graph, "method": self.method, "stats": self.stats, "semiring": semiring}

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> JunctionTreePosterior:
        """Makes the posterior of what a file gave."""
        semiring = parts.pop("semiring")
        factors = latent_factors(parts["graph"])
        tree = junction_tree(factors.scopes, factors.cardinalities)
        with torch.no_grad():
            return cls(**parts, factors=factors, collected=collect(tree, factors.scopes, factors.log_tables, semiring))

    @property
    def log_evidence(self) -> Tensor:
        """The log of sum_x prod_f f(x), evidence plugged in, or of its greatest term (`MaxProduct`): 0-dim, nats."""
        return self.collected.log_total

    @property
    def is_bound(self) -> bool:
        """Whether `log_evidence` is one assignment's part of it only."""
        return self._is_mode

    @property
    def _is_mode(self) -> bool:
        return isinstance(self.collected.semiring, TropicalSemiring)

    def marginal(self, *names: str) -> Tensor:
        """Gives the joint distribution of some variables; see `FactorGraphPosterior.marginal`.

        Those that stand in no common clique are tied together first, which makes a junction tree of its own.
        """
        latent = tuple(name for name in self._checked(names) if name not in self.graph.evidence)
        if self._is_mode:
            sizes = [self.graph.cardinalities[name] for name in names]
            _need_room(math.prod(sizes), self.factors.like, self.method, "this marginal")
            return self._certain(names, self._mode, self.collected.log_total)
        variables = [self.factors.numbers[name] for name in latent]
        belief = self._belief(variables)
        return self._with_observed(names, torch.softmax(belief.flatten(), 0).reshape(belief.shape))

    def _belief(self, variables: list[int]) -> Tensor:
        if not variables:
            return torch.zeros_like(self.collected.log_total)
        belief = self.collected.belief(variables)
        if belief is None:
            tree = fitting_tree((*self.factors.scopes, tuple(variables)), self.factors, self.method)
            tied = self.factors.tying(variables)
            belief = collect(tree, tied.scopes, tied.log_tables, LogSemiring()).belief(variables)
            assert belief is not None
        return belief

    @property
    def most_probable_assignment(self) -> dict[str, int]:
        """The mode of the joint, ties to the first; of `MaxProduct` only."""
        if not self._is_mode:
            self._unavailable("most_probable_assignment", "; ask MaxProduct")
        return dict(self._mode)

    @cached_property
    def _mode(self) -> dict[str, int]:
        best = self.collected.best()
        return self._with_evidence({self.factors.names[number]: int(value) for number, value in best.items()})

    def sample(  # type: ignore[override]
        self, num: int, seed: int | None = None, length: int | None = None
    ) -> dict[str, Tensor]:
        """Draws assignments from the joint; see `FactorGraphPosterior.sample`."""
        num = num_draws(num, length)
        device = self.collected.log_total.device
        if self._is_mode:
            return {name: torch.full((num,), value, device=device) for name, value in self._mode.items()}
        with seeded(seed, device) as generator:
            drawn = self.collected.sample(num, generator)
        named: dict[str, Any] = {self.factors.names[number]: value for number, value in drawn.items()}
        return self._with_evidence(named, num)

    def log_prob(self, assignment: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        """Gives log p(x | evidence), nats; see `FactorGraphPosterior.log_prob`."""
        log_density = self._log_density(assignment)
        if not self._is_mode:
            return log_density - self.collected.log_total
        mode = torch.tensor(0.0)
        for name, value in self._mode.items():
            if name in assignment:
                same = torch.as_tensor(assignment[name], device=log_density.device) == value
                mode = torch.where(same, mode.to(log_density), -torch.inf)
        return mode.expand(log_density.shape)


def fitting_tree(scopes: Sequence[Sequence[int]], factors: LatentFactors, method: Any) -> JunctionTree:
    """Finds a junction tree whose beliefs fit into the memory that a method may take.

    Raises:
        IncompatibleMethod: None was found; the message has the width and the memory.
    """
    tree = junction_tree(scopes, factors.cardinalities)
    what = f"the best elimination order found has width {tree.width} (largest table: {float(tree.largest):.3g} entries)"
    _need_room(tree.num_entries_held, factors.like, method, what)
    return tree


def _need_room(num_entries: int, like: Tensor, method: Any, what: str) -> None:
    """Raises `IncompatibleMethod` where entries take more than the method's `max_memory`, or half of what is free."""
    given = method.max_memory
    usable = available_bytes(like.device) / 2 if given is None else given * GIB
    advice = (
        "LoopyBeliefPropagation approximates graphs of any width, and evidence, fewer variables or smaller factors "
        "make this one narrower"
    )
    needed = num_entries * like.element_size()
    need_memory(needed, usable, f"{type(method).__name__}: {what} and", advice, set_by="max_memory")
