"""Messages on a junction tree: log Z, all cliques' beliefs, samples and the best assignment.

With psi_C the sum of the log tables multiplied in at clique C, S_C its separator towards its parent P, and (+) a
semiring's sum:

    collect      up_C(x_S)  = (+)_{x_C minus S} [psi_C + sum over children D of up_D]        log Z = (+) at the root
    distribute   down_C(x_S) = (+)_{x_P minus S} [belief_P] - up_C,    belief_C = psi_C + sum_D up_D + down_C

A belief is log sum (or max) of everything else, a table on the clique's variables. Going down divides by what came
up; where that is `-inf` the belief is too, and nothing is subtracted. Tables are broadcast views, never copied to a
clique's size one by one.

Going down the collected tables one clique after another gives samples of the joint, or its best assignment: given the
separator, a clique's own variables depend on nothing above.

Source: Lauritzen and Spiegelhalter (1988); Jensen, Lauritzen and Olesen (1990); Dawid (1992).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.ops.caching import grad_cached_property
from cai.ops.elimination import Clique, JunctionTree
from cai.ops.sampling import sample_index
from cai.ops.semirings import LogSemiring, Semiring, aligned
from cai.ops.threads import threads_for

#: So many terms of one clique are added up in bundles.
_MANY = 16


@dataclass(frozen=True, eq=False)
class Collected:
    """What the first pass leaves: enough for log Z, for samples and for the best assignment.

    Attributes:
        tree: The junction tree.
        semiring: How variables were summed out.
        tables: For each clique, `psi_C + sum of up_D`, shaped as the clique.
        messages: For each clique, `up_C` on its separator; at a root 0-dim.
        log_total: log Z, 0-dim, nats; `-inf` where nothing is possible.
    """

    tree: JunctionTree
    semiring: Semiring
    tables: tuple[Tensor, ...]
    messages: tuple[Tensor, ...]
    log_total: Tensor

    @property
    def beliefs(self) -> tuple[Tensor, ...]:
        """For each clique, the semiring's sum of the whole joint over all other variables, up to other trees' Z."""
        return self._calibrated[0]

    @grad_cached_property
    def _calibrated(self) -> tuple[tuple[Tensor, ...], dict[tuple[int, ...], Tensor]]:
        """The beliefs on cliques, and on the separators between them; a separator's is summed once, not a child."""
        beliefs: list[Tensor] = list(self.tables)
        between: dict[tuple[int, ...], Tensor] = {}
        divided = _divided if self._holds_zeros else torch.sub
        with threads_for(self.tree.largest):
            for index in range(len(beliefs) - 1, -1, -1):
                clique = self.tree.cliques[index]
                if clique.parent is None:
                    continue
                if clique.separator not in between:
                    parent = self.tree.cliques[clique.parent]
                    between[clique.separator] = _onto(beliefs[clique.parent], parent, clique, self.semiring)
                beliefs[index] = beliefs[index] + divided(between[clique.separator], self.messages[index])
        return tuple(beliefs), between

    @cached_property
    def _holds_zeros(self) -> bool:
        return bool(torch.isneginf(torch.cat([message.detach().flatten() for message in self.messages])).any())

    def belief(self, variables: Sequence[int]) -> Tensor | None:
        """Gives the belief on some variables, one dimension each in the order given; None if no clique holds them."""
        beliefs, between = self._calibrated
        if len(variables) == 1 and tuple(variables) in between:
            return between[tuple(variables)]
        home = self.tree.holding(variables)
        if home is None:
            return None
        held = self.tree.cliques[home].variables
        kept = [variable for variable in held if variable in variables]
        table = self.semiring.reduce(beliefs[home], [i for i, v in enumerate(held) if v not in variables])
        return table.permute([kept.index(variable) for variable in variables]) if len(kept) > 1 else table

    def sample(self, num: int, generator: torch.Generator | None = None) -> dict[int, Tensor]:
        """Draws assignments from the joint: int64 `[num]` for each variable. For `LogSemiring` only."""
        drawn: dict[int, Tensor] = {}
        with torch.no_grad():
            for clique, rows in self._downward(drawn, num):
                weights = torch.softmax(rows, -1)
                _place(drawn, clique, sample_index(weights, generator))
        return drawn

    def best(self) -> dict[int, Tensor]:
        """Finds an assignment of the greatest density: 0-dim int64 for each variable; ties go to the first."""
        chosen: dict[int, Tensor] = {}
        with torch.no_grad():
            for clique, rows in self._downward(chosen, 1):
                _place(chosen, clique, rows.argmax(-1))
        return {variable: value[0] for variable, value in chosen.items()}

    def _downward(self, known: Mapping[int, Tensor], num: int) -> Iterator[tuple[Clique, Tensor]]:
        """Yields each clique, parents first, with its table given the separator: `[num, entries of its own]`."""
        for clique, table in zip(reversed(self.tree.cliques), reversed(self.tables), strict=True):
            rows = table.detach().flatten(0, clique.num_own - 1)
            if clique.separator:
                at: tuple[Any, ...] = (slice(None), *(known[variable] for variable in clique.separator))
                yield clique, rows[at].T
            else:
                yield clique, rows.expand(num, -1)


class CollectPass:
    """The pass from the leaves to the roots, in pieces, so that long work can show where it stands.

    Args:
        tree: A junction tree of the factors' scopes.
        scopes: Variables of each factor.
        log_tables: Log table of each factor, one dimension a variable.
        semiring: How variables are summed out.
    """

    def __init__(
        self, tree: JunctionTree, scopes: Sequence[Sequence[int]], log_tables: Sequence[Tensor], semiring: Semiring
    ) -> None:
        self.tree, self.semiring = tree, semiring
        self._scopes, self._log_tables = scopes, log_tables
        self._tables: list[Tensor] = []
        self._messages: list[Tensor] = []
        self._children: dict[int, list[int]] = {}
        for index, clique in enumerate(tree.cliques):
            if clique.parent is not None:
                self._children.setdefault(clique.parent, []).append(index)

    @property
    def num_steps(self) -> int:
        """Number of cliques done."""
        return len(self._messages)

    @property
    def is_done(self) -> bool:
        """Whether all are."""
        return self.num_steps == len(self.tree.cliques)

    def advance(self, seconds: float) -> None:
        """Works for about that long."""
        until = time.monotonic() + seconds
        with threads_for(self.tree.largest):
            while not self.is_done and time.monotonic() < until:
                clique = self.tree.cliques[self.num_steps]
                table = self._product(self.num_steps, clique)
                self._tables.append(table)
                self._messages.append(self.semiring.reduce(table, range(clique.num_own)))

    def collected(self) -> Collected:
        """Gives what the pass leaves."""
        roots = [m for m, clique in zip(self._messages, self.tree.cliques, strict=True) if clique.parent is None]
        terms = roots + [self._log_tables[index] for index in self.tree.constants]
        total = torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)
        return Collected(self.tree, self.semiring, tuple(self._tables), tuple(self._messages), total)

    def _product(self, index: int, clique: Clique) -> Tensor:
        """Multiplies factors and children's messages, small ones first, and fills the clique's shape."""
        terms = [_aligned(self._log_tables[f], self._scopes[f], clique) for f in clique.factors]
        for child in self._children.get(index, []):
            terms.append(_aligned(self._messages[child], self.tree.cliques[child].separator, clique))
        if not terms:
            like = self._log_tables[0] if self._log_tables else torch.zeros((), dtype=torch.float64)
            return like.new_zeros(clique.shape)
        terms = sorted(_bundled(terms), key=Tensor.numel)
        table = terms[0]
        for term in terms[1:]:
            table = table + term
        return table if table.shape == clique.shape else table.expand(clique.shape)


def _bundled(terms: list[Tensor]) -> list[Tensor]:
    """Adds up many terms of one shape at once: pair by pair, as `torch.sum` does, rounding does not pile up."""
    if len(terms) < _MANY:
        return terms
    of_shape: dict[torch.Size, list[Tensor]] = {}
    for term in terms:
        of_shape.setdefault(term.shape, []).append(term)
    return [torch.stack(group, -1).sum(-1) if len(group) > 1 else group[0] for group in of_shape.values()]


def _aligned(table: Tensor, scope: Sequence[int], clique: Clique) -> Tensor:
    """Views a table on a scope as one that broadcasts against the clique's."""
    return aligned(table, [clique.variables.index(variable) for variable in scope], len(clique.variables))


def _onto(belief: Tensor, parent: Clique, child: Clique, semiring: Semiring) -> Tensor:
    """Sums a parent's belief onto its child's separator; both hold its variables in the same order."""
    shared = set(child.separator)
    return semiring.reduce(belief, [i for i, variable in enumerate(parent.variables) if variable not in shared])


def _divided(above: Tensor, up: Tensor) -> Tensor:
    """Computes above - up, `-inf` where up is: what is impossible below needs no message."""
    dead = torch.isneginf(up)
    return torch.where(dead, -torch.inf, above - torch.where(dead, 0.0, up))


def _place(values: dict[int, Tensor], clique: Clique, flat: Tensor) -> None:
    """Splits the index of a clique's own entry into its variables' values."""
    sizes = clique.shape[: clique.num_own]
    for variable, value in zip(clique.own, torch.unravel_index(flat, sizes), strict=True):
        values[variable] = value


def collect(
    tree: JunctionTree,
    scopes: Sequence[Sequence[int]],
    log_tables: Sequence[Tensor],
    semiring: Semiring | None = None,
) -> Collected:
    """Runs the pass from the leaves to the roots.

    Args:
        tree: A junction tree of the factors' scopes.
        scopes: Variables of each factor.
        log_tables: Log table of each factor, one dimension a variable, nats.
        semiring: How variables are summed out; `LogSemiring` by default.

    Returns:
        What samples, beliefs and log Z are read from.
    """
    work = CollectPass(tree, scopes, log_tables, LogSemiring() if semiring is None else semiring)
    work.advance(float("inf"))
    return work.collected()
